"""Files parsed by a cluster: its workers read them, and write their rows once, beside the checkpoint; notes come here.

    files      a row of this side's: the names of the files, cut into tasks
    parsed     rows and notes, as the workers give them (`file_worker.py`)
    staged     both in bare Parquet files, in a folder that only this attempt uses

A batch reads what is staged. So files are parsed once, whatever is computed of them, and what is wrong with one is known
before the batch is planned.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import NullType

from lakelet.engine.base import Engine
from lakelet.errors import SourceError
from lakelet.execution.file_discovery import FoundFile
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_parsing import FileParser, missing_file
from lakelet.execution.file_types import merged
from lakelet.execution.file_worker import NOTE, TASK, FileWorker, Note, task_text
from lakelet.places import Place
from lakelet.plan import relation as plan
from lakelet.plan.arrow_functions import mapped
from lakelet.plan.relation import Relation
from lakelet.storage.base import TableStore
from lakelet.storage.delta_spark import out_of_reach, stage

TASK_BYTES = 4 * 2**20
"""Files of a task, on disk; a larger one is a task of its own. A worker parses five megabytes of JSON in a second."""
LEAST_FILE_BYTES = 64 * 2**10
"""What a small file counts for, since each has to be opened."""


@dataclass(slots=True, kw_only=True)
class FileCluster:
    """The workers of one cluster, and what they turned out to lack.

    Attributes:
        store: of a cluster that writes its tables itself, if the engine is one.
        lacking: by format, the Python module without which they cannot read it.
    """

    engine: Engine
    store: TableStore
    lacking: dict[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether the engine has workers that parse files."""
        return self.engine.capabilities.cluster_writes and self.engine.capabilities.arrow_functions

    def rows(self, files: Sequence[FoundFile], parser: FileParser, folder: Place) -> Relation | None:
        """Have the rows of files written into `folder`, instead of all that is there; None if they must be parsed here.

        `parser.unknown` gets the fields of the files that are no columns, as if it had read them.

        Raises:
            SourceError: what the parser raises here, of the first file that has something; `FILES_OUT_OF_REACH`.
            StorageError: `STORAGE_OUT_OF_REACH`.
        """
        if not self.is_there or parser.read.format in self.lacking:
            return None
        if not files:
            return plan.local(parser.schema.empty_table())
        self.store.drop(str(folder))
        read = replace(parser.read, options={**parser.read.options, "ignoremissingfiles": "false"})
        worker = FileWorker(read=read, columns=parser.columns, metadata=parser.metadata)
        columns = parser.schema.append(pa.field(NOTE, pa.string()))
        staged, counts = stage(
            self.engine,
            str(folder / uuid.uuid4().hex),
            mapped(_spread(tasks(files)), [TASK], worker, from_arrow_schema(columns)),
            columns,
            columns,
            {"num_notes": plan.expression(f"count({NOTE})")},
        )
        notes = self._notes(staged) if counts["num_notes"] else []
        if len(notes) != counts["num_notes"]:
            raise out_of_reach(str(folder), f"{len(notes)} of {counts['num_notes']} notes of its workers are there")
        lacking = next((note.lacking for note in notes if note.lacking), None)
        if lacking is not None:
            self.lacking[parser.read.format] = lacking
            return None
        _check(files, parser.read, notes)
        for note in notes:
            for name, kind in note.fields.items():
                parser.unknown[name] = merged(parser.unknown.get(name, NullType()), kind)
        return plan.dropped(plan.filtered(staged, plan.expression(f"{NOTE} IS NULL")), [NOTE])

    def _notes(self, staged: Relation) -> list[Note]:
        """Return the notes of all tasks, in the order of their files."""
        told = plan.filtered(staged, plan.expression(f"{NOTE} IS NOT NULL"))
        found = self.engine.collect(plan.selected(told, {NOTE: plan.attribute(NOTE)}))
        return sorted(map(Note.of, found.column(NOTE).to_pylist()), key=lambda note: note.first)


def _check(files: Sequence[FoundFile], read: FileRead, notes: Sequence[Note]) -> None:
    """Raise what is wrong with the first file that a worker could not read, if it must be read."""
    for note in notes:
        hidden = next((files[number] for number in note.missing if Path(files[number].path).exists()), None)
        if hidden is not None:
            raise _out_of_reach(hidden, read)
        gone = [] if read.flag("ignoremissingfiles") else note.missing
        if note.failed is not None and (not gone or note.failed[0] < gone[0]):
            raise SourceError(**note.failed[1])
        if gone:
            raise missing_file(files[gone[0]])


def tasks(files: Sequence[FoundFile]) -> list[str]:
    """Return the files cut into tasks, in their order."""
    cut: list[str] = []
    waiting: list[FoundFile] = []
    first = size = 0
    for number, file in enumerate(files):
        weight = max(file.size_bytes, LEAST_FILE_BYTES)
        if waiting and size + weight > TASK_BYTES:
            cut.append(task_text(first, waiting))
            waiting, first, size = [], number, 0
        waiting.append(file)
        size += weight
    return [*cut, task_text(first, waiting)]


def _spread(texts: list[str]) -> Relation:
    """Return a row for each task, each in a partition of its own.

    Several go as one row: it lies in one partition, from which they are dealt out in turn.
    """
    if len(texts) == 1:
        return plan.local(pa.table({TASK: texts}))
    row = plan.local(pa.table({TASK: [texts]}))
    result = plan.new()
    result.repartition.input.CopyFrom(plan.selected(row, {TASK: plan.call("explode", plan.attribute(TASK))}))
    result.repartition.num_partitions, result.repartition.shuffle = len(texts), True
    return result


def _out_of_reach(file: FoundFile, read: FileRead) -> SourceError:
    return SourceError(
        "FILES_OUT_OF_REACH",
        f"a worker of the cluster does not find `{file.path}`, which is there for this process",
        cause=f"the files of `{read.label}` lie in a folder that not all machines of the cluster have at this path",
        hint="mount the folder at the same path on all machines of the cluster",
        retryable=True,  # a file on a network file system may be seen late
    )
