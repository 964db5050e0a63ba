"""Dates and times by a user's pattern, as Spark reads them: a letter repeated says how many digits there must be.

Source: https://spark.apache.org/docs/latest/sql-ref-datetime-pattern.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
Parse = Callable[[str], datetime]

_TOKEN = re.compile(r"([A-Za-z])\1*|'(?:[^']|'')*'|[^A-Za-z']")
_NUMBERS = {"d": "day", "H": "hour", "h": "half", "m": "minute", "s": "second"}
_ZONES = {"XXX": r"Z|[+-]\d\d:\d\d", "xxx": r"[+-]\d\d:\d\d", "XX": r"Z|[+-]\d{4}", "xx": r"[+-]\d{4}",
          "X": r"Z|[+-]\d\d(?:\d\d)?", "Z": r"[+-]\d{4}", "ZZ": r"[+-]\d{4}", "ZZZ": r"[+-]\d{4}"}  # fmt: skip


def parser(pattern: str) -> Parse | None:
    """Return what reads text by a pattern, in UTC where it names no zone; None for a pattern that is not supported.

    What it returns raises ValueError for text that does not fit.
    """
    parts: list[str] = []
    for found in _TOKEN.finditer(pattern):
        part = _part(found.group())
        if part is None:
            return None
        parts.append(part)
    if len("".join(found.group() for found in _TOKEN.finditer(pattern))) != len(pattern):
        return None
    try:
        expression = re.compile("".join(parts))
    except re.error:  # a field that stands twice
        return None
    return lambda text: _read(expression, text)


def _part(token: str) -> str | None:
    """Return the regular expression of one token, None for letters without a meaning here."""
    letter, count = token[0], len(token)
    match letter:
        case "'":
            return re.escape(token[1:-1].replace("''", "'") or "'")
        case "y" | "u":
            return {1: r"(?P<year>\d{1,4})", 2: r"(?P<short>\d{2})", 4: r"(?P<year>\d{4})"}.get(count)
        case "M" | "L":
            names = [name[:3] for name in MONTHS] if count == 3 else MONTHS
            return _number("month", count) if count < 3 else f"(?P<name>{'|'.join(names)})" if count < 5 else None
        case "E":
            days = [name[:3] for name in DAYS] if count < 4 else DAYS
            return f"(?:{'|'.join(days)})" if count < 5 else None
        case "S":
            return rf"(?P<fraction>\d{{{count}}})" if count < 10 else None
        case "a":
            return "(?P<noon>AM|PM)" if count == 1 else None
        case _ if letter in _NUMBERS:
            return _number(_NUMBERS[letter], count) if count < 3 else None
        case _ if token in _ZONES:
            return f"(?P<zone>{_ZONES[token]})"
        case "[":
            return "(?:"
        case "]":
            return ")?"
        case _:
            return None if letter.isalpha() else re.escape(token)


def _number(name: str, count: int) -> str:
    return rf"(?P<{name}>\d{{{'1,' if count == 1 else ''}2}})"


def _read(expression: re.Pattern[str], text: str) -> datetime:
    found = expression.fullmatch(text)
    if found is None:
        raise ValueError(text)
    parts = found.groupdict()

    def number(name: str, default: int) -> int:
        return int(parts.get(name) or default)

    year = 2000 + number("short", 0) if parts.get("short") else number("year", 1970)
    name = parts.get("name")
    month = number("month", 1) if name is None else [item[:3] for item in MONTHS].index(name[:3]) + 1
    hour = number("hour", 0)
    if parts.get("half"):
        hour = number("half", 0) % 12 + (12 if parts.get("noon") == "PM" else 0)
    micros = int((parts.get("fraction") or "").ljust(6, "0")[:6])
    value = datetime(year, month, number("day", 1), hour, number("minute", 0), number("second", 0), micros, UTC)
    zone = parts.get("zone")
    if zone and zone != "Z":
        digits = zone[1:].replace(":", "").ljust(4, "0")
        shift = timedelta(hours=int(digits[:2]), minutes=int(digits[2:]))
        value = value.replace(tzinfo=timezone(shift if zone[0] == "+" else -shift)).astimezone(UTC)
    return value
