"""SQL text so simple that it can be sent as a tree: a column, a number, a comparison of both, a test for NULL, a count.

The embedded engine builds its SQL grammar anew for every text and never frees it, some 20 KiB each (Sail 0.7.2). The texts of
rules and of our own queries go to it with every micro-batch, and most of them are of this kind. What is not recognized here
stays text.
"""

from __future__ import annotations

import re

from pyspark.sql.connect import proto

_NAME = r"(?:`[^`]+`|[A-Za-z_][A-Za-z0-9_]*)"
_COLUMN = re.compile(_NAME)
_INTEGER = re.compile(r"[0-9]{1,9}")
_LONG = re.compile(r"([0-9]{1,18})L")
_NULL_TEST = re.compile(rf"({_NAME})\s+IS\s+(NOT\s+)?NULL", re.IGNORECASE)
_COMPARISON = re.compile(rf"({_NAME})\s*(<=|>=|<|>|=|==)\s*([0-9]{{1,9}})")
_COUNT = re.compile(r"count\s*\(\s*(?:\*|1)\s*\)", re.IGNORECASE)
_NOT_COLUMNS = re.compile(
    r"null|not|case|interval|array|map|struct|date|timestamp|now|user|all|distinct|exists|localtimestamp|(current|session)_.*",
    re.IGNORECASE,
)
"""Words that are, or begin, something else than the name of a column."""


def simple_expression(text: str) -> proto.Expression | None:
    """Return the tree of a simple text, None for any other."""
    text = text.strip()
    if text.lower() in ("true", "false"):
        return proto.Expression(literal=proto.Expression.Literal(boolean=text.lower() == "true"))
    if _INTEGER.fullmatch(text):
        return _integer(text)
    if found := _LONG.fullmatch(text):
        return proto.Expression(literal=proto.Expression.Literal(long=int(found[1])))
    if _COUNT.fullmatch(text):
        return _call("count", _integer("1"))
    if found := _NULL_TEST.fullmatch(text):
        column = _column(found[1])
        return None if column is None else _call("isnotnull" if found[2] else "isnull", column)
    if found := _COMPARISON.fullmatch(text):
        column = _column(found[1])
        operator = "==" if found[2] == "=" else found[2]
        return None if column is None else _call(operator, column, _integer(found[3]))
    return _column(text) if _COLUMN.fullmatch(text) else None


def _integer(text: str) -> proto.Expression:
    return proto.Expression(literal=proto.Expression.Literal(integer=int(text)))


def _column(name: str) -> proto.Expression | None:
    if _NOT_COLUMNS.fullmatch(name):
        return None
    result = proto.Expression()
    result.unresolved_attribute.unparsed_identifier = name
    return result


def _call(function: str, *arguments: proto.Expression) -> proto.Expression:
    result = proto.Expression()
    result.unresolved_function.function_name = function
    result.unresolved_function.arguments.extend(arguments)
    return result
