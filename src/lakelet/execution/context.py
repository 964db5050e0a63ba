"""What every step of an update shares."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lakelet.engine.base import Engine
from lakelet.errors import Origin
from lakelet.events.log import EventBus
from lakelet.execution.binding import Binder, Inputs, StreamInput
from lakelet.execution.checkpoint import read_generation
from lakelet.execution.resolution import Resolver
from lakelet.execution.sources import DeltaSource, RateSource, StreamSource
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import Dataset
from lakelet.names import TableName
from lakelet.storage.base import Table, TableStore
from lakelet.storage.catalog import Catalog


@dataclass(slots=True, kw_only=True)
class UpdateContext:
    """One update: the graph, the engine, the store, and what has been pinned for it.

    Attributes:
        cdc_ties: `warn` or `fail`: what different events with one key and one sequence value mean.
        drop_invalid: leave out change rows that AUTO CDC cannot apply; set by a repair only.
        heads: per flow and source id, how far an external source is read in this round.
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
    drop_invalid: bool = False
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    heads: dict[tuple[str, str], Any] = field(default_factory=dict)
    _sources: dict[tuple[str, str], StreamSource] = field(default_factory=dict)
    _inputs: dict[str, Inputs] = field(default_factory=dict)

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

    def generation(self, dataset: Dataset) -> int:
        return read_generation(self.catalog.checkpoint(dataset.name))

    def app_id(self, flow: ResolvedFlow, generation: int) -> str:
        """Return the application id of a flow's receipts; a full refresh begins a new one."""
        return f"lakelet/{flow.target}/{flow.name}/{generation}"

    def inputs(self, flow: ResolvedFlow) -> Inputs:
        if flow.name not in self._inputs:
            self._inputs[flow.name] = self.binder.inputs(flow.relation, self.origin(flow))
        return self._inputs[flow.name]

    def source(self, flow: ResolvedFlow, item: StreamInput) -> StreamSource:
        """Return the reader of one streaming input; it is kept for the whole update."""
        key = (flow.name, item.id)
        if key not in self._sources:
            location = self.binder.location(item.source)
            leaf = item.source.leaf
            if location is None:
                self._sources[key] = RateSource(options=leaf.options, clock=self.clock)
            else:
                self._sources[key] = DeltaSource(
                    location=location, label=leaf.label, store=self.store, options=leaf.options, max_bytes=self.max_bytes
                )
        return self._sources[key]

    def pin_heads(self, flows: Mapping[str, ResolvedFlow]) -> None:
        """Fix how far external sources are read in this round.

        All heads are read until two readings in a row agree, so they belong to one instant: whoever writes dimensions before
        the facts that refer to them never has the facts read first.
        """
        inputs = [
            (flow, item)
            for flow in flows.values()
            for item in self.inputs(flow).streams.values()
            if item.source.dataset is None
        ]
        seen: dict[tuple[str, str], Any] = {}
        for _ in range(20):
            now = {(flow.name, item.id): self.source(flow, item).head() for flow, item in inputs}
            if now == seen:
                break
            seen = now
        self.heads = seen

    def head(self, flow: ResolvedFlow, item: StreamInput) -> Any:
        """Return how far a source may be read: the pinned head, or for a dataset of the pipeline what is there now."""
        key = (flow.name, item.id)
        return self.heads[key] if key in self.heads else self.source(flow, item).head()
