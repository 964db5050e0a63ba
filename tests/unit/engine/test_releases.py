"""Results that nobody reads any more are released without a lock."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakelet.engine import releases
from lakelet.engine.releases import ReleaseQueue, is_releasing, use_release_queues


def running() -> ReleaseQueue:
    started = ReleaseQueue()
    started.start()
    return started


def ends(queue: ReleaseQueue) -> bool:
    """Return whether the thread ends once nobody refers to its client; the last call may still do."""
    return any(gc.collect() >= 0 and queue.join(0.1) for _ in range(100))


def test_calls_run_and_their_results_and_errors_are_kept() -> None:
    queue = running()
    assert queue.submit(lambda: 7).result(10) == 7
    assert isinstance(queue.submit(lambda: 1 / 0).exception(10), ZeroDivisionError)


def test_a_collection_inside_of_a_call_may_submit_another_one() -> None:
    queue = running()
    done = []

    class Abandoned:
        def __del__(self) -> None:
            done.append(queue.submit(lambda: "released"))

    def call() -> str:
        cycle = Abandoned()
        cycle.itself = cycle  # type: ignore[attr-defined]
        del cycle
        gc.collect()
        return "read"

    assert queue.submit(call).result(10) == "read"
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:  # another thread's collection may be at it
        time.sleep(0.01)
    assert done[0].result(10) == "released"


def test_a_notice_knows_that_it_is_one() -> None:
    """`connect` does not try it again: notices to an endpoint that has gone would hold up all others."""
    assert running().submit(is_releasing).result(10)
    assert not is_releasing()


class Stub:
    """A client's stub whose endpoint sends an empty result, and takes a notice when it is let to."""

    def __init__(self) -> None:
        self.answers, self.told = threading.Event(), threading.Event()

    def ExecutePlan(self, request: Any, metadata: Any) -> Iterator[Any]:
        return iter(())

    def ReleaseExecute(self, request: Any, metadata: Any) -> None:
        self.answers.wait(60)
        self.told.set()


@pytest.fixture
def abandon() -> Callable[[Stub], None]:
    """Leave a result of a client unread."""
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator
    from pyspark.sql.connect.client.retries import Retrying

    use_release_queues()

    def run(stub: Stub) -> None:
        results = ExecutePlanResponseReattachableIterator(proto.ExecutePlanRequest(), stub, lambda: Retrying([]), [])  # type: ignore[arg-type]
        results.close()

    return run


def test_an_endpoint_that_does_not_answer_holds_up_no_other_client(abandon: Callable[[Stub], None]) -> None:
    dead, alive = Stub(), Stub()
    alive.answers.set()
    abandon(dead)
    abandon(alive)
    assert alive.told.wait(10)
    assert not dead.told.is_set()
    dead.answers.set()
    assert dead.told.wait(10)


def test_the_thread_of_a_client_ends_with_the_client(abandon: Callable[[Stub], None]) -> None:
    stub = Stub()
    stub.answers.set()
    abandon(stub)
    assert stub.told.wait(10)
    queue: Any = stub._lakelet_releases  # type: ignore[attr-defined]
    del stub
    assert ends(queue)


def left_to_the_collector(close: Callable[[], None]) -> list[Any]:
    """Return a result that is closed when Python collects it, as one that a failed write has left."""

    def rows() -> Iterator[None]:
        try:
            yield
        finally:
            close()

    return [rows()]


def test_threads_begin_while_python_collects(abandon: Callable[[Stub], None]) -> None:
    """A lock on the way to a new thread would be waited for by a collection in that very thread, before long."""
    before = gc.get_threshold()
    gc.set_threshold(50)
    queues = []
    try:
        for _ in range(2000):
            stub: Any = Stub()
            stub.answers.set()
            unread = left_to_the_collector(lambda stub=stub: abandon(stub))
            unread.append(unread)
            next(unread[0])
            abandon(stub)
            queues.append(stub._lakelet_releases)
    finally:
        gc.set_threshold(*before)
    del stub, unread
    gc.collect()
    assert all(queue.join(0.05) or ends(queue) for queue in queues)


def test_at_the_end_of_the_interpreter_nobody_waits_for_a_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(releases._thread, "start_new_thread", refuse)
    with pytest.raises(RuntimeError, match="interpreter ends"):
        running().submit(lambda: 7).result(10)
