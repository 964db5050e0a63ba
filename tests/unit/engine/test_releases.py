"""Results that nobody reads any more are released without a lock."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lakelet.engine.releases import ReleaseQueue, is_releasing, use_release_queues


def test_calls_run_and_their_results_and_errors_are_kept() -> None:
    releases = ReleaseQueue()
    assert releases.submit(lambda: 7).result(10) == 7
    assert isinstance(releases.submit(lambda: 1 / 0).exception(10), ZeroDivisionError)


def test_a_collection_inside_of_a_call_may_submit_another_one() -> None:
    releases = ReleaseQueue()
    done = []

    class Abandoned:
        def __del__(self) -> None:
            done.append(releases.submit(lambda: "released"))

    def call() -> str:
        cycle = Abandoned()
        cycle.itself = cycle  # type: ignore[attr-defined]
        del cycle
        gc.collect()
        return "read"

    assert releases.submit(call).result(10) == "read"
    deadline = time.monotonic() + 10
    while not done and time.monotonic() < deadline:  # another thread's collection may be at it
        time.sleep(0.01)
    assert done[0].result(10) == "released"


def test_a_notice_knows_that_it_is_one() -> None:
    """`connect` does not try it again: notices to an endpoint that has gone would hold up all others."""
    assert ReleaseQueue().submit(is_releasing).result(10)
    assert not is_releasing()


class Stub:
    """A client's stub whose endpoint sends an empty result, and takes a notice when it is let to."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def ExecutePlan(self, request: Any, metadata: Any) -> Iterator[Any]:
        return iter(())

    def ReleaseExecute(self, request: Any, metadata: Any) -> None:
        self.answers.wait(60)


@pytest.fixture
def abandon() -> Callable[[Stub], Any]:
    """Leave a result of a client unread; return what became of its notice."""
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator
    from pyspark.sql.connect.client.retries import Retrying

    use_release_queues()

    def run(stub: Stub) -> Any:
        results = ExecutePlanResponseReattachableIterator(proto.ExecutePlanRequest(), stub, lambda: Retrying([]), [])  # type: ignore[arg-type]
        results.close()
        return SimpleNamespace(sent=next(iter(results.release_futures)))

    return run


def test_an_endpoint_that_does_not_answer_holds_up_no_other_client(abandon: Callable[[Stub], Any]) -> None:
    dead, alive = Stub(), Stub()
    alive.answers.set()
    waiting = abandon(dead)
    assert abandon(alive).sent.result(10) is None
    assert not waiting.sent.done()
    dead.answers.set()
    assert waiting.sent.result(10) is None


def test_the_thread_of_a_client_ends_with_the_client(abandon: Callable[[Stub], Any]) -> None:
    stub = Stub()
    stub.answers.set()
    abandon(stub).sent.result(10)
    releases: Any = stub._lakelet_releases  # type: ignore[attr-defined]
    del stub
    gc.collect()
    releases.join(10)
    assert not releases._thread.is_alive()
