"""A project that is open: its definition once it is loaded, the engine and the store that go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from lakelet.errors import LakeletError, Origin
from lakelet.names import NameContext
from lakelet.places import Place
from lakelet.spec import PipelineSpec, load_spec, storage_place
from lakelet.storage.catalog import Catalog

if TYPE_CHECKING:
    from lakelet.engine.base import Engine
    from lakelet.events.hooks import EventHook
    from lakelet.execution.resolution import Resolver
    from lakelet.execution.sources import StreamSource
    from lakelet.graph.dataflow_graph import DataflowGraph
    from lakelet.storage.delta_rs import DeltaRsStore


class OpenProject:
    """One pipeline project, whose files are loaded, and whose engine is started, when something needs them.

    Its arguments are those of `Pipeline`.
    """

    def __init__(
        self,
        spec: str | Path | PipelineSpec | None = None,
        *,
        storage: str | Place | None = None,
        configuration: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        engine: Engine | None = None,
    ) -> None:
        if not isinstance(spec, PipelineSpec):
            spec = load_spec(spec, storage=storage)
        elif storage is not None:
            spec = replace(spec, storage=storage_place(str(storage), base=Path.cwd()))
        self.spec: PipelineSpec = spec.overridden(configuration or {})
        self.names = NameContext(self.spec.catalog, self.spec.database)
        self._clock = clock
        self._engine: Engine | None = engine
        self._owns_engine = engine is None
        self._store: DeltaRsStore | None = None
        self._resolver: Resolver | None = None
        self._graph: DataflowGraph | None = None
        self._notes: tuple[str, ...] = ()
        self._sources: dict[tuple[str, str], StreamSource] = {}
        self._hooks: tuple[EventHook, ...] = ()

    def graph(self) -> DataflowGraph:
        """Load the files, call every query function, and check everything; reads no data, writes nothing.

        Raises:
            LakeletError: what is wrong; `DefinitionErrors` if there is more than one.
        """
        if self._graph is None:
            from lakelet.execution.graph_resolution import resolve_graph
            from lakelet.pipelines.registry import Registry
            from lakelet.pipelines.session import user_session
            from lakelet.project import load_project

            resolver = self._new_resolver()
            configuration = {**self.spec.configuration, **self.spec.engine_configuration}
            session = user_session(self.engine.url, self.engine.session_id, resolver, configuration, names=self.names)
            registry = Registry(self.names)
            definitions = load_project(self.spec, registry, session)
            self._notes = tuple(str(note) for note in registry.notes)
            self._hooks = tuple(registry.hooks)
            resolver.catalog = self.catalog.holding(definitions.datasets)
            self._graph = resolve_graph(resolver, definitions)
            self._resolver = resolver
        return self._graph

    def _located_graph(self) -> DataflowGraph:
        """Return the graph; an error that belongs to no line of a pipeline file belongs to the project file."""
        try:
            return self.graph()
        except LakeletError as error:
            raise error.at(Origin(file=self.spec.file.name)) from error.__cause__

    def reload(self) -> None:
        """Forget the loaded files, so that the next call reads them again."""
        self._graph = self._resolver = None
        self._sources = {}

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            address = str(self.spec.setting("lakelet.engine"))
            if address == "sail":
                from lakelet.engine.sail import SailEngine

                self._engine = SailEngine(configuration=self.spec.engine_configuration)
            else:
                from lakelet.engine.connect import ConnectEngine

                self._engine = ConnectEngine(address, configuration=self.spec.engine_configuration)
        return self._engine

    @property
    def store(self) -> DeltaRsStore:
        if self._store is None:
            from lakelet.storage.delta_rs import DeltaRsStore
            from lakelet.storage.delta_spark import DeltaSparkStore

            in_cluster = self.engine.capabilities.cluster_writes
            self._store = DeltaSparkStore(self.engine) if in_cluster else DeltaRsStore()
        return self._store

    @property
    def catalog(self) -> Catalog:
        return Catalog(storage=self.spec.storage, root=self.spec.root)

    def _new_resolver(self) -> Resolver:
        from lakelet.execution.resolution import Resolver

        external = {
            self.names.resolve(name).key: self.catalog.path(path) for name, path in self.spec.external_tables.items()
        }
        return Resolver(
            names=self.names,
            catalog=self.catalog,
            engine=self.engine,
            store=self.store,
            external=external,
            time_zone=self.spec.time_zone,
        )

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None and self._owns_engine:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
