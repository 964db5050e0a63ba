"""Aggregate functions in two steps: partial values of some rows, values that merge, and the result of a group from them.

sum(x)            a sum that merges by addition; of doubles with what the additions lost
avg(x)            a sum and a count; of decimals the sum is one of decimals
variance(x)       a count, a mean, and a sum of squared differences, merged as Chan, Golub and LeVeque have it
count(DISTINCT x) the digests of the values of a slice; which of them are new is known from those kept before
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from pyspark.sql.connect import proto
from pyspark.sql.types import DataType, DecimalType, DoubleType, FloatType

from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.incremental import Issue
from lakelet.plan.relation import EXPRESSION, parts
from lakelet.plan.row_wise import is_aggregate
from lakelet.plan.sql_tokens import SqlText, scan

Expression = proto.Expression
PARTIAL, ARGUMENT = "__lakelet_m", "__lakelet_a"
LOST = "__lost"
"""Ends the name of the column with what additions of doubles have lost so far (Neumaier)."""
KEY_TYPES = frozenset({
    "string", "binary", "boolean", "byte", "short", "integer", "long", "date", "timestamp", "timestamp_ntz", "decimal",
})  # fmt: skip
"""Types whose values are the same if both of their hashes are."""
_MOST_PLACES = 38
"""An average with as many cannot be divided again: its sum has no place left before the point."""
DIGEST_SALT = 1_540_483_477
"""Starts the second of the two hashes that identify a value."""
DIGEST = ("first", "second")
"""The fields of a digest: those hashes."""


class Merge(enum.Enum):
    """How two partial values of a group become one; NULL stands for no rows."""

    ADD = "add"
    MIN = "min"
    MAX = "max"
    MOMENTS = "moments"
    DISTINCT = "distinct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """What stands for the value of one row, and whether that value counts."""

    value: Expression
    counts: Expression


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One aggregate function of a query.

    Attributes:
        columns: partial columns and the aggregate expressions that give them over a slice. MOMENTS has three: count, mean,
            and sum of squared differences. DISTINCT has one: the digests of the values.
        digest: of DISTINCT only.
    """

    merge: Merge
    columns: dict[str, Expression]
    digest: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of an aggregate function in a query."""

    function: str
    arguments: tuple[Expression, ...]
    is_distinct: bool = False


@dataclass(slots=True)
class Measures:
    """The aggregate functions of a query, equal ones once.

    Attributes:
        type_of: gives the type of an aggregate function over the rows.
        arguments: what the functions are called with, by the name of the column that the measures refer to. Columns of their
            own, since engines that drop casts from names take `sum(CAST(n AS DECIMAL))` and `sum(n)` for one.
    """

    type_of: Callable[[Expression], DataType]
    found: list[Measure] = field(default_factory=list)
    distinct: list[DataType] = field(default_factory=list)
    """Types of the values whose distinct ones are counted."""
    issues: list[Issue] = field(default_factory=list)
    arguments: dict[str, Expression] = field(default_factory=dict)
    values: dict[str, Expression] = field(default_factory=dict)
    """Values that SQL text refers to by name."""
    _columns: dict[tuple[Merge | None, bytes], str] = field(default_factory=dict)

    def finished(self, expression: Expression) -> Expression:
        """Return an expression with every aggregate function in it replaced by its value from partial columns."""
        result = Expression()
        result.CopyFrom(expression)
        self._finish(result)
        return result

    def _finish(self, expression: Expression) -> None:
        kind = expression.WhichOneof("expr_type")
        if kind == "unresolved_function" and is_aggregate(expression.unresolved_function.function_name):
            function = expression.unresolved_function
            call = Call(
                function=function.function_name.lower(),
                arguments=tuple(function.arguments),
                is_distinct=function.is_distinct,
            )
            expression.CopyFrom(self._value(call))
            return
        if kind == "expression_string":
            text = expression.expression_string.expression
            expression.expression_string.expression = self.finished_text(text)
            return
        stack = [item for _, item in parts(expression)]
        while stack:
            message = stack.pop()
            if message.DESCRIPTOR.full_name == EXPRESSION:
                self._finish(message)  # type: ignore[arg-type]
            else:
                stack.extend(item for _, item in parts(message))

    def finished_text(self, text: str) -> str:
        """Return SQL text with its aggregate functions replaced by position."""
        source = scan(text)
        edits: list[tuple[int, int, str]] = []
        at = 0
        while at < len(source.tokens) - 1:
            token = source.tokens[at]
            if token.is_name and source.tokens[at + 1].text == "(" and is_aggregate(token.name):
                close = source.closing[at + 1]
                call = _text_call(source, at, close)
                after = source.tokens[close + 1].word if close + 1 < len(source.tokens) else ""
                if after in ("FILTER", "WITHIN", "IGNORE", "RESPECT", "OVER"):
                    self._refuse(f"`{token.name}` with {after}")
                    return text
                value = self._value(call)
                name = f"{PARTIAL}_v{len(self.values)}"
                self.values[name] = value
                edits.append((token.start, source.tokens[close].end, name))
                at = close
            at += 1
        for start, end, new in reversed(edits):
            text = text[:start] + new + text[end:]
        return text

    def _value(self, call: Call) -> Expression:
        function = "count_distinct" if call.function == "count" and call.is_distinct else call.function
        if call.is_distinct and function not in ("count_distinct", "min", "max"):
            self._refuse(f"`{function}` of distinct values", "AGGREGATE_WITH_DISTINCT")
            return Expression()
        made = _MEASURES.get(function)
        if made is None or not call.arguments:
            self._refuse(f"the aggregate function `{function}`")
            return Expression()
        is_average = made is _average
        kind = self.type_of(plan.call("avg", call.arguments[0])) if is_average else None
        if isinstance(kind, DecimalType) and kind.scale >= _MOST_PLACES:
            self._refuse("an average of a DECIMAL with so many places")
            return Expression()
        kinds = self._distinct_types(call) if made is _count_distinct else ()
        if kinds is None:
            self._refuse("a count of distinct values that are structs, arrays, maps or `*`", "AGGREGATE_WITH_DISTINCT")
            return Expression()
        call = replace(call, arguments=tuple(self._argument(value) for value in call.arguments))
        if kinds:
            call = replace(call, arguments=tuple(map(_with_one_nan, call.arguments, kinds)))
        merge, columns, final = _average_of_decimals(call, kind) if isinstance(kind, DecimalType) else made(call)
        names = {part: self._name(merge, value) for part, value in columns.items()}
        measure = Measure(
            merge=merge,
            columns={names[part]: value for part, value in columns.items()},
            digest=_digest(call) if merge is Merge.DISTINCT else None,
        )
        if all(measure.columns.keys() != other.columns.keys() for other in self.found):
            self.found.append(measure)
        return plan.expression(final.format_map({part: quote(name) for part, name in names.items()}))

    def _distinct_types(self, call: Call) -> tuple[DataType, ...] | None:
        """Return the types of the values that are counted; None if no hash stands for one: it skips NULL inside."""
        if any(value.WhichOneof("expr_type") == "unresolved_star" for value in call.arguments):
            return None
        found = tuple(self.type_of(plan.call("first", value)) for value in call.arguments)
        if not all(kind.typeName().split("(")[0] in KEY_TYPES | {"float", "double"} for kind in found):
            return None
        self.distinct += found
        return found

    def _argument(self, value: Expression) -> Expression:
        if value.WhichOneof("expr_type") == "unresolved_star":
            return value
        name = self._name(None, value)
        self.arguments.setdefault(name, value)
        return plan.attribute(name)

    def _name(self, merge: Merge | None, value: Expression) -> str:
        """Return the name of a partial column, or of an argument without `merge`: equal expressions are one."""
        bare = Expression()
        bare.CopyFrom(value)
        for message in plan.messages(bare):
            for name in ("origin", "source_info"):
                if name in message.DESCRIPTOR.fields_by_name:
                    message.ClearField(name)
        key = (merge, bare.SerializeToString(deterministic=True))
        prefix = ARGUMENT if merge is None else PARTIAL
        number = sum(name.startswith(prefix) for name in self._columns.values())
        return self._columns.setdefault(key, f"{prefix}{number}")

    def _refuse(self, what: str, detail: str = "AGGREGATE_NOT_SUPPORTED") -> None:
        text = f"{what} cannot go on from a partial value"
        self.issues.append(Issue(type="PLAN_NOT_INCREMENTALIZABLE", text=text, detail=detail))


def _text_call(source: SqlText, at: int, close: int) -> Call:
    """Return the call whose name is token `at` and whose closing bracket is token `close`."""
    tokens = source.tokens
    first = at + 2
    is_distinct = tokens[first].word == "DISTINCT"
    first += is_distinct or tokens[first].word == "ALL"
    arguments: list[Expression] = []
    start, item = first, first
    while item <= close:
        if item == close or tokens[item].text == ",":
            if item > start:
                text = source.text[tokens[start].start : tokens[item - 1].end]
                arguments.append(_star() if text == "*" else plan.expression(text))
            start = item + 1
        item = source.closing.get(item, item) + 1
    return Call(function=tokens[at].name.lower(), arguments=tuple(arguments), is_distinct=is_distinct)


def _star() -> Expression:
    result = Expression()
    result.unresolved_star.SetInParent()
    return result


# -- the functions --------------------------------------------------------------------------------------------------

Made = tuple[Merge, dict[str, Expression], str]
"""How partial values merge, their expressions over a slice, and SQL text for the function's value from them."""


def _added(call: Call) -> Made:
    return Merge.ADD, {"value": plan.call(call.function, *call.arguments)}, "{value}"


def _extreme(merge: Merge) -> Callable[[Call], Made]:
    """`bool_and` is a minimum, `bool_or` a maximum."""

    def make(call: Call) -> Made:
        return merge, {"value": plan.call(call.function, call.arguments[0])}, "{value}"

    return make


def _average(call: Call) -> Made:
    columns = {"sum": plan.call("sum", _double(call.arguments[0])), "count": plan.call("count", call.arguments[0])}
    return Merge.ADD, columns, "CASE WHEN {count} = 0 THEN NULL ELSE {sum} / {count} END"


def _average_of_decimals(call: Call, kind: DecimalType) -> Made:
    """Args: kind: of the average."""
    columns = {name: plan.call(name, call.arguments[0]) for name in ("sum", "count")}
    return (
        Merge.ADD,
        columns,
        f"CASE WHEN {{count}} = 0 THEN NULL ELSE CAST({{sum}} / {{count}} AS {kind.simpleString()}) END",
    )


def _double(value: Expression) -> Expression:
    """Return a number as a double, in a way that no engine takes for the number itself: it would see two equal sums."""
    return plan.call("*", value, plan.expression("1.0D"))


def _variance(over: str, *, root: bool) -> Callable[[Call], Made]:
    """Args: over: by what the squared differences are divided."""
    value = f"{{squares}} / ({over})"
    final = f"CASE WHEN ({over}) <= 0 THEN NULL ELSE {f'sqrt({value})' if root else value} END"

    def make(call: Call) -> Made:
        number = _double(call.arguments[0])
        columns = {
            "count": plan.call("count", number),
            "mean": plan.call("avg", number),
            "squares": plan.call("*", plan.call("var_pop", number), plan.call("count", number)),
        }
        return Merge.MOMENTS, columns, final

    return make


def _with_one_nan(value: Expression, kind: DataType) -> Expression:
    """Return a value of which a hash sees one NaN: an engine may hash the bits, and there are many."""
    if not isinstance(kind, (DoubleType, FloatType)):
        return value
    return plan.call("when", plan.call("isnan", value), plan.expression(f"CAST('NaN' AS {kind.simpleString()})"), value)


def _count_distinct(call: Call) -> Made:
    digest = _digest(call)
    return (
        Merge.DISTINCT,
        {"values": plan.call("collect_set", plan.call("when", digest.counts, digest.value))},
        "{values}",
    )


def _digest(call: Call) -> Digest:
    """Rows in which one of several arguments is NULL do not count, as in Spark."""
    known = plan.call("isnotnull", call.arguments[0])
    for argument in call.arguments[1:]:
        known = plan.call("and", known, plan.call("isnotnull", argument))
    first, second = (plan.expression(f"'{name}'") for name in DIGEST)
    value = plan.call("named_struct", first, hashed(call.arguments), second, hashed((salt(), *call.arguments)))
    return Digest(value=value, counts=known)


def hashed(values: Sequence[Expression]) -> Expression:
    """Return the engine's 64-bit hash of some values, none of which is NULL in one place and not in another."""
    return plan.call("xxhash64", *values)


def salt() -> Expression:
    """Return the value with which the second hash begins."""
    result = Expression()
    result.literal.integer = DIGEST_SALT
    return result


_SAMPLE, _POPULATION = "{count} - 1", "{count}"
_MEASURES: dict[str, Callable[[Call], Made]] = {
    "count": _added,
    "count_distinct": _count_distinct,
    "count_if": _added,
    "sum": _added,
    "min": _extreme(Merge.MIN),
    "max": _extreme(Merge.MAX),
    "bool_and": _extreme(Merge.MIN),
    "every": _extreme(Merge.MIN),
    "bool_or": _extreme(Merge.MAX),
    "any": _extreme(Merge.MAX),
    "some": _extreme(Merge.MAX),
    "avg": _average,
    "mean": _average,
    "variance": _variance(_SAMPLE, root=False),
    "var_samp": _variance(_SAMPLE, root=False),
    "var_pop": _variance(_POPULATION, root=False),
    "stddev": _variance(_SAMPLE, root=True),
    "std": _variance(_SAMPLE, root=True),
    "stddev_samp": _variance(_SAMPLE, root=True),
    "stddev_pop": _variance(_POPULATION, root=True),
}
