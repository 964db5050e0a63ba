"""What every step of an update shares."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.engine.base import Engine
from lakelet.errors import GraphError, LakeletError, Origin
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.execution.binding import Binder, Inputs, StreamInput
from lakelet.execution.change_feed import ChangeFeedSource
from lakelet.execution.checkpoint import KEEP_BATCHES, Checkpoint, read_generation
from lakelet.execution.clock import ClockedEngine
from lakelet.execution.delta_options import DeltaOptions
from lakelet.execution.delta_source import DeltaSource
from lakelet.execution.expectations import DroppedRows, Quality
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_source import FileSource
from lakelet.execution.resolution import Resolver
from lakelet.execution.sources import RateSource, StreamSource
from lakelet.execution.stateful_part import StatefulPart, stateful_part
from lakelet.execution.view_query import ViewQuery, view_query
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import TOMBSTONE_PROPERTY, Dataset
from lakelet.names import TableName
from lakelet.settings import KEPT_BATCHES
from lakelet.spec import PipelineSpec
from lakelet.storage.base import Table, TableDefinition, TableStore
from lakelet.storage.catalog import Catalog

T = TypeVar("T")

HeadKey = tuple[str, str]
"""Name of a flow, and the id of its source or the location of a table."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """The head of a source that cannot be read; equal to another one for the same reason."""

    reason: str
    error: LakeletError = field(compare=False)


@dataclass(slots=True, kw_only=True)
class UpdateContext:
    """One update: the graph, the engine, the store, and what has been pinned for it.

    Attributes:
        cdc_ties: `warn` or `fail`: what different events with one key and one sequence value mean.
        recompute_rows: a view whose tables have no more rows is computed anew rather than incrementally.
        drop_invalid: leave out change rows that AUTO CDC cannot apply; set by a repair only.
        on_dropped: is handed, with the flow's name, the rows that drop rules remove.
        heads: how far a source is read, where that is fixed.
        versions: by location, the version at which a table is read, where that is fixed.
    """

    pipeline: str
    graph: DataflowGraph
    resolver: Resolver
    binder: Binder
    engine: Engine
    store: TableStore
    catalog: Catalog
    events: EventBus
    stop: threading.Event
    max_bytes: int
    time_zone: str = "UTC"
    cdc_ties: str = "warn"
    kept_batches: int = KEEP_BATCHES
    recompute_rows: int = 0
    drop_invalid: bool = False
    on_dropped: Callable[[str, DroppedRows], None] | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    heads: Mapping[HeadKey, Any] = field(default_factory=dict)
    versions: Mapping[str, int | None] = field(default_factory=dict)
    _sources: dict[tuple[str, str], StreamSource] = field(default_factory=dict)

    def at(self, instant: datetime) -> UpdateContext:
        """Return the context of one batch, for which the clock stands still."""
        return replace(self, engine=ClockedEngine(self.engine, instant, self.time_zone))

    def display(self, name: TableName) -> str:
        return self.graph.display(name)

    def origin(self, flow: ResolvedFlow) -> Origin:
        return replace(flow.flow.origin, dataset=self.display(flow.target), flow=flow.name)

    def location(self, dataset: Dataset) -> str:
        return self.catalog.location(dataset.name)

    def table(self, dataset: Dataset) -> Table:
        """Open the table of a dataset that this update has set up."""
        table = self.store.open(self.location(dataset))
        assert table is not None, f"{dataset.name} was not set up"
        return table

    def definition(self, dataset: Dataset) -> TableDefinition:
        """Return what the table of a dataset is created with.

        Raises:
            GraphError: `PARTITION_COLUMN_NOT_FOUND`.
        """
        columns = self.resolver.schema(dataset.name)
        missing = [name for name in dataset.partition_cols if name not in columns.names]
        if missing:
            raise GraphError(
                "PARTITION_COLUMN_NOT_FOUND",
                f"`{self.display(dataset.name)}` is partitioned by `{missing[0]}`, which it does not have",
                origin=dataset.origin,
                hint=f"its columns are {', '.join(columns.names)}",
            )
        properties = {key: str(value) for key, value in dataset.table_properties.items()}
        if dataset.cluster_by or dataset.cluster_by_auto:
            properties["lakelet.clusterBy"] = ",".join(dataset.cluster_by) or "auto"
        return TableDefinition(
            schema=to_arrow_schema(columns, timezone="UTC"),
            comment=dataset.comment,
            partition_cols=dataset.partition_cols,
            properties=properties,
        )

    def forget_deletes_after(self, dataset: Dataset) -> timedelta | None:
        """Return the age from which AUTO CDC need not remember deletes; None: it does for good."""
        seconds = dataset.table_properties.get(TOMBSTONE_PROPERTY)
        return None if seconds is None else timedelta(seconds=int(seconds))

    def generation(self, name: TableName) -> int:
        return read_generation(self.catalog.checkpoint(name))

    def app_id(self, flow: ResolvedFlow, epoch: str) -> str:
        """Return the application id of a flow's receipts; a full refresh, and a reset of its checkpoint, begin a new one."""
        return f"lakelet/{flow.target}/{flow.name}/{epoch}"

    def quality(self, flow: ResolvedFlow) -> Quality:
        """Return what counts the rules over one micro-batch of a flow."""
        return Quality(on_dropped=self.on_dropped and functools.partial(self.on_dropped, flow.name))

    def inputs(self, flow: ResolvedFlow) -> Inputs:
        return self._derived(f"inputs of {flow.name}", lambda: self.binder.inputs(flow.relation, self.origin(flow)))

    def stateful(self, flow: ResolvedFlow) -> StatefulPart | None:
        """Return the operator with state of a flow, None if it works row by row."""
        return self._derived(
            f"operator of {flow.name}", lambda: stateful_part(self.resolver, flow.relation, self.origin(flow))
        )

    def view_query(self, flow: ResolvedFlow) -> ViewQuery:
        """Return what the query of a materialized view allows its refreshes to do."""
        return self._derived(f"view query of {flow.name}", lambda: view_query(self, flow))

    def _derived(self, key: str, make: Callable[[], T]) -> T:
        """Return what follows from the code alone; made once for all updates of the same code."""
        derived = self.resolver.derived
        if key not in derived:
            derived[key] = make()
        result: T = derived[key]
        return result

    def source(self, flow: ResolvedFlow, item: StreamInput) -> StreamSource:
        """Return the reader of one streaming input; it is kept for the whole update."""
        key = (flow.name, item.id)
        if key not in self._sources:
            location = self.resolver.location(item.source)
            leaf = item.source.leaf
            if item.source.read is not None:
                folder = self._checkpoint(flow).source_folder(item.id)
                assert isinstance(folder, Path), "streams of files were refused when the source was found"
                self._sources[key] = FileSource(
                    read=item.source.read,
                    schemas=self.resolver.files,
                    cluster=self.resolver.file_cluster,
                    folder=folder,
                    max_bytes=self.max_bytes,
                    metadata=item.metadata,
                    on_lacking=functools.partial(self._lacking, flow),
                    on_new_columns=functools.partial(self._new_columns, flow),
                )
            elif location is None:
                self._sources[key] = RateSource(options=leaf.options, clock=self.clock)
            else:
                reader = ChangeFeedSource if DeltaOptions(leaf.options).change_feed else DeltaSource
                self._sources[key] = reader(
                    location=location,
                    label=leaf.shown,
                    store=self.store,
                    options=leaf.options,
                    max_bytes=self.max_bytes,
                    metadata=item.metadata,
                    inline=not self.engine.capabilities.cluster_writes,
                    on_new_columns=self.resolver.forget_columns,
                )
        return self._sources[key]

    def forget_sources(self, flows: Iterable[ResolvedFlow]) -> None:
        """Open the sources of flows anew, where they keep what they know in a checkpoint that is over."""
        names = {flow.name for flow in flows}
        for key in [key for key in self._sources if key[0] in names]:
            del self._sources[key]

    def _checkpoint(self, flow: ResolvedFlow) -> Checkpoint:
        dataset = self.graph.dataset(flow.target)
        return Checkpoint(self.catalog.checkpoint(dataset.name), flow.name, self.generation(dataset.name))

    def _lacking(self, flow: ResolvedFlow, read: FileRead, module: str) -> None:
        """Tell of files that are parsed here because a cluster cannot."""
        kinds.warning(
            self.events,
            f"Flow '{flow.name}': rows of `{read.label}` pass through this process: the cluster's workers have no `{module}`, "
            f"which {read.format} files need; install it there",
            flow=flow.name,
            dataset=self.display(flow.target),
        )

    def _new_columns(self, flow: ResolvedFlow, read: FileRead, names: Sequence[str]) -> None:
        """Tell of columns that files have brought, and let what reads this flow ask for its columns again."""
        self.resolver.forget_columns()
        kinds.warning(
            self.events,
            f"Flow '{flow.name}': files of `{read.label}` have new columns, which are read from here on: {', '.join(names)}",
            flow=flow.name,
            dataset=self.display(flow.target),
        )

    def forget_file_columns(self, restarted: Collection[tuple[str, str, str]]) -> None:
        """Infer columns of files anew, where everything that reads them starts from the beginning."""
        reads: dict[str, FileRead] = {}
        kept: set[str] = set()
        for dataset in self.graph.runnable():
            for flow in self.graph.flows_to(dataset.name):
                for item in self.inputs(flow).streams.values():
                    if item.source.read is not None:
                        key = self.resolver.files.key(item.source.read)
                        reads[key] = item.source.read
                        if dataset.name.key not in restarted:
                            kept.add(key)
        self.resolver.files.forget(read for key, read in reads.items() if key not in kept)
        self.resolver.forget_columns()

    def reading(self, heads: Mapping[HeadKey, Any], versions: Mapping[str, int | None] | None = None) -> UpdateContext:
        """Return the context in which sources are read up to `heads`, and tables at `versions` where one is given."""
        return replace(self, heads=dict(heads), versions=dict(versions or {}))

    def newest_head(self, flow: ResolvedFlow, item: StreamInput) -> Any:
        """Return how far a source reaches now.

        Raises:
            LakeletError: why that could not be read, with the flow's origin.
        """
        try:
            return self.source(flow, item).head()
        except LakeletError as error:
            raise error.at(self.origin(flow)) from error.__cause__

    def head(self, flow: ResolvedFlow, item: StreamInput) -> Any:
        """Return how far a source may be read: the pinned head, or for a dataset of the pipeline what is there now.

        Raises:
            LakeletError: why the head could not be read.
        """
        key = (flow.name, item.id)
        head = self.heads[key] if key in self.heads else self.newest_head(flow, item)
        if isinstance(head, Unreadable):
            raise head.error
        return head


DEFAULT_MAX_BYTES = 64 * 2**20
"""Size on disk of a micro-batch, where neither the read nor the project file sets one."""


def update_context(
    spec: PipelineSpec,
    *,
    graph: DataflowGraph,
    resolver: Resolver,
    engine: Engine,
    store: TableStore,
    events: EventBus,
    clock: Callable[[], datetime],
    stop: threading.Event | None = None,
    on_dropped: Callable[[str, DroppedRows], None] | None = None,
    sources: dict[tuple[str, str], StreamSource] | None = None,
) -> UpdateContext:
    """Return the context of one update of the pipeline that `spec` describes.

    Args:
        sources: the readers of an earlier update of the same graph, which know their tables already.
    """
    return UpdateContext(
        pipeline=spec.name,
        graph=graph,
        resolver=resolver,
        binder=Binder(resolver),
        engine=engine,
        store=store,
        catalog=resolver.catalog,
        events=events,
        stop=stop or threading.Event(),
        max_bytes=spec.setting("lakelet.maxBytesPerTrigger") or DEFAULT_MAX_BYTES,
        time_zone=spec.time_zone,
        cdc_ties=str(spec.setting("lakelet.cdc.ties")),
        kept_batches=spec.setting(KEPT_BATCHES),
        recompute_rows=spec.setting("lakelet.views.recomputeRows"),
        on_dropped=on_dropped,
        clock=clock,
        _sources={} if sources is None else sources,
    )
