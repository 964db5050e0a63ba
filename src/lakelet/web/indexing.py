"""What a reading of events adds to the index: gathered first, so that a row is written once, however many events change it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lakelet.events.progress import chosen_technique

LEVELS = ("METRICS", "INFO", "WARN", "ERROR")
COUNTS = ("input", "output", "upserted", "deleted")
ENDED = ("COMPLETED", "FAILED", "CANCELED")
_COMPACT = json.JSONEncoder(separators=(",", ":"))

FlowKey = tuple[str, str, str]


@dataclass(slots=True, kw_only=True)
class UpdateChange:
    """What some events say of their update; `state_sequence` is the event that has the last word on its state, 0: none."""

    sequence: int
    started_at: str
    last_at: str
    state: str | None = None
    state_sequence: int = 0
    finished_at: str | None = None
    cause: str | None = None
    continuous: bool | None = None
    full_refresh: bool | None = None
    selection: str | None = None
    written: int = 0
    dropped: int = 0
    failed_rows: int = 0
    errors: int = 0
    warnings: int = 0

    def values(self, update_id: str) -> tuple[Any, ...]:
        return (
            update_id, self.sequence, self.started_at, self.finished_at, self.last_at, self.state, self.cause,
            self.continuous, self.full_refresh, self.selection, self.written, self.dropped, self.failed_rows,
            self.errors, self.warnings, self.state_sequence,
        )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class FlowChange:
    """What some events say of a flow; `status_sequence` is the event that has the last word on its status, 0: none."""

    status: str | None = None
    status_sequence: int = 0
    technique: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    reason: str | None = None
    counts: list[int | None] = field(default_factory=lambda: [None, None, None, None])
    dropped: int = 0
    batches: int = 0
    busy_ms: float = 0.0

    def values(self, key: FlowKey) -> tuple[Any, ...]:
        return (
            *key, self.status, self.technique, self.started_at, self.finished_at, *self.counts, self.dropped,
            self.batches, self.busy_ms, self.reason, self.status_sequence,
        )  # fmt: skip


class Additions:
    """The rows of the index that some new events change, each event taken once and in order.

    Args:
        packed: save space rather than time: for years of log, not for the events of this moment.
        texts: the events' own JSON by id, of those for which it is at hand.
    """

    def __init__(self, *, packed: bool, texts: Mapping[str, bytes]) -> None:
        self._packed = packed
        self._texts = texts
        self.events: list[tuple[Any, ...]] = []
        self.types: set[str] = set()
        self.updates: dict[str, UpdateChange] = {}
        self.flows: dict[FlowKey, FlowChange] = {}
        self.batches: list[tuple[Any, ...]] = []
        self.rules: dict[tuple[str, str, str, str], list[Any]] = {}

    @classmethod
    def of(cls, events: Iterable[Mapping[str, Any]], *, packed: bool, texts: Mapping[str, bytes]) -> Additions:
        """Gather what events, in the JSON form of `PipelineEvent`, change."""
        additions = cls(packed=packed, texts=texts)
        for event in events:
            additions._add(event)
        return additions

    def _add(self, event: Mapping[str, Any]) -> None:
        origin, kind, at = event["origin"], event["event_type"], event["timestamp"]
        details = event["details"].get(kind) or {}
        sequence: int = event["sequence"]["data_plane_id"]["seq_no"]
        dataset, flow = origin.get("dataset_name"), origin.get("flow_name")
        update_id = origin.get("update_id", "")
        text = self._texts.get(event["id"]) or _COMPACT.encode(event).encode()
        level = LEVELS.index(event["level"]) if event["level"] in LEVELS else 1
        self.events.append(
            (sequence, event["id"], update_id, at, kind, level, dataset, flow, event["message"],
             zlib.compress(text, 1) if self._packed else text)
        )  # fmt: skip
        self.types.add(kind)
        update = self.updates.get(update_id)
        if update is None:
            update = self.updates[update_id] = UpdateChange(sequence=sequence, started_at=at, last_at=at)
        update.sequence = min(update.sequence, sequence)
        update.started_at, update.last_at = min(update.started_at, at), max(update.last_at, at)
        update.errors += level == 3
        update.warnings += level == 2
        match kind:
            case "create_update":
                _create(update, details, sequence)
            case "update_progress" if sequence > update.state_sequence:
                update.state, update.state_sequence = details.get("state"), sequence
                update.finished_at = at if update.state in ENDED else None
            case "planning_information" if dataset:
                self._flow((update_id, dataset, flow or dataset)).technique = chosen_technique(details)
            case "flow_progress" if dataset:
                self._flow_progress(sequence, (update_id, dataset, flow or dataset), event, details)

    def _flow(self, key: FlowKey) -> FlowChange:
        change = self.flows.get(key)
        if change is None:
            change = self.flows[key] = FlowChange()
        return change

    def _flow_progress(self, sequence: int, key: FlowKey, event: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        at, status = event["timestamp"], details.get("status")
        metrics, quality = details.get("metrics"), details.get("data_quality") or {}
        flow = self._flow(key)
        if sequence > flow.status_sequence:
            flow.status, flow.status_sequence, flow.reason = status, sequence, details.get("reason")
            flow.finished_at = None if status in ("QUEUED", "STARTING", "RUNNING") else at
        if status in ("STARTING", "RUNNING"):
            flow.started_at = min(flow.started_at or at, at)
        if metrics is None and not quality:
            return
        counts: Mapping[str, Any] = metrics or {}
        rows = [counts.get(f"num_{name}_rows") for name in COUNTS]
        dropped, duration = quality.get("dropped_records", 0), counts.get("duration_ms")
        flow.counts = [_plus(total, row) for total, row in zip(flow.counts, rows, strict=True)]
        flow.dropped, flow.batches, flow.busy_ms = (
            flow.dropped + dropped,
            flow.batches + 1,
            flow.busy_ms + (duration or 0.0),
        )
        self.batches.append(
            (sequence, *key, event["origin"].get("batch_id"), at, *rows, dropped, duration, counts.get("backlog_bytes"),
             counts.get("backlog_files"), counts.get("watermark"), counts.get("num_rows_dropped_by_watermark"),
             counts.get("num_state_rows"))
        )  # fmt: skip
        update = self.updates[key[0]]
        update.written += sum(value or 0 for value in rows[1:])
        update.dropped += dropped
        for rule in quality.get("expectations", ()):
            update.failed_rows += rule["failed_records"]
            self._rule(key, rule, at)

    def _rule(self, key: FlowKey, rule: Mapping[str, Any], at: str) -> None:
        found = self.rules.setdefault((rule["dataset"], rule["name"], key[0], key[2]), ["", 0, 0, at])
        found[0] = rule.get("action", "")
        found[1] += rule["passed_records"]
        found[2] += rule["failed_records"]
        found[3] = max(found[3], at)


def _create(update: UpdateChange, details: Mapping[str, Any], sequence: int) -> None:
    config = details.get("config") or {}
    selection = {name: config.get(name) for name in ("refresh_selection", "full_refresh_selection")}
    update.cause = details.get("cause")
    update.continuous, update.full_refresh = bool(config.get("continuous")), bool(config.get("full_refresh"))
    update.selection = json.dumps({name: value for name, value in selection.items() if value})
    if sequence > update.state_sequence:
        update.state, update.state_sequence = "CREATED", sequence


def _plus(total: int | None, count: int | None) -> int | None:
    return total if count is None else (total or 0) + count


def unknown(events: Sequence[Mapping[str, Any]], *, ids: set[str], sequences: set[int]) -> list[Mapping[str, Any]]:
    """Return the events that are not known by their id or their number, each once."""
    new = []
    for event in events:
        sequence = event["sequence"]["data_plane_id"]["seq_no"]
        if event["id"] not in ids and sequence not in sequences:
            ids.add(event["id"])
            sequences.add(sequence)
            new.append(event)
    return new
