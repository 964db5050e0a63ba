"""Queries of people: checked, run in a process of their own, limited in rows, bytes and time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from lakelet.execution.reading import EVENT_LOG_NAMES
from lakelet.pipeline import Pipeline
from lakelet.queries.check import check_sql
from lakelet.queries.processes import TIMEOUT_SECONDS, QueryProcesses
from lakelet.queries.reading import collect, query_over_tables

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
        self._processes = QueryProcesses(timeout_seconds=timeout_seconds)

    def close(self) -> None:
        self._processes.close()

    def run(self, sql: str, *, tables: Mapping[str, str], limit: int = SHOWN_ROWS) -> SqlResult:
        """Return the first `limit` rows of a query.

        Args:
            tables: what may be read: display name → location; the event log comes on top.

        Raises:
            LakeletError: `SQL_NOT_ALLOWED`, `SQL_TIMEOUT`, `SQL_BUSY`, `SQL_OUT_OF_MEMORY`, or what the engine says.
        """
        pipeline = self._pipeline
        check_sql(sql, tables=[*tables, *EVENT_LOG_NAMES], names=pipeline.names)
        begun = time.monotonic()
        with self._processes.lease(pipeline.spec.engine_configuration) as lease:
            relation = query_over_tables(
                lease.engine,
                sql,
                names=pipeline.names,
                catalog=pipeline.catalog,
                tables=tables,
                event_log=str(pipeline.catalog.system / "events"),
                time_zone=pipeline.spec.time_zone,
            )
            rows, has_more = collect(lease.engine, relation, limit=limit, max_bytes=MAX_BYTES)
        return SqlResult(rows=rows, has_more=has_more, seconds=time.monotonic() - begun)
