"""The clock of a micro-batch: whatever its queries, rules and change conditions ask, it stands at one instant."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakelet.engine.base import Engine, EngineCapabilities
from lakelet.plan.clock import with_clock
from lakelet.plan.relation import Relation

if TYPE_CHECKING:
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import StructType


@dataclass(frozen=True, slots=True)
class ClockedEngine:
    """An engine whose `current_timestamp()` is the instant `at`, so that a replay computes and counts the same rows."""

    engine: Engine
    at: datetime
    time_zone: str

    @property
    def capabilities(self) -> EngineCapabilities:
        return self.engine.capabilities

    @property
    def url(self) -> str:
        return self.engine.url

    @property
    def session_id(self) -> str:
        return self.engine.session_id

    @property
    def version(self) -> str:
        return self.engine.version

    def schema(self, relation: Relation) -> StructType:
        return self.engine.schema(relation)

    def collect(self, relation: Relation) -> pa.Table:
        return self.engine.collect(self._clocked(relation))

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        return self.engine.stream(self._clocked(relation))

    def command(self, command: proto.Command) -> None:
        self.engine.command(command)

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        if command.HasField("write_operation"):
            clocked = type(command)()
            clocked.CopyFrom(command)
            clocked.write_operation.input.CopyFrom(self._clocked(command.write_operation.input))
            command = clocked
        return self.engine.observed(command, settings=settings)

    def configure(self, key: str, value: str) -> None:
        self.engine.configure(key, value)

    def client(self) -> AbstractContextManager[SparkConnectClient]:
        return self.engine.client()

    def interrupt(self) -> None:
        self.engine.interrupt()

    def close(self) -> None:
        self.engine.close()

    def _clocked(self, relation: Relation) -> Relation:
        return with_clock(relation, self.at, time_zone=self.time_zone)
