"""The events of an update add up to the state of each dataset."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, ExpectationResult, FlowMetrics, FlowStatus, UpdateState
from lakelet.events.progress import MAX_WARNINGS, UpdateProgress


@pytest.fixture
def progress(bus: EventBus) -> UpdateProgress:
    result = UpdateProgress()
    bus.subscribe(result.apply)
    return result


def step(bus: EventBus, status: FlowStatus, *, dataset: str = "orders", flow: str = "", **counts: Any) -> None:
    kinds.flow_progress(bus, flow=flow or dataset, dataset=dataset, status=status, **counts)


def broken(rule: str, failed: int, *, dataset: str = "orders", dropped: int = 0) -> DataQuality:
    result = ExpectationResult(name=rule, dataset=dataset, action="DROP", passed_records=1, failed_records=failed)
    return DataQuality(dropped_records=dropped, expectations=(result,))


def test_micro_batches_add_up(bus: EventBus, progress: UpdateProgress) -> None:
    step(bus, FlowStatus.STARTING)
    for failed in (2, 3):
        step(
            bus,
            FlowStatus.RUNNING,
            metrics=FlowMetrics(num_input_rows=10, num_output_rows=10 - failed, duration_ms=100),
            quality=broken("valid_id", failed, dropped=failed),
        )
    step(bus, FlowStatus.COMPLETED)
    orders = progress.datasets["orders"]
    assert orders.status is FlowStatus.COMPLETED
    assert (orders.total.input, orders.total.output, orders.total.dropped) == (20, 15, 5)
    assert orders.total.failed == {"valid_id": 5}
    assert orders.seconds(bus.publish("warning", "").timestamp) == 0.2


def test_numbers_that_do_not_apply_stay_unknown(bus: EventBus, progress: UpdateProgress) -> None:
    step(bus, FlowStatus.RUNNING, metrics=FlowMetrics(num_upserted_rows=4, num_deleted_rows=1))
    total = progress.datasets["orders"].total
    assert (total.input, total.output, total.written) == (None, None, 5)


def test_a_dataset_with_several_flows_has_failed_when_one_has(bus: EventBus, progress: UpdateProgress) -> None:
    step(bus, FlowStatus.COMPLETED, flow="a")
    step(bus, FlowStatus.FAILED, flow="b")
    assert progress.datasets["orders"].status is FlowStatus.FAILED


def test_a_rule_of_a_view_is_shown_at_the_view(bus: EventBus, progress: UpdateProgress) -> None:
    kinds.dataset_definition(bus, dataset="cleaned", dataset_type="VIEW", num_flows=1)
    step(bus, FlowStatus.RUNNING, quality=broken("valid_id", 2, dataset="cleaned"))
    assert progress.datasets["cleaned"].total.failed == {"valid_id": 2}
    assert progress.datasets["orders"].total.failed == {}
    assert progress.datasets["orders"].recent.failed == {"valid_id": 2}


def test_recent_counts_begin_anew_with_each_round(bus: EventBus, progress: UpdateProgress) -> None:
    for _ in range(2):
        step(bus, FlowStatus.STARTING)
        step(bus, FlowStatus.RUNNING, metrics=FlowMetrics(num_output_rows=5))
        step(bus, FlowStatus.COMPLETED)
    orders = progress.datasets["orders"]
    assert (orders.total.output, orders.recent.output) == (10, 5)


def test_datasets_are_grouped_by_schema_in_the_order_of_the_graph(bus: EventBus, progress: UpdateProgress) -> None:
    for name in ("01_bronze.sales", "02_silver.sales", "01_bronze.stores", "loose"):
        kinds.dataset_definition(bus, dataset=name, dataset_type="STREAMING_TABLE", num_flows=1)
    groups = {schema: [dataset.name for dataset in found] for schema, found in progress.by_schema().items()}
    assert groups == {
        "01_bronze": ["01_bronze.sales", "01_bronze.stores"],
        "02_silver": ["02_silver.sales"],
        "": ["loose"],
    }


def test_the_update_has_a_state_a_duration_and_its_warnings_once(bus: EventBus, progress: UpdateProgress) -> None:
    kinds.update_progress(bus, UpdateState.RUNNING)
    kinds.warning(bus, "cannot cluster")
    kinds.warning(bus, "cannot cluster")
    end = kinds.update_progress(bus, UpdateState.COMPLETED)
    assert (progress.state, progress.update_id, progress.pipeline_name) == (UpdateState.COMPLETED, "u1", "shop")
    assert progress.seconds(end.timestamp + timedelta(hours=1)) == 3.0
    assert progress.warnings == ["cannot cluster"]


def test_the_technique_of_a_view_is_the_chosen_one(bus: EventBus, progress: UpdateProgress) -> None:
    kinds.planning_information(
        bus,
        flow="mv",
        dataset="mv",
        technique="NO_OP",
        candidates=[{"maintenance_type": "MAINTENANCE_TYPE_NO_OP", "is_chosen": True}],
    )
    assert progress.datasets["mv"].technique == "NO_OP"


def test_only_the_last_warnings_are_remembered(bus: EventBus, progress: UpdateProgress) -> None:
    for number in range(MAX_WARNINGS + 5):
        kinds.warning(bus, f"warning {number}")
    assert progress.warnings == [f"warning {number}" for number in range(5, MAX_WARNINGS + 5)]
