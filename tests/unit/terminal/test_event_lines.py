"""Selecting events of the log, and showing them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lakelet.errors import FlowError, Origin, SpecError
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, ExpectationResult, FlowMetrics, FlowStatus, UpdateState
from lakelet.events.table import DeltaEventLog
from lakelet.terminal.event_lines import Event, as_json, as_text, from_table, select


@pytest.fixture
def logged(tmp_path: Path) -> list[Event]:
    """Two updates: the first fails in `silver.orders`, the second has one micro-batch."""
    log = DeltaEventLog(tmp_path / "events")
    first, second = (EventBus("p", "shop", update_id) for update_id in ("aaa111", "aab222"))
    for bus in (first, second):
        bus.subscribe(log)
    kinds.flow_progress(
        first,
        flow="silver.orders",
        dataset="silver.orders",
        status=FlowStatus.FAILED,
        error=FlowError("X", "broken", origin=Origin(file="t.py", line=3), cause="a\nb"),
    )
    kinds.update_progress(first, UpdateState.FAILED)
    rule = ExpectationResult(name="valid_id", dataset="bronze.sales", action="DROP", passed_records=1, failed_records=2)
    kinds.flow_progress(
        second,
        flow="bronze.sales",
        dataset="bronze.sales",
        status=FlowStatus.RUNNING,
        metrics=FlowMetrics(num_input_rows=1000, num_output_rows=998),
        quality=DataQuality(dropped_records=2, expectations=(rule,)),
    )
    kinds.update_progress(second, UpdateState.COMPLETED)
    log.flush()
    return from_table(log.read())


def messages(events: list[Event]) -> list[str]:
    return [event["message"] for event in events]


def test_latest_is_the_update_that_began_last(logged: list[Event]) -> None:
    assert messages(select(logged, update="latest")) == [
        "Flow 'bronze.sales' is RUNNING.",
        "Update aab222 is COMPLETED.",
    ]


def test_the_beginning_of_an_id_names_an_update(logged: list[Event]) -> None:
    assert len(select(logged, update="aaa")) == 2


def test_a_beginning_that_fits_two_updates_is_an_error_with_both(logged: list[Event]) -> None:
    with pytest.raises(SpecError, match="AMBIGUOUS_UPDATE") as caught:
        select(logged, update="aa")
    assert caught.value.hint == "write more of the id: aaa111, aab222"


def test_an_unknown_update_is_an_error_that_lists_the_last_ones(logged: list[Event]) -> None:
    with pytest.raises(SpecError, match="UNKNOWN_UPDATE") as caught:
        select(logged, update="zzz")
    assert caught.value.hint == "the last ones are aaa111, aab222"


def test_latest_of_an_empty_log_says_what_to_do() -> None:
    with pytest.raises(SpecError) as caught:
        select([], update="latest")
    assert caught.value.hint == "run the pipeline first: `lakelet run`"


def test_a_level_means_it_and_what_is_worse(logged: list[Event]) -> None:
    assert len(select(logged, level="METRICS")) == 4
    assert len(select(logged, level="INFO")) == 3
    assert len(select(logged, level="WARN")) == 2


def test_the_last_part_of_a_dataset_name_is_enough(logged: list[Event]) -> None:
    assert len(select(logged, dataset="Orders")) == 1
    assert len(select(logged, dataset="silver.orders")) == 1


def test_an_unknown_dataset_or_type_names_the_nearest(logged: list[Event]) -> None:
    with pytest.raises(SpecError, match="UNKNOWN_EVENT_DATASET") as caught:
        select(logged, dataset="ordres")
    assert caught.value.hint == "did you mean `silver.orders`?"
    with pytest.raises(SpecError, match="UNKNOWN_EVENT_TYPE") as caught:
        select(logged, event_type="flow_progres")
    assert caught.value.hint == "did you mean `flow_progress`?"


def test_a_line_has_what_a_micro_batch_counted(logged: list[Event]) -> None:
    line = as_text(select(logged, dataset="sales")[0])
    assert line.endswith("Flow 'bronze.sales' is RUNNING.  1,000 in, 998 written, 2 dropped, valid_id 2")


def test_an_error_has_its_place_and_cause_below(logged: list[Event]) -> None:
    assert as_text(logged[0]).splitlines()[1:] == ["    t.py:3", "    a", "    b"]


def test_json_has_the_shape_of_the_json_lines(logged: list[Event]) -> None:
    event = json.loads(as_json(logged[2]))
    assert event["details"]["flow_progress"]["metrics"]["num_output_rows"] == 998
    assert event["origin"]["update_id"] == "aab222"
    assert isinstance(event["sequence"]["data_plane_id"]["seq_no"], int)
