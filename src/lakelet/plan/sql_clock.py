"""The clock inside SQL text, replaced by the instant of a micro-batch: a replay computes the same rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from lakelet.names import quote
from lakelet.plan.sql_tokens import SqlText, TokenKind, scan

_INSTANT = frozenset({"CURRENT_TIMESTAMP", "NOW", "GETDATE"})
_DATE = frozenset({"CURRENT_DATE", "CURDATE"})
_LOCAL = frozenset({"LOCALTIMESTAMP"})
_CLOCK = _INSTANT | _DATE | _LOCAL | {"UNIX_TIMESTAMP"}
_WITHOUT_PARENTHESES = frozenset({"CURRENT_TIMESTAMP", "CURRENT_DATE", "LOCALTIMESTAMP"})
_MENTIONS_CLOCK = re.compile("|".join(sorted(_CLOCK)), re.IGNORECASE)
_OPERAND_KINDS = (TokenKind.QUOTED, TokenKind.STRING, TokenKind.NUMBER)
_BEFORE_EXPRESSION = frozenset({
    "SELECT", "DISTINCT", "ALL", "WHERE", "AND", "OR", "NOT", "ON", "HAVING", "QUALIFY", "BY", "WHEN",
    "THEN", "ELSE", "CASE", "BETWEEN", "IN", "IS", "LIKE", "RLIKE", "VALUES", "RETURN", "FILTER",
    "USING",
})  # fmt: skip


def replace_clock(sql: str, timestamp: datetime, *, time_zone: str = "UTC") -> str:
    """Replace the functions that read the clock by literals of `timestamp`, in a query or in an expression.

    A column, an alias or a qualifier of such a name stays; so do strings and comments. A select item that is
    nothing but the function keeps its column name.

    Args:
        timestamp: aware instant of the batch.
        time_zone: the session's zone, which decides what day it is.
    """
    if not _MENTIONS_CLOCK.search(sql):
        return sql
    source = scan(sql)
    aliases = _alias_brackets(source)
    edits: list[tuple[int, int, str]] = []
    for i, token in enumerate(source.tokens):
        if token.word not in _CLOCK:
            continue
        has_call = source.tokens[i + 1].text == "(" and source.closing[i + 1] == i + 2
        if not has_call and not _is_bare_clock(source, i, aliases):
            continue
        if source.tokens[i - 1].text == "." and i:
            continue
        after = i + 3 if has_call else i + 1
        literal = _literal(token.word, timestamp, time_zone)
        if _is_select_item(source, i, after):
            literal += f" AS {quote(token.text.lower() + '()')}"
        edits.append((token.start, source.tokens[after - 1].end, literal))
    for start, end, literal in reversed(edits):
        sql = sql[:start] + literal + sql[end:]
    return sql


def _literal(word: str, timestamp: datetime, time_zone: str) -> str:
    local = timestamp.astimezone(ZoneInfo(time_zone))
    if word in _DATE:
        return f"DATE '{local:%Y-%m-%d}'"
    if word in _LOCAL:
        return f"TIMESTAMP_NTZ '{local:%Y-%m-%d %H:%M:%S.%f}'"
    epoch = timestamp.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    if word == "UNIX_TIMESTAMP":
        return f"CAST({int(epoch.total_seconds() // 1)} AS BIGINT)"
    micros = (epoch.days * 86_400 + epoch.seconds) * 1_000_000 + epoch.microseconds
    return f"timestamp_micros({micros})"


def _is_bare_clock(source: SqlText, i: int, aliases: dict[str, list[tuple[int, ...]]]) -> bool:
    """Tell `current_date` the function from a column, an alias or a table of that name."""
    tokens, word = source.tokens, source.tokens[i].word
    if word not in _WITHOUT_PARENTHESES or tokens[i + 1].text in (".", "(", "=>", "->"):
        return False
    before = tokens[i - 1] if i else None
    if before is not None:
        if before.text in (".", ")", "]", ":") or before.kind in _OPERAND_KINDS:
            return False
        if before.word and before.word not in _BEFORE_EXPRESSION:
            return False
    brackets = _brackets_around(source, i)
    if brackets and tokens[brackets[-1] - 1].word == "USING":
        return False
    return not any(_is_visible(source, alias, brackets) for alias in aliases.get(word, []))


def _is_visible(source: SqlText, alias: tuple[int, ...], here: tuple[int, ...]) -> bool:
    """Whether a column whose alias stands in the brackets `alias` can be read in the brackets `here`."""
    shared = 0
    while shared < min(len(alias), len(here)) and alias[shared] == here[shared]:
        shared += 1
    if shared == len(alias):
        return False
    is_cte = source.tokens[alias[shared] - 1].word == "AS"
    return shared == len(here) or (is_cte and here[shared] > alias[shared])


def _alias_brackets(source: SqlText) -> dict[str, list[tuple[int, ...]]]:
    """Return for each `AS current_date` the brackets around it: a query around them may mean that column."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for i, token in enumerate(source.tokens[1:], start=1):
        if token.word in _WITHOUT_PARENTHESES and source.tokens[i - 1].word == "AS":
            found.setdefault(token.word, []).append(_brackets_around(source, i))
    return found


def _brackets_around(source: SqlText, i: int) -> tuple[int, ...]:
    return tuple(sorted(start for start, end in source.closing.items() if start < i < end))


def _is_select_item(source: SqlText, i: int, after: int) -> bool:
    """Whether tokens `i` to `after` are a whole item of a select list, without an alias."""
    tokens = source.tokens
    if i == 0 or not (tokens[i - 1].word == "SELECT" or tokens[i - 1].text == ","):
        return False
    following = tokens[after]
    if not (following.text in (",", ")") or following.word == "FROM" or following.kind is TokenKind.END):
        return False
    brackets = _brackets_around(source, i)
    start = brackets[-1] + 1 if brackets else 0
    opened = ""
    while start < i:
        if tokens[start].word in ("SELECT", "FROM", "GROUP", "ORDER", "WHERE", "VALUES", "BY"):
            opened = tokens[start].word
        start = source.closing.get(start, start) + 1
    return opened == "SELECT"
