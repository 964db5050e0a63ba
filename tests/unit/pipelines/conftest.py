"""A session for user code whose handler answers from a table of canned schemas; no engine runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from lakelet.errors import SourceError


class CannedHandler:
    """Knows the table `rates (currency STRING, rate DOUBLE)` and what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.commands: list[Any] = []

    def schema_of(self, relation: Any) -> Any:
        from pyspark.sql.types import DoubleType, StringType, StructType

        self.asked.append("schema")
        name = relation.read.named_table.unparsed_identifier
        if name not in ("", "rates", "ref.rates"):
            raise SourceError("TABLE_OR_VIEW_NOT_FOUND", f"there is no table `{name}`")
        return StructType().add("currency", StringType()).add("rate", DoubleType()).add("__END_AT", DoubleType())

    def is_streaming(self, relation: Any) -> bool:
        self.asked.append("is_streaming")
        return bool(relation.read.is_streaming)

    def execute(self, relation: Any) -> pa.Table:
        self.asked.append(relation.WhichOneof("rel_type"))
        return pa.table({"currency": ["CHF"], "rate": [0.9]})

    def command(self, command: Any) -> None:
        self.commands.append(command)


@pytest.fixture
def handler() -> CannedHandler:
    return CannedHandler()


@pytest.fixture
def session(handler: CannedHandler) -> Iterator[Any]:
    from lakelet.names import NameContext
    from lakelet.pipelines.session import user_session

    session = user_session(
        "sc://127.0.0.1:1",  # nothing listens here: a call to the server would fail
        str(uuid.uuid4()),
        handler,
        {"my.key": "5"},
        names=NameContext(catalog="main", schema="shop"),
    )
    yield session
    session.client.close()
