"""What lakelet asks of a table store: versioned tables whose commits carry a receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The transaction identifier that a commit carries: `batch_id` of `app_id` is in this table from here on."""

    app_id: str
    batch_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """What a version of a table holds, as its log says."""

    files: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDefinition:
    """What a table is created with."""

    schema: pa.Schema
    comment: str | None = None
    partition_cols: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)


class Table(Protocol):
    """One open handle; reading the version and committing through the same handle makes two writers conflict loudly."""

    @property
    def location(self) -> str: ...

    @property
    def id(self) -> str:
        """Identifies the table as long as it is not dropped and made anew."""
        ...

    @property
    def version(self) -> int: ...

    @property
    def schema(self) -> pa.Schema:
        """Columns with Arrow types; every column is nullable, timestamps are UTC microseconds."""
        ...

    @property
    def partition_cols(self) -> tuple[str, ...]: ...

    @property
    def properties(self) -> Mapping[str, str]: ...

    def set_properties(self, properties: Mapping[str, str]) -> None:
        """Set some of the table's properties, in a commit of its own; the same values again commit nothing."""
        ...

    def set_comment(self, comment: str) -> None:
        """Set the table's comment, in a commit of its own; the same text again commits nothing."""
        ...

    def batch_id(self, app_id: str) -> int:
        """Return the last batch of `app_id` that this version holds, -1 for none."""
        ...

    def rows(self) -> pa.Table:
        """Return all rows; for small tables."""
        ...

    def append(
        self, rows: pa.Table | pa.RecordBatchReader, *, receipt: Receipt | None = None, evolve: bool = False
    ) -> int:
        """Commit `rows` and the receipt as one version; returns the number of rows. No rows: an empty commit."""
        ...

    def replace(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        receipt: Receipt | None = None,
        partition_cols: tuple[str, ...] | None = None,
    ) -> int:
        """Swap all rows, and the schema, in one commit; readers see the old rows until it is there.

        Args:
            partition_cols: how the rows are laid out from now on; None: as before.
        """
        ...

    def merge(self, changes: pa.Table, *, keys: tuple[str, ...], receipt: Receipt | None = None) -> None:
        """Apply row changes in one commit.

        Args:
            changes: the table's columns and `__op`: "D" deletes the row with these keys, "U" updates or inserts it. At
                most one change per key. Keys compare null-safe.
            keys: the columns that identify a row of the table.
        """
        ...

    def compact(self, *, file_size_bytes: int | None = None) -> None:
        """Put small files together, in one commit that changes no row; nothing to gain, no commit.

        Args:
            file_size_bytes: files of at least this size stay as they are; None for the writer's own choice.
        """
        ...

    def size(self) -> TableSize: ...

    def refresh(self) -> None:
        """Go to the newest version, which somebody else has committed."""
        ...

    def remove_old_files(self) -> None:
        """Delete the data files that only older versions have; for tables that nobody else reads."""
        ...


class TableStore(Protocol):
    """Creates and opens tables by location."""

    def open(self, location: str) -> Table | None:
        """Return the newest version, or None where there is no table."""
        ...

    def exists(self, location: str) -> bool:
        """Return whether there is a table, without opening it."""
        ...

    def create(self, location: str, definition: TableDefinition) -> Table:
        """Create an empty table, or open the one that is there."""
        ...

    def drop(self, location: str) -> None: ...
