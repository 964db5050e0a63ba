"""The numbers of a pipeline for Prometheus, at `/metrics`.

Counters count what happens while this server runs, whichever process runs the update; they begin at 0, since a counter that
goes down is taken for a restart and what it has then for new. Gauges say how things stand, also from the event log.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from lakelet.events.model import UpdateState
from lakelet.web.index import EventIndex, Row

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MOST_FLOWS = 2_000
MOST_RULES = 10_000
MOST_CHARACTERS = 200
OTHER = "(other)"
"""The label of whatever comes after the most flows or rules that are told apart."""
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
_ROWS = {
    "num_input_rows": ("lakelet_input_rows", "Rows that micro-batches and refreshes have read"),
    "num_output_rows": ("lakelet_written_rows", "Rows that were appended or rewritten"),
    "num_upserted_rows": ("lakelet_upserted_rows", "Rows that were inserted or updated by key"),
    "num_deleted_rows": ("lakelet_deleted_rows", "Rows that were deleted"),
    "num_rows_dropped_by_watermark": ("lakelet_late_rows", "Rows that came behind the watermark"),
}
_LEVELS = {
    "backlog_bytes": ("lakelet_backlog_bytes", "Bytes that waited after the last micro-batch"),
    "backlog_files": ("lakelet_backlog_files", "Files that waited after the last micro-batch"),
    "num_state_rows": ("lakelet_state_rows", "Rows that the flow's operators remember"),
}
_FLOW = ("dataset", "flow")
_RULE = ("dataset", "rule", "action", "flow")
_UPDATES = "SELECT * FROM updates WHERE COALESCE(cause, '') NOT IN ('REPAIR', 'RESET')"


class PipelineMetrics:
    """Counts new events, and says how the newest update stands.

    Args:
        pipeline: its name, a label of `lakelet_pipeline_info`.
        index: has the updates, also those of before.
        since: events of before do not count.
    """

    def __init__(self, pipeline: str, index: EventIndex, *, since: datetime) -> None:
        self._pipeline = pipeline
        self._index = index
        self._since = int(since.timestamp() * 1_000_000)
        self._lock = threading.Lock()
        self.restart()

    def restart(self) -> None:
        """Begin anew: another event log is at this place."""
        with self._lock:
            self._define()

    def _define(self) -> None:
        registry = self._registry = CollectorRegistry(auto_describe=True)
        self._flows: set[Sequence[str]] = set()
        self._rules: set[Sequence[str]] = set()
        info = Gauge("lakelet_pipeline_info", "Always 1; the pipeline's name", ["pipeline"], registry=registry)
        info.labels(self._pipeline).set(1)
        self._rows = {key: Counter(name, text, _FLOW, registry=registry) for key, (name, text) in _ROWS.items()}
        self._levels = {key: Gauge(name, text, _FLOW, registry=registry) for key, (name, text) in _LEVELS.items()}
        self._dropped = Counter("lakelet_dropped_rows", "Rows that rules dropped", _FLOW, registry=registry)
        self._failures = Counter("lakelet_flow_failures", "Failures, also those tried again", _FLOW, registry=registry)
        self._durations = Histogram(
            "lakelet_batch_duration_seconds",
            "How long micro-batches and refreshes took",
            _FLOW,
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._finished = Gauge(
            "lakelet_flow_last_success_timestamp_seconds", "When the flow last did its work", _FLOW, registry=registry
        )
        self._passed = Counter("lakelet_expectation_passed_records", "Rows that met a rule", _RULE, registry=registry)
        self._violated = Counter(
            "lakelet_expectation_failed_records", "Rows that violated a rule", _RULE, registry=registry
        )
        self._updates = Counter("lakelet_updates", "Updates that ended, by state", ["state"], registry=registry)
        self._state = Gauge("lakelet_update_state", "1 for the newest update's state", ["state"], registry=registry)
        self._last_success = Gauge(
            "lakelet_last_successful_update_timestamp_seconds",
            "When an update last completed; 0: never",
            registry=registry,
        )
        self._started = Gauge(
            "lakelet_update_start_timestamp_seconds", "When the newest update started; 0: never", registry=registry
        )

    # -- counting

    def count(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Count events, in their JSON form; each must come once."""
        with self._lock:
            for event in events:
                if event["sequence"]["data_plane_id"]["seq_no"] >= self._since:
                    self._count(event)

    def _count(self, event: Mapping[str, Any]) -> None:
        details = event["details"].get(event["event_type"]) or {}
        match event["event_type"]:
            case "flow_progress":
                self._flow_progress(event, details)
            case "update_progress" if details.get("state") in ("COMPLETED", "FAILED", "CANCELED"):
                self._updates.labels(details["state"]).inc()

    def _flow_progress(self, event: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        origin, status = event["origin"], details.get("status")
        dataset = origin.get("dataset_name") or origin.get("sink_name") or ""
        flow = _kept(self._flows, (dataset, origin.get("flow_name") or dataset), most=MOST_FLOWS)
        metrics, quality = details.get("metrics") or {}, details.get("data_quality") or {}
        if status == "FAILED":
            self._failures.labels(*flow).inc()
        if metrics or status in ("COMPLETED", "IDLE"):
            self._finished.labels(*flow).set(_seconds(event["timestamp"]))
        for key, counter in self._rows.items():
            if metrics.get(key):
                counter.labels(*flow).inc(metrics[key])
        for key, gauge in self._levels.items():
            if metrics.get(key) is not None:
                gauge.labels(*flow).set(metrics[key])
        if metrics.get("duration_ms") is not None:
            self._durations.labels(*flow).observe(metrics["duration_ms"] / 1000)
        if quality.get("dropped_records"):
            self._dropped.labels(*flow).inc(quality["dropped_records"])
        for rule in quality.get("expectations", ()):
            of_rule = (rule["dataset"], rule["name"], rule.get("action", ""), flow[1])
            labels = _kept(self._rules, of_rule, most=MOST_RULES)
            self._passed.labels(*labels).inc(rule["passed_records"])
            self._violated.labels(*labels).inc(rule["failed_records"])

    # -- showing

    def text(self) -> bytes:
        """Return all numbers in Prometheus' text format."""
        newest = self._index.rows(f"{_UPDATES} ORDER BY sequence DESC LIMIT 1")
        completed = self._index.rows(f"{_UPDATES} AND state = 'COMPLETED' ORDER BY finished_at DESC LIMIT 1")
        with self._lock:
            self._stand(newest[0] if newest else {}, completed[0] if completed else {})
            return generate_latest(self._registry)

    def _stand(self, newest: Row, completed: Row) -> None:
        for state in UpdateState:
            self._state.labels(state.value).set(newest.get("state") == state.value)
        self._started.set(_seconds(newest["started_at"]) if newest else 0)
        self._last_success.set(_seconds(completed["finished_at"]) if completed else 0)

    async def __call__(self, request: Request) -> Response:
        """Answer a scrape."""
        return Response(await run_in_threadpool(self.text), media_type=CONTENT_TYPE)


def _kept(known: set[Sequence[str]], labels: Sequence[str], *, most: int) -> Sequence[str]:
    """Return labels of a bounded length, and of a bounded number."""
    labels = tuple(str(label)[:MOST_CHARACTERS] for label in labels)
    if labels not in known and len(known) >= most:
        return (OTHER,) * len(labels)
    known.add(labels)
    return labels


def _seconds(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp).timestamp()
