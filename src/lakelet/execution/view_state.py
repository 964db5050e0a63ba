"""What a materialized view remembers of its groups: one Delta table beside its checkpoint.

A row is an entry of a kind: the partial values of a group, or a value that a `count(DISTINCT …)` has seen. An entry that changes
is appended again with a newer version; the newest counts. Values do not change. Rows of a file are sorted by slot and lie in
small row groups where this process writes them, so a reader of few slots reads few of them. Files come in three tiers, which are
merged upwards, as in a log-structured merge tree: every file of an append, their merger, and the whole.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakelet.errors import StorageError
from lakelet.execution.partial_values import identities
from lakelet.faults import reach
from lakelet.places import is_remote, open_file
from lakelet.plan.group_query import GROUPS, ID, KIND, SLOT, VERSION
from lakelet.storage.base import Receipt, Table, TableDefinition, TableStore
from lakelet.storage.data_files import DataFile
from lakelet.storage.delta_log import commits_of_others
from lakelet.storage.schema import conform, nullable

TIER = "__lakelet_tier"
VALUE = (SLOT, ID[1])
"""The columns of a distinct value: two hashes that stand for it and its group."""
BATCH_ROWS = 1 << 14
"""So many entries go to the writer at once."""
ROW_GROUP_ROWS = 4096
MERGED_AT_ONCE = 1 << 20
"""So many values are put in order at once."""
MERGED_SHARE = 4
"""The middle tier is merged into the whole once it has a quarter of its rows."""


@dataclass(slots=True)
class ViewState:
    """The open state of one view.

    Attributes:
        table: None until something is remembered.
        unreadable: why its log cannot be read; then `table` is None.
    """

    store: TableStore
    location: str
    table: Table | None = None
    unreadable: str | None = None

    @classmethod
    def open(cls, store: TableStore, location: str) -> ViewState:
        """Return the state at a location; a log that is torn is no error, since all can be computed anew."""
        try:
            return cls(store, location, store.open(location))
        except StorageError as error:
            if is_remote(location) or error.condition != "TABLE_IO_FAILED":
                raise
            return cls(store, location, unreadable=error.cause or error.message)

    def create(self, schema: pa.Schema) -> Table:
        """Return the table, made if it is not there, or not readable."""
        if self.unreadable is not None:
            self.store.drop(self.location)
            self.unreadable = None
        if self.table is None:
            self.table = self.store.create(self.location, TableDefinition(schema=schema, partition_cols=(TIER, KIND)))
        return self.table

    def batch_id(self, app_id: str) -> int:
        """Return the version of the last refresh that is in the state, -1 for none."""
        return -1 if self.table is None else self.table.batch_id(app_id)

    @property
    def version(self) -> int | None:
        """The version of its table, None if nothing is remembered."""
        return None if self.table is None else self.table.version

    def damage(self, *, since: int | None) -> str | None:
        """Return what somebody else has done to the state, None if nothing that shows without reading rows.

        Args:
            since: the version that the last refresh has noted; None if it has noted none.
        """
        if self.unreadable is not None:
            return f"its log cannot be read ({self.unreadable})"
        if self.table is None:
            return "the table is gone"
        if since is not None and self.table.version < since:
            return f"the table is at version {self.table.version}, not {since}"
        for commit in commits_of_others(self.location, after=since):
            return f"somebody else has written it in version {commit.version} ({commit.operation or 'unknown'})"
        for file in [] if is_remote(self.location) else self.table.files():
            path = Path(file.path)
            size = path.stat().st_size if path.is_file() else None
            if size != file.size_bytes:
                what = "is gone" if size is None else f"has {size} bytes where the table's log says {file.size_bytes}"
                return f"`{path.name}` {what}"
        return None

    def replace(self, entries: Iterable[tuple[str, pa.Table]], *, version: int, receipt: Receipt) -> None:
        """Forget everything, and remember these entries.

        Args:
            entries: tables of a kind; the first one has all columns that any has.
        """
        stamped = (_stamped(kind, table, version=version, tier=2) for kind, table in entries)
        first = next(stamped)
        schema = nullable(first.schema)
        reader = _reader(itertools.chain([first], stamped), schema)
        self.create(schema).replace(reader, receipt=receipt, partition_cols=(TIER, KIND), row_group_rows=ROW_GROUP_ROWS)

    def add(self, entries: dict[str, pa.Table], *, version: int, receipt: Receipt) -> None:
        """Remember entries beside those that are there, in place of older ones of the same identity."""
        assert self.table is not None
        stamped = [_stamped(kind, table, version=version, tier=0) for kind, table in entries.items()]
        everything = pa.concat_tables(stamped, promote_options="default")
        self.table.append(everything, receipt=receipt, row_group_rows=ROW_GROUP_ROWS)

    def files(self, kind: str) -> list[DataFile]:
        """Return the files with entries of a kind."""
        assert self.table is not None
        return [file for file in self.table.files() if file.partition_values[KIND] == kind]

    def groups(self, slots: pa.Array | None = None) -> pa.Table:
        """Return the newest partial values of groups.

        Args:
            slots: only those in these slots; None for all.
        """
        columns = self._columns(GROUPS)
        return _newest([_read(file, columns, slots) for file in self.files(GROUPS)], columns)

    def slots_since(self, version: int) -> pa.Array:
        """Return the slots of the groups that a refresh of this version, or a later one, has written."""
        groups = self.groups()
        return pc.unique(groups.filter(pc.greater_equal(groups.column(VERSION), version)).column(SLOT))

    def _columns(self, kind: str) -> pa.Schema:
        assert self.table is not None
        names = [VERSION, *VALUE]
        fields = [field for field in self.table.schema if field.name not in (TIER, KIND)]
        return pa.schema([field for field in fields if kind == GROUPS or field.name in names])

    def tier_to_merge(self, most_appended: int) -> int | None:
        """Return the tier into which all below it are to be merged; None while few files are in the lowest one.

        Args:
            most_appended: so many files of one kind are not few.
        """
        assert self.table is not None
        files = self.table.files()
        appended = Counter(file.partition_values[KIND] for file in files if file.partition_values[TIER] == "0")
        if max(appended.values(), default=0) < most_appended:
            return None
        rows = {tier: sum(f.num_records or 0 for f in files if f.partition_values[TIER] == tier) for tier in "012"}
        return 2 if (rows["0"] + rows["1"]) * MERGED_SHARE > rows["2"] else 1

    def tidy(self, to: int, receipt: Receipt) -> list[DataFile]:
        """Merge the files up to a tier into it, in one commit that changes no entry.

        Returns the files that the table no longer has.

        Args:
            receipt: by which the commit is known as one of ours.
        """
        assert self.table is not None
        merged = [file for file in self.table.files() if int(file.partition_values[TIER] or 0) <= to]
        self.table.replace(
            _reader(self._merged(merged, to), self.table.schema),
            receipt=receipt,
            where=f"`{TIER}` <= {to}",
            row_group_rows=ROW_GROUP_ROWS,
        )
        reach("view.tidied")
        self.table.remove_old_files()
        return merged

    def _merged(self, files: list[DataFile], tier: int) -> Iterator[pa.Table]:
        for kind in sorted({str(file.partition_values[KIND]) for file in files}):
            columns = self._columns(kind)
            of_kind = [file for file in files if file.partition_values[KIND] == kind]
            if kind == GROUPS:
                yield _marked(_newest([_read(file, columns) for file in of_kind], columns), kind, tier=tier)
                continue
            number = max(1, -(-sum(file.num_records or 0 for file in of_kind) // MERGED_AT_ONCE))
            bounds = [-(2**63) + at * 2**64 // number for at in range(number + 1)]
            for low, high in itertools.pairwise(bounds):
                found = [_read(file, columns, between=(low, high)) for file in of_kind]
                yield _marked(pa.concat_tables(found), kind, tier=tier)


def _reader(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.RecordBatchReader:
    batches = (conform(batch, schema) for table in tables for batch in table.to_batches(max_chunksize=BATCH_ROWS))
    return pa.RecordBatchReader.from_batches(schema, batches)


def _stamped(kind: str, entries: pa.Table, *, version: int, tier: int) -> pa.Table:
    versions = pa.repeat(pa.scalar(version, pa.int64()), entries.num_rows)
    return _marked(entries.append_column(VERSION, versions), kind, tier=tier)


def _marked(entries: pa.Table, kind: str, *, tier: int) -> pa.Table:
    slots = entries.column(SLOT).to_numpy()
    is_sorted = bool((slots[1:] >= slots[:-1]).all())
    result = entries if is_sorted else entries.sort_by(SLOT)
    result = result.append_column(TIER, pa.repeat(pa.scalar(tier, pa.int32()), entries.num_rows))
    return result.append_column(KIND, pa.repeat(pa.scalar(kind), entries.num_rows))


def _newest(tables: list[pa.Table], columns: pa.Schema) -> pa.Table:
    """Return the newest entry of each group."""
    rows = pa.concat_tables([columns.empty_table(), *tables]).sort_by([(VERSION, "descending")])
    if rows.num_rows < 2 or len(tables) < 2:
        return rows
    ids = identities(rows)
    first = pc.index_in(ids, value_set=ids)  # the first place of each value
    return rows.filter(pc.equal(first, pa.array(np.arange(rows.num_rows, dtype=np.int32))))


@contextmanager
def opened(file: DataFile, metadata: pq.FileMetaData | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file of the state, to be read while the context is open.

    Args:
        metadata: of the file, where it is known.

    Raises:
        StorageError: `STATE_TABLE_BEHIND_CHECKPOINT`.
    """
    try:
        data = pq.ParquetFile(open_file(file.path), metadata=metadata)
        if file.num_records is not None and data.metadata.num_rows != file.num_records:
            raise _lost(file, f"it has {data.metadata.num_rows} rows where the table's log says {file.num_records}")
        yield data
    except FileNotFoundError as error:
        raise _lost(file, "it is gone") from error
    except (pa.ArrowException, OSError) as error:
        raise _lost(file, str(error)) from error


def _read(
    file: DataFile, columns: pa.Schema, slots: pa.Array | None = None, *, between: tuple[int, int] | None = None
) -> pa.Table:
    """Return the entries of a file; of the row groups, only those that may have one are read.

    Args:
        slots: those in these slots only.
        between: those in slots from the first up to, not including, the second.
    """
    with opened(file) as data:
        rows, names = _rows_in(data, columns, slots, between)
    arrays: list[Any] = [
        rows.column(field.name).cast(field.type) if field.name in names else pa.nulls(rows.num_rows, field.type)
        for field in columns
    ]
    return pa.table(arrays, schema=columns)


def _rows_in(
    data: pq.ParquetFile, columns: pa.Schema, slots: pa.Array | None, between: tuple[int, int] | None
) -> tuple[pa.Table, list[str]]:
    names = [name for name in columns.names if name in data.schema_arrow.names]
    bounds = [slot_bounds(data.metadata, number) for number in range(data.num_row_groups)]
    if between is not None:
        start, end = between
        groups = [number for number, (low, high) in enumerate(bounds) if low < end and high >= start]
        rows = data.read_row_groups(groups, columns=names)
        found = rows.column(SLOT).to_numpy()
        rows = rows.filter(pa.array((found >= start) & (found <= end - 1)))
    elif slots is None:
        rows = data.read(columns=names)
    else:
        wanted = np.sort(slots.to_numpy(zero_copy_only=False))
        groups = [
            number
            for number, (low, high) in enumerate(bounds)
            if np.searchsorted(wanted, low, "left") < np.searchsorted(wanted, high, "right")
        ]
        rows = data.read_row_groups(groups, columns=names)
        rows = rows.filter(pc.is_in(rows.column(SLOT), value_set=slots))
    return rows, names


def slot_bounds(metadata: pq.FileMetaData, number: int) -> tuple[int, int]:
    """Return the least and the greatest slot of a row group."""
    group = metadata.row_group(number)
    column = next(c for c in range(group.num_columns) if group.column(c).path_in_schema == SLOT)
    statistics = group.column(column).statistics
    if statistics is None or not statistics.has_min_max:
        return -(2**63), 2**63 - 1
    return statistics.min, statistics.max


def _lost(file: DataFile, cause: str) -> StorageError:
    return StorageError(
        "STATE_TABLE_BEHIND_CHECKPOINT",
        "the state of a materialized view is not what its log says",
        cause=f"`{file.path}`: {cause}",
        hint="restore the file, or compute the view anew with `lakelet run --full-refresh <dataset>`",
    )
