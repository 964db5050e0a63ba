"""GROUP_AGGREGATE: partial values of a slice, merged with those that are kept, and the rows of the groups that changed.

slice       the engine aggregates new rows only; one row a group
merge       with the kept partial values of those groups, in Arrow
finish      the engine computes the view's rows of the groups, and of those that share a unit with them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.expectations import Quality, enforce, marked
from lakelet.execution.partial_values import identities, merged, slots, united, untouched, with_lost, without_lost
from lakelet.execution.view_query import bound
from lakelet.execution.view_state import GROUPS, VERSION, ViewState
from lakelet.plan.group_query import ID, SLOT, UNIT, GroupQuery
from lakelet.plan.incremental import Role
from lakelet.plan.normalize import runnable
from lakelet.plan.partial_aggregates import Merge
from lakelet.plan.relation import Relation

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.view_query import ViewQuery
    from lakelet.graph.elements import Dataset

FINISHED_AT_ONCE = 200_000
"""So many groups travel inside one plan."""
LOOKED_UP_AT_ONCE = 200_000
"""So many distinct values are looked up among those that are kept, of which as large a share is read."""

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
    context: UpdateContext, query: ViewQuery, terms: Sequence[Relation], leaves: Leaves, state: ViewState | None
) -> ChangedGroups:
    """Return what new rows make of the groups.

    Args:
        terms: trees that give the new rows.
        state: what is kept of earlier rows; None to start from nothing.
    """
    groups = query.groups
    assert groups is not None
    changed: pa.Table | None = None
    values: dict[str, pa.Table] = {}
    for term in terms:
        partial = context.engine.collect(bound(context, query, groups.partial(term), leaves))
        partial = _nullable(partial)
        for measure in groups.measures:
            if measure.merge is Merge.DISTINCT:
                (name,) = measure.columns
                partial, values[name] = _counted(partial, name, values.get(name), state)
        partial = with_lost(partial, groups.measures)
        changed = partial if changed is None else united(changed, partial, groups.measures)
    assert changed is not None
    everything = changed
    if state is not None:
        before = state.entries(GROUPS, slots(changed)).drop_columns([VERSION])
        before = pa.table(
            {name: before.column(name).cast(changed.schema.field(name).type) for name in changed.column_names}
        )
        changed = merged(before, changed, groups.measures).select(before.column_names)
        everything = pa.concat_tables([changed, untouched(before, changed)])
    return ChangedGroups(entries={GROUPS: changed, **values}, groups=everything)


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


def _counted(
    partial: pa.Table, name: str, found: pa.Table | None, state: ViewState | None
) -> tuple[pa.Table, pa.Table]:
    """Replace the values of a `count(DISTINCT …)` by the number of those that are new.

    Returns:
        The partial values, and all new values that the state must remember.
    """
    lists = partial.column(name).combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    digests = pc.list_flatten(lists)
    owners = [partial.column(column).to_numpy()[parents] for column in ID]
    pair = [_mixed(owner, digests.field(at).to_numpy()) for at, owner in enumerate(owners)]
    values = pa.table({SLOT: pair[0], ID[0]: pair[0], ID[1]: pair[1]})
    is_new = np.ones(len(parents), dtype=bool)
    if found is not None:
        is_new &= ~_seen(values, found)
    if state is not None:
        for part in _parts(pair[0]):
            some = values.take(part)
            is_new[part] &= ~_seen(some, state.entries(name, slots(some)))
    counts = np.bincount(parents[is_new], minlength=partial.num_rows).astype(np.int64)
    at = partial.schema.get_field_index(name)
    new = values.filter(pa.array(is_new))
    return partial.set_column(at, name, pa.array(counts)), new if found is None else pa.concat_tables([found, new])


def _seen(values: pa.Table, known: pa.Table) -> np.ndarray:
    """Return which values are among the known ones."""
    if not values.num_rows or not known.num_rows:
        return np.zeros(values.num_rows, dtype=bool)
    found = pc.is_in(identities(values), value_set=identities(known))
    return np.asarray(found.to_numpy(zero_copy_only=False))


def _parts(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of the values whose slots lie close together, so many that what is known of those fits into memory."""
    number = -(-len(hashes) // LOOKED_UP_AT_ONCE)
    if number < 2:
        yield np.arange(len(hashes))
        return
    part = np.clip(((hashes / 2.0**64 + 0.5) * number).astype(np.int64), 0, number - 1)
    for at in range(number):
        yield np.flatnonzero(part == at)


def _mixed(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return one 64-bit hash of two (the finalizer of SplitMix64, by Steele, Lea and Flood)."""
    with np.errstate(over="ignore"):
        value = left.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + right.astype(np.uint64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value = value ^ (value >> np.uint64(31))
    return value.astype(np.int64)


def _nullable(table: pa.Table) -> pa.Table:
    return pa.table(table.columns, schema=pa.schema([field.with_nullable(True) for field in table.schema]))
