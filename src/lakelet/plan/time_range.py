"""The range of event time in the condition of a join of two streams: how long a row of one side may find a match.

From `left.time <= right.time + c` follows that a right row can match no left row beyond its own time and `c`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lakelet.plan.event_time import Columns, bare, parse_delay
from lakelet.plan.relation import Relation
from lakelet.plan.relation import relations as all_relations
from lakelet.plan.stateful import visible_name

if TYPE_CHECKING:
    from sqlglot import exp

Term = tuple[int, int]
"""The event time of a side (0 left, 1 right) and milliseconds added to it."""


def bounds(node: Relation, times: Sequence[Columns]) -> tuple[int | None, int | None]:
    """Return for each side the milliseconds after a row's event time beyond which the other side has no match for it.

    None where the condition sets no bound.
    """
    join = node.join
    sides = _Sides(node, times)
    found: tuple[list[int], list[int]] = ([], [])
    for name in join.using_columns:
        if all(name.lower() in columns for columns in times):
            found[0].append(0)
            found[1].append(0)
    if node.join.HasField("join_condition"):
        for low, high in sides.ordered(join.join_condition):
            if low[0] != high[0]:  # low + a <= high + c: a row of the high side has no match beyond its time and c - a
                found[high[0]].append(high[1] - low[1])
    return (min(found[0], default=None), min(found[1], default=None))


class _Sides:
    """Reads conditions as `one event time <= the other`."""

    def __init__(self, node: Relation, times: Sequence[Columns]) -> None:
        trees = (node.join.left, node.join.right)
        self._times = times
        self._ids = [
            {item.common.plan_id for item in all_relations(tree) if item.common.HasField("plan_id")} for tree in trees
        ]
        self._names = [{part.lower() for part in visible_name(tree)[-1:]} for tree in trees]

    def ordered(self, condition: Any) -> Iterable[tuple[Term, Term]]:
        """Yield (low, high) for every part of a conjunction that orders two event times."""
        match condition.WhichOneof("expr_type"):
            case "expression_string":
                import sqlglot
                from sqlglot.errors import SqlglotError

                try:
                    yield from self._ordered_sql(
                        sqlglot.parse_one(condition.expression_string.expression, dialect="databricks")
                    )
                except SqlglotError:  # the engine says what is wrong with it
                    return
            case "unresolved_function":
                function = condition.unresolved_function
                if function.function_name == "and":
                    for part in function.arguments:
                        yield from self.ordered(part)
                elif function.function_name in ("<", "<=", ">", ">=", "==") and len(function.arguments) == 2:
                    yield from _compared(function.function_name, *(self._term(item) for item in function.arguments))

    def _term(self, expression: Any) -> Term | None:
        match expression.WhichOneof("expr_type"):
            case "unresolved_attribute":
                attribute = expression.unresolved_attribute
                plan_id = attribute.plan_id if attribute.HasField("plan_id") else None
                return self._side(attribute.unparsed_identifier, plan_id)
            case "expression_string":
                import sqlglot

                return self._term_sql(sqlglot.parse_one(expression.expression_string.expression, dialect="databricks"))
            case "unresolved_function" if expression.unresolved_function.function_name in ("+", "-"):
                first, second = expression.unresolved_function.arguments
                term, delay = self._term(first), _interval(second)
                sign = 1 if expression.unresolved_function.function_name == "+" else -1
                return None if term is None or delay is None else (term[0], term[1] + sign * delay)
        return None

    def _ordered_sql(self, condition: exp.Expr) -> Iterable[tuple[Term, Term]]:
        from sqlglot import exp

        names: dict[type[exp.Expr], str] = {exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.EQ: "=="}
        if isinstance(condition, exp.Paren):
            yield from self._ordered_sql(condition.this)
        elif isinstance(condition, exp.And):
            yield from self._ordered_sql(condition.left)
            yield from self._ordered_sql(condition.right)
        elif isinstance(condition, exp.Between):
            term = self._term_sql(condition.this)
            yield from _compared(">=", term, self._term_sql(condition.args["low"]))
            yield from _compared("<=", term, self._term_sql(condition.args["high"]))
        elif isinstance(condition, exp.Binary) and type(condition) in names:
            sides = condition.args["this"], condition.args["expression"]
            yield from _compared(names[type(condition)], *(self._term_sql(side) for side in sides))

    def _term_sql(self, expression: exp.Expr) -> Term | None:
        from sqlglot import exp

        if isinstance(expression, exp.Paren):
            return self._term_sql(expression.this)
        if isinstance(expression, exp.Column):
            return self._side(".".join(part.name for part in expression.parts), None)
        if isinstance(expression, exp.Add | exp.Sub):
            term, delay = self._term_sql(expression.left), _interval_sql(expression.right)
            sign = 1 if isinstance(expression, exp.Add) else -1
            return None if term is None or delay is None else (term[0], term[1] + sign * delay)
        return None

    def _side(self, name: str, plan_id: int | None) -> Term | None:
        column = bare(name)
        found = [side for side in (0, 1) if column in self._times[side] and not self._times[side][column]]
        if plan_id is not None:
            found = [side for side in found if plan_id in self._ids[side]]
        elif "." in name:
            qualifier = name.lower().split(".")[-2].strip("`")
            named = [side for side in (0, 1) if qualifier in self._names[side]]
            found = [side for side in found if side in named] if named else found
        return (found[0], 0) if len(found) == 1 else None


def _compared(operator: str, left: Term | None, right: Term | None) -> Iterable[tuple[Term, Term]]:
    if left is None or right is None:
        return
    if operator in ("<", "<=", "=="):
        yield left, right
    if operator in (">", ">=", "=="):
        yield right, left


def _interval(expression: Any) -> int | None:
    match expression.WhichOneof("expr_type"):
        case "expression_string":
            return parse_delay(expression.expression_string.expression.replace("'", " "))
        case "literal" if expression.literal.HasField("day_time_interval"):
            return int(expression.literal.day_time_interval // 1000)
        case "unresolved_function" if expression.unresolved_function.function_name == "make_dt_interval":
            return None
    return None


def _interval_sql(expression: exp.Expr) -> int | None:
    from sqlglot import exp

    while isinstance(expression, exp.Paren):
        expression = expression.this
    if not isinstance(expression, exp.Interval):
        return None
    amount = expression.this.name if expression.this is not None else ""
    unit = expression.args.get("unit")
    return parse_delay(f"{amount} {unit.name if unit is not None else ''}".strip())
