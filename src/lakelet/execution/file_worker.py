"""Files parsed in the workers of a cluster, with the parser that reads them here.

This code travels to machines that have pyarrow, numpy and pyspark, but no lakelet. It raises nothing that is about a file: what
is wrong goes back among the rows, as a note. So it comes to the user as the same error as from this process, the first file of
a batch is the one that is told of, and no task is tried again for it.

No `assert` stands in what goes there: pytest, where lakelet's plugin is loaded, has it refer to pytest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyspark.sql.types import DataType, StructField, StructType

from lakelet.errors import SourceError
from lakelet.execution.file_columns import FileColumns
from lakelet.execution.file_discovery import FoundFile
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_parsing import FileParser

TASK = "task"
"""The column of what a worker gets: the files of a task, as `task_text` writes them."""
NOTE = "__lakelet_note"
"""The column after those of the files: NULL for their rows. Any other row is a note of a task, as `Note` writes it."""


BATCH_BYTES = 64 * 2**20
"""Of the batches that a worker gives; Spark takes none of 2 GB."""


@dataclass(slots=True, kw_only=True)
class Note:
    """What is to be known of the files of one task, beside their rows.

    Attributes:
        first: number of the task's first file.
        missing: numbers of the files that the worker does not find.
        lacking: a Python module that the worker does not have.
        failed: number of a file that cannot be read, and the facts of the error; later files of the task are not read.
        unknown: fields that are no columns, as the JSON of a schema.
    """

    first: int
    missing: list[int] = field(default_factory=list)
    lacking: str | None = None
    failed: tuple[int, dict[str, Any]] | None = None
    unknown: dict[str, Any] | None = None

    def text(self) -> str:
        return json.dumps([self.first, self.missing, self.lacking, self.failed, self.unknown])

    @classmethod
    def of(cls, text: str) -> Note:
        first, missing, lacking, failed, unknown = json.loads(text)
        return cls(first=first, missing=missing, lacking=lacking, failed=failed, unknown=unknown)

    @property
    def fields(self) -> dict[str, DataType]:
        """The types of `unknown`."""
        columns = StructType.fromJson(self.unknown) if self.unknown else StructType()
        return {item.name: item.dataType for item in columns.fields}

    @property
    def is_empty(self) -> bool:
        return not (self.missing or self.lacking or self.failed or self.unknown)


def task_text(first: int, files: Sequence[FoundFile]) -> str:
    """Return the files of a task, numbered from `first` on."""
    return json.dumps([first, [[file.path, file.size_bytes, file.modified_at_ms] for file in files]])


@dataclass(frozen=True, slots=True, kw_only=True)
class FileWorker:
    """Parses files, called with the batches of one partition: a row is a task.

    Attributes:
        read: must not do without missing files, which are noted.
        metadata: rows have the hidden column with their file's path, size and time.
    """

    read: FileRead
    columns: FileColumns
    metadata: bool

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for text in batch.column(TASK).to_pylist():
                first, files = json.loads(text)
                yield from self._parsed(first, files)

    def _parsed(self, first: int, files: Sequence[tuple[str, int, int]]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a task's files, and a note if there is something to say."""
        parser = FileParser(self.read, self.columns, self.metadata)
        note = Note(first=first)
        for number, (path, size_bytes, modified_at_ms) in enumerate(files, first):
            try:
                for table in parser.tables(FoundFile(path=path, size_bytes=size_bytes, modified_at_ms=modified_at_ms)):
                    rows = table.append_column(NOTE, pa.nulls(table.num_rows, pa.string()))
                    yield from rows.to_batches(
                        max_chunksize=max(1, table.num_rows * BATCH_BYTES // max(1, table.nbytes))
                    )
            except SourceError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    note.missing.append(number)
                    continue
                facts = {
                    "condition": error.condition,
                    "message": error.message,
                    "cause": error.cause,
                    "hint": error.hint,
                    "retryable": error.retryable,
                }
                note.failed = (number, facts)
                break
            except ModuleNotFoundError as error:
                note.lacking = error.name
                break
        if parser.unknown:
            fields = [StructField(name, kind, True) for name, kind in parser.unknown.items()]
            note.unknown = StructType(fields).jsonValue()
        if not note.is_empty:
            nulls = [pa.nulls(1, item.type) for item in parser.schema]
            yield pa.RecordBatch.from_arrays([*nulls, pa.array([note.text()])], names=[*parser.schema.names, NOTE])
