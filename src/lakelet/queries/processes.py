"""Engines in processes of their own, one for each query that runs: what must end, ends with its process."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import CAPABILITIES
from lakelet.errors import LakeletError, QueryError

TIMEOUT_SECONDS = 30.0
START_SECONDS = 30.0
QUERIES_OF_A_PROCESS = 500
"""After so many a process is replaced: an engine keeps a little memory for each text of SQL."""


class _EngineProcess:
    """One process with an engine, and the session in it."""

    def __init__(self) -> None:
        self.queries = 0
        self._engine: ConnectEngine | None = None
        self._configuration: Mapping[str, str] = {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lakelet.queries.engine_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is for the server, which then ends this process
        )
        try:
            self._port = self._said()
        except BaseException:
            self.end()
            raise

    def _said(self) -> int:
        """Return the port that the process says; wait for it."""
        assert self._process.stdout is not None
        said, deadline = b"", time.monotonic() + START_SECONDS
        while not said.endswith(b"\n"):
            left = deadline - time.monotonic()
            ready = left > 0 and select.select([self._process.stdout], [], [], left)[0]
            chunk = os.read(self._process.stdout.fileno(), 64) if ready else b""
            if not chunk:
                raise QueryError(
                    "ENGINE_UNAVAILABLE",
                    "the process that runs queries did not start",
                    cause=f"it ended with exit code {self._process.poll()}"
                    if ready
                    else f"nothing was heard of it for {START_SECONDS:.0f} seconds",
                    hint="check how much memory the machine has left, and try again",
                    retryable=True,
                )
            said += chunk
        return int(said)

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answers(self) -> bool:
        """Return whether the next query may have it: one that ran out of memory may have ended it, or its session only."""
        if self._engine is None or not self.is_alive:
            return self.is_alive
        try:
            self._engine.setting("spark.sql.session.timeZone")
        except LakeletError:
            return False
        return True

    def engine(self, configuration: Mapping[str, str]) -> ConnectEngine:
        """Return a session with these settings; the last one, where they are the same."""
        if self._engine is None or configuration != self._configuration:
            if self._engine is not None:
                self._engine.close()
            self._engine = ConnectEngine(
                f"sc://127.0.0.1:{self._port}", configuration=configuration, capabilities=CAPABILITIES, retries=0
            )
            self._configuration = dict(configuration)
        return self._engine

    def end(self) -> None:
        """End the process now, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


_AWAY = frozenset({"ENGINE_UNAVAILABLE", "ENGINE_SESSION_LOST"})


class Lease:
    """An engine that one query has for itself, until `end`."""

    def __init__(self, processes: QueryProcesses, process: _EngineProcess, engine: ConnectEngine) -> None:
        self.engine = engine
        self.reason: LakeletError | None = None
        self._processes = processes
        self._process = process
        self._lock = threading.Lock()
        self._is_over = False

    def end(self, reason: LakeletError) -> None:
        """End the query with its process; its place is free for the next one."""
        with self._lock:
            if self._is_over:
                return
            self._is_over, self.reason = True, reason
        self._process.end()
        self._processes._leave(None)

    def _give_back(self) -> None:
        """Leave the engine to the next query; this one is over."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
        self._processes._leave(self._process)

    def _explained(self, error: LakeletError) -> LakeletError:
        """Return why the query failed: the engine of a process that ended says only that it is gone."""
        if self.reason is not None:
            return self.reason
        return error if self._process.is_alive else _out_of_memory()


class QueryProcesses:
    """Runs at most `size` queries at once.

    Args:
        timeout_seconds: for one query, its results included, the engine's start not counted; also how long a query waits
            for its turn.
    """

    def __init__(self, size: int = 1, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self.size = size
        self._timeout = timeout_seconds
        self._places = threading.Semaphore(size)
        self._idle: list[_EngineProcess] = []
        self._lock = threading.Lock()
        self._leases: set[Lease] = set()
        self._is_closed = False

    @contextmanager
    def lease(self, configuration: Mapping[str, str]) -> Iterator[Lease]:
        """Give an engine to one query.

        A query that is left before its end, by an exception that is not the engine's, ends with its process.

        Args:
            configuration: settings of the session.

        Raises:
            QueryError: `SQL_BUSY`, and while it is used `SQL_TIMEOUT`, `SQL_OUT_OF_MEMORY`, or why `end` was called.
        """
        lease = self._begin(configuration)
        timer = threading.Timer(self._timeout, lease.end, [self._timed_out()])
        timer.daemon = True
        timer.start()
        try:
            yield lease
        except LakeletError as error:
            if error.condition in _AWAY:
                lease._process.end()  # it may need a moment to die by itself
            why = lease._explained(error)
            if why is error:
                raise
            raise why from error
        except BaseException:
            lease.end(_abandoned())
            raise
        finally:
            timer.cancel()
            lease._give_back()
            with self._lock:
                self._leases.discard(lease)

    def _begin(self, configuration: Mapping[str, str]) -> Lease:
        if not self._places.acquire(timeout=self._timeout):
            raise QueryError(
                "SQL_BUSY",
                "another query is running" if self.size == 1 else f"{self.size} queries are running",
                hint="try again when one has ended",
                retryable=True,
            )
        process: _EngineProcess | None = None
        try:
            process = self._rested() or _EngineProcess()
            process.queries += 1
            lease = Lease(self, process, process.engine(configuration))
        except BaseException:
            if process is not None:
                process.end()
            self._places.release()
            raise
        with self._lock:
            self._leases.add(lease)
            is_closed = self._is_closed
        if is_closed:
            lease.end(_closing())
            raise _closing()
        return lease

    def _rested(self) -> _EngineProcess | None:
        """Return a process that another query has left; one that no longer answers is put away."""
        while True:
            with self._lock:
                process = self._idle.pop() if self._idle else None
            if process is None or process.answers():
                return process
            process.end()

    def _leave(self, process: _EngineProcess | None) -> None:
        """Free a place; `process` is for the next query."""
        if process is not None:
            is_worn = process.queries >= QUERIES_OF_A_PROCESS or not process.is_alive
            with self._lock:
                is_kept = not is_worn and not self._is_closed
                if is_kept:
                    self._idle.append(process)
            if not is_kept:
                process.end()
        self._places.release()

    def _timed_out(self) -> QueryError:
        return QueryError(
            "SQL_TIMEOUT",
            f"the query took more than {self._timeout:g} seconds and was ended",
            hint="read less: filter, aggregate, or add a LIMIT; `lakelet query` has no such limit",
        )

    def close(self) -> None:
        """End every query and every process."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
            leases = list(self._leases)
        for lease in leases:
            lease.end(_closing())
        for process in idle:
            process.end()


def _abandoned() -> QueryError:
    return QueryError("OPERATION_CANCELED", "the query was cancelled", cause="nobody waits for its result")


def _closing() -> QueryError:
    return QueryError("OPERATION_CANCELED", "the query was cancelled", cause="the server stops")


def _out_of_memory() -> QueryError:
    return QueryError(
        "SQL_OUT_OF_MEMORY",
        "the query's process ended: most likely the query needs more memory than it may have",
        hint="read less: filter, aggregate, or add a LIMIT; `lakelet query` has no such limit",
    )
