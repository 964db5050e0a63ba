"""Partial values of groups as Arrow tables: how those of earlier refreshes and those of a slice become one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.errors import QueryError
from lakelet.plan.group_query import ID, SLOT
from lakelet.plan.partial_aggregates import LOST, Measure, Merge


def identities(table: pa.Table, names: Sequence[str] = ID) -> pa.Array:
    """Return both hashes of each row's identity as one value of 16 bytes."""
    pair = np.column_stack([table.column(name).to_numpy() for name in names])
    buffer = pa.py_buffer(np.ascontiguousarray(pair))
    return pa.Array.from_buffers(pa.binary(16), table.num_rows, [None, buffer])


def with_lost(partial: pa.Table, measures: Sequence[Measure]) -> pa.Table:
    """Return partial values of one query with a column for what additions lose, after each sum of doubles."""
    for name in sums_of_doubles(partial.schema, measures):
        partial = partial.append_column(name + LOST, pa.array(np.zeros(partial.num_rows)))
    return partial


def sums_of_doubles(schema: pa.Schema, measures: Sequence[Measure]) -> list[str]:
    names = dict.fromkeys(name for measure in measures if measure.merge is Merge.ADD for name in measure.columns)
    return [name for name in names if pa.types.is_floating(schema.field(name).type)]


def without_lost(groups: pa.Table, measures: Sequence[Measure]) -> pa.Table:
    """Return groups with their sums of doubles made whole."""
    for name in sums_of_doubles(groups.schema, measures):
        at = groups.schema.get_field_index(name)
        total = pc.add(groups.column(name), pc.fill_null(groups.column(name + LOST), 0.0))
        groups = groups.set_column(at, name, total).drop_columns([name + LOST])
    return groups


def merged(before: pa.Table, added: pa.Table, measures: Sequence[Measure]) -> pa.Table:
    """Return the groups of `added` with what is known of them from `before`.

    Args:
        before: at most one row a group, any groups.
    """
    at = pc.index_in(identities(added), value_set=identities(before))
    old = before.take(at)
    columns = {name: added.column(name) for name in added.column_names}
    try:
        for measure in measures:
            columns |= _merged(measure, old, added)
    except pa.ArrowInvalid as error:
        raise QueryError(
            "ARITHMETIC_OVERFLOW",
            "a sum is too large for its type",
            cause=str(error),
            hint="cast what is summed to a wider type, such as DECIMAL(38, 2) or DOUBLE",
        ) from error
    return pa.table(columns)


def united(before: pa.Table, added: pa.Table, measures: Sequence[Measure]) -> pa.Table:
    """Return the groups of both, each once."""
    again = merged(before, added, measures)
    return pa.concat_tables([untouched(before, added).select(again.column_names), again])


def untouched(before: pa.Table, added: pa.Table) -> pa.Table:
    """Return the groups of `before` that `added` does not have."""
    return before.filter(pc.invert(pc.is_in(identities(before), value_set=identities(added))))


def _merged(measure: Measure, old: pa.Table, new: pa.Table) -> dict[str, pa.Array]:
    names = list(measure.columns)
    match measure.merge:
        case Merge.ADD:
            result: dict[str, pa.Array] = {}
            for name in names:
                result |= _added(name, old, new)
            return result
        case Merge.DISTINCT:
            return _added(names[0], old, new)
        case Merge.MIN | Merge.MAX:
            return {names[0]: _extreme(measure.merge, old.column(names[0]), new.column(names[0]))}
        case Merge.MOMENTS:
            return dict(zip(names, _moments(*(_pair(old, new, name) for name in names)), strict=True))


def _added(name: str, old: pa.Table, new: pa.Table) -> dict[str, pa.Array]:
    left, right = old.column(name).combine_chunks(), new.column(name).combine_chunks()
    known = pc.or_(left.is_valid(), right.is_valid())
    kind = right.type
    if pa.types.is_floating(kind):
        a, b = _filled(left), _filled(right)
        total = a + b
        lost = np.where(np.abs(a) >= np.abs(b), (a - total) + b, (b - total) + a)
        lost = lost + _filled(old.column(name + LOST)) + _filled(new.column(name + LOST))
        lost = np.where(np.isfinite(total), lost, 0.0)
        return {name: pc.if_else(known, pa.array(total), None), name + LOST: pa.array(lost)}
    if pa.types.is_decimal(kind):
        wide = pa.decimal256(min(kind.precision + 1, 75), kind.scale)
        zero = pa.scalar(0, pa.int64()).cast(pa.decimal256(19 + kind.scale, kind.scale)).cast(wide)
        parts = [pc.fill_null(side.cast(wide), zero) for side in (left, right)]
        total = pc.add(*parts).cast(kind)
    else:
        total = pc.add_checked(pc.fill_null(left, 0), pc.fill_null(right, 0))
    return {name: pc.if_else(known, total, pa.scalar(None, kind))}


def _extreme(merge: Merge, left: pa.ChunkedArray, right: pa.ChunkedArray) -> pa.Array:
    """NaN is greater than any other number."""
    kind = right.type
    if pa.types.is_boolean(kind):
        function = pc.and_kleene if merge is Merge.MIN else pc.or_kleene
        return pc.coalesce(function(pc.coalesce(left, right), pc.coalesce(right, left)), left, right)
    is_left = pc.less(left, right) if merge is Merge.MIN else pc.greater(left, right)
    if pa.types.is_floating(kind):
        greatest = pc.is_nan(right if merge is Merge.MIN else left)
        is_left = pc.or_kleene(is_left, greatest)
    return pc.coalesce(pc.if_else(is_left, left, right), left, right)


Pair = tuple[np.ndarray, np.ndarray]


def _pair(old: pa.Table, new: pa.Table, name: str) -> Pair:
    return _filled(old.column(name)), _filled(new.column(name))


def _moments(counts: Pair, means: Pair, squares: Pair) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979)."""
    (n1, n2), (mean1, mean2), (m1, m2) = counts, means, squares
    n = n1 + n2
    divisor = np.where(n == 0, 1, n)
    difference = mean2 - mean1
    with np.errstate(invalid="ignore"):
        mean = mean1 + difference * n2 / divisor
        total = m1 + m2 + difference * difference * n1 * n2 / divisor
    mean, total = (
        np.where(n1 == 0, mean2, np.where(n2 == 0, mean1, mean)),
        np.where(n1 == 0, m2, np.where(n2 == 0, m1, total)),
    )
    none = n == 0
    return pa.array(n.astype(np.int64)), pa.array(mean, mask=none), pa.array(total, mask=none)


def _filled(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return numbers with 0 for NULL, the counts of which are exact in doubles."""
    return pc.fill_null(column.cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False) if isinstance(
        column, pa.Array
    ) else _filled(column.combine_chunks())  # fmt: skip


def slots(table: pa.Table) -> pa.Array:
    """Return the distinct slots of some groups."""
    return pc.unique(table.column(SLOT))
