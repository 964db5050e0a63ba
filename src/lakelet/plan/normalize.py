"""What an engine needs rewritten before it can run a user's tree; each step keeps the result of the query."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import Message

from lakelet.engine.base import EngineCapabilities
from lakelet.plan.constant_hashes import with_rows_in_hashes
from lakelet.plan.join_keys import expand_stars, resolve_join_keys
from lakelet.plan.metadata import hide_columns, name_metadata
from lakelet.plan.relation import RELATION, Relation, messages, next_plan_id, parts, relations
from lakelet.plan.sql import normalize_sql
from lakelet.plan.sql_engine import for_engine
from lakelet.plan.sql_json_paths import with_json_paths
from lakelet.plan.sql_operators import operators_of_sql


def normalize(relation: Relation, *, columns_of: Callable[[Relation], list[str]] | None = None) -> Relation:
    """Return the tree with SQL text opened up, file metadata as a hidden column and join keys that every engine finds.

    Args:
        columns_of: names of the columns of a part of the tree, for `frame["*"]`.
    """
    result = _map_relations(
        relation,
        lambda node: operators_of_sql(normalize_sql(_with_json_paths(node), next_plan_id)) if _is_sql(node) else node,
    )
    result = name_metadata(result)
    if columns_of is not None:
        result = expand_stars(result, columns_of)
    result = resolve_join_keys(result)
    return hide_columns(result)


def _is_sql(relation: Relation) -> bool:
    kind = relation.WhichOneof("rel_type")
    if kind == "with_relations":
        return relation.with_relations.root.WhichOneof("rel_type") == "sql"
    return kind == "sql"


def _with_json_paths(relation: Relation) -> Relation:
    """Return a node of SQL text, with its paths into JSON as functions."""
    own = relation.with_relations.root.sql if relation.HasField("with_relations") else relation.sql
    query = with_json_paths(own.query)
    if query == own.query:
        return relation
    result = Relation()
    result.CopyFrom(relation)
    (result.with_relations.root.sql if result.HasField("with_relations") else result.sql).query = query
    return result


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


def runnable(relation: Relation, capabilities: EngineCapabilities) -> Relation:
    """Return the tree without what the engine cannot do and a batch does not need."""
    result = relation if capabilities.batch_watermark else without_watermarks(relation)
    if not capabilities.group_by_all:
        for message in messages(result):
            if message.DESCRIPTOR.name == "SQL":
                message.query = for_engine(message.query)  # type: ignore[attr-defined]
    if not capabilities.hashes_constants:
        result = with_rows_in_hashes(result)
    return result


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
