"""Delta tables through delta-rs.

delta-rs records transaction identifiers but does not compare them: a second append with the same pair succeeds. So the
caller reads `batch_id` and commits on the same handle, and a writer in between makes the commit fail.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from lakelet.errors import LakeletError, StorageError
from lakelet.storage.base import Receipt, TableDefinition, TableSize
from lakelet.storage.schema import conform, evolved, nullable

CHECKPOINT_INTERVAL = "10"
"""Commits between log checkpoints; at delta-rs's default of 100 an append slows down fourfold within 100 commits."""


class DeltaRsTable:
    """One open Delta table."""

    def __init__(self, table: DeltaTable, location: str) -> None:
        self._table = table
        self.location = location
        self._schema: pa.Schema | None = None

    @property
    def delta(self) -> DeltaTable:
        return self._table

    @property
    def id(self) -> str:
        return str(self._table.metadata().id)

    @property
    def version(self) -> int:
        return int(self._table.version())

    @property
    def schema(self) -> pa.Schema:
        if self._schema is None:
            self._schema = nullable(pa.schema(self._table.schema().to_arrow()))
        return self._schema

    @property
    def partition_cols(self) -> tuple[str, ...]:
        return tuple(self._table.metadata().partition_columns)

    @property
    def properties(self) -> dict[str, str]:
        return {key: str(value) for key, value in self._table.metadata().configuration.items()}

    def set_properties(self, properties: Mapping[str, str]) -> None:
        have = self.properties
        if any(have.get(key) != value for key, value in properties.items()):
            with storage_errors(self.location):
                self._table.alter.set_table_properties(dict(properties), raise_if_not_exists=False)

    def set_comment(self, comment: str) -> None:
        if self._table.metadata().description != comment:
            with storage_errors(self.location):
                self._table.alter.set_table_description(comment)

    def compact(self, *, file_size_bytes: int | None = None) -> None:
        with storage_errors(self.location):
            self._table.optimize.compact(target_size=file_size_bytes)

    def size(self) -> TableSize:
        with storage_errors(self.location):
            files = pa.table(self._table.get_add_actions(flatten=True))
        rows, size = (sum(files.column(name).to_pylist()) for name in ("num_records", "size_bytes"))
        return TableSize(files=files.num_rows, rows=rows, bytes=size)

    def refresh(self) -> None:
        with storage_errors(self.location):
            self._table.update_incremental()
        self._schema = None

    def remove_old_files(self) -> None:
        with storage_errors(self.location):
            self._table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)

    def batch_id(self, app_id: str) -> int:
        found = self._table.transaction_version(app_id)
        return -1 if found is None else int(found)

    def rows(self) -> pa.Table:
        with storage_errors(self.location):
            return self._table.to_pyarrow_table()

    def append(
        self, rows: pa.Table | pa.RecordBatchReader, *, receipt: Receipt | None = None, evolve: bool = False
    ) -> int:
        schema = evolved(self.schema, rows.schema) if evolve else self.schema
        return self._write(rows, "append", schema, receipt, "merge" if evolve else None)

    def replace(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        receipt: Receipt | None = None,
        partition_cols: tuple[str, ...] | None = None,
    ) -> int:
        return self._write(rows, "overwrite", None, receipt, "overwrite", partition_cols)

    def merge(self, changes: pa.Table, *, keys: tuple[str, ...], receipt: Receipt | None = None) -> None:
        columns = [name for name in changes.column_names if name != "__op"]
        # `<=>` is not in delta-rs's expression language, hence the spelled-out null-safe comparison for nullable keys.
        has_null = {key for key in keys if changes.column(key).null_count}
        predicate = " AND ".join(
            f"(t.`{key}` = s.`{key}` OR (t.`{key}` IS NULL AND s.`{key}` IS NULL))"
            if key in has_null
            else f"t.`{key}` = s.`{key}`"
            for key in keys
        )
        assignments = {f"`{name}`": f"s.`{name}`" for name in columns}
        with storage_errors(self.location):
            (
                self._table.merge(
                    changes,
                    predicate=predicate,
                    source_alias="s",
                    target_alias="t",
                    commit_properties=_properties(receipt),
                )
                .when_matched_delete(predicate="s.__op = 'D'")
                .when_matched_update(assignments, predicate="s.__op = 'U'")
                .when_not_matched_insert(assignments, predicate="s.__op = 'U'")
                .execute()
            )

    def _write(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        mode: Any,
        schema: pa.Schema | None,
        receipt: Receipt | None,
        schema_mode: Literal["merge", "overwrite"] | None,
        partition_cols: tuple[str, ...] | None = None,
    ) -> int:
        counted = _Counted(rows, schema or nullable(rows.schema))
        with storage_errors(self.location, counted):
            write_deltalake(
                self._table,
                counted.reader(),
                mode=mode,
                schema_mode=schema_mode,
                commit_properties=_properties(receipt),
                partition_by=list(self.partition_cols if partition_cols is None else partition_cols) or None,
            )
        self._schema = None
        return counted.rows


class _Counted:
    """Rows on their way to a writer: cast to the table's types, counted, and their failure remembered.

    An exception that a Python reader raises reaches the caller of delta-rs only as text; this keeps the exception.
    """

    def __init__(self, rows: pa.Table | pa.RecordBatchReader, schema: pa.Schema) -> None:
        self._batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
        self._schema = schema
        self.rows = 0
        self.failure: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._iterate())

    def _iterate(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                if batch.num_rows:
                    self.rows += batch.num_rows
                    yield conform(batch, self._schema)
        except BaseException as error:
            self.failure = error
            raise


class DeltaRsStore:
    """Delta tables on the local file system."""

    def open(self, location: str) -> DeltaRsTable | None:
        check_location(location)
        if not (Path(location) / "_delta_log").is_dir():
            return None
        try:
            with storage_errors(location):
                return DeltaRsTable(DeltaTable(location), location)
        except TableNotFoundError:
            return None

    def exists(self, location: str) -> bool:
        log = Path(location) / "_delta_log"
        return log.is_dir() and any(log.iterdir())

    def create(self, location: str, definition: TableDefinition) -> DeltaRsTable:
        present = self.open(location)
        if present is not None:
            return present
        with storage_errors(location):
            Path(location).mkdir(parents=True, exist_ok=True)
            table = DeltaTable.create(
                location,
                schema=nullable(definition.schema),
                mode="error",
                partition_by=list(definition.partition_cols) or None,
                description=definition.comment,
                configuration={"delta.checkpointInterval": CHECKPOINT_INTERVAL, **definition.properties},
                raise_if_key_not_exists=False,
            )
            return DeltaRsTable(table, location)

    def drop(self, location: str) -> None:
        if Path(location).exists():
            shutil.rmtree(location)


_UNWRITABLE = re.compile(r"[\[\]^|\\\x00-\x1f]|%[0-9A-Fa-f]{2}")


def check_location(location: str) -> None:
    """Refuse a folder that delta-rs would take for another one, or die of.

    Raises:
        StorageError: `UNSUPPORTED_PATH`.
    """
    found = _UNWRITABLE.search(location)
    if found:
        raise StorageError(
            "UNSUPPORTED_PATH",
            f"there can be no table at `{location}`",
            cause=f"the table writer cannot handle `{found.group()}` in a path",
            hint="choose another folder for the storage, or another name for the dataset",
        )


def _properties(receipt: Receipt | None) -> CommitProperties | None:
    if receipt is None:
        return None
    return CommitProperties(app_transactions=[Transaction(receipt.app_id, receipt.batch_id)])


@contextlib.contextmanager
def storage_errors(location: str, counted: Any = None) -> Iterator[None]:
    """Translate what delta-rs and the file system raise; an error of the rows' own source passes through as it is."""
    try:
        yield
    except LakeletError:
        raise
    except TableNotFoundError:
        raise
    except (DeltaError, OSError, pa.ArrowException) as error:
        failure = getattr(counted, "failure", None)
        if isinstance(failure, LakeletError):
            raise failure from failure.__cause__
        if failure is not None and not isinstance(failure, (DeltaError, OSError, pa.ArrowException)):
            raise failure from failure.__cause__  # an interrupt, or a bug of ours: not the store's failure
        raise _storage_error(location, failure or error) from (failure or error)


def _storage_error(location: str, error: BaseException) -> StorageError:
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return StorageError(
            "DISK_FULL",
            f"no space left while writing `{location}`",
            cause=text,
            hint="free some space and run the update again; nothing of this batch was committed",
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return StorageError(
            "STORAGE_NOT_WRITABLE",
            f"`{location}` cannot be written",
            cause=text,
            hint="check the owner and the mount of the storage folder, then run the update again",
        )
    if isinstance(error, CommitFailedError):
        return StorageError(
            "CONCURRENT_WRITE",
            f"another writer committed to `{location}` at the same time",
            cause=text,
            hint="make sure that only this pipeline writes the table, then run the update again",
            retryable=True,
        )
    return StorageError("TABLE_IO_FAILED", f"the table at `{location}` cannot be read or written", cause=text)
