"""The end of an update that was asked to stop: queries that take too long are given up, and run again by the next one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from lakelet.engine.base import Engine
from lakelet.errors import LakeletError
from lakelet.events import kinds
from lakelet.events.log import EventBus

_LOOK_SECONDS = 0.5
_AGAIN_SECONDS = 0.2


@contextmanager
def long_queries_given_up(engine: Engine, events: EventBus, stop: threading.Event, *, seconds: float) -> Iterator[None]:
    """Once `stop` is set, leave what runs in the block some more seconds, then cancel its queries.

    A query that is cancelled returns no row, so nothing of its micro-batch is written; its intent stays, and the next update
    takes it up.
    """
    ended = threading.Event()

    def watch() -> None:
        while not stop.wait(_LOOK_SECONDS):
            if ended.is_set():
                return
        if ended.wait(seconds):
            return
        kinds.warning(
            events,
            f"Queries that were still running {seconds:g} seconds after the update was asked to stop are given up; the next "
            "update runs them again",
        )
        while not ended.wait(_AGAIN_SECONDS):  # a flow may be about to send its next query
            try:
                engine.interrupt()
            except LakeletError:
                return  # there is no engine left that could run one

    thread = threading.Thread(target=watch, name="give-up", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        if stop.is_set():
            thread.join()


def was_given_up(stop: threading.Event, error: BaseException) -> bool:
    """Return whether a flow failed because its query was cancelled at the end of the update."""
    if not stop.is_set():
        return False
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, LakeletError) and cause.condition == "OPERATION_CANCELED":
            return True
        cause = cause.__cause__
    return False
