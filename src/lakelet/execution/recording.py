"""What every update has around it: the lock of the storage folder, and an event stream that is written down."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType

from lakelet.events.log import EventBus, JsonLinesWriter
from lakelet.events.model import PipelineEvent
from lakelet.events.table import DeltaEventLog
from lakelet.execution.lock import pipeline_lock
from lakelet.storage.catalog import Catalog
from lakelet.storage.handles import Handles, OpenTable

MAX_JSON_LINES_BYTES = 16 << 20
"""A continuous update begins a new file of JSON lines at about this size."""


@dataclass(frozen=True, slots=True)
class Recording:
    """The event stream of one update; `flush` commits to the event log what has been published so far.

    A file of JSON lines that has become large gives way to a new one then.
    """

    bus: EventBus
    flush: Callable[[], int]


@functools.cache
def component_versions() -> Mapping[str, str]:
    """Return the versions of Python and of the libraries that results depend on; without those that are not there."""
    found = {"python": platform.python_version()}
    for package in ("pysail", "pyspark", "pyspark-client", "deltalake", "pyarrow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # one of the two pysparks is enough, and another engine needs no pysail
            continue
    return MappingProxyType(found)


@contextmanager
def recorded(
    catalog: Catalog,
    *,
    pipeline: str,
    pipeline_id: str,
    update_id: str,
    clock: Callable[[], datetime],
    retention: timedelta | None = None,
    subscribers: Sequence[Callable[[PipelineEvent], None]] = (),
    secrets: frozenset[str] = frozenset(),
    handles: Handles | None = None,
) -> Iterator[Recording]:
    """Hold the lock, and write events as JSON lines while they happen and to the event log at the end.

    Args:
        handles: where the event log's open table comes from, and waits for the next update.
        secrets: texts that are masked in all events.

    Raises:
        LockError: `PIPELINE_LOCKED`.
        StorageError: the storage folder cannot be written.
    """
    updates = catalog.journal
    with pipeline_lock(catalog.lock, pipeline=pipeline):
        location = catalog.system / "events"
        handle = None if handles is None else handles.take(str(location))
        log = DeltaEventLog(
            location,
            updates=updates,
            update_id=update_id,
            retention=retention,
            clock=clock,
            table=None if handle is None else handle.delta,
        )
        log.recover()
        bus = EventBus(pipeline_id, pipeline, update_id, clock=clock, secrets=secrets)
        writer = JsonLinesWriter(updates / f"{update_id}.jsonl")
        bus.subscribe(writer)
        bus.subscribe(log)
        for subscriber in subscribers:
            bus.subscribe(subscriber)

        def flush() -> int:
            with bus.held():
                count = log.flush()
                writer.rotate(min_bytes=MAX_JSON_LINES_BYTES)
            return count

        try:
            yield Recording(bus, flush)
        finally:
            try:
                log.close()
                if handles is not None and log.table is not None:
                    handles.leave(str(location), handle or OpenTable.new(log.table))
            finally:
                writer.close()
