"""An update on the terminal: a live table, or plain lines where there is no terminal.

Both are subscribers of the update's events. Progress goes to stdout, warnings and errors to stderr.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from lakelet.errors import DefinitionErrors, LakeletError
from lakelet.events.kinds import short_id
from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState
from lakelet.events.progress import DatasetProgress, RowCounts, UpdateProgress
from lakelet.terminal.pipes import write_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from lakelet.pipeline import UpdateResult

_QUIET_STATES = (
    UpdateState.CREATED,
    UpdateState.SETTING_UP_TABLES,
    UpdateState.RESETTING,
    UpdateState.STOPPING,
)
_STYLES = {
    FlowStatus.COMPLETED: "green",
    FlowStatus.RUNNING: "cyan",
    FlowStatus.STARTING: "cyan",
    FlowStatus.FAILED: "bold red",
    FlowStatus.SKIPPED: "yellow",
    FlowStatus.STOPPED: "yellow",
}
_STATE_STYLES = {
    UpdateState.COMPLETED: "bold green",
    UpdateState.FAILED: "bold red",
    UpdateState.CANCELED: "bold yellow",
}


def utc_now() -> datetime:
    return datetime.now(UTC)


class PlainView:
    """One line when a dataset is done or has failed, and one for each state of the update.

    Args:
        out: receives progress.
        err: receives warnings.
    """

    def __init__(self, out: TextIO, err: TextIO) -> None:
        self._out = out
        self._err = err
        self._progress = UpdateProgress()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, event: PipelineEvent) -> None:
        progress = self._progress
        before, warned = progress.state, set(progress.warnings)
        progress.apply(event)
        for warning in progress.warnings:
            if warning not in warned:
                write_line(f"  warning    {warning}", self._err)
        if progress.state is not before and progress.state not in _QUIET_STATES:
            write_line(headline(progress, now=event.timestamp), self._out)
        if event.event_type == "flow_progress" and (name := event.origin.get("dataset_name")):
            line = self._flow_line(progress.dataset(name), event)
            if line:
                write_line(line, self._out)
            if failure := _failure_to_retry(event):
                write_line(f"\n{failure}\n", self._err)

    def _flow_line(self, dataset: DatasetProgress, event: PipelineEvent) -> str | None:
        status = dataset.status
        if status is None or not status.is_final or status is FlowStatus.EXCLUDED:
            return None
        if dataset.total.batches and not dataset.recent.batches and status is FlowStatus.COMPLETED:
            return None  # continuous: nothing new this time
        counts = dataset.recent
        taken = f"{counts.busy_ms / 1000:.2f} s" if counts.busy_ms else ""
        width = max((len(d.name) for d in self._progress.datasets.values() if not d.is_view), default=0)
        cells = f"  {status.value.lower():<9}  {dataset.name:<{width}}  {_plain_counts(dataset)}  {taken:>8}"
        return f"{cells}  {_notes(dataset, event)}".rstrip()


def _failure_to_retry(event: PipelineEvent) -> str | None:
    """Return the error of a flow that goes on being tried; other errors are shown when the update has ended."""
    is_retried = event.event_type == "flow_progress" and "retry" in event.details
    return event.error.render() if is_retried and isinstance(event.error, LakeletError) else None


def _plain_counts(dataset: DatasetProgress) -> str:
    counts = dataset.recent
    rows_in = "" if counts.input is None else f"{counts.input:,} in"
    if counts.upserted is not None:
        written = f"{counts.upserted:,} upserted"
    elif counts.output is not None:
        written = f"{counts.output:,} written"
    elif dataset.status in (FlowStatus.COMPLETED, FlowStatus.IDLE):
        written = "no change" if dataset.technique == "NO_OP" else "nothing new"
    else:
        written = ""
    return f"{rows_in:>13}  {written:>18}"


def _notes(dataset: DatasetProgress, event: PipelineEvent) -> str:
    counts = dataset.recent
    notes = [f"{counts.deleted:,} deleted"] if counts.deleted else []
    notes += [f"{counts.dropped:,} dropped"] if counts.dropped else []
    notes += failed_rules(counts)
    if event.error is not None and dataset.status is FlowStatus.FAILED:
        notes.append(f"[{event.error.condition}]" if isinstance(event.error, LakeletError) else str(event.error))
    elif retry := event.details.get("retry"):
        notes.append(f"[{retry['condition']}]")
    if reason := event.details.get("reason"):
        notes.append(str(reason))
    return " · ".join(notes)


class LiveView:
    """A table that is redrawn while the update runs: one row a dataset, in the order of the graph, by schema."""

    def __init__(self, console: Console, *, clock: Callable[[], datetime] = utc_now) -> None:
        from rich.live import Live

        self._console = console
        self._clock = clock
        self._lock = threading.Lock()
        self._progress = UpdateProgress()
        self._finished = False
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=8, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._finished = True
        self._live.vertical_overflow = "visible"
        self._live.stop()

    def __call__(self, event: PipelineEvent) -> None:
        with self._lock:
            self._progress.apply(event)
        if failure := _failure_to_retry(event):
            self._console.print(f"\n{failure}\n", markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        with self._lock:
            height = None if self._finished else self._console.height
            return render_update(self._progress, now=self._clock(), height=height)


def view_for(out: TextIO) -> LiveView | PlainView:
    """Return the live view where `out` is a terminal, else plain lines."""
    if not out.isatty():
        return PlainView(out, sys.stderr)
    from rich.console import Console

    return LiveView(Console(file=out))


def render_update(progress: UpdateProgress, *, now: datetime, height: int | None = None) -> RenderableType:
    """Return the state of an update as a headline, a table and the warnings.

    Args:
        height: lines of the screen; datasets at rest are left out, and counted, where there are more. None: no limit.
    """
    from rich.console import Group
    from rich.text import Text

    style = _STATE_STYLES.get(progress.state, "bold") if progress.state else "bold"
    parts: list[RenderableType] = [Text(headline(progress, now=now), style=style)]
    if progress.datasets:
        parts.append(_table(progress, now, None if height is None else height - 4 - len(progress.warnings)))
    parts += [Text(f"warning: {warning}", style="yellow") for warning in progress.warnings]
    return Group(*parts)


def _table(progress: UpdateProgress, now: datetime, lines: int | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("dataset", overflow="fold")
    table.add_column("state", no_wrap=True)
    for numbers in ("rows in", "written", "dropped"):
        table.add_column(numbers, justify="right", no_wrap=True)
    table.add_column("rule failures", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    groups = progress.by_schema()
    shown = _fitting(list(progress.datasets.values()), lines, headers=sum(map(bool, groups)))
    for schema, datasets in groups.items():
        visible = [dataset for dataset in datasets if dataset.name in shown]
        if schema and visible:
            table.add_row(Text(schema, style="bold"))
        for dataset in visible:
            table.add_row(*_cells(dataset, now, indented=bool(schema)))
    hidden = len(progress.datasets) - len(shown)
    if hidden:
        table.add_row(Text(f"… {hidden} more", style="dim"))
    return table


def _fitting(datasets: Sequence[DatasetProgress], lines: int | None, *, headers: int) -> set[str]:
    """Return the names of the datasets to show in so many lines: those at work and those that failed come first."""
    if lines is None or len(datasets) + headers <= lines:
        return {dataset.name for dataset in datasets}
    urgency = {FlowStatus.FAILED: 0, FlowStatus.RUNNING: 1, FlowStatus.STARTING: 1, FlowStatus.QUEUED: 2}
    ranked = sorted(datasets, key=lambda dataset: urgency.get(dataset.status, 3) if dataset.status else 4)
    return {dataset.name for dataset in ranked[: max(1, lines - headers - 1)]}


def _cells(dataset: DatasetProgress, now: datetime, *, indented: bool) -> tuple[RenderableType, ...]:
    from rich.text import Text

    counts, status = dataset.total, dataset.status
    name = f"  {dataset.name.rpartition('.')[2]}" if indented else dataset.name
    seconds = None if dataset.is_view else dataset.seconds(now)
    return (
        Text(name, style="dim" if status in (FlowStatus.EXCLUDED, FlowStatus.QUEUED) else ""),
        Text(_state_text(dataset), style=_STYLES.get(status, "dim") if status else "dim"),
        _number(counts.input),
        Text(_written_text(dataset)),
        _number(counts.dropped or None),
        Text(", ".join(failed_rules(counts)), style="yellow"),
        Text("" if seconds is None else f"{seconds:.2f} s", style="dim"),
    )


def _state_text(dataset: DatasetProgress) -> str:
    if dataset.status is None:
        return "view" if dataset.is_view else ""
    if dataset.status is FlowStatus.COMPLETED and dataset.technique == "NO_OP" and not dataset.total.batches:
        return "no change"
    return dataset.status.value.lower()


def _written_text(dataset: DatasetProgress) -> str:
    counts = dataset.total
    if counts.upserted is None:
        return "" if counts.output is None else f"{counts.output:,}"
    deleted = f", {counts.deleted:,} deleted" if counts.deleted else ""
    return f"{counts.upserted:,} upserted{deleted}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def failed_rules(counts: RowCounts) -> list[str]:
    """Return `rule count` for each violated rule, the most violated first."""
    return [f"{rule} {count:,}" for rule, count in sorted(counts.failed.items(), key=lambda item: -item[1])]


def headline(progress: UpdateProgress, *, now: datetime) -> str:
    """Return one line about an update: which, its state, how long, and at its end what it did."""
    if not progress.update_id:
        return "starting"
    state = progress.state.value.lower().replace("_", " ") if progress.state else "created"
    update = f"{progress.pipeline_name}: update {short_id(progress.update_id)} {state}"
    if progress.finished_at is None:
        return f"{update}, {progress.seconds(now):.1f} s" if progress.seconds(now) >= 0.1 else update
    return f"{update} in {progress.seconds(now):.1f} s{_summary(progress)}"


def _summary(progress: UpdateProgress) -> str:
    tables = [dataset for dataset in progress.datasets.values() if dataset.status is not None]
    if not tables:
        return ""
    counts: dict[str, int] = {}
    for dataset in tables:
        assert dataset.status is not None
        name = dataset.status.value.lower()
        counts[name] = counts.get(name, 0) + 1
    total = progress.total()
    parts = [", ".join(f"{count} {name}" for name, count in counts.items())]
    parts.append(f"{total.written or 0:,} rows written")
    parts += [f"{total.dropped:,} dropped"] if total.dropped else []
    return ": " + ", ".join(parts)


def render_failures(result: UpdateResult) -> str:
    """Return what went wrong in an update, root causes first; the datasets skipped for them in one line."""
    blocks = [error.render() for error in root_causes(result)]
    skipped = dict.fromkeys(flow.dataset for flow in result.flows if flow.status is FlowStatus.SKIPPED)
    if skipped:
        blocks.append(f"skipped, since something they read failed: {', '.join(skipped)}")
    return "\n\n".join(blocks)


def root_causes(result: UpdateResult) -> list[LakeletError]:
    """Return the errors of an update, each once, without those of flows that were only skipped."""
    skipped = {id(flow.error) for flow in result.flows if flow.status is FlowStatus.SKIPPED}
    found: dict[int, LakeletError] = {}
    for error in result.errors:
        for part in error.errors if isinstance(error, DefinitionErrors) else (error,):
            if id(part) not in skipped:
                found.setdefault(id(part), part)
    return list(found.values())
