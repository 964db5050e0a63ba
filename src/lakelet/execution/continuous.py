"""A continuous update: every flow at its own pace, and no fact before a dimension row that had landed earlier.

The sources from outside are looked at; when one has moved, all are read at one instant. Such an instant is an *epoch*, with
a number. A flow works from epoch to epoch: it reads the sources up to the heads of the epoch, and the tables of the pipeline
up to a *mark*, a version of which is known that it has all rows up to one epoch and none from after another. What it reads as
a stream is never from after an epoch that one of its other inputs has not got to. So flows need not wait for each other's
batches, and a flow that fails, or is slow, keeps back those that read it and nobody else.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import heapq
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lakelet.errors import FlowError, StorageError
from lakelet.events import kinds
from lakelet.events.model import FlowStatus
from lakelet.execution.context import HeadKey, UpdateContext
from lakelet.execution.flow_state import FlowState, Mark, Marks, Work
from lakelet.execution.giving_up import was_given_up
from lakelet.execution.heads import ExternalSources
from lakelet.execution.outcome import FlowOutcome
from lakelet.execution.pace import Pace, seconds_between_looks
from lakelet.execution.update import MAX_WORKERS, Key, UpdatePlan, execute, failure_of
from lakelet.execution.upkeep import Upkeep
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset, SnapshotCdcFlow
from lakelet.storage.delta_log import latest_version

LONGEST_SLEEP_SECONDS = 0.5
"""How long a request to stop or to drain may go unnoticed."""
FLUSH_SECONDS = 10.0
"""How often events are committed to the event log."""


@dataclass(slots=True)
class _Job:
    """Something that runs in the pool and writes to the tables of one dataset."""

    key: Key
    state: FlowState | None = None
    work: Work | None = None


class ContinuousUpdate:
    """Runs the flows of a plan until it is stopped or drained.

    Args:
        pace: makes the pace of a flow.
        upkeep: maintains tables between the batches; None for never.
        flush: commits the events so far to the event log.
    """

    def __init__(
        self,
        context: UpdateContext,
        plan: UpdatePlan,
        *,
        pace: Callable[[ResolvedFlow, Dataset], Pace],
        upkeep: Upkeep | None,
        flush: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._excluded = plan.excluded
        self._clock = clock
        self._flush = flush
        self._upkeep = upkeep
        written = {dataset.name.key for dataset in plan.datasets}
        pairs = [(flow, dataset) for dataset in plan.datasets for flow in context.graph.flows_to(dataset.name)]
        self._outside = ExternalSources(context, [flow for flow, _ in pairs], written=written, tables=True)
        locations = {context.location(dataset): dataset.name.key for dataset in plan.datasets}
        self._states = [self._state(flow, dataset, pace(flow, dataset), locations) for flow, dataset in pairs]
        self._of: dict[Key, list[FlowState]] = {}
        for state in self._states:
            self._of.setdefault(state.dataset.name.key, []).append(state)
        self._marks = {key: Marks() for key in self._of}
        self._datasets = [states[0].dataset for states in self._of.values()]
        self._concerned = self._positions()
        self._changed: set[int] = set()
        self._due: list[tuple[float, int]] = []
        self._is_all_changed = True
        self._ended: queue.SimpleQueue[concurrent.futures.Future[int]] = queue.SimpleQueue()
        self._upkeep_at = 0.0
        self._epoch = 0
        self._heads: dict[HeadKey, Any] = {}
        self._look_at = self._submit_at = 0.0
        self._flush_at = clock() + FLUSH_SECONDS
        self._flush_failure = ""

    def _state(self, flow: ResolvedFlow, dataset: Dataset, pace: Pace, locations: Mapping[str, Key]) -> FlowState:
        inputs = self._context.inputs(flow)
        outside = self._outside.keys(flow)
        return FlowState(
            flow=flow,
            dataset=dataset,
            pace=pace,
            outside=outside,
            streams={
                item.id: item.source.dataset.name.key
                for item in inputs.streams.values()
                if item.source.dataset is not None and (flow.name, item.id) not in outside
            },
            tables={location: locations[location] for location in inputs.locations if location in locations},
            looks=bool(inputs.files) or (isinstance(flow.flow, SnapshotCdcFlow) and callable(flow.flow.source)),
        )

    def _positions(self) -> dict[Key, list[int]]:
        """Return for each dataset where the flows stand that must be looked at when something has happened to it."""
        result: dict[Key, list[int]] = {key: [] for key in self._of}
        for position, state in enumerate(self._states):
            for key in {state.dataset.name.key, *state.upstream}:
                result[key].append(position)
        return result

    # -- the loop -------------------------------------------------------------------------------------------------

    def run(self, *, drain: threading.Event) -> tuple[FlowOutcome, ...]:
        """Run until the context's `stop` is set, or until everything that had arrived when `drain` was set is processed."""
        stop = self._context.stop
        self._announce()
        is_draining = False
        running: dict[concurrent.futures.Future[int], _Job] = {}
        with concurrent.futures.ThreadPoolExecutor(MAX_WORKERS, thread_name_prefix="flow") as pool:
            while not stop.is_set():
                if not is_draining and drain.is_set():
                    is_draining = True
                    self._begin_to_drain()
                elif not is_draining:
                    self._look()
                if self._clock() >= self._submit_at:
                    self._submit(pool, running, is_draining)
                if is_draining and not running:
                    break
                self._wait(running, stop)
                self._flush_when_due()
            while running:
                self._collect(self._ended.get(), running)
        return self._outcomes(is_stopped=stop.is_set())

    def _begin_to_drain(self) -> None:
        """Look at the sources for the last time, and let no flow wait any more."""
        self._look_at = self._submit_at = 0.0
        self._is_all_changed = True
        self._look()
        for state in self._states:
            state.pace.hurry()
            if state.looks:  # once more, and not again
                state.looks, state.seen = False, None

    def _look(self) -> None:
        """See whether a source has moved; then begin a new epoch."""
        started = self._clock()
        if started < self._look_at:
            return
        cpu = time.thread_time()
        now = self._outside.heads()
        cpu, took = time.thread_time() - cpu, self._clock() - started
        has_moved = self._epoch == 0 or any(now[key] != self._heads.get(key) for key in now)
        self._look_at = started + seconds_between_looks(cpu=cpu, took=took, has_moved=has_moved)
        if has_moved:
            self._heads = self._outside.heads_at_one_instant()
            self._epoch += 1
            self._submit_at = 0.0
            self._is_all_changed = True

    def _submit(
        self, pool: concurrent.futures.Executor, running: dict[concurrent.futures.Future[int], _Job], is_draining: bool
    ) -> None:
        """Start every flow that has something to do and may; each dataset's flows one after the other.

        Only flows for which something has changed are looked at, in the order of execution: all of them where the sources have
        moved, else those whose time has come, and those of datasets that have got further with their readers.
        """
        busy = {job.key for job in running.values()}
        now = self._clock()
        todo = self._take_changed(now)
        while todo:
            position = heapq.heappop(todo)
            if todo and todo[0] == position:
                continue
            state = self._states[position]
            key = state.dataset.name.key
            work = None if key in busy else self._work(state)
            if work is None:
                continue
            if not self._has_work(state, work, now):
                if self._advance(state, work):
                    for other in self._concerned[key]:
                        if other > position:
                            heapq.heappush(todo, other)
                if state.looks and not state.flow.flow.once:
                    heapq.heappush(self._due, (state.pace.due_at(), position))
            elif now >= state.pace.due_at() or (is_draining and state.pace.error is None):
                busy.add(key)
                self._start(state, work, now)
                self._run(pool, running, _Job(key, state, work), functools.partial(self._execute, state, work))
            else:
                heapq.heappush(self._due, (state.pace.due_at(), position))
        self._submit_at = self._due[0][0] if self._due else math.inf
        if self._upkeep is not None and not is_draining:
            if now >= self._upkeep_at:
                for dataset in self._upkeep.due(now, self._datasets):
                    if dataset.name.key not in busy:
                        self._upkeep.begin(dataset)
                        maintain = functools.partial(self._upkeep.maintain, dataset)
                        self._run(pool, running, _Job(dataset.name.key), maintain)
                self._upkeep_at = math.inf if self._upkeep.is_waiting else self._upkeep.next_at(now)
            self._submit_at = min(self._submit_at, self._upkeep_at)

    def _take_changed(self, now: float) -> list[int]:
        """Return the flows to look at, as a heap; they are not looked at again before something happens to them."""
        if self._is_all_changed:
            found = set(range(len(self._states)))
            self._due = []
        else:
            found = self._changed
            while self._due and self._due[0][0] <= now:
                found.add(heapq.heappop(self._due)[1])
        self._is_all_changed, self._changed = False, set()
        return sorted(found)

    def _run(
        self,
        pool: concurrent.futures.Executor,
        running: dict[concurrent.futures.Future[int], _Job],
        job: _Job,
        call: Callable[[], int],
    ) -> None:
        future = pool.submit(call)
        running[future] = job
        future.add_done_callback(self._ended.put)

    def _wait(self, running: dict[concurrent.futures.Future[int], _Job], stop: threading.Event) -> None:
        """Wait until something ends, or it is time to look or to start something."""
        seconds = max(0.0, min(min(self._look_at, self._submit_at) - self._clock(), LONGEST_SLEEP_SECONDS))
        if not running:
            stop.wait(seconds)
            return
        with contextlib.suppress(queue.Empty):
            self._collect(self._ended.get(timeout=seconds), running)
            while True:
                self._collect(self._ended.get_nowait(), running)

    def _flush_when_due(self) -> None:
        now = self._clock()
        if now >= self._flush_at:
            self._flush_at = now + FLUSH_SECONDS
            try:
                self._flush()
            except StorageError as error:  # the events wait in memory and in the JSON lines
                if str(error) != self._flush_failure:
                    kinds.warning(self._context.events, f"the events are kept for later: {error}")
                self._flush_failure = str(error)
            else:
                self._flush_failure = ""

    # -- what there is to do --------------------------------------------------------------------------------------

    def _work(self, state: FlowState) -> Work | None:
        """Return up to where a flow may read now, None if it must wait for what it reads."""
        progress = {key: min(other.done for other in self._of[key]) for key in state.upstream}
        if self._epoch == 0 or not all(progress.values()):
            return None
        outside = bool(state.outside) or not state.upstream
        heads = {key: self._heads[key] for key in state.outside}
        done = [self._epoch] if outside else []
        newest = [self._epoch] if outside else []
        versions: dict[str, int | None] = {}
        if state.reads_whole_tables:  # its tables belong to one instant; those from outside are watched
            versions = {
                key[1]: head for key, head in heads.items() if key[1] in self._context.inputs(state.flow).locations
            }
        marked = [*state.streams.items(), *(state.tables.items() if state.reads_whole_tables else ())]
        for name, key in marked:
            others = [
                *(done_of for other, done_of in progress.items() if other != key),
                *([self._epoch] if outside else []),
            ]
            mark = self._marks[key].newest(before=min(others, default=None))
            if mark is None:
                return None
            if name in state.streams:
                heads[state.flow.name, name] = mark.version
            else:
                versions[name] = mark.version
            done.append(mark.done)
            newest.append(mark.newest)
        if not state.reads_whole_tables:
            for key in state.tables.values():
                done.append(progress[key])
                newest.append(max(other.newest for other in self._of[key]))
        return self._not_behind(state, Work(done=min(done), newest=max(newest), heads=heads, versions=versions))

    def _not_behind(self, state: FlowState, work: Work) -> Work | None:
        """Return no work that would go back: of many marks some are forgotten, and an older one may be all that is left."""
        if state.seen is None:
            return work
        tables = {(state.flow.name, source) for source in state.streams}
        is_behind = any(work.heads[key] < state.seen[0][key] for key in tables if key in state.seen[0])
        return None if is_behind else work

    def _has_work(self, state: FlowState, work: Work, now: float) -> bool:
        if state.seen is None or state.pace.error is not None:
            return True
        if state.flow.flow.once:
            return False
        if state.looks and now >= state.pace.due_at():
            return True
        return state.seen != (work.heads, work.versions)

    def _advance(self, state: FlowState, work: Work) -> bool:
        """Note that a flow is at a later epoch, since nothing of what it reads has changed until then."""
        if work.done <= state.done:
            return False
        state.done = work.done
        self._mark(state.dataset)
        return True

    def _mark(self, dataset: Dataset) -> None:
        """Note how far the table of a dataset is; none of its flows runs."""
        if not dataset.is_stored:
            return
        states, marks = self._of[dataset.name.key], self._marks[dataset.name.key]
        done, newest = min(state.done for state in states), max(state.newest for state in states)
        version = latest_version(self._context.location(dataset), known=marks.version)
        if done and version is not None:
            marks.note(Mark(done=done, newest=newest, version=version))

    # -- flows ----------------------------------------------------------------------------------------------------

    def _start(self, state: FlowState, work: Work, now: float) -> None:
        state.pace.start(now)
        state.newest = max(state.newest, work.newest)
        if not state.is_announced or state.pace.error is not None:
            state.is_announced = True
            self._publish(state, FlowStatus.STARTING)

    def _execute(self, state: FlowState, work: Work) -> int:
        context = self._context.reading(work.heads, work.versions)
        try:
            return execute(context, state.flow, state.dataset)
        except FlowError as error:
            if not error.retryable:
                raise
            return execute(context, state.flow, state.dataset)  # something came in between; it is over by now

    def _collect(
        self, future: concurrent.futures.Future[int], running: dict[concurrent.futures.Future[int], _Job]
    ) -> None:
        job = running.pop(future)
        self._submit_at = self._upkeep_at = 0.0
        self._changed.update(self._concerned[job.key])
        if job.state is None or job.work is None:
            future.result()
            self._mark(self._context.graph.datasets[job.key])
            return
        try:
            batches = future.result()
        except Exception as error:
            if not was_given_up(self._context.stop, error):
                self._failed(job.state, error)
        else:
            self._succeeded(job.state, job.work, batches)

    def _succeeded(self, state: FlowState, work: Work, batches: int) -> None:
        is_first, was_failing = state.seen is None, state.pace.error is not None
        state.pace.succeed()
        state.batches += batches
        if not self._context.stop.is_set():  # a flow that was stopped may have left something unread
            state.seen = (work.heads, work.versions)
            state.done = max(state.done, work.done)
            self._mark(state.dataset)
        if batches or is_first or was_failing:
            self._publish(state, FlowStatus.IDLE if state.flow.flow.once and not batches else FlowStatus.COMPLETED)
        if was_failing:
            self._pause_dependants()

    def _failed(self, state: FlowState, error: Exception) -> None:
        failure = failure_of(self._context, state.flow, error)
        is_first = state.pace.error is None
        seconds, is_repeated = state.pace.fail(failure, self._clock())
        state.status = FlowStatus.FAILED
        kinds.flow_retry(
            self._context.events,
            flow=state.flow.name,
            dataset=self._context.display(state.dataset.name),
            error=failure,
            attempt=state.pace.failures,
            in_seconds=seconds,
            is_repeated=is_repeated,
        )
        if is_first:
            self._pause_dependants()

    def _pause_dependants(self) -> None:
        """Tell which flows wait because of something that fails, and which no longer do."""
        broken: dict[Key, Key] = {
            s.dataset.name.key: s.dataset.name.key for s in self._states if s.pace.error is not None
        }
        for state in self._states:  # in the order of execution: what it reads comes before it
            causes = [broken[key] for key in sorted(state.upstream) if key in broken]
            if causes:
                broken.setdefault(state.dataset.name.key, causes[0])
            if bool(causes) != state.is_paused:
                state.is_paused = bool(causes)
                if causes:
                    cause = self._context.display(self._context.graph.datasets[causes[0]].name)
                    self._publish(state, FlowStatus.SKIPPED, reason=f"paused until `{cause}` succeeds")
                elif state.pace.error is None:
                    self._publish(state, FlowStatus.IDLE)

    # -- events and result ----------------------------------------------------------------------------------------

    def _announce(self) -> None:
        for dataset in self._excluded:
            for flow in self._context.graph.flows_to(dataset.name):
                self._publish_of(flow, dataset, FlowStatus.EXCLUDED)
        for state in self._states:
            self._publish(state, FlowStatus.QUEUED)

    def _publish(self, state: FlowState, status: FlowStatus, *, reason: str | None = None) -> None:
        state.status = status
        self._publish_of(state.flow, state.dataset, status, reason=reason)

    def _publish_of(
        self, flow: ResolvedFlow, dataset: Dataset, status: FlowStatus, *, reason: str | None = None
    ) -> None:
        display = self._context.display(dataset.name)
        kinds.flow_progress(self._context.events, flow=flow.name, dataset=display, status=status, reason=reason)

    def _outcomes(self, *, is_stopped: bool) -> tuple[FlowOutcome, ...]:
        return (*self._excluded_outcomes(), *(self._outcome(state, is_stopped=is_stopped) for state in self._states))

    def _excluded_outcomes(self) -> Iterable[FlowOutcome]:
        for dataset in self._excluded:
            for flow in self._context.graph.flows_to(dataset.name):
                display = self._context.display(dataset.name)
                yield FlowOutcome(name=flow.name, dataset=display, status=FlowStatus.EXCLUDED)

    def _outcome(self, state: FlowState, *, is_stopped: bool) -> FlowOutcome:
        """Return how a flow ends, and publish it where that is news."""
        status = FlowStatus.STOPPED if is_stopped else FlowStatus.COMPLETED
        if state.pace.error is not None:
            status = FlowStatus.FAILED
        elif state.is_paused:
            status = FlowStatus.SKIPPED
        if state.status is not status:
            self._publish(state, status)
        return FlowOutcome(
            name=state.flow.name,
            dataset=self._context.display(state.dataset.name),
            status=status,
            error=state.pace.error,
            batches=state.batches,
        )
