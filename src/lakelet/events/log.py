"""The one stream of events of an update: a bus, and the subscriber that keeps it as JSON lines.

Nothing in lakelet prints: the terminal, the web pages, the JSON lines and the event log's table are subscribers of
a bus.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from lakelet.errors import LakeletError, StorageError
from lakelet.events.model import Level, PipelineEvent
from lakelet.events.table import RECORDED, DeltaEventLog

__all__ = ["DeltaEventLog", "EventBus", "JsonLinesWriter", "Subscriber"]

Subscriber = Callable[[PipelineEvent], None]

logger = logging.getLogger("lakelet.events")


def utc_now() -> datetime:
    return datetime.now(UTC)


def new_event_id() -> str:
    return str(uuid.uuid4())


class EventBus:
    """Numbers the events of one update and hands each to every subscriber, in the order of their numbers.

    Flows publish from several threads. A subscriber is called by the publishing thread, never by two threads at once,
    and may itself publish: what it publishes is delivered after the event it is looking at.

    A subscriber that raises does not break the update. Its first failure goes to the log (stderr unless configured
    otherwise) and, as a `hook_progress` event, to all subscribers; it stays subscribed, since a full disk may be freed.

    Args:
        clock: returns the current time with a time zone.
        new_id: returns a new event's id.
        secrets: texts that are masked in all events.
    """

    def __init__(
        self,
        pipeline_id: str,
        pipeline_name: str,
        update_id: str,
        *,
        clock: Callable[[], datetime] = utc_now,
        new_id: Callable[[], str] = new_event_id,
        secrets: frozenset[str] = frozenset(),
    ) -> None:
        self.pipeline_id = pipeline_id
        self.pipeline_name = pipeline_name
        self.update_id = update_id
        self._clock = clock
        self._new_id = new_id
        self._secrets = secrets
        self._lock = threading.RLock()
        self._subscribers: list[Subscriber] = []
        self._pending: deque[PipelineEvent] = deque()
        self._delivering = False
        self._last_sequence = 0
        self._failures: dict[str, int] = {}

    @property
    def subscriber_failures(self) -> Mapping[str, int]:
        """How often each subscriber that failed has done so, by its name."""
        return MappingProxyType(self._failures)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Hand all events from now on to `subscriber`."""
        with self._lock:
            self._subscribers.append(subscriber)

    def publish(
        self,
        event_type: str,
        message: str,
        *,
        level: Level = Level.INFO,
        details: Mapping[str, Any] | None = None,
        dataset: str | None = None,
        flow: str | None = None,
        flow_id: str | None = None,
        batch_id: int | None = None,
        table: str | None = None,
        sink: str | None = None,
        request_id: str | None = None,
        error: BaseException | None = None,
        maturity: str = "STABLE",
        event_id: str | None = None,
        is_replay: bool = False,
    ) -> PipelineEvent:
        """Make an event and deliver it; returns when every subscriber has seen it.

        Args:
            details: the value under the event's own type, in the layout of the event log.
            event_id: instead of a new one, for what a replay publishes again: the event log keeps the first.
            is_replay: it may have been published before.
        """
        origin = {
            "pipeline_id": self.pipeline_id,
            "pipeline_name": self.pipeline_name,
            "update_id": self.update_id,
            "dataset_name": dataset,
            "flow_name": flow,
            "flow_id": flow_id,
            "batch_id": batch_id,
            "table_name": table,
            "sink_name": sink,
            "request_id": request_id,
        }
        with self._lock:
            now = self._clock()
            event = PipelineEvent(
                id=event_id or self._new_id(),
                sequence=self._next_sequence(now),
                timestamp=now,
                event_type=event_type,
                message=message,
                level=level,
                maturity_level=maturity,
                origin=MappingProxyType({key: value for key, value in origin.items() if value is not None}),
                details=MappingProxyType(dict(details or {})),
                error=error,
                is_replay=is_replay,
                secrets=self._secrets,
            )
            self._pending.append(event)
            self._deliver_pending()
        return event

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nobody publish in the meantime."""
        with self._lock:
            yield

    def _next_sequence(self, now: datetime) -> int:
        # Microseconds since 1970 rather than a counter: the numbers also increase from one update to the next.
        self._last_sequence = max(self._last_sequence + 1, int(now.timestamp() * 1_000_000))
        return self._last_sequence

    def _deliver_pending(self) -> None:
        if self._delivering:  # a subscriber published: the loop below, further up this stack, delivers it
            return
        self._delivering = True
        try:
            while self._pending:
                event = self._pending.popleft()
                for subscriber in tuple(self._subscribers):
                    try:
                        subscriber(event)
                    except Exception as error:  # whatever it raises, the update goes on
                        self._report(subscriber, error)
        finally:
            self._delivering = False

    def _report(self, subscriber: Subscriber, error: Exception) -> None:
        name = getattr(subscriber, "__qualname__", None) or type(subscriber).__qualname__
        self._failures[name] = self._failures.get(name, 0) + 1
        if self._failures[name] > 1:
            return
        known = isinstance(error, LakeletError)
        logger.error("event subscriber %s failed: %s", name, error, exc_info=None if known else error)
        self.publish(
            "hook_progress",
            f"Event subscriber '{name}' has FAILED: {error}",
            level=Level.WARN,
            details={"name": name, "status": "FAILED"},
            error=error,
        )


def _number(path: Path) -> int | None:
    """Return the number of a file that was full, None for another file."""
    number = path.stem.rpartition(".")[2]
    return int(number) if number.isdigit() else None


class JsonLinesWriter:
    """Keeps the events of an update as JSON, one a line, each handed to the operating system as it happens.

    The file survives the death of the process, and `DeltaEventLog.recover` completes the event log from it. A file that
    has become large makes room for a new one: `<update>.jsonl` is the newest, `<update>.<n>.jsonl` the one before.

    Raises:
        StorageError: `EVENT_LOG_NOT_WRITABLE`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise self._not_writable(error) from error

    def __call__(self, event: PipelineEvent) -> None:
        with self._lock:
            try:
                self._file.write(event.to_json() + "\n")
                self._file.flush()
            except OSError as error:
                raise self._not_writable(error) from error

    def rotate(self, *, min_bytes: int) -> None:
        """Begin a new file where this one has become large; only when all of its events are in the event log."""
        with self._lock:
            if self._file.tell() < min_bytes:
                return
            self._file.close()
            before = [path for path in self.path.parent.glob(f"{self.path.stem}.*.jsonl") if _number(path) is not None]
            number = 1 + max((_number(path) or 0 for path in before), default=0)
            full = self.path.with_name(f"{self.path.stem}.{number}.jsonl")
            self.path.rename(full)
            full.with_suffix(RECORDED).touch()
            for path in before:
                path.unlink()
                path.with_suffix(RECORDED).unlink(missing_ok=True)
            self._file = self.path.open("a", encoding="utf-8")

    def close(self) -> None:
        with self._lock:
            try:
                self._file.close()
            except OSError as error:  # what could not be written before cannot be written now
                raise self._not_writable(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _not_writable(self, error: OSError) -> StorageError:
        return StorageError(
            "EVENT_LOG_NOT_WRITABLE",
            f"the events of this update cannot be written to `{self.path}`",
            cause=str(error),
            hint="check the free space, the owner and the mount of the storage folder",
        )
