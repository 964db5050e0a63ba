"""Ctrl-C and SIGTERM during an update: the first asks it to end, the second ends the process."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lakelet.terminal.command_group import INTERRUPTED

_SHOW_CURSOR = "\x1b[?25h"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(slots=True)
class Interrupts:
    """How often the process was asked to end."""

    count: int = 0


def abort() -> None:
    """End the process at once; the next update repairs what this one left half done."""
    threading.Timer(
        1, os._exit, (INTERRUPTED,)
    ).start()  # the main thread may hold the output, whose reader has stopped
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(INTERRUPTED)


@contextmanager
def told_of_signals(tell: Callable[[], None]) -> Iterator[None]:
    """Call `tell` for each SIGINT and SIGTERM, in a thread of its own; only in the main thread.

    A handler of Python runs in the main thread, between two of its steps. It runs never if the signal comes just before that
    thread falls asleep for good, and for ever if that thread holds a lock which the handler wants: an event that it waits for.
    """
    read, write = os.pipe()
    os.set_blocking(write, False)

    def watch() -> None:
        while number := os.read(read, 1):
            if number[0] in _SIGNALS:
                tell()

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.close(write)
        thread.join()
        os.close(read)


@contextmanager
def stopping_on_signals(stop: threading.Event, *, abort: Callable[[], None] = abort) -> Iterator[Interrupts]:
    """Set `stop` on the first SIGINT or SIGTERM, call `abort` on the next; outside of the main thread do nothing."""
    seen = Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def tell() -> None:
        seen.count += 1
        if seen.count > 1:
            _tell("aborted")
            abort()
            return
        stop.set()
        _tell("stopping after the micro-batches that are under way, or when they take too long; once more aborts them")

    with told_of_signals(tell):
        yield seen


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
