"""A check of a query's syntax before an engine sees it, for a message with line and column."""

from __future__ import annotations

from functools import lru_cache

from lakelet.errors import DefinitionError, Origin
from lakelet.plan.sql_references import find_references
from lakelet.plan.sql_tokens import NOWHERE, SqlText, scan

_BEYOND_THE_PARSER = frozenset({"|>", "TRANSFORM", "MATCH_RECOGNIZE", "WATERMARK", "RECURSIVE"})
"""Words and symbols that Spark knows and sqlglot may not: where one occurs, the engine alone judges."""


def check_syntax(sql: str, *, origin: Origin = NOWHERE, first_column: int = 1) -> None:
    """Refuse a query that is not Spark SQL.

    What the query reads is blanked out first: names, STREAM, time travel and options are already understood,
    so the parser sees plain SQL at unchanged positions. Imports sqlglot (0.4 s).

    Raises:
        DefinitionError: `PARSE_SYNTAX_ERROR` with line and column.
    """
    source = scan(sql, origin=origin, first_column=first_column)
    masked = sql
    for reference in find_references(source):
        blank = "".join(char if char == "\n" else " " for char in reference.text[1:])
        masked = masked[: reference.start] + "t" + blank + masked[reference.end :]
    if any(token.text.upper() in _BEYOND_THE_PARSER for token in source.tokens):
        return
    problem = _parse(masked)
    if problem is not None:
        offset, description = problem
        raise _syntax_error(source, offset, description)


def _syntax_error(source: SqlText, offset: int, description: str) -> DefinitionError:
    token = next((token for token in source.tokens if token.end > offset), source.tokens[-1])
    return source.error(token.start, f"syntax error near {token}: {description}")


@lru_cache(maxsize=256)
def _parse(sql: str) -> tuple[int, str] | None:
    """Return offset and description of the first syntax error, None if there is none."""
    from sqlglot.errors import ParseError, TokenError

    from lakelet.plan.sql_parser import parse_one

    try:
        parse_one(sql)
    except ParseError as error:
        if not error.errors:
            return 0, str(error)
        first = error.errors[0]
        description = _describe(str(first.get("description") or ""))
        return _offset(sql, int(first.get("line") or 1), int(first.get("col") or 1)), description
    except TokenError as error:
        return 0, str(error)
    return None


def _describe(description: str) -> str:
    if description.startswith("Required keyword"):
        return "something is missing after it"
    if not description or "Unexpected token" in description or "END after CASE" in description:
        return "it cannot stand here"
    return description[0].lower() + description[1:].rstrip(". ")


def _offset(sql: str, line: int, end_column: int) -> int:
    """Turn sqlglot's position, the last character of a token, into an offset."""
    return sum(len(part) for part in sql.splitlines(keepends=True)[: line - 1]) + end_column - 1


def check_expression(sql: str, *, origin: Origin = NOWHERE, first_column: int = 1) -> None:
    """Refuse text that is not one SQL expression. Imports sqlglot (0.4 s).

    Raises:
        DefinitionError: `PARSE_SYNTAX_ERROR` with line and column.
    """
    source = scan(sql, origin=origin, first_column=first_column)
    prefix = "SELECT CASE WHEN "
    problem = _parse(f"{prefix}{sql}\nTHEN 1 END")
    if problem is not None:
        offset, description = problem
        raise _syntax_error(source, max(offset - len(prefix), 0), description)
