"""What an engine needs rewritten before it can run a user's tree; each step keeps the result of the query."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from google.protobuf.message import Message
from pyspark.sql.connect import proto

from lakelet.engine.base import EngineCapabilities
from lakelet.plan.relation import (
    EXPRESSION,
    RELATION,
    Relation,
    children,
    expressions,
    messages,
    new,
    next_plan_id,
    own_messages,
    parts,
    relations,
)
from lakelet.plan.sql import normalize_sql, replace_clock
from lakelet.plan.sql_engine import for_engine
from lakelet.plan.sql_tokens import scan

METADATA = "__lakelet_metadata"
"""Hidden struct column of a file source: what `_metadata` and `input_file_name()` read."""

_PASSES_COLUMNS = {
    "filter", "sort", "limit", "offset", "tail", "sample", "hint", "with_watermark", "with_columns",
    "with_columns_renamed", "drop", "repartition", "repartition_by_expression", "subquery_alias", "fill_na", "drop_na",
    "replace", "aggregate", "project", "join", "lateral_join", "with_relations", "read",
}  # fmt: skip
"""Relations that either hand the columns of their input on or name what they use; the others must not see hidden ones."""


def normalize(relation: Relation) -> Relation:
    """Return the tree with SQL text opened up, file metadata as a hidden column and join keys that every engine finds."""
    result = _map_relations(relation, lambda node: normalize_sql(node, next_plan_id) if _is_sql(node) else node)
    result = _name_metadata(result)
    result = _resolve_join_keys(result)
    return hide_columns(result)


def _is_sql(relation: Relation) -> bool:
    kind = relation.WhichOneof("rel_type")
    if kind == "with_relations":
        return relation.with_relations.root.WhichOneof("rel_type") == "sql"
    return kind == "sql"


def _map_relations(relation: Relation, change: Callable[[Relation], Relation]) -> Relation:
    """Return a copy with `change` applied to every relation, parents first; a changed WithRelations root is left alone."""
    result = Relation()
    result.CopyFrom(change(relation))

    def visit(message: Message, *, skip: bool = False) -> None:
        for name, item in parts(message):
            if item.DESCRIPTOR.full_name == RELATION and not (skip and name == "root"):
                item.CopyFrom(change(item))  # type: ignore[arg-type]
            visit(item, skip=item.DESCRIPTOR.name == "WithRelations")

    visit(result)
    return result


# -- file metadata ------------------------------------------------------------------------------------------------


def _name_metadata(relation: Relation) -> Relation:
    """Point `_metadata…` and `input_file_name()` at the hidden column, `_metadata` itself keeping its name."""
    for message in messages(relation):
        if message.DESCRIPTOR.name == "ExpressionString" and _in_text(message.expression):  # type: ignore[attr-defined]
            message.expression = _metadata_in_text(message.expression)  # type: ignore[attr-defined]
        elif message.DESCRIPTOR.name == "SQL" and _in_text(message.query):  # type: ignore[attr-defined]
            message.query = _metadata_in_text(message.query)  # type: ignore[attr-defined]
    for expression in expressions(relation):
        kind = expression.WhichOneof("expr_type")
        if kind == "unresolved_function" and expression.unresolved_function.function_name == "input_file_name":
            expression.CopyFrom(_attribute(f"{METADATA}.file_path"))
        elif kind == "unresolved_attribute":
            attribute = expression.unresolved_attribute
            first, dot, rest = attribute.unparsed_identifier.partition(".")
            if first.strip("`") == "_metadata":
                attribute.unparsed_identifier = f"{METADATA}{dot}{rest}"
                if not dot:
                    expression.CopyFrom(_aliased(expression, "_metadata"))
    return relation


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
        if name == "UnresolvedAttribute" and message.unparsed_identifier.startswith(METADATA):  # type: ignore[attr-defined]
            return True
        if name == "ExpressionString" and _in_text(message.expression):  # type: ignore[attr-defined]
            return True
        if name == "SQL" and _in_text(message.query):  # type: ignore[attr-defined]
            return True
    return False


def _in_text(text: str) -> bool:
    lowered = text.lower()
    return "_metadata" in lowered or "input_file_name" in lowered


def _attribute(name: str) -> proto.Expression:
    result = proto.Expression()
    result.unresolved_attribute.unparsed_identifier = name
    return result


def _aliased(expression: proto.Expression, name: str) -> proto.Expression:
    result = proto.Expression()
    result.alias.expr.CopyFrom(expression)
    result.alias.name.append(name)
    return result


# -- join keys ----------------------------------------------------------------------------------------------------


def _resolve_join_keys(relation: Relation) -> Relation:
    """Make `frame.key` work above several USING joins.

    After a second join an engine may no longer find the key of the first one through its DataFrame. Where the joined key
    has that frame's value (its side is kept by the join), the reference goes to the join itself; otherwise the side gets a
    hidden copy of the key and the reference goes to that.
    """
    copies = itertools.count(1)
    for node in list(relations(relation)):
        for attribute in list(own_messages(node)):
            if attribute.DESCRIPTOR.name != "UnresolvedAttribute" or not attribute.HasField("plan_id"):
                continue
            paths = [path for item in children(node) for path in _paths(item, attribute.plan_id)]  # type: ignore[attr-defined]
            if len(paths) != 1:
                continue
            _repoint(attribute, paths[0], copies)  # type: ignore[arg-type]
    return relation


def _paths(relation: Relation, plan_id: int) -> list[list[tuple[Relation, str]]]:
    """Return every way down to the relation with this plan id, as (join, side) steps from the top."""
    if relation.common.HasField("plan_id") and relation.common.plan_id == plan_id:
        return [[]]
    result: list[list[tuple[Relation, str]]] = []
    kind = relation.WhichOneof("rel_type")
    if kind is None:
        return result
    for name, item in parts(getattr(relation, kind)):
        if item.DESCRIPTOR.full_name == RELATION:
            for path in _paths(item, plan_id):  # type: ignore[arg-type]
                result.append([(relation, name), *path] if kind == "join" else path)
    return result


def _repoint(
    attribute: proto.Expression.UnresolvedAttribute, path: list[tuple[Relation, str]], copies: itertools.count[int]
) -> None:
    key = attribute.unparsed_identifier.strip("`").lower()
    inner = proto.Join
    for depth, (node, side) in enumerate(path):
        join = node.join
        if key not in {column.lower() for column in join.using_columns}:
            continue
        if depth == 0 and len(path) == 1:
            return  # the only join on the way: every engine finds its key
        keeps = {inner.JOIN_TYPE_INNER: ("left", "right"), inner.JOIN_TYPE_LEFT_OUTER: ("left",),
                 inner.JOIN_TYPE_RIGHT_OUTER: ("right",), inner.JOIN_TYPE_LEFT_SEMI: ("left",),
                 inner.JOIN_TYPE_LEFT_ANTI: ("left",)}  # fmt: skip
        if side in keeps.get(join.join_type, ()):
            if not node.common.HasField("plan_id"):
                node.common.plan_id = next_plan_id()
            attribute.plan_id = node.common.plan_id
            return
        name = f"{METADATA}_key{next(copies)}"
        child = getattr(join, side)
        copy = new()
        copy.with_columns.input.CopyFrom(child)
        column = copy.with_columns.aliases.add()
        column.expr.CopyFrom(_attribute(attribute.unparsed_identifier))
        column.name.append(name)
        child.CopyFrom(copy)
        attribute.unparsed_identifier = name
        attribute.ClearField("plan_id")
        return


# -- hidden columns -----------------------------------------------------------------------------------------------


def hidden_columns(relation: Relation) -> set[str]:
    """Return the hidden columns that the tree reads or makes."""
    names: set[str] = set()
    for message in messages(relation):
        if message.DESCRIPTOR.name == "UnresolvedAttribute":
            first = message.unparsed_identifier.partition(".")[0]  # type: ignore[attr-defined]
            if first.startswith(METADATA):
                names.add(first)
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


# -- what an engine lacks -------------------------------------------------------------------------------------


def runnable(relation: Relation, capabilities: EngineCapabilities) -> Relation:
    """Return the tree without what the engine cannot do and a batch does not need."""
    result = relation if capabilities.batch_watermark else without_watermarks(relation)
    if not capabilities.group_by_all:
        for message in messages(result):
            if message.DESCRIPTOR.name == "SQL":
                message.query = for_engine(message.query)  # type: ignore[attr-defined]
    return result


# -- watermark and clock ------------------------------------------------------------------------------------------


def without_watermarks(relation: Relation) -> Relation:
    """Return the tree without `withWatermark` nodes; references to them go to what they stood on."""
    result = Relation()
    result.CopyFrom(relation)
    moved: dict[int, int] = {}
    for node in relations(result):
        while node.WhichOneof("rel_type") == "with_watermark":
            below = Relation()
            below.CopyFrom(node.with_watermark.input)
            if node.common.HasField("plan_id"):
                if not below.common.HasField("plan_id"):
                    below.common.plan_id = next_plan_id()
                moved[node.common.plan_id] = below.common.plan_id
            node.CopyFrom(below)
    if moved:
        for message in messages(result):
            if message.DESCRIPTOR.name in ("UnresolvedAttribute", "UnresolvedStar") and message.HasField("plan_id"):
                target = message.plan_id  # type: ignore[attr-defined]
                while target in moved:
                    target = moved[target]
                message.plan_id = target  # type: ignore[attr-defined]
    return result


_CLOCK_FUNCTIONS = {"current_timestamp": "timestamp", "now": "timestamp", "localtimestamp": "timestamp_ntz",
                    "current_date": "date", "curdate": "date"}  # fmt: skip


def with_clock(relation: Relation, at: datetime, *, time_zone: str = "UTC") -> Relation:
    """Return the tree with `current_timestamp()`, `now()`, `current_date()`… as the instant `at`, also in SQL text.

    Args:
        time_zone: the session's zone, which decides what day it is.
    """
    local = at.astimezone(ZoneInfo(time_zone)).replace(tzinfo=UTC)
    result = Relation()
    result.CopyFrom(relation)
    for message in messages(result):
        name = message.DESCRIPTOR.name
        if message.DESCRIPTOR.full_name == EXPRESSION:
            expression: proto.Expression = message  # type: ignore[assignment]
            if expression.WhichOneof("expr_type") != "unresolved_function":
                continue
            called = expression.unresolved_function.function_name.lower()
            kind = _CLOCK_FUNCTIONS.get(called)
            if kind is None or expression.unresolved_function.arguments:
                continue
            literal = proto.Expression()
            if kind == "date":
                literal.literal.date = _micros(local) // 86_400_000_000
            elif kind == "timestamp":
                literal.literal.timestamp = _micros(at)
            else:
                literal.literal.timestamp_ntz = _micros(local)
            expression.CopyFrom(_aliased(literal, f"{called}()"))
        elif name == "ExpressionString":
            message.expression = replace_clock(message.expression, at, time_zone=time_zone)  # type: ignore[attr-defined]
        elif name == "SQL":
            message.query = replace_clock(message.query, at, time_zone=time_zone)  # type: ignore[attr-defined]
    return result


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000 + at.microsecond


_VOLATILE = {"rand", "random", "randn", "uuid", "shuffle", "monotonically_increasing_id", *_CLOCK_FUNCTIONS}


def is_volatile(relation: Relation) -> bool:
    """Return whether the tree may give other rows for the same input: clocks, random numbers, user functions."""
    for message in messages(relation):
        name = message.DESCRIPTOR.name
        if name == "UnresolvedFunction" and message.function_name.lower() in _VOLATILE:  # type: ignore[attr-defined]
            return True
        if name == "CommonInlineUserDefinedFunction" and not message.deterministic:  # type: ignore[attr-defined]
            return True
        text = message.query if name == "SQL" else message.expression if name == "ExpressionString" else ""  # type: ignore[attr-defined]
        if text and any(f"{function}(" in text.lower().replace(" ", "") for function in _VOLATILE):
            return True
        if text and ("current_timestamp" in text.lower() or "current_date" in text.lower()):
            return True
    return False


def fingerprint(relation: Relation) -> str:
    """Return a digest that changes when the query changes: plan ids and the lines it stands on do not count."""
    import hashlib

    result = Relation()
    result.CopyFrom(relation)
    ids: dict[int, int] = {}
    for message in messages(result):
        name = message.DESCRIPTOR.name
        if name == "RelationCommon" and message.HasField("plan_id"):
            message.plan_id = ids.setdefault(message.plan_id, len(ids))  # type: ignore[attr-defined]
        for field in ("origin", "source_info"):
            if field in message.DESCRIPTOR.fields_by_name:
                message.ClearField(field)
    for message in messages(result):
        if message.DESCRIPTOR.name in ("UnresolvedAttribute", "UnresolvedStar", "UnresolvedRegex") and message.HasField("plan_id"):
            message.plan_id = ids.get(message.plan_id, message.plan_id)  # type: ignore[attr-defined]
    return hashlib.sha256(result.SerializeToString(deterministic=True)).hexdigest()
