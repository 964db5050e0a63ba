"""What a materialized view remembers of its groups: one Delta table beside its checkpoint.

A row is an entry of a kind: the partial values of a group, or a value that a `count(DISTINCT …)` has seen. An entry that changes
is appended again with a newer version; the newest counts. Rows of a file are sorted by slot and lie in small row groups, so a
reader of few slots reads few of them. Files come in three tiers, which are merged upwards, as in a log-structured merge tree:
every file of an append, their merger, and the whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakelet.errors import StorageError
from lakelet.execution.partial_values import identities
from lakelet.plan.group_query import ID, SLOT
from lakelet.storage.base import Receipt, Table, TableDefinition, TableStore
from lakelet.storage.data_files import DataFile
from lakelet.storage.schema import nullable

TIER, KIND, VERSION = "__lakelet_tier", "__lakelet_kind", "__lakelet_version"
GROUPS = "groups"
"""Kind of the entries that are groups; those of distinct values are named by their measure."""
ROW_GROUP_ROWS = 4096
MAX_APPENDED_FILES = 8
"""So many files of one kind in the lowest tier are merged."""
MERGED_SHARE = 4
"""The middle tier is merged into the whole once it has a quarter of its rows."""


@dataclass(slots=True)
class ViewState:
    """The open state of one view.

    Attributes:
        table: None until something is remembered.
    """

    store: TableStore
    location: str
    table: Table | None = None

    @classmethod
    def open(cls, store: TableStore, location: str) -> ViewState:
        return cls(store, location, store.open(location))

    def batch_id(self, app_id: str) -> int:
        """Return the version of the last refresh that is in the state, -1 for none."""
        return -1 if self.table is None else self.table.batch_id(app_id)

    def replace(self, entries: dict[str, pa.Table], *, version: int, receipt: Receipt) -> None:
        """Forget everything, and remember these entries."""
        rows = _rows(entries, version=version, tier=2)
        if self.table is None:
            definition = TableDefinition(schema=nullable(rows.schema), partition_cols=(TIER, KIND))
            self.table = self.store.create(self.location, definition)
        self.table.replace(rows, receipt=receipt, partition_cols=(TIER, KIND), row_group_rows=ROW_GROUP_ROWS)

    def add(self, entries: dict[str, pa.Table], *, version: int, receipt: Receipt, tier: int = 0) -> None:
        """Remember entries beside those that are there, in place of older ones of the same identity.

        Args:
            tier: 2 for so many that they are part of the whole.
        """
        assert self.table is not None
        rows = _rows(entries, version=version, tier=tier)
        self.table.append(rows, receipt=receipt, row_group_rows=ROW_GROUP_ROWS)

    def entries(self, kind: str, slots: pa.Array | None = None) -> pa.Table:
        """Return the newest entries of a kind.

        Args:
            slots: only those in these slots; None for all.
        """
        assert self.table is not None
        files = [file for file in self.table.files() if file.partition_values[KIND] == kind]
        return _newest([_read(file, self._columns(kind), slots) for file in files], self._columns(kind))

    def slots_since(self, version: int) -> pa.Array:
        """Return the slots of the groups that a refresh of this version, or a later one, has written."""
        groups = self.entries(GROUPS)
        return pc.unique(groups.filter(pc.greater_equal(groups.column(VERSION), version)).column(SLOT))

    def _columns(self, kind: str) -> pa.Schema:
        assert self.table is not None
        names = [VERSION, *ID, SLOT]
        fields = [field for field in self.table.schema if field.name not in (TIER, KIND)]
        return pa.schema([field for field in fields if kind == GROUPS or field.name in names])

    def tidy(self) -> None:
        """Merge small files, in one commit that changes no entry; only when the view has what the state has."""
        assert self.table is not None
        files = self.table.files()
        counts: dict[tuple[str, str], int] = {}
        for file in files:
            tier = str(file.partition_values[TIER])
            if tier == "0":
                counts[tier, str(file.partition_values[KIND])] = (
                    counts.get((tier, str(file.partition_values[KIND])), 0) + 1
                )
        if max(counts.values(), default=0) < MAX_APPENDED_FILES:
            return
        rows = {tier: sum(f.num_records or 0 for f in files if f.partition_values[TIER] == tier) for tier in "012"}
        to = 2 if (rows["0"] + rows["1"]) * MERGED_SHARE > rows["2"] else 1
        merged = [file for file in files if int(file.partition_values[TIER] or 0) <= to]
        kinds = {str(file.partition_values[KIND]) for file in merged}
        tables = []
        for kind in sorted(kinds):
            columns = self._columns(kind)
            found = [_read(file, columns, None) for file in merged if file.partition_values[KIND] == kind]
            tables.append(_marked(_newest(found, columns), kind, tier=to))
        everything = pa.concat_tables(tables, promote_options="default")
        self.table.replace(everything, where=f"`{TIER}` <= {to}", row_group_rows=ROW_GROUP_ROWS)
        self.table.remove_old_files()


def _rows(entries: dict[str, pa.Table], *, version: int, tier: int) -> pa.Table:
    tables = []
    for kind, table in entries.items():
        stamped = table.append_column(VERSION, pa.repeat(pa.scalar(version, pa.int64()), table.num_rows))
        tables.append(_marked(stamped, kind, tier=tier))
    return pa.concat_tables(tables, promote_options="default")


def _marked(table: pa.Table, kind: str, *, tier: int) -> pa.Table:
    result = table.sort_by(SLOT)
    result = result.append_column(TIER, pa.repeat(pa.scalar(tier, pa.int32()), table.num_rows))
    return result.append_column(KIND, pa.repeat(pa.scalar(kind), table.num_rows))


def _newest(tables: list[pa.Table], columns: pa.Schema) -> pa.Table:
    """Return the newest entry of each identity."""
    rows = pa.concat_tables([columns.empty_table(), *tables]).sort_by([(VERSION, "descending")])
    if rows.num_rows < 2 or len(tables) < 2:
        return rows
    ids = identities(rows)
    first = pc.index_in(ids, value_set=ids)  # the first place of each value
    return rows.filter(pc.equal(first, pa.array(np.arange(rows.num_rows, dtype=np.int32))))


def _read(file: DataFile, columns: pa.Schema, slots: pa.Array | None) -> pa.Table:
    """Return the entries of a file in some slots; of the row groups, only those that may have one are read."""
    try:
        data = pq.ParquetFile(file.path)
    except FileNotFoundError as error:
        raise _lost(file, "it is gone") from error
    if file.num_records is not None and data.metadata.num_rows != file.num_records:
        raise _lost(file, f"it has {data.metadata.num_rows} rows where the table's log says {file.num_records}")
    names = [name for name in columns.names if name in data.schema_arrow.names]
    if slots is None:
        rows = data.read(columns=names)
    else:
        wanted = np.sort(slots.to_numpy(zero_copy_only=False))
        groups = [number for number in range(data.num_row_groups) if _may_have(data.metadata, number, wanted)]
        rows = data.read_row_groups(groups, columns=names)
        rows = rows.filter(pc.is_in(rows.column(SLOT), value_set=slots))
    arrays: list[Any] = [
        rows.column(field.name).cast(field.type) if field.name in names else pa.nulls(rows.num_rows, field.type)
        for field in columns
    ]
    return pa.table(arrays, schema=columns)


def _may_have(metadata: pq.FileMetaData, number: int, wanted: np.ndarray) -> bool:
    group = metadata.row_group(number)
    column = next(c for c in range(group.num_columns) if group.column(c).path_in_schema == SLOT)
    statistics = group.column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return True
    at = np.searchsorted(wanted, statistics.min)
    return bool(at < len(wanted) and wanted[at] <= statistics.max)


def _lost(file: DataFile, cause: str) -> StorageError:
    return StorageError(
        "STATE_TABLE_BEHIND_CHECKPOINT",
        "the state of a materialized view is not what its log says",
        cause=f"`{file.path}`: {cause}",
        hint="restore the file, or compute the view anew with `lakelet run --full-refresh <dataset>`",
    )
