"""Operators over a stream that remember rows of earlier micro-batches: which node of a tree is one, and what it reads."""

from __future__ import annotations

import enum
from collections.abc import Iterator

from lakelet.names import split_name
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, children, messages, relations
from lakelet.plan.sources import is_streaming


class Operator(enum.Enum):
    """Kinds of state, by what users call them."""

    DEDUPLICATE = "dropDuplicates"
    DEDUPLICATE_WITHIN_WATERMARK = "dropDuplicatesWithinWatermark"
    AGGREGATE = "aggregation"
    JOIN = "stream-stream join"


def operator_of(relation: Relation) -> Operator | None:
    """Return which operator with state `relation` itself is, None if it works row by row."""
    match relation.WhichOneof("rel_type"):
        case "deduplicate" if is_streaming(relation.deduplicate.input):
            within = relation.deduplicate.within_watermark
            return Operator.DEDUPLICATE_WITHIN_WATERMARK if within else Operator.DEDUPLICATE
        case "aggregate" if is_streaming(relation.aggregate.input):
            return Operator.AGGREGATE
        case "join" if is_streaming(relation.join.left) and is_streaming(relation.join.right):
            return Operator.JOIN
        case _:
            return None


def inputs_of(node: Relation) -> tuple[Relation, ...]:
    """Return what an operator reads: one relation, of a join the left and the right one."""
    match node.WhichOneof("rel_type"):
        case "deduplicate":
            return (node.deduplicate.input,)
        case "aggregate":
            return (node.aggregate.input,)
        case "join":
            return (node.join.left, node.join.right)
        case kind:
            raise AssertionError(f"`{kind}` keeps no state")


def operators(relation: Relation) -> Iterator[Relation]:
    """Yield the operators with state of a tree, those above first; views are not followed."""
    if operator_of(relation) is not None:
        yield relation
    for item in children(relation):
        yield from operators(item)


def stand_in(node: Relation, rows: Relation) -> Relation:
    """Return `rows` in the place of an operator: with its plan id, and the table name by which its columns are known."""
    name = visible_name(node)
    plan_id = node.common.plan_id if node.common.HasField("plan_id") else plan.next_plan_id()
    if name:
        return plan.alias(rows, name[-1], name[:-1], plan_id=plan_id)
    result = Relation()
    result.CopyFrom(rows)
    result.common.plan_id = plan_id
    return result


def redirected(tree: Relation, node: Relation, replacement_id: int) -> Relation:
    """Return a tree whose column references into the subtree of `node`, which it has no more, go to its stand-in."""
    gone = {item.common.plan_id for item in relations(node) if item.common.HasField("plan_id")}
    result = Relation()
    result.CopyFrom(tree)
    for message in messages(result):
        if message.DESCRIPTOR.name not in ("UnresolvedAttribute", "UnresolvedStar", "UnresolvedRegex"):
            continue
        if message.HasField("plan_id") and message.plan_id in gone:  # type: ignore[attr-defined]
            message.plan_id = replacement_id  # type: ignore[attr-defined]
    return result


def visible_name(node: Relation) -> tuple[str, ...]:
    """Return the alias or table name that stands nearest below an operator, empty if there is none or more than one."""
    current = node
    while True:
        kind = current.WhichOneof("rel_type")
        if kind == "subquery_alias":
            return (*current.subquery_alias.qualifier, current.subquery_alias.alias)
        if kind == "read":
            if not current.read.HasField("named_table"):
                return ()
            parts = split_name(current.read.named_table.unparsed_identifier)
            return () if any("/" in part for part in parts) else tuple(part for part in parts if part.lower() != "live")
        below = list(children(current))
        if len(below) != 1:
            return ()
        current = below[0]
