"""Named points at which a test may end the process, to show that the next run repairs what was cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

POINTS = (
    "flow.intent_written",
    "flow.rows_committed",
    "flow.batch_published",
    "flow.commit_noted",
    "cdc.auxiliary_committed",
    "cdc.target_committed",
    "view.planned",
    "view.intent_written",
    "view.state_committed",
    "view.swapped",
    "view.noted",
)
"""Every point that each pipeline passes, in this order."""

FILE_POINTS = ("files.discovered", "files.planned")
"""Points of streams of files, before an intent is written."""

SINK_POINTS = ("sink.rows_written",)
"""Points of flows into sinks."""

STATE_POINTS = ("state.committed", "state.compacted")
"""The points that only flows with state pass: the first between their intent and their rows, the second after their note."""

_hook: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Tell the hook, if there is one, that `point` is reached.

    Outside of tests the hook is set by `LAKELET_CRASH_AT=<point>`: the process ends there as if it were killed.
    """
    if _hook is not None:
        _hook(point)
    elif os.environ.get("LAKELET_CRASH_AT") == point:
        os._exit(137)


@contextmanager
def installed(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` at every point while the context is open."""
    global _hook
    previous, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = previous
