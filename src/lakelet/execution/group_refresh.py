"""GROUP_AGGREGATE: partial values of a slice, merged with those that are kept, and the rows of the groups that changed.

slice       the engine aggregates new rows only; one row a group, with the distinct values in it
merge       with the kept partial values of those groups, in Arrow
finish      the engine computes the view's rows of the groups, and of those that share a unit with them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lakelet.execution.distinct_values import AllValues, new_values
from lakelet.execution.expectations import Quality, enforce, marked
from lakelet.execution.partial_values import merged, slots, united, untouched, with_lost, without_lost
from lakelet.execution.view_query import bound
from lakelet.execution.view_state import GROUPS, VERSION, ViewState
from lakelet.plan.group_query import UNIT, GroupQuery
from lakelet.plan.incremental import Role
from lakelet.plan.normalize import runnable
from lakelet.plan.relation import Relation

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.view_query import ViewQuery
    from lakelet.graph.elements import Dataset

FINISHED_AT_ONCE = 200_000
"""So many groups travel inside one plan."""

Leaves = Callable[[int, Role], Relation]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedGroups:
    """What a slice made of the groups that it has rows of.

    Attributes:
        entries: what the state must remember, by kind.
        groups: the changed groups, and those that share a unit with them.
    """

    entries: dict[str, pa.Table]
    groups: pa.Table


def changed_groups(
    context: UpdateContext, query: ViewQuery, terms: Sequence[Relation], leaves: Leaves, state: ViewState
) -> ChangedGroups:
    """Return what new rows make of the groups.

    Args:
        terms: trees that give the new rows.
        state: what is kept of earlier rows.
    """
    groups = query.groups
    assert groups is not None
    changed: pa.Table | None = None
    values: dict[str, pa.Table] = {}
    for term in terms:
        partial = _nullable(context.engine.collect(bound(context, query, groups.partial(term), leaves)))
        for name in groups.distinct:
            partial, values[name] = new_values(partial, name, values.get(name), state)
        partial = with_lost(partial, groups.measures)
        changed = partial if changed is None else united(changed, partial, groups.measures)
    assert changed is not None
    before = state.groups(slots(changed)).drop_columns([VERSION])
    before = pa.table(
        {name: before.column(name).cast(changed.schema.field(name).type) for name in changed.column_names}
    )
    changed = merged(before, changed, groups.measures).select(before.column_names)
    everything = pa.concat_tables([changed, untouched(before, changed)])
    return ChangedGroups(entries={GROUPS: changed, **values}, groups=everything)


def take_up(
    context: UpdateContext, query: ViewQuery, everything: Relation, leaves: Leaves, num_rows: int
) -> Iterator[tuple[str, pa.Table]]:
    """Yield what a state must remember of all rows: tables of a kind. The first shows the columns; the last has the groups.

    Args:
        everything: the tree that gives all rows.
        num_rows: about how many those are.
    """
    groups = query.groups
    assert groups is not None
    found = context.engine.collect(bound(context, query, groups.partial(everything, with_distinct=False), leaves))
    found = with_lost(_nullable(found), groups.measures)
    if groups.distinct:
        with AllValues(list(groups.distinct), found, num_rows) as values:
            values.add(context.engine.stream(bound(context, query, groups.digests(everything), leaves)))
            yield GROUPS, _with_counts(found, values.counts).slice(0, 0)
            yield from values.distinct()
            found = _with_counts(found, values.counts)
    yield GROUPS, found


def _with_counts(groups: pa.Table, counts: Mapping[str, np.ndarray]) -> pa.Table:
    for name, column in counts.items():
        groups = groups.append_column(name, pa.array(column))
    return groups


def finished_rows(
    context: UpdateContext, dataset: Dataset, groups: GroupQuery, table: pa.Table, quality: Quality
) -> pa.Table:
    """Return the rows of the view for some groups, its rules applied.

    Raises:
        ExpectationViolation: a fail rule is violated; nothing has been written.
    """

    def finish(part: pa.Table) -> pa.RecordBatchReader:
        rows = groups.finished(part)
        return context.engine.stream(runnable(marked(rows, dataset.expectations), context.engine.capabilities))

    whole = without_lost(table, groups.measures)
    parts = [whole.slice(at, FINISHED_AT_ONCE) for at in range(0, max(1, whole.num_rows), FINISHED_AT_ONCE)]
    readers = [finish(part) for part in parts[:1]]
    schema = readers[0].schema

    def batches() -> Iterator[pa.RecordBatch]:
        yield from readers[0]
        for part in parts[1:]:
            yield from finish(part)

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    return enforce(reader, dataset, context.display(dataset.name), quality).read_all()


def unit_values(groups: GroupQuery, table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Return the distinct units of some groups.

    Args:
        names: of the view's columns that are the unit.
    """
    columns = [f"{UNIT}{number}" for number in range(len(groups.unit))]
    return (
        table.select(columns).group_by(columns, use_threads=False).aggregate([]).select(columns).rename_columns(names)
    )


def _nullable(table: pa.Table) -> pa.Table:
    return pa.table(table.columns, schema=pa.schema([field.with_nullable(True) for field in table.schema]))
