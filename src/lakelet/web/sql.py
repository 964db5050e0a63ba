"""Queries of people: checked, run in a process of their own, limited in rows, bytes and time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lakelet.errors import LakeletError, QueryError
from lakelet.execution.reading import EVENT_LOG_NAMES
from lakelet.pipeline import Pipeline
from lakelet.web.sql_check import check_sql

TIMEOUT_SECONDS = 30.0
START_SECONDS = 30.0
SHOWN_ROWS = 500
DOWNLOAD_ROWS = 100_000
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlResult:
    """The first rows of a query.

    Attributes:
        has_more: there are rows beyond the limit.
    """

    rows: pa.Table
    has_more: bool
    seconds: float


class SqlService:
    """Runs one query at a time; a query that takes too long ends with its process.

    Args:
        timeout_seconds: for one query, the engine's start not counted.
    """

    def __init__(self, pipeline: Pipeline, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._pipeline = pipeline
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False

    def close(self) -> None:
        self._end()

    def run(self, sql: str, *, tables: Mapping[str, str], limit: int = SHOWN_ROWS) -> SqlResult:
        """Return the first `limit` rows of a query.

        Args:
            tables: what may be read: display name → location; the event log comes on top.

        Raises:
            LakeletError: `SQL_NOT_ALLOWED`, `SQL_TIMEOUT`, `SQL_BUSY`, `SQL_OUT_OF_MEMORY`, or what the engine says.
        """
        names = self._pipeline.names
        check_sql(sql, tables=[*tables, *EVENT_LOG_NAMES], names=names)
        if not self._lock.acquire(timeout=self._timeout):
            raise QueryError("SQL_BUSY", "another query is running", hint="try again when it has ended", retryable=True)
        try:
            spec = self._pipeline.spec
            request = {
                "sql": sql,
                "tables": dict(tables),
                "names": [names.catalog, names.schema],
                "storage": str(spec.storage),
                "root": str(spec.root),
                "event_log": str(self._pipeline.catalog.system / "events"),
                "configuration": dict(spec.engine_configuration),
                "limit": limit,
                "max_bytes": MAX_BYTES,
            }
            begun = time.monotonic()
            rows, has_more = self._ask(request)
            return SqlResult(rows=rows, has_more=has_more, seconds=time.monotonic() - begun)
        finally:
            self._lock.release()

    def _ask(self, request: Mapping[str, Any]) -> tuple[pa.Table, bool]:
        process = self._running()
        allowed = self._timeout + (0 if self._has_answered else START_SECONDS)
        deadline = time.monotonic() + allowed
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            reader = _Reader(process.stdout.fileno(), deadline)
            head = json.loads(reader.line())
            body = reader.exactly(int(head["bytes"]))
        except TimeoutError:
            self._end()
            raise QueryError(
                "SQL_TIMEOUT",
                f"the query took more than {self._timeout:.0f} seconds and was ended",
                hint="read less: filter, aggregate, or add a LIMIT; `lakelet query` has no such limit",
            ) from None
        except (EOFError, OSError) as error:
            self._end()
            raise _out_of_memory() from error
        self._has_answered = True
        if found := head.get("error"):
            if found["condition"] == "SQL_OUT_OF_MEMORY":
                raise _out_of_memory()
            raise LakeletError(found["condition"], found["message"], cause=found["cause"], hint=found["hint"])
        return pa.ipc.open_stream(body).read_all(), bool(head["has_more"])

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._has_answered = False
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lakelet.web.sql_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the server, which then ends this process
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _out_of_memory() -> QueryError:
    return QueryError(
        "SQL_OUT_OF_MEMORY",
        "the query's process ended: most likely the query needs more memory than it may have",
        hint="read less: filter, aggregate, or add a LIMIT; `lakelet query` has no such limit",
    )


class _Reader:
    """Reads from a pipe until a deadline."""

    def __init__(self, fd: int, deadline: float) -> None:
        self._fd = fd
        self._deadline = deadline
        self._buffer = b""

    def line(self) -> bytes:
        while b"\n" not in self._buffer:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def exactly(self, count: int) -> bytes:
        chunks, size = [self._buffer], len(self._buffer)
        while size < count:
            self._buffer = b""
            self._fill()
            chunks.append(self._buffer)
            size += len(self._buffer)
        return b"".join(chunks)[:count]

    def _fill(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0 or not select.select([self._fd], [], [], left)[0]:
            raise TimeoutError
        chunk = os.read(self._fd, 2**20)
        if not chunk:
            raise EOFError
        self._buffer += chunk
