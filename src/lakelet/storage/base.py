"""What lakelet asks of a table store: versioned tables whose commits carry a receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from lakelet.storage.data_files import DataFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The transaction identifier that a commit carries: `batch_id` of `app_id` is in this table from here on."""

    app_id: str
    batch_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """What a version of a table holds, as far as its log says; a writer need not note how many rows a file has."""

    files: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDefinition:
    """What a table is created with.

    Attributes:
        keeps_log: only maintenance removes old commits of its log; otherwise every writer does.
    """

    schema: pa.Schema
    comment: str | None = None
    partition_cols: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)
    keeps_log: bool = True


class TableChange(Protocol):
    """Rows that are replaced key by key; nothing of it is visible before `commit`."""

    def replace(self, keys: pa.Table, rows: pa.Table, *, changes: pa.Table | None = None) -> None:
        """Let `rows` be the rows that have `keys` from now on.

        Args:
            keys: values of the key columns.
            changes: what of it differs from the rows that are stored, as `Table.merge` takes it. Tables of ours, whose
                files may always be swapped, can do without.
        """
        ...

    def add(self, rows: pa.Table) -> None:
        """Add rows next to those that are there, in one file however many keys they have; see `Table.recent_rows`.

        Changes that add one after the other now and then put these files together.
        """
        ...

    def commit(self, receipt: Receipt | None) -> None:
        """Commit all of it, and the receipt, as one version; a writer in between makes it fail."""
        ...


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

    def set_column_comments(self, schema: pa.Schema) -> None:
        """Give columns the comments that those of `schema` have, in a commit each; the same texts again commit nothing.

        Comments inside of structs come with the rows' columns only.
        """
        ...

    def batch_id(self, app_id: str) -> int:
        """Return the last batch of `app_id` that this version holds, -1 for none."""
        ...

    def rows(self) -> pa.Table:
        """Return all rows; for small tables."""
        ...

    def rows_of(self, keys: pa.Table, *, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return the rows that have the values of one row of `keys` in its columns; NULL equals NULL.

        Reads only the files whose statistics do not rule the keys out.
        """
        ...

    def surely_before(self, keys: pa.Table, column: str, values: pa.ChunkedArray) -> np.ndarray:
        """Return for which keys every row certainly has less in `column` than the value given, one per key.

        Looks at statistics and at recent rows only, so False means that it may or may not be so.
        """
        ...

    def rows_between(self, column: str, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Table:
        """Return the rows with `low <= column < high`; None is no bound, and only without any NULLs are in."""
        ...

    def split_points(self, column: str, *, rows: int) -> list[pa.Scalar]:
        """Return values of `column`, in order, that cut the table into pieces of about so many rows each."""
        ...

    def recent_rows(self) -> pa.Table:
        """Return the rows that changes have added and that are not in the order of the keys yet."""
        ...

    def change(self, *, keys: tuple[str, ...], identity: tuple[str, ...]) -> TableChange:
        """Start to replace the rows of some keys, in one commit whose cost follows the keys and not the table.

        Args:
            keys: the columns that the table is kept in the order of.
            identity: the columns that identify a row; begins with `keys`.
        """
        ...

    def append(
        self,
        rows: pa.Table | pa.RecordBatchReader,
        *,
        receipt: Receipt | None = None,
        evolve: bool = False,
        clustered: bool = False,
        row_group_rows: int | None = None,
    ) -> int:
        """Commit `rows` and the receipt as one version; returns the number of rows. No rows: an empty commit.

        Args:
            clustered: the rows come in the order of their keys; write small files, of which `change` rewrites few.
            row_group_rows: rows in the smallest part of a file that can be read by itself; None for the writer's own choice.
        """
        ...

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
        """Swap all rows, and the schema, in one commit; readers see the old rows until it is there.

        Args:
            partition_cols: how the rows are laid out from now on; None: as before.
            clustered: as in `append`.
            where: swap only the rows for which this condition is true; the schema stays.
            row_group_rows: as of `append`.
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

    def replace_units(self, rows: pa.Table, *, gone: pa.Table, receipt: Receipt | None = None) -> None:
        """Swap the rows with certain values for others, in one commit.

        Args:
            rows: the new rows, any number for each of those values.
            gone: distinct values of some of the table's columns; rows that have them are removed. They compare null-safe.
        """
        ...

    def files(self) -> tuple[DataFile, ...]:
        """Return the data files of this version, oldest first."""
        ...

    def bounds_lead_astray(self, *, read_exactly: bool = False) -> bool:
        """Return whether a file has a bound of a DECIMAL column that need not be what the file has.

        Args:
            read_exactly: by an engine with the capability `exact_bounds`, which only a writer that rounds can deceive.
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

    def keep_log(self) -> None:
        """See to it that no writer of the table cleans its log up; a commit of its own where that is new."""
        ...

    def remove_old_files(
        self, *, retention_hours: int = 0, keep_versions: tuple[int, ...] = (), dry_run: bool = False
    ) -> int:
        """Delete the data files that only older versions have, and what writers that died left; returns how many.

        Without retention this is for tables that nobody else reads or writes.

        Args:
            retention_hours: files that the table dropped, or that were written, more recently stay.
            keep_versions: files that one of these versions has stay, however old.
            dry_run: delete nothing.
        """
        ...


class TableStore(Protocol):
    """Creates and opens tables by location."""

    @property
    def keeps_key_order(self) -> bool:
        """Whether changes by key find and leave the files of a table in the order of its keys, so that nobody must put them
        together."""
        ...

    def open(self, location: str, *, version: int | None = None) -> Table | None:
        """Return a version, the newest if none is given, or None where there is no table.

        Raises:
            SourceError: `DELTA_VERSION_NOT_FOUND`, the version that is asked for is no longer in the log.
        """
        ...

    def exists(self, location: str) -> bool:
        """Return whether there is a table, without opening it."""
        ...

    def create(self, location: str, definition: TableDefinition) -> Table:
        """Create an empty table, or open the one that is there."""
        ...

    def drop(self, location: str) -> None: ...
