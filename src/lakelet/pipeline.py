"""A pipeline project as one object: load it, check it, run it, read its tables.

with Pipeline("spark-pipeline.yml") as pipeline:
    pipeline.run()
    print(pipeline.query("SELECT * FROM silver.orders"))
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lakelet.errors import LakeletError, Origin
from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState
from lakelet.execution.outcome import FlowOutcome, RefreshSelection, UpdateResult
from lakelet.names import NameContext
from lakelet.spec import PipelineSpec, load_spec
from lakelet.storage.catalog import Catalog

if TYPE_CHECKING:
    import pyarrow as pa

    from lakelet.engine.base import Engine
    from lakelet.events.hooks import EventHook, EventHooks
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.recording import Recording
    from lakelet.execution.repair import UnfinishedBatch
    from lakelet.execution.resolution import Resolver
    from lakelet.execution.sources import StreamSource
    from lakelet.execution.state_report import StateReport
    from lakelet.execution.update import Update, UpdatePlan
    from lakelet.graph.dataflow_graph import DataflowGraph
    from lakelet.storage.delta_rs import DeltaRsStore

__all__ = ["FlowOutcome", "Pipeline", "RefreshSelection", "UpdateResult"]

FLUSH_SECONDS = 10
"""How often a continuous update commits its events to the event log."""

Subscriber = Callable[[PipelineEvent], None]


class Pipeline:
    """One pipeline project.

    Args:
        spec: the project file or its folder; by default the one in this folder or the nearest above.
        storage: where tables and checkpoints lie, instead of what the project file says.
        configuration: overrides of the project file's `configuration`.
        engine: one that is running already, used instead of an own one and left running by `close`.

    Raises:
        SpecError: the project file is missing or wrong.
    """

    def __init__(
        self,
        spec: str | Path | None = None,
        *,
        storage: str | Path | None = None,
        configuration: Mapping[str, str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        engine: Engine | None = None,
    ) -> None:
        self.spec: PipelineSpec = load_spec(spec, storage=storage).overridden(configuration or {})
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

    # -- definition -----------------------------------------------------------------------------------------------

    def graph(self) -> DataflowGraph:
        """Load the files, call every query function, and check everything; reads no data, writes nothing.

        Raises:
            LakeletError: what is wrong; `DefinitionErrors` if there is more than one.
        """
        if self._graph is None:
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
            self._graph = resolver.resolve(definitions)
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
        return Resolver(names=self.names, catalog=self.catalog, engine=self.engine, store=self.store, external=external)

    # -- running --------------------------------------------------------------------------------------------------

    def run(
        self,
        *,
        selection: RefreshSelection | None = None,
        continuous: bool = False,
        subscribers: Sequence[Subscriber] = (),
        stop: threading.Event | None = None,
        drain: threading.Event | None = None,
    ) -> UpdateResult:
        """Run one update: every available row through every dataset.

        Args:
            selection: which datasets; default all, incrementally.
            continuous: keep running as data arrives, until `stop` is set.
            subscribers: called with every event.
            stop: set it to end the update after the micro-batches that are under way.
            drain: set it to end a continuous update as soon as everything that has arrived is processed.

        Returns:
            How the update and each flow ended. Errors of flows are in the result; an error of the definition or the
            project file is in `error`, and nothing was run then.
        """
        from lakelet.events import kinds
        from lakelet.events.hooks import EventHooks

        selection = selection or RefreshSelection()
        with self._recorded(subscribers) as recording:
            hooks = EventHooks(recording.bus)
            recording.bus.subscribe(hooks)
            kinds.create_update(
                recording.bus,
                configuration=self._described(),
                continuous=continuous,
                full_refresh=selection.full_refresh_all,
                refresh_selection=selection.refresh,
                full_refresh_selection=selection.full_refresh,
            )
            try:
                return self._run(
                    recording, selection, continuous, stop or threading.Event(), drain or threading.Event(), hooks
                )
            finally:
                hooks.close()

    @contextmanager
    def _recorded(self, subscribers: Sequence[Subscriber]) -> Iterator[Recording]:
        from lakelet.execution.recording import recorded

        with recorded(
            self.catalog,
            pipeline=self.spec.name,
            pipeline_id=self._pipeline_id(),
            update_id=str(uuid.uuid4()),
            clock=self._clock,
            subscribers=subscribers,
        ) as recording:
            yield recording

    def _run(
        self,
        recording: Recording,
        selection: RefreshSelection,
        continuous: bool,
        stop: threading.Event,
        drain: threading.Event,
        hooks: EventHooks,
    ) -> UpdateResult:
        from lakelet.events import kinds
        from lakelet.execution.update import Update, describe, plan_update

        bus = recording.bus
        outcomes: tuple[FlowOutcome, ...] = ()
        try:
            kinds.update_progress(bus, UpdateState.INITIALIZING)
            graph = self._located_graph()
            hooks.start(self._hooks)
            for note in self._notes:
                kinds.deprecation(bus, note)
            plan = plan_update(graph, selection)
            context = self._context(graph, bus, stop)
            describe(context, [graph.dataset(name) for name in graph.order()])
            update = Update(context, plan)
            update.set_up()
            kinds.update_progress(bus, UpdateState.RUNNING)
            outcomes = update.run_round()
            if continuous:
                outcomes = self._run_rounds(update, context, plan, outcomes, drain, recording.flush)
        except LakeletError as error:
            kinds.update_progress(bus, UpdateState.FAILED, error=error)
            return UpdateResult(update_id=bus.update_id, state=UpdateState.FAILED, flows=outcomes, error=error)
        state = UpdateState.COMPLETED
        if any(outcome.status in (FlowStatus.FAILED, FlowStatus.SKIPPED) for outcome in outcomes):
            state = UpdateState.FAILED
        elif stop.is_set():
            state = UpdateState.CANCELED
        kinds.update_progress(bus, state)
        return UpdateResult(update_id=bus.update_id, state=state, flows=outcomes)

    def repair(
        self, dataset: str, *, drop_rows: bool = False, subscribers: Sequence[Subscriber] = ()
    ) -> tuple[UnfinishedBatch, ...]:
        """Show the batches that a dataset's flows cannot finish, and step over their invalid rows if asked to.

        Args:
            drop_rows: finish each stuck batch without the rows that violate a fail rule; the event log notes it.
        """
        from lakelet.events import kinds
        from lakelet.execution.repair import repair_dataset

        with self._recorded(subscribers) as recording:
            kinds.create_update(recording.bus, configuration=self._described(), cause="REPAIR")
            graph = self.graph()
            context = self._context(graph, recording.bus, threading.Event())
            try:
                found = repair_dataset(context, graph.find(dataset), drop_rows=drop_rows)
            except LakeletError as error:
                kinds.update_progress(recording.bus, UpdateState.FAILED, error=error)
                raise
            kinds.update_progress(recording.bus, UpdateState.COMPLETED)
            return found

    def _run_rounds(
        self,
        update: Update,
        context: UpdateContext,
        plan: UpdatePlan,
        outcomes: tuple[FlowOutcome, ...],
        drain: threading.Event,
        flush: Callable[[], int],
    ) -> tuple[FlowOutcome, ...]:
        from lakelet.execution.update import has_new_input

        interval = float(self.spec.setting("lakelet.trigger.interval"))
        flushed_at = time.monotonic()
        while not context.stop.is_set():
            is_draining = drain.is_set()
            if has_new_input(context, plan):
                outcomes = update.run_round(announce=False)
            elif is_draining:
                break
            if time.monotonic() - flushed_at > FLUSH_SECONDS:
                flush()
                flushed_at = time.monotonic()
            context.stop.wait(0 if is_draining else interval)
        return outcomes

    def _context(self, graph: DataflowGraph, bus: Any, stop: threading.Event) -> UpdateContext:
        from lakelet.execution.context import update_context

        assert self._resolver is not None
        return update_context(
            self.spec,
            graph=graph,
            resolver=self._resolver,
            engine=self.engine,
            store=self.store,
            events=bus,
            clock=self._clock,
            stop=stop,
            sources=self._sources,
        )

    def _pipeline_id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"lakelet:{self.spec.name}:{self.spec.storage}"))

    def _described(self) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "catalog": self.spec.catalog,
            "schema": self.spec.database,
            "configuration": dict(self.spec.configuration),
        }

    # -- reading --------------------------------------------------------------------------------------------------

    def query(self, sql: str) -> pa.Table:
        """Run a SQL query over the pipeline's tables, its views and `event_log`.

        Raises:
            LakeletError: the query is wrong, or a table does not exist yet.
        """
        from lakelet.execution.reading import run_query

        self.graph()
        assert self._resolver is not None
        return run_query(self._resolver, sql, event_log=str(self.catalog.system / "events"))

    def table(self, name: str) -> pa.Table:
        """Return the rows of a dataset."""
        dataset = self.graph().find(name)
        parts = (dataset.name.catalog, dataset.name.schema, dataset.name.name)
        return self.query("SELECT * FROM " + ".".join(f"`{part}`" for part in parts))

    def state(self, name: str) -> tuple[StateReport, ...]:
        """Return what flows with state remember; empty where nothing is remembered.

        Args:
            name: a flow, or a dataset for all of its flows.

        Raises:
            GraphError: `UNKNOWN_DATASET`.
        """
        from lakelet.execution.state_report import state_reports

        graph = self.graph()
        flows = [flow for flow in graph.flows if flow.name == name] or graph.flows_to(graph.find(name).name)
        return state_reports(graph, self.catalog, self.store, flows)

    def events(self) -> pa.Table:
        """Return the event log, oldest first."""
        from lakelet.execution.reading import read_table

        return read_table(self.store, str(self.catalog.system / "events"), "event_log")

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None and self._owns_engine:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
