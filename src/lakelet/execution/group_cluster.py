"""The groups of a view, where a cluster keeps them: the same steps as in this process, as queries over the same state.

    staged     values that are new, and the partial values of the slice, evaluated once
    rows       of the groups that changed, and of those that share a unit with them: rules applied, staged
    state      the groups as they are now, merged with what is kept by the job that appends them
    view       one MERGE: the units of those groups go, their rows come

No row comes here; a job that fails before the state is appended has written what nobody reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import DoubleType, LongType, StructType

from lakelet.execution.group_refresh import Leaves, ViewGroups
from lakelet.execution.view_query import ViewQuery, bound
from lakelet.execution.view_state import TIER, ViewState
from lakelet.execution.writing import ClusterRows
from lakelet.faults import reach
from lakelet.names import quote
from lakelet.plan import group_merge
from lakelet.plan import relation as plan
from lakelet.plan.group_query import GROUPS, KIND, SLOT, UNIT, VERSION
from lakelet.plan.normalize import runnable
from lakelet.plan.partial_aggregates import LOST
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.delta_spark import OPERATION, DeltaSparkTable, fitted, stage
from lakelet.storage.schema import nullable

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.expectations import Quality
    from lakelet.graph.elements import Dataset


class GroupsInCluster(ViewGroups):
    """The refresh in a cluster that writes its tables itself."""

    most_appended_files = 64  # a job may write several at once
    _columns: StructType
    """Of a group: `ID`, and all that is kept of it."""
    _now: Relation
    """The groups that changed, as they are now, and those that share a unit with them."""
    _entries: Relation
    """What the state must remember."""
    _rows: Relation
    _num_rows: int

    def __init__(
        self,
        context: UpdateContext,
        dataset: Dataset,
        query: ViewQuery,
        state: ViewState,
        columns: Sequence[str],
        *,
        folder: str,
    ) -> None:
        """Args: folder: for files that only this refresh uses."""
        super().__init__(context, dataset, query, state, columns)
        self._folder = folder
        self._engine = context.engine

    def follow(self, terms: Sequence[Relation], leaves: Leaves) -> bool:
        values = self._values(terms, leaves, known=self._stored("<>"))
        partial, columns = self._partial(terms, leaves)
        rows = group_merge.counted(partial, columns, self.groups, values)
        added, num_groups = self._staged("slice", rows)
        # All jobs read the state at this version, also one that comes again after it was appended.
        before = self._newest(like=added)
        now = group_merge.merged(before, added, self._columns, self.groups.measures)
        changed = plan.filtered(now, plan.attribute(group_merge.CHANGED))
        self._now = plan.dropped(now, [group_merge.CHANGED])
        self._entries = _entries(plan.dropped(changed, [group_merge.CHANGED]), values)
        return num_groups > 0

    def recall(self, version: int) -> None:
        marks = (TIER, KIND, VERSION)
        columns = from_arrow_schema(self._state_table.schema)
        self._columns = StructType([column for column in columns.fields if column.name not in marks])
        self._now = self._newest(like=plan.filtered(self._stored("="), plan.expression(f"{VERSION} >= {version}")))

    def take_up(self, everything: Relation, leaves: Leaves, *, num_rows: int, version: int, receipt: Receipt) -> None:
        values = self._values([everything], leaves, known=None)
        partial, columns = self._partial([everything], leaves)
        entries = _entries(group_merge.counted(partial, columns, self.groups, values), values)
        rows, incoming = self._runnable(_stamped(entries, version=version, tier=2))
        schema = nullable(incoming)
        self.state.create(schema)
        self._state_table.replace_query(
            self._engine, rows, incoming, schema, receipt=receipt, partition_cols=(TIER, KIND)
        )
        self._now = group_merge.only(self._stored("="), self._columns.names)

    def finish(self, quality: Quality) -> None:
        whole = group_merge.whole_sums(self._now, self._columns)
        rows = runnable(self.groups.finished(whole), self._engine.capabilities)
        pending = ClusterRows(self._engine, rows, self.dataset, self.context.display(self.dataset.name), quality)
        self._rows, self._num_rows = pending.stage(f"{self._folder}/rows")
        self.schema = nullable(pending.schema)

    def remember(self, version: int, receipt: Receipt) -> None:
        rows, incoming = self._runnable(_stamped(self._entries, version=version, tier=0))
        self._state_table.append_query(self._engine, rows, incoming, receipt=receipt)

    def write(self, table: Table, receipt: Receipt) -> int:
        if not self.groups.unit:  # the groups are all, and so are the rows
            return self.replace(table, table.schema, receipt=receipt, partition_cols=None)
        units = self.unit_names(table)
        columns = ", ".join(f"{UNIT}{number} AS {quote(name)}" for number, name in enumerate(units))
        gone = plan.sql(f"SELECT DISTINCT {columns} FROM groups", {"groups": self._now})
        new = fitted(self._rows, self.schema, table.schema, complete=True, nested=True)
        parts = [
            plan.with_columns(rows, {OPERATION: plan.expression(f"'{mark}'")})
            for rows, mark in ((new, "I"), (gone, "D"))
        ]
        changes, incoming = self._runnable(plan.union(parts, by_name=True))
        target = cast("DeltaSparkTable", table)
        target.replace_keys_query(changes, incoming.names, keys=tuple(units), receipt=receipt)
        return self._num_rows

    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        target, wanted = cast("DeltaSparkTable", table), self.schema if columns is None else columns
        target.replace_query(
            self._engine, self._rows, self.schema, wanted, receipt=receipt, partition_cols=partition_cols
        )
        return self._num_rows

    def tidy(self, tier: int, receipt: Receipt) -> None:
        lower = f"{TIER} <= {tier}"
        names = [*self._columns.names, VERSION, KIND]
        groups, values = (plan.filtered(self._stored(sign), plan.expression(lower)) for sign in ("=", "<>"))
        merged = plan.union([group_merge.newest(groups, names), values], by_name=True)
        rows, incoming = self._runnable(_sorted(plan.with_columns(merged, {TIER: plan.expression(str(tier))})))
        self._state_table.replace_where_query(self._engine, rows, incoming, where=lower, receipt=receipt)
        reach("view.tidied")
        self._state_table.remove_old_files()

    # -- what they share ----------------------------------------------------------------------------------------------

    @property
    def _state_table(self) -> DeltaSparkTable:
        return cast("DeltaSparkTable", self.state.table)

    def _stored(self, sign: str) -> Relation:
        """Return the entries of the state: groups (`=`) or distinct values (`<>`)."""
        table = self._state_table
        return plan.filtered(plan.delta(table.location, table.version), plan.expression(f"{KIND} {sign} '{GROUPS}'"))

    def _newest(self, *, like: Relation) -> Relation:
        """Return the groups of the state that share a unit with some; without a unit, all."""
        like_them = like if self.groups.unit else None
        return group_merge.newest(self._stored("="), self._columns.names, like=like_them)

    def _values(self, terms: Sequence[Relation], leaves: Leaves, *, known: Relation | None) -> Relation | None:
        """Return the distinct values of some rows that are not known, staged; None if the query counts none."""
        if not self.groups.distinct:
            return None
        found = group_merge.distinct_values(
            self.groups, bound(self.context, self.query, self.groups.digests(*terms), leaves)
        )
        if known is None:
            return self._staged("values", found)[0]
        seen = self._staged("seen", found)[0]
        return self._staged("values", group_merge.unknown_values(seen, known))[0]

    def _partial(self, terms: Sequence[Relation], leaves: Leaves) -> tuple[Relation, StructType]:
        """Return the partial values of the groups in some rows, and their columns; notes those that are kept."""
        partial = bound(self.context, self.query, self.groups.partial(*terms, with_distinct=False), leaves)
        columns = self._engine.schema(partial)
        self._columns = StructType(list(columns.fields))
        for name in group_merge.sums_of_doubles(columns, self.groups.measures):
            self._columns.add(name + LOST, DoubleType())
        for name in self.groups.distinct:
            self._columns.add(name, LongType())
        return partial, columns

    def _staged(self, name: str, rows: Relation) -> tuple[Relation, int]:
        """Write the rows of a query, once; returns them and how many they are."""
        query, incoming = self._runnable(rows)
        count = {"num_rows": plan.expression("count(*)")}
        folder = f"{self._folder}/{name}"
        staged, counts = stage(self._engine, folder, query, incoming, nullable(incoming), count)
        return staged, counts["num_rows"]

    def _runnable(self, rows: Relation) -> tuple[Relation, pa.Schema]:
        """Return a query that the engine can run, and its columns."""
        query = runnable(rows, self._engine.capabilities)
        return query, to_arrow_schema(self._engine.schema(query), timezone="UTC")


def _entries(groups: Relation, values: Relation | None) -> Relation:
    """Return what the state has of groups and of distinct values."""
    entries = plan.with_columns(groups, {KIND: plan.expression(f"'{GROUPS}'")})
    return entries if values is None else plan.union([entries, plan.dropped(values, group_merge.OWNER)], by_name=True)


def _stamped(entries: Relation, *, version: int, tier: int) -> Relation:
    stamps = {VERSION: plan.expression(f"{version}L"), TIER: plan.expression(str(tier))}
    return _sorted(plan.with_columns(entries, stamps))


def _sorted(entries: Relation) -> Relation:
    """Return entries as files are to have them: in the order of slots. Delta Lake sorts what is not in that of partitions."""
    return plan.ordered(entries, (TIER, KIND, SLOT))
