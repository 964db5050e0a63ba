"""A Delta table through delta-rs.

delta-rs records transaction identifiers but does not compare them: a second append with the same pair succeeds. So the
caller reads `batch_id` and commits on the same handle, and a writer in between makes the commit fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from lakelet.faults import reach
from lakelet.places import is_remote, place
from lakelet.storage import clustered, file_index, known_tables
from lakelet.storage.base import Receipt, TableChange, TableSize
from lakelet.storage.counted_rows import CountedRows, begun
from lakelet.storage.data_files import DataFile, data_files
from lakelet.storage.decimal_bounds import (
    deceives,
    doubtful,
    has_wide,
    misread,
    wide_fields,
    writer_properties,
)
from lakelet.storage.delta_log import commit_file
from lakelet.storage.failures import storage_errors
from lakelet.storage.known_tables import KnownTable
from lakelet.storage.log_writer import checkpoint, write_commit
from lakelet.storage.schema import comment_of, conform, evolved, nullable
from lakelet.storage.table_changes import MergedRows, SwappedFiles, null_safe_equal

CHECKPOINT_INTERVAL = "10"
"""Commits between log checkpoints; at delta-rs's default of 100 an append slows down fourfold within 100 commits."""

SMALL_ROWS = 32_768
"""Up to so many rows are appended without delta-rs."""
KEEPS_LOG = "delta.enableExpiredLogCleanup"
"""Property that keeps writers from cleaning the log up: they do not know which commits a reader has not got to.

With it maintenance does it. In delta-rs 1.6 `cleanup_expired_logs=False` of a commit is not enough: `optimize` and `vacuum`
clean up nevertheless.
"""


class DeltaRsTable:
    """One open Delta table."""

    def __init__(self, table: DeltaTable | None, location: str, *, known: KnownTable | None = None) -> None:
        self._opened = table
        self._known = known
        self.location = location
        self._schema: pa.Schema | None = None

    @property
    def delta(self) -> DeltaTable:
        return self._table

    @property
    def _table(self) -> DeltaTable:
        if self._opened is None:
            assert self._known is not None
            with storage_errors(self.location):
                self._opened = DeltaTable(self.location, version=self._known.version)
        return self._opened

    @property
    def _current(self) -> KnownTable | None:
        """What is known of this version without its log; nothing once delta-rs has gone on to another one."""
        if self._known is not None and self._opened is not None and self._opened.version() != self._known.version:
            self._known = None
        return self._known

    def changed(self, files: clustered.Files | None, receipt: Receipt | None) -> None:
        """Go on to the version that was committed here and not by delta-rs.

        Args:
            files: of that version, where they are known.
        """
        before = self._noted
        self._known = before.after(self.location, files, receipt)
        self._opened = None
        known_tables.remember(self.location, self._known)
        with storage_errors(self.location):
            interval = int(before.properties.get("delta.checkpointInterval", CHECKPOINT_INTERVAL))
            num_files = 0 if files is None else files.index.num_rows
            checkpoint(self.location, self._known.version, files=num_files, interval=interval)

    @property
    def id(self) -> str:
        known = self._current
        return str(self._table.metadata().id) if known is None else known.id

    @property
    def version(self) -> int:
        known = self._current
        return int(self._table.version()) if known is None else known.version

    @property
    def schema(self) -> pa.Schema:
        known = self._current
        if known is not None:
            return known.schema
        if self._schema is None:
            self._schema = nullable(pa.schema(self._table.schema().to_arrow()))
        return self._schema

    @property
    def partition_cols(self) -> tuple[str, ...]:
        return () if self._current is not None else tuple(self._table.metadata().partition_columns)

    @property
    def properties(self) -> dict[str, str]:
        known = self._current
        if known is not None:
            return dict(known.properties)
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

    def set_column_comments(self, schema: pa.Schema) -> None:
        have = {field.name: comment_of(field) for field in self.schema}
        for field in schema:
            comment = comment_of(field)
            if comment is not None and field.name in have and have[field.name] != comment:
                with storage_errors(self.location):
                    self._table.alter.set_column_metadata(field.name, {"comment": comment})

    def compact(self, *, file_size_bytes: int | None = None) -> None:
        with storage_errors(self.location):
            before = self.version
            properties = writer_properties(self.schema, compacts=True)
            self._table.optimize.compact(target_size=file_size_bytes, writer_properties=properties)
            if self.version > before:
                self._table.create_checkpoint()

    def bounds_lead_astray(self, *, read_exactly: bool = False) -> bool:
        wide = wide_fields(self.schema)
        if not wide:
            return False
        with storage_errors(self.location):
            actions = pa.table(self._table.get_add_actions(flatten=False))
            features = set(self._table.protocol().reader_features or ())
        if read_exactly:
            return any(deceives(actions, path) for path in wide)
        bounds = [actions.column(name) for name in ("min", "max") if name in actions.column_names]
        # delta-rs writes neither, so nothing is rounded there. Their files cannot be read bare: a read that Sail would get wrong
        # is refused where the files are asked for, and any other one stays with the engine, which knows both.
        is_other = self.properties.get("delta.columnMapping.mode", "none") != "none" or "deletionVectors" in features
        check = misread if is_other else doubtful
        return any(check(column).any() for table in bounds for column in table.flatten())

    def size(self) -> TableSize:
        with storage_errors(self.location):
            files = pa.table(self._table.get_add_actions(flatten=True))
        rows, size = (
            sum(value or 0 for value in files.column(name).to_pylist()) for name in ("num_records", "size_bytes")
        )
        return TableSize(files=files.num_rows, rows=rows, bytes=size)

    def refresh(self) -> None:
        with storage_errors(self.location):
            self._table.update_incremental()
        self._schema = None

    def keep_log(self) -> None:
        self.set_properties({KEEPS_LOG: "false"})

    def remove_old_files(
        self, *, retention_hours: int = 0, keep_versions: tuple[int, ...] = (), dry_run: bool = False
    ) -> int:
        with storage_errors(self.location):
            # Listed only: a vacuum that deletes makes two commits more.
            found = self._table.vacuum(
                retention_hours=retention_hours,
                enforce_retention_duration=False,
                full=True,
                keep_versions=list(keep_versions) or None,
            )
            if not dry_run:
                for path in found:
                    (place(self.location) / path).unlink(missing_ok=True)
                    reach("maintenance.file_removed")
        return len(found)

    def batch_id(self, app_id: str) -> int:
        known = self._current
        if known is not None and app_id in known.batch_ids:
            return known.batch_ids[app_id]
        found = self._table.transaction_version(app_id)
        batch_id = -1 if found is None else int(found)
        if known is not None:
            known.batch_ids[app_id] = batch_id
        return batch_id

    def rows(self) -> pa.Table:
        with storage_errors(self.location):
            return self._table.to_pyarrow_table()

    def rows_of(self, keys: pa.Table, *, columns: tuple[str, ...] | None = None) -> pa.Table:
        with storage_errors(self.location):
            if self._is_plain:
                return self.leaf_files.rows_of(keys, columns)
            rows = self._stored()
            return rows.filter(pa.array(file_index.matching(rows, keys))).select(columns or rows.column_names)

    def surely_before(self, keys: pa.Table, column: str, values: pa.ChunkedArray) -> np.ndarray:
        with storage_errors(self.location):
            if self._is_plain:
                return self.leaf_files.surely_before(keys, column, values)
            return np.zeros(keys.num_rows, bool)

    def rows_between(self, column: str, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Table:
        with storage_errors(self.location):
            if self._is_plain:
                return self.leaf_files.rows_between(column, low, high)
            return file_index.between(self._stored(), column, low, high)

    def split_points(self, column: str, *, rows: int) -> list[pa.Scalar]:
        with storage_errors(self.location):
            if self._is_plain:
                return self.leaf_files.split_points(column, rows)
            stored = self._stored()
            return file_index.split_points(stored.column(column), -(-stored.num_rows // rows))

    def recent_rows(self) -> pa.Table:
        with storage_errors(self.location):
            return pa.concat_tables(
                [self.schema.empty_table(), *(self.leaf_files.read(at) for at in self.leaf_files.recent)]
            )

    def change(self, *, keys: tuple[str, ...], identity: tuple[str, ...]) -> TableChange:
        return SwappedFiles(self, keys) if self._is_plain else MergedRows(self, identity)

    @property
    def _is_plain(self) -> bool:
        return self._current is not None or clustered.is_clusterable(self._table)

    @property
    def _noted(self) -> KnownTable:
        """What is known of this version of a plain table."""
        known = self._current
        if known is None:
            known = self._known = KnownTable(
                version=self.version,
                commit=commit_file(self.location, self.version),
                id=self.id,
                schema=self.schema,
                properties=self.properties,
                files=None,
                batch_ids={},
            )
            known_tables.remember(self.location, known)
        return known

    @property
    def leaf_files(self) -> clustered.Files:
        known = self._noted
        if known.files is None:
            files = clustered.Files(self._table, self.location, self.schema)
            known = self._known = replace(known, files=files)
            known_tables.remember(self.location, known)
        assert known.files is not None
        return known.files

    def _stored(self) -> pa.Table:
        """Return all rows with the table's types, by way of delta-rs."""
        batches = self._table.to_pyarrow_table().to_batches()
        return pa.Table.from_batches([conform(batch, self.schema) for batch in batches], schema=self.schema)

    def files(self) -> tuple[DataFile, ...]:
        with storage_errors(self.location):
            return data_files(self._table, self.location)

    def append(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        receipt: Receipt | None = None,
        evolve: bool = False,
        clustered: bool = False,
        row_group_rows: int | None = None,
    ) -> int:
        if not (evolve or clustered or row_group_rows) and self._is_plain:
            counted = CountedRows(rows, self.schema)
            with storage_errors(self.location, counted):
                rows, is_small = begun(counted.reader(), SMALL_ROWS)
                if is_small:
                    rows = rows.read_all()
                    if self._appended(rows, receipt):
                        return int(rows.num_rows)
        schema = evolved(self.schema, rows.schema) if evolve else self.schema
        schema_mode: Literal["merge"] | None = "merge" if evolve else None
        return self._write(
            rows, "append", schema, receipt, schema_mode, small_files=clustered, row_group_rows=row_group_rows
        )

    def _appended(self, rows: pa.Table, receipt: Receipt | None) -> bool:
        """Append rows as one file, in a third of the time that delta-rs needs; returns False if another writer came first."""
        added = [clustered.write_file(place(self.location), rows)[0]] if rows.num_rows else []
        try:
            write_commit(self.location, self._noted.version + 1, added=added, removed=(), receipt=receipt)
        except (CommitFailedError, OSError) as error:
            # Of a failure in an object store it is not known whether the commit is there: a vacuum tidies up.
            if isinstance(error, CommitFailedError) or not is_remote(self.location):
                for file in added:
                    (place(self.location) / file.path).unlink(missing_ok=True)
            if isinstance(error, CommitFailedError):
                return False
            raise
        self.changed(None, receipt)
        return True

    def replace(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        receipt: Receipt | None = None,
        partition_cols: tuple[str, ...] | None = None,
        clustered: bool = False,
        where: str | None = None,
        row_group_rows: int | None = None,
    ) -> int:
        schema, schema_mode = (None, "overwrite") if where is None else (self.schema, None)
        return self._write(
            rows,
            "overwrite",
            schema,
            receipt,
            schema_mode,  # type: ignore[arg-type]
            partition_cols,
            where=where,
            small_files=clustered,
            row_group_rows=row_group_rows,
        )

    def replace_units(self, rows: pa.Table, *, gone: pa.Table, receipt: Receipt | None = None) -> None:
        new = pa.Table.from_batches([conform(batch, self.schema) for batch in rows.to_batches()], self.schema)
        if self._is_plain:
            keys = pa.schema([self.schema.field(name) for name in gone.column_names])
            units = pa.Table.from_batches([conform(batch, keys) for batch in gone.to_batches()], keys)
            change = SwappedFiles(self, tuple(keys.names))
            change.replace(units, new)
            change.commit(receipt)
            return
        empty = [
            gone.column(field.name).cast(field.type)
            if field.name in gone.column_names
            else pa.nulls(gone.num_rows, field.type)
            for field in self.schema
        ]
        old = pa.table(empty, schema=self.schema)
        marked = [
            table.append_column("__op", pa.array([mark] * table.num_rows, pa.string()))
            for table, mark in ((new, "I"), (old, "D"))
        ]
        changes = pa.concat_tables(marked)
        predicate = null_safe_equal(gone.column_names, {n for n in gone.column_names if gone.column(n).null_count})
        assignments = {f"`{name}`": f"s.`{name}`" for name in self.schema.names}
        with storage_errors(self.location):
            (
                self._table.merge(
                    changes,
                    predicate=f"s.__op = 'D' AND {predicate}",
                    source_alias="s",
                    target_alias="t",
                    writer_properties=writer_properties(self.schema),
                    commit_properties=_properties(receipt),
                )
                .when_matched_delete()
                .when_not_matched_insert(assignments, predicate="s.__op = 'I'")
                .execute()
            )

    def merge(self, changes: pa.Table, *, keys: tuple[str, ...], receipt: Receipt | None = None) -> None:
        columns = [name for name in changes.column_names if name != "__op"]
        predicate = null_safe_equal(keys, {key for key in keys if changes.column(key).null_count})
        assignments = {f"`{name}`": f"s.`{name}`" for name in columns}
        with storage_errors(self.location):
            (
                self._table.merge(
                    changes,
                    predicate=predicate,
                    source_alias="s",
                    target_alias="t",
                    writer_properties=writer_properties(self.schema),
                    commit_properties=_properties(receipt),
                )
                .when_matched_delete(predicate="s.__op = 'D'")
                .when_matched_update(assignments, predicate="s.__op = 'U'")
                .when_not_matched_insert(assignments, predicate="s.__op = 'U'")
                .execute()
            )

    def _write_leaves(self, rows: CountedRows, *, replaces: bool, receipt: Receipt | None) -> int:
        """Write small files in one commit without delta-rs: it would leave out the bounds by which a key is looked for."""
        with storage_errors(self.location, rows):
            removed = self.leaf_files.removed() if replaces else []
            added = [clustered.write_file(place(self.location), leaf)[0] for leaf in clustered.leaves(rows.reader())]
            write_commit(self.location, self.version + 1, added=added, removed=removed, receipt=receipt)
        self.changed(None, receipt)
        return rows.rows

    def _write(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        mode: Any,
        schema: pa.Schema | None,
        receipt: Receipt | None,
        schema_mode: Literal["merge", "overwrite"] | None,
        partition_cols: tuple[str, ...] | None = None,
        *,
        small_files: bool = False,
        where: str | None = None,
        row_group_rows: int | None = None,
    ) -> int:
        schema = schema or nullable(rows.schema)
        counted = CountedRows(rows, schema)
        if small_files and has_wide(schema) and schema.equals(self.schema) and self._is_plain:
            return self._write_leaves(counted, replaces=mode == "overwrite", receipt=receipt)
        options: dict[str, Any] = {}
        if small_files:
            reader, options["target_file_size"] = clustered.leaf_sized(counted.reader())
            row_group_rows = clustered.LEAF_ROWS
        else:
            reader = counted.reader()
        options["writer_properties"] = writer_properties(schema, row_group_rows=row_group_rows)
        with storage_errors(self.location, counted):
            write_deltalake(
                self._table,
                reader,
                mode=mode,
                schema_mode=schema_mode,
                commit_properties=_properties(receipt),
                partition_by=list(self.partition_cols if partition_cols is None else partition_cols) or None,
                predicate=where,
                **options,
            )
        self._schema = None
        return counted.rows


def _properties(receipt: Receipt | None) -> CommitProperties | None:
    if receipt is None:
        return None
    return CommitProperties(app_transactions=[Transaction(receipt.app_id, receipt.batch_id)])
