"""Changes of a table by key: files that are swapped, or delta-rs's merge."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import pyarrow as pa

from lakelet.storage import clustered
from lakelet.storage.base import Receipt
from lakelet.storage.failures import storage_errors

if TYPE_CHECKING:
    from lakelet.storage.delta_rs_table import DeltaRsTable


class SwappedFiles:
    """A change that writes the files it hits anew."""

    def __init__(self, table: DeltaRsTable, keys: tuple[str, ...]) -> None:
        self._table = table
        self._change = clustered.Change(table.location, table.leaf_files, keys=keys)

    def replace(self, keys: pa.Table, rows: pa.Table, *, changes: pa.Table | None = None) -> None:
        with storage_errors(self._table.location):
            self._change.replace(keys, rows)

    def add(self, rows: pa.Table) -> None:
        with storage_errors(self._table.location):
            self._change.add(rows)

    def commit(self, receipt: Receipt | None) -> None:
        with storage_errors(self._table.location):
            files = self._change.commit(self._table.version, receipt)
        self._table.changed(files, receipt)


class MergedRows:
    """A change of a table whose files are not ours to swap, by delta-rs's merge: partitions, a change feed, constraints."""

    def __init__(self, table: DeltaRsTable, identity: tuple[str, ...]) -> None:
        self._table = table
        self._identity = identity
        self._changes = [table.schema.append(pa.field("__op", pa.string())).empty_table()]

    def replace(self, keys: pa.Table, rows: pa.Table, *, changes: pa.Table | None = None) -> None:
        assert changes is not None, "a table that is merged needs to know what differs"
        self._changes.append(changes)

    def add(self, rows: pa.Table) -> None:
        self._changes.append(rows.append_column("__op", pa.repeat("U", rows.num_rows)))

    def commit(self, receipt: Receipt | None) -> None:
        self._table.merge(pa.concat_tables(self._changes), keys=self._identity, receipt=receipt)


def null_safe_equal(columns: Iterable[str], nullable_columns: Collection[str]) -> str:
    """Return the condition that source and target have the same values; `<=>` is not in delta-rs's expression language."""
    return " AND ".join(
        f"(t.`{name}` = s.`{name}` OR (t.`{name}` IS NULL AND s.`{name}` IS NULL))"
        if name in nullable_columns
        else f"t.`{name}` = s.`{name}`"
        for name in columns
    )
