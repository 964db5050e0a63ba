"""Which trees can follow appended rows, and the trees that do it.

A tree is *linear* in a leaf if its rows over `old ∪ new` are its rows over `old` and its rows over `new`, duplicates counted:
row-wise operators, UNION ALL, and joins whose other side stands still. Over a linear tree there may be one aggregation by
groups, and above it operators that work on each group by itself.

Functions here see a tree whose views are part of it, and whose leaves are numbered (`numbered`). They change no argument.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass

from pyspark.sql.connect import proto

from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, children, own_messages, relations
from lakelet.plan.row_wise import AGGREGATE, SUBQUERY, WINDOW, beyond_the_row
from lakelet.plan.stateful import redirected, stand_in

_INPUT = "__lakelet_input_"
ROW_WISE = frozenset({
    "project", "filter", "with_columns", "with_columns_renamed", "drop", "subquery_alias", "to_df", "to_schema", "hint",
    "repartition", "repartition_by_expression", "with_watermark", "fill_na", "drop_na", "replace", "sort",
})  # fmt: skip
"""Operators with one input whose rows come from one row each. A sort without a limit says nothing about which rows there are."""
_CONSTANT = frozenset({"local_relation", "range", "cached_local_relation"})
_LEFT_FOLLOWS = frozenset({1, 3, 5, 6, 7})
"""Joins linear in their left side: inner, left outer, left anti, left semi, cross."""
_RIGHT_FOLLOWS = frozenset({1, 4, 7})
_BOTH_FOLLOW = frozenset({1, 7})
_JOINS = {1: "inner", 2: "full outer", 3: "left", 4: "right", 5: "anti", 6: "semi", 7: "cross"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """Why a view is not refreshed in a cheaper way.

    Attributes:
        type: Databricks' name for it, such as PLAN_NOT_INCREMENTALIZABLE.
        text: what exactly it is, for people.
        detail: Databricks' name for the construct, such as AGGREGATE_NOT_TOP_NODE.
    """

    type: str
    text: str
    detail: str | None = None


class Role(enum.Enum):
    """What a leaf is in one of the trees: its rows as they are now, as they were, those added since, or none."""

    NEW = "new"
    OLD = "old"
    ADDED = "added"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class IncrementalForm:
    """A tree that can follow appended rows.

    Attributes:
        above: operators above the aggregation, the topmost first; empty without one.
        aggregate: the aggregation, None where the tree is linear itself.
        below: the linear tree.
    """

    above: tuple[Relation, ...]
    aggregate: Relation | None
    below: Relation


def numbered(number: int, role: Role = Role.NEW) -> Relation:
    """Return what stands for leaf `number` of a tree."""
    return plan.named(f"{_INPUT}{number}_{role.value}")


def number_of(node: Relation) -> tuple[int, Role] | None:
    """Return which leaf `node` stands for, None for any other relation."""
    name = node.read.named_table.unparsed_identifier if node.WhichOneof("rel_type") == "read" else ""
    if not name.startswith(_INPUT):
        return None
    number, _, role = name.removeprefix(_INPUT).partition("_")
    return int(number), Role(role)


def incremental_form(tree: Relation) -> IncrementalForm | Issue:
    """Return the form of a tree, or what keeps it from having one."""
    above: list[Relation] = []
    node = tree
    while (kind := node.WhichOneof("rel_type")) in ROW_WISE and beyond_the_row(own_messages(node)) is None:
        above.append(node)
        node = getattr(node, kind or "").input
    aggregate = _as_aggregate(node)
    if aggregate is None:
        issue = _linear_issue(tree)
        return issue or IncrementalForm(above=(), aggregate=None, below=tree)
    issue = _aggregate_issue(aggregate) or _linear_issue(aggregate.aggregate.input)
    return issue or IncrementalForm(above=tuple(above), aggregate=aggregate, below=aggregate.aggregate.input)


def _as_aggregate(node: Relation) -> Relation | None:
    """Return a node that aggregates, one that does so in a `select` or as `distinct` rewritten; None for any other."""
    kind = node.WhichOneof("rel_type")
    if kind == "aggregate":
        return node
    if kind == "project" and beyond_the_row(own_messages(node)) == AGGREGATE:
        result = Relation()
        result.common.CopyFrom(node.common)
        result.aggregate.input.CopyFrom(node.project.input)
        result.aggregate.group_type = proto.Aggregate.GROUP_TYPE_GROUPBY
        result.aggregate.aggregate_expressions.extend(node.project.expressions)
        return result
    return None


def _aggregate_issue(node: Relation) -> Issue | None:
    kind = node.aggregate.group_type
    if kind != proto.Aggregate.GROUP_TYPE_GROUPBY:
        name = proto.Aggregate.GroupType.Name(kind).removeprefix("GROUP_TYPE_").lower().replace("_", " ")
        return _not_incremental(f"it groups by {name}")
    beyond = beyond_the_row(
        message for item in node.aggregate.grouping_expressions for message in plan.messages(item)
    )  # fmt: skip
    if beyond is not None:
        return _not_incremental(f"it groups by {beyond}")
    return None


def _linear_issue(node: Relation) -> Issue | None:
    """Return what keeps a tree from being linear in any of its leaves."""
    kind = node.WhichOneof("rel_type") or "nothing"
    if number_of(node) is not None or kind in _CONSTANT:
        return None
    beyond = beyond_the_row(own_messages(node))
    if kind == "aggregate" or beyond == AGGREGATE:
        return _not_incremental("an aggregation stands below another operator on many rows", "AGGREGATE_NOT_TOP_NODE")
    if beyond is not None:
        detail = {SUBQUERY: "SUBQUERY_EXPRESSION", WINDOW: "WINDOW_FUNCTION"}[beyond]
        return _not_incremental(f"it has {beyond}", detail)
    is_union = kind == "set_op" and node.set_op.set_op_type == proto.SetOperation.SET_OP_TYPE_UNION
    if kind in ROW_WISE or kind == "join" or (is_union and node.set_op.is_all):
        return next((issue for item in children(node) if (issue := _linear_issue(item))), None)
    return _not_incremental(f"it has the operator `{_shown(node)}`")


def _shown(node: Relation) -> str:
    kind = node.WhichOneof("rel_type") or "nothing"
    if kind == "set_op":
        name = proto.SetOperation.SetOpType.Name(node.set_op.set_op_type).removeprefix("SET_OP_TYPE_").lower()
        return name if node.set_op.is_all else f"{name} distinct"
    return {"with_relations": "sql", "deduplicate": "distinct"}.get(kind, kind)


def _not_incremental(text: str, detail: str | None = None) -> Issue:
    return Issue(type="PLAN_NOT_INCREMENTALIZABLE", text=text, detail=detail)


# -- the rows that appends bring ----------------------------------------------------------------------------------


def added_rows(below: Relation, changed: Collection[int]) -> tuple[Relation, ...] | Issue:
    """Return trees whose rows together are what a linear tree gains, its leaves marked with their roles.

    Of an inner join of two tables that both grew, the rows are `added ⋈ new` and `old ⋈ added`. A side that did not grow is
    read as it is now: files of its older versions may be gone.

    Args:
        changed: the leaves that have rows appended.
    """
    number = number_of(below)
    if number is not None:
        return (numbered(number[0], Role.ADDED),) if number[0] in changed else ()
    kind = below.WhichOneof("rel_type") or ""
    if kind in ROW_WISE:
        found = added_rows(getattr(below, kind).input, changed)
        return found if isinstance(found, Issue) else tuple(_with_input(below, kind, "input", item) for item in found)
    if kind == "set_op":
        return _added_by_union(below, changed)
    if kind == "join":
        return _added_by_join(below, changed)
    return ()


def _added_by_union(node: Relation, changed: Collection[int]) -> tuple[Relation, ...] | Issue:
    """Each side's new rows beside none of the other's, which keeps the columns and types of the union.

    The condition is one that no optimizer sees through: the embedded engine loses column names where it removes a side.
    """
    result: list[Relation] = []
    for side, other in (("left_input", "right_input"), ("right_input", "left_input")):
        found = added_rows(getattr(node.set_op, side), changed)
        if isinstance(found, Issue):
            return found
        nothing = with_role(getattr(node.set_op, other), Role.NONE)
        for item in found:
            part = _with_input(node, "set_op", side, item)
            getattr(part.set_op, other).CopyFrom(
                _in_place_of(plan.filtered(nothing, plan.expression("rand() < -1")), nothing)
            )
            result.append(part)
    return tuple(result)


def _added_by_join(node: Relation, changed: Collection[int]) -> tuple[Relation, ...] | Issue:
    join = node.join
    left, right = added_rows(join.left, changed), added_rows(join.right, changed)
    if isinstance(left, Issue) or isinstance(right, Issue):
        return left if isinstance(left, Issue) else right
    allowed = _BOTH_FOLLOW if left and right else _LEFT_FOLLOWS if left else _RIGHT_FOLLOWS
    if (left or right) and join.join_type not in allowed:
        side = "both sides" if left and right else "the left side" if left else "the right side"
        kind = _JOINS.get(join.join_type, "this")
        return Issue(
            type="DATA_HAS_CHANGED", text=f"{side} of {'an' if kind[0] in 'aeiou' else 'a'} {kind} join has changed"
        )
    with_left = [
        _with_input(_with_input(node, "join", "left", item), "join", "right", with_role(join.right, Role.NEW))
        for item in left
    ]
    before = with_role(join.left, Role.OLD if left else Role.NEW)
    with_right = [_with_input(_with_input(node, "join", "right", item), "join", "left", before) for item in right]
    return tuple(with_left + with_right)


def _with_input(node: Relation, kind: str, side: str, item: Relation) -> Relation:
    result = Relation()
    result.CopyFrom(node)
    getattr(getattr(result, kind), side).CopyFrom(_in_place_of(item, getattr(getattr(node, kind), side)))
    return result


def _in_place_of(item: Relation, node: Relation) -> Relation:
    """Return `item` with the plan id of the node that it stands for."""
    result = Relation()
    result.CopyFrom(item)
    if node.common.HasField("plan_id"):
        result.common.plan_id = node.common.plan_id
    return result


def with_role(tree: Relation, role: Role) -> Relation:
    """Return a tree in which every leaf has the same role."""

    def replacement(node: Relation) -> Relation | None:
        found = number_of(node)
        return None if found is None else _in_place_of(numbered(found[0], role), node)

    return plan.substitute(tree, replacement)


# -- above the aggregation ----------------------------------------------------------------------------------------


def over_groups(form: IncrementalForm, groups: Relation) -> Relation:
    """Return the query's rows of some groups.

    Args:
        groups: has the columns of the aggregation.
    """
    assert form.aggregate is not None
    rows = stand_in(form.aggregate, groups)
    plan_id = rows.common.plan_id
    for node in reversed(form.above):
        rows = _with_input(node, node.WhichOneof("rel_type") or "", "input", rows)
    return redirected(rows, _without_id(form.aggregate), plan_id)


def _without_id(node: Relation) -> Relation:
    result = Relation()
    result.CopyFrom(node)
    result.common.ClearField("plan_id")
    return result


def leaf_numbers(tree: Relation) -> set[int]:
    """Return the leaves that a tree reads."""
    return {found[0] for node in relations(tree) if (found := number_of(node)) is not None}
