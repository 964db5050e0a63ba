"""A query that is cancelled on a Sail server is told apart from one whose connection broke, which would be tried again."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from tests.remote_kit import sail_server

from lakelet.engine.connect import ConnectEngine
from lakelet.errors import QueryError
from lakelet.plan import relation as plan


def test_an_interrupt_is_no_broken_connection() -> None:
    relation = plan.new()
    relation.range.start, relation.range.end, relation.range.step = 0, 2_000_000_000, 1
    relation.range.num_partitions = 20_000
    with sail_server() as server:
        engine = ConnectEngine(server.url)
        rows: Any = engine.stream(relation)
        first: pa.RecordBatch = rows.read_next_batch()
        assert first.num_rows
        engine.interrupt()
        with pytest.raises(QueryError) as raised:
            rows.read_all()
        engine.close()
    assert (raised.value.condition, raised.value.retryable) == ("OPERATION_CANCELED", False)
