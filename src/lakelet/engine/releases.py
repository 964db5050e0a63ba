"""Tells an engine which results nobody reads any more, without a lock that the garbage collector could meet.

pyspark sends these notices through a `ThreadPoolExecutor`. A result that was not read to its end (a rule failed, a write
was aborted) is closed when Python collects it, and that may happen inside of the executor's own `submit`, which then waits
for the lock that its thread already holds: the process hangs. A `SimpleQueue` may be used from within a collection, and so may
`start_new_thread`; `Thread.start` may not, which takes a lock and waits for the new thread, in which Python may collect, too.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
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
_KEPT = "_lakelet_releases"


def is_releasing() -> bool:
    """Return whether this thread sends a notice: one that an endpoint does not take is not sent again.

    The notices of a client wait for each other, and closing its session waits for them; the endpoint forgets by itself what
    nobody reads.
    """
    return getattr(_here, "is_releasing", False)


class ReleaseQueue:
    """Runs calls one after the other on a thread of its own, once started; stands in for the executor that pyspark would make."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_over = False

    def start(self) -> None:
        _running.add(self)
        try:
            _thread.start_new_thread(self._run, ())
        except RuntimeError:  # no thread is to be had, as at the interpreter's end: nothing is told
            _running.discard(self)
            self._is_over = True

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        if self._is_over:
            future.set_exception(RuntimeError("the interpreter ends"))
        else:
            self._calls.put((future, call))
        return future

    def end(self) -> None:
        """End the thread after the calls that wait, without waiting for it: also from within a collection."""
        self._calls.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the end of the thread; return whether it has come."""
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=timeout)
            return True
        return False

    def _run(self) -> None:
        _here.is_releasing = True
        while self._run_next():
            pass
        _running.discard(self)
        self._ended.put(None)

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
    client that is not ours tries for minutes to reach it, and closing one of ours would wait for that. Of a result that is
    collected together with its client the endpoint is not told.
    """
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

    def queue_of(results: Any) -> ReleaseQueue:
        kept = vars(results._stub)
        releases: ReleaseQueue | None = kept.get(_KEPT)
        if releases is None:
            made = ReleaseQueue()
            releases = kept.setdefault(_KEPT, made)  # of two threads, or a collection meanwhile, one is first
            if releases is made:
                made.start()
                weakref.finalize(results._stub, made.end).atexit = False
        return releases

    cast(Any, ExecutePlanResponseReattachableIterator)._release_thread_pool = property(queue_of)
