"""SQL text as trees of sqlglot, which takes 0.4 s to load: import this where a query needs it."""

from __future__ import annotations

import itertools

from sqlglot import ParseError, TokenType, exp
from sqlglot.dialects.dialect import Dialect


def parse(sql: str) -> list[exp.Expr]:
    """Return the statements of a text.

    In `GROUP BY window(…)` sqlglot 30 takes the function for the clause WINDOW.

    Raises:
        SqlglotError: it is no SQL.
    """
    dialect = Dialect.get_or_raise("databricks")
    tokens = dialect.tokenize(sql)
    for token, following in itertools.pairwise(tokens):
        if token.token_type is TokenType.WINDOW and following.token_type is TokenType.L_PAREN:
            token.token_type = TokenType.VAR
    return [statement for statement in dialect.parser().parse(tokens, sql) if statement is not None]


def parse_one(sql: str) -> exp.Expr:
    """Return the first statement of a text.

    Raises:
        SqlglotError: it is no SQL, or nothing at all.
    """
    found = parse(sql)
    if not found:
        raise ParseError(f"there is no statement in {sql!r}")
    return found[0]
