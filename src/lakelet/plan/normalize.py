"""What an engine needs rewritten before it can run a user's tree; each step keeps the result of the query."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from google.protobuf.message import Message
from pyspark.sql.connect import proto

from lakelet.engine.base import EngineCapabilities
from lakelet.errors import DefinitionError
from lakelet.names import quote, split_name
from lakelet.plan.relation import (
    EXPRESSION,
    RELATION,
    Relation,
    children,
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

_HIDDEN = re.compile(rf"(?:^|\.)({METADATA}\w*)")

_PASSES_COLUMNS = {
    "filter", "sort", "limit", "offset", "tail", "sample", "hint", "with_watermark", "with_columns",
    "with_columns_renamed", "drop", "repartition", "repartition_by_expression", "subquery_alias", "fill_na", "drop_na",
    "replace", "aggregate", "project", "join", "lateral_join", "with_relations", "read",
}  # fmt: skip
"""Relations that hand the columns of their input on, or name what they use; the others must not see hidden ones."""


def normalize(relation: Relation, *, columns_of: Callable[[Relation], list[str]] | None = None) -> Relation:
    """Return the tree with SQL text opened up, file metadata as a hidden column and join keys that every engine finds.

    Args:
        columns_of: names of the columns of a part of the tree, for `frame["*"]`.
    """
    result = _map_relations(relation, lambda node: normalize_sql(node, next_plan_id) if _is_sql(node) else node)
    result = _name_metadata(result)
    if columns_of is not None:
        result = _expand_stars(result, columns_of)
    result = _resolve_join_keys(result)
    return hide_columns(result)


def _is_sql(relation: Relation) -> bool:
    kind = relation.WhichOneof("rel_type")
    if kind == "with_relations":
        return relation.with_relations.root.WhichOneof("rel_type") == "sql"
    return kind == "sql"


def _map_relations(relation: Relation, change: Callable[[Relation], Relation]) -> Relation:
    """Return a copy with `change` applied to every relation, parents first; not to the root of WithRelations."""
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
        expression.CopyFrom(_attribute(f"{METADATA}.file_path"))
    elif kind == "unresolved_attribute" and not shown:
        attribute = expression.unresolved_attribute
        found = _METADATA_NAME.match(attribute.unparsed_identifier)
        if found:
            rest = attribute.unparsed_identifier[found.end() :]
            attribute.unparsed_identifier = f"{found['frame'] or ''}{METADATA}{rest}"
            if not rest:
                expression.CopyFrom(_aliased(expression, "_metadata"))


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


_KEEPS = {
    proto.Join.JOIN_TYPE_INNER: ("left", "right"),
    proto.Join.JOIN_TYPE_LEFT_OUTER: ("left",),
    proto.Join.JOIN_TYPE_RIGHT_OUTER: ("right",),
    proto.Join.JOIN_TYPE_LEFT_SEMI: ("left",),
    proto.Join.JOIN_TYPE_LEFT_ANTI: ("left",),
}
"""Whose value the key of a USING join shows."""

Step = tuple[Relation, str]
"""A join on the way down, and the side on which the way goes on."""


def _resolve_join_keys(relation: Relation) -> Relation:
    """Make `frame.key`, and `alias.key`, work above USING joins.

    An engine may no longer find the key of a USING join through a DataFrame or an alias. Where all joins above show
    that frame's value, the reference goes to the topmost of them; otherwise the frame's side gets a hidden copy of the
    key, before the first join that shows another value, and the reference goes to that.
    """
    keys = {key.lower() for node in relations(relation) for key in node.join.using_columns}
    if not keys:
        return relation
    copies: dict[str, str] = {}
    for node in list(relations(relation)):
        for attribute in list(own_messages(node)):
            if attribute.DESCRIPTOR.name == "UnresolvedAttribute":
                _resolve_join_key(node, attribute, keys, copies)  # type: ignore[arg-type]
    for node in relations(relation):
        for expression in (*node.project.expressions, *node.aggregate.grouping_expressions):
            name = expression.unresolved_attribute.unparsed_identifier
            if name in copies:
                expression.CopyFrom(_aliased(expression, copies[name]))
    return relation


def _resolve_join_key(
    node: Relation, attribute: proto.Expression.UnresolvedAttribute, keys: set[str], copies: dict[str, str]
) -> None:
    try:
        *qualifier, key = split_name(attribute.unparsed_identifier)
    except DefinitionError:  # nothing that names a column: the engine says so
        return
    by_frame = attribute.HasField("plan_id")
    if key.lower() not in keys or by_frame == bool(qualifier):
        return
    wanted = attribute.plan_id if by_frame else [part.lower() for part in qualifier]
    paths = [path for item in children(node) for path in _paths(item, wanted)]
    if len(paths) != 1:
        return
    steps = [step for step in paths[0] if key.lower() in {name.lower() for name in step[0].join.using_columns}]
    if not steps or (by_frame and len(paths[0]) == 1 and node.WhichOneof("rel_type") != "join"):
        return  # with one join on the way, every engine finds the key by its frame
    hiding = [n for n, (join, side) in enumerate(steps) if side not in _KEEPS.get(join.join.join_type, ())]
    if not hiding:
        _refer(attribute, key, steps[0][0])
        return
    join, side = steps[hiding[-1]]
    value = proto.Expression()
    value.unresolved_attribute.CopyFrom(attribute)
    if hiding[-1] + 1 < len(steps):
        _refer(value.unresolved_attribute, key, steps[hiding[-1] + 1][0])
    name = f"{METADATA}_key{len(copies) + 1}"
    copies[name] = key
    child = getattr(join.join, side)
    copy = new()
    copy.with_columns.input.CopyFrom(child)
    column = copy.with_columns.aliases.add()
    column.expr.CopyFrom(value)
    column.name.append(name)
    child.CopyFrom(copy)
    attribute.unparsed_identifier = name
    attribute.ClearField("plan_id")


def _refer(attribute: proto.Expression.UnresolvedAttribute, key: str, node: Relation) -> None:
    if not node.common.HasField("plan_id"):
        node.common.plan_id = next_plan_id()
    attribute.unparsed_identifier = quote(key)
    attribute.plan_id = node.common.plan_id


def _paths(relation: Relation, wanted: int | list[str]) -> list[list[Step]]:
    """Return every way down to the relation with this plan id, or this alias, as (join, side) steps from the top."""
    if _is_wanted(relation, wanted):
        return [[]]
    result: list[list[Step]] = []
    kind = relation.WhichOneof("rel_type")
    if kind is None:
        return result
    for name, item in parts(getattr(relation, kind)):
        if item.DESCRIPTOR.full_name == RELATION:
            for path in _paths(item, wanted):  # type: ignore[arg-type]
                result.append([(relation, name), *path] if kind == "join" else path)
    return result


def _is_wanted(relation: Relation, wanted: int | list[str]) -> bool:
    if isinstance(wanted, int):
        return relation.common.HasField("plan_id") and relation.common.plan_id == wanted
    kind = relation.WhichOneof("rel_type")
    if kind == "subquery_alias":
        names = [*relation.subquery_alias.qualifier, relation.subquery_alias.alias]
    elif kind == "read" and relation.read.HasField("named_table"):
        names = split_name(relation.read.named_table.unparsed_identifier)
    else:
        return False
    return [name.lower() for name in names][-len(wanted) :] == wanted


def _expand_stars(relation: Relation, columns_of: Callable[[Relation], list[str]]) -> Relation:
    """Write `frame["*"]` out, and `alias.*` above USING joins: engines refuse the one, and lose the keys of the other.

    Args:
        columns_of: gives the names of the columns of a part of the tree.
    """
    for node in list(relations(relation)):
        if any(e.HasField("unresolved_star") for e in node.project.expressions):
            written = [item for e in node.project.expressions for item in _expanded(e, node.project.input, columns_of)]
            del node.project.expressions[:]
            node.project.expressions.extend(written)
    return relation


def _expanded(
    expression: proto.Expression, below: Relation, columns_of: Callable[[Relation], list[str]]
) -> list[proto.Expression]:
    star = expression.unresolved_star
    target = star.unparsed_target.removesuffix(".*")
    wanted: int | list[str]
    if star.HasField("plan_id"):
        wanted = star.plan_id
    elif target and any(node.join.using_columns for node in relations(below)):
        wanted = [part.lower() for part in split_name(target)]
    else:
        return [expression]
    frame = next((node for node in relations(below) if _is_wanted(node, wanted)), None)
    if frame is None:
        return [expression]
    result = []
    for name in columns_of(frame):
        column = _attribute(quote(name) if isinstance(wanted, int) else f"{target}.{quote(name)}")
        if isinstance(wanted, int):
            column.unresolved_attribute.plan_id = wanted
        result.append(column)
    return result


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
    """Return the tree without `withWatermark` nodes; references to them go to what they stood on.

    Over a batch, `dropDuplicatesWithinWatermark` is `dropDuplicates`.
    """
    result = Relation()
    result.CopyFrom(relation)
    moved: dict[int, int] = {}
    for node in relations(result):
        if node.WhichOneof("rel_type") == "deduplicate":
            node.deduplicate.within_watermark = False
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
                    "current_date": "date", "curdate": "date", "unix_timestamp": "seconds"}  # fmt: skip


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
            elif kind == "seconds":
                literal.literal.long = int(at.timestamp())
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


_VOLATILE = {
    "rand", "random", "randn", "randstr", "uniform", "uuid", "shuffle", "monotonically_increasing_id", *_CLOCK_FUNCTIONS
}  # fmt: skip
_VOLATILE_TEXT = re.compile(
    rf"\b(?:{'|'.join(sorted(_VOLATILE))})\s*\(|\b(?:current_timestamp|current_date|localtimestamp)\b", re.IGNORECASE
)


def is_volatile(relation: Relation) -> bool:
    """Return whether the tree may give other rows for the same input: clocks, random numbers, user functions."""
    for message in messages(relation):
        match message.DESCRIPTOR.name:
            case "UnresolvedFunction" if message.function_name.lower() in _VOLATILE:  # type: ignore[attr-defined]
                # With an argument, `unix_timestamp` reads no clock, and a seed does not make random numbers sure: rows
                # may come in another order.
                if message.function_name.lower() != "unix_timestamp" or not message.arguments:  # type: ignore[attr-defined]
                    return True
            case "CommonInlineUserDefinedFunction" if not message.deterministic:  # type: ignore[attr-defined]
                return True
            case "SQL" if _VOLATILE_TEXT.search(message.query):  # type: ignore[attr-defined]
                return True
            case "ExpressionString" if _VOLATILE_TEXT.search(message.expression):  # type: ignore[attr-defined]
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
        name = message.DESCRIPTOR.name
        refers = name in ("UnresolvedAttribute", "UnresolvedStar", "UnresolvedRegex") and message.HasField("plan_id")
        if refers or name == "SubqueryExpression":
            message.plan_id = ids.get(message.plan_id, message.plan_id)  # type: ignore[attr-defined]
    views: dict[bytes, bytes] = {}
    text = _VIEW_OF_SQL.sub(
        lambda found: views.setdefault(found[0], b"view %d" % len(views)), result.SerializeToString(deterministic=True)
    )
    return hashlib.sha256(text).hexdigest()


_VIEW_OF_SQL = re.compile(rb"_pyspark_connect_temp_view_[0-9a-f]+|lk_sql_[0-9]+")
"""What the client calls `{frame}` in `spark.sql`, and what its tables are called: other names in every process."""
