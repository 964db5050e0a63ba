"""What is known of the columns of a dataset whose sources do not exist.

A test gives rows to `bronze.orders`, and what that reads in production is not there. Its query still says a lot: the
columns that it names, and the types of those that it casts. So the query is analysed over sources that have exactly the
columns that it asks for; what changes with the type of the source's columns is not known, and comes from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DataType, LongType, StringType, StructType, TimestampType

from lakelet.errors import GraphError, LakeletError, Origin, QueryError
from lakelet.execution.reads import Source
from lakelet.execution.resolution import Resolver
from lakelet.names import TableName
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf, LeafKind, leaves
from lakelet.storage.schema import nullable

_REST = "__lakelet_rest_"
"""A column that each missing source has: where it comes through, a query hands on columns that it does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Columns of an input.

    Attributes:
        types: by name, in order; None where only the rows can tell.
        is_complete: there are no others.
    """

    types: Mapping[str, pa.DataType | None] = field(default_factory=dict)
    is_complete: bool = False

    @classmethod
    def of_schema(cls, schema: pa.Schema, *, is_complete: bool = True) -> Columns:
        return cls(types={column.name: column.type for column in schema}, is_complete=is_complete)

    @classmethod
    def of_struct(cls, columns: StructType) -> Columns:
        return cls.of_schema(stored_schema(columns))


def stored_schema(columns: StructType) -> pa.Schema:
    """Return columns with the types with which a table stores them."""
    return nullable(to_arrow_schema(columns, timezone="UTC"))


@dataclass(slots=True)
class ProbingResolver(Resolver):
    """Answers as if every source existed, with the columns that the queries ask of it.

    Attributes:
        asked: per location of a source, the names of the columns that it lacks.
        asked_type: the type that they have.
        is_open: tables that exist and may still get a column that a query asks of them.
        probes: whether sources that do not exist are made up.
    """

    asked: dict[str, list[str]] = field(default_factory=dict)
    asked_type: DataType = field(default_factory=StringType)
    is_open: frozenset[str] = frozenset()
    probes: bool = True

    def source(self, leaf: Leaf, origin: Origin) -> Source:
        try:
            return Resolver.source(self, leaf, origin)
        except GraphError as error:
            if not self.probes or error.condition != "TABLE_OR_VIEW_NOT_FOUND" or leaf.kind is not LeafKind.TABLE:
                raise
            return Source(leaf=leaf, location=self.catalog.location(self.names.resolve(leaf.name)))

    def table_schema(self, label: str, location: str, origin: Origin) -> StructType:
        exists = self.store.exists(location)
        if location not in self.is_open if exists else not self.probes:
            return Resolver.table_schema(self, label, location, origin)
        asked = self.asked.setdefault(location, [])
        result = StructType()
        if exists:
            result = StructType(list(Resolver.table_schema(self, label, location, origin).fields))
        else:
            result.add(f"{_REST}{list(self.asked).index(location)}", StringType())
        for name in asked:
            result.add(name, self.asked_type)
        return result

    def analyze(self, relation: Relation, origin: Origin) -> StructType:
        while True:
            try:
                return Resolver.analyze(self, relation, origin)
            except QueryError as error:
                if error.column is None or not self._ask(relation, origin, error.column):
                    raise

    def _ask(self, relation: Relation, origin: Origin, column: str) -> bool:
        """Let the one source that may have it have a column; returns whether it is new."""
        found = self._unknown(relation, origin)
        name = column.rpartition(".")[2]
        if len(found) != 1:
            return False
        (location,) = found
        asked = self.asked.setdefault(location, [])
        if name.lower() in (other.lower() for other in asked):
            return False
        asked.append(name)
        self._schemas.clear()
        self._flow_schemas.clear()
        return True

    def _unknown(self, relation: Relation, origin: Origin) -> set[str]:
        """Return the sources below a tree whose columns are not final."""
        result: set[str] = set()
        for leaf in leaves(relation):
            source = self.source(leaf, origin)
            if source.dataset is not None and source.dataset.schema is None:
                for flow in self.flows.get(source.dataset.name.key, []):
                    result |= self._unknown(self.relation(flow), flow.origin)
            elif source.location is not None and (
                source.location in self.is_open or (self.probes and not self.store.exists(source.location))
            ):
                result.add(source.location)
        return result


def columns_of(name: TableName, make: Callable[[], ProbingResolver]) -> Columns:
    """Return what the query of a dataset tells of its columns.

    Args:
        make: returns a new resolver with the pipeline's datasets and flows.
    """
    first = make()
    schema = _schema(first, name)
    if schema is None:
        return Columns()
    if not first.asked:
        return Columns.of_schema(schema)
    others = []
    for kind in (LongType(), TimestampType()):
        other = make()
        other.asked, other.asked_type = {key: list(names) for key, names in first.asked.items()}, kind
        found = _schema(other, name)
        if found is not None:
            others.append({column.name: column.type for column in found})
    names = [column.name for column in schema if not column.name.startswith(_REST)]
    own = {name: schema.field(name).type for name in names}
    agreed = {name: others != [] and all(other.get(name) == own[name] for other in others) for name in names}
    return Columns(
        types={name: own[name] if agreed[name] else None for name in names}, is_complete=len(names) == len(schema)
    )


def _schema(resolver: ProbingResolver, name: TableName) -> pa.Schema | None:
    try:
        return stored_schema(resolver.schema(name))
    except LakeletError:
        return None
