"""Follows a pipeline's events wherever they come from: this process, another one, or years of event log.

The JSON lines of an update are there as it happens; the event log's table has every update. Both are read from where the
last reading ended, and the index counts each event once.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from deltalake.exceptions import DeltaError
from pyarrow import ArrowException

from lakelet.errors import LakeletError
from lakelet.events.model import Level, PipelineEvent
from lakelet.events.progress import UpdateProgress
from lakelet.events.table import RECORDED
from lakelet.storage.delta_log import commit_file, latest_version, read_commit
from lakelet.web.index import EventIndex
from lakelet.web.metrics import PipelineMetrics

logger = logging.getLogger("lakelet.web")
POLL_SECONDS = 0.25
BURST_SECONDS = 0.75
"""Events come in bursts, and each reading costs some: one reading for so long a burst."""
LOG_SECONDS = 10.0
"""How long a busy pipeline's event log may wait to be compared with the lines, which say the same sooner."""
CHUNK_ROWS = 5_000


class Watcher:
    """Reads new events into the index, and keeps the state of the newest update.

    Args:
        log: where the event log is; it need not exist.
        updates: the folder of the updates' JSON lines.
        metrics: counts the events that are new.
    """

    def __init__(self, log: str, updates: Path, index: EventIndex, *, metrics: PipelineMetrics | None = None) -> None:
        self.index = index
        self._metrics = metrics
        self._updates = updates
        self._log = log
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._offsets: dict[str, int] = {}
        self._complete: set[str] = set()
        self._log_version = -1
        self._log_commit: tuple[int, int] | None = None
        self._listeners: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None
        self.progress = UpdateProgress()
        self.changed: dict[str, int] = {}
        self.sequence = 0
        self.is_ready = threading.Event()
        self.problem: str | None = None

    # -- life

    def start(self) -> None:
        """Begin to follow, in a thread of its own."""
        self._thread = threading.Thread(target=self._follow, name="event-watcher", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def wake(self, _: PipelineEvent | None = None) -> None:
        """Look now: an event has just been written. Can be a subscriber of an update."""
        self._wake.set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, in the watcher's thread, after each reading that found something."""
        with self._lock:
            self._listeners.append(listener)

    def unlisten(self, listener: Callable[[], None]) -> None:
        with self._lock:
            self._listeners.remove(listener)

    def _follow(self) -> None:
        count, log_at = 0, 0.0
        while not self._closed.is_set():
            with_log = not count or time.monotonic() - log_at >= LOG_SECONDS
            log_at = time.monotonic() if with_log else log_at
            try:
                count = self.read(with_log=with_log)
                self.problem = None
            except (LakeletError, OSError, DeltaError, ArrowException) as error:
                if self.problem is None:
                    logger.warning("the event log cannot be read: %s", error)
                self.problem = str(error)
            self.is_ready.set()
            self._wake.wait(POLL_SECONDS)
            self._wake.clear()
            self._closed.wait(BURST_SECONDS)

    # -- reading

    def read(self, *, with_log: bool = True) -> int:
        """Read what is new; returns how many events that were.

        Args:
            with_log: look at the event log, too, not only at the JSON lines of updates.
        """
        count = 0
        for events, texts in self._from_lines():
            count += self._take(events, texts=texts)
        for events in self._from_log() if with_log else ():
            count += self._take(events, packed=True)
        if count:
            with self._lock:
                listeners = tuple(self._listeners)
            for listener in listeners:
                listener()
        return count

    def _take(
        self, events: list[dict[str, Any]], *, packed: bool = False, texts: Mapping[str, bytes] | None = None
    ) -> int:
        events.sort(key=_sequence)
        new = self.index.add(events, packed=packed, texts=texts)
        if not new:
            return 0
        if self._metrics is not None:
            self._metrics.count(new)
        newest = new[-1]
        with self._lock:
            if _sequence(newest) > self.sequence:
                self._apply(new, str(newest["origin"].get("update_id", "")))
        return len(new)

    def _apply(self, events: list[Mapping[str, Any]], newest: str) -> None:
        """Bring the state of the newest update forward."""
        fresh = [event for event in events if event["origin"].get("update_id") == newest]
        if newest != self.progress.update_id:
            self.progress, self.changed = UpdateProgress(), {}
            if fresh[0]["event_type"] != "create_update":  # its beginning came earlier, or is still to come
                fresh = list(self.index.bodies(newest))
        for body in fresh:
            event = event_of(body)
            self.progress.apply(event)
            for name in self._touched(event):
                self.changed[name] = event.sequence
            self.sequence = max(self.sequence, event.sequence)

    def _touched(self, event: PipelineEvent) -> Iterator[str]:
        """Return the datasets whose state an event changes: those of its rules, too."""
        if name := event.origin.get("dataset_name"):
            yield str(name)
        for rule in (event.details.get("data_quality") or {}).get("expectations", ()):
            if rule["dataset"] in self.progress.datasets:
                yield rule["dataset"]

    def _from_lines(self) -> Iterator[tuple[list[dict[str, Any]], dict[str, bytes]]]:
        """Return the new events of each update's lines, with their texts by id."""
        try:
            names = [path.name for path in self._updates.iterdir()]
        except FileNotFoundError:
            return
        recorded = {name.removesuffix(RECORDED) for name in names if name.endswith(RECORDED)}
        present = {name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl")}
        self._offsets = {update: offset for update, offset in self._offsets.items() if update in present}
        self._complete &= present
        for update in present - self._complete:
            read = [(event, line) for line in self._new_lines(update) if (event := _parsed(line)) is not None]
            if update in recorded:  # it ended before it was read: nothing will be added
                self._complete.add(update)
            if read:
                yield [event for event, _ in read], {event["id"]: line for event, line in read}

    def _new_lines(self, update: str) -> list[bytes]:
        path, offset = self._updates / f"{update}.jsonl", self._offsets.get(update, 0)
        try:
            size = path.stat().st_size
            if size == offset:
                return []
            if size < offset:  # a long update began a new file
                offset = 0
            with path.open("rb") as file:
                file.seek(offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]  # the last line may still be being written
        self._offsets[update] = offset + len(whole)
        return [line.strip() for line in whole.splitlines()]

    def _from_log(self) -> Iterator[list[dict[str, Any]]]:
        """Return the events of the versions of the event log that have not been read."""
        if self._log_version >= 0 and commit_file(self._log, self._log_version) != self._log_commit:
            self._restart()  # another log is at this place now
        version = latest_version(self._log, known=self._log_version)
        if version is None or version == self._log_version:
            return
        commits = [read_commit(self._log, number) for number in range(self._log_version + 1, version + 1)]
        if any(commit is None for commit in commits) or self._log_version < 0:
            yield from self._whole_log(version)
        else:
            for commit in commits:
                for file in commit.added if commit else ():
                    if not self.index.has_all(_ids_of(file.path)):  # usually they came as lines, while it ran
                        yield from _events_of([file.path])
        self._log_version, self._log_commit = version, commit_file(self._log, version)

    def _restart(self) -> None:
        with self._lock:
            self.index.clear()
            if self._metrics is not None:
                self._metrics.restart()
            self.progress, self.changed, self.sequence = UpdateProgress(), {}, 0
            self._offsets, self._complete, self._log_version = {}, set(), -1
        self._wake.set()  # the JSON lines are read again at once

    def _whole_log(self, version: int) -> Iterator[list[dict[str, Any]]]:
        """Return all events, the newest files first: what people look for is there soon."""
        from deltalake import DeltaTable

        table = DeltaTable(self._log, version=version)
        for uri in reversed(table.file_uris()):
            yield from _events_of([uri.removeprefix("file://")])

    # -- the newest update

    def snapshot(self) -> tuple[UpdateProgress, dict[str, int], int]:
        """Return the newest update's state; hold `lock` while reading it."""
        return self.progress, self.changed, self.sequence

    @property
    def lock(self) -> threading.RLock:
        return self._lock


def _sequence(event: Mapping[str, Any]) -> int:
    return int(event["sequence"]["data_plane_id"]["seq_no"])


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line.decode())
        _sequence(event)
        datetime.fromisoformat(event["timestamp"])
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("a line of an update's events cannot be read: %s", error)
        return None
    return dict(event)


def _ids_of(path: str) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.ParquetFile(path).read(columns=["id"]).column("id").to_pylist())


def _events_of(paths: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Return the events of data files of the event log, in chunks that leave time for others."""
    import pyarrow.parquet as pq

    for path in paths:
        file = pq.ParquetFile(path)
        for batch in file.iter_batches(batch_size=CHUNK_ROWS):
            yield [_event_of_row(row) for row in batch.to_pylist()]


def _event_of_row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "timestamp": row["timestamp"].isoformat(timespec="microseconds"),
        "sequence": json.loads(row["sequence"]),
        "origin": {key: value for key, value in row["origin"].items() if value is not None},
        "error": json.loads(row["error"]) if row["error"] else None,
        "details": json.loads(row["details"]),
    }


def event_of(body: Mapping[str, Any]) -> PipelineEvent:
    """Return an event from its JSON form; its error stays behind, as JSON in the index."""
    return PipelineEvent(
        id=body["id"],
        sequence=_sequence(body),
        timestamp=datetime.fromisoformat(body["timestamp"]),
        event_type=body["event_type"],
        message=body["message"],
        level=Level(body["level"]),
        maturity_level=body["maturity_level"],
        origin=body["origin"],
        details=body["details"].get(body["event_type"]) or {},
    )
