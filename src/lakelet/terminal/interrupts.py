"""Ctrl-C and SIGTERM during an update: the first asks it to end, the second ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lakelet.terminal.command_group import INTERRUPTED

_SHOW_CURSOR = "\x1b[?25h"


@dataclass(slots=True)
class Interrupts:
    """How often the process was asked to end."""

    count: int = 0


def abort() -> None:
    """End the process at once; the next update repairs what this one left half done."""
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


@contextmanager
def stopping_on_signals(stop: threading.Event, *, abort: Callable[[], None] = abort) -> Iterator[Interrupts]:
    """Set `stop` on the first SIGINT or SIGTERM, call `abort` on the next; outside of the main thread do nothing."""
    seen = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def handle(number: int, frame: FrameType | None) -> None:  # the signature of a signal handler
        seen.count += 1
        if seen.count > 1:
            _tell("aborted")
            abort()
            return
        stop.set()
        _tell("stopping after the micro-batches that are under way, or when they take too long; once more aborts them")

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
