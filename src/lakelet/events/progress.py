"""What the events of one update add up to: the state of each dataset, its rows and its rules.

The terminal and the web pages show this; it is a pure function of the events seen so far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState

_PRECEDENCE = (
    FlowStatus.FAILED,
    FlowStatus.RUNNING,
    FlowStatus.STARTING,
    FlowStatus.QUEUED,
    FlowStatus.SKIPPED,
    FlowStatus.STOPPED,
    FlowStatus.COMPLETED,
    FlowStatus.IDLE,
    FlowStatus.EXCLUDED,
)
"""Of the flows of one dataset, the first of these that one of them has is the dataset's status."""


@dataclass(slots=True, kw_only=True)
class RowCounts:
    """Rows of one dataset over some micro-batches.

    Attributes:
        input, output, upserted, deleted: None until an event has counted them.
        dropped: rows that a drop rule kept out.
        failed: rows that violate a rule, by rule; a rule without violations is absent.
        busy_ms: time in micro-batches.
    """

    input: int | None = None
    output: int | None = None
    upserted: int | None = None
    deleted: int | None = None
    dropped: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    busy_ms: float = 0.0
    batches: int = 0

    @property
    def written(self) -> int | None:
        """Rows written, upserts and deletes included; None where nothing was counted."""
        known = [count for count in (self.output, self.upserted, self.deleted) if count is not None]
        return sum(known) if known else None

    def add(self, metrics: Mapping[str, Any], quality: Mapping[str, Any]) -> None:
        """Add the counts of one micro-batch."""
        self.batches += 1
        self.input = _plus(self.input, metrics.get("num_input_rows"))
        self.output = _plus(self.output, metrics.get("num_output_rows"))
        self.upserted = _plus(self.upserted, metrics.get("num_upserted_rows"))
        self.deleted = _plus(self.deleted, metrics.get("num_deleted_rows"))
        self.busy_ms += metrics.get("duration_ms") or 0.0
        self.dropped += quality.get("dropped_records", 0)

    def add_failed(self, rule: str, count: int) -> None:
        if count:
            self.failed[rule] = self.failed.get(rule, 0) + count


def _plus(total: int | None, count: int | None) -> int | None:
    return total if count is None else (total or 0) + count


@dataclass(slots=True, kw_only=True)
class DatasetProgress:
    """One dataset of an update.

    Attributes:
        kind: the dataset type of its definition event, such as STREAMING_TABLE.
        statuses: of its flows, by name.
        technique: how a materialized view was planned to be refreshed.
        total: rows since the update began, and its own rules.
        recent: rows since it last began to work, and the rules of the views that its flows read.
    """

    name: str
    kind: str | None = None
    statuses: dict[str, FlowStatus] = field(default_factory=dict)
    technique: str | None = None
    total: RowCounts = field(default_factory=RowCounts)
    recent: RowCounts = field(default_factory=RowCounts)
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_view(self) -> bool:
        return self.kind == "VIEW"

    @property
    def status(self) -> FlowStatus | None:
        """The most telling status of its flows; None before a flow has one, and of a view."""
        present = set(self.statuses.values())
        return next((status for status in _PRECEDENCE if status in present), None)

    @property
    def schema(self) -> str:
        """The part of its name before the last dot; empty in the pipeline's default schema."""
        return self.name.rpartition(".")[0]

    def seconds(self, now: datetime) -> float | None:
        """Return how long its flows have worked: in micro-batches, else between first start and end."""
        if self.total.busy_ms and self.status not in (FlowStatus.STARTING, FlowStatus.RUNNING):
            return self.total.busy_ms / 1000
        if self.started_at is None:
            return None
        return max(0.0, ((self.finished_at or now) - self.started_at).total_seconds())


MAX_WARNINGS = 20
"""How many different warnings are remembered: a continuous update never ends."""


class UpdateProgress:
    """The state of one update, event by event.

    Not locked: whoever shows it from another thread than it is fed from holds a lock around both.
    """

    def __init__(self) -> None:
        self.pipeline_name = ""
        self.update_id = ""
        self.state: UpdateState | None = None
        self.started_at: datetime | None = None
        self.finished_at: datetime | None = None
        self.datasets: dict[str, DatasetProgress] = {}
        self.warnings: list[str] = []

    @classmethod
    def of(cls, events: Iterable[PipelineEvent]) -> UpdateProgress:
        progress = cls()
        for event in events:
            progress.apply(event)
        return progress

    def apply(self, event: PipelineEvent) -> None:
        """Take one more event into account."""
        self.pipeline_name = event.origin.get("pipeline_name") or self.pipeline_name
        self.update_id = event.origin.get("update_id") or self.update_id
        self.started_at = self.started_at or event.timestamp
        name = event.origin.get("dataset_name")
        match event.event_type:
            case "update_progress":
                self.state = UpdateState(event.details["state"])
                if self.state in (UpdateState.COMPLETED, UpdateState.FAILED, UpdateState.CANCELED):
                    self.finished_at = event.timestamp
            case "dataset_definition" if name:
                self.dataset(name).kind = event.details.get("dataset_type")
            case "planning_information" if name:
                self.dataset(name).technique = chosen_technique(event.details)
            case "flow_progress" if name:
                self._apply_flow_progress(self.dataset(name), event)
            case "warning" | "deprecation" | "hook_progress" if event.message not in self.warnings:
                self.warnings.append(event.message)
                del self.warnings[:-MAX_WARNINGS]

    def dataset(self, name: str) -> DatasetProgress:
        """Return the progress of a dataset, which need not have been heard of."""
        return self.datasets.setdefault(name, DatasetProgress(name=name))

    def by_schema(self) -> dict[str, list[DatasetProgress]]:
        """Return the datasets by schema; schemas and datasets in the order in which they were announced."""
        groups: dict[str, list[DatasetProgress]] = {}
        for dataset in self.datasets.values():
            groups.setdefault(dataset.schema, []).append(dataset)
        return groups

    def total(self) -> RowCounts:
        """Return the counts over all datasets; rows that pass through several tables count in each."""
        result = RowCounts()
        for dataset in self.datasets.values():
            counts = dataset.total
            result.input = _plus(result.input, counts.input)
            result.output = _plus(result.output, counts.output)
            result.upserted = _plus(result.upserted, counts.upserted)
            result.deleted = _plus(result.deleted, counts.deleted)
            result.dropped += counts.dropped
        return result

    def seconds(self, now: datetime) -> float:
        if self.started_at is None:
            return 0.0
        return max(0.0, ((self.finished_at or now) - self.started_at).total_seconds())

    def _apply_flow_progress(self, dataset: DatasetProgress, event: PipelineEvent) -> None:
        status = FlowStatus(event.details["status"])
        if dataset.status is None or dataset.status.is_final:
            dataset.recent = RowCounts()
        dataset.statuses[event.origin.get("flow_name") or dataset.name] = status
        if status in (FlowStatus.STARTING, FlowStatus.RUNNING):
            dataset.started_at = dataset.started_at or event.timestamp
            dataset.finished_at = None
        elif status.is_final:
            dataset.finished_at = event.timestamp
        metrics, quality = event.details.get("metrics"), event.details.get("data_quality")
        if metrics or quality:
            for counts in (dataset.total, dataset.recent):
                counts.add(metrics or {}, quality or {})
            self._apply_rules(dataset, (quality or {}).get("expectations", ()))

    def _apply_rules(self, dataset: DatasetProgress, rules: Iterable[Mapping[str, Any]]) -> None:
        for rule in rules:
            # A rule of a view is counted by the flow that reads the view; over the update it belongs to the view.
            owner = self.datasets.get(rule["dataset"], dataset)
            owner.total.add_failed(rule["name"], rule["failed_records"])
            dataset.recent.add_failed(rule["name"], rule["failed_records"])


def chosen_technique(details: Mapping[str, Any]) -> str | None:
    """Return how a view is refreshed, of the details of a `planning_information`."""
    for technique in details.get("technique_information", ()):
        if technique.get("is_chosen"):
            return str(technique["maintenance_type"]).removeprefix("MAINTENANCE_TYPE_")
    return None
