"""`xxhash64` for an engine that panics over a file in which all of its arguments have one value each.

Sail reads a column of which a file's statistics tell that it holds one value as a constant, and its `xxhash64` takes the only
element of a constant for the first of a column. One more argument helps that is NULL, which a hash skips, and a column: the
32-bit `hash` gives one. Inside of CASE and IF the engine folds that, too.

The name of a column may come from the call, so only calls in what has another name, or makes no column, are changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from google.protobuf.message import Message
from pyspark.sql.connect import proto

from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, messages, own_messages, relations
from lakelet.plan.sql_tokens import Token, scan

_FUNCTION = "xxhash64"
_NO_COLUMN = ("literal", "unresolved_star")


def with_rows_in_hashes(relation: Relation) -> Relation:
    """Return a tree with its calls of `xxhash64` changed."""
    if not _mentions(relation):
        return relation
    result = Relation()
    result.CopyFrom(relation)
    for node in relations(result):
        match node.WhichOneof("rel_type"):
            case "project":
                _change_named(node.project.expressions)
            case "aggregate":
                groups = node.aggregate.grouping_expressions
                if not any(_mentions(item) and not _has_name(item) for item in groups):  # else they would match no more
                    _change_named(groups)
                    _change_named(node.aggregate.aggregate_expressions)
            case "sql":
                node.sql.query = with_rows_in_hashes_of_query(node.sql.query)
            case _:
                _change(own_messages(node))
    return result


def _mentions(message: Message) -> bool:
    return _FUNCTION.encode() in message.SerializeToString().lower()


def _has_name(item: proto.Expression) -> bool:
    kind = item.WhichOneof("expr_type")
    return kind == "alias" or (kind == "expression_string" and _is_aliased(item.expression_string.expression))


def _change_named(items: Iterable[proto.Expression]) -> None:
    for item in items:
        if _has_name(item):
            _change(messages(item))


def _change(found: Iterator[Message]) -> None:
    for message in found:
        match message:
            case proto.Expression.UnresolvedFunction() if message.function_name.lower() == _FUNCTION:
                values = [value for value in message.arguments if value.WhichOneof("expr_type") not in _NO_COLUMN]
                if values:
                    column = plan.call("hash", *(plan.call("isnull", value) for value in values))
                    message.arguments.append(plan.call("nullif", column, column))
            case proto.Expression.ExpressionString():
                message.expression = with_rows_in_hashes_of_expression(message.expression)


def with_rows_in_hashes_of_expression(sql: str) -> str:
    """Return the text of an expression with all of its calls changed."""
    return _changed(sql, only_aliased=False)


def with_rows_in_hashes_of_query(sql: str) -> str:
    """Return a query with the calls changed that have a name of their own; none in one with groups, which they must match."""
    if _FUNCTION not in sql.lower() or any(token.word == "GROUP" for token in scan(sql).tokens):
        return sql
    return _changed(sql, only_aliased=True)


def _changed(sql: str, *, only_aliased: bool) -> str:
    if _FUNCTION not in sql.lower():
        return sql
    source = scan(sql)
    tokens, closing = source.tokens, source.closing
    edits: list[tuple[int, str]] = []
    for at in range(len(tokens) - 1):
        if tokens[at].word != _FUNCTION.upper() or tokens[at + 1].text != "(":
            continue
        close = closing[at + 1]
        if only_aliased and tokens[close + 1].word != "AS":
            continue
        arguments = [sql[first.start : last.end] for first, last in _arguments(tokens, closing, at + 1)]
        plain = [text for text in arguments if text != "*" and _FUNCTION not in text.lower()]
        if plain:
            column = f"hash({', '.join(f'isnull({text})' for text in plain)})"
            edits.append((tokens[close].start, f", nullif({column}, {column})"))
    for at, text in sorted(edits, reverse=True):
        sql = sql[:at] + text + sql[at:]
    return sql


def _arguments(tokens: Sequence[Token], closing: Mapping[int, int], opening: int) -> Iterator[tuple[Token, Token]]:
    """Yield the first and last token of each argument of a call."""
    start = at = opening + 1
    while at <= closing[opening]:
        if at == closing[opening] or tokens[at].text == ",":
            if at > start:
                yield tokens[start], tokens[at - 1]
            start = at + 1
        at = closing.get(at, at) + 1


def _is_aliased(sql: str) -> bool:
    """Return whether the text of an expression ends with a name for its column."""
    source = scan(sql)
    at = 0
    while at < len(source.tokens):
        if source.tokens[at].word == "AS":
            return True
        at = source.closing.get(at, at) + 1
    return False
