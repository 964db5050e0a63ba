"""The operator with state of a flow, as far as definitions tell: what it is, what it remembers, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pyspark.sql.connect import proto

from lakelet.errors import GraphError, Origin
from lakelet.plan.event_time import Columns, Watermark, event_columns, event_key, watermarks
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.relation import Relation, call_site
from lakelet.plan.relation import relations as all_relations
from lakelet.plan.sources import leaf_of
from lakelet.plan.stateful import Operator, inputs_of, operator_of, operators
from lakelet.plan.time_range import bounds

if TYPE_CHECKING:
    from lakelet.execution.resolution import Resolver

AS_TABLE = "write what is below it to a streaming table of its own, and read that as a stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedOperator:
    """An operator with state: its node, the tree of the flow or view in which it stands, and where that is declared."""

    node: Relation
    tree: Relation
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulPart:
    """The operator with state of a flow.

    Attributes:
        watermarks: of all streams below it.
        event_times: for each of its inputs, the columns that hold event time.
        is_complete: it gives all groups in each batch, and the target is rewritten.
        bounds: of a join, for each side the milliseconds after a row's event time beyond which it finds no match; None for no
            bound.
        event_keys: positions of the grouping expressions that are event times.
        origin: the user's line.
    """

    operator: Operator
    node: Relation
    watermarks: tuple[Watermark, ...]
    event_times: tuple[Columns, ...]
    origin: Origin
    is_complete: bool = False
    event_keys: tuple[int, ...] = ()
    bounds: tuple[int | None, int | None] = (None, None)

    def description(self, columns: Sequence[str]) -> dict[str, str]:
        """Return what must stay the same as long as its state is used.

        Args:
            columns: of its input.
        """
        times = ", ".join(sorted({name for found in self.event_times for name in found}))
        result = {"operator": self.operator.value, "event time": times or "none"}
        match self.operator:
            case Operator.DEDUPLICATE | Operator.DEDUPLICATE_WITHIN_WATERMARK:
                result["keys"] = ", ".join(self.keys(columns))
            case Operator.AGGREGATE:
                aggregate = self.node.aggregate
                result["output"] = "all groups in each batch" if self.is_complete else "each group once"
                result["keys"] = ", ".join(_text(item) for item in aggregate.grouping_expressions) or "none"
                result["aggregates"] = ", ".join(_text(item) for item in aggregate.aggregate_expressions)
            case Operator.JOIN:
                join = self.node.join
                result["type"] = proto.Join.JoinType.Name(join.join_type).removeprefix("JOIN_TYPE_").lower()
                result["condition"] = ", ".join(join.using_columns) or _text(join.join_condition)
        return result

    def keys(self, columns: Sequence[str]) -> list[str]:
        """Return the columns by which rows are duplicates of each other, as the input spells them."""
        node = self.node.deduplicate
        if node.all_columns_as_keys or not node.column_names:
            return list(columns)
        wanted = {name.lower() for name in node.column_names}
        return [name for name in columns if name.lower() in wanted]


def placed_operators(resolver: Resolver, relation: Relation, origin: Origin) -> list[PlacedOperator]:
    """Return the operators with state of a flow, those above first, also those in the views that it reads."""
    found = [PlacedOperator(node=node, tree=relation, origin=origin) for node in operators(relation)]
    for leaf in all_relations(relation):
        view = resolver.view(leaf, origin)
        if view is not None:
            found += placed_operators(resolver, resolver.relation(resolver.flows[view.name.key][0]), view.origin)
    return found


def stateful_part(resolver: Resolver, relation: Relation, origin: Origin) -> StatefulPart | None:
    """Return the operator with state of a flow, None if it works row by row.

    Raises:
        GraphError: `UNSUPPORTED_STREAMING_OPERATOR` and the errors of its watermarks.
    """
    found = placed_operators(resolver, relation, origin)
    if not found:
        return None
    if len(found) > 1:
        raise _refused(
            "a second operator with state in one flow",
            f"the flow has {' and '.join(operator.value for operator in _kinds(found))}",
            AS_TABLE,
            found[0],
        )
    (placed,) = found
    operator = operator_of(placed.node)
    assert operator is not None

    def view_of(leaf: Relation) -> Relation | None:
        view = resolver.view(leaf, placed.origin)
        return None if view is None else resolver.relation(resolver.flows[view.name.key][0])

    inputs = inputs_of(placed.node)
    part = StatefulPart(
        operator=operator,
        node=placed.node,
        watermarks=tuple(mark for item in inputs for mark in watermarks(item, view_of)),
        event_times=tuple(event_columns(item, view_of) for item in inputs),
        origin=_line(placed),
    )
    match operator:
        case Operator.AGGREGATE:
            return _aggregate(resolver, part, placed, relation, origin)
        case Operator.DEDUPLICATE | Operator.DEDUPLICATE_WITHIN_WATERMARK:
            return _deduplicate(part, placed)
        case Operator.JOIN:
            return _join(part, placed)


def _deduplicate(part: StatefulPart, placed: PlacedOperator) -> StatefulPart:
    (times,) = part.event_times
    if len(times) > 1:
        raise _refused(
            f"`{part.operator.value}` over two columns with event time",
            f"they are {', '.join(sorted(times))}",
            "drop one of them, or copy it to a column of another name by an expression",
            placed,
        )
    if part.operator is Operator.DEDUPLICATE_WITHIN_WATERMARK and not times:
        raise _refused(
            "`dropDuplicatesWithinWatermark` without a watermark",
            "the watermark says how long a key is remembered",
            'call `withWatermark("<event time>", "10 minutes")` before it, and keep that column',
            placed,
        )
    return part


def _join(part: StatefulPart, placed: PlacedOperator) -> StatefulPart:
    join = part.node.join
    kind = proto.Join.JoinType.Name(join.join_type).removeprefix("JOIN_TYPE_").lower().replace("_", " ")
    kept = {"inner": (), "left outer": (0,), "right outer": (1,), "full outer": (0, 1)}.get(kind)
    if kept is None:
        raise _refused(
            f"a {kind} join of two streams", "inner and outer joins are", "use an inner or an outer join", placed
        )
    limits = bounds(part.node, part.event_times)
    if kept and (join.using_columns or any(limits[side] is None for side in kept)):
        raise _refused(
            f"a {kind} join of two streams without a range of event time",
            "a row that finds no match is given when no match can come any more, and nothing says when that is",
            "call `withWatermark` on both streams and write the condition as an expression with a range, such as "
            '`F.expr("l.id = r.id AND r.at BETWEEN l.at AND l.at + INTERVAL 1 HOUR")`',
            placed,
        )
    return replace(part, bounds=limits)


def _aggregate(
    resolver: Resolver, part: StatefulPart, placed: PlacedOperator, relation: Relation, origin: Origin
) -> StatefulPart:
    node = part.node.aggregate
    if node.group_type != proto.Aggregate.GROUP_TYPE_GROUPBY:
        kind = proto.Aggregate.GroupType.Name(node.group_type).removeprefix("GROUP_TYPE_").lower().replace("_", " ")
        raise _refused(
            f"a streaming aggregation by {kind}",
            "only `groupBy` keeps state",
            "use it in a materialized view over the streaming table",
            placed,
        )
    if part.watermarks:
        (times,) = part.event_times
        keys = tuple(n for n, item in enumerate(node.grouping_expressions) if event_key(item, times))
        if len(keys) == 1:
            return replace(part, event_keys=keys)
        columns = ", ".join(f"`{mark.column}`" for mark in part.watermarks)
        raise _refused(
            "a streaming aggregation with a watermark, grouped by two event times"
            if keys
            else "a streaming aggregation whose watermark can close no group",
            f"the watermark is on {columns}, and a group ends where its window, or its event time, is passed",
            "group by one of them"
            if keys
            else f'group by {columns} or by `F.window({columns}, "1 hour")`, or leave the watermark out: then all groups '
            "are written anew in each batch",
            placed,
        )
    streams = _streams(resolver, relation, origin)
    below = [leaf for item in inputs_of(placed.node) for leaf in _streams(resolver, item, placed.origin)]
    if len(streams) > len(below):
        raise _refused(
            "a streaming aggregation without a watermark beside another stream",
            "it rewrites the table in each batch, and the rows of the other stream would be lost",
            AS_TABLE,
            placed,
        )
    return replace(part, is_complete=True)


def _streams(resolver: Resolver, relation: Relation, origin: Origin) -> list[Relation]:
    """Return the streams that a tree reads, views followed."""
    found: list[Relation] = []
    for node in all_relations(relation):
        leaf = leaf_of(node)
        view = resolver.view(node, origin)
        if view is not None:
            found += _streams(resolver, resolver.relation(resolver.flows[view.name.key][0]), view.origin)
        elif leaf is not None and leaf.streaming:
            found.append(node)
    return found


def _kinds(found: Sequence[PlacedOperator]) -> list[Operator]:
    return [operator for placed in found if (operator := operator_of(placed.node)) is not None]


def _line(placed: PlacedOperator) -> Origin:
    return call_site(placed.node.common) or call_site(placed.node) or placed.origin


def _refused(what: str, cause: str, instead: str, placed: PlacedOperator) -> GraphError:
    error = GraphError(
        "UNSUPPORTED_STREAMING_OPERATOR", f"{what} is not supported", origin=_line(placed), cause=cause, hint=instead
    )
    error.at(placed.origin)
    return error


def _text(expression: Any) -> str:
    """Return an expression as people write it; of what is rare, a digest."""
    match expression.WhichOneof("expr_type"):
        case "unresolved_attribute":
            return str(expression.unresolved_attribute.unparsed_identifier)
        case "alias":
            return f"{_text(expression.alias.expr)} AS {expression.alias.name[0]}"
        case "expression_string":
            return str(expression.expression_string.expression)
        case "unresolved_star":
            return "*"
        case "literal" if expression.literal.WhichOneof("literal_type") in ("string", "integer", "long", "boolean"):
            return str(getattr(expression.literal, expression.literal.WhichOneof("literal_type")))
        case "unresolved_function":
            function = expression.unresolved_function
            distinct = "DISTINCT " if function.is_distinct else ""
            return f"{function.function_name}({distinct}{', '.join(_text(item) for item in function.arguments)})"
        case _:
            probe = Relation()
            probe.filter.condition.CopyFrom(expression)
            return f"expression {fingerprint(probe)[:12]}"
