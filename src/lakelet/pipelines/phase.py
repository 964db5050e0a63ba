"""Which kind of user code is running: the top level of a file, or a query function."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Phase(enum.Enum):
    """What user code may do: a file that loads may read tables, a query function only builds its query."""

    LOAD = "LOAD"
    QUERY = "QUERY"


_PHASE: ContextVar[Phase] = ContextVar("lakelet_phase", default=Phase.QUERY)


def current_phase() -> Phase:
    """Return the phase; the stricter one where none was set, as in a thread that user code started."""
    return _PHASE.get()


@contextmanager
def phase(value: Phase) -> Iterator[None]:
    """Set the phase for the code inside."""
    token = _PHASE.set(value)
    try:
        yield
    finally:
        _PHASE.reset(token)
