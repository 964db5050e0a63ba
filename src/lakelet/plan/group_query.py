"""The queries of a view that keeps partial values by group: over a slice, and from the kept values to the view's rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.types import DataType, DecimalType, StructType

from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.group_units import units
from lakelet.plan.incremental import IncrementalForm, Issue, over_groups
from lakelet.plan.partial_aggregates import KEY_TYPES, Digest, Measure, Measures, hashed, salt
from lakelet.plan.relation import Relation

KEY, UNIT, SLOT = "__lakelet_k", "__lakelet_u", "__lakelet_slot"
COUNTS = "__counts"
ID = ("__lakelet_id1", "__lakelet_id2")
"""Two hashes of a group's keys: 128 bits that stand for them."""
KIND, VERSION = "__lakelet_kind", "__lakelet_version"
"""Of what is kept: `GROUPS`, or the measure whose distinct values it is of; and the refresh that wrote it."""
GROUPS = "groups"

_HASHED_ALIKE = 18
"""Digits of a DECIMAL whose hash is that of a whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupQuery:
    """A group-by in two steps.

    Attributes:
        keys: names of the key columns as the aggregation shows them.
        outputs: names of its other columns, and the expressions that give them from partial columns.
        arguments: what the measures refer to by name.
        values: what `outputs` refer to by name.
        unit: per column of the unit, its place among the view's columns.
        hashed: types of all that is kept under a hash.
        kept: names and types of all that is kept, as text. Engines may give one expression different types.
    """

    form: IncrementalForm
    keys: tuple[str, ...]
    outputs: tuple[tuple[str, proto.Expression], ...]
    measures: tuple[Measure, ...]
    arguments: Mapping[str, proto.Expression]
    values: Mapping[str, proto.Expression]
    unit: tuple[int, ...] = ()
    hashed: tuple[DataType, ...] = ()
    kept: str = ""

    @property
    def is_of_its_engine(self) -> bool:
        """Whether only the engine that has kept the partial values finds them again: each has its own hash of such decimals."""
        return any(isinstance(kind, DecimalType) and kind.precision > _HASHED_ALIKE for kind in self.hashed)

    @property
    def distinct(self) -> dict[str, Digest]:
        """The columns of the measures that count distinct values, and the digest of a row's value."""
        return {next(iter(m.columns)): m.digest for m in self.measures if m.digest is not None}

    def digests(self, *below: Relation) -> Relation:
        """Return the values that `distinct` counts in the rows of some trees, each as often as it occurs.

        Grain: a row, once for each group that it belongs to. Columns: `ID` of the group, those of `distinct`, and whether
        each of these counts (ends with `COUNTS`). Not a NULL where it does not: an engine may fold a CASE over constants.
        """
        result = plan.new()
        result.project.input.CopyFrom(self._rows(*below))
        values = self._id_columns(self._key_columns)
        for name, digest in self.distinct.items():
            values |= {name: digest.value, name + COUNTS: digest.counts}
        result.project.expressions.extend(_aliased(value, name) for name, value in values.items())
        return plan.with_fresh_plan_ids(result)

    @property
    def _key_columns(self) -> list[str]:
        return [f"{KEY}{number}" for number in range(len(self.keys))]

    def _rows(self, *below: Relation) -> Relation:
        """Return the rows of trees with the keys and the arguments of the measures, and no other column."""
        if len(below) > 1:
            return plan.union([plan.with_fresh_plan_ids(self._rows(tree)) for tree in below])
        assert self.form.aggregate is not None
        items = self.form.aggregate.aggregate.grouping_expressions
        keys = [item.alias.expr if item.WhichOneof("expr_type") == "alias" else item for item in items]
        columns = {**dict(zip(self._key_columns, keys, strict=True)), **self.arguments}
        if not columns:
            return below[0]
        result = plan.new()
        result.project.input.CopyFrom(below[0])
        result.project.expressions.extend(_aliased(value, name) for name, value in columns.items())
        return result

    def _id_columns(self, keys: Sequence[str]) -> dict[str, proto.Expression]:
        flagged = self._flagged(keys)
        first, second = ID
        return {first: hashed((salt(), *flagged)), second: hashed((plan.expression("7"), *flagged))}

    def partial(self, *below: Relation, with_distinct: bool = True) -> Relation:
        """Return the partial values of the groups in the rows of some trees.

        Grain: one row a group. Columns: `ID`, `SLOT` (a hash of the unit), `UNIT`n, `KEY`n, and those of the measures.

        Args:
            with_distinct: whether those of `distinct` are among them.
        """
        partial_values = {
            name: value for name, value in self._partial_values().items() if with_distinct or name not in self.distinct
        }
        groups = self._partial_groups(self._rows(*below), partial_values)
        keys = self._key_columns
        named = plan.with_columns(
            groups, {name: plan.attribute(key) for name, key in zip(self.keys, keys, strict=True)}
        )  # fmt: skip
        found = units(self.form.above, named, self.keys, [name for name, _ in self.outputs])
        columns = {f"{UNIT}{n}": plan.attribute(quote(found.columns[at] or "")) for n, at in enumerate(self.unit)}
        rows = plan.with_columns(found.rows, columns) if columns else found.rows
        unit = self._flagged(list(columns))
        result = plan.new()
        result.project.input.CopyFrom(rows)
        named_columns = self._id_columns(keys) | {SLOT: hashed(unit) if unit else plan.expression("0L")}
        for name, value in named_columns.items():
            result.project.expressions.append(_aliased(value, name))
        result.project.expressions.extend(plan.attribute(name) for name in (*columns, *keys, *partial_values))
        return result

    def _partial_values(self) -> dict[str, proto.Expression]:
        """Return the partial columns; measures may share some."""
        return {name: value for measure in self.measures for name, value in measure.columns.items()}

    def _partial_groups(self, rows: Relation, partial_values: Mapping[str, proto.Expression]) -> Relation:
        assert self.form.aggregate is not None
        result = Relation()
        result.CopyFrom(self.form.aggregate)
        node = result.aggregate
        node.input.CopyFrom(rows)
        del node.grouping_expressions[:], node.aggregate_expressions[:]
        node.grouping_expressions.extend(plan.attribute(name) for name in self._key_columns)
        for name, value in partial_values.items():
            node.aggregate_expressions.append(_aliased(value, name))
        if not partial_values:
            node.aggregate_expressions.append(_aliased(plan.expression("count(1)"), f"{KEY}_any"))
        return plan.with_fresh_plan_ids(result)

    @staticmethod
    def _flagged(names: Sequence[str]) -> list[proto.Expression]:
        """Each column after whether it is NULL, so that no two rows of values look the same to a hash that skips NULL."""
        return [
            item for name in names for item in (plan.call("isnull", plan.attribute(name)), plan.attribute(name))
        ]  # fmt: skip

    def finished(self, groups: pa.Table | Relation) -> Relation:
        """Return the view's rows from groups with their `KEY` columns and partial values."""
        rows = plan.local(groups) if isinstance(groups, pa.Table) else groups
        if self.values:
            rows = plan.with_columns(rows, self.values)
        named = plan.new()
        # Keys first and then what refers to them by name, as in the aggregation itself.
        named.project.input.CopyFrom(plan.with_columns(rows, {
            name: plan.attribute(key) for name, key in zip(self.keys, self._key_columns, strict=True)
        }))  # fmt: skip
        for name in self.keys:
            named.project.expressions.append(_aliased(plan.attribute(quote(name)), name))
        for name, value in self.outputs:
            named.project.expressions.append(_aliased(value, name))
        return over_groups(self.form, named)


def _aliased(value: proto.Expression, name: str) -> proto.Expression:
    result = proto.Expression()
    result.alias.expr.CopyFrom(value)
    result.alias.name.append(name)
    return result


def group_query(
    form: IncrementalForm, columns: StructType, type_of: Callable[[proto.Expression], DataType]
) -> GroupQuery | Issue:
    """Return the two steps of a form with an aggregation.

    Args:
        columns: of the aggregation.
        type_of: gives the type of an aggregate function over the rows.
    """
    assert form.aggregate is not None
    node = form.aggregate.aggregate
    num_keys = len(node.grouping_expressions)
    for column in columns.fields[:num_keys]:
        if not _may_be_key(column.dataType):
            text = f"the groups have a key `{column.name}` of type {column.dataType.simpleString()}"
            return Issue(type="PLAN_NOT_INCREMENTALIZABLE", text=text, detail="GROUP_KEY_TYPE")
    measures = Measures(type_of=type_of)
    outputs = []
    expressions = node.aggregate_expressions
    if len(columns.fields) != num_keys + len(expressions):
        return Issue(type="PLAN_NOT_INCREMENTALIZABLE", text="the columns of its aggregation are not told one by one")
    for column, item in zip(columns.fields[num_keys:], expressions, strict=True):
        value = item.alias.expr if item.WhichOneof("expr_type") == "alias" else item
        outputs.append((column.name, measures.finished(value)))
    if measures.issues:
        return measures.issues[0]
    return GroupQuery(
        form=form,
        keys=tuple(column.name for column in columns.fields[:num_keys]),
        outputs=tuple(outputs),
        measures=tuple(measures.found),
        arguments=dict(measures.arguments),
        values=dict(measures.values),
        hashed=(*(column.dataType for column in columns.fields[:num_keys]), *measures.distinct),
    )


def _may_be_key(kind: DataType) -> bool:
    if isinstance(kind, StructType):
        return [field.name for field in kind.fields] == ["start", "end"] and all(
            _may_be_key(field.dataType) for field in kind.fields
        )
    return kind.typeName().split("(")[0] in KEY_TYPES


def with_unit(query: GroupQuery, view: StructType) -> GroupQuery:
    """Return the query with the columns of the view that make the unit.

    Args:
        view: the columns of the whole query.
    """
    found = units(query.form.above, plan.new(), query.keys, [name for name, _ in query.outputs])
    if len(found.columns) != len(view.fields):
        return query
    at = [
        number
        for number, (name, column) in enumerate(zip(found.columns, view.fields, strict=True))
        if name is not None and not isinstance(column.dataType, StructType) and _may_be_key(column.dataType)
    ]
    kinds = (view.fields[number].dataType for number in at)
    return replace(query, unit=tuple(at), hashed=(*query.hashed, *kinds))
