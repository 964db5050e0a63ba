"""A SELECT as a tree of relations, so that SQL text and DataFrames are followed by the same rules.

Expressions stay the user's text, cut out by position. What is not of the common shape (SELECT … FROM … JOIN … WHERE … GROUP BY
… HAVING …, UNION ALL, WITH, queries in FROM) stays SQL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyspark.sql.connect import proto

from lakelet.errors import DefinitionError
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.row_wise import calls_aggregate
from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan

_GROUP, _AGGREGATE, _HAVING = "__lakelet_group", "__lakelet_aggregate", "__lakelet_having"
_NOT_FOLLOWED = {
    "DISTINCT", "ORDER", "LIMIT", "OFFSET", "QUALIFY", "WINDOW", "LATERAL", "PIVOT", "UNPIVOT", "SORT", "CLUSTER", "DISTRIBUTE",
    "INTERSECT", "EXCEPT", "MINUS", "TABLESAMPLE", "NATURAL", "RECURSIVE", "|>",
}  # fmt: skip
_CLAUSES = ("FROM", "WHERE", "GROUP", "HAVING")
_JOIN_WORDS = {"JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "OUTER", "SEMI", "ANTI"}
_JOIN_TYPES = {"": 1, "INNER": 1, "FULL": 2, "LEFT": 3, "RIGHT": 4, "LEFT ANTI": 5, "LEFT SEMI": 6, "CROSS": 7}
_NO_ALIAS = {"END", "NULL", "TRUE", "FALSE"}
_BEFORE_NO_ALIAS = {
    "IS",
    "NOT",
    "AND",
    "OR",
    "LIKE",
    "ILIKE",
    "RLIKE",
    "IN",
    "THEN",
    "ELSE",
    "WHEN",
    "BETWEEN",
    "DIV",
    "INTERVAL",
}


class _NotFollowed(Exception):
    """The text is not of the common shape."""


def as_relations(node: Relation, names: Sequence[str] | None) -> Relation | None:
    """Return the tree of a SQL node, None where the text is not of the common shape.

    Args:
        node: `WithRelations` over SQL text, as `normalize_sql` leaves it.
        names: of its columns, where they are known.
    """
    root = node.with_relations.root
    if node.WhichOneof("rel_type") != "with_relations" or root.WhichOneof("rel_type") != "sql":
        return None
    arguments = (root.sql.args, root.sql.pos_args, root.sql.named_arguments, root.sql.pos_arguments)
    if any(len(item) for item in arguments):
        return None
    tables = {item.subquery_alias.alias.lower(): item for item in node.with_relations.references}
    try:
        source = scan(root.sql.query)
        end = len(source.tokens) - 1
        while end and source.tokens[end - 1].text == ";":
            end -= 1
        result = _query(_Scope(source=source, tables=tables), 0, end, names)
    except (_NotFollowed, DefinitionError):
        return None
    if node.common.HasField("plan_id"):
        result.common.plan_id = node.common.plan_id
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scope:
    """Text, and the relations that its names stand for."""

    source: SqlText
    tables: Mapping[str, Relation]

    def text(self, start: int, stop: int) -> str:
        if start >= stop:
            raise _NotFollowed
        return self.source.text[self.source.tokens[start].start : self.source.tokens[stop - 1].end]

    def tokens(self, start: int, stop: int) -> tuple[Token, ...]:
        return self.source.tokens[start:stop]

    def top_level(self, start: int, stop: int) -> list[int]:
        """Return the token indices of a span that stand in no bracket."""
        found, i = [], start
        while i < stop:
            found.append(i)
            i = self.source.closing.get(i, i) + 1
        return found


def _query(scope: _Scope, start: int, stop: int, names: Sequence[str] | None) -> Relation:
    tokens = scope.source.tokens
    if tokens[start].text == "(" and scope.source.closing[start] == stop - 1:
        return _query(scope, start + 1, stop - 1, names)
    if tokens[start].word == "WITH":
        scope, start = _with(scope, start + 1)
    unions = [i for i in scope.top_level(start, stop) if tokens[i].word == "UNION"]
    if unions:
        if any(tokens[i + 1].word != "ALL" for i in unions):
            raise _NotFollowed
        edges = [start, *(i + 2 for i in unions)]
        ends = [*unions, stop]
        return plan.union([_query(scope, a, b, names) for a, b in zip(edges, ends, strict=True)])
    return _select(scope, start, stop, names)


def _with(scope: _Scope, i: int) -> tuple[_Scope, int]:
    """Read `name AS (query), …`; a name stands for the same tree wherever it is used."""
    tokens = scope.source.tokens
    while True:
        name, opening = tokens[i], i + 2
        if not name.is_name or tokens[i + 1].word != "AS" or tokens[opening].text != "(":
            raise _NotFollowed
        closing = scope.source.closing[opening]
        tree = _query(scope, opening + 1, closing, None)
        scope = replace(scope, tables={**scope.tables, name.name.lower(): plan.alias(tree, name.name)})
        if tokens[closing + 1].text != ",":
            return scope, closing + 1
        i = closing + 2


def _select(scope: _Scope, start: int, stop: int, names: Sequence[str] | None) -> Relation:
    tokens = scope.source.tokens
    outer = scope.top_level(start, stop)
    words = [_word(scope, i) for i in outer]
    if words[0] != "SELECT" or set(words) & _NOT_FOLLOWED or any(tokens[i].kind is TokenKind.HINT for i in outer):
        raise _NotFollowed
    places = {word: [i for i, w in zip(outer, words, strict=True) if w == word] for word in _CLAUSES}
    if any(len(found) > 1 for found in places.values()) or not places["FROM"]:
        raise _NotFollowed
    at = {word: found[0] for word, found in places.items() if found}
    ends = sorted([*at.values(), stop])
    span = {word: (i + 1, next(end for end in ends if end > i)) for word, i in at.items()}
    rows = _from(scope, *span["FROM"])
    if "WHERE" in span:
        rows = plan.filtered(rows, plan.expression(scope.text(*span["WHERE"])))
    items = [_item(scope, *part) for part in _listed(scope, start + 1, at["FROM"])]
    is_star = any(item.text == "*" or item.text.endswith(".*") for item in items)
    known = names if names is not None and not is_star and len(names) == len(items) else None
    if known is not None:
        items = [replace(item, alias=item.alias or name) for item, name in zip(items, known, strict=True)]
    if "GROUP" in at or any(item.aggregates for item in items):
        return _grouped(scope, rows, items, span)
    if "HAVING" in at:
        raise _NotFollowed
    return _projected(
        rows, [_named(plan.expression(item.text), item.alias) if item.text != "*" else _star() for item in items]
    )


def _word(scope: _Scope, i: int) -> str:
    """Return a token as a keyword has it; `window(…)` is a function."""
    token = scope.source.tokens[i]
    is_window = token.word == "WINDOW" and scope.source.tokens[i + 1].text == "("
    return token.text.lower() if is_window else token.word or token.text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    text: str
    alias: str | None
    aggregates: bool
    column: str | None
    """The column's name, where it is nothing but a column."""


def _item(scope: _Scope, start: int, stop: int) -> _Item:
    tokens = scope.tokens(start, stop)
    alias = None
    end = stop
    if len(tokens) > 2 and tokens[-2].word == "AS" and tokens[-1].is_name:
        alias, end = tokens[-1].name, stop - 2
    elif (
        len(tokens) > 1
        and tokens[-1].is_name
        and tokens[-1].word not in _NO_ALIAS
        and tokens[-2].word not in _BEFORE_NO_ALIAS
        and (
            tokens[-2].is_name
            or tokens[-2].text in (")", "]")
            or tokens[-2].kind in (TokenKind.NUMBER, TokenKind.STRING)
        )
    ):
        alias, end = tokens[-1].name, stop - 1
    kept = scope.tokens(start, end)
    is_column = len(kept) % 2 == 1 and all(
        token.is_name if n % 2 == 0 else token.text == "." for n, token in enumerate(kept)
    )  # fmt: skip
    column = kept[-1].name if is_column else None
    return _Item(
        text=scope.text(start, end), alias=alias or column, aggregates=calls_aggregate(kept), column=column
    )  # fmt: skip


def _listed(scope: _Scope, start: int, stop: int) -> list[tuple[int, int]]:
    commas = [i for i in scope.top_level(start, stop) if scope.source.tokens[i].text == ","]
    return list(zip([start, *(i + 1 for i in commas)], [*commas, stop], strict=True))


def _grouped(scope: _Scope, rows: Relation, items: list[_Item], span: Mapping[str, tuple[int, int]]) -> Relation:
    """An aggregation, its HAVING, and a projection that gives the columns their order and names."""
    result = plan.new()
    node = result.aggregate
    node.input.CopyFrom(rows)
    node.group_type = proto.Aggregate.GROUP_TYPE_GROUPBY
    keys: dict[str, str] = {}
    if "GROUP" in span:
        start, stop = span["GROUP"]
        if scope.source.tokens[start].word != "BY" or stop == start + 1:
            raise _NotFollowed
        for part in _listed(scope, start + 1, stop):
            key = _key(scope, part, items)
            name = key.column or f"{_GROUP}{len(keys)}"
            if name.lower() in (known.lower() for known in keys.values()):
                raise _NotFollowed
            keys[_folded(key.text)] = name
            node.grouping_expressions.append(_named(plan.expression(key.text), name))
    columns = []
    for number, item in enumerate(items):
        if item.text == "*" or item.text.endswith(".*"):
            raise _NotFollowed
        if item.aggregates:
            node.aggregate_expressions.append(_named(plan.expression(item.text), f"{_AGGREGATE}{number}"))
            value = plan.attribute(f"{_AGGREGATE}{number}")
        elif _folded(item.text) in keys:
            value = plan.attribute(quote(keys[_folded(item.text)]))
        else:
            value = plan.expression(item.text)
        columns.append(_named(value, item.alias))
    if "HAVING" in span:
        node.aggregate_expressions.append(_named(plan.expression(scope.text(*span["HAVING"])), _HAVING))
        result = plan.filtered(result, plan.attribute(_HAVING))
    return _projected(result, columns)


def _key(scope: _Scope, part: tuple[int, int], items: list[_Item]) -> _Item:
    tokens = scope.tokens(*part)
    first = tokens[0]
    if len(tokens) == 1 and first.kind is TokenKind.NUMBER and first.text.isdigit():
        if not 1 <= int(first.text) <= len(items):
            raise _NotFollowed
        return items[int(first.text) - 1]
    if first.word in ("ALL", "ROLLUP", "CUBE", "GROUPING", "WITH") or any(t.word in ("ROLLUP", "CUBE") for t in tokens):
        raise _NotFollowed
    key = _item(scope, *part)
    names = {item.alias.lower() for item in items if item.alias and item.column is None}
    if key.column is not None and key.column.lower() in names:
        raise _NotFollowed  # a column, or the alias of an item: that depends on the tables
    return key


def _folded(text: str) -> str:
    """Return an expression's text without what makes no difference: space, and case outside of strings."""
    return " ".join(
        token.text if token.kind is TokenKind.STRING else token.name.lower() if token.is_name else token.text
        for token in scan(text).tokens[:-1]
    )


# -- FROM -----------------------------------------------------------------------------------------------------------


def _from(scope: _Scope, start: int, stop: int) -> Relation:
    rows, i = _table(scope, start, stop)
    tokens = scope.source.tokens
    while i < stop:
        words = []
        while i < stop and tokens[i].word in _JOIN_WORDS:
            words.append(tokens[i].word)
            i += 1
        if not words or words[-1] != "JOIN":
            raise _NotFollowed
        kind = _JOIN_TYPES.get(" ".join(word for word in words[:-1] if word != "OUTER"))
        if kind is None:
            raise _NotFollowed
        right, i = _table(scope, i, stop)
        joined = plan.new()
        joined.join.left.CopyFrom(rows)
        joined.join.right.CopyFrom(right)
        joined.join.join_type = kind  # type: ignore[assignment]
        i = _on(scope, i, stop, joined)
        rows = joined
    return rows


def _on(scope: _Scope, i: int, stop: int, joined: Relation) -> int:
    tokens = scope.source.tokens
    if i < stop and tokens[i].word == "USING":
        closing = scope.source.closing[i + 1]
        joined.join.using_columns.extend(token.name for token in scope.tokens(i + 2, closing) if token.is_name)
        return closing + 1
    if i < stop and tokens[i].word == "ON":
        end = next((n for n in scope.top_level(i + 1, stop) if _begins_join(tokens, n)), stop)
        joined.join.join_condition.CopyFrom(plan.expression(scope.text(i + 1, end)))
        return end
    if joined.join.join_type != proto.Join.JOIN_TYPE_CROSS:
        raise _NotFollowed
    return i


def _begins_join(tokens: Sequence[Token], i: int) -> bool:
    """`left(x, 1)` is a function, and `t.left` a column."""
    return tokens[i].word in _JOIN_WORDS and tokens[i + 1].text != "(" and tokens[i - 1].text != "."


def _table(scope: _Scope, i: int, stop: int) -> tuple[Relation, int]:
    tokens = scope.source.tokens
    if tokens[i].text == "(":
        closing = scope.source.closing[i]
        rows = _query(scope, i + 1, closing, None)
        i = closing + 1
    else:
        found = scope.tables.get(tokens[i].name.lower()) if tokens[i].is_name else None
        if found is None or tokens[i + 1].text in (".", "("):
            raise _NotFollowed
        rows, i = plan.with_fresh_plan_ids(found), i + 1
    if i < stop and tokens[i].word == "AS":
        i += 1
        if i >= stop or not tokens[i].is_name:
            raise _NotFollowed
        return plan.alias(rows, tokens[i].name), i + 1
    if i < stop and tokens[i].is_name and tokens[i].word not in {*_JOIN_WORDS, "ON", "USING"}:
        return plan.alias(rows, tokens[i].name), i + 1
    return rows, i


# -- small things ---------------------------------------------------------------------------------------------------


def _projected(rows: Relation, columns: Sequence[proto.Expression]) -> Relation:
    result = plan.new()
    result.project.input.CopyFrom(rows)
    result.project.expressions.extend(columns)
    return result


def _named(value: proto.Expression, name: str | None) -> proto.Expression:
    if name is None:
        return value
    result = proto.Expression()
    result.alias.expr.CopyFrom(value)
    result.alias.name.append(name)
    return result


def _star() -> proto.Expression:
    result = proto.Expression()
    result.unresolved_star.SetInParent()
    return result
