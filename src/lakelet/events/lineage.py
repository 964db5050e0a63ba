"""Delivers the OpenLineage runs of an update, beside it: it neither waits for the receiver nor fails because of it."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import PipelineEvent
from lakelet.names import NameContext
from lakelet.spec import PipelineSpec

if TYPE_CHECKING:
    from lakelet.events.openlineage import LineageRuns

API_KEY_VARIABLE = "OPENLINEAGE_API_KEY"
CLOSE_SECONDS = 10.0
"""How long the end of an update waits for events that are not delivered."""
MOST_WAITING = 10_000
MOST_FAILURES = 3
"""A receiver that failed that often in a row gets nothing more of this update."""
_TYPES = frozenset({"create_update", "dataset_definition", "flow_definition", "flow_progress", "update_progress"})


class Transport(Protocol):
    """Where events go; raises whatever it likes."""

    def emit(self, event: Any) -> Any: ...


@dataclass(slots=True, kw_only=True)
class _Receiver:
    transport: Transport
    failures: int = 0


class LineageEvents:
    """Hands the events of one update to the receivers of its lineage, in a thread of its own; a subscriber of the bus.

    What cannot be delivered becomes one warning of the update, whatever its number.
    """

    def __init__(self, bus: EventBus, runs: LineageRuns, transports: Sequence[Transport]) -> None:
        self._bus = bus
        self._runs = runs
        self._receivers = [_Receiver(transport=transport) for transport in transports]
        self._events: queue.Queue[PipelineEvent | None] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._has_warned = False
        self._is_closed = False
        self._worker = threading.Thread(target=self._run, name="openlineage", daemon=True)
        self._worker.start()

    def __call__(self, event: PipelineEvent) -> None:
        if event.event_type not in _TYPES:
            return
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._warn(f"more than {MOST_WAITING:,} events wait for the receiver")

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Wait until everything is delivered, but not for ever."""
        try:
            self._events.put(None, timeout=timeout_seconds)
        except queue.Full:
            self._warn("the receiver was too slow")
        else:
            self._worker.join(timeout_seconds)
            if self._worker.is_alive():
                self._warn("the receiver was still busy when the update ended")
        with self._lock:
            self._is_closed = True

    def _run(self) -> None:
        while (event := self._events.get()) is not None and not self._is_closed:
            try:
                told = self._runs.apply(event.to_dict())
            except Exception as error:  # an event that has no place in the model costs its own lineage only
                self._warn(f"the event {event.id} could not be told: {type(error).__name__}: {error}")
                continue
            for run in told:
                for receiver in self._receivers:
                    self._deliver(receiver, run)

    def _deliver(self, receiver: _Receiver, run: Any) -> None:
        if receiver.failures >= MOST_FAILURES:
            return
        try:
            receiver.transport.emit(run)
        except Exception as error:  # the receiver's failure is its own; the update goes on
            receiver.failures += 1
            self._warn(f"{type(error).__name__}: {error}")
        else:
            receiver.failures = 0

    def _warn(self, why: str) -> None:
        with self._lock:
            if self._has_warned or self._is_closed:
                return
            self._has_warned = True
        kinds.warning(self._bus, f"lineage was not delivered completely to OpenLineage: {why}")


class FileLines:
    """Appends events to a file as JSON lines; its folder is made when it is needed."""

    def __init__(self, path: Path) -> None:
        from openlineage.client.transport.file import FileConfig, FileTransport

        self._path = path
        self._transport = FileTransport(FileConfig(log_file_path=str(path), append=True))

    def emit(self, event: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._transport.emit(event)


def http_transport(url: str, *, api_key: str | None) -> Transport:
    """Return one that posts each event to a server's `/api/v1/lineage`."""
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    auth = {"auth": {"type": "api_key", "api_key": api_key}} if api_key else {}
    return HttpTransport(HttpConfig.from_dict({"url": url, "timeout": 3.0, "retry": {"total": 1}, **auth}))


@contextmanager
def lineage_told(bus: EventBus, spec: PipelineSpec, names: NameContext, *, version: str) -> Iterator[None]:
    """Hand the events of an update to the receivers that the project file names, if any."""
    url, file = spec.setting("lakelet.openlineage.url"), spec.setting("lakelet.openlineage.file")
    transports: list[Transport] = [] if file is None else [FileLines(spec.root / file)]
    if url is not None:
        transports.append(http_transport(url, api_key=os.environ.get(API_KEY_VARIABLE)))
    if not transports:
        yield
        return
    from lakelet.events.openlineage import LineageRuns

    runs = LineageRuns(namespace=spec.setting("lakelet.openlineage.namespace"), names=names, version=version)
    lineage = LineageEvents(bus, runs, transports)
    bus.subscribe(lineage)
    try:
        yield
    finally:
        lineage.close()
