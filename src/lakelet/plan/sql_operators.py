"""SQL text with state over streams as the operators that DataFrames give: joins, filters, groups, duplicates.

Only text that one micro-batch cannot answer is opened up, and only one SELECT with joins, WHERE, GROUP BY, HAVING and DISTINCT;
anything else stays text. Its expressions stay the user's text, so that the engine gives them their meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyspark.sql.connect import proto

from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.row_wise import AGGREGATE, calls_aggregate, text_beyond_the_row
from lakelet.plan.sources import is_streaming
from lakelet.plan.sql_streaming import stateful_sql
from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan

_CLAUSES = ("SELECT", "FROM", "WHERE", "GROUP", "HAVING")
_OTHERS = {
    "UNION", "INTERSECT", "EXCEPT", "MINUS", "ORDER", "SORT", "CLUSTER", "DISTRIBUTE", "LIMIT", "OFFSET", "QUALIFY",
    "LATERAL", "PIVOT", "UNPIVOT", "TABLESAMPLE", "ROLLUP", "CUBE", "GROUPING", "NATURAL", "CROSS", "ANTI", "SEMI", "ALL",
}  # fmt: skip
_JOINS = {"": "INNER", "INNER": "INNER", "LEFT": "LEFT_OUTER", "RIGHT": "RIGHT_OUTER", "FULL": "FULL_OUTER"}
_HAVING = "__lakelet_having"


@dataclass(frozen=True, slots=True)
class _Item:
    """One expression of a list, and its alias."""

    text: str
    tokens: tuple[Token, ...]
    alias: str | None

    @property
    def chain(self) -> str | None:
        """The parts of a column's name, None for any other expression."""
        names, dots = self.tokens[::2], self.tokens[1::2]
        is_chain = all(token.is_name for token in names) and all(token.text == "." for token in dots)
        return self.text if is_chain and len(self.tokens) % 2 else None

    @property
    def name(self) -> str:
        if self.alias is not None:
            return self.alias
        return self.tokens[-1].name if self.chain else "count(1)" if self.key == "COUNT(*)" else self.text

    @property
    def key(self) -> str:
        """The text without regard to white space and case."""
        return "".join(token.text.upper() for token in self.tokens)

    def expression(self) -> proto.Expression:
        if self.chain:
            return plan.attribute(self.chain)
        return _window(self) or plan.expression(self.text)


def operators_of_sql(relation: Relation) -> Relation:
    """Return the operators of a SQL text that needs state, anything else as it is.

    Args:
        relation: what `normalize_sql` makes of a text: its tables are relations beside it.
    """
    if relation.WhichOneof("rel_type") != "with_relations" or not relation.with_relations.root.HasField("sql"):
        return relation
    root = relation.with_relations.root.sql
    tables = {item.subquery_alias.alias: item.subquery_alias.input for item in relation.with_relations.references}
    streams = {name for name, item in tables.items() if is_streaming(item)}
    if root.named_arguments or root.pos_arguments or stateful_sql(root.query, streams) is None:
        return relation
    opened = _Select(scan(root.query), tables).relation()
    if opened is None:
        return relation
    result = Relation()
    result.CopyFrom(opened)
    result.common.CopyFrom(relation.common)
    return result


class _Select:
    """One SELECT, read by its tokens."""

    def __init__(self, source: SqlText, tables: dict[str, Relation]) -> None:
        self._source = source
        self._tables = tables

    def relation(self) -> Relation | None:
        clauses = self._clauses()
        if clauses is None or not clauses.get("FROM") or not clauses.get("SELECT"):
            return None
        selected = clauses["SELECT"]
        distinct = self._source.tokens[selected[0]].word == "DISTINCT"
        items = self._items(selected[1:] if distinct else selected)
        groups = self._items(clauses.get("GROUP", ())[1:])
        rows = self._joined(clauses["FROM"])
        if rows is None or items is None or groups is None:
            return None
        texts = [item.text for item in (*items, *groups)]
        texts += [self._text(clauses[name]) for name in ("WHERE", "HAVING") if name in clauses]
        if any(text_beyond_the_row(text) not in (None, AGGREGATE) for text in texts):
            return None
        if "WHERE" in clauses:
            rows = plan.filtered(rows, plan.expression(self._text(clauses["WHERE"])))
        if groups or any(calls_aggregate((*item.tokens, _END)) for item in items):
            having = self._text(clauses["HAVING"]) if "HAVING" in clauses else None
            return None if distinct else _grouped(rows, items, groups, having)
        if "HAVING" in clauses:
            return None
        result = plan.new()
        result.project.input.CopyFrom(rows)
        result.project.expressions.extend(_selected(item) for item in items)
        if not distinct:
            return result
        once = plan.new()
        once.deduplicate.input.CopyFrom(result)
        once.deduplicate.all_columns_as_keys = True
        return once

    def _clauses(self) -> dict[str, Sequence[int]] | None:
        """Return the positions of the tokens of each clause, without its first word; None for another kind of query."""
        found: dict[str, list[int]] = {}
        current: list[int] | None = None
        for position in self._outer(range(len(self._source.tokens))):
            token = self._source.tokens[position]
            if token.kind is TokenKind.END:
                break
            if token.word in _OTHERS or (token.word in _CLAUSES and token.word in found) or token.text in ("|>", ";"):
                return None
            if token.word in _CLAUSES:
                current = found.setdefault(token.word, [])
            elif current is None:
                return None
            else:
                current.append(position)
        return dict(found)

    def _outer(self, positions: Sequence[int]) -> Iterator[int]:
        """Yield the positions outside of parentheses; of these the opening one."""
        stop = -1
        for position in positions:
            if position > stop:
                yield position
                stop = self._source.closing.get(position, -1)

    def _span(self, first: int, last: int) -> tuple[Token, ...]:
        return tuple(self._source.tokens[first : self._source.closing.get(last, last) + 1])

    def _text(self, positions: Sequence[int]) -> str:
        tokens = self._span(positions[0], positions[-1])
        return self._source.text[tokens[0].start : tokens[-1].end]

    def _items(self, positions: Sequence[int]) -> list[_Item] | None:
        """Return the expressions of a list; None for one that is empty in between."""
        parts: list[list[int]] = [[]]
        for position in positions:
            if self._source.tokens[position].text == ",":
                parts.append([])
            else:
                parts[-1].append(position)
        if not positions:
            return []
        return None if not all(parts) else [self._item(part) for part in parts]

    def _item(self, part: list[int]) -> _Item:
        alias = None
        if len(part) > 2 and self._source.tokens[part[-2]].word == "AS":
            alias, part = self._source.tokens[part[-1]].name, part[:-2]
        elif len(part) > 1 and self._is_bare_alias(part):
            alias, part = self._source.tokens[part[-1]].name, part[:-1]
        return _Item(self._text(part), self._span(part[0], part[-1]), alias)

    def _is_bare_alias(self, part: list[int]) -> bool:
        last, before = self._source.tokens[part[-1]], self._source.tokens[part[-2]]
        ends = before.is_name or before.kind in (TokenKind.NUMBER, TokenKind.STRING) or before.text in ("(", "[")
        return last.is_name and last.word not in ("END", "NULL", "TRUE", "FALSE") and ends and before.word not in (
            "NOT", "AND", "OR", "IS", "LIKE", "IN", "BETWEEN", "DIV", "INTERVAL",
        )  # fmt: skip

    def _joined(self, positions: Sequence[int]) -> Relation | None:
        """Return the tables of FROM, joined in their order; None for anything but tables with a condition."""
        joins: list[tuple[str, list[int]]] = [("", [])]
        for position in positions:
            word = self._source.tokens[position].word
            if word == "JOIN":
                kinds: list[str] = []
                while joins[-1][1] and self._source.tokens[joins[-1][1][-1]].word in (*_JOINS, "OUTER"):
                    kinds.append(self._source.tokens[joins[-1][1].pop()].word)
                joins.append((next((kind for kind in kinds if kind != "OUTER"), ""), []))
            elif self._source.tokens[position].text == ",":
                return None
            else:
                joins[-1][1].append(position)
        rows: Relation | None = None
        for kind, part in joins:
            table, rest = self._table(part)
            if table is None or (rows is None) != (not rest):
                return None
            rows = table if rows is None else self._join(rows, table, kind, rest)
            if rows is None:
                return None
        return rows

    def _table(self, part: list[int]) -> tuple[Relation | None, list[int]]:
        tokens = [self._source.tokens[position] for position in part]
        if not tokens or tokens[0].name not in self._tables:
            return None, []
        used = 1
        name = tokens[0].name
        if len(tokens) > 1 and tokens[1].word == "AS":
            used = 2
        if len(tokens) > used and tokens[used].is_name and tokens[used].word not in ("ON", "USING"):
            name, used = tokens[used].name, used + 1
        return plan.alias(self._tables[tokens[0].name], name), part[used:]

    def _join(self, left: Relation, right: Relation, kind: str, rest: list[int]) -> Relation | None:
        result = plan.new()
        result.join.left.CopyFrom(left)
        result.join.right.CopyFrom(right)
        result.join.join_type = proto.Join.JoinType.Value(f"JOIN_TYPE_{_JOINS[kind]}")
        match self._source.tokens[rest[0]].word:
            case "ON" if len(rest) > 1:
                result.join.join_condition.CopyFrom(plan.expression(self._text(rest[1:])))
            case "USING" if len(rest) == 2 and self._source.tokens[rest[1]].text == "(":
                inside = self._span(rest[1], rest[1])[1:-1]
                result.join.using_columns.extend(token.name for token in inside if token.is_name)
            case _:
                return None
        return result


_END = Token(TokenKind.END, "", 0, 0)


def _selected(item: _Item) -> proto.Expression:
    if item.text.endswith("*") and (len(item.tokens) == 1 or item.tokens[-2].text == "."):
        star = proto.Expression()
        star.unresolved_star.SetInParent()
        if len(item.tokens) > 1:
            star.unresolved_star.unparsed_target = item.text
        return star
    return item.expression() if item.chain and item.alias is None else plan.aliased(item.expression(), item.name)


def _grouped(rows: Relation, items: list[_Item], groups: list[_Item], having: str | None) -> Relation:
    """Return groups with their aggregates, and above them the columns in the order of the query."""
    keys = [
        items[int(item.text) - 1] if item.text.isdigit() and int(item.text) <= len(items) else item for item in groups
    ]
    names = {item.key: item.name for item in items if not calls_aggregate((*item.tokens, _END))}
    result = plan.new()
    result.aggregate.input.CopyFrom(rows)
    result.aggregate.group_type = proto.Aggregate.GROUP_TYPE_GROUPBY
    known: dict[str, str] = {}
    for number, item in enumerate(keys):
        key = next(
            (other for other in items if other.alias and item.chain and other.alias.lower() == item.text.lower()), item
        )
        is_window = key.expression().HasField("unresolved_function")
        name = names.get(key.key) or ("window" if is_window else key.name if key.chain else f"__lakelet_key{number}")
        result.aggregate.grouping_expressions.append(plan.aliased(key.expression(), name))
        known[key.key] = name
        if key.chain:
            known[key.tokens[-1].text.upper()] = name
    columns = []
    for item in items:
        is_aggregate = text_beyond_the_row(item.text) == AGGREGATE
        if is_aggregate:
            result.aggregate.aggregate_expressions.append(plan.aliased(plan.expression(item.text), item.name))
        named = item.name if is_aggregate else known.get(item.key)
        value = plan.expression(item.text) if named is None else plan.attribute(quote(named))
        columns.append(plan.aliased(value, item.name))
    rows = result
    if having is not None:
        if text_beyond_the_row(having) == AGGREGATE:
            result.aggregate.aggregate_expressions.append(plan.aliased(plan.expression(having), _HAVING))
            having = _HAVING
        rows = plan.filtered(result, plan.expression(having))
    top = plan.new()
    top.project.input.CopyFrom(rows)
    top.project.expressions.extend(columns)
    return top


def _window(item: _Item) -> proto.Expression | None:
    """Return `window(column, '10 minutes', …)` as a call, None for any other expression."""
    tokens = item.tokens
    if len(tokens) < 6 or tokens[0].word != "WINDOW" or tokens[1].text != "(" or tokens[-1].text != ")":
        return None
    commas = [n for n, token in enumerate(tokens) if token.text == ","]
    if not commas or any(token.kind is not TokenKind.STRING for token in tokens[commas[0] + 1 : -1 : 2]):
        return None
    column = _Item("".join(token.text for token in tokens[2 : commas[0]]), tokens[2 : commas[0]], None)
    if not column.chain:
        return None
    arguments = [plan.attribute(column.chain)]
    for token in tokens[commas[0] + 1 : -1 : 2]:
        literal = proto.Expression()
        literal.literal.string = token.value
        arguments.append(literal)
    return plan.call("window", *arguments)
