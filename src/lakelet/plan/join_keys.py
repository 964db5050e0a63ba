"""Keys of USING joins, and `frame["*"]`, written so that every engine finds them."""

from __future__ import annotations

from collections.abc import Callable

from pyspark.sql.connect import proto

from lakelet.errors import DefinitionError
from lakelet.names import quote, split_name
from lakelet.plan.metadata import METADATA
from lakelet.plan.relation import (
    RELATION,
    Relation,
    aliased,
    attribute,
    children,
    new,
    next_plan_id,
    own_messages,
    parts,
    relations,
)

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


def resolve_join_keys(relation: Relation) -> Relation:
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
        for item in list(own_messages(node)):
            if item.DESCRIPTOR.name == "UnresolvedAttribute":
                _resolve_join_key(node, item, keys, copies)  # type: ignore[arg-type]
    for node in relations(relation):
        for expression in (*node.project.expressions, *node.aggregate.grouping_expressions):
            name = expression.unresolved_attribute.unparsed_identifier
            if name in copies:
                expression.CopyFrom(aliased(expression, copies[name]))
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


def expand_stars(relation: Relation, columns_of: Callable[[Relation], list[str]]) -> Relation:
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
        column = attribute(quote(name) if isinstance(wanted, int) else f"{target}.{quote(name)}")
        if isinstance(wanted, int):
            column.unresolved_attribute.plan_id = wanted
        result.append(column)
    return result
