"""What the doors show: the stored tables of a pipeline and its event log, and engines for queries over them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pyarrow as pa
from pyspark.sql.types import StructType

from lakelet.doors.plan_check import Key, check_leaves, check_plan
from lakelet.errors import NOWHERE
from lakelet.execution.reading import EVENT_LOG_NAMES, bound_relation
from lakelet.execution.reads import named_leaf
from lakelet.execution.resolution import Resolver
from lakelet.names import NameContext, TableName
from lakelet.pipeline import Pipeline
from lakelet.plan.relation import Relation, substitute, with_fresh_plan_ids
from lakelet.plan.sources import leaf_of
from lakelet.queries.processes import Lease, QueryProcesses
from lakelet.queries.reading import resolver_of
from lakelet.secrets import secret_values
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_log import latest_version
from lakelet.storage.delta_rs import DeltaRsStore

EVENT_LOG = EVENT_LOG_NAMES[0]
_TEXTS = frozenset({"show_string", "html_string"})
TIME_ZONE = "spark.sql.session.timeZone"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTable:
    """One table that other tools may read."""

    name: TableName
    location: str
    comment: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenQuery:
    """A query of a client.

    Attributes:
        relation: as the client sent it, or of its SQL text.
        views: the client's own temporary views: folded name → normalized tree.
        settings: the client's own settings.
    """

    relation: Relation
    views: Mapping[Key, tuple[TableName, Relation]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTables:
    """The tables that the pipeline's files declared when they were loaded; rows are always the newest.

    Attributes:
        tables: by display name, the event log included.
        configuration: settings that sessions start with.
        secrets: texts that no client gets to see in an error.
    """

    pipeline: str
    names: NameContext
    catalog: Catalog
    tables: Mapping[str, OpenTable]
    configuration: Mapping[str, str]
    secrets: frozenset[str]
    processes: QueryProcesses

    @classmethod
    def of(cls, pipeline: Pipeline, processes: QueryProcesses) -> OpenTables:
        """Load the pipeline's files, and return its stored tables but for the private ones.

        Raises:
            LakeletError: what is wrong with the files.
        """
        graph = pipeline.graph()
        catalog = pipeline.catalog.holding(graph.datasets.values())
        events = str(catalog.system / "events")
        log = OpenTable(name=pipeline.names.resolve(EVENT_LOG), location=events, comment="the pipeline's event log")
        tables = {EVENT_LOG: log} | {
            graph.display(dataset.name): OpenTable(
                name=dataset.name, location=catalog.location(dataset.name), comment=dataset.comment or ""
            )
            for dataset in graph.stored()
            if not dataset.private
        }
        return cls(
            pipeline=pipeline.spec.name,
            names=pipeline.names,
            catalog=catalog,
            tables=tables,
            configuration=pipeline.spec.engine_configuration,
            secrets=secret_values(pipeline.spec.configuration),
            processes=processes,
        )

    # -- what there is

    def listed(self) -> list[OpenTable]:
        """Return the tables that have been written, by name."""
        found = [table for table in self.tables.values() if latest_version(table.location) is not None]
        return sorted(found, key=lambda table: table.name.key)

    def find(self, text: str) -> OpenTable | None:
        """Return a written table by the name that a client gives it."""
        key = self.names.resolve(text).key
        return next((table for table in self.listed() if table.name.key == key), None)

    def columns(self, table: OpenTable) -> pa.Schema:
        """Return the columns of a table's newest version."""
        opened = DeltaRsStore().open(table.location)
        return opened.schema if opened is not None else pa.schema([])

    def partition_columns(self, table: OpenTable) -> tuple[str, ...]:
        opened = DeltaRsStore().open(table.location)
        return tuple(opened.partition_cols) if opened is not None else ()

    # -- queries

    def check(self, query: OpenQuery) -> None:
        """Refuse a query that does more than to read these tables.

        Raises:
            DefinitionError: `SQL_NOT_ALLOWED`, `PARSE_SYNTAX_ERROR`.
        """
        check_plan(query.relation, allowed=self._allowed(query), names=self.names)

    def lease(self, query: OpenQuery) -> AbstractContextManager[Lease]:
        """Give an engine to a query; see `QueryProcesses.lease`."""
        return self.processes.lease({**self.configuration, **query.settings})

    def schema(self, query: OpenQuery, lease: Lease) -> StructType:
        """Return the columns of a query; no row is read."""
        resolver, relation = self._prepared(query, lease)
        return resolver.analyze(relation, NOWHERE)

    def bound(self, query: OpenQuery, lease: Lease) -> Relation:
        """Return a query over the newest versions, for the engine of `lease`."""
        resolver, relation = self._prepared(query, lease)
        log = self.tables[EVENT_LOG].location
        kind = relation.WhichOneof("rel_type")
        if kind not in _TEXTS:
            return bound_relation(resolver, relation, event_log=log)
        result = Relation()  # text about rows, of which engines do not tell the columns
        result.CopyFrom(relation)
        rows = getattr(result, kind).input
        rows.CopyFrom(bound_relation(resolver, rows, event_log=log))
        return result

    def view(self, query: OpenQuery, lease: Lease) -> Relation:
        """Return the tree that a temporary view keeps: no other view is in it, tables are by name."""
        resolver, relation = self._prepared(query, lease)
        resolver.analyze(relation, NOWHERE)

        def inlined(node: Relation) -> Relation | None:
            leaf = leaf_of(node)
            found = None if leaf is None else query.views.get(self.names.resolve(leaf.name).key)
            if leaf is None or found is None:
                return None
            return named_leaf(leaf, with_fresh_plan_ids(found[1]))

        return substitute(relation, inlined)

    def _prepared(self, query: OpenQuery, lease: Lease) -> tuple[Resolver, Relation]:
        """Return what names mean in a query, and its tree normalized; it is checked before and after."""
        self.check(query)
        locations = {name: table.location for name, table in self.tables.items()}
        locations |= dict.fromkeys(EVENT_LOG_NAMES, self.tables[EVENT_LOG].location)
        zone = {**self.configuration, **query.settings}.get(TIME_ZONE, "UTC")
        resolver = resolver_of(lease.engine, names=self.names, catalog=self.catalog, tables=locations, time_zone=zone)
        for name, tree in query.views.values():
            resolver.add_view(name, tree)
        relation = resolver.prepared(query.relation)
        check_leaves(relation, allowed=self._allowed(query), names=self.names)
        return resolver, relation

    def _allowed(self, query: OpenQuery) -> dict[Key, str]:
        own = {self.names.resolve(name).key: name for name in (*EVENT_LOG_NAMES, *self.tables)}
        return own | {key: self.names.display(name) for key, (name, _) in query.views.items()}
