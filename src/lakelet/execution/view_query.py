"""The query of a materialized view as an incremental refresh sees it: its form, and its leaves in their roles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pyspark.sql.connect import proto
from pyspark.sql.types import DataType, StructType

from lakelet.errors import QueryError
from lakelet.execution.binding import InlinedLeaf
from lakelet.plan import relation as plan
from lakelet.plan.clock import is_volatile
from lakelet.plan.group_query import GroupQuery, group_query, with_unit
from lakelet.plan.incremental import IncrementalForm, Issue, Role, incremental_form, number_of, with_role
from lakelet.plan.metadata import reads_metadata
from lakelet.plan.normalize import runnable, without_watermarks
from lakelet.plan.partial_aggregates import Measure, Merge
from lakelet.plan.relation import Relation, relations
from lakelet.plan.sql_select import as_relations

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.dataflow_graph import ResolvedFlow

_NUMBERS = {"byte", "short", "integer", "long", "float", "double", "decimal"}
_ORDERED = _NUMBERS | {"string", "boolean", "date", "timestamp", "timestamp_ntz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewQuery:
    """What the query of a view allows.

    Attributes:
        issue: why it cannot be refreshed incrementally; then `form` is None.
        groups: the two steps of its aggregation, None without one.
    """

    leaves: tuple[InlinedLeaf, ...] = ()
    issue: Issue | None = None
    form: IncrementalForm | None = None
    groups: GroupQuery | None = None

    @property
    def technique(self) -> str:
        """The cheapest way to refresh the view when tables that it reads have grown."""
        if self.form is None:
            return "COMPLETE_RECOMPUTE"
        return "APPEND_ONLY" if self.groups is None else "GROUP_AGGREGATE"


def view_query(context: UpdateContext, flow: ResolvedFlow) -> ViewQuery:
    """Return what the query of a view allows; the engine analyses the trees that a refresh would run."""
    origin = context.origin(flow)
    if any(is_volatile(tree) for tree, _ in [(flow.relation, ()), *context.binder.view_trees(flow.relation, origin)]):
        return ViewQuery(issue=Issue(type="PLAN_NOT_DETERMINISTIC", text="it may give other rows for the same input"))
    inlined = context.binder.inlined(flow.relation, origin)
    if inlined.has_rules:
        return ViewQuery(
            issue=Issue(
                type="EXPECTATIONS_NOT_SUPPORTED", text="it reads a view with expectations, whose rows are all counted"
            )
        )
    outside = [item.leaf.shown for item in inlined.leaves if item.location is None]
    if outside:
        return ViewQuery(issue=Issue(type="INPUT_NOT_IN_DELTA", text=f"`{outside[0]}` is no Delta table"))
    if reads_metadata(inlined.tree):
        return ViewQuery(issue=Issue(type="PLAN_NOT_INCREMENTALIZABLE", text="it reads file metadata"))
    view = context.resolver.output_schema(flow.flow)
    tree = with_relations_for_sql(without_watermarks(inlined.tree), view.names)
    form = incremental_form(tree)
    if isinstance(form, Issue):
        return ViewQuery(issue=form)
    query = ViewQuery(leaves=inlined.leaves, form=form)
    if form.aggregate is None:
        issue = _same_columns(context, nothing(context, flow, query, form.below), view)
        return query if issue is None else ViewQuery(issue=issue)
    groups = _groups(context, flow, query)
    return ViewQuery(issue=groups) if isinstance(groups, Issue) else replace(query, groups=groups)


def with_relations_for_sql(tree: Relation, names: Sequence[str]) -> Relation:
    """Return a tree with its SQL of the common shape as relations.

    Args:
        names: of the columns of the whole.
    """
    result = Relation()
    result.CopyFrom(as_relations(tree, names) or tree)
    while True:
        made = next(
            ((node, found) for node in relations(result) if (found := as_relations(node, None)) is not None), None
        )
        if made is None:
            return result
        node, found = made
        node.CopyFrom(found)


def bound(context: UpdateContext, query: ViewQuery, tree: Relation, rows: Callable[[int, Role], Relation]) -> Relation:
    """Return a tree that the engine can run.

    Args:
        rows: gives the rows of a leaf in a role.
    """

    def replacement(node: Relation) -> Relation | None:
        found = number_of(node)
        if found is None:
            return None
        result = Relation()
        result.CopyFrom(rows(*found))
        if node.common.HasField("plan_id"):
            result.common.plan_id = node.common.plan_id
        return result

    return runnable(plan.substitute(tree, replacement), context.engine.capabilities)


def nothing(context: UpdateContext, flow: ResolvedFlow, query: ViewQuery, tree: Relation) -> Relation:
    """Return a tree over no rows, to be analysed."""
    origin = context.origin(flow)
    return bound(
        context,
        query,
        with_role(tree, Role.NONE),
        lambda number, _: plan.empty(context.resolver.leaf_schema(query.leaves[number].leaf, origin)),
    )


def _groups(context: UpdateContext, flow: ResolvedFlow, query: ViewQuery) -> GroupQuery | Issue:
    """Return the two steps of the aggregation, if the engine finds in them what it finds in the query."""
    form = query.form
    assert form is not None and form.aggregate is not None
    view = context.resolver.output_schema(flow.flow)
    try:
        columns = context.engine.schema(nothing(context, flow, query, form.aggregate))
    except QueryError:
        return _refused("the engine cannot compute its aggregation by itself")

    def type_of(value: proto.Expression) -> DataType:
        assert form is not None and form.aggregate is not None
        alone = Relation()
        alone.CopyFrom(form.aggregate)
        del alone.aggregate.grouping_expressions[:], alone.aggregate.aggregate_expressions[:]
        alone.aggregate.aggregate_expressions.append(value)
        return context.engine.schema(nothing(context, flow, query, alone)).fields[0].dataType

    try:
        groups = group_query(form, columns, type_of)
    except QueryError:
        return _refused("the engine cannot compute its aggregate functions by themselves")
    if isinstance(groups, Issue):
        return groups
    with_units = with_unit(groups, view)
    try:
        partial = context.engine.schema(nothing(context, flow, query, with_units.partial(form.below)))
    except QueryError:
        if not with_units.unit:
            return _refused("the engine cannot compute it in two steps")
        with_units = groups  # what is above the aggregation cannot be computed without it: the view is written whole
        try:
            partial = context.engine.schema(nothing(context, flow, query, groups.partial(form.below)))
        except QueryError:
            return _refused("the engine cannot compute it in two steps")
    issue = next((issue for measure in groups.measures if (issue := _type_issue(measure, partial))), None)
    if issue is not None:
        return issue
    kept = with_units.finished(plan.empty(_kept(groups, partial)))
    types = [kind.simpleString() for kind in with_units.hashed]
    return _same_columns(context, runnable(kept, context.engine.capabilities), view) or replace(
        with_units, kept=f"{partial.simpleString()} {','.join(types)}"
    )


def _same_columns(context: UpdateContext, tree: Relation, view: StructType) -> Issue | None:
    """Check that a tree that a refresh runs has the columns of the view's query."""
    try:
        columns = context.engine.schema(tree)
    except QueryError as error:
        return _refused(f"a part of its query needs more than its own input ({error.message})")
    if [(c.name, c.dataType) for c in columns.fields] != [(c.name, c.dataType) for c in view.fields]:
        return _refused("its columns have other names or types when they are computed in parts")
    return None


def _kept(groups: GroupQuery, partial: StructType) -> StructType:
    """Return the columns that are kept of partial values: of distinct values their number."""
    from pyspark.sql.types import LongType

    distinct = {name for m in groups.measures if m.merge is Merge.DISTINCT for name in m.columns}
    result = StructType()
    for column in partial.fields:
        result.add(column.name, LongType() if column.name in distinct else column.dataType, True)
    return result


def _type_issue(measure: Measure, partial: StructType) -> Issue | None:
    allowed = {Merge.ADD: _NUMBERS, Merge.MOMENTS: _NUMBERS, Merge.MIN: _ORDERED, Merge.MAX: _ORDERED}.get(
        measure.merge
    )
    for name in measure.columns:
        kind = partial[name].dataType
        if allowed is not None and _type_name(kind) not in allowed:
            return _refused(f"an aggregate function over {kind.simpleString()} cannot go on from a partial value")
    return None


def _type_name(kind: DataType) -> str:
    return kind.typeName().split("(")[0]


def _refused(text: str) -> Issue:
    return Issue(type="PLAN_NOT_INCREMENTALIZABLE", text=text)
