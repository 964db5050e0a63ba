"""Tells queries from commands in SQL text, by its tokens; the text itself is never changed."""

from __future__ import annotations

_QUERY_STARTS = frozenset({"SELECT", "FROM", "VALUES", "TABLE", "MAP", "REDUCE"})
_COMMANDS_AFTER_WITH = frozenset({"INSERT", "MERGE", "UPDATE", "DELETE"})


def non_query_keyword(text: str) -> str | None:
    """Return the keyword that makes `text` something else than one query; None for a query.

    A text that cannot be split into tokens counts as a query: the parser's error is the better one.
    """
    from sqlglot import TokenType, tokenize
    from sqlglot.errors import TokenError

    try:
        tokens = tokenize(text, read="databricks")
    except TokenError:
        return None
    while tokens and tokens[-1].token_type is TokenType.SEMICOLON:
        tokens.pop()
    if any(token.token_type is TokenType.SEMICOLON for token in tokens):
        return "several statements"
    words = [token.text.upper() for token in tokens]
    start = next((position for position, word in enumerate(words) if word != "("), None)
    if start is None:
        return "an empty text"
    first = words[start]
    if first == "WITH":
        return _command_after_with(words[start:])
    if first == "FROM":
        return next((word for word in words if word in _COMMANDS_AFTER_WITH), None)
    return None if first in _QUERY_STARTS else first


def _command_after_with(words: list[str]) -> str | None:
    """Return the command that a list of common table expressions leads to, if it is not a query."""
    depth = 0
    for word in words:
        depth += (word == "(") - (word == ")")
        if depth == 0 and word in _QUERY_STARTS:
            return None
        if depth == 0 and word in _COMMANDS_AFTER_WITH:
            return word
    return None
