"""The clock of a query: what reads it, and a tree in which it stands still."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from pyspark.sql.connect import proto

from lakelet.plan.relation import EXPRESSION, Relation, aliased, messages
from lakelet.plan.sql import replace_clock

_CLOCK_FUNCTIONS = {"current_timestamp": "timestamp", "now": "timestamp", "localtimestamp": "timestamp_ntz",
                    "current_date": "date", "curdate": "date", "unix_timestamp": "seconds"}  # fmt: skip


def with_clock(relation: Relation, at: datetime, *, time_zone: str = "UTC") -> Relation:
    """Return the tree with `current_timestamp()`, `now()`, `current_date()`… as the instant `at`, also in SQL text.

    Args:
        time_zone: the session's zone, which decides what day it is.
    """
    local = at.astimezone(ZoneInfo(time_zone)).replace(tzinfo=UTC)
    result = Relation()
    result.CopyFrom(relation)
    for message in messages(result):
        name = message.DESCRIPTOR.name
        if message.DESCRIPTOR.full_name == EXPRESSION:
            expression: proto.Expression = message  # type: ignore[assignment]
            if expression.WhichOneof("expr_type") != "unresolved_function":
                continue
            called = expression.unresolved_function.function_name.lower()
            kind = _CLOCK_FUNCTIONS.get(called)
            if kind is None or expression.unresolved_function.arguments:
                continue
            literal = proto.Expression()
            if kind == "date":
                literal.literal.date = _micros(local) // 86_400_000_000
            elif kind == "timestamp":
                literal.literal.timestamp = _micros(at)
            elif kind == "seconds":
                literal.literal.long = int(at.timestamp())
            else:
                literal.literal.timestamp_ntz = _micros(local)
            expression.CopyFrom(aliased(literal, f"{called}()"))
        elif name == "ExpressionString":
            message.expression = replace_clock(message.expression, at, time_zone=time_zone)  # type: ignore[attr-defined]
        elif name == "SQL":
            message.query = replace_clock(message.query, at, time_zone=time_zone)  # type: ignore[attr-defined]
    return result


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond


_VOLATILE = {
    "rand", "random", "randn", "randstr", "uniform", "uuid", "shuffle", "monotonically_increasing_id", *_CLOCK_FUNCTIONS
}  # fmt: skip
_VOLATILE_TEXT = re.compile(
    rf"\b(?:{'|'.join(sorted(_VOLATILE))})\s*\(|\b(?:current_timestamp|current_date|localtimestamp)\b", re.IGNORECASE
)


def is_volatile(relation: Relation) -> bool:
    """Return whether the tree may give other rows for the same input: clocks, random numbers, user functions."""
    for message in messages(relation):
        match message.DESCRIPTOR.name:
            case "UnresolvedFunction" if message.function_name.lower() in _VOLATILE:  # type: ignore[attr-defined]
                # With an argument, `unix_timestamp` reads no clock, and a seed does not make random numbers sure: rows
                # may come in another order.
                if message.function_name.lower() != "unix_timestamp" or not message.arguments:  # type: ignore[attr-defined]
                    return True
            case "CommonInlineUserDefinedFunction" if not message.deterministic:  # type: ignore[attr-defined]
                return True
            case "SQL" if _VOLATILE_TEXT.search(message.query):  # type: ignore[attr-defined]
                return True
            case "ExpressionString" if _VOLATILE_TEXT.search(message.expression):  # type: ignore[attr-defined]
                return True
    return False
