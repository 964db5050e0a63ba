"""Writing a micro-batch to a sink of files, exactly once.

The rows are first written into a folder that nobody reads: by a cluster, or from the rows that stream through this process. A
note beside the checkpoint then says that all of them are there, and the files are moved to where they are read.

    <sink>/.lakelet/part-<batch>-<writer>-<attempt>/   files of one attempt; a folder is never written twice
    <checkpoint>/sink_batch.json                       which attempt at the batch counts, and its files
    <sink>/part-<batch>-<writer>-<n>.<format>          where they are moved to

Who dies before the note has written nothing: the next attempt writes anew. Who dies after it has written all: the next attempt
moves what is left, on whatever engine. The folder of the attempt stays until the batch is committed. So a file that is no
longer in it was moved, also where somebody has taken it away since, and where the folder is not there nothing is known: an
error. A job of a cluster that goes on after its client died writes into a folder that no note names.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.engine.paths import literal_path
from lakelet.errors import QueryError, SourceError, StorageError
from lakelet.execution.checkpoint import FORMAT, Checkpoint, file_name, read_derived, read_json, write_json
from lakelet.execution.sink_formats import check_columns, has_rows, spark_options, write_rows
from lakelet.execution.writing import OBSERVATION
from lakelet.faults import reach
from lakelet.places import Place, is_remote, remove_folder, sync
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.delta_spark import fitted, write_files
from lakelet.storage.schema import nullable

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.elements import Dataset

_ATTEMPTS = ".lakelet"
"""Folder inside of the sink's for what is not moved yet: one name to look at, however many files the sink has."""
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
        files: their names in its folder and sizes in bytes, in the order of their numbers; none for an empty batch.
    """

    batch_id: int
    path: str
    format: str
    name: str
    attempt: str
    files: tuple[tuple[str, int], ...]
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
        written = _noted(checkpoint)
        if written is None or written.batch_id != batch_id:
            folder = _folder(context, sink, sink.sink_options["path"])
            folder.mkdir(parents=True, exist_ok=True)
            _forget_cut_off(context, sink, folder, checkpoint)
            written = _written(context, sink, folder, checkpoint, batch_id, writer, rows)
            reach("sink.files_written")
            write_json(_note(checkpoint), {"format": FORMAT, "batch": asdict(written)})
            reach("sink.files_noted")
        _move(context, sink, _folder(context, sink, written.path), written, checkpoint)
    except OSError as error:
        raise _not_writable(context, sink, str(error)) from error
    return written.num_rows


def tidy_sink_files(context: UpdateContext, sink: Dataset, checkpoint: Checkpoint) -> None:
    """Remove the folder of a batch that is committed; what cannot be removed goes with the next batch."""
    written = _noted(checkpoint)
    if written is None or written.batch_id > checkpoint.committed_id:
        return
    with contextlib.suppress(OSError):
        if isinstance(checkpoint.folder, Path):  # a commit that is lost with the power must not miss its folder
            sync(checkpoint.folder / "commits")
        remove_folder(_aside(_folder(context, sink, written.path), written.name, written.attempt))


def _noted(checkpoint: Checkpoint) -> WrittenBatch | None:
    """Return the newest batch whose rows are decided; it may be committed."""
    if not _note(checkpoint).is_file():
        return None
    found = read_json(_note(checkpoint))["batch"]
    return WrittenBatch(**{**found, "files": tuple((name, size) for name, size in found["files"])})


def _note(checkpoint: Checkpoint) -> Place:
    return checkpoint.folder / "sink_batch.json"


def _forget_cut_off(context: UpdateContext, sink: Dataset, folder: Path, checkpoint: Checkpoint) -> None:
    """Remove what attempts that were cut off have written aside: of this flow, whatever its checkpoint was then, and of flows
    that the sink no longer has, but for the attempt that a note of such a one names, which may not be moved."""
    attempts = folder / _ATTEMPTS
    left = list(attempts.iterdir()) if attempts.is_dir() else []
    if not left:
        return
    own, dataset = checkpoint.folder.parent, checkpoint.folder.parent.parent
    living = {file_name(flow.name) for flow in context.graph.flows_to(sink.name)} - {own.name}
    for flow in [path for path in dataset.iterdir() if path.is_dir() and path.name not in living]:
        notes = [read_derived(note).get("batch", {}) for note in flow.glob("*/sink_batch.json") if flow != own]
        kept = {note.get("attempt") for note in notes}
        for path in left:
            attempt = path.name.partition(f"-{_owner(flow)}-")[2]
            if attempt and f"{_owner(flow)}-{attempt}" not in kept:
                with contextlib.suppress(OSError):
                    remove_folder(path)


def _owner(flow: Place) -> str:
    """Return what the attempts of a flow are known by, also when all that it has noted is gone."""
    return hashlib.sha256(str(flow).encode()).hexdigest()[:12]


def _written(
    context: UpdateContext,
    sink: Dataset,
    folder: Path,
    checkpoint: Checkpoint,
    batch_id: int,
    writer: str,
    rows: Relation,
) -> WrittenBatch:
    """Write the rows into a folder of a new attempt, and wait until the disk has them."""
    name, attempt = f"part-{batch_id:06d}-{writer}", f"{_owner(checkpoint.folder.parent)}-{uuid.uuid4().hex}"
    aside = _aside(folder, name, attempt)
    columns = context.engine.schema(rows)
    check_columns(sink, columns)
    if not aside.parent.is_dir():
        aside.parent.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):  # a file system without permissions
            aside.parent.chmod(folder.stat().st_mode & 0o7777)  # who writes to the sink, a cluster too, writes here
    if context.engine.capabilities.cluster_writes:
        files, num_rows = _by_cluster(context, sink, aside, rows, to_arrow_schema(columns, timezone="UTC"))
    else:
        files, num_rows = _here(context, sink, aside, rows)
    for path in (*files, aside, aside.parent, folder):
        sync(path)
    return WrittenBatch(
        batch_id=batch_id,
        path=sink.sink_options["path"],
        format=str(sink.sink_format),
        name=name,
        attempt=attempt,
        files=tuple((file.name, file.stat().st_size) for file in files),
        num_rows=num_rows,
    )


def _move(context: UpdateContext, sink: Dataset, folder: Path, written: WrittenBatch, checkpoint: Checkpoint) -> None:
    """Move the files of a batch that are not moved yet to where they are read, and wait until the disk has their names."""
    if not written.files:
        return
    if isinstance(checkpoint.folder, Path):  # the note is on the disk before any file is moved
        sync(checkpoint.folder)
    aside = _aside(folder, written.name, written.attempt)
    anew = f"if it is lost, remove `{_note(checkpoint)}` and `{written.name}-*`: the next update writes the batch anew"
    if not aside.is_dir():
        raise _not_writable(
            context,
            sink,
            f"batch {written.batch_id} is written to `{aside}`, and that folder is not there",
            hint=f"mount the folder of the sink, and run the update again; {anew}",
            retryable=True,
        )
    for name in (f"{written.name}.{written.format}", f".{written.name}.{written.format}.tmp"):
        (folder / name).unlink(missing_ok=True)  # lakelet before 0.1 wrote the batch to it, and died before its commit
    for number, (file, size_bytes) in enumerate(written.files):
        source = aside / file
        try:
            found_bytes = source.stat().st_size
        except FileNotFoundError:  # moved by an attempt before, whether it still is there or not
            continue
        if found_bytes != size_bytes:
            cause = f"`{source}` had {size_bytes} bytes when it was written, and has {found_bytes}"
            raise _not_writable(context, sink, cause, hint=f"look whether the disk is whole; {anew}", retryable=True)
        source.rename(folder / f"{written.name}-{number:05d}.{written.format}")
        reach("sink.file_moved")
    sync(folder)


def _aside(folder: Path, name: str, attempt: str) -> Path:
    return folder / _ATTEMPTS / f"{name}-{attempt}"


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


def _here(context: UpdateContext, sink: Dataset, aside: Path, rows: Relation) -> tuple[list[Path], int]:
    """Write the rows that stream through this process to one file; returns it, if it has rows, and their number.

    Its name has no ending, so that nobody takes it for one to read who looks for such files in all folders.
    """
    aside.mkdir()
    file = aside / "part"
    count = write_rows(file, context.engine.stream(rows), sink)
    return [file] if count else [], count


def _by_cluster(
    context: UpdateContext, sink: Dataset, aside: Path, rows: Relation, incoming: pa.Schema
) -> tuple[list[Path], int]:
    """Let the cluster write the rows; returns the files that have rows, and the number of rows."""
    engine, source = context.engine, str(sink.sink_format)
    options = spark_options(sink, incoming)
    query = plan.observed(
        fitted(rows, incoming, nullable(incoming), complete=True, nested=True),
        OBSERVATION,
        {"num_rows": plan.expression("count(*)")},
    )
    count = functools.partial(_count, context, source, options)
    try:
        seen = write_files(engine, str(aside), query, source=source, options=options, num_rows=count)
    except QueryError as error:
        line = _said_of_files(f"{error.message}\n{error.cause}\n{error.__cause__}")
        if line is None:
            raise
        raise _not_writable(context, sink, f"the cluster says: {line}") from error
    except StorageError as error:
        if error.condition != "STORAGE_OUT_OF_REACH":
            raise
        raise StorageError(
            "SINK_OUT_OF_REACH",
            f"the cluster has written files of the sink `{context.display(sink.name)}` that are not in `{aside.parent}`",
            origin=sink.origin,
            cause=error.cause,
            hint="mount that folder at the same path on all machines of the cluster",
            retryable=True,
        ) from error
    files = [file for file in sorted(aside.glob(f"part-*.{source}")) if has_rows(file, sink)]
    return files, int(seen["num_rows"]) if seen else count(files)


def _said_of_files(text: str) -> str | None:
    """Return the line with which a cluster tells that it cannot write files, None for none; `[Errno` is of users' functions."""
    for line in text.splitlines():
        if _FILE_SYSTEM_SAYS.search(line) and "[Errno" not in line:
            return line.strip().removeprefix("Caused by: ")
    return None


def _count(context: UpdateContext, source: str, options: Mapping[str, str], files: Sequence[Path]) -> int:
    """Let the cluster count the rows that are in files."""
    if not files:
        return 0
    found = plan.new()
    read = found.read.data_source
    read.format = "text" if source == "json" else source
    if source != "parquet":
        read.schema = "value STRING"
    read.paths.extend(literal_path(str(file)) for file in files)
    for key, value in options.items():
        read.options[key] = value
    read.options["multiLine"] = "true"
    table: pa.Table = context.engine.collect(plan.aggregated(found, {"n": plan.expression("count(*)")}))
    return int(table.to_pylist()[0]["n"])


def _not_writable(
    context: UpdateContext,
    sink: Dataset,
    cause: str,
    *,
    hint: str = "check the free space and the permissions of the folder, then run the update again",
    retryable: bool = False,
) -> StorageError:
    return StorageError(
        "SINK_NOT_WRITABLE",
        f"the sink `{context.display(sink.name)}` cannot be written",
        origin=sink.origin,
        cause=cause,
        hint=hint,
        retryable=retryable,
    )
