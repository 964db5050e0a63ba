"""The landing zone: four Delta tables that only ever grow.

A table is created empty, in a commit of its own, before its first rows. So a kill at any moment leaves
either nothing, or a Delta table whose last commit is whole; data files without a log can only come from
somebody else, and are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from apparel.generator.model import DIMENSIONS, Ids, Stream
from lakelet.errors import LakeletError

# Without log checkpoints every 10 commits, an append of 500 rows drifts from 15 ms to 65 ms within a
# hundred commits.
TABLE_CONFIGURATION = {"delta.checkpointInterval": "10"}
# Memory for reading back ids: one batch of one column, a few files ahead.
_READ_ROWS = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What the landing zone holds of one stream.

    Attributes:
        version: the table's version, None while there is no table.
        row_count: rows written.
        max_id: the highest id, 0 while there is none; NULL keys do not count.
        ids: the distinct ids in ascending order; kept for dimensions only, empty for sales.
    """

    version: int | None = None
    row_count: int = 0
    max_id: int = 0
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))


class LandingChangedError(Exception):
    """Somebody else committed to a landing table since it was read; nothing was written."""


class Landing(Protocol):
    """Where the streams go: here Delta tables on disk, on Databricks a volume written through Spark."""

    def read_state(self, stream: Stream) -> StreamState:
        """Read back what one stream holds."""

    def append(self, stream: Stream, rows: pa.RecordBatchReader, *, after: int | None) -> int:
        """Commit rows on top of version `after` (None: no table yet) and return the new version.

        Raises:
            LandingChangedError: the table is at another version.
        """


def landing_folder(storage: Path) -> Path:
    """Return the local folder of the volume `/Volumes/apparel_store/00_landing/streaming`."""
    return storage / "Volumes" / "apparel_store" / "00_landing" / "streaming"


def open_delta(folder: Path) -> DeltaTable | None:
    """Open a Delta table, or return None if the folder is missing or empty.

    Raises:
        LakeletError: LANDING_NOT_DELTA if the folder holds something else, LANDING_UNREADABLE if the table
            is broken.
    """
    with reading(folder):
        with contextlib.suppress(TableNotFoundError):
            return DeltaTable(folder)
        if not folder.exists():
            return None
        # An empty `_delta_log` is what a kill leaves before the first commit.
        foreign = sorted(entry.name for entry in folder.iterdir() if entry.name != "_delta_log")
    if foreign:
        raise LakeletError(
            "LANDING_NOT_DELTA",
            f"`{folder}` is not a Delta table and not empty",
            cause=f"it holds {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''} and no Delta log",
            hint="move these files away, or name another folder with --storage",
        )
    return None


def add_actions(table: DeltaTable) -> pa.Table:
    """Return one row per data file of a table: path, size and statistics."""
    return pa.table(table.get_add_actions(flatten=True))


def count_rows(table: DeltaTable) -> int:
    """Count the rows of a table from its log, or from its files if a writer left out the statistics."""
    counts = add_actions(table)["num_records"]
    return int(table.count() if counts.null_count else pc.sum(counts).as_py() or 0)


class DeltaLanding:
    """The landing zone below a storage root, written with delta-rs; safe to kill and to share."""

    def __init__(self, storage: Path) -> None:
        self.folder = landing_folder(storage)

    def read_state(self, stream: Stream) -> StreamState:
        """Read back what one stream holds; a missing table is an empty one.

        Raises:
            LakeletError: LANDING_NOT_DELTA, LANDING_UNREADABLE.
        """
        table = open_delta(self.folder / stream)
        if table is None:
            return StreamState()
        with reading(self.folder / stream):
            if stream in DIMENSIONS:
                ids = distinct_ids(table, stream.key)
                highest = int(ids[-1]) if len(ids) else 0
            else:
                ids = np.empty(0, np.int32)
                highest = max_id(table, stream.key)
            return StreamState(version=table.version(), row_count=count_rows(table), max_id=highest, ids=ids)

    def append(self, stream: Stream, rows: pa.RecordBatchReader, *, after: int | None) -> int:
        """Commit rows on top of version `after` (None: no table yet) and return the new version.

        Atomic: all rows or none. Two writers cannot both commit on top of one version: version check and
        commit use the same handle, and delta-rs may not retry on a newer one. Columns that the table has and
        the batch lacks become NULL; new columns of the batch are added to the table.

        Raises:
            LandingChangedError: the table is at another version.
            LakeletError: LANDING_DISK_FULL, LANDING_PERMISSION_DENIED, LANDING_SCHEMA_MISMATCH,
                LANDING_NOT_DELTA,
                LANDING_UNREADABLE, LANDING_WRITE_FAILED.
        """
        folder = self.folder / stream
        table = open_delta(folder)
        if (None if table is None else table.version()) != after:
            raise LandingChangedError(stream)
        try:
            if table is None:
                table = DeltaTable.create(folder, schema=rows.schema, mode="error", configuration=TABLE_CONFIGURATION)
            aligned = _align(rows, pa.schema(table.schema().to_arrow()), folder)
            write_deltalake(
                table,
                aligned,
                mode="append",
                schema_mode="merge" if len(aligned.schema) > len(table.schema().fields) else None,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
            return table.version()
        except CommitFailedError as error:
            if _is_disk_full(str(error)) or _is_forbidden(str(error)):
                raise landing_error(error, folder, "write") from error
            raise LandingChangedError(stream) from error
        except (OSError, DeltaError) as error:
            if after is None and "already exists" in str(error):
                raise LandingChangedError(stream) from error
            raise landing_error(error, folder, "write") from error


def max_id(table: DeltaTable, key: str) -> int:
    """Return the highest id of a table, 0 if there is none: from file statistics, or else from the column."""
    actions = add_actions(table)
    if actions.num_rows == 0:
        return 0
    maximum, nulls = f"max.{key}", f"null_count.{key}"
    if maximum in actions.column_names and nulls in actions.column_names:
        without = actions.filter(pc.is_null(actions[maximum]))
        all_null = pc.all(pc.equal(without[nulls], without["num_records"]), skip_nulls=False).as_py()
        if without.num_rows == 0 or all_null:
            return int(pc.max(actions[maximum]).as_py() or 0)
    ids = distinct_ids(table, key)
    return int(ids[-1]) if len(ids) else 0


def distinct_ids(table: DeltaTable, key: str) -> Ids:
    """Return the distinct ids of a table, ascending and without NULL, in the memory of the distinct ids."""
    scanner = table.to_pyarrow_dataset().scanner(
        columns=[key], batch_size=_READ_ROWS, batch_readahead=2, fragment_readahead=2, use_threads=False
    )
    found: Ids = np.empty(0, np.int32)
    waiting: list[Ids] = []
    for batch in scanner.to_batches():
        waiting.append(np.unique(batch.column(0).drop_null().to_numpy(zero_copy_only=False)).astype(np.int32))
        if sum(map(len, waiting)) > max(len(found), _READ_ROWS):
            found, waiting = np.unique(np.concatenate([found, *waiting])), []
    return np.unique(np.concatenate([found, *waiting]))


def _align(rows: pa.RecordBatchReader, table_schema: pa.Schema, folder: Path) -> pa.RecordBatchReader:
    """Give batches the table's columns: one that only the table has is NULL, one that it lacks comes last.

    Raises:
        LakeletError: LANDING_SCHEMA_MISMATCH if a column has another type in the table.
    """
    for wanted in rows.schema:
        position = table_schema.get_field_index(wanted.name)
        if position >= 0 and table_schema.field(position).type != wanted.type:
            raise LakeletError(
                "LANDING_SCHEMA_MISMATCH",
                f"column `{wanted.name}` of `{folder}` has another type than the generator writes",
                cause=f"it is {table_schema.field(position).type} in the table, not {wanted.type}",
                hint="move the table away, or run `apparel reset --landing`",
            )
    new = [wanted for wanted in rows.schema if table_schema.get_field_index(wanted.name) < 0]
    schema = pa.schema([*table_schema, *new])
    if schema.equals(rows.schema):
        return rows

    def column(batch: pa.RecordBatch, wanted: pa.Field) -> pa.Array:
        position = batch.schema.get_field_index(wanted.name)
        return batch.column(position) if position >= 0 else pa.nulls(batch.num_rows, wanted.type)

    batches = (pa.record_batch([column(batch, wanted) for wanted in schema], schema=schema) for batch in rows)
    return pa.RecordBatchReader.from_batches(schema, batches)


@contextlib.contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Turn errors of reading a table into a `LakeletError`: LANDING_UNREADABLE, LANDING_PERMISSION_DENIED."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException) as error:
        raise landing_error(error, folder, "read") from error


def landing_error(error: Exception, folder: Path, verb: str) -> LakeletError:
    """Turn what the file system or delta-rs reported into an error with an action."""
    text = str(error)
    if _is_disk_full(text):
        condition, message = "LANDING_DISK_FULL", "the disk is full"
        hint = "free some space and start again; nothing is half written"
    elif _is_forbidden(text):
        condition, message = "LANDING_PERMISSION_DENIED", "no permission"
        hint = f"make `{folder}` writable for this user, or name another folder with --storage"
    elif verb == "read":
        condition, message = "LANDING_UNREADABLE", "the Delta table is broken or incomplete"
        hint = "restore the table from a copy, or run `apparel reset --landing` to start afresh"
    else:
        condition, message = "LANDING_WRITE_FAILED", "the commit failed"
        hint = "see the cause, then start again; nothing is half written"
    first_line = next(iter(text.strip().splitlines()), type(error).__name__)
    return LakeletError(
        condition,
        f"cannot {verb} `{folder}`: {message}",
        cause=first_line,
        hint=hint,
        retryable=verb == "write",
    )


def _is_disk_full(text: str) -> bool:
    return any(sign in text for sign in ("No space left", "os error 28", "Disk quota", "os error 122"))


def _is_forbidden(text: str) -> bool:
    return any(sign in text for sign in ("Permission denied", "Read-only file system", "os error 13", "os error 30"))
