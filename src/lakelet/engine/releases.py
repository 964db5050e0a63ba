"""Tells the engine which results nobody reads any more, without a lock that the garbage collector could meet.

pyspark sends these notices through a `ThreadPoolExecutor`. A result that was not read to its end (a rule failed, a write
was aborted) is closed when Python collects it, and that may happen inside of the executor's own `submit`, which then waits
for the lock that its thread already holds: the process hangs. A `SimpleQueue` may be used from within a collection.
"""

from __future__ import annotations

import atexit
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, cast

_here = threading.local()


def is_releasing() -> bool:
    """Return whether this thread sends a notice: one that an endpoint does not take is not sent again.

    Notices wait for each other, and closing a session waits for its own; the endpoint forgets by itself what nobody reads.
    """
    return getattr(_here, "is_releasing", False)


class ReleaseQueue:
    """Runs calls one after the other on a thread of its own; stands in for the executor that pyspark would make."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="release-results", daemon=True)
        self._thread.start()
        # A daemon thread that is inside of gRPC when the interpreter goes away aborts the process.
        atexit.register(self.close)

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def close(self) -> None:
        """Finish the calls that wait, for at most five seconds, and end the thread."""
        self._calls.put(None)
        self._thread.join(timeout=5)

    def _run(self) -> None:
        _here.is_releasing = True
        while (item := self._calls.get()) is not None:
            future, call = item
            try:
                future.set_result(call())
            except Exception as error:
                future.set_exception(error)


@cache
def use_release_queue() -> None:
    """Have every result of this process released through one `ReleaseQueue`."""
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

    releases = ReleaseQueue()
    cast(Any, ExecutePlanResponseReattachableIterator)._release_thread_pool = property(lambda self: releases)
