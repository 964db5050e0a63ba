"""One update of a pipeline, from the resolved graph to its result. A newcomer reads this file first.

select   which datasets, which of them from the start
set up   every table exists before a flow reads or writes one
run      each dataset after those it reads; one failure does not stop the datasets that do not depend on it
"""

from __future__ import annotations

import concurrent.futures
import functools
import queue
import sys
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lakelet.errors import FlowError, GraphError, LakeletError, SpecError, raise_all
from lakelet.events import kinds
from lakelet.events.model import FlowStatus, UpdateState
from lakelet.execution.checkpoint import FORMAT, read_derived, start_epoch, start_generation, write_json
from lakelet.execution.context import UpdateContext
from lakelet.execution.flows import has_committed, run_flow
from lakelet.execution.giving_up import was_given_up
from lakelet.execution.heads import ExternalSources
from lakelet.execution.outcome import FlowOutcome, RefreshSelection
from lakelet.execution.refresh import refresh_view
from lakelet.execution.reset import announce_checkpoint_reset, find_flow
from lakelet.execution.snapshot_cdc import run_snapshots
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import Dataset, DatasetKind, SnapshotCdcFlow, reset_allowed
from lakelet.settings import TRIGGER_INTERVAL
from lakelet.storage.base import TableDefinition
from lakelet.storage.schema import comment_of

Key = tuple[str, str, str]
MAX_WORKERS = 4
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePlan:
    """What an update will do: the datasets to run in order, and which of them start anew.

    Attributes:
        reset: flows whose checkpoints start anew, while their tables keep their rows.
    """

    datasets: tuple[Dataset, ...]
    excluded: tuple[Dataset, ...] = ()
    restarted: frozenset[Key] = frozenset()
    reset: tuple[ResolvedFlow, ...] = ()


def plan_update(graph: DataflowGraph, selection: RefreshSelection) -> UpdatePlan:
    """Return what a selection means for a graph.

    Raises:
        GraphError: `UNKNOWN_DATASET`, `UNKNOWN_FLOW`, `FULL_REFRESH_NOT_ALLOWED`.
        SpecError: `CONFLICTING_PIPELINE_REFRESH_OPTIONS`.
    """
    stored = graph.runnable()
    listed, full = _named(graph, selection)
    reset = tuple(find_flow(graph, name) for name in dict.fromkeys(selection.reset_checkpoint))
    for dataset in stored:
        if dataset.name.key in full and not reset_allowed(dataset.table_properties):
            raise GraphError(
                "FULL_REFRESH_NOT_ALLOWED",
                f"`{graph.display(dataset.name)}` must not be refreshed from the start",
                origin=dataset.origin,
                cause="its table property `pipelines.reset.allowed` is false",
                hint="remove the property first, or leave the dataset out of `--full-refresh`",
            )
    if selection.full_refresh_all:
        full = {dataset.name.key for dataset in stored if reset_allowed(dataset.table_properties)}
    chosen = {dataset.name.key for dataset in stored}
    if listed or selection.full_refresh:
        chosen = listed | full | {flow.target.key for flow in reset}
    return UpdatePlan(
        datasets=tuple(dataset for dataset in stored if dataset.name.key in chosen),
        excluded=tuple(dataset for dataset in stored if dataset.name.key not in chosen),
        restarted=frozenset(full),
        reset=tuple(flow for flow in reset if flow.target.key not in full),
    )


def _named(graph: DataflowGraph, selection: RefreshSelection) -> tuple[set[Key], set[Key]]:
    """Return the datasets that the two lists of the command line name; all wrong names are reported at once."""
    keys: dict[str, set[Key]] = {}
    errors: list[LakeletError] = []
    for option, names in (("--refresh", selection.refresh), ("--full-refresh", selection.full_refresh)):
        keys[option] = set()
        for name in names:
            try:
                keys[option].add(_stored(graph, name).name.key)
            except LakeletError as error:
                error.cause = error.cause or f"`{option}` names it"
                errors.append(error)
    raise_all(errors)
    listed, full = keys["--refresh"], keys["--full-refresh"]
    if both := sorted(listed & full):
        shown = ", ".join(f"`{graph.display(graph.datasets[key].name)}`" for key in both)
        raise SpecError(
            "CONFLICTING_PIPELINE_REFRESH_OPTIONS",
            f"both `--refresh` and `--full-refresh` name {shown}",
            cause="a refresh takes what is new, a full refresh begins from the start",
            hint="name a dataset in one of the two",
        )
    return listed, full


def _stored(graph: DataflowGraph, name: str) -> Dataset:
    dataset = graph.find(name)
    if dataset.kind is DatasetKind.TEMPORARY_VIEW:
        readers = [graph.display(reader) for reader in graph.downstream(dataset.name)]
        raise GraphError(
            "DATASET_NOT_STORED",
            f"`{name}` is a {dataset.kind.label} and has no table to refresh",
            hint=f"name a table that reads it, such as `{readers[0]}`" if readers else "name a table instead",
        )
    return dataset


class Update:
    """Runs a plan once; `ContinuousUpdate` goes on running it."""

    def __init__(self, context: UpdateContext, plan: UpdatePlan) -> None:
        self._context = context
        self._plan = plan
        self._outcomes: dict[str, FlowOutcome] = {}

    def set_up(self) -> None:
        """Begin the generations of a full refresh, and create the tables that do not exist.

        Raises:
            StorageError: a table cannot be created.
        """
        context = self._context
        if self._plan.restarted or self._plan.reset:
            kinds.update_progress(context.events, UpdateState.RESETTING)
        for flow in self._plan.reset:
            start_epoch(context.catalog.checkpoint(flow.target), flow.name, context.generation(flow.target))
            announce_checkpoint_reset(context.events, flow.name, context.display(flow.target))
        for dataset in self._plan.datasets:
            if dataset.name.key in self._plan.restarted:
                try:
                    start_generation(context.catalog.checkpoint(dataset.name))
                except LakeletError as error:
                    raise error.at(replace(dataset.origin, dataset=context.display(dataset.name))) from error.__cause__
                self._warn_readers(dataset)
        context.forget_sources([*self._plan.reset, *(f for key in self._plan.restarted for f in self._flows(key))])
        if self._plan.restarted:
            context.forget_file_columns(self._plan.restarted)
        kinds.update_progress(context.events, UpdateState.SETTING_UP_TABLES)
        self._warn_of_workers()
        for dataset in self._plan.datasets:
            try:
                self._set_up_table(dataset)
            except LakeletError as error:
                raise error.at(replace(dataset.origin, dataset=context.display(dataset.name))) from error.__cause__

    def _flows(self, key: Key) -> tuple[ResolvedFlow, ...]:
        return self._context.graph.flows_to(self._context.graph.datasets[key].name)

    def _warn_readers(self, dataset: Dataset) -> None:
        """Say which streams will fail because the table that they read starts anew without them."""
        graph = self._context.graph
        for reader in self._stream_readers.get(dataset.name.key, ()):
            kinds.warning(
                self._context.events,
                f"`{graph.display(dataset.name)}` starts anew, and `{graph.display(reader.name)}` reads it as a stream: "
                f"refresh it from the start, too (`--full-refresh {graph.display(reader.name)}`)",
                dataset=graph.display(reader.name),
            )

    def _warn_of_workers(self) -> None:
        """Say which rows pass through this process where a cluster's workers run none of our code."""
        context = self._context
        if not context.engine.capabilities.cluster_writes or context.engine.capabilities.arrow_functions:
            return
        flows = [flow for dataset in self._plan.datasets for flow in self._flows(dataset.name.key)]
        of_files = [
            flow
            for flow in flows
            if any(item.source.read is not None for item in context.inputs(flow).streams.values())
        ]
        for what, found in (("changes of AUTO CDC", [f for f in flows if f.is_cdc]), ("rows of files", of_files)):
            if found:
                kinds.warning(
                    context.events,
                    f"{what} pass through this process (flow {', '.join(f.name for f in found)}): the cluster's workers run no "
                    f"Python {sys.version_info.major}.{sys.version_info.minor} with pyarrow and numpy; install them there",
                )

    @functools.cached_property
    def _stream_readers(self) -> dict[Key, list[Dataset]]:
        """By dataset, what reads it as a stream and does not start anew."""
        result: dict[Key, list[Dataset]] = {}
        for reader in self._context.graph.runnable():
            if reader.name.key not in self._plan.restarted:
                streams = {
                    item.source.dataset.name.key
                    for flow in self._context.graph.flows_to(reader.name)
                    for item in self._context.inputs(flow).streams.values()
                    if item.source.dataset is not None
                }
                for key in streams:
                    result.setdefault(key, []).append(reader)
        return result

    def _set_up_table(self, dataset: Dataset) -> None:
        if dataset.kind is DatasetKind.SINK:
            return  # made by its first batch
        context = self._context
        location = context.location(dataset)
        definition = context.definition(dataset)
        record = context.catalog.checkpoint(dataset.name) / "definition.json"
        wanted = {
            "format": FORMAT,
            "location": context.catalog.relative(location),
            "comment": definition.comment,
            "properties": dict(definition.properties),
            "partition_cols": list(definition.partition_cols),
        }
        if comments := {field.name: comment for field in definition.schema if (comment := comment_of(field))}:
            wanted["column_comments"] = comments
        if context.store.exists(location):
            if read_derived(record) != wanted:
                self._redefine(dataset, definition)
                write_json(record, wanted)
            return
        if has_committed(context, dataset):
            return  # somebody deleted the table: its flows say so, an empty one would hide it
        if dataset.cluster_by or dataset.cluster_by_auto:
            kinds.warning(
                context.events,
                f"`{context.display(dataset.name)}`: this writer cannot cluster; `cluster_by` is kept as a table property only",
                dataset=context.display(dataset.name),
            )
        context.store.create(location, definition)
        write_json(record, wanted)

    def _redefine(self, dataset: Dataset, definition: TableDefinition) -> None:
        """Give a table that is there what its declaration says now; its layout changes with all of its rows only."""
        context = self._context
        table = context.table(dataset)
        if definition.comment is not None:
            table.set_comment(definition.comment)
        table.set_column_comments(definition.schema)
        table.set_properties(definition.properties)
        is_rewritten = dataset.kind is DatasetKind.MATERIALIZED_VIEW or dataset.name.key in self._plan.restarted
        if table.partition_cols != definition.partition_cols and not is_rewritten:
            display = context.display(dataset.name)
            kinds.warning(
                context.events,
                f"`{display}`: the changed `partition_cols` take effect with `--full-refresh {display}`",
                dataset=display,
            )

    def run(self) -> tuple[FlowOutcome, ...]:
        """Run every dataset of the plan once, each after those it reads; returns how each flow ended."""
        context = self._context
        flows = [flow for dataset in self._plan.datasets for flow in context.graph.flows_to(dataset.name)]
        outside = ExternalSources(context, flows, written=set(context.graph.datasets))
        self._context = context = context.reading(outside.heads_at_one_instant())
        for dataset in self._plan.excluded:
            self._finish_all(dataset, FlowStatus.EXCLUDED)
        for dataset in self._plan.datasets:
            self._announce(dataset, FlowStatus.QUEUED)
        chosen = {dataset.name.key: dataset for dataset in self._plan.datasets}
        needs = {key: context.graph.stored_upstream(d.name) & chosen.keys() for key, d in chosen.items()}
        readers: dict[Key, list[Key]] = {}
        for key, upstream in needs.items():
            for read in upstream:
                readers.setdefault(read, []).append(key)
        missing = {key: len(upstream) for key, upstream in needs.items()}
        ready = deque(key for key, count in missing.items() if not count)
        failed: set[Key] = set()
        ended: queue.SimpleQueue[concurrent.futures.Future[bool]] = queue.SimpleQueue()
        with concurrent.futures.ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="flow") as pool:
            running: dict[concurrent.futures.Future[bool], Key] = {}
            while ready or running:
                if ready:
                    key = ready.popleft()
                    dataset, broken = chosen[key], needs[key] & failed
                    if broken:
                        self._skip(dataset, broken)
                        failed.add(key)
                    elif context.stop.is_set():
                        self._finish_all(dataset, FlowStatus.STOPPED)
                    else:
                        future = pool.submit(self._run_dataset, dataset)
                        running[future] = key
                        future.add_done_callback(ended.put)
                        continue
                else:
                    future = ended.get()
                    key = running.pop(future)
                    if not future.result():
                        failed.add(key)
                for reader in readers.get(key, ()):
                    missing[reader] -= 1
                    if not missing[reader]:
                        ready.append(reader)
        return tuple(self._outcomes.values())

    def _run_dataset(self, dataset: Dataset) -> bool:
        """Run the flows of one dataset, one after the other; returns whether all succeeded."""
        succeeded = True
        for flow in self._context.graph.flows_to(dataset.name):
            self._progress(flow, dataset, FlowStatus.STARTING)
            try:
                batches = self._attempt(flow, dataset)
            except Exception as error:
                if was_given_up(self._context.stop, error):
                    self._finish(flow, dataset, FlowStatus.STOPPED)
                    continue
                self._finish(flow, dataset, FlowStatus.FAILED, error=failure_of(self._context, flow, error))
                succeeded = False
            else:
                status = FlowStatus.IDLE if flow.flow.once and not batches else FlowStatus.COMPLETED
                if self._context.stop.is_set():
                    status = FlowStatus.STOPPED
                self._finish(flow, dataset, status, batches=batches)
        return succeeded

    def _attempt(self, flow: ResolvedFlow, dataset: Dataset) -> int:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                return execute(self._context, flow, dataset)
            except FlowError as error:
                if not error.retryable or attempt == MAX_ATTEMPTS or self._context.stop.is_set():
                    raise
                kinds.warning(
                    self._context.events,
                    f"Flow '{flow.name}' failed ({error.condition}) and is tried again, attempt {attempt + 1}",
                    flow=flow.name,
                    dataset=self._context.display(dataset.name),
                )
                self._context.stop.wait(0.2 * 2**attempt)
        raise AssertionError("unreachable")

    def _skip(self, dataset: Dataset, broken: set[Key]) -> None:
        names = ", ".join(
            f"`{self._context.display(self._context.graph.datasets[key].name)}`" for key in sorted(broken)
        )
        error = FlowError(
            "UPSTREAM_FAILED",
            f"`{self._context.display(dataset.name)}` was skipped, because {names} did not succeed",
            hint="mend the failed flow and run the update again",
        )
        self._finish_all(dataset, FlowStatus.SKIPPED, error=error)

    def _finish_all(self, dataset: Dataset, status: FlowStatus, *, error: LakeletError | None = None) -> None:
        for flow in self._context.graph.flows_to(dataset.name):
            self._finish(flow, dataset, status, error=error)

    def _finish(
        self,
        flow: ResolvedFlow,
        dataset: Dataset,
        status: FlowStatus,
        *,
        error: LakeletError | None = None,
        batches: int = 0,
    ) -> None:
        self._outcomes[flow.name] = FlowOutcome(
            name=flow.name, dataset=self._context.display(dataset.name), status=status, error=error, batches=batches
        )
        self._progress(flow, dataset, status, error=error)

    def _announce(self, dataset: Dataset, status: FlowStatus) -> None:
        for flow in self._context.graph.flows_to(dataset.name):
            self._progress(flow, dataset, status)

    def _progress(
        self, flow: ResolvedFlow, dataset: Dataset, status: FlowStatus, *, error: LakeletError | None = None
    ) -> None:
        kinds.flow_progress(
            self._context.events,
            flow=flow.name,
            dataset=self._context.display(dataset.name),
            status=status,
            error=error,
        )


def execute(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> int:
    """Bring one flow up to date; returns how many micro-batches that took, of a materialized view 1 if it was written.

    Raises:
        FlowError: the table is as it was before the batch that failed.
    """
    if dataset.kind is DatasetKind.MATERIALIZED_VIEW:
        return int(refresh_view(context, flow, dataset))
    if isinstance(flow.flow, SnapshotCdcFlow):
        return run_snapshots(context, flow, dataset)
    return run_flow(context, flow, dataset)


def failure_of(context: UpdateContext, flow: ResolvedFlow, error: Exception) -> LakeletError:
    """Return why a flow failed, with its place in the user's files."""
    failure = error if isinstance(error, LakeletError) else _unexpected(flow, error)
    return failure.at(context.origin(flow))


def _unexpected(flow: ResolvedFlow, error: Exception) -> FlowError:
    """Return what is no error of the user's as one that stops its own flow only."""
    failure = FlowError(
        "INTERNAL_ERROR",
        f"the flow `{flow.name}` failed in a way that should not happen",
        cause="".join(traceback.format_exception(error)),
        hint="report this, with the lines above",
    )
    failure.__cause__ = error
    return failure


def describe(context: UpdateContext, datasets: Sequence[Dataset]) -> None:
    """Publish what the update consists of: one event a dataset and one a flow."""
    graph = context.graph
    for dataset in datasets:
        display = graph.display(dataset.name)
        kinds.dataset_definition(
            context.events,
            dataset=display,
            dataset_type=dataset.kind.value,
            num_flows=len(graph.flows_to(dataset.name)),
            expectations=[(rule.name, rule.text, rule.action.value) for rule in dataset.expectations],
        )
        for flow in graph.flows_to(dataset.name):
            settings = sorted({*dataset.spark_conf, *flow.flow.spark_conf} - {TRIGGER_INTERVAL})
            if settings:
                kinds.warning(
                    context.events,
                    f"Flow '{flow.name}': `spark_conf` has no effect on this engine: {', '.join(settings)}",
                    flow=flow.name,
                    dataset=display,
                )
            columns = flow.schema.fields if flow.schema else []
            kinds.flow_definition(
                context.events,
                flow=flow.name,
                output_dataset=display,
                input_datasets=[item.label for item in flow.inputs],
                flow_type=_flow_type(flow, dataset),
                schema=[(column.name, column.dataType.simpleString()) for column in columns],
                comment=dataset.comment,
            )


def _flow_type(flow: ResolvedFlow, dataset: Dataset) -> kinds.FlowType:
    if isinstance(flow.flow, SnapshotCdcFlow):
        return kinds.FlowType.SNAPSHOT_CHANGE
    if flow.is_cdc:
        return kinds.FlowType.CHANGE
    match dataset.kind:
        case DatasetKind.MATERIALIZED_VIEW:
            return kinds.FlowType.MATERIALIZED_VIEW
        case DatasetKind.TEMPORARY_VIEW:
            return kinds.FlowType.VIEW
        case _ if flow.is_complete:
            return kinds.FlowType.COMPLETE
        case _:
            return kinds.FlowType.APPEND
