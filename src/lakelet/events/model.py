"""Events of an update, in Databricks' event-log layout.

Source of the layout: https://docs.databricks.com/aws/en/ldp/monitor-event-log-schema
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakelet.errors import DefinitionErrors, LakeletError
from lakelet.secrets import scrubbed

compact_json = json.JSONEncoder(default=str, separators=(",", ":")).encode
"""Returns a value as JSON text; `json.dumps` would make an encoder for each."""


class Level(enum.Enum):
    INFO = "INFO"
    WARN = "WARN"
    ERROR = "ERROR"
    METRICS = "METRICS"


class FlowStatus(enum.Enum):
    """States of a flow within one update."""

    QUEUED = "QUEUED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    STOPPED = "STOPPED"
    IDLE = "IDLE"
    EXCLUDED = "EXCLUDED"

    @property
    def is_final(self) -> bool:
        return self not in (FlowStatus.QUEUED, FlowStatus.STARTING, FlowStatus.RUNNING)


class UpdateState(enum.Enum):
    """States of an update."""

    CREATED = "CREATED"
    INITIALIZING = "INITIALIZING"
    RESETTING = "RESETTING"
    SETTING_UP_TABLES = "SETTING_UP_TABLES"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectationResult:
    """Counts of one rule over the rows of one micro-batch; passed + failed = rows that it saw."""

    name: str
    dataset: str
    action: str
    passed_records: int
    failed_records: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DataQuality:
    """What the rules of one micro-batch found. `dropped_records` counts rows, not violations."""

    dropped_records: int = 0
    expectations: tuple[ExpectationResult, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowMetrics:
    """Counts of one micro-batch; None where a number does not apply to the kind of flow.

    Attributes:
        num_skipped_rows: rows that commits wrote and removed which the user told the stream to leave out.
        num_rows_dropped_by_watermark: rows that came too late for an operator with state.
        num_state_rows: rows that the operator remembers after the batch.
        watermark: the event time up to which this batch closed state, as ISO 8601 text.
    """

    num_input_rows: int | None = None
    num_output_rows: int | None = None
    num_upserted_rows: int | None = None
    num_deleted_rows: int | None = None
    num_output_bytes: int | None = None
    backlog_bytes: int | None = None
    backlog_files: int | None = None
    duration_ms: float | None = None
    num_skipped_rows: int | None = None
    num_rows_dropped_by_watermark: int | None = None
    num_state_rows: int | None = None
    watermark: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineEvent:
    """One row of the event log.

    Attributes:
        sequence: increases within a pipeline; orders events with equal timestamps.
        origin: pipeline_id, pipeline_name, update_id, dataset_name, flow_name, batch_id, …
        details: one key, the event type.
        is_replay: a run that died, or failed, may have published the event before, with this id.
        secrets: texts that the event's JSON form must not have.
    """

    id: str
    sequence: int
    timestamp: datetime
    event_type: str
    message: str
    level: Level = Level.INFO
    maturity_level: str = "STABLE"
    origin: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    error: LakeletError | BaseException | None = None
    is_replay: bool = False
    secrets: frozenset[str] = field(default=frozenset(), repr=False)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready values."""
        if "values" not in self._made:
            self._made["values"] = self._to_dict()
        return dict(self._made["values"])

    def _to_dict(self) -> dict[str, Any]:
        event = {
            "id": self.id,
            "sequence": {"data_plane_id": {"seq_no": self.sequence}},
            "origin": {key: value for key, value in self.origin.items() if value is not None},
            "timestamp": self.timestamp.isoformat(timespec="microseconds"),
            "message": self.message,
            "level": self.level.value,
            "maturity_level": self.maturity_level,
            "error": error_to_dict(self.error) if self.error else None,
            "details": {self.event_type: dict(self.details)},
            "event_type": self.event_type,
        }
        return scrubbed(event, self.secrets) if self.secrets else event

    def details_json(self) -> str:
        """Return the details as JSON text; every event has them twice, in the JSON lines and in the event log."""
        if "details" not in self._made:
            self._made["details"] = compact_json(self.to_dict()["details"])
        return str(self._made["details"])

    def to_json(self) -> str:
        event = self.to_dict()
        del event["details"]
        return f'{compact_json(event)[:-1]},"details":{self.details_json()}}}'


def error_to_dict(error: BaseException) -> dict[str, Any]:
    """Return an error and its causes in the shape of the event log's `error` column."""
    if isinstance(error, DefinitionErrors):
        return {
            "fatal": True,
            "exceptions": [part for one in error.errors for part in error_to_dict(one)["exceptions"]],
        }
    exceptions: list[dict[str, Any]] = []
    current: BaseException | None = error
    while current is not None and len(exceptions) < 10:
        entry: dict[str, Any] = {
            "class_name": f"{type(current).__module__}.{type(current).__qualname__}",
            "message": str(current),
        }
        if isinstance(current, LakeletError):
            entry |= {"condition": current.condition, "cause": current.cause, "hint": current.hint}
            entry["origin"] = str(current.origin) if current.origin else None
        exceptions.append(entry)
        current = current.__cause__
    return {"fatal": True, "exceptions": exceptions}
