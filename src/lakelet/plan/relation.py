"""Spark Connect relations as data: build, walk, substitute.

A relation is the protobuf message `spark.connect.Relation`; a tree of them is what a DataFrame is before anything runs.
Functions here never change their arguments.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from google.protobuf.message import Message
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema

from lakelet.engine.paths import readable_path
from lakelet.errors import Origin
from lakelet.plan.simple_text import simple_expression

if TYPE_CHECKING:
    from pyspark.sql.types import StructType

Relation = proto.Relation
RELATION = Relation.DESCRIPTOR.full_name
EXPRESSION = proto.Expression.DESCRIPTOR.full_name

_plan_ids = itertools.count(1_000_000_000)
"""Above every id that a client hands out in one session, so that ours never meet the user's."""


def next_plan_id() -> int:
    """Return a plan id that no other relation of this process has."""
    return next(_plan_ids)


# -- build --------------------------------------------------------------------------------------------------------


def new() -> Relation:
    """Return an empty relation with a plan id of its own."""
    relation = Relation()
    relation.common.plan_id = next_plan_id()
    return relation


def local(table: pa.Table) -> Relation:
    """Return a relation that carries the rows of `table` itself."""
    relation = new()
    if table.num_rows == 0:
        relation.local_relation.schema = from_arrow_schema(table.schema).json()
        return relation
    if any(_has_instants(field.type) for field in table.schema):
        # Sail takes instants without it to be in the zone of their Arrow type and not in the session's.
        relation.local_relation.schema = from_arrow_schema(table.schema).json()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    relation.local_relation.data = sink.getvalue().to_pybytes()
    return relation


def _has_instants(kind: pa.DataType) -> bool:
    if pa.types.is_timestamp(kind):
        return kind.tz is not None
    return any(_has_instants(kind.field(number).type) for number in range(kind.num_fields))


def empty(schema: StructType) -> Relation:
    """Return a relation without rows, for analysis."""
    relation = new()
    relation.local_relation.schema = schema.json()
    return relation


def delta(path: str, version: int, columns: StructType | None = None) -> Relation:
    """Return a pinned version of the Delta table at `path`.

    Args:
        columns: its columns, for an engine that needs to be told.
    """
    relation = new()
    relation.read.data_source.format = "delta"
    relation.read.data_source.paths.append(readable_path(path))
    relation.read.data_source.options["versionAsOf"] = str(version)
    if columns is not None:
        relation.read.data_source.schema = columns.json()
    return relation


def parquet(paths: list[str], schema: StructType) -> Relation:
    """Return the rows of Parquet files that all have (a subset of) the columns of `schema`."""
    relation = new()
    relation.read.data_source.format = "parquet"
    relation.read.data_source.schema = schema.json()
    relation.read.data_source.paths.extend(paths)
    return relation


def named(name: str, *, streaming: bool = False) -> Relation:
    """Return a read of a table by name, as `spark.read.table` makes it."""
    relation = new()
    relation.read.named_table.unparsed_identifier = name
    relation.read.is_streaming = streaming
    return relation


def alias(source: Relation, name: str, qualifier: tuple[str, ...] = (), *, plan_id: int | None = None) -> Relation:
    """Return `source` under a table name; `plan_id` keeps references to the node that it stands for."""
    relation = Relation()
    relation.common.plan_id = next_plan_id() if plan_id is None else plan_id
    relation.subquery_alias.alias = name
    relation.subquery_alias.qualifier.extend(qualifier)
    relation.subquery_alias.input.CopyFrom(source)
    return relation


def sql(query: str, sources: Mapping[str, Relation] | None = None) -> Relation:
    """Return the result of a SQL query; its tables are the names of `sources`."""
    root = new()
    root.sql.query = query
    if not sources:
        return root
    relation = new()
    relation.with_relations.root.CopyFrom(root)
    for name, source in sources.items():
        relation.with_relations.references.append(alias(source, name))
    return relation


def expression(text: str) -> proto.Expression:
    """Return SQL text as an expression; one that needs no parser is sent as a tree."""
    if (simple := simple_expression(text)) is not None:
        return simple
    result = proto.Expression()
    result.expression_string.expression = text
    return result


def expression_of(condition: Any) -> proto.Expression:
    """Return SQL text or a pyspark Column as an expression."""
    if isinstance(condition, str):
        return expression(condition)
    result: proto.Expression = condition.to_plan(None)
    return result


def attribute(name: str) -> proto.Expression:
    """Return a column by its name, as the user spells it."""
    result = proto.Expression()
    result.unresolved_attribute.unparsed_identifier = name
    return result


def aliased(value: proto.Expression, name: str) -> proto.Expression:
    """Return an expression under a name."""
    result = proto.Expression()
    result.alias.expr.CopyFrom(value)
    result.alias.name.append(name)
    return result


def call(function: str, *arguments: proto.Expression) -> proto.Expression:
    """Return a call of a built-in function."""
    result = proto.Expression()
    result.unresolved_function.function_name = function
    result.unresolved_function.arguments.extend(arguments)
    return result


def is_true(condition: proto.Expression) -> proto.Expression:
    """Return `condition IS TRUE`: NULL counts as not true."""
    literal = proto.Expression()
    literal.literal.boolean = False
    return call("coalesce", condition, literal)


def is_not_true(condition: proto.Expression) -> proto.Expression:
    """Return `condition IS NOT TRUE`."""
    return call("not", is_true(condition))


def with_columns(source: Relation, columns: Mapping[str, proto.Expression]) -> Relation:
    """Return `source` with columns added at the end."""
    relation = new()
    relation.with_columns.input.CopyFrom(source)
    for name, value in columns.items():
        column = relation.with_columns.aliases.add()
        column.expr.CopyFrom(value)
        column.name.append(name)
    return relation


def selected(source: Relation, columns: Mapping[str, proto.Expression]) -> Relation:
    """Return `source` with these columns and no others."""
    relation = new()
    relation.project.input.CopyFrom(source)
    relation.project.expressions.extend(aliased(value, name) for name, value in columns.items())
    return relation


def dropped(source: Relation, columns: Iterable[str]) -> Relation:
    """Return `source` without these columns, as it names them."""
    relation = new()
    relation.drop.input.CopyFrom(source)
    relation.drop.column_names.extend(columns)
    return relation


def joined(left: Relation, right: Relation, kind: proto.Join.JoinType.ValueType, using: Iterable[str]) -> Relation:
    """Return a join by columns of the same name."""
    relation = new()
    relation.join.left.CopyFrom(left)
    relation.join.right.CopyFrom(right)
    relation.join.join_type = kind
    relation.join.using_columns.extend(using)
    return relation


def filtered(source: Relation, condition: proto.Expression) -> Relation:
    """Return the rows of `source` for which `condition` is true."""
    relation = new()
    relation.filter.input.CopyFrom(source)
    relation.filter.condition.CopyFrom(condition)
    return relation


def clustered(source: Relation, names: Iterable[str]) -> Relation:
    """Return the rows of `source`, those with the same values of some columns in one partition, next to each other."""
    names = tuple(names)
    columns = [attribute(name) for name in names]
    gathered = new()
    gathered.repartition_by_expression.input.CopyFrom(source)
    gathered.repartition_by_expression.partition_exprs.extend(columns)
    return ordered(gathered, names)


def ordered(source: Relation, names: Iterable[str]) -> Relation:
    """Return the rows of `source`, each partition in the order of some columns."""
    relation = new()
    relation.sort.input.CopyFrom(source)
    relation.sort.is_global = False
    for name in names:
        order = relation.sort.order.add()
        order.child.CopyFrom(attribute(name))
        order.direction = proto.Expression.SortOrder.SORT_DIRECTION_ASCENDING
        order.null_ordering = proto.Expression.SortOrder.SORT_NULLS_FIRST
    return relation


def limited(source: Relation, rows: int) -> Relation:
    """Return at most `rows` rows."""
    relation = new()
    relation.limit.input.CopyFrom(source)
    relation.limit.limit = rows
    return relation


def aggregated(
    source: Relation, measures: Mapping[str, proto.Expression], *, by: Mapping[str, proto.Expression] | None = None
) -> Relation:
    """Return the measures over the rows of `source`: one row, or one for each group of `by`."""
    relation = new()
    relation.aggregate.input.CopyFrom(source)
    relation.aggregate.group_type = proto.Aggregate.GROUP_TYPE_GROUPBY
    relation.aggregate.grouping_expressions.extend(aliased(value, name) for name, value in (by or {}).items())
    for name, value in measures.items():
        measure = relation.aggregate.aggregate_expressions.add()
        measure.alias.expr.CopyFrom(value)
        measure.alias.name.append(name)
    return relation


def observed(source: Relation, name: str, measures: Mapping[str, proto.Expression]) -> Relation:
    """Return `source`, its measures counted under `name` while its rows are read."""
    relation = new()
    relation.collect_metrics.input.CopyFrom(source)
    relation.collect_metrics.name = name
    for measure, value in measures.items():
        metric = relation.collect_metrics.metrics.add()
        metric.alias.expr.CopyFrom(value)
        metric.alias.name.append(measure)
    return relation


def unobserved(source: Relation) -> Relation:
    """Return a query that gives the same rows, and observes nothing."""
    return substitute(
        source, lambda node: unobserved(node.collect_metrics.input) if node.HasField("collect_metrics") else None
    )


def union(sources: list[Relation], *, by_name: bool = False) -> Relation:
    """Return all rows of `sources`, which have the same columns in the same order.

    Args:
        by_name: match columns by name instead; one that a source lacks is NULL there.
    """
    first, *rest = sources
    for source in rest:
        relation = new()
        relation.set_op.left_input.CopyFrom(first)
        relation.set_op.right_input.CopyFrom(source)
        relation.set_op.set_op_type = proto.SetOperation.SET_OP_TYPE_UNION
        relation.set_op.is_all = True
        relation.set_op.by_name = by_name
        relation.set_op.allow_missing_columns = by_name
        first = relation
    return first


# -- walk ---------------------------------------------------------------------------------------------------------


def parts(message: Message) -> Iterator[tuple[str, Message]]:
    """Yield the messages directly inside `message`, each with the name of its field."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from ((field.name, item) for item in value.values())
        elif field.is_repeated:
            yield from ((field.name, item) for item in value)
        else:
            yield field.name, value


def messages(message: Message) -> Iterator[Message]:
    """Yield `message` and every message inside it, parents first."""
    stack = [message]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed([item for _, item in parts(current)]))


def own_messages(relation: Relation) -> Iterator[Message]:
    """Yield what belongs to this relation itself: its expressions, but nothing of the relations that it reads."""
    stack = [item for _, item in parts(relation)]
    while stack:
        current = stack.pop()
        if current.DESCRIPTOR.full_name != RELATION:
            yield current
            stack.extend(item for _, item in parts(current))


def relations(relation: Relation) -> Iterator[Relation]:
    """Yield every relation of the tree, parents first, also those inside sub-query expressions."""
    for message in messages(relation):
        if message.DESCRIPTOR.full_name == RELATION:
            yield message  # type: ignore[misc]


def children(relation: Relation) -> Iterator[Relation]:
    """Yield the relations that `relation` reads directly, those in its sub-query expressions included."""
    stack = [item for _, item in parts(relation)][::-1]
    while stack:
        current = stack.pop()
        if current.DESCRIPTOR.full_name == RELATION:
            yield current  # type: ignore[misc]
        else:
            stack.extend(reversed([item for _, item in parts(current)]))


def expressions(relation: Relation) -> Iterator[proto.Expression]:
    """Yield every expression of the tree, parents first."""
    for message in messages(relation):
        if message.DESCRIPTOR.full_name == EXPRESSION:
            yield message  # type: ignore[misc]


def call_site(message: Message) -> Origin | None:
    """Return the user's file and line nearest to the top of `message`, as the client recorded them."""
    for inner in messages(message):
        if inner.DESCRIPTOR.name == "PythonOrigin" and inner.call_site:  # type: ignore[attr-defined]
            file, _, line = inner.call_site.rpartition(":")  # type: ignore[attr-defined]
            if line.isdigit():
                return Origin(file=file, line=int(line))
    return None


def substitute(relation: Relation, replacement: Callable[[Relation], Relation | None]) -> Relation:
    """Return a copy in which every relation for which `replacement` gives one is replaced.

    What `replacement` returns is taken as it is; it is not searched again.
    """
    result = Relation()
    result.CopyFrom(relation)
    _substitute(result, replacement)
    return result


def _substitute(message: Message, replacement: Callable[[Relation], Relation | None]) -> None:
    if message.DESCRIPTOR.full_name == RELATION:
        instead = replacement(message)  # type: ignore[arg-type]
        if instead is not None:
            message.CopyFrom(instead)
            return
    for _, inner in parts(message):
        _substitute(inner, replacement)


def with_fresh_plan_ids(relation: Relation) -> Relation:
    """Return a copy whose plan ids, and the references to them, are new: for a tree that stands twice in one plan."""
    result = Relation()
    result.CopyFrom(relation)
    renamed: dict[int, int] = {}
    for inner in relations(result):
        if inner.common.HasField("plan_id"):
            old = inner.common.plan_id
            renamed.setdefault(old, next_plan_id())
            inner.common.plan_id = renamed[old]
    for message in messages(result):
        name = message.DESCRIPTOR.name
        is_reference = name in ("UnresolvedAttribute", "UnresolvedStar", "UnresolvedRegex", "SubqueryExpression")
        if is_reference and (name == "SubqueryExpression" or message.HasField("plan_id")):
            message.plan_id = renamed.get(message.plan_id, message.plan_id)  # type: ignore[attr-defined]
    return result
