"""Time for the generator: clocks as parameters, and a sleep that a signal ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


class SteppingClock:
    """A clock for reproducible runs: its first reading is `start`, each next one is `step_seconds` later."""

    def __init__(self, start: datetime, *, step_seconds: float = 0.0) -> None:
        self._next = start.astimezone(UTC)
        self._step = timedelta(seconds=step_seconds)

    def __call__(self) -> datetime:
        now, self._next = self._next, self._next + self._step
        return now


class Stop:
    """A request to stop, from a signal handler or another thread.

    It sets a field and takes no lock: `threading.Event.set` in a handler can wait for a lock that the
    interrupted code holds.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self.requested = False

    def request(self, signal_number: int | None = None) -> None:
        """Ask to stop after the batch in progress."""
        self.signal_number = signal_number
        self.requested = True

    def wait(self, seconds: float) -> None:
        """Sleep, but at most a twentieth of a second longer than until the request."""
        until = time.monotonic() + seconds
        while not self.requested and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))
