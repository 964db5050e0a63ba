"""An update as plain lines and as a table on the terminal."""

from __future__ import annotations

import io
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from lakelet.errors import DefinitionError, DefinitionErrors, FlowError, LakeletError, Origin
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, ExpectationResult, FlowMetrics, FlowStatus, UpdateState
from lakelet.events.progress import UpdateProgress
from lakelet.execution.outcome import FlowOutcome, UpdateResult
from lakelet.terminal.update_view import LiveView, PlainView, render_failures, render_update

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def bus() -> EventBus:
    """A bus whose clock advances 100 ms an event."""
    ticks = itertools.count()
    return EventBus("p1", "shop", "abcdef123", clock=lambda: NOON + timedelta(milliseconds=100 * next(ticks)))


class Plain:
    """A plain view and what it wrote."""

    def __init__(self, bus: EventBus) -> None:
        self._out, self._err = io.StringIO(), io.StringIO()
        bus.subscribe(PlainView(self._out, self._err))

    @property
    def out(self) -> list[str]:
        return self._out.getvalue().splitlines()

    @property
    def err(self) -> list[str]:
        return self._err.getvalue().splitlines()


def define(bus: EventBus, *names: str, kind: str = "STREAMING_TABLE") -> None:
    for name in names:
        kinds.dataset_definition(bus, dataset=name, dataset_type=kind, num_flows=1)


def progress(bus: EventBus, dataset: str, status: FlowStatus, **counts: Any) -> None:
    kinds.flow_progress(bus, flow=dataset, dataset=dataset, status=status, **counts)


def batch(
    bus: EventBus, dataset: str, *, failed: dict[str, int] | None = None, dropped: int = 0, **counts: Any
) -> None:
    rules = tuple(
        ExpectationResult(name=name, dataset=dataset, action="DROP", passed_records=1, failed_records=count)
        for name, count in (failed or {}).items()
    )
    progress(
        bus,
        dataset,
        FlowStatus.RUNNING,
        metrics=FlowMetrics(**counts),
        quality=DataQuality(dropped_records=dropped, expectations=rules) if rules else None,
    )


def a_whole_update(bus: EventBus) -> None:
    kinds.update_progress(bus, UpdateState.INITIALIZING)
    define(bus, "bronze.sales", "silver.customers", "gold.daily")
    kinds.update_progress(bus, UpdateState.RUNNING)
    batch(
        bus,
        "bronze.sales",
        num_input_rows=1500,
        num_output_rows=1488,
        duration_ms=210,
        failed={"valid_id": 3, "valid_email": 12, "valid_city": 0},
        dropped=12,
    )
    progress(bus, "bronze.sales", FlowStatus.COMPLETED)
    batch(bus, "silver.customers", num_input_rows=5, num_upserted_rows=4, num_deleted_rows=1, duration_ms=90)
    progress(bus, "silver.customers", FlowStatus.COMPLETED)
    kinds.planning_information(
        bus,
        flow="gold.daily",
        dataset="gold.daily",
        technique="NO_OP",
        candidates=[{"maintenance_type": "MAINTENANCE_TYPE_NO_OP", "is_chosen": True}],
    )
    progress(bus, "gold.daily", FlowStatus.COMPLETED)
    kinds.update_progress(bus, UpdateState.COMPLETED)


# -- plain lines


def test_plain_lines_are_aligned_one_for_each_dataset_and_state(bus: EventBus) -> None:
    plain = Plain(bus)
    a_whole_update(bus)
    assert plain.out == [
        "shop: update abcdef initializing",
        "shop: update abcdef running, 0.4 s",
        "  completed  bronze.sales           1,500 in       1,488 written    0.21 s"
        "  12 dropped · valid_email 12 · valid_id 3",
        "  completed  silver.customers           5 in          4 upserted    0.09 s  1 deleted",
        "  completed  gold.daily                                no change",
        "shop: update abcdef completed in 1.1 s: 3 completed, 1,493 rows written, 12 dropped",
    ]
    assert plain.err == []


def test_a_failure_is_a_line_with_its_condition(bus: EventBus) -> None:
    plain = Plain(bus)
    define(bus, "orders")
    progress(bus, "orders", FlowStatus.FAILED, error=FlowError("SCHEMA_CHANGED", "a long story"))
    assert plain.out[-1].split() == ["failed", "orders", "[SCHEMA_CHANGED]"]


def test_a_dataset_that_was_not_selected_has_no_line(bus: EventBus) -> None:
    plain = Plain(bus)
    define(bus, "orders")
    progress(bus, "orders", FlowStatus.EXCLUDED)
    assert plain.out == []


def test_a_dataset_with_two_flows_has_its_line_when_both_are_done(bus: EventBus) -> None:
    plain = Plain(bus)
    for flow in ("a", "b"):
        kinds.flow_progress(bus, flow=flow, dataset="orders", status=FlowStatus.QUEUED)
    for flow, lines in (("a", 0), ("b", 1)):
        kinds.flow_progress(
            bus, flow=flow, dataset="orders", status=FlowStatus.RUNNING, metrics=FlowMetrics(num_output_rows=1)
        )
        kinds.flow_progress(bus, flow=flow, dataset="orders", status=FlowStatus.COMPLETED)
        assert len(plain.out) == lines
    assert "2 written" in plain.out[0]


def test_a_round_of_a_continuous_update_shows_its_own_rows_and_only_if_there_are_any(bus: EventBus) -> None:
    plain = Plain(bus)
    for rows in (5, None, 7):
        progress(bus, "orders", FlowStatus.STARTING)
        if rows:
            batch(bus, "orders", num_output_rows=rows)
        progress(bus, "orders", FlowStatus.COMPLETED)
    assert [line.split()[2] for line in plain.out] == ["5", "7"]


def test_warnings_go_to_stderr_once(bus: EventBus) -> None:
    plain = Plain(bus)
    kinds.warning(bus, "cannot cluster")
    kinds.warning(bus, "cannot cluster")
    assert (plain.out, plain.err) == ([], ["  warning    cannot cluster"])


# -- the live table


def drawn(state: UpdateProgress, *, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=120, no_color=True)
    console.print(render_update(state, now=NOON + timedelta(seconds=3), height=height))
    assert isinstance(console.file, io.StringIO)
    return [line.strip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_the_table_has_a_row_for_each_dataset_under_its_schema(bus: EventBus) -> None:
    state = UpdateProgress()
    bus.subscribe(state.apply)
    a_whole_update(bus)
    lines = [line.split() for line in drawn(state)]
    assert lines[1] == ["dataset", "state", "rows", "in", "written", "dropped", "rule", "failures", "time"]
    assert lines[3:] == [
        ["bronze"],
        ["sales", "completed", "1,500", "1,488", "12", "valid_email", "12,", "valid_id", "3", "0.21", "s"],
        ["silver"],
        ["customers", "completed", "5", "4", "upserted,", "1", "deleted", "0.09", "s"],
        ["gold"],
        ["daily", "no", "change"],
    ]


def test_what_runs_and_what_failed_stays_on_a_small_screen(bus: EventBus) -> None:
    state = UpdateProgress()
    bus.subscribe(state.apply)
    define(bus, *(f"t{number}" for number in range(20)))
    for number in range(20):
        progress(bus, f"t{number}", FlowStatus.COMPLETED)
    progress(bus, "t17", FlowStatus.RUNNING)
    progress(bus, "t19", FlowStatus.FAILED)
    names = [line.split()[0] for line in drawn(state, height=12)[3:]]
    assert {"t17", "t19"} < set(names)
    assert len(names) == 8
    assert drawn(state, height=12)[-1] == "… 13 more"
    assert len(drawn(state)) == 23


def test_names_with_brackets_are_not_taken_for_markup(bus: EventBus) -> None:
    state = UpdateProgress()
    bus.subscribe(state.apply)
    define(bus, "[red]odd")
    assert any(line.startswith("[red]odd") for line in drawn(state))


def test_the_live_view_leaves_the_final_table_on_the_screen(bus: EventBus) -> None:
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=30), clock=lambda: NOON) as view:
        bus.subscribe(view)
        a_whole_update(bus)
    assert "completed in 1.1 s" in out.getvalue()
    assert "1,488" in out.getvalue()


def test_no_color_leaves_out_colours(bus: EventBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    with LiveView(Console(file=out, force_terminal=True, width=100, height=30), clock=lambda: NOON) as view:
        bus.subscribe(view)
        a_whole_update(bus)
    assert "\x1b[32m" not in out.getvalue()
    assert "\x1b[1;32m" not in out.getvalue()


# -- failures


def outcome(dataset: str, status: FlowStatus, error: LakeletError | None = None) -> FlowOutcome:
    return FlowOutcome(name=dataset, dataset=dataset, status=status, error=error)


def test_failures_come_root_first_and_skipped_datasets_fold_into_one_line() -> None:
    cause = FlowError("SCHEMA_CHANGED", "the source changed", origin=Origin(dataset="orders"), hint="full refresh")
    result = UpdateResult(
        update_id="u",
        state=UpdateState.FAILED,
        flows=(
            outcome("orders", FlowStatus.FAILED, cause),
            outcome("daily", FlowStatus.SKIPPED, FlowError("UPSTREAM_FAILED", "`daily` was skipped")),
            outcome("weekly", FlowStatus.SKIPPED, FlowError("UPSTREAM_FAILED", "`weekly` was skipped")),
        ),
    )
    assert render_failures(result).splitlines() == [
        "error[SCHEMA_CHANGED]: the source changed",
        "  --> dataset `orders`",
        "",
        "hint: full refresh",
        "",
        "skipped, since something they read failed: daily, weekly",
    ]


def test_all_errors_of_a_definition_are_shown() -> None:
    errors = DefinitionErrors([DefinitionError("A", "one"), DefinitionError("B", "two")])
    result = UpdateResult(update_id="u", state=UpdateState.FAILED, error=errors)
    assert render_failures(result) == "error[A]: one\n\nerror[B]: two"


def test_a_successful_update_has_no_failures_to_show() -> None:
    assert render_failures(UpdateResult(update_id="u", state=UpdateState.COMPLETED)) == ""
