"""Processes that queries run in, one after the other."""

from __future__ import annotations

from lakelet.plan import relation
from lakelet.queries.processes import QueryProcesses


def test_a_process_that_has_lost_its_session_is_not_used_again() -> None:
    """A query that needs too much memory may take its session with it, and leave the process."""
    processes = QueryProcesses()
    try:
        with processes.lease({}) as lease:
            first = lease.engine
        first._client.release_session()
        with processes.lease({}) as lease:
            assert lease.engine is not first
            assert lease.engine.collect(relation.sql("SELECT id FROM range(3)")).num_rows == 3
    finally:
        processes.close()
