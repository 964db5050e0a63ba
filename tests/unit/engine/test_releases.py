"""Results that nobody reads any more are released without a lock."""

from __future__ import annotations

import gc
import time

from lakelet.engine.releases import ReleaseQueue, is_releasing


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
