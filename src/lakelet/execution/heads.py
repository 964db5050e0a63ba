"""How far the sources reach that an update reads and does not write, all of them at one instant.

Whoever writes dimensions before the facts that refer to them never has the facts read first: heads that belong to one instant
have the dimension rows if they have the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from lakelet.errors import LakeletError
from lakelet.events import kinds
from lakelet.execution.binding import StreamInput
from lakelet.execution.context import HeadKey, Unreadable, UpdateContext
from lakelet.execution.sources import RateSource
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset, DatasetKind, SnapshotCdcFlow
from lakelet.storage.delta_log import latest_version

MAX_READINGS = 50
"""How often the heads are read before giving up on two equal readings; takes about a second."""


def reads_whole_tables(flow: ResolvedFlow, dataset: Dataset) -> bool:
    """Return whether a flow reads tables whole, and again as soon as one of them has changed."""
    if isinstance(flow.flow, SnapshotCdcFlow):
        return isinstance(flow.flow.source, str)
    return dataset.kind is DatasetKind.MATERIALIZED_VIEW


class ExternalSources:
    """What flows read from outside of an update.

    Args:
        flows: of the update.
        written: keys of the datasets that the update brings up to date; they are not from outside.
        tables: watch the tables that are read whole, too.
    """

    def __init__(
        self,
        context: UpdateContext,
        flows: Iterable[ResolvedFlow],
        *,
        written: Collection[tuple[str, str, str]],
        tables: bool = False,
    ) -> None:
        self._context = context
        own = {context.location(context.graph.datasets[key]) for key in written}
        self._streams: list[tuple[ResolvedFlow, StreamInput]] = []
        self._tables: dict[HeadKey, int] = {}
        self._keys: dict[str, list[HeadKey]] = {}
        for flow in flows:
            inputs = context.inputs(flow)
            for item in inputs.streams.values():
                if item.source.dataset is None or item.source.dataset.name.key not in written:
                    self._streams.append((flow, item))
                    self._keys.setdefault(flow.name, []).append((flow.name, item.id))
            if tables and reads_whole_tables(flow, context.graph.dataset(flow.target)):
                found = {(flow.name, location): -1 for location in inputs.locations if location not in own}
                self._tables.update(found)
                self._keys.setdefault(flow.name, []).extend(found)

    def keys(self, flow: ResolvedFlow) -> tuple[HeadKey, ...]:
        """Return the keys of one flow's heads."""
        return tuple(self._keys.get(flow.name, ()))

    def heads(self, *, clocks: bool = True) -> dict[HeadKey, Any]:
        """Return all heads as they are, one after the other.

        Args:
            clocks: with those that move by themselves.
        """
        found: dict[HeadKey, Any] = {}
        for flow, item in self._streams:
            source = self._context.source(flow, item)
            if clocks or not isinstance(source, RateSource):
                try:
                    found[flow.name, item.id] = self._context.newest_head(flow, item)
                except LakeletError as error:
                    found[flow.name, item.id] = Unreadable(str(error), error)
        for key, known in self._tables.items():
            version = latest_version(key[1], known=known)
            self._tables[key] = -1 if version is None else version
            found[key] = version
        return found

    def heads_at_one_instant(self) -> dict[HeadKey, Any]:
        """Return heads that two readings in a row agree upon."""
        heads = self.heads()
        for attempt in range(MAX_READINGS):
            now = self.heads(clocks=False)
            if all(heads[key] == head for key, head in now.items()):
                return heads
            heads |= now
            self._context.stop.wait(0.001 * attempt)
        kinds.warning(
            self._context.events,
            "the external sources are written so often that they could not be pinned at one instant: a fact may be read "
            "before a dimension row that was written earlier",
        )
        return heads
