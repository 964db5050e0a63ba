"""A join of two streams in a cluster: the rules and the state of `stateful_join.py`, as queries.

The pairs of a batch are written to files first. What the join gives is then put together by the places of the rows, and what has
found a match follows from the same files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import LongType, StructField, StructType, TimestampType

from lakelet.execution.staged_rows import StagedRows
from lakelet.execution.state import ENDS_AT, ends_after
from lakelet.execution.stateful_cluster import ClusterStep
from lakelet.execution.stateful_join import KEPT, ROW, SIDES, over
from lakelet.execution.stateful_step import Emission
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.delta_spark import fitted, staged_files

PAIRS = "pairs"
"""Name of the files with the matches of a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Side:
    """One side of a batch: remembered rows and new ones, None where there are none."""

    number: int
    staged: StagedRows
    before: Relation | None
    new: Relation | None

    @property
    def name(self) -> str:
        return SIDES[self.number]

    @property
    def all(self) -> Relation | None:
        found = [rows for rows in (self.before, self.new) if rows is not None]
        return plan.union(found) if found else None

    @property
    def row(self) -> str:
        """The column of pairs that identifies a row of this side."""
        return f"__lakelet_{self.name}"

    @property
    def ends_at(self) -> str:
        """The column of pairs with the end of a row of this side."""
        return f"__lakelet_{self.name}_ends_at"

    @property
    def copies(self) -> Mapping[str, str]:
        """The columns of pairs with the values of this side, by its own names."""
        return {name: f"__lakelet_{self.name}_{place}" for place, name in enumerate(self.staged.column_names)}

    @property
    def columns(self) -> StructType:
        """The columns of pairs that belong to this side."""
        values = [StructField(self.copies[item.name], item.dataType) for item in self.staged.columns.fields]
        return StructType([StructField(self.row, LongType()), StructField(self.ends_at, TimestampType()), *values])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """The matches of a batch, in files.

    Attributes:
        path: None if there are none.
    """

    path: str | None
    columns: StructType

    def read(self) -> Relation:
        return plan.empty(self.columns) if self.path is None else staged_files(self.path, self.columns)


def join(step: ClusterStep) -> Emission:
    """Return the pairs of which at least one row is new, and the rows of an outer join that can find no match any more.

    Grain and rules as of `stateful_join.join`.
    """
    sides = (_side(step, 0), _side(step, 1))
    pairs = _pairs(step, sides)
    state: dict[str, Relation] = {}
    alone: dict[int, Relation] = {}
    for side in sides:
        if side.new is not None and side.staged.num_open:
            state[side.name] = _open(step, side.new)
    for number in KEPT[step.part.node.join.join_type]:
        side, table = sides[number], f"matched_{SIDES[number]}"
        matched = plan.selected(pairs.read(), {ROW: plan.attribute(side.row), ENDS_AT: plan.attribute(side.ends_at)})
        if pairs.path is not None:
            state[table] = plan.aggregated(
                _open(step, matched), {}, by={name: plan.attribute(name) for name in (ROW, ENDS_AT)}
            )
        found = _alone(step, side, matched, table)
        if found is not None:
            alone[number] = found
    return Emission(
        rows=_emitted(step, sides, pairs, alone), num_late_rows=sum(side.staged.num_late for side in sides), state=state
    )


def _side(step: ClusterStep, number: int) -> _Side:
    staged, name = step.rows[number], SIDES[number]
    new = staged.numbered(ROW, step.tables.receipt.batch_id << 32) if staged.num_rows else None
    before = step.tables.before(name, after=step.thresholds.late)
    if before is not None:
        marks = [StructField(ENDS_AT, TimestampType()), StructField(ROW, LongType())]
        columns = to_arrow_schema(StructType([*staged.columns.fields, *marks]), timezone="UTC")
        before = fitted(before, step.tables.columns(name), columns, complete=True, nested=True)
    return _Side(number=number, staged=staged, before=before, new=new)


def _pairs(step: ClusterStep, sides: tuple[_Side, _Side]) -> _Pairs:
    """Write the matches between new rows and all others to files."""
    left, right = sides
    columns = StructType([*left.columns.fields, *right.columns.fields])
    parts = [
        _matches(step, sides, (one, other))
        for one, other in ((left.new, right.all), (left.before, right.new))
        if one is not None and other is not None
    ]
    if not parts:
        return _Pairs(path=None, columns=columns)
    measures = {"num_pairs": plan.expression("count(*)")}
    rows = plan.union(parts)
    path, seen = step.staging.write(PAIRS, plan.observed(rows, PAIRS, measures))
    return _Pairs(path=None if seen.get("num_pairs") == 0 else path, columns=columns)


def _matches(step: ClusterStep, sides: tuple[_Side, _Side], rows: tuple[Relation, Relation]) -> Relation:
    inputs, chosen = [], []
    for side, found in zip(sides, rows, strict=True):
        marks = {side.row: ROW, side.ends_at: ENDS_AT, **{copy: quote(name) for name, copy in side.copies.items()}}
        inputs.append(plan.with_columns(found, {mark: plan.attribute(name) for mark, name in marks.items()}))
        chosen += list(marks)
    matches = over(step.part.node, inputs)
    matches.join.join_type = proto.Join.JOIN_TYPE_INNER
    return plan.with_fresh_plan_ids(plan.selected(matches, {name: plan.attribute(name) for name in chosen}))


def _open(step: ClusterStep, rows: Relation) -> Relation:
    """Return the rows that this batch does not close."""
    now = step.thresholds.now
    return rows if now is None else plan.filtered(rows, plan.expression(ends_after(now)))


def _alone(step: ClusterStep, side: _Side, matched: Relation, table: str) -> Relation | None:
    """Return the kept rows that this batch closes without a match, in this batch or before; None if there can be none."""
    now, rows = step.thresholds.now, side.all
    if now is None or rows is None:
        return None
    found = [matched]
    before = step.tables.before(table, after=step.thresholds.late)
    if before is not None:
        found.append(before)
    rows = plan.filtered(rows, plan.expression(f"NOT ({ends_after(now)})"))
    for known in found:
        ids = plan.selected(known, {ROW: plan.attribute(ROW)})
        rows = plan.joined(rows, ids, proto.Join.JOIN_TYPE_LEFT_ANTI, [ROW])
    return rows


def _emitted(step: ClusterStep, sides: tuple[_Side, _Side], pairs: _Pairs, alone: Mapping[int, Relation]) -> Relation:
    """Return the user's join of the two halves of the pairs, so that the query above it finds the columns of either side.

    Both halves of a pair say which rows it is of. A row without a match is a half for which an outer join finds no other one.
    """
    node = step.part.node
    is_by_name = bool(node.join.using_columns)
    inputs, keys = [], []
    for side in sides:
        ending = "" if is_by_name else f"_of_{side.name}"
        own = [f"{other.row}{ending}" for other in sides]
        values = {name: plan.attribute(copy) for name, copy in side.copies.items()}
        marks = {mark: plan.attribute(other.row) for mark, other in zip(own, sides, strict=True)}
        half = plan.selected(pairs.read(), {**values, **marks})
        if side.number in alone:
            values = {name: plan.attribute(quote(name)) for name in side.copies}
            marks = {
                mark: plan.attribute(ROW) if other is side else plan.expression("CAST(NULL AS BIGINT)")
                for mark, other in zip(own, sides, strict=True)
            }
            half = plan.union([half, plan.selected(alone[side.number], {**values, **marks})])
        inputs.append(half)
        keys.append(own)
    result = over(node, inputs)
    if is_by_name:
        result.join.using_columns.extend(keys[0])
    else:
        same = [plan.call("==", plan.attribute(one), plan.attribute(other)) for one, other in zip(*keys, strict=True)]
        result.join.join_condition.CopyFrom(plan.call("and", *same))
    return plan.dropped(result, dict.fromkeys([*keys[0], *keys[1]]))
