"""Databricks' `column:path` over JSON text, written as `get_json_object`, which every engine has.

Source of the syntax: https://docs.databricks.com/aws/en/sql/language-manual/functions/colonsign. A path here is read
with regard to case, as `get_json_object` does, and a value comes back as text.
"""

from __future__ import annotations

from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan

_STARTS = frozenset({"SELECT", "DISTINCT", "ALL"})
_BEFORE_PARAMETERS = frozenset({
    "AND", "BETWEEN", "BY", "CASE", "DISTINCT", "ELSE", "FROM", "HAVING", "IN", "LIKE", "LIMIT", "NOT", "OFFSET", "ON", "OR",
    "SELECT", "THEN", "VERSION", "WHEN", "WHERE",
})  # fmt: skip
"""Words after which a colon begins a named parameter, also without a blank between them."""


def with_json_paths(sql: str) -> str:
    """Return a query with `details:a.b[0]` as `get_json_object(details, '$.a.b[0]')`.

    A path that is a whole column of the result, also with a `::type`, is named after its last part, as on Databricks.
    Text without a path comes back as it is; so do types (`struct<a:int>`) and named parameters (`:limit`).
    """
    if ":" not in sql:
        return sql
    source = scan(sql)
    selecting = _selecting(source)
    types = _types(source)
    parts: list[str] = []
    done, i = 0, 1
    while i < len(source.tokens) - 1:
        if source.tokens[i].text != ":" or i in types or not _is_path(source, i):
            i += 1
            continue
        first, (steps, last) = _column(source, i), _steps(source, i)
        column = sql[source.tokens[first].start : source.tokens[i - 1].end]
        text = "$" + "".join(steps).replace("\\", "\\\\").replace("'", "\\'")
        parts += [sql[done : source.tokens[first].start], f"get_json_object({column}, '{text}')"]
        done, after = source.tokens[last].end, _after_cast(source, last)
        if _is_whole(source, first, after, selecting):
            end = source.tokens[after - 1].end
            parts += [sql[done:end], f" AS {_name(source.tokens, last)}"]
            done = end
        i = last + 1
    return "".join([*parts, sql[done:]])


def _touch(left: Token, right: Token) -> bool:
    return left.end == right.start


def _is_path(source: SqlText, i: int) -> bool:
    before, after = source.tokens[i - 1], source.tokens[i + 1]
    is_column = (before.is_name and before.word not in _BEFORE_PARAMETERS) or before.text == "]"
    return is_column and _touch(before, source.tokens[i]) and (after.is_name or after.text == "[")


def _column(source: SqlText, i: int) -> int:
    """Return the first token of the column before a colon: `a`, `a.b`, `a[0]`."""
    opening = {end: start for start, end in source.closing.items()}
    first = opening.get(i - 1, i - 1)
    while first != i - 1 and source.tokens[first].text == "[":
        first = opening.get(first - 1, first - 1)
    while first >= 2 and source.tokens[first - 1].text == "." and source.tokens[first - 2].is_name:
        first -= 2
    return first


def _steps(source: SqlText, i: int) -> tuple[list[str], int]:
    """Return the steps of the path that starts with the colon `i`, and its last token."""
    tokens, steps = source.tokens, list[str]()
    while True:
        if tokens[i].text in (":", ".") and tokens[i + 1].is_name and _touch(tokens[i], tokens[i + 1]):
            name = tokens[i + 1]
            steps.append(f".{name.name}" if name.kind is TokenKind.WORD else f"['{name.name}']")
            i += 2
        elif tokens[i].text == ":" and tokens[i + 1].text == "[":
            i += 1
        elif tokens[i].text == "[" and _touch(tokens[i - 1], tokens[i]):
            inner = tokens[i + 1]
            is_text = inner.kind is TokenKind.STRING
            steps.append(f"['{inner.value}']" if is_text else f"[{inner.text}]")
            i = source.closing[i] + 1
        else:
            return steps, i - 1


def _name(tokens: tuple[Token, ...], last: int) -> str:
    """Return the name of a result: the last name of its path."""
    while not (tokens[last].is_name or tokens[last].kind is TokenKind.STRING):
        last -= 1
    token = tokens[last]
    name = token.value if token.kind is TokenKind.STRING else token.name
    return "`" + name.replace("`", "``") + "`"


def _after_cast(source: SqlText, last: int) -> int:
    """Return the token after a path and the `::type` that may follow it."""
    after = last + 1
    while source.tokens[after].text in ("::", "?::") and source.tokens[after + 1].is_name:
        after = source.closing.get(after + 2, after + 1) + 1
    return after


def _is_whole(source: SqlText, first: int, after: int, selecting: frozenset[int]) -> bool:
    """Tell whether the tokens from `first` up to `after` are a column of a SELECT list."""
    if first not in selecting:
        return False
    before, behind = source.tokens[first - 1], source.tokens[after]
    starts = before.word in _STARTS or before.text == ","
    return starts and (behind.text in (",", ")", ";", "") or behind.word == "FROM")


def _selecting(source: SqlText) -> frozenset[int]:
    """Return the tokens that stand in a SELECT list, outside of any brackets in it."""
    found, lists = set(), [False]
    for i, token in enumerate(source.tokens):
        if i in source.closing:
            lists.append(False)
        elif token.text in (")", "]", "}") and token.kind is TokenKind.SYMBOL:
            lists.pop()
        elif token.word == "SELECT":
            lists[-1] = True
        elif token.word == "FROM":
            lists[-1] = False
        if lists[-1]:
            found.add(i)
    return frozenset(found)


def _types(source: SqlText) -> frozenset[int]:
    """Return the tokens inside `struct<…>`."""
    found, depth = set(), 0
    for i, token in enumerate(source.tokens):
        if token.text == "<" and (depth or source.tokens[i - 1].word == "STRUCT"):
            depth += 1
        elif token.text == ">" and depth:
            depth -= 1
        if depth:
            found.add(i)
    return frozenset(found)
