"""The rows that an operator remembers: Delta tables beside the checkpoint of its flow.

State only grows by appends, one commit a batch, with the batch's receipt. What the watermark has passed stays in the files
until they are put together, and is left out by a condition when they are read. A batch reads the version that its intent
records, so a replay finds the state as it was before the batch, and sees by the receipt that its own rows are there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.engine.base import Engine
from lakelet.errors import StorageError
from lakelet.execution.slices import file_rows
from lakelet.faults import reach
from lakelet.places import Place
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table, TableDefinition, TableStore
from lakelet.storage.delta_log import latest_version, snapshot_files
from lakelet.storage.schema import compare, nullable

if TYPE_CHECKING:
    from lakelet.storage.delta_spark import DeltaSparkTable

ENDS_AT = "__lakelet_ends_at"
"""Column of a state table: the event time at which the watermark closes the row, NULL for never."""
COMPACTION_FILES = 10
"""A state table of so many files is written anew without what the watermark has passed."""
COMPACTED_BYTES = 32 << 20
"""Without a watermark, and always in a cluster, files of this size are left alone."""

ENDS_AT_TYPE = pa.timestamp("us", "UTC")


@dataclass(slots=True, kw_only=True)
class StateTables:
    """The state of one flow in one micro-batch.

    Attributes:
        engine: reads and writes the tables itself, if it can.
        versions: by name, the version of each table before the batch; None where there was none.
        receipt: of the batch.
        flow: how the flow's target is called in messages.
    """

    store: TableStore
    engine: Engine
    folder: Place
    versions: Mapping[str, int | None]
    receipt: Receipt
    flow: str

    def location(self, name: str) -> str:
        return str(self.folder / name)

    def before(self, name: str, *, after: int | None) -> Relation | None:
        """Return the rows remembered before the batch, None if there are none.

        Args:
            after: in microseconds: what ends at or before it is gone.
        """
        version = self.versions.get(name)
        if version is None:
            return None
        table = self._open(name)
        files = snapshot_files(table.location, version)
        if not files:
            return None
        rows = file_rows(files, table.schema, inline=not self.in_cluster)
        return rows if after is None else plan.filtered(rows, plan.expression(ends_after(after)))

    def is_begun(self, name: str) -> bool:
        """Return whether an attempt at the batch that was cut off has added its rows."""
        location, before = self.location(name), self.versions.get(name)
        if (latest_version(location) or -1) <= (-1 if before is None else before):
            return False
        table = self.store.open(location)
        return table is not None and table.batch_id(self.receipt.app_id) >= self.receipt.batch_id

    def columns(self, name: str) -> pa.Schema:
        """Return the columns of a table that was there before the batch."""
        return self._open(name).schema

    def add(self, name: str, rows: pa.Table | Relation) -> None:
        """Remember rows, or those of a query; a replay finds them remembered. No rows that are at hand, no commit."""
        table = self.store.open(self.location(name))
        is_empty = isinstance(rows, pa.Table) and not rows.num_rows
        if is_empty or (table is not None and table.batch_id(self.receipt.app_id) >= self.receipt.batch_id):
            return
        schema = rows.schema if isinstance(rows, pa.Table) else self._schema(rows)
        if table is None:
            table = self.store.create(self.location(name), TableDefinition(schema=nullable(schema)))
        change = compare(table.schema, schema)
        if change.conflicts:
            raise state_mismatch(self.flow, "; ".join(change.conflicts).replace(" in the table ", " in the state "))
        if isinstance(rows, pa.Table):
            table.append(rows, receipt=self.receipt, evolve=change.evolves)
        else:
            target = cast("DeltaSparkTable", table)
            if target.takes_files and not change.evolves:
                target.append_files(self.engine, rows, schema, receipt=self.receipt)
            else:
                target.append_query(self.engine, rows, schema, receipt=self.receipt, evolve=change.evolves)
        reach("state.committed")

    def _schema(self, rows: Relation) -> pa.Schema:
        return to_arrow_schema(self.engine.schema(rows), timezone="UTC")

    def tidy(self, name: str, *, after: int | None) -> None:
        """Take out of the table what the watermark has passed, and put its files together, once it has many; only after the
        batch's note."""
        table = self.store.open(self.location(name))
        if table is None or self._num_files(table) < COMPACTION_FILES:
            return
        if self.in_cluster:
            if after is not None:
                # The batch's own is there already, and a commit without one counts as somebody else's.
                receipt = replace(self.receipt, app_id=f"{self.receipt.app_id}/tidied")
                cast("DeltaSparkTable", table).delete(f"NOT ({ends_after(after)})", receipt=receipt)
            if self._num_files(table) > 1:
                table.compact(file_size_bytes=COMPACTED_BYTES)
        elif after is None:
            table.compact(file_size_bytes=COMPACTED_BYTES)
        else:
            rows = table.rows()
            ends = rows.column(ENDS_AT).cast(pa.int64())
            table.replace(rows.filter(pa.compute.or_kleene(ends.is_null(), pa.compute.greater(ends, after))),
                          receipt=self.receipt)  # fmt: skip
        reach("state.compacted")
        table.remove_old_files()

    def _num_files(self, table: Table) -> int:
        """Return how many files there are to put together: a cluster leaves large ones alone."""
        if not self.in_cluster:
            return table.size().files
        return sum(file.size_bytes < COMPACTED_BYTES for file in table.files())

    @property
    def in_cluster(self) -> bool:
        return self.engine.capabilities.cluster_writes

    def num_rows(self, name: str) -> int:
        table = self.store.open(self.location(name))
        return 0 if table is None else table.size().rows

    def _open(self, name: str) -> Table:
        table = self.store.open(self.location(name))
        version = self.versions.get(name)
        if table is None or (version is not None and table.version < version):
            raise state_behind(self.flow, self.location(name), None if table is None else table.version, version)
        return table


def ends_after(micros: int) -> str:
    """Return the condition that a row of a state table is not closed at an instant."""
    return f"{ENDS_AT} IS NULL OR {ENDS_AT} > timestamp_micros({micros})"


def state_mismatch(dataset: str, cause: str) -> StorageError:
    """Return the error for a query whose operator cannot go on with the rows that are remembered."""
    return StorageError(
        "STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA",
        f"the operator with state in the query of `{dataset}` is not the one whose rows are remembered",
        cause=cause,
        hint=f"change the query back, or start it anew with `lakelet run --full-refresh {dataset}`",
    )


def state_elsewhere(dataset: str) -> StorageError:
    """Return the error for a join whose batch another kind of engine has begun to remember."""
    return StorageError(
        "STATE_OF_ANOTHER_ENGINE",
        f"the unfinished batch of `{dataset}` was begun by another engine",
        cause="it has committed a part of the join's state, whose rows are known by their places in the batch, and this engine "
        "may read them in another order",
        hint="run the update once with `lakelet.engine` as it was, then change it",
    )


def state_behind(dataset: str, location: str, found: int | None, noted: int | None) -> StorageError:
    """Return the error for a state table that was deleted or set back."""
    return StorageError(
        "STATE_TABLE_BEHIND_CHECKPOINT",
        f"the state of `{dataset}` is not what its checkpoint says",
        cause=f"the table at `{location}` " + ("is gone" if found is None else f"is at version {found}, not {noted}"),
        hint=f"restore the folder, or start anew with `lakelet run --full-refresh {dataset}`",
    )
