"""The details of every type of event have the JSON paths that users' queries of a Databricks event log rely on."""

from __future__ import annotations

from typing import Any

import pytest

from lakelet.errors import FlowError
from lakelet.events import kinds
from lakelet.events.kinds import FlowType
from lakelet.events.log import EventBus
from lakelet.events.model import (
    DataQuality,
    ExpectationResult,
    FlowMetrics,
    FlowStatus,
    Level,
    PipelineEvent,
    UpdateState,
)


def details(event: PipelineEvent) -> Any:
    return event.to_dict()["details"]


def test_the_progress_of_a_flow_has_metrics_and_data_quality_where_databricks_has_them(bus: EventBus) -> None:
    event = kinds.flow_progress(
        bus,
        flow="orders_flow",
        dataset="orders",
        status=FlowStatus.RUNNING,
        batch_id=7,
        metrics=FlowMetrics(num_input_rows=100, num_output_rows=97, duration_ms=12.5),
        quality=DataQuality(
            dropped_records=3,
            expectations=(
                ExpectationResult(
                    name="valid_id", dataset="orders", action="DROP", passed_records=97, failed_records=3
                ),
            ),
        ),
    )
    assert details(event) == {
        "flow_progress": {
            "status": "RUNNING",
            "metrics": {"num_input_rows": 100, "num_output_rows": 97, "duration_ms": 12.5},
            "data_quality": {
                "dropped_records": 3,
                "expectations": [
                    {
                        "name": "valid_id",
                        "dataset": "orders",
                        "action": "DROP",
                        "passed_records": 97,
                        "failed_records": 3,
                    }
                ],
            },
        }
    }
    assert event.level is Level.METRICS
    assert event.origin["batch_id"] == 7


@pytest.mark.parametrize(
    ("status", "level", "message"),
    [
        (FlowStatus.QUEUED, Level.INFO, "Flow 'f' is QUEUED."),
        (FlowStatus.RUNNING, Level.INFO, "Flow 'f' is RUNNING."),
        (FlowStatus.COMPLETED, Level.INFO, "Flow 'f' has COMPLETED."),
        (FlowStatus.SKIPPED, Level.WARN, "Flow 'f' was SKIPPED."),
        (FlowStatus.EXCLUDED, Level.INFO, "Flow 'f' was EXCLUDED."),
    ],
)
def test_the_message_and_level_of_a_flow_say_its_status(
    bus: EventBus, status: FlowStatus, level: Level, message: str
) -> None:
    event = kinds.flow_progress(bus, flow="f", dataset="d", status=status)
    assert (event.message, event.level) == (message, level)
    assert details(event) == {"flow_progress": {"status": status.value}}


def test_a_failure_names_its_cause_in_the_message_and_in_the_first_exception(bus: EventBus) -> None:
    error = FlowError("EXPECTATION_VIOLATION", "Violated expectations: 'valid_id'")
    event = kinds.flow_progress(bus, flow="f", dataset="d", status=FlowStatus.FAILED, error=error)
    assert event.level is Level.ERROR
    assert event.message == "Flow 'f' has FAILED: [EXPECTATION_VIOLATION] Violated expectations: 'valid_id'"
    recorded = event.to_dict()["error"]
    assert recorded["fatal"] is True
    assert recorded["exceptions"][0]["class_name"] == "lakelet.errors.FlowError"
    assert "Violated expectations: 'valid_id'" in recorded["exceptions"][0]["message"]


def test_a_skipped_flow_says_why(bus: EventBus) -> None:
    event = kinds.flow_progress(bus, flow="f", dataset="d", status=FlowStatus.SKIPPED, reason="`orders` failed")
    assert event.message == "Flow 'f' was SKIPPED: `orders` failed"
    assert details(event)["flow_progress"]["reason"] == "`orders` failed"


def test_the_states_of_an_update_are_at_the_documented_path(bus: EventBus) -> None:
    event = kinds.update_progress(bus, UpdateState.CANCELED, cancellation_cause="USER_ACTION")
    assert details(event) == {"update_progress": {"state": "CANCELED", "cancellation_cause": "USER_ACTION"}}
    assert event.message == "Update u1 is CANCELED."
    failed = kinds.update_progress(bus, UpdateState.FAILED, error=FlowError("X", "broken"))
    assert (failed.level, failed.message) == (Level.ERROR, "Update u1 is FAILED: [X] broken")


def test_lineage_is_output_dataset_input_datasets_and_flow_type(bus: EventBus) -> None:
    event = kinds.flow_definition(
        bus,
        flow="f",
        output_dataset="orders",
        input_datasets=["raw"],
        flow_type=FlowType.APPEND,
        schema=[("id", "int")],
    )
    assert details(event) == {
        "flow_definition": {
            "output_dataset": "orders",
            "input_datasets": ["raw"],
            "flow_type": "APPEND",
            "schema": [{"name": "id", "type": "int"}],
            "language": "PYTHON",
            "once": False,
        }
    }


def test_a_dataset_definition_lists_its_rules_with_their_actions(bus: EventBus) -> None:
    event = kinds.dataset_definition(
        bus,
        dataset="orders",
        dataset_type="STREAMING_TABLE",
        num_flows=2,
        expectations=[("valid_id", "id IS NOT NULL", "DROP")],
    )
    assert details(event) == {
        "dataset_definition": {
            "dataset_type": "STREAMING_TABLE",
            "num_flows": 2,
            "expectations": [{"name": "valid_id", "condition": "id IS NOT NULL", "action": "DROP"}],
        }
    }


def test_planning_says_the_technique_in_databricks_words_and_why_nothing_cheaper_will_do(bus: EventBus) -> None:
    candidates = [
        {
            "maintenance_type": "MAINTENANCE_TYPE_COMPLETE_RECOMPUTE",
            "is_chosen": True,
            "is_applicable": True,
            "incrementalization_issues": [{"issue_type": "QUERY_FINGERPRINT_CHANGED"}],
        }
    ]
    event = kinds.planning_information(
        bus, flow="mv", dataset="mv", technique="COMPLETE_RECOMPUTE", candidates=candidates
    )
    assert event.message == "Flow 'mv' has been planned to be executed as COMPLETE_RECOMPUTE."
    assert details(event)["planning_information"]["technique_information"] == candidates


def test_create_update_has_the_cause_and_the_whole_configuration(bus: EventBus) -> None:
    event = kinds.create_update(bus, configuration={"name": "shop"}, full_refresh_selection=["orders"])
    assert details(event)["create_update"] == {
        "cause": "USER_ACTION",
        "config": {
            "configuration": {"name": "shop"},
            "full_refresh": False,
            "refresh_selection": [],
            "full_refresh_selection": ["orders"],
            "continuous": False,
            "validate_only": False,
        },
    }


def test_the_rarer_events_have_their_documented_fields(bus: EventBus) -> None:
    assert details(kinds.user_action(bus, action="START", user_name="ada")) == {
        "user_action": {"user_name": "ada", "action": "START"}
    }
    assert details(kinds.runtime_details(bus, runtime="lakelet 1", versions={"pysail": "0.7"})) == {
        "runtime_details": {"dbr_version": "lakelet 1", "versions": {"pysail": "0.7"}}
    }
    assert details(kinds.sink_definition(bus, sink="s", format="delta", options={"path": "/x"})) == {
        "sink_definition": {"format": "delta", "options": {"path": "/x"}}
    }
    assert details(
        kinds.operation_progress(bus, operation="AUTO_LOADER_LISTING", status="COMPLETED", duration_ms=3.0)
    ) == {"operation_progress": {"type": "AUTO_LOADER_LISTING", "status": "COMPLETED", "duration_ms": 3.0}}
    assert details(kinds.stream_progress(bus, flow="f", dataset="d", progress_json="{}")) == {
        "stream_progress": {"progress_json": "{}"}
    }
    assert details(kinds.hook_progress(bus, name="h", status="FAILED")) == {
        "hook_progress": {"name": "h", "status": "FAILED"}
    }
    assert kinds.deprecation(bus, "`view` is deprecated").level is Level.WARN
    assert kinds.warning(bus, "cannot cluster").level is Level.WARN
