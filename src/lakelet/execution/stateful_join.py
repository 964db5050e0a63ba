"""A join of two streams: every pair once, in the batch in which the later of the two rows arrives.

State: the rows of both sides, and for an outer join which of the kept rows have found a match. A row is forgotten when the
watermark has passed the last event time that the other side could still match it with; a kept row without a match is given
then, with NULL for the other side.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.connect import proto

from lakelet.execution.state import ENDS_AT, ENDS_AT_TYPE
from lakelet.execution.stateful_step import Emission, Step, late_mask
from lakelet.execution.watermark import micros
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.stateful import redirected, stand_in

SIDES = ("left", "right")
ROW = "__lakelet_row"
"""Identifies a remembered row: its batch and its place in it."""
_PLACES = tuple(f"__lakelet_{side}" for side in SIDES)
KEPT = {
    proto.Join.JOIN_TYPE_INNER: (),
    proto.Join.JOIN_TYPE_LEFT_OUTER: (0,),
    proto.Join.JOIN_TYPE_RIGHT_OUTER: (1,),
    proto.Join.JOIN_TYPE_FULL_OUTER: (0, 1),
}
"""Sides whose rows an outer join keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One side of a batch: remembered rows first, then `num_before` on the new ones."""

    rows: pa.Table
    columns: list[str]
    num_before: int

    @property
    def new(self) -> pa.Table:
        return self.rows.slice(self.num_before)


def join(step: Step) -> Emission:
    """Return the pairs of which at least one row is new, and the rows of an outer join that can find no match any more.

    Grain: one row a pair. Rows at or before the late threshold are dropped on the sides that have a watermark.
    """
    num_late, sides = 0, []
    for number in (0, 1):
        late, side = _side(step, number)
        num_late += late
        sides.append(side)
    pairs = [
        *_pairs(step, sides, (sides[0].num_before, None), (0, None)),
        *_pairs(step, sides, (0, sides[0].num_before), (sides[1].num_before, None)),
    ]
    left = pa.array([pair[0] for pair in pairs], pa.int64())
    right = pa.array([pair[1] for pair in pairs], pa.int64())
    state = {SIDES[number]: _open(step, sides[number].new) for number in (0, 1)}
    places = (left, right)
    lefts, rights = [left], [right]
    for number in KEPT[step.part.node.join.join_type]:
        matched = pc.unique(places[number])
        table = f"matched_{SIDES[number]}"
        rows = sides[number].rows.select([ROW, ENDS_AT])
        state[table] = _open(step, rows.take(matched))
        alone = _alone(step, rows, matched, table)
        nothing = pa.nulls(len(alone), pa.int64())
        lefts.append(alone if number == 0 else nothing)
        rights.append(nothing if number == 0 else alone)
    rows = _emitted(step, sides, pa.concat_arrays(lefts), pa.concat_arrays(rights))
    return Emission(rows=rows, num_late_rows=num_late, state=state)


def _side(step: Step, number: int) -> tuple[int, _Side]:
    rows, times = step.rows[number], step.part.event_times[number]
    columns = rows.column_names
    time = next((name for name in columns if name.lower() in times), None)
    late = late_mask(rows.column(time), step.thresholds) if time is not None else None
    num_late = 0
    if late is not None:
        num_late = pc.sum(late).as_py() or 0
        rows = rows.filter(pc.invert(late))
    bound = step.part.bounds[number]
    if time is None or bound is None:
        ends: pa.Array | pa.ChunkedArray = pa.nulls(rows.num_rows, ENDS_AT_TYPE)
    else:
        ends = pc.add(micros(rows.column(time)), bound * 1000).cast(ENDS_AT_TYPE)
    first = step.tables.receipt.batch_id << 32
    rows = rows.append_column(pa.field(ENDS_AT, ENDS_AT_TYPE), ends)
    rows = rows.append_column(ROW, pa.array(range(first, first + rows.num_rows), pa.int64()))
    before = step.tables.before(SIDES[number], after=step.thresholds.late)
    if before is None:
        return num_late, _Side(rows=rows, columns=columns, num_before=0)
    known = step.engine.collect(plan.union([before, plan.local(rows.schema.empty_table())], by_name=True))
    known = known.select(rows.column_names).cast(rows.schema)
    return num_late, _Side(rows=pa.concat_tables([known, rows]), columns=columns, num_before=known.num_rows)


def _pairs(
    step: Step, sides: list[_Side], left: tuple[int, int | None], right: tuple[int, int | None]
) -> list[tuple[int, int]]:
    """Return the matches between a range of left and a range of right rows, by their places."""
    node = step.part.node
    inputs: list[Relation] = []
    for number, (begin, end) in enumerate((left, right)):
        rows = sides[number].rows.select(sides[number].columns)
        rows = rows.append_column(_PLACES[number], pa.array(range(rows.num_rows), pa.int64()))
        part = rows.slice(begin) if end is None else rows.slice(begin, end - begin)
        if not part.num_rows:
            return []
        inputs.append(plan.local(part))
    matches = over(node, inputs)
    matches.join.join_type = proto.Join.JOIN_TYPE_INNER
    chosen = plan.new()
    chosen.project.input.CopyFrom(matches)
    chosen.project.expressions.extend(plan.attribute(name) for name in _PLACES)
    found = step.engine.collect(chosen)
    return sorted(zip(*(found.column(name).to_pylist() for name in _PLACES), strict=True))


def over(node: Relation, inputs: list[Relation]) -> Relation:
    """Return the user's join over other inputs, which stand for its own."""
    result = Relation()
    result.CopyFrom(node)
    result.join.ClearField("left")
    result.join.ClearField("right")
    for number, below in enumerate((node.join.left, node.join.right)):
        inputs[number] = stand_in(below, inputs[number])
        result = redirected(result, below, inputs[number].common.plan_id)
    result.join.left.CopyFrom(inputs[0])
    result.join.right.CopyFrom(inputs[1])
    return result


def _open(step: Step, rows: pa.Table) -> pa.Table:
    """Return the rows that this batch does not close."""
    now = step.thresholds.now
    if now is None:
        return rows
    return rows.filter(pc.invert(_closed(rows, now)))


def _closed(rows: pa.Table, now: int) -> pa.ChunkedArray:
    return pc.fill_null(pc.less_equal(rows.column(ENDS_AT).cast(pa.int64()), now), False)


def _alone(step: Step, rows: pa.Table, matched: pa.Array, table: str) -> pa.Array:
    """Return the places of the kept rows that this batch closes without a match, in this batch or before."""
    now = step.thresholds.now
    if now is None:
        return pa.array([], pa.int64())
    known: set[int] = set()
    before = step.tables.before(table, after=step.thresholds.late)
    if before is not None:
        known = set(step.engine.collect(before).column(ROW).to_pylist())
    here = set(matched.to_pylist())
    closed = _closed(rows, now).to_pylist()
    ids = rows.column(ROW).to_pylist()
    places = [place for place, end in enumerate(closed) if end and place not in here and ids[place] not in known]
    return pa.array(places, pa.int64())


def _emitted(step: Step, sides: list[_Side], left: pa.Array, right: pa.Array) -> Relation:
    """Return pairs as a join of two relations, so that the query above finds the columns of either side."""
    node = step.part.node
    inputs: list[Relation] = []
    for number, places in enumerate((left, right)):
        name = _PLACES[0] if node.join.using_columns else _PLACES[number]
        rows = sides[number].rows.select(sides[number].columns).take(places)
        inputs.append(plan.local(rows.append_column(name, pa.array(range(len(places)), pa.int64()))))
    result = over(node, inputs)
    result.join.join_type = proto.Join.JOIN_TYPE_INNER
    if node.join.using_columns:
        result.join.using_columns.append(_PLACES[0])
    else:
        result.join.join_condition.CopyFrom(plan.call("==", *(plan.attribute(name) for name in _PLACES)))
    dropped = plan.new()
    dropped.drop.input.CopyFrom(result)
    dropped.drop.column_names.extend(_PLACES)
    return dropped
