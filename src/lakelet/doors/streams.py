"""The rows of a query while somebody waits for them: whoever goes away ends the query."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

from lakelet.doors.tables import OpenQuery, OpenTables
from lakelet.errors import QueryError
from lakelet.queries.processes import Lease

T = TypeVar("T")
AHEAD = 4
"""Parts of a result that are read before the client has taken the last one."""
_PAUSE_SECONDS = 0.2


class _GoneError(Exception):
    """The client takes no more."""


class Running(Generic[T]):
    """One query that runs, read by a thread of its own.

    Args:
        read: yields the parts of the result, with the engine of a lease.
    """

    def __init__(self, tables: OpenTables, query: OpenQuery, read: Callable[[Lease], Iterator[T]]) -> None:
        self._tables, self._query, self._read = tables, query, read
        self._parts: queue.Queue[T | None] = queue.Queue(AHEAD)
        self._lease: Lease | None = None
        self._error: BaseException | None = None
        self._is_whole = False
        self._is_read = threading.Event()
        self._is_left = threading.Event()

    def parts(self, is_gone: Callable[[], bool]) -> Iterator[T]:
        """Yield the parts; the query ends with its process if not all are taken.

        Args:
            is_gone: whether the client has gone; asked while nothing comes.

        Raises:
            LakeletError: what the query failed with, or that it was cancelled: parts that end without an error are all.
        """
        threading.Thread(target=self._run, name="query", daemon=True).start()
        try:
            while (part := self._next(is_gone)) is not None:
                yield part
        finally:
            self.cancel()
        if not self._is_whole:
            raise self._error or _cancelled()

    def cancel(self) -> None:
        """End the query, if it has not ended."""
        self._is_left.set()
        lease = self._lease
        if lease is not None and not self._is_read.is_set():
            lease.end(_cancelled())

    def _next(self, is_gone: Callable[[], bool]) -> T | None:
        """Return the next part, None if there is no more."""
        while True:
            if self._lease is not None and self._lease.reason is not None:
                self._is_read.wait()
                return None
            with suppress(queue.Empty):
                return self._parts.get(timeout=_PAUSE_SECONDS)
            if self._is_read.is_set() and self._parts.empty():
                return None
            if is_gone():
                return None

    def _run(self) -> None:
        try:
            with self._tables.lease(self._query) as lease:
                self._lease = lease
                if self._is_left.is_set():
                    return
                for part in self._read(lease):
                    self._put(part, lease)
                self._is_whole = True
        except _GoneError:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._is_read.set()
            with suppress(queue.Full):
                self._parts.put_nowait(None)

    def _put(self, part: T, lease: Lease) -> None:
        while True:
            if self._is_left.is_set():
                raise _GoneError
            if lease.reason is not None:
                raise lease.reason
            with suppress(queue.Full):
                self._parts.put(part, timeout=_PAUSE_SECONDS)
                return


def _cancelled() -> QueryError:
    return QueryError("OPERATION_CANCELED", "the query was cancelled", cause="the client asked for it, or has gone")
