"""GROUP_AGGREGATE: partial values of a slice, merged with those that are kept, and the rows of the groups that changed.

slice       the engine aggregates new rows only; one row a group, with the distinct values in it
merge       with the kept partial values of those groups
finish      the engine computes the view's rows of the groups, and of those that share a unit with them
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lakelet.execution.distinct_values import AllValues, forget, new_values
from lakelet.execution.expectations import Quality, enforce, marked
from lakelet.execution.partial_values import merged, slots, united, untouched, with_lost, without_lost
from lakelet.execution.view_query import bound
from lakelet.execution.view_state import ViewState
from lakelet.execution.writing import with_columns_of
from lakelet.plan.group_query import GROUPS, UNIT, VERSION, GroupQuery
from lakelet.plan.incremental import Role
from lakelet.plan.normalize import runnable
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.view_query import ViewQuery
    from lakelet.graph.elements import Dataset

FINISHED_AT_ONCE = 200_000
"""So many groups travel inside one plan."""

Leaves = Callable[[int, Role], Relation]


class ViewGroups(abc.ABC):
    """One refresh of the groups of a view: `follow`, `recall` or `take_up`, then `finish`, then what is written.

    Attributes:
        schema: columns of the view's rows; there once they are finished.
    """

    schema: pa.Schema
    most_appended_files: int
    """So many files of one kind in the lowest tier of the state are not few."""

    def __init__(
        self, context: UpdateContext, dataset: Dataset, query: ViewQuery, state: ViewState, columns: Sequence[str]
    ) -> None:
        """Args: columns: names of those of the view's query."""
        assert query.groups is not None
        self.context = context
        self.dataset = dataset
        self.query = query
        self.groups: GroupQuery = query.groups
        self.state = state
        self._columns_of_view = columns

    @abc.abstractmethod
    def follow(self, terms: Sequence[Relation], leaves: Leaves) -> bool:
        """Merge the groups of new rows with what is kept of them; returns whether there are any. Nothing is committed.

        Args:
            terms: trees that give the new rows.
        """

    @abc.abstractmethod
    def recall(self, version: int) -> None:
        """Take up the groups that a refresh of this number, or a later one, has put into the state."""

    @abc.abstractmethod
    def take_up(self, everything: Relation, leaves: Leaves, *, num_rows: int, version: int, receipt: Receipt) -> None:
        """Compute all groups, and commit them to the state in place of what it has.

        Args:
            everything: the tree that gives all rows.
            num_rows: about how many those are.
        """

    @abc.abstractmethod
    def finish(self, quality: Quality) -> None:
        """Compute the view's rows of the groups, and of those that share a unit with them.

        Raises:
            ExpectationViolation: a fail rule is violated; nothing has been written by this.
        """

    @abc.abstractmethod
    def remember(self, version: int, receipt: Receipt) -> None:
        """Commit the groups that changed, and the values that are new, to the state."""

    @abc.abstractmethod
    def write(self, table: Table, receipt: Receipt) -> int:
        """Put the rows into the view in place of those of the same units; returns how many."""

    @abc.abstractmethod
    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        """Swap all rows of the view for these; returns how many.

        Args:
            columns: what the view has afterwards; None for the columns of the query.
        """

    @abc.abstractmethod
    def tidy(self, tier: int, receipt: Receipt) -> None:
        """Merge the files of the state up to a tier; only when the view has what the state has."""

    def unit_names(self, table: Table) -> list[str]:
        """Return the columns of the view that are the unit, as its table spells them."""
        stored = {name.lower(): name for name in table.schema.names}
        return [stored[self._columns_of_view[at].lower()] for at in self.groups.unit]


class GroupsInProcess(ViewGroups):
    """The refresh in this process: groups are Arrow tables."""

    most_appended_files = 8
    _groups: pa.Table
    _entries: dict[str, pa.Table]
    _rows: pa.Table

    def follow(self, terms: Sequence[Relation], leaves: Leaves) -> bool:
        context, measures = self.context, self.groups.measures
        found: pa.Table | None = None
        values: dict[str, pa.Table] = {}
        for term in terms:
            partial = _nullable(context.engine.collect(bound(context, self.query, self.groups.partial(term), leaves)))
            for name in self.groups.distinct:
                partial, values[name] = new_values(partial, name, values.get(name), self.state)
            partial = with_lost(partial, measures)
            found = partial if found is None else united(found, partial, measures)
        assert found is not None
        before = self.state.groups(slots(found)).drop_columns([VERSION])
        before = pa.table(
            {name: before.column(name).cast(found.schema.field(name).type) for name in found.column_names}
        )
        changed = merged(before, found, measures).select(before.column_names)
        self._groups = pa.concat_tables([changed, untouched(before, changed)])
        self._entries = {GROUPS: changed, **values}
        return bool(self._groups.num_rows)

    def recall(self, version: int) -> None:
        self._groups = self.state.groups(self.state.slots_since(version))

    def take_up(self, everything: Relation, leaves: Leaves, *, num_rows: int, version: int, receipt: Receipt) -> None:
        self.state.replace(self._everything(everything, leaves, num_rows), version=version, receipt=receipt)
        self._groups = self.state.groups().drop_columns([VERSION])

    def _everything(self, everything: Relation, leaves: Leaves, num_rows: int) -> Iterator[tuple[str, pa.Table]]:
        """Yield what the state must remember: tables of a kind. The first shows the columns; the last has the groups."""
        context, query, groups = self.context, self.query, self.groups
        found = context.engine.collect(bound(context, query, groups.partial(everything, with_distinct=False), leaves))
        found = with_lost(_nullable(found), groups.measures)
        if groups.distinct:
            with AllValues(list(groups.distinct), found, num_rows) as values:
                values.add(context.engine.stream(bound(context, query, groups.digests(everything), leaves)))
                yield GROUPS, _with_counts(found, values.counts).slice(0, 0)
                yield from values.distinct()
                found = _with_counts(found, values.counts)
        yield GROUPS, found

    def finish(self, quality: Quality) -> None:
        whole = without_lost(self._groups, self.groups.measures)
        parts = [whole.slice(at, FINISHED_AT_ONCE) for at in range(0, max(1, whole.num_rows), FINISHED_AT_ONCE)]
        readers = [self._finished(part) for part in parts[:1]]
        schema = readers[0].schema

        def batches() -> Iterator[pa.RecordBatch]:
            yield from readers[0]
            for part in parts[1:]:
                yield from self._finished(part)

        reader = pa.RecordBatchReader.from_batches(schema, batches())
        display = self.context.display(self.dataset.name)
        self._rows = enforce(reader, self.dataset, display, quality).read_all()
        self.schema = self._rows.schema

    def _finished(self, part: pa.Table) -> pa.RecordBatchReader:
        engine = self.context.engine
        rows = marked(self.groups.finished(part), self.dataset.expectations)
        return engine.stream(runnable(rows, engine.capabilities))

    def remember(self, version: int, receipt: Receipt) -> None:
        self.state.add(self._entries, version=version, receipt=receipt)

    def write(self, table: Table, receipt: Receipt) -> int:
        if not self.groups.unit:  # the groups are all, and so are the rows
            table.replace(self._rows, receipt=receipt, where="true")
        else:
            table.replace_units(self._rows, gone=self._units(self.unit_names(table)), receipt=receipt)
        return int(self._rows.num_rows)

    def _units(self, names: Sequence[str]) -> pa.Table:
        """Return the distinct units of the groups."""
        columns = [f"{UNIT}{number}" for number in range(len(names))]
        units = self._groups.select(columns).group_by(columns, use_threads=False).aggregate([])
        return units.select(columns).rename_columns(names)

    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        reader = self._rows.to_reader()
        if columns is not None:
            reader = with_columns_of(reader, columns)
        return table.replace(reader, receipt=receipt, partition_cols=partition_cols)

    def tidy(self, tier: int, receipt: Receipt) -> None:
        forget(self.state.tidy(tier, receipt))


def _with_counts(groups: pa.Table, counts: Mapping[str, np.ndarray]) -> pa.Table:
    for name, column in counts.items():
        groups = groups.append_column(name, pa.array(column))
    return groups


def _nullable(table: pa.Table) -> pa.Table:
    return pa.table(table.columns, schema=pa.schema([field.with_nullable(True) for field in table.schema]))
