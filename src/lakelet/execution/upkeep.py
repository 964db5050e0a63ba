"""Maintenance of tables between the batches of a continuous update."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lakelet.errors import LakeletError
from lakelet.events import kinds
from lakelet.execution.checkpoint import read_generation
from lakelet.execution.context import UpdateContext
from lakelet.execution.maintenance import Need, Retention, keyed_tables, maintain_table, versions_in_use
from lakelet.execution.update import Key
from lakelet.execution.view_record import ViewRecords
from lakelet.graph.elements import Dataset
from lakelet.places import place
from lakelet.storage.delta_log import latest_version

MIN_COMMITS = 10
"""A table with fewer commits than this since it was maintained last is left alone."""


@dataclass(slots=True, kw_only=True)
class Upkeep:
    """Says which tables are due, and maintains those of one dataset while none of its flows runs.

    What it fails at changes no result: it is a warning, and is tried again after the interval.
    """

    context: UpdateContext
    interval_seconds: float
    _next_at: float = math.nan
    _known: dict[Key, int] = field(default_factory=dict)
    _waiting: dict[Key, Dataset] = field(default_factory=dict)
    _in_use: tuple[Mapping[str, Need], frozenset[str]] | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether datasets of this round have yet to be maintained."""
        return bool(self._waiting)

    def next_at(self, now: float) -> float:
        """Return when to ask next what is due; never at the start of an update."""
        if math.isnan(self._next_at):
            self._next_at = now + self.interval_seconds
        return now if self._waiting else self._next_at

    def due(self, now: float, datasets: list[Dataset]) -> list[Dataset]:
        """Return the datasets to maintain now; those that are busy are asked for again."""
        if now >= self.next_at(now) and not self._waiting:
            self._next_at = now + self.interval_seconds
            self._waiting = {dataset.name.key: dataset for dataset in datasets if self._has_grown(dataset)}
            self._in_use = None
        return list(self._waiting.values())

    def begin(self, dataset: Dataset) -> None:
        del self._waiting[dataset.name.key]

    def _has_grown(self, dataset: Dataset) -> bool:
        if not dataset.is_stored:
            return False
        version = latest_version(self.context.location(dataset))
        return version is not None and version - self._known.get(dataset.name.key, 0) >= MIN_COMMITS

    def maintain(self, dataset: Dataset) -> int:
        """Compact the tables of a dataset, and remove old files; returns how many tables were looked after."""
        context, display = self.context, self.context.display(dataset.name)
        try:
            needs, keyed = self._used()
            done = [
                maintain_table(
                    context.store,
                    location,
                    label=context.catalog.relative(location),
                    need=needs.get(location),
                    retention=Retention(),
                    compact=location not in keyed or not context.store.keeps_key_order,
                    now=context.clock(),
                )
                for location in self._tables(dataset)
            ]
        except LakeletError as error:
            kinds.warning(
                context.events,
                f"`{display}` could not be maintained, and is tried again later: {error}",
                dataset=display,
            )
            return 0
        self._known[dataset.name.key] = latest_version(context.location(dataset)) or 0
        kinds.operation_progress(context.events, operation="MAINTENANCE", status="COMPLETED", dataset=display)
        return len(done)

    def _used(self) -> tuple[Mapping[str, Need], frozenset[str]]:
        """Return what checkpoints need of all tables, read once a round: what they come to need meanwhile is newer."""
        found = self._in_use
        if found is None:
            found = self._in_use = (versions_in_use(self.context.catalog), keyed_tables(self.context.catalog))
        return found

    def _tables(self, dataset: Dataset) -> Iterator[str]:
        catalog = self.context.catalog
        yield self.context.location(dataset)
        if place(auxiliary := catalog.auxiliary(dataset.name)).is_dir():
            yield auxiliary
        folder = catalog.checkpoint(dataset.name)
        if place(state := ViewRecords(folder).state_location).is_dir():
            yield state
        yield from map(str, sorted(folder.glob(f"*/{read_generation(folder)}/state/*")))
