"""`groupBy(...).agg(...)` over a stream, exact for every aggregate function: the rows of open groups are the state.

With a watermark each group is given once, when the watermark passes its end. Without one, all groups are given in each
batch, and every row is remembered. Only the columns that the aggregation names are kept.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.connect import proto

from lakelet.execution.state import ENDS_AT, ENDS_AT_TYPE, ends_after
from lakelet.execution.stateful_part import StatefulPart
from lakelet.execution.stateful_step import Emission, Step, late_mask
from lakelet.execution.watermark import micros
from lakelet.names import split_name
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, own_messages
from lakelet.plan.stateful import redirected, stand_in

TABLE = "rows"
EVENT = "__lakelet_event"


def with_event_key(part: StatefulPart, rows: Relation) -> Relation:
    """Return an aggregation's input with its event time, or window, as a column; of sliding windows one row for each.

    A row without an event time belongs to no window, as in Spark.
    """
    if part.is_complete:
        return rows
    key = _key(part)
    below = part.node.aggregate.input
    stood = stand_in(below, rows)
    column = proto.Expression()
    column.CopyFrom(key.alias.expr if key.HasField("alias") else key)
    return redirected(plan.with_columns(stood, {EVENT: column}), below, stood.common.plan_id)


def aggregate(step: Step) -> Emission:
    """Return the groups that a batch closes, or all groups where there is no watermark.

    Grain: one row a group. A row, with sliding windows a row of one window, whose group was closed before is late.
    """
    (rows,) = step.rows
    part = step.part
    if part.is_complete:
        kept = rows.select(needed_columns(part, rows.column_names))
        sources = [plan.local(kept)]
        before = step.tables.before(TABLE, after=None)
        if before is not None:
            sources.insert(0, before)
        return Emission(rows=aggregated(part, sources), state={TABLE: kept})
    late = late_mask(rows.column(EVENT), step.thresholds)
    num_late = 0
    if late is not None:
        num_late = pc.sum(late).as_py() or 0
        rows = rows.filter(pc.invert(late))
    ends = micros(rows.column(EVENT))
    kept = rows.select(needed_columns(part, rows.column_names))
    kept = kept.append_column(pa.field(ENDS_AT, ENDS_AT_TYPE), ends.cast(ENDS_AT_TYPE))
    now = step.thresholds.now
    closed = (
        pc.fill_null(pc.less_equal(ends, now), False) if now is not None else pa.array([False] * len(ends), pa.bool_())
    )
    sources = [plan.local(kept.filter(closed))]
    before = step.tables.before(TABLE, after=step.thresholds.late) if step.thresholds.advances else None
    if before is not None:
        sources.insert(0, plan.filtered(before, plan.expression(f"NOT ({ends_after(now or 0)})")))
    opened = kept.filter(pc.invert(closed))
    return Emission(rows=aggregated(part, sources), num_late_rows=num_late, state={TABLE: opened})


def aggregated(part: StatefulPart, sources: list[Relation]) -> Relation:
    """Return the user's aggregation over rows that are remembered and rows of the batch."""
    below = part.node.aggregate.input
    rows = stand_in(below, plan.union(sources, by_name=True))
    result = Relation()
    result.CopyFrom(part.node)
    result.aggregate.ClearField("input")
    for position in part.event_keys:
        key = result.aggregate.grouping_expressions[position]
        name = key.alias.name[0] if key.HasField("alias") else _default_name(key)
        key.Clear()
        key.alias.expr.unresolved_attribute.unparsed_identifier = EVENT
        key.alias.name.append(name)
    result = redirected(result, below, rows.common.plan_id)
    result.aggregate.input.CopyFrom(rows)
    return plan.with_fresh_plan_ids(result)  # references from above go to what stands for it, those inside stay inside


def _key(part: StatefulPart) -> proto.Expression:
    (position,) = part.event_keys
    return part.node.aggregate.grouping_expressions[position]


def _default_name(key: proto.Expression) -> str:
    if key.HasField("unresolved_attribute"):
        return split_name(key.unresolved_attribute.unparsed_identifier)[-1]
    return "window"


def needed_columns(part: StatefulPart, columns: Iterable[str]) -> list[str]:
    """Return the columns that the aggregation may name; all of them where it is not sure."""
    names: set[str] = set()
    for message in own_messages(part.node):
        match message.DESCRIPTOR.name:
            case "UnresolvedAttribute":
                names |= {item.lower() for item in split_name(message.unparsed_identifier)}  # type: ignore[attr-defined]
            case "ExpressionString" | "UnresolvedRegex" | "SubqueryExpression" | "SQL":
                return list(columns)
            case "UnresolvedStar" if message.unparsed_target:  # type: ignore[attr-defined]
                return list(columns)
    found = [name for name in columns if name == EVENT or name.lower() in names]
    return found or list(columns)[:1]
