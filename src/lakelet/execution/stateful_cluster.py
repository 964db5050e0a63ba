"""Operators with state in a cluster: the same rules as in `stateful_dedupe.py` and `stateful_aggregate.py`, as queries.

What an operator gives is a query over the staged rows of the batch and the state before it, and so is what it remembers. The
state tables are the same, row by row, so a flow may go on with the other kind of engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyspark.sql.types import StructType

from lakelet.engine.base import Engine
from lakelet.execution.staged_rows import PLACE, Input, StagedRows, Staging, Timing
from lakelet.execution.state import ENDS_AT, StateTables, ends_after
from lakelet.execution.stateful_aggregate import EVENT, aggregated, needed_columns
from lakelet.execution.stateful_aggregate import TABLE as ROWS
from lakelet.execution.stateful_dedupe import TABLE as KEYS
from lakelet.execution.stateful_part import StatefulPart
from lakelet.execution.stateful_step import Emission
from lakelet.execution.watermark import Thresholds
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.stateful import Operator

_NUMBER = "__lakelet_number"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStep:
    """One batch of an operator in a cluster.

    Attributes:
        rows: what its inputs give in this batch, without what is late.
        tables: what it remembers from before.
    """

    part: StatefulPart
    rows: tuple[StagedRows, ...]
    thresholds: Thresholds
    tables: StateTables
    staging: Staging


def inputs(part: StatefulPart, queries: Sequence[Relation], engine: Engine) -> tuple[Input, ...]:
    """Return what is staged of what an operator reads: of an aggregation only the columns that it names."""
    found = []
    for number, rows in enumerate(queries):
        columns = engine.schema(rows)
        if part.operator is Operator.AGGREGATE:
            names = needed_columns(part, columns.names)
            rows, columns = _columns(rows, names), StructType([columns[name] for name in names])
        found.append(Input(rows=rows, columns=columns, timing=_timing(part, number, columns.names)))
    return tuple(found)


def _timing(part: StatefulPart, number: int, columns: list[str]) -> Timing:
    """Return what event time means for the rows of an input."""
    time = next((name for name in columns if name.lower() in part.event_times[number]), None)
    match part.operator:
        case Operator.AGGREGATE:
            return Timing() if part.is_complete else Timing(column=EVENT, ends_after_ms=0)
        case Operator.DEDUPLICATE_WITHIN_WATERMARK:
            return Timing(column=time, ends_after_ms=part.watermarks[0].delay_ms)
        case Operator.DEDUPLICATE:
            return Timing(column=time, ends_after_ms=0 if time in part.keys(columns) else None)
        case Operator.JOIN:
            return Timing(column=time, ends_after_ms=part.bounds[number])


def deduplicate(step: ClusterStep) -> Emission:
    """Return the rows of a batch whose key is new; grain and rules as of `stateful_dedupe.deduplicate`."""
    (staged,) = step.rows
    keys = step.part.keys(staged.column_names)
    sources = [staged.read()]
    remembered = step.tables.before(KEYS, after=step.thresholds.late)
    if remembered is not None:
        known = plan.selected(remembered, {key: plan.attribute(quote(key)) for key in keys})
        sources.append(plan.with_columns(known, {PLACE: plan.expression("-1L")}))
    names = ", ".join(quote(key) for key in keys)
    first = plan.expression(f"row_number() OVER (PARTITION BY {names} ORDER BY {PLACE})")
    numbered = plan.with_columns(plan.union(sources, by_name=True), {_NUMBER: first})
    fresh = plan.filtered(numbered, plan.expression(f"{_NUMBER} = 1 AND {PLACE} >= 0"))
    return Emission(
        rows=_columns(fresh, staged.column_names),
        num_late_rows=staged.num_late,
        state={KEYS: _columns(fresh, [*keys, ENDS_AT])} if staged.num_rows else {},
    )


def aggregate(step: ClusterStep) -> Emission:
    """Return the groups that a batch closes, or all groups; grain and rules as of `stateful_aggregate.aggregate`."""
    (staged,) = step.rows
    part, now = step.part, step.thresholds.now
    needed = staged.column_names
    if part.is_complete:
        kept = _columns(staged.read(), needed)
        before = step.tables.before(ROWS, after=None)
        sources = [kept] if before is None else [before, kept]
        return Emission(rows=aggregated(part, sources), state={ROWS: kept} if staged.num_rows else {})
    kept = _columns(staged.read(), [*needed, ENDS_AT])
    is_open = "true" if now is None else ends_after(now)
    sources = [plan.filtered(kept, plan.expression(f"NOT ({is_open})"))]
    before = step.tables.before(ROWS, after=step.thresholds.late) if step.thresholds.advances else None
    if before is not None:
        sources.insert(0, plan.filtered(before, plan.expression(f"NOT ({is_open})")))
    return Emission(
        rows=aggregated(part, sources),
        num_late_rows=staged.num_late,
        state={ROWS: plan.filtered(kept, plan.expression(is_open))} if staged.num_open else {},
    )


def _columns(rows: Relation, names: list[str]) -> Relation:
    return plan.selected(rows, {name: plan.attribute(quote(name)) for name in names})
