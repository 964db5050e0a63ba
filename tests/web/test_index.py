"""The index of events: what it says does not depend on the order in which it is told."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, ExpectationResult, FlowMetrics, FlowStatus, PipelineEvent, UpdateState
from lakelet.web.index import EventIndex

TABLES = ("events", "updates", "flows", "batches", "rules", "types")


def events_of_an_update() -> list[dict[str, Any]]:
    """Return the events of an update with two micro-batches, one of which is tried again."""
    now = [datetime(2026, 11, 30, tzinfo=UTC)]

    def clock() -> datetime:
        now[0] += timedelta(milliseconds=20)
        return now[0]

    taken: list[PipelineEvent] = []
    bus = EventBus("pipeline", "shop", "u1", clock=clock)
    bus.subscribe(taken.append)
    kinds.create_update(bus)
    kinds.update_progress(bus, UpdateState.RUNNING)
    kinds.flow_progress(bus, flow="paid", dataset="paid", status=FlowStatus.STARTING)
    for number in (0, 1):
        rule = ExpectationResult(name="positive", dataset="paid", action="DROP", passed_records=9, failed_records=1)
        kinds.flow_progress(
            bus, flow="paid", dataset="paid", status=FlowStatus.RUNNING, batch_id=number,
            metrics=FlowMetrics(num_input_rows=10, num_output_rows=9, duration_ms=12.0),
            quality=DataQuality(dropped_records=1, expectations=(rule,)),
        )  # fmt: skip
    kinds.flow_progress(bus, flow="paid", dataset="paid", status=FlowStatus.COMPLETED)
    kinds.update_progress(bus, UpdateState.COMPLETED)
    return [event.to_dict() for event in taken]


def contents(index: EventIndex) -> dict[str, list[Any]]:
    rows = {table: index.rows(f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in TABLES[:-1]}
    for rule in rows["rules"]:
        del rule["update_sequence"]  # of the first event that was known when the rule was
    return {**rows, "types": index.types()}


def indexed(parts: Sequence[list[dict[str, Any]]]) -> dict[str, list[Any]]:
    index = EventIndex()
    for part in parts:
        index.add(part)
    found = contents(index)
    index.close()
    return found


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_files_of_the_event_log_may_be_read_in_any_order(order: tuple[int, ...]) -> None:
    events = events_of_an_update()
    parts = [events[:3], events[3:5], events[5:]]
    assert indexed([parts[number] for number in order]) == indexed([events])


def test_an_event_counts_once_however_often_it_comes() -> None:
    events = events_of_an_update()
    assert indexed([events + events[2:5], events[1:], events]) == indexed([events])


def test_what_an_update_has_come_to() -> None:
    index = EventIndex()
    index.add(events_of_an_update())
    [update], [flow], [rule] = index.updates(limit=5), index.flows("u1"), index.rules()
    assert (update["state"], update["written"], update["dropped"], update["failed_rows"]) == ("COMPLETED", 18, 2, 2)
    assert (flow["status"], flow["input"], flow["output"], flow["batches"], flow["busy_ms"]) == (
        "COMPLETED",
        20,
        18,
        2,
        24.0,
    )
    assert flow["upserted"] is None, "nobody has counted them"
    assert (rule["passed"], rule["failed"]) == (18, 2)
    assert flow["started_at"] < flow["finished_at"] == index.events(event_type="flow_progress", limit=1)[0]["timestamp"]
    assert "status_sequence" not in flow and "state_sequence" not in update
    index.close()


def test_the_text_of_an_event_is_kept_as_it_came() -> None:
    events = events_of_an_update()
    index = EventIndex()
    index.add(events, texts={events[0]["id"]: b'{"as": "it came"}'})
    numbers = [event["sequence"]["data_plane_id"]["seq_no"] for event in events]
    assert index.event(numbers[0]) == {"as": "it came"}
    assert index.event(numbers[1]) == events[1]
    index.close()


@pytest.mark.parametrize("level", ["WARN", "ERROR"])
def test_few_of_many_events_are_found_by_their_level_without_looking_at_all(level: str) -> None:
    index = EventIndex()
    asked: list[str] = []
    index._connection.set_trace_callback(asked.append)
    index.events(level=level)
    index._connection.set_trace_callback(None)
    plan = index.rows(f"EXPLAIN QUERY PLAN {asked[-1]}")
    assert "events_that_warn" in plan[0]["detail"]
    index.close()
