"""The bus numbers events and hands each to every subscriber; no subscriber can break an update."""

from __future__ import annotations

import json
import logging
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lakelet.errors import StorageError
from lakelet.events.log import EventBus, JsonLinesWriter
from lakelet.events.model import Level, PipelineEvent


def test_an_event_carries_where_it_comes_from_and_nothing_that_is_unknown(bus: EventBus) -> None:
    event = bus.publish("flow_progress", "m", dataset="orders", flow="f", batch_id=0, details={"status": "RUNNING"})
    assert event.to_dict() == {
        "id": "u1-1",
        "sequence": {"data_plane_id": {"seq_no": event.sequence}},
        "origin": {
            "pipeline_id": "p1",
            "pipeline_name": "shop",
            "update_id": "u1",
            "dataset_name": "orders",
            "flow_name": "f",
            "batch_id": 0,
        },
        "timestamp": "2026-03-01T12:00:00.000000+00:00",
        "message": "m",
        "level": "INFO",
        "maturity_level": "STABLE",
        "error": None,
        "details": {"flow_progress": {"status": "RUNNING"}},
        "event_type": "flow_progress",
    }


def test_sequence_numbers_increase_while_the_clock_stands_still() -> None:
    bus = EventBus("p", "p", "u", clock=lambda: datetime(2026, 3, 1, tzinfo=UTC))
    numbers = [bus.publish("warning", "m").sequence for _ in range(3)]
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_sequence_numbers_of_a_later_update_are_greater() -> None:
    first = EventBus("p", "p", "u1", clock=lambda: datetime(2026, 3, 1, tzinfo=UTC))
    second = EventBus("p", "p", "u2", clock=lambda: datetime(2026, 3, 2, tzinfo=UTC))
    assert first.publish("warning", "m").sequence < second.publish("warning", "m").sequence


def test_events_of_several_threads_reach_a_subscriber_one_at_a_time_and_in_order(bus: EventBus) -> None:
    seen: list[int] = []
    bus.subscribe(lambda event: seen.append(event.sequence))
    threads = [threading.Thread(target=lambda: [bus.publish("warning", "m") for _ in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 800
    assert seen == sorted(set(seen))


def test_what_a_subscriber_publishes_reaches_all_after_the_event_it_looks_at(bus: EventBus) -> None:
    seen: list[str] = []

    def echo(event: PipelineEvent) -> None:
        if event.message == "first":
            bus.publish("warning", "second")

    bus.subscribe(echo)
    bus.subscribe(lambda event: seen.append(event.message))
    bus.publish("warning", "first")
    assert seen == ["first", "second"]


def test_a_failing_subscriber_does_not_keep_an_event_from_the_others(bus: EventBus) -> None:
    seen: list[str] = []
    bus.subscribe(_broken)
    bus.subscribe(lambda event: seen.append(event.event_type))
    bus.publish("create_update", "m")
    assert seen == ["create_update", "hook_progress"]


def test_a_failing_subscriber_is_reported_once_in_the_log_and_once_in_the_events(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[PipelineEvent] = []
    bus.subscribe(_broken)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.ERROR, logger="lakelet.events"):
        bus.publish("create_update", "one")
        bus.publish("create_update", "two")
    reports = [event for event in seen if event.event_type == "hook_progress"]
    assert [(report.level, report.message) for report in reports] == [
        (Level.WARN, "Event subscriber '_broken' has FAILED: no space left")
    ]
    assert [record.getMessage() for record in caplog.records] == ["event subscriber _broken failed: no space left"]
    assert bus.subscriber_failures == {"_broken": 3}


def _broken(event: PipelineEvent) -> None:
    raise OSError("no space left")


def test_each_event_is_a_line_on_disk_before_publish_returns(bus: EventBus, tmp_path: Path) -> None:
    path = tmp_path / "updates" / "u1.jsonl"
    with JsonLinesWriter(path) as writer:
        bus.subscribe(writer)
        first = bus.publish("warning", "one\ntwo")
        assert [json.loads(line) for line in path.read_text().splitlines()] == [first.to_dict()]
        bus.publish("warning", "three")
        assert len(path.read_text().splitlines()) == 2


def test_a_folder_that_cannot_be_written_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "updates").write_text("a file, not a folder")
    with pytest.raises(StorageError, match="EVENT_LOG_NOT_WRITABLE") as caught:
        JsonLinesWriter(tmp_path / "updates" / "u1.jsonl")
    assert caught.value.hint
