"""When something of a continuous update is due: a flow, by its interval or after a failure, and the next look at the sources."""

from __future__ import annotations

from dataclasses import dataclass, field

from lakelet.errors import LakeletError
from lakelet.graph.elements import AnyFlow, Dataset, DatasetKind
from lakelet.graph.trigger import declared_interval
from lakelet.settings import TRIGGER_INTERVAL, interval_seconds
from lakelet.spec import PipelineSpec

STREAM_SECONDS = 5.0
DELTA_VIEW_SECONDS = 60.0
FILE_VIEW_SECONDS = 600.0
"""Intervals where none is set; source: https://docs.databricks.com/aws/en/ldp/pipeline-mode"""

FIRST_RETRY_SECONDS = 1.0
LAST_RETRY_SECONDS = 60.0

LOOK_SECONDS = 0.1
"""How often the sources are looked at where looking is cheap."""
LOOK_SHARE = 1 / 300
"""At most this share of a processor is spent with looking."""
LOOK_PART = 1 / 10
"""At most this part of the time goes by while looking, be it that storage or a busy machine lets it wait."""
LONGEST_LOOK_SECONDS = 5.0
"""How far apart two looks are at most, however expensive they are."""


def interval_of(spec: PipelineSpec, flow: AnyFlow, dataset: Dataset, *, reads_files: bool) -> float:
    """Return how many seconds apart the batches of a flow start, at least."""
    declared = declared_interval(flow, dataset)
    if declared is not None:
        return interval_seconds(declared)
    if (of_pipeline := spec.setting(TRIGGER_INTERVAL)) is not None:
        return float(of_pipeline)
    if dataset.kind is not DatasetKind.MATERIALIZED_VIEW:
        return STREAM_SECONDS
    return FILE_VIEW_SECONDS if reads_files else DELTA_VIEW_SECONDS


@dataclass(slots=True, kw_only=True)
class Pace:
    """The clock of one flow, in seconds of a clock that never goes back.

    Attributes:
        error: why it failed last; None once it has succeeded.
        failures: how often in a row.
    """

    interval_seconds: float
    error: LakeletError | None = None
    failures: int = 0
    _started_at: float | None = None
    _retry_at: float = 0.0
    _published: set[tuple[str, str]] = field(default_factory=set)

    def due_at(self) -> float:
        """Return when it may start next."""
        if self.error is not None:
            return self._retry_at
        return 0.0 if self._started_at is None else self._started_at + self.interval_seconds

    def start(self, now: float) -> None:
        self._started_at = now

    def succeed(self) -> None:
        self.error, self.failures = None, 0
        self._published.clear()

    def fail(self, error: LakeletError, now: float) -> tuple[float, bool]:
        """Note a failure; returns the seconds to wait, twice as many as before, and whether the error has been seen."""
        self.error = error
        self.failures += 1
        wait = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(self.failures - 1, 30))
        self._retry_at = now + wait
        seen = (error.condition, error.message)
        is_repeated = seen in self._published
        self._published.add(seen)
        return wait, is_repeated

    def hurry(self) -> None:
        """Let a flow that waits after a failure start at once."""
        self._retry_at = 0.0


def seconds_between_looks(*, cpu: float, took: float, has_moved: bool) -> float:
    """Return how long after a look the next one begins.

    A look that found something has read it, too: its cost says nothing about the next one.

    Args:
        cpu: processor seconds of the look.
        took: seconds that went by.
    """
    return (
        LOOK_SECONDS if has_moved else min(LONGEST_LOOK_SECONDS, max(LOOK_SECONDS, cpu / LOOK_SHARE, took / LOOK_PART))
    )
