"""A pipeline project as one object: load it, check it, run it, read its tables.

with Pipeline("spark-pipeline.yml") as pipeline:
    pipeline.run()
    print(pipeline.query("SELECT * FROM silver.orders"))
"""

from __future__ import annotations

import getpass
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakelet.errors import LakeletError
from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState
from lakelet.execution.outcome import FlowOutcome, RefreshSelection, UpdateResult
from lakelet.open_project import OpenProject
from lakelet.secrets import masked, secret_values
from lakelet.spec import absolute_path

if TYPE_CHECKING:
    import pyarrow as pa

    from lakelet.events.hooks import EventHooks
    from lakelet.events.log import EventBus
    from lakelet.execution.context import UpdateContext
    from lakelet.execution.explanation import Explanation
    from lakelet.execution.maintenance import Maintained
    from lakelet.execution.recording import Recording
    from lakelet.execution.repair import UnfinishedBatch
    from lakelet.execution.reset import ResetStep
    from lakelet.execution.state_report import StateReport
    from lakelet.execution.update import UpdatePlan
    from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
    from lakelet.graph.elements import Dataset
    from lakelet.portability import Use
    from lakelet.storage.handles import Handles

__all__ = ["FlowOutcome", "Pipeline", "RefreshSelection", "UpdateResult"]

Subscriber = Callable[[PipelineEvent], None]


class Pipeline(OpenProject):
    """One pipeline project.

    Args:
        spec: the project file or its folder, or what `load_spec` returned; by default the one in this folder or the
            nearest above.
        storage: where tables and checkpoints lie, instead of what the project file says.
        configuration: overrides of the project file's `configuration`.
        engine: one that is running already, used instead of an own one and left running by `close`.

    Raises:
        SpecError: the project file is missing or wrong.
    """

    _event_log: Handles | None = None
    """The open event log, used again from one update to the next."""

    # -- definition -----------------------------------------------------------------------------------------------

    def missing_on(self, platform: str) -> list[Use]:
        """Return the features that the pipeline uses and `databricks` or `spark` lacks, by file and line."""
        from lakelet.portability import Target, missing
        from lakelet.project import library_files

        graph = self._located_graph()
        return missing(graph, self.spec, library_files(self.spec), hooks=len(self._hooks), target=Target(platform))

    def export_bundle(self, folder: Path | None = None, *, force: bool = False) -> list[Path]:
        """Write a Databricks bundle for the pipeline, by default beside the project file, and return its files."""
        from lakelet.bundle.writing import write_bundle
        from lakelet.graph.formats import external_inputs

        graph = self._located_graph()
        paths = [path for label in external_inputs(graph) for path in label.partition(":")[2].split(",")]
        parts = [tuple(path.split("/")[2:5]) for path in paths if path.startswith("/Volumes/")]
        return write_bundle(
            absolute_path(folder or self.spec.root),
            name=self.spec.name,
            catalog=self.spec.catalog,
            schema=self.spec.database,
            configuration=self.spec.configuration,
            libraries=self.spec.libraries,
            root=self.spec.root,
            schemas=[
                dataset.name.schema
                for dataset in graph.datasets.values()
                if dataset.is_stored and dataset.name.catalog == self.spec.catalog
            ],
            volumes=[(part[0], part[1], part[2]) for part in parts if len(part) == 3],
            force=force,
        )

    def sibling(self) -> Pipeline:
        """Return the same project once more, on the same engine: it may be loaded anew while this one runs."""
        return Pipeline(self.spec, clock=self._clock, engine=self.engine)

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
            drain: set it to end a continuous update as soon as everything that has arrived is processed; no flow waits
                for its interval then, and one that fails gets one more try.

        Returns:
            How the update and each flow ended. Errors of flows are in the result; an error of the definition or the
            project file is in `error`, and nothing was run then.
        """
        from lakelet import __version__
        from lakelet.events import kinds
        from lakelet.events.hooks import EventHooks
        from lakelet.events.lineage import lineage_told
        from lakelet.execution.recording import component_versions

        selection = selection or RefreshSelection()
        with (
            self._recorded(subscribers) as recording,
            lineage_told(recording.bus, self.spec, self.names, version=__version__),
        ):
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
            kinds.user_action(recording.bus, action="START", user_name=_user_name())
            kinds.runtime_details(recording.bus, runtime=f"lakelet {__version__}", versions=component_versions())
            try:
                return self._run(
                    recording, selection, continuous, stop or threading.Event(), drain or threading.Event(), hooks
                )
            finally:
                hooks.close()

    def _recorded(self, subscribers: Sequence[Subscriber]) -> AbstractContextManager[Recording]:
        from lakelet.execution.recording import recorded
        from lakelet.storage.handles import Handles

        self._event_log = self._event_log or Handles()
        return recorded(
            self.catalog,
            pipeline=self.spec.name,
            pipeline_id=self._pipeline_id(),
            update_id=str(uuid.uuid4()),
            clock=self._clock,
            retention=timedelta(seconds=self.spec.setting("lakelet.events.retention")),
            subscribers=subscribers,
            secrets=secret_values(self.spec.configuration),
            handles=self._event_log,
        )

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
        from lakelet.execution.giving_up import long_queries_given_up
        from lakelet.execution.reach import check_reach
        from lakelet.execution.update import Update, describe, plan_update
        from lakelet.settings import STOP_TIMEOUT

        bus = recording.bus
        outcomes: tuple[FlowOutcome, ...] = ()
        try:
            kinds.update_progress(bus, UpdateState.INITIALIZING)
            check_reach(self.engine, self.catalog.lock)
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
            seconds = self.spec.setting(STOP_TIMEOUT)
            with long_queries_given_up(self.engine, bus, stop, seconds=seconds):
                if continuous:
                    outcomes = self._run_continuously(context, plan, drain, recording.flush)
                else:
                    outcomes = update.run()
        except LakeletError as error:
            kinds.update_progress(bus, UpdateState.FAILED, error=error)
            return UpdateResult(update_id=bus.update_id, state=UpdateState.FAILED, flows=outcomes, error=error)
        state = UpdateState.COMPLETED
        if any(outcome.status in (FlowStatus.FAILED, FlowStatus.SKIPPED) for outcome in outcomes):
            state = UpdateState.FAILED
        elif stop.is_set():
            state = UpdateState.CANCELED
            kinds.user_action(bus, action="STOP", user_name=_user_name())
        kinds.update_progress(bus, state)
        return UpdateResult(update_id=bus.update_id, state=state, flows=outcomes)

    def repair(
        self, dataset: str, *, drop_rows: bool = False, subscribers: Sequence[Subscriber] = ()
    ) -> tuple[UnfinishedBatch, ...]:
        """Show the batches that a dataset's flows cannot finish, and step over their invalid rows if asked to.

        Args:
            drop_rows: finish each stuck batch without the rows that violate a fail rule; the event log notes it.
        """
        from lakelet.execution.repair import repair_dataset

        with self._action("REPAIR", subscribers) as bus:
            context = self._context(self.graph(), bus, threading.Event())
            return repair_dataset(context, context.graph.find(dataset), drop_rows=drop_rows)

    def reset(
        self,
        *datasets: str,
        checkpoints: Sequence[str] = (),
        dry_run: bool = False,
        subscribers: Sequence[Subscriber] = (),
    ) -> tuple[ResetStep, ...]:
        """Let datasets, or single flows, start anew with the next update; the event log notes it.

        Args:
            datasets: their tables are dropped, with everything that is remembered of them; also one that is no longer
                in the code.
            checkpoints: flows that read their sources from the start and append to what their tables have.
            dry_run: change nothing, return what would be reset.

        Raises:
            GraphError: `UNKNOWN_DATASET`, `UNKNOWN_FLOW`, `DATASET_NOT_STORED`, `FULL_REFRESH_NOT_ALLOWED`,
                `FLOW_WITHOUT_CHECKPOINT`.
            LockError: `PIPELINE_LOCKED`, an update runs.
        """
        from lakelet.events import kinds
        from lakelet.execution.reset import announce, apply_reset, plan_reset

        graph = self.graph()
        assert self._resolver is not None
        catalog = self._resolver.catalog
        if dry_run:
            return plan_reset(graph, catalog, self.store, datasets=datasets, flows=checkpoints)
        with self._action("RESET", subscribers) as bus:
            kinds.update_progress(bus, UpdateState.RESETTING)
            steps = plan_reset(graph, catalog, self.store, datasets=datasets, flows=checkpoints)
            apply_reset(catalog, self.store, steps)
            for step in steps:
                announce(bus, step)
            self._sources = {}
            return steps

    @contextmanager
    def _action(self, action: str, subscribers: Sequence[Subscriber]) -> Iterator[EventBus]:
        """Tell the event log of something that a user does beside updates, and how it ends."""
        from lakelet.events import kinds

        with self._recorded(subscribers) as recording:
            bus = recording.bus
            kinds.create_update(bus, configuration=self._described(), cause=action)
            kinds.user_action(bus, action=action, user_name=_user_name())
            try:
                yield bus
            except LakeletError as error:
                kinds.update_progress(bus, UpdateState.FAILED, error=error)
                raise
            kinds.update_progress(bus, UpdateState.COMPLETED)

    def maintain(
        self,
        *,
        retention_hours: int = 168,
        log_retention_hours: int = 720,
        allow_short_retention: bool = False,
        dry_run: bool = False,
    ) -> tuple[Maintained, ...]:
        """Put small files of the pipeline's tables together, and remove old files and the oldest part of the logs.

        What a flow has not read yet stays, however old. No row changes, and the next update has nothing to do because of
        it. Neither the engine nor the pipeline's files are needed.

        Args:
            retention_hours: data files that a table dropped more recently stay, for readers outside of the pipeline.
            log_retention_hours: commits younger than this stay in the log.
            allow_short_retention: accept less than 168 hours for data files.
            dry_run: change nothing, count what would be deleted.

        Raises:
            SpecError: `RETENTION_TOO_SHORT`.
            LockError: `PIPELINE_LOCKED`, an update runs.
            StorageError: a checkpoint or a table cannot be read or written.
        """
        from lakelet.execution.lock import pipeline_lock
        from lakelet.execution.maintenance import Retention, maintain

        retention = Retention(
            files_hours=retention_hours, log_hours=log_retention_hours, allow_short=allow_short_retention
        )
        with nullcontext() if dry_run else pipeline_lock(self.catalog.lock, pipeline=f"{self.spec.name} (maintenance)"):
            return maintain(self.catalog, self.store, retention=retention, now=self._clock(), dry_run=dry_run)

    def versions_in_use(self) -> Mapping[str, int]:
        """Return, by location, the oldest version of a table that a checkpoint of this storage folder still needs.

        Whoever maintains a table that the pipeline reads must keep the files that this version or a later one has or
        had, and the log from it on.

        Raises:
            StorageError: `CHECKPOINT_CORRUPT`, `CHECKPOINT_TOO_NEW`.
        """
        from lakelet.execution.maintenance import versions_in_use

        return {location: need.log_from for location, need in versions_in_use(self.catalog).items()}

    def _run_continuously(
        self, context: UpdateContext, plan: UpdatePlan, drain: threading.Event, flush: Callable[[], int]
    ) -> tuple[FlowOutcome, ...]:
        from lakelet.execution.continuous import ContinuousUpdate
        from lakelet.execution.pace import Pace, interval_of
        from lakelet.execution.upkeep import Upkeep

        def pace(flow: ResolvedFlow, dataset: Dataset) -> Pace:
            reads_files = bool(context.inputs(flow).files)
            return Pace(interval_seconds=interval_of(self.spec, flow.flow, dataset, reads_files=reads_files))

        upkeep = None
        if self.spec.setting("lakelet.maintenance.enabled"):
            upkeep = Upkeep(context=context, interval_seconds=self.spec.setting("lakelet.maintenance.interval"))
        return ContinuousUpdate(context, plan, pace=pace, upkeep=upkeep, flush=flush).run(drain=drain)

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
            "configuration": masked(self.spec.configuration),
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
        found = self.graph().find(name).name
        parts = (found.catalog, found.schema, found.name)
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

    def explain(self, name: str) -> Explanation:
        """Return how the next update would bring a materialized view up to date, and why; reads no row.

        Raises:
            GraphError: `UNKNOWN_DATASET`, `NOT_A_MATERIALIZED_VIEW`.
        """
        from lakelet.events.log import EventBus
        from lakelet.execution.explanation import explain

        bus = EventBus(self._pipeline_id(), self.spec.name, "explain", clock=self._clock)
        return explain(self._context(self.graph(), bus, threading.Event()), self.graph().find(name))

    def events(self) -> pa.Table:
        """Return the event log, oldest first."""
        from lakelet.execution.reading import read_table

        return read_table(self.store, str(self.catalog.system / "events"), "event_log")


def _user_name() -> str:
    """Return who runs this process; a user of a container may have no name."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):
        return "unknown"
