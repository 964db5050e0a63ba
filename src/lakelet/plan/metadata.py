"""File metadata of a source as a hidden column: `_metadata` and `input_file_name()` read it, `*` does not show it."""

from __future__ import annotations

import re

from pyspark.sql.connect import proto

from lakelet.plan.relation import (
    EXPRESSION,
    Relation,
    aliased,
    attribute,
    children,
    messages,
    new,
    own_messages,
    relations,
)
from lakelet.plan.sql_tokens import scan

METADATA = "__lakelet_metadata"
"""Hidden struct column of a file source: what `_metadata` and `input_file_name()` read."""

_HIDDEN = re.compile(rf"(?:^|\.)({METADATA}\w*)")

_PASSES_COLUMNS = {
    "filter", "sort", "limit", "offset", "tail", "sample", "hint", "with_watermark", "with_columns",
    "with_columns_renamed", "drop", "repartition", "repartition_by_expression", "subquery_alias", "fill_na", "drop_na",
    "replace", "aggregate", "project", "join", "lateral_join", "with_relations", "read",
}  # fmt: skip
"""Relations that hand the columns of their input on, or name what they use; the others must not see hidden ones."""


def name_metadata(relation: Relation) -> Relation:
    """Point `_metadata…` and `input_file_name()` at the hidden column, `_metadata` itself keeping its name."""
    for message in messages(relation):
        if message.DESCRIPTOR.name == "ExpressionString" and _in_text(message.expression):  # type: ignore[attr-defined]
            message.expression = _metadata_in_text(message.expression)  # type: ignore[attr-defined]
        elif message.DESCRIPTOR.name == "SQL" and _in_text(message.query):  # type: ignore[attr-defined]
            message.query = _metadata_in_text(message.query)  # type: ignore[attr-defined]
    for node in list(relations(relation)):
        shown = any(_shows_metadata(item) for item in children(node))
        for expression in list(own_messages(node)):
            if expression.DESCRIPTOR.full_name == EXPRESSION:
                _name_metadata_in(expression, shown=shown)  # type: ignore[arg-type]
    return relation


def _name_metadata_in(expression: proto.Expression, *, shown: bool) -> None:
    """Rename in one expression; where the input shows a column `_metadata`, that is what the name means."""
    kind = expression.WhichOneof("expr_type")
    if kind == "unresolved_function" and expression.unresolved_function.function_name == "input_file_name":
        expression.CopyFrom(attribute(f"{METADATA}.file_path"))
    elif kind == "unresolved_attribute" and not shown:
        named = expression.unresolved_attribute
        found = _METADATA_NAME.match(named.unparsed_identifier)
        if found:
            rest = named.unparsed_identifier[found.end() :]
            named.unparsed_identifier = f"{found['frame'] or ''}{METADATA}{rest}"
            if not rest:
                expression.CopyFrom(aliased(expression, "_metadata"))


_METADATA_NAME = re.compile(r"(?P<frame>[^.]+\.)??`?_metadata`?(?=\.|$)")
"""`_metadata`, alone or of an aliased frame, and not a longer name that begins like it."""


def _shows_metadata(relation: Relation) -> bool:
    """Return whether a relation has a column that the user named `_metadata`."""
    match relation.WhichOneof("rel_type"):
        case "project":
            return any(
                e.unresolved_attribute.unparsed_identifier.strip("`") == "_metadata"
                or list(e.alias.name) == ["_metadata"]
                or (e.HasField("unresolved_star") and _shows_metadata(relation.project.input))
                for e in relation.project.expressions
            )
        case "with_columns":
            named = any(list(item.name) == ["_metadata"] for item in relation.with_columns.aliases)
            return named or _shows_metadata(relation.with_columns.input)
        case "aggregate" | "read" | "local_relation" | "sql" | None:
            return False
        case _:
            return any(_shows_metadata(item) for item in children(relation))


def _metadata_in_text(sql: str) -> str:
    """Return SQL text with `_metadata.field` and `input_file_name()` read from the hidden column."""
    source = scan(sql)
    for index in range(len(source.tokens) - 1, -1, -1):
        token, following = source.tokens[index], source.tokens[min(index + 1, len(source.tokens) - 1)]
        if token.is_name and token.name.lower() == "_metadata" and following.text == ".":
            sql = sql[: token.start] + METADATA + sql[token.end :]
        elif token.word == "INPUT_FILE_NAME" and following.text == "(":
            sql = sql[: token.start] + f"{METADATA}.file_path" + sql[source.tokens[index + 2].end :]
    return sql


def reads_metadata(relation: Relation) -> bool:
    """Return whether the tree reads the hidden metadata column, or `_metadata` in SQL text."""
    for message in messages(relation):
        name = message.DESCRIPTOR.name
        if name == "UnresolvedAttribute" and _HIDDEN.search(message.unparsed_identifier):  # type: ignore[attr-defined]
            return True
        if name == "ExpressionString" and _in_text(message.expression):  # type: ignore[attr-defined]
            return True
        if name == "SQL" and _in_text(message.query):  # type: ignore[attr-defined]
            return True
    return False


def _in_text(text: str) -> bool:
    lowered = text.lower()
    return "_metadata" in lowered or "input_file_name" in lowered


# -- hidden columns -----------------------------------------------------------------------------------------------


def hidden_columns(relation: Relation) -> set[str]:
    """Return the hidden columns that the tree reads or makes."""
    names: set[str] = set()
    for message in messages(relation):
        if message.DESCRIPTOR.name == "UnresolvedAttribute":
            found = _HIDDEN.search(message.unparsed_identifier)  # type: ignore[attr-defined]
            if found:
                names.add(found[1])
    if reads_metadata(relation):
        names.add(METADATA)
    return names


def hide_columns(relation: Relation) -> Relation:
    """Return the tree with hidden columns dropped wherever `*` or the result would show them."""
    names = sorted(hidden_columns(relation))
    if not names:
        return relation
    result = _hide(relation, names)
    return _dropping(result, names) if _shows(result) else result


def _hide(relation: Relation, names: list[str]) -> Relation:
    kind = relation.WhichOneof("rel_type")
    if kind is None or kind == "read":
        return relation
    must_not_see = kind not in _PASSES_COLUMNS
    for item in children(relation):
        hidden = _hide(item, names)
        item.CopyFrom(_dropping(hidden, names) if must_not_see and _shows(hidden) else hidden)
    if kind == "project" and any(e.WhichOneof("expr_type") == "unresolved_star" for e in relation.project.expressions):
        return _dropping(relation, names)
    return relation


def _shows(relation: Relation) -> bool:
    """Return whether hidden columns of a source may be among the columns of this relation."""
    kind = relation.WhichOneof("rel_type")
    if kind == "read":
        return True
    if kind == "drop" and any(name.startswith(METADATA) for name in relation.drop.column_names):
        return False
    if kind == "join":
        return _shows(relation.join.left) or _shows(relation.join.right)
    if kind == "with_relations":
        return True
    if kind in ("project", "aggregate") or kind not in _PASSES_COLUMNS:
        return False
    return _shows(getattr(relation, kind).input)


def _dropping(relation: Relation, names: list[str]) -> Relation:
    result = new()
    result.drop.input.CopyFrom(relation)
    result.drop.column_names.extend(names)
    return result
