"""Tells an engine which results nobody reads any more, without a lock that the garbage collector could meet.

pyspark sends these notices through a `ThreadPoolExecutor`. A result that was not read to its end (a rule failed, a write
was aborted) is closed when Python collects it, and that may happen inside of the executor's own `submit`, which then waits
for the lock that its thread already holds: the process hangs. A `SimpleQueue` may be used from within a collection.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from functools import cache
from typing import Any, cast

_here = threading.local()
_running: set[ReleaseQueue] = set()


def is_releasing() -> bool:
    """Return whether this thread sends a notice: one that an endpoint does not take is not sent again.

    The notices of a client wait for each other, and closing its session waits for them; the endpoint forgets by itself what
    nobody reads.
    """
    return getattr(_here, "is_releasing", False)


class ReleaseQueue:
    """Runs calls one after the other on a thread of its own; stands in for the executor that pyspark would make."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="release-results", daemon=True)
        _running.add(self)
        self._thread.start()

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        self._calls.put((future, call))
        return future

    def end(self) -> None:
        """End the thread after the calls that wait, without waiting for it: also from within a collection."""
        self._calls.put(None)

    def join(self, timeout: float) -> None:
        self._thread.join(timeout)

    def _run(self) -> None:
        _here.is_releasing = True
        while self._run_next():
            pass
        _running.discard(self)

    def _run_next(self) -> bool:
        """Run one call and forget it: what it holds (a result, a client) is not to live until the next one comes."""
        if (item := self._calls.get()) is None:
            return False
        future, call = item
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)
        return True


@atexit.register
def _end_all() -> None:
    """Finish what waits, for at most five seconds: a daemon thread inside of gRPC at the interpreter's end aborts the process."""
    deadline = time.monotonic() + 5
    ending = list(_running)
    for releases in ending:
        releases.end()
    for releases in ending:
        releases.join(max(0.0, deadline - time.monotonic()))


@cache
def use_release_queues() -> None:
    """Have the results of each client of this process released through a `ReleaseQueue` of its own.

    A client is known by its stub. With one queue for all, an endpoint that does not answer would hold up the others: a
    client that is not ours tries for minutes to reach it, and closing one of ours would wait for that.
    """
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

    one_at_a_time = threading.RLock()  # a collection may come back to it on the same thread

    def queue_of(results: Any) -> ReleaseQueue:
        stub = results._stub
        with one_at_a_time:
            releases: ReleaseQueue | None = getattr(stub, "_lakelet_releases", None)
            if releases is None:
                stub._lakelet_releases = releases = ReleaseQueue()
                weakref.finalize(stub, releases.end).atexit = False
            return releases

    cast(Any, ExecutePlanResponseReattachableIterator)._release_thread_pool = property(queue_of)
