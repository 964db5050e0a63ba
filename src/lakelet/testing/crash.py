"""The death of an update at a point that a test names."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lakelet import faults
from lakelet.errors import DefinitionError, did_you_mean

CRASH_POINTS: Mapping[str, str] = faults.MEANINGS
"""Where an update can be made to die, and what has happened there; in the order in which an update passes them."""


class Crash(BaseException):
    """Ends an update as the death of its process would: nothing handles it.

    Attributes:
        point: where.
    """

    def __init__(self, point: str) -> None:
        super().__init__(point)
        self.point = point

    def __str__(self) -> str:
        return f"the update died at {self.point}, as the test wanted"


def check_point(point: str, occurrence: int = 1) -> None:
    """Check what a test names.

    Raises:
        DefinitionError: `TEST_CRASH_POINT_UNKNOWN` with the nearest name.
    """
    if point not in CRASH_POINTS or occurrence < 1:
        near = did_you_mean(point, CRASH_POINTS)
        raise DefinitionError(
            "TEST_CRASH_POINT_UNKNOWN",
            f"an update cannot be made to die at `{point}`"
            if point not in CRASH_POINTS
            else f"there is no pass number {occurrence} of `{point}`",
            cause=f"the points are {', '.join(CRASH_POINTS)}",
            hint=f"did you mean `{near}`?" if near and near != point else "name one of them; passes are counted from 1",
        )


@contextmanager
def crashing(point: str, occurrence: int = 1) -> Iterator[None]:
    """Raise `Crash` when an update passes `point` for the `occurrence`-th time, in whatever flow.

    Raises:
        DefinitionError: `TEST_CRASH_POINT_UNKNOWN`; `TEST_CRASH_POINT_NOT_REACHED` if the block ends before it.
    """
    check_point(point, occurrence)
    passes = 0
    lock = threading.Lock()

    def hook(reached: str) -> None:
        nonlocal passes
        if reached == point:
            with lock:
                passes += 1
                is_wanted = passes == occurrence
            if is_wanted:
                raise Crash(point)

    with faults.installed(hook):
        yield
    if passes < occurrence:
        raise DefinitionError(
            "TEST_CRASH_POINT_NOT_REACHED",
            f"the update was to die at pass {occurrence} of `{point}`, and passed it {passes} times",
            cause=f"{point}: {CRASH_POINTS[point]}",
            hint="give rows that lead there, or name a point that this pipeline passes",
        )


@contextmanager
def crash_at(point: str, *, occurrence: int = 1) -> Iterator[None]:
    """Let the update that runs in the block die at a point, and go on after the block.

    Args:
        point: one of `CRASH_POINTS`.
        occurrence: which pass of it, counted over all flows of the update.

    Raises:
        DefinitionError: `TEST_CRASH_POINT_UNKNOWN`; `TEST_CRASH_POINT_NOT_REACHED` if the block ends before it.
    """
    try:
        with crashing(point, occurrence):
            yield
    except Crash:
        return
