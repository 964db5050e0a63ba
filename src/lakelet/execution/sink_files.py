"""Writing a micro-batch to a sink of files, exactly once.

The rows are first written into a folder that nobody reads: by a cluster, or from the rows that stream through this process. A
note beside the checkpoint then says that all of them are there, and the files are moved to where they are read.

    <sink>/.part-<batch>-<writer>-<attempt>      files of one attempt; a folder is never written twice
    <checkpoint>/sink_batch.json                 which attempt at the batch counts, and its files
    <sink>/part-<batch>-<writer>-<n>.<format>    where they are moved to

Who dies before the note has written nothing: the next attempt writes anew. Who dies after it has written all: the next attempt
moves what is left, on whatever engine, also where somebody has taken files away since. A job of a cluster that goes on after its
client died writes into a folder that no note names.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.engine.paths import literal_path
from lakelet.errors import QueryError, SourceError, StorageError
from lakelet.execution.checkpoint import FORMAT, Checkpoint, read_derived, read_json, write_json
from lakelet.execution.sink_formats import check_columns, has_rows, spark_options, write_rows
from lakelet.execution.writing import OBSERVATION
from lakelet.faults import reach
from lakelet.places import Place, is_remote, remove_folder
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.delta_spark import fitted, write_files
from lakelet.storage.schema import nullable

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.elements import Dataset

_PIECE = "__lakelet_piece"
"""Which of the files that a cluster writes at the same time a row is in."""
_FILE_SYSTEM_SAYS = re.compile(
    r"No space left|quota exceeded|Permission denied|AccessControlException|Read-only file system|Mkdirs failed"
    r"|ParentNotDirectory|Not a directory",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBatch:
    """The files of a batch that is written and may not be moved yet.

    Attributes:
        path: of the sink, as it was declared then.
        format: of the files, and how their names end.
        name: how their names begin.
        attempt: which one has written them.
        files: their names in its folder, in the order of their numbers; none for an empty batch.
    """

    batch_id: int
    path: str
    format: str
    name: str
    attempt: str
    files: tuple[str, ...]
    num_rows: int


def write_sink_files(
    context: UpdateContext, sink: Dataset, checkpoint: Checkpoint, batch_id: int, writer: str, rows: Relation
) -> int:
    """Write one batch to a sink of files; returns how many rows it has.

    Args:
        writer: what identifies the flow; its files and folders have it in their names.

    Raises:
        StorageError: `SINK_NOT_WRITABLE`, `SINK_OUT_OF_REACH`, `UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE`.
        SourceError: `UNSUPPORTED_FILE_SYSTEM`.
    """
    try:
        written = _noted(checkpoint, batch_id)
        if written is None:
            folder = _folder(context, sink, sink.sink_options["path"])
            folder.mkdir(parents=True, exist_ok=True)
            _forget_cut_off(folder, checkpoint)
            written = _written(context, sink, folder, batch_id, writer, rows)
            reach("sink.files_written")
            write_json(_note(checkpoint), {"format": FORMAT, "batch": asdict(written)})
            reach("sink.files_noted")
        _move(_folder(context, sink, written.path), written)
    except OSError as error:
        raise _not_writable(context, sink, str(error)) from error
    return written.num_rows


def _noted(checkpoint: Checkpoint, batch_id: int) -> WrittenBatch | None:
    if not _note(checkpoint).is_file():
        return None
    found = read_json(_note(checkpoint))["batch"]
    return WrittenBatch(**{**found, "files": tuple(found["files"])}) if found["batch_id"] == batch_id else None


def _note(checkpoint: Checkpoint) -> Place:
    return checkpoint.folder / "sink_batch.json"


def _forget_cut_off(folder: Path, checkpoint: Checkpoint) -> None:
    """Remove what attempts that were cut off have written aside, in this generation of the flow and in those before."""
    for known in checkpoint.folder.parent.glob("*/sink.json"):
        for left in folder.glob(f".*part-*-{read_derived(known).get('id')}-*"):
            remove_folder(left)


def _written(
    context: UpdateContext, sink: Dataset, folder: Path, batch_id: int, writer: str, rows: Relation
) -> WrittenBatch:
    """Write the rows into a folder of a new attempt."""
    name, attempt = f"part-{batch_id:06d}-{writer}", uuid.uuid4().hex
    aside = _aside(folder, name, attempt)
    columns = context.engine.schema(rows)
    check_columns(sink, columns)
    if context.engine.capabilities.cluster_writes:
        files, num_rows = _by_cluster(context, sink, aside, rows, to_arrow_schema(columns, timezone="UTC"))
    else:
        files, num_rows = _here(context, sink, aside, rows)
    return WrittenBatch(
        batch_id=batch_id,
        path=sink.sink_options["path"],
        format=str(sink.sink_format),
        name=name,
        attempt=attempt,
        files=tuple(files),
        num_rows=num_rows,
    )


def _move(folder: Path, written: WrittenBatch) -> None:
    """Move the files of a batch that are not moved yet to where they are read."""
    aside = _aside(folder, written.name, written.attempt)
    for number, file in enumerate(written.files):
        source = aside / file
        if source.exists():
            source.rename(folder / f"{written.name}-{number:05d}.{written.format}")
            reach("sink.file_moved")
    if aside.exists():
        remove_folder(aside)


def _aside(folder: Path, name: str, attempt: str) -> Path:
    return folder / f".{name}-{attempt}"


def _folder(context: UpdateContext, sink: Dataset, text: str) -> Path:
    path = context.catalog.path(text)
    if is_remote(path):
        raise SourceError(
            "UNSUPPORTED_FILE_SYSTEM",
            f"the files of the sink `{context.display(sink.name)}` cannot be written to `{text}`",
            origin=sink.origin,
            cause=f"`{path}` is in an object store, and files are written to folders of this machine",
            hint="give the sink the format `delta`, or a local path",
        )
    return Path(path)


# -- who writes ---------------------------------------------------------------------------------------------------


def _here(context: UpdateContext, sink: Dataset, aside: Path, rows: Relation) -> tuple[list[str], int]:
    """Write the rows that stream through this process to one file; returns its name, if it has rows, and their number."""
    aside.mkdir()
    file = aside / f"part.{sink.sink_format}"
    count = write_rows(file, context.engine.stream(rows), sink)
    return [file.name] if count else [], count


def _by_cluster(
    context: UpdateContext, sink: Dataset, aside: Path, rows: Relation, incoming: pa.Schema
) -> tuple[list[str], int]:
    """Let the cluster write the rows; returns the names of the files that have rows, and the number of rows."""
    engine, source = context.engine, str(sink.sink_format)
    options = spark_options(sink, incoming)
    pieces = plan.with_columns(rows, {_PIECE: plan.expression("spark_partition_id()")})
    measures = {
        "num_rows": plan.expression("count(*)"),
        "num_files": plan.expression(f"size(collect_set({_PIECE}))"),
    }
    query = fitted(
        plan.observed(pieces, OBSERVATION, measures), incoming, nullable(incoming), complete=True, nested=True
    )
    try:
        seen = write_files(engine, str(aside), query, source=source, options=options)
    except QueryError as error:
        said = f"{error.message}\n{error.cause}\n{error.__cause__}"
        found = _FILE_SYSTEM_SAYS.search(said)
        if found is None:
            raise
        line = next(line for line in said.splitlines() if found[0] in line).strip().removeprefix("Caused by: ")
        raise _not_writable(context, sink, f"the cluster says: {line}") from error
    files = [file.name for file in sorted(aside.glob(f"part-*.{source}")) if has_rows(file, sink)]
    if not aside.is_dir() or len(files) < seen.get("num_files", 0):
        raise StorageError(
            "SINK_OUT_OF_REACH",
            f"the cluster has written files of the sink `{context.display(sink.name)}` that are not in `{aside.parent}`",
            origin=sink.origin,
            cause="it, or one of its machines, writes into another file system than this process reads",
            hint="mount that folder at the same path on all machines of the cluster",
        )
    if not seen:  # the cluster has found nothing to read, or its observer came too late
        seen = {"num_rows": _count(context, source, aside, options)}
    return files, int(seen["num_rows"])


def _count(context: UpdateContext, source: str, aside: Path, options: Any) -> int:
    """Let the cluster count the rows that are in files."""
    found = plan.new()
    read = found.read.data_source
    read.format = "text" if source == "json" else source
    if source != "parquet":
        read.schema = "value STRING"
    read.paths.append(literal_path(str(aside)))
    for key, value in options.items():
        read.options[key] = value
    read.options["multiLine"] = "true"
    table: pa.Table = context.engine.collect(plan.aggregated(found, {"n": plan.expression("count(*)")}))
    return int(table.to_pylist()[0]["n"])


def _not_writable(context: UpdateContext, sink: Dataset, cause: str) -> StorageError:
    return StorageError(
        "SINK_NOT_WRITABLE",
        f"the sink `{context.display(sink.name)}` cannot be written",
        origin=sink.origin,
        cause=cause,
        hint="check the free space and the permissions of the folder, then run the update again",
    )
