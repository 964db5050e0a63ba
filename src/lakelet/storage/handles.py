"""Handles of tables that were opened before: their log is read on from where it was left, and not anew.

Opening a table reads its last checkpoint and the commits after it, which costs more than writing a small batch. A handle that
has made a commit knows it already. So whoever is done with a handle leaves it here for the next one; two never have
the same one, since a commit must fail if somebody else has committed since its handle was read.
"""

from __future__ import annotations

import weakref
from collections import deque
from dataclasses import dataclass

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakelet.storage.delta_log import commit_file, has_version

COMMITS_OF_A_HANDLE = 10
"""A handle that has followed so many commits is opened anew: delta-rs keeps each of them in mind until then."""
HANDLES_OF_A_TABLE = 2
"""More are only needed while several threads read one table at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenTable:
    """A handle, and the version at which it was opened."""

    delta: DeltaTable
    opened_at: int

    @classmethod
    def new(cls, delta: DeltaTable) -> OpenTable:
        return cls(delta=delta, opened_at=int(delta.version()))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """A handle that waits.

    Attributes:
        commit: identifies the file of its version, which another table at this place does not have.
    """

    table: OpenTable
    version: int
    commit: tuple[int, int]


class Handles:
    """Handles that nobody uses at the moment, by location.

    Safe between threads without a lock, and it must be: handles are left by finalizers, which run wherever the garbage
    collector does.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[_Left]] = {}

    def take(self, location: str) -> OpenTable | None:
        """Return a handle at the newest version of the table, None if it has to be opened."""
        waiting = self._waiting.get(location)
        while waiting:
            try:
                left = waiting.pop()
            except IndexError:  # another thread was faster
                return None
            if left.version - left.table.opened_at >= COMMITS_OF_A_HANDLE:
                continue
            if commit_file(location, left.version) != left.commit:
                continue
            if has_version(location, left.version + 1):
                try:
                    left.table.delta.update_incremental()
                except DeltaError:  # opening it says what is wrong
                    continue
            return left.table
        return None

    def lend(self, table: OpenTable, location: str, *, to: object) -> None:
        """Leave the handle here again as soon as nobody holds the object that uses it."""
        weakref.finalize(to, self.leave, location, table).atexit = False

    def leave(self, location: str, table: OpenTable) -> None:
        """Keep a handle for the next one who opens the table."""
        version = int(table.delta.version())
        try:
            commit = commit_file(location, version)
        except OSError:  # an object store that is not reached any more: nobody hears a finalizer
            return
        if commit is not None:
            self._waiting.setdefault(location, deque(maxlen=HANDLES_OF_A_TABLE)).append(
                _Left(table=table, version=version, commit=commit)
            )

    def forget(self, location: str) -> None:
        """Let go of the handles of a table that is removed."""
        self._waiting.pop(location, None)
