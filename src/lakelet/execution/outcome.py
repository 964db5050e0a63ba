"""What an update is asked for, and how it ended."""

from __future__ import annotations

from dataclasses import dataclass

from lakelet.errors import LakeletError, SpecError
from lakelet.events.model import FlowStatus, UpdateState


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshSelection:
    """What an update works on; nothing selected means every dataset, incrementally.

    Attributes:
        refresh: datasets to bring up to date, and no others.
        full_refresh: datasets to rebuild from the start of their sources.
        reset_checkpoint: flows that read their sources from the start, and append to what their tables have.
    """

    refresh: tuple[str, ...] = ()
    full_refresh: tuple[str, ...] = ()
    full_refresh_all: bool = False
    reset_checkpoint: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.full_refresh_all and (self.refresh or self.full_refresh):
            raise SpecError(
                "CONFLICTING_PIPELINE_REFRESH_OPTIONS",
                "`--full-refresh-all` was given together with a list of datasets",
                hint="give either the list or `--full-refresh-all`",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOutcome:
    """How one flow of an update ended.

    Attributes:
        batches: micro-batches committed; of a materialized view, 1 if it was written.
    """

    name: str
    dataset: str
    status: FlowStatus
    error: LakeletError | None = None
    batches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateResult:
    """How an update ended."""

    update_id: str
    state: UpdateState
    flows: tuple[FlowOutcome, ...] = ()
    error: LakeletError | None = None

    @property
    def errors(self) -> tuple[LakeletError, ...]:
        own = (self.error,) if self.error else ()
        return (
            *own,
            *(flow.error for flow in self.flows if flow.error is not None and flow.status is FlowStatus.FAILED),
        )

    @property
    def exit_code(self) -> int:
        if self.error is not None:
            return self.error.exit_code
        return {UpdateState.COMPLETED: 0, UpdateState.CANCELED: 130}.get(self.state, 1)
