"""Watermarks in a tree: where they are declared, and under which names their column reaches an operator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyspark.sql.connect import proto

from lakelet.errors import DefinitionError, GraphError, Origin
from lakelet.names import split_name
from lakelet.plan.relation import Relation, call_site, children
from lakelet.plan.sources import is_streaming

ViewOf = Callable[[Relation], Relation | None]
"""Gives the tree of the view that a leaf reads, None for any other leaf."""

Columns = Mapping[str, bool]
"""Names of event-time columns, in lower case, and whether each holds time windows instead of instants."""

_PASSES = {
    "subquery_alias", "filter", "hint", "repartition", "repartition_by_expression", "fill_na", "drop_na", "replace",
    "deduplicate", "to_schema",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """One `withWatermark` of a flow.

    Attributes:
        column: the event time, as the user spells it.
        delay_ms: how far the watermark stays behind the latest event.
        relation: the rows on which it is declared.
    """

    column: str
    delay_ms: int
    relation: Relation
    origin: Origin | None = None


def watermarks(relation: Relation, view: ViewOf) -> list[Watermark]:
    """Return the watermarks of a tree, in the order in which a walk from the top meets them; views are followed.

    Raises:
        GraphError: `CANNOT_PARSE_INTERVAL`, `WATERMARK_REDEFINED`.
    """
    found: list[Watermark] = []
    if relation.WhichOneof("rel_type") == "with_watermark" and is_streaming(relation):
        found.append(watermark_of(relation))
        again = watermarks(relation.with_watermark.input, view)
        if again:
            raise GraphError(
                "WATERMARK_REDEFINED",
                f"`withWatermark` on `{found[0].column}` stands above another one, on `{again[0].column}`",
                origin=found[0].origin,
                cause="the rows below have an event time already",
                hint="declare one watermark for each stream",
            )
        return found
    tree = view(relation)
    for item in [tree] if tree is not None else children(relation):
        found += watermarks(item, view)
    return found


def watermark_of(relation: Relation) -> Watermark:
    """Return what a `withWatermark` relation declares."""
    node = relation.with_watermark
    origin = call_site(relation.common) or call_site(relation)
    delay = parse_delay(node.delay_threshold)
    if delay is None:
        raise GraphError(
            "CANNOT_PARSE_INTERVAL",
            f"the delay of a watermark cannot be read: `{node.delay_threshold}`",
            origin=origin,
            hint='write a number and a unit, for example "10 minutes"',
        )
    return Watermark(column=node.event_time, delay_ms=delay, relation=node.input, origin=origin)


_UNIT_MS = {
    "microsecond": 0.001, "millisecond": 1, "second": 1000, "minute": 60_000, "hour": 3_600_000, "day": 86_400_000,
    "week": 7 * 86_400_000, "month": 31 * 86_400_000, "year": 12 * 31 * 86_400_000,
}  # fmt: skip
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+?)s?(?:\s+|$)")


def parse_delay(text: str) -> int | None:
    """Return the milliseconds of `10 minutes` or `interval 1 hour 30 minutes`, None if it is no such text.

    A month has 31 days, as in Spark.
    """
    rest = text.strip().lower().removeprefix("interval").strip()
    total, position = 0.0, 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None or part[2] not in _UNIT_MS:
            return None
        total += float(part[1]) * _UNIT_MS[part[2]]
        position = part.end()
    return int(total) if rest else None


def event_columns(relation: Relation, view: ViewOf) -> Columns:
    """Return the columns of `relation` that hold the event time of a watermark below it.

    Raises:
        GraphError: `UNSUPPORTED_STREAMING_OPERATOR` where the column cannot be followed.
    """
    kind = relation.WhichOneof("rel_type")
    match kind:
        case "read":
            tree = view(relation)
            return event_columns(tree, view) if tree is not None else {}
        case "with_watermark":
            return {
                **event_columns(relation.with_watermark.input, view),
                bare(relation.with_watermark.event_time): False,
            }
        case "project":
            below = event_columns(relation.project.input, view)
            result: dict[str, bool] = {}
            for expression in relation.project.expressions:
                result |= below if expression.HasField("unresolved_star") else event_key(expression, below)
            return result
        case "with_columns":
            result = dict(event_columns(relation.with_columns.input, view))
            below = dict(result)
            for column in relation.with_columns.aliases:
                result.pop(column.name[0].lower(), None)
                result |= {column.name[0].lower(): window for window in event_key(column.expr, below).values()}
            return result
        case "with_columns_renamed":
            result = dict(event_columns(relation.with_columns_renamed.input, view))
            for rename in relation.with_columns_renamed.renames:
                if rename.col_name.lower() in result:
                    result[rename.new_col_name.lower()] = result.pop(rename.col_name.lower())
            return result
        case "drop":
            gone = {name.lower() for name in relation.drop.column_names}
            gone |= {bare(column.unresolved_attribute.unparsed_identifier) for column in relation.drop.columns}
            return {
                name: window for name, window in event_columns(relation.drop.input, view).items() if name not in gone
            }
        case "local_relation" | "sql" | None:
            return {}
    found: dict[str, bool] = {}
    for item in children(relation):
        found |= event_columns(item, view)
    if found and kind not in (*_PASSES, "join", "set_op"):
        raise GraphError(
            "UNSUPPORTED_STREAMING_OPERATOR",
            f"the event time `{next(iter(found))}` cannot be followed through "
            + ("SQL text" if kind == "with_relations" else f"`{kind}`"),
            origin=call_site(relation.common) or call_site(relation),
            cause="an operator with state above it needs to know which column the watermark is on",
            hint="call `withWatermark` on the result of it",
        )
    return found


def event_key(expression: proto.Expression, below: Columns) -> dict[str, bool]:
    """Return the name that an expression gives to an event time or a window over one, nothing if it is neither."""
    match expression.WhichOneof("expr_type"):
        case "alias":
            inner = event_key(expression.alias.expr, below)
            return {expression.alias.name[0].lower(): window for window in inner.values()}
        case "unresolved_attribute":
            name = bare(expression.unresolved_attribute.unparsed_identifier)
            return {name: below[name]} if name in below else {}
        case "unresolved_function" if expression.unresolved_function.function_name.lower() == "window":
            time = event_key(expression.unresolved_function.arguments[0], below)
            return {"window": True} if time and not any(time.values()) else {}
        case _:
            return {}


def bare(name: str) -> str:
    """Return the last part of a column's name, in lower case."""
    try:
        return split_name(name)[-1].lower()
    except DefinitionError:  # no name at all: the engine says so
        return name.lower()
