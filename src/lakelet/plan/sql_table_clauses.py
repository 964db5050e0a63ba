"""What may follow a table's name in FROM: time travel, options, a sample, a watermark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lakelet.plan.sql_arguments import constant, next_comma
from lakelet.plan.sql_tokens import SqlText, TokenKind

_UNIT = re.compile(r"(MICRO|MILLI)?SECONDS?|MINUTES?|HOURS?|DAYS?|WEEKS?|MONTHS?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """`WATERMARK ts DELAY OF INTERVAL 10 MINUTES`."""

    column: str
    delay: str


def time_travel(source: SqlText, i: int, end: int) -> tuple[int, dict[str, str]]:
    """Read `@v3`, `VERSION AS OF 3` or `TIMESTAMP AS OF '…'` as the reader's options, if it is there."""
    tokens = source.tokens
    if i < end and tokens[i].text == "@":
        return i + 2, _at_version(source, i + 1)
    clause = i + (tokens[i].word == "FOR")
    words = [token.word for token in tokens[clause : min(clause + 3, end)]]
    if words[1:] != ["AS", "OF"] or words[0] not in ("VERSION", "SYSTEM_VERSION", "TIMESTAMP", "SYSTEM_TIME"):
        return i, {}
    key = "versionAsOf" if "VERSION" in words[0] else "timestampAsOf"
    i = clause + 3
    i += key == "timestampAsOf" and tokens[i].word in ("DATE", "TIMESTAMP")
    value = tokens[i]
    if value.kind not in (TokenKind.STRING, TokenKind.NUMBER):
        raise source.error(
            value.start,
            "time travel takes a literal here",
            condition="UNSUPPORTED_FEATURE",
            hint="write `VERSION AS OF 3` or `TIMESTAMP AS OF '…'`",
        )
    return i + 1, {key: value.value if value.kind is TokenKind.STRING else value.text}


def _at_version(source: SqlText, i: int) -> dict[str, str]:
    token = source.tokens[i]
    if re.fullmatch(r"[vV]\d+", token.text):
        return {"versionAsOf": token.text[1:]}
    if re.fullmatch(r"\d{17}", token.text):
        digits = token.text
        date = f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}"
        return {"timestampAsOf": f"{date} {digits[8:10]}:{digits[10:12]}:{digits[12:14]}.{digits[14:]}"}
    raise source.error(token.start, f"expected `v` and a version, or yyyyMMddHHmmssSSS, after `@`, found {token}")


def table_options(source: SqlText, open_index: int, parameters: Mapping[str, str]) -> dict[str, str]:
    """Read `('key' = 'value', key value)` after WITH."""
    tokens, close = source.tokens, source.closing[open_index]
    options: dict[str, str] = {}
    i = open_index + 1
    while i < close:
        stop = next_comma(source, i, close)
        value = i + 1
        while value < stop and tokens[value].text == ".":
            value += 2
        key = "".join(t.value if t.kind is TokenKind.STRING else t.text for t in tokens[i:value])
        value += tokens[value].text == "="
        options[key] = constant(source, value, stop, f"option {key}", parameters)
        i = stop + 1
    return options


def after_sample(source: SqlText, i: int) -> int:
    """Return the index after what follows TABLESAMPLE."""
    while source.tokens[i].text == "(" or source.tokens[i].word in ("SYSTEM", "BERNOULLI", "REPEATABLE"):
        i = source.closing.get(i, i) + 1
    return i


def read_watermark(source: SqlText, i: int, end: int) -> tuple[int, Watermark]:
    """Read what follows WATERMARK: a column and its delay."""
    tokens, column = source.tokens, source.tokens[i]
    if [token.word for token in tokens[i + 1 : i + 4]] != ["DELAY", "OF", "INTERVAL"]:
        raise source.error(
            column.start,
            "a watermark is written `WATERMARK column DELAY OF INTERVAL 10 MINUTES`",
            condition="UNSUPPORTED_FEATURE",
            hint="compute the column in a temporary view first",
        )
    i += 4
    delay: list[str] = []
    while i < end and (tokens[i].kind in (TokenKind.NUMBER, TokenKind.STRING) or _UNIT.fullmatch(tokens[i].word)):
        delay.append(tokens[i].value if tokens[i].kind is TokenKind.STRING else tokens[i].text)
        i += 1
    if not delay:
        raise source.error(tokens[i].start, f"expected `INTERVAL 10 MINUTES`, found {tokens[i]}")
    return i, Watermark(column=column.name, delay=" ".join(delay).lower())
