"""SQL clauses that Spark has and the embedded engine has not, in terms of what it has.

Every rewrite is exact or does not happen: text that cannot be rewritten exactly reaches the engine as it is,
and the engine refuses it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan

_MENTIONS_CLAUSE = re.compile(r"\bQUALIFY\b|\bBY\s+ALL\b", re.IGNORECASE)
_SET_OPERATORS = frozenset({"UNION", "EXCEPT", "INTERSECT", "MINUS"})
_CLAUSES = frozenset({
    "FROM", "WHERE", "GROUP", "HAVING", "QUALIFY", "WINDOW", "ORDER", "SORT", "CLUSTER", "DISTRIBUTE",
    "LIMIT", "OFFSET",
})  # fmt: skip
_AGGREGATES = frozenset({
    "ANY", "ANY_VALUE", "APPROX_COUNT_DISTINCT", "APPROX_PERCENTILE", "APPROX_TOP_K", "ARRAY_AGG",
    "AVG", "BIT_AND", "BIT_OR", "BIT_XOR", "BITMAP_CONSTRUCT_AGG", "BITMAP_OR_AGG", "BOOL_AND",
    "BOOL_OR", "COLLECT_LIST", "COLLECT_SET", "CORR", "COUNT", "COUNT_IF", "COUNT_MIN_SKETCH",
    "COVAR_POP", "COVAR_SAMP", "EVERY", "FIRST", "FIRST_VALUE", "GROUPING", "GROUPING_ID",
    "HISTOGRAM_NUMERIC", "HLL_SKETCH_AGG", "HLL_UNION_AGG", "KURTOSIS", "LAST", "LAST_VALUE", "LISTAGG",
    "MAX", "MAX_BY", "MEAN", "MEDIAN", "MIN", "MIN_BY", "MODE", "PERCENTILE", "PERCENTILE_APPROX",
    "PERCENTILE_CONT", "PERCENTILE_DISC", "REGR_AVGX", "REGR_AVGY", "REGR_COUNT", "REGR_INTERCEPT",
    "REGR_R2", "REGR_SLOPE", "REGR_SXX", "REGR_SXY", "REGR_SYY", "SCHEMA_OF_JSON_AGG",
    "SCHEMA_OF_VARIANT_AGG", "SKEWNESS", "SOME", "STD", "STDDEV", "STDDEV_POP", "STDDEV_SAMP",
    "STRING_AGG", "SUM", "TRY_AVG", "TRY_SUM", "VAR_POP", "VAR_SAMP", "VARIANCE",
})  # fmt: skip


@dataclass(slots=True)
class _Block:
    """One SELECT: token indices of its items and clauses."""

    select: int
    end: int
    items: list[tuple[int, int]] = field(default_factory=list)
    clauses: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Edit:
    start: int
    end: int
    text: str


def for_engine(sql: str) -> str:
    """Rewrite GROUP BY ALL, ORDER BY ALL and QUALIFY by position.

    - `GROUP BY ALL` and `ORDER BY ALL` become ordinals, if no select item is a star.
    - `QUALIFY cond` becomes a filter above, if each select item is a star, a column or has an alias.
    """
    while _MENTIONS_CLAUSE.search(sql):
        source = scan(sql)
        rewrites = (_rewrite_block(source, block) for block in _blocks(source))
        edits = next((edits for edits in rewrites if edits), None)
        if not edits:
            break
        for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
            sql = sql[: edit.start] + edit.text + sql[edit.end :]
    return sql


def _rewrite_block(source: SqlText, block: _Block) -> list[_Edit]:
    return (
        _group_by_all(source, block) or _order_by_all(source, block) or _qualify(source, block)
        if "FROM" in block.clauses
        else []
    )


def _blocks(source: SqlText) -> list[_Block]:
    """Return the SELECTs of the text, innermost last."""
    blocks: list[_Block] = []
    for i, token in enumerate(source.tokens):
        before = source.tokens[i - 1] if i else token
        if token.word == "SELECT" and before.text != "." and before.word != "AS":
            blocks.append(_read_block(source, i))
    return blocks[::-1]


def _read_block(source: SqlText, select: int) -> _Block:
    tokens = source.tokens
    block = _Block(select, select)
    i = start = select + 1
    while tokens[i].kind is not TokenKind.END and tokens[i].text not in (")", ";", "|>"):
        word = tokens[i].word if tokens[i - 1].text != "." and tokens[i - 1].word != "AS" else ""
        if word in _SET_OPERATORS and tokens[i - 1].text != "*":
            break
        is_clause = word in _CLAUSES and not (word == "FROM" and tokens[i - 1].word == "DISTINCT")
        if not block.clauses and (is_clause or tokens[i].text == ","):
            block.items.append((start, i))
            start = i + 1
        if is_clause:
            block.clauses.setdefault(word, i)
        i = source.closing.get(i, i) + 1
    block.end = i
    return block


def _group_by_all(source: SqlText, block: _Block) -> list[_Edit]:
    at = _by_all(source, block, "GROUP")
    if at is None or any(_is_star(source, item) or _has(source, item, "OVER") for item in block.items):
        return []
    ordinals = [str(n) for n, item in enumerate(block.items, 1) if not _is_aggregate(source, item)]
    tokens = source.tokens
    if not ordinals:
        return [_Edit(tokens[at].start, tokens[at + 2].end, "")]
    return [_Edit(tokens[at + 2].start, tokens[at + 2].end, ", ".join(ordinals))]


def _order_by_all(source: SqlText, block: _Block) -> list[_Edit]:
    at = _by_all(source, block, "ORDER")
    if at is None or any(_is_star(source, item) for item in block.items):
        return []
    tokens, i = source.tokens, at + 3
    while tokens[i].word in ("ASC", "DESC", "NULLS", "FIRST", "LAST"):
        i += 1
    direction = "".join(f" {token.text}" for token in tokens[at + 3 : i])
    ordinals = ", ".join(f"{n}{direction}" for n in range(1, len(block.items) + 1))
    return [_Edit(tokens[at + 2].start, tokens[i - 1].end, ordinals)]


def _by_all(source: SqlText, block: _Block, clause: str) -> int | None:
    at = block.clauses.get(clause)
    if at is None or [token.word for token in source.tokens[at + 1 : at + 3]] != ["BY", "ALL"]:
        return None
    return None if source.tokens[at + 3].text in (".", ",", "(") else at


def _qualify(source: SqlText, block: _Block) -> list[_Edit]:
    """Filter above the query: by its own columns, or by the condition computed beside each row."""
    tokens, at = source.tokens, block.clauses.get("QUALIFY")
    if at is None or "WINDOW" in block.clauses or tokens[block.select + 1].word in ("DISTINCT", "ALL"):
        return []
    after = min((i for i in block.clauses.values() if i > at), default=block.end)
    condition = _text(source, at + 1, after)
    first, last, from_ = block.items[0][0], block.items[-1][1], block.clauses["FROM"]
    head, tail = tokens[block.select], tokens[after - 1]
    if not _has(source, (at, after), "OVER"):
        return [
            _Edit(head.start, head.start, "SELECT * FROM ("),
            _Edit(tokens[at].start, tail.end, f") AS lk_qualified WHERE {condition}"),
        ]
    if not all(_is_named(source, item) for item in block.items):
        return []
    items = _text(source, first, last)
    return [
        _Edit(
            head.start,
            tokens[from_].start,
            f"SELECT lk_row.* FROM (SELECT struct({items}) AS lk_row, ({condition}) AS lk_keep ",
        ),
        _Edit(tokens[at].start, tail.end, ") AS lk_qualified WHERE lk_keep"),
    ]


def _text(source: SqlText, start: int, stop: int) -> str:
    return source.text[source.tokens[start].start : source.tokens[stop - 1].end]


def _is_star(source: SqlText, item: tuple[int, int]) -> bool:
    """Whether an item stands for several columns: `*`, `t.*`, `* EXCEPT (a)`."""
    tokens = source.tokens[item[0] : item[1]]
    return any(
        token.text == "*" and (position == 0 or tokens[position - 1].text == ".")
        for position, token in enumerate(tokens)
    ) and not _is_call(source, item)


def _is_call(source: SqlText, item: tuple[int, int]) -> bool:
    """Whether an item starts with a function's name, so that a star is its argument: `count(*)`."""
    return source.tokens[item[0]].is_name and source.tokens[item[0] + 1].text == "("


def _is_named(source: SqlText, item: tuple[int, int]) -> bool:
    """Whether an item is a star, a column, or has an alias with AS."""
    tokens: tuple[Token, ...] = source.tokens[item[0] : item[1]]
    if len(tokens) > 2 and tokens[-2].word == "AS":
        return True
    return all(token.is_name or token.text in (".", "*") for token in tokens) and (
        len(tokens) % 2 == 1 and all(token.text == "." for token in tokens[1::2])
    )


def _is_aggregate(source: SqlText, item: tuple[int, int]) -> bool:
    return any(
        source.tokens[i].word in _AGGREGATES and source.tokens[i + 1].text == "("
        for i in _outside_queries(source, item)
    )


def _has(source: SqlText, span: tuple[int, int], word: str) -> bool:
    return any(source.tokens[i].word == word for i in _outside_queries(source, span))


def _outside_queries(source: SqlText, span: tuple[int, int]) -> list[int]:
    """Return the token indices of a span without those of its sub-queries."""
    found: list[int] = []
    i, stop = span
    while i < stop:
        if source.tokens[i].text == "(" and source.tokens[i + 1].word in ("SELECT", "WITH", "FROM"):
            i = source.closing[i]
        found.append(i)
        i += 1
    return found
