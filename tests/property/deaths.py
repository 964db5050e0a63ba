"""Updates that die on their way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lakelet import faults


class Death(BaseException):
    """Ends an update as the death of the process would."""


@contextmanager
def dying(point: str | None, after: int) -> Iterator[None]:
    """Let what runs inside die when it passes `point` for the `after`-th time; it may as well end before."""
    left = after

    def hook(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if left == 0 and reached == point:
            raise Death

    with faults.installed(hook), suppress(Death):
        yield
