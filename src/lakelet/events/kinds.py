"""One constructor for each type of event, in the JSON layout that Databricks documents and users' queries rely on.

Source of the layout: https://docs.databricks.com/aws/en/ldp/monitor-event-log-schema. Fields of our own come on top:
`metrics.num_input_rows`, `metrics.duration_ms`, `expectations[].action`, `reason`, and versions in `runtime_details`.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lakelet.errors import LakeletError
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, FlowMetrics, FlowStatus, Level, PipelineEvent, UpdateState
from lakelet.secrets import masked


class FlowType(enum.Enum):
    """How a flow brings its target up to date."""

    APPEND = "APPEND"
    CHANGE = "CHANGE"
    SNAPSHOT_CHANGE = "SNAPSHOT_CHANGE"
    COMPLETE = "COMPLETE"
    MATERIALIZED_VIEW = "MATERIALIZED_VIEW"
    VIEW = "VIEW"


def create_update(
    bus: EventBus,
    *,
    configuration: Mapping[str, Any] | None = None,
    cause: str = "USER_ACTION",
    run_as: str | None = None,
    full_refresh: bool = False,
    refresh_selection: Sequence[str] = (),
    full_refresh_selection: Sequence[str] = (),
    continuous: bool = False,
    validate_only: bool = False,
) -> PipelineEvent:
    """An update starts: its cause, and everything that was configured for it.

    Args:
        cause: USER_ACTION, JOB_TASK, RETRY_ON_FAILURE, …
    """
    details = {
        "cause": cause,
        "run_as": run_as,
        "config": {
            "configuration": dict(configuration or {}),
            "full_refresh": full_refresh,
            "refresh_selection": list(refresh_selection),
            "full_refresh_selection": list(full_refresh_selection),
            "continuous": continuous,
            "validate_only": validate_only,
        },
    }
    return bus.publish(
        "create_update", f"Update {short_id(bus.update_id)} started by {cause}.", details=_known(details)
    )


def user_action(bus: EventBus, *, action: str, user_name: str, user_id: str | None = None) -> PipelineEvent:
    """Somebody did something to the pipeline.

    Args:
        action: START, STOP or RESET; Databricks has more.
    """
    details = {"user_name": user_name, "user_id": user_id, "action": action}
    return bus.publish("user_action", f"User {user_name} performed {action}.", details=_known(details))


def runtime_details(bus: EventBus, *, runtime: str, versions: Mapping[str, str] | None = None) -> PipelineEvent:
    """What runs the update.

    Args:
        runtime: the runtime's name and version; under Databricks' key `dbr_version`.
        versions: of the libraries that matter: engine, pyspark, deltalake, python.
    """
    details = {"dbr_version": runtime, "versions": dict(versions or {})}
    return bus.publish("runtime_details", f"Running on {runtime}.", details=details)


def update_progress(
    bus: EventBus,
    state: UpdateState,
    *,
    error: BaseException | None = None,
    cancellation_cause: str | None = None,
) -> PipelineEvent:
    """The update has reached a state."""
    message = f"Update {short_id(bus.update_id)} is {state.value}"
    return bus.publish(
        "update_progress",
        f"{message}: {_one_line(error)}" if error else f"{message}.",
        level=Level.ERROR if state is UpdateState.FAILED else Level.INFO,
        details=_known({"state": state.value, "cancellation_cause": cancellation_cause}),
        error=error,
    )


def flow_definition(
    bus: EventBus,
    *,
    flow: str,
    output_dataset: str | None,
    input_datasets: Sequence[str],
    flow_type: FlowType,
    flow_id: str | None = None,
    output_sink: str | None = None,
    schema: Sequence[tuple[str, str]] | None = None,
    schema_json: str | None = None,
    explain_text: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    language: str = "PYTHON",
    once: bool = False,
) -> PipelineEvent:
    """A flow of this update: what it reads and where its rows go.

    Args:
        schema: names and Spark types of the columns.
        schema_json: the same as Spark's schema JSON.
    """
    details = {
        "output_dataset": output_dataset,
        "output_sink": output_sink,
        "input_datasets": list(input_datasets),
        "explain_text": explain_text,
        "schema_json": schema_json,
        "schema": None if schema is None else [{"name": name, "type": kind} for name, kind in schema],
        "flow_type": flow_type.value,
        "comment": comment,
        "spark_conf": dict(spark_conf) if spark_conf else None,
        "language": language,
        "once": once,
    }
    return bus.publish(
        "flow_definition",
        f"Flow '{flow}' defined as {flow_type.value}.",
        details=_known(details),
        dataset=output_dataset,
        sink=output_sink,
        flow=flow,
        flow_id=flow_id,
    )


def dataset_definition(
    bus: EventBus,
    *,
    dataset: str,
    dataset_type: str,
    num_flows: int,
    expectations: Iterable[tuple[str, str, str]] = (),
) -> PipelineEvent:
    """A dataset of this update.

    Args:
        dataset_type: MATERIALIZED_VIEW, STREAMING_TABLE, VIEW.
        expectations: name, condition and action (ALLOW, DROP, FAIL) of each rule.
    """
    rules = [{"name": name, "condition": condition, "action": action} for name, condition, action in expectations]
    return bus.publish(
        "dataset_definition",
        f"Dataset '{dataset}' defined as {dataset_type}.",
        details={"dataset_type": dataset_type, "num_flows": num_flows, "expectations": rules},
        dataset=dataset,
    )


def sink_definition(bus: EventBus, *, sink: str, format: str, options: Mapping[str, str]) -> PipelineEvent:
    """A sink of this update."""
    details = {"format": format, "options": masked(options)}
    return bus.publish("sink_definition", f"Sink '{sink}' defined as {format}.", details=details, sink=sink)


_STATUS_MESSAGES = {
    FlowStatus.COMPLETED: "has COMPLETED",
    FlowStatus.FAILED: "has FAILED",
    FlowStatus.SKIPPED: "was SKIPPED",
    FlowStatus.STOPPED: "was STOPPED",
    FlowStatus.EXCLUDED: "was EXCLUDED",
}


def flow_progress(
    bus: EventBus,
    *,
    flow: str,
    dataset: str | None,
    status: FlowStatus,
    metrics: FlowMetrics | None = None,
    quality: DataQuality | None = None,
    batch_id: int | None = None,
    flow_id: str | None = None,
    sink: str | None = None,
    reason: str | None = None,
    error: BaseException | None = None,
    event_id: str | None = None,
    is_replay: bool = False,
) -> PipelineEvent:
    """A flow has reached a status, or finished one micro-batch (RUNNING with metrics).

    Counts of one micro-batch are in one event, so their sum over an update is the update's total.

    Args:
        reason: why a flow was skipped, excluded or stopped.
        event_id: names the micro-batch, so that the event of a replay is known to be the same.
        is_replay: the micro-batch was begun before.
    """
    details: dict[str, Any] = {"status": status.value, "reason": reason}
    if metrics is not None:
        details["metrics"] = _known(dataclasses.asdict(metrics))
    if quality is not None:
        details["data_quality"] = {
            "dropped_records": quality.dropped_records,
            "expectations": [dataclasses.asdict(result) for result in quality.expectations],
        }
    message = f"Flow '{flow}' {_STATUS_MESSAGES.get(status, f'is {status.value}')}"
    why = _one_line(error) if error else reason
    return bus.publish(
        "flow_progress",
        f"{message}: {why}" if why else f"{message}.",
        level=_flow_level(status, counted=metrics is not None or quality is not None),
        details=_known(details),
        dataset=dataset,
        flow=flow,
        flow_id=flow_id,
        batch_id=batch_id,
        sink=sink,
        error=error,
        event_id=event_id,
        is_replay=is_replay,
    )


def flow_retry(
    bus: EventBus,
    *,
    flow: str,
    dataset: str,
    error: LakeletError,
    attempt: int,
    in_seconds: float,
    is_repeated: bool,
) -> PipelineEvent:
    """A flow of a continuous update has failed, and is tried again later.

    Args:
        attempt: number of the failure in a row, from 1.
        in_seconds: until it is tried again.
        is_repeated: the error has been published since the flow last succeeded, so its condition is enough.
    """
    later = f"attempt {attempt + 1} in {in_seconds:g} s"
    why = f"[{error.condition}] as before" if is_repeated else _one_line(error)
    retry = {"attempt": attempt, "in_seconds": in_seconds, "condition": error.condition}
    return bus.publish(
        "flow_progress",
        f"Flow '{flow}' has FAILED: {why}; {later}.",
        level=Level.WARN if is_repeated else Level.ERROR,
        details={"status": FlowStatus.FAILED.value, "reason": later, "retry": retry},
        dataset=dataset,
        flow=flow,
        error=None if is_repeated else error,
    )


def _flow_level(status: FlowStatus, *, counted: bool) -> Level:
    match status:
        case FlowStatus.FAILED:
            return Level.ERROR
        case FlowStatus.SKIPPED:
            return Level.WARN
        case FlowStatus.RUNNING:
            return Level.METRICS if counted else Level.INFO
        case _:
            return Level.INFO


def planning_information(
    bus: EventBus,
    *,
    flow: str,
    dataset: str,
    technique: str,
    candidates: Sequence[Mapping[str, Any]],
) -> PipelineEvent:
    """How a materialized view will be brought up to date, and why not in a cheaper way.

    Args:
        technique: NO_OP, APPEND_ONLY, GROUP_AGGREGATE or COMPLETE_RECOMPUTE.
        candidates: every technique that was considered: maintenance_type, is_chosen, is_applicable, and the
            incrementalization_issues that ruled out something cheaper.
    """
    return bus.publish(
        "planning_information",
        f"Flow '{flow}' has been planned to be executed as {technique}.",
        details={"technique_information": [dict(item) for item in candidates]},
        dataset=dataset,
        flow=flow,
    )


def operation_progress(
    bus: EventBus,
    *,
    operation: str,
    status: str,
    duration_ms: float | None = None,
    dataset: str | None = None,
    flow: str | None = None,
) -> PipelineEvent:
    """A long operation inside a flow.

    Args:
        operation: AUTO_LOADER_LISTING, AUTO_LOADER_BACKFILL, CONNECTOR_FETCH, CDC_SNAPSHOT.
        status: STARTED, COMPLETED, CANCELED, FAILED.
    """
    details = {"type": operation, "status": status, "duration_ms": duration_ms}
    message = f"Operation {operation} is {status}."
    return bus.publish("operation_progress", message, details=_known(details), dataset=dataset, flow=flow)


def stream_progress(
    bus: EventBus, *, flow: str, dataset: str, progress_json: str, batch_id: int | None = None
) -> PipelineEvent:
    """What Spark calls a StreamingQueryProgress, as its JSON."""
    return bus.publish(
        "stream_progress",
        f"Flow '{flow}' has progressed.",
        level=Level.METRICS,
        details={"progress_json": progress_json},
        dataset=dataset,
        flow=flow,
        batch_id=batch_id,
    )


def hook_progress(bus: EventBus, *, name: str, status: str, error: BaseException | None = None) -> PipelineEvent:
    """An event hook has reached a status."""
    return bus.publish(
        "hook_progress",
        f"Event hook '{name}' is {status}.",
        level=Level.WARN if error else Level.INFO,
        details={"name": name, "status": status},
        error=error,
    )


def deprecation(bus: EventBus, message: str, *, dataset: str | None = None, flow: str | None = None) -> PipelineEvent:
    """The pipeline uses something that will go away."""
    return bus.publish(
        "deprecation",
        message,
        level=Level.WARN,
        details={"message": message},
        dataset=dataset,
        flow=flow,
    )


def warning(bus: EventBus, message: str, *, dataset: str | None = None, flow: str | None = None) -> PipelineEvent:
    """Something that changes no result, and that the owner of the pipeline should know; a type of ours."""
    return bus.publish(
        "warning",
        message,
        level=Level.WARN,
        details={"message": message},
        dataset=dataset,
        flow=flow,
        maturity="EVOLVING",
    )


def short_id(update_id: str) -> str:
    """Return the first characters of an update's id, by which people name it."""
    return update_id[:6]


def _known(details: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in details.items() if value is not None}


def _one_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
