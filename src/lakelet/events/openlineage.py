"""The events of an update as OpenLineage runs: one of the update, one of each flow, one of each flow's rules.

Source of the model: https://openlineage.io/docs/spec/object-model. A view has no table and no run: who reads it reads what
it reads. Rules are a run of their own, with the table as its input, since the specification has assertions on inputs only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.generated import data_quality_assertions_dataset as assertions
from openlineage.client.generated import parent_run
from openlineage.client.generated.base import JobFacet, OutputDatasetFacet, RunFacet
from openlineage.client.generated.error_message_run import ErrorMessageRunFacet
from openlineage.client.generated.job_type_job import JobTypeJobFacet
from openlineage.client.generated.output_statistics_output_dataset import OutputStatisticsOutputDatasetFacet
from openlineage.client.generated.processing_engine_run import ProcessingEngineRunFacet
from openlineage.client.generated.schema_dataset import SchemaDatasetFacet, SchemaDatasetFacetFields

from lakelet.errors import LakeletError
from lakelet.names import NameContext

PRODUCER = "urn:lakelet"
RUNNING_EVERY = timedelta(minutes=1)
"""A flow that goes on says RUNNING at most that often."""

_ENDS = {"COMPLETED": RunState.COMPLETE, "FAILED": RunState.FAIL, "CANCELED": RunState.ABORT}
_FLOW_ENDS = {
    "COMPLETED": RunState.COMPLETE,
    "FAILED": RunState.FAIL,
    "SKIPPED": RunState.ABORT,
    "STOPPED": RunState.ABORT,
}
Counts = dict[str, int]


@dataclass(slots=True, kw_only=True)
class _Flow:
    """What is known of a flow: its definition, and what it has done in this update."""

    name: str
    output: str
    inputs: tuple[str, ...] = ()
    is_view: bool = False
    is_open: bool = False
    has_ended: bool = False
    written_rows: int | None = None
    written_bytes: int | None = None
    rules: dict[tuple[str, str], Counts] = field(default_factory=dict)
    told_at: datetime | None = None


class LineageRuns:
    """Turns the events of one update, in their order and their JSON form, into OpenLineage run events.

    Args:
        namespace: of jobs and of the pipeline's tables.
        names: completes the names of tables.
        version: of lakelet.
    """

    def __init__(self, *, namespace: str, names: NameContext, version: str) -> None:
        self._namespace = namespace
        self._names = names
        self._version = version
        self._flows: dict[tuple[str, str], _Flow] = {}
        self._schemas: dict[str, list[Mapping[str, str]]] = {}
        self._conditions: dict[tuple[str, str], tuple[str, str]] = {}
        self._update_id = ""
        self._pipeline = ""
        self._is_continuous = False
        self._is_open = False
        self._at = ""

    def apply(self, event: Mapping[str, Any]) -> list[RunEvent]:
        """Return the run events that follow from one more event."""
        self._at = event["timestamp"]
        details = event["details"].get(event["event_type"]) or {}
        return list(self._runs(event, details))

    def _runs(self, event: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[RunEvent]:
        origin = event["origin"]
        match event["event_type"]:
            case "create_update":
                self._update_id, self._pipeline = origin["update_id"], origin["pipeline_name"]
                self._is_continuous = bool((details.get("config") or {}).get("continuous"))
                self._is_open = True
                yield self._of_update(RunState.START)
            case "dataset_definition":
                for rule in details.get("expectations", ()):
                    self._conditions[origin["dataset_name"], rule["name"]] = (rule["condition"], rule["action"])
            case "flow_definition":
                self._define(origin, details)
            case "flow_progress":
                yield from self._flow_progress(event, details)
            case "update_progress" if details.get("state") in _ENDS and self._is_open:
                yield from self._end(details["state"], event)

    def _define(self, origin: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        output = details.get("output_dataset") or details.get("output_sink") or origin["flow_name"]
        self._flows[output, origin["flow_name"]] = _Flow(
            name=origin["flow_name"],
            output=output,
            inputs=tuple(details.get("input_datasets", ())),
            is_view=details.get("flow_type") == "VIEW",
        )
        if details.get("schema"):
            self._schemas[output] = details["schema"]

    # -- flows

    def _flow_progress(self, event: Mapping[str, Any], details: Mapping[str, Any]) -> Iterator[RunEvent]:
        origin, status = event["origin"], details.get("status")
        output = origin.get("dataset_name") or origin.get("sink_name") or origin["flow_name"]
        name = origin.get("flow_name") or output
        flow = self._flows.setdefault((output, name), _Flow(name=name, output=output))
        if flow.is_view or flow.has_ended or status in ("QUEUED", "EXCLUDED"):
            return
        if not flow.is_open:
            flow.is_open, flow.told_at = True, datetime.fromisoformat(self._at)
            yield self._of_flow(flow, RunState.START)
        _add(flow, details)
        if status in _FLOW_ENDS and "retry" not in details:
            yield from self._end_flow(flow, _FLOW_ENDS[status], _message(event))
        elif details.get("metrics") and self._is_due(flow):
            yield self._of_flow(flow, RunState.RUNNING)

    def _is_due(self, flow: _Flow) -> bool:
        now = datetime.fromisoformat(self._at)
        if flow.told_at is not None and now - flow.told_at < RUNNING_EVERY:
            return False
        flow.told_at = now
        return True

    def _end_flow(self, flow: _Flow, state: RunState, error: str | None) -> Iterator[RunEvent]:
        flow.has_ended = True
        if flow.rules:
            yield self._of_rules(flow, RunState.START)
            yield self._of_rules(flow, RunState.COMPLETE)
        yield self._of_flow(flow, state, error=error)

    def _end(self, state: str, event: Mapping[str, Any]) -> Iterator[RunEvent]:
        """End the update, and the flows that had not ended: those of a continuous update, and what it interrupted."""
        for flow in self._flows.values():
            if flow.is_open and not flow.has_ended:
                yield from self._end_flow(flow, RunState.COMPLETE if state == "COMPLETED" else RunState.ABORT, None)
        self._is_open = False
        yield self._of_update(_ENDS[state], error=_message(event))

    # -- run events

    def _of_update(self, state: RunState, *, error: str | None = None) -> RunEvent:
        run = Run(runId=self._update_id, facets=self._run_facets(state, error))
        return self._event(state, run, self._job(self._pipeline, "PIPELINE"))

    def _of_flow(self, flow: _Flow, state: RunState, *, error: str | None = None) -> RunEvent:
        run = Run(runId=self._run_id("flow", flow), facets={**self._parent(), **self._run_facets(state, error)})
        has_counts = state is not RunState.START and flow.written_rows is not None
        counts = OutputStatisticsOutputDatasetFacet(
            rowCount=flow.written_rows, size=flow.written_bytes, producer=PRODUCER
        )
        facets: dict[str, OutputDatasetFacet] = {"outputStatistics": counts} if has_counts else {}
        namespace, name = self._name(flow.output)
        output = OutputDataset(namespace=namespace, name=name, facets=self._schema(flow.output), outputFacets=facets)
        inputs = []
        for label in dict.fromkeys(self._read_by(flow)):
            namespace, name = self._name(label)
            inputs.append(InputDataset(namespace=namespace, name=name, facets=self._schema(label)))
        return self._event(
            state, run, self._job(f"{self._pipeline}.{flow.name}", "FLOW"), inputs=inputs, outputs=[output]
        )

    def _of_rules(self, flow: _Flow, state: RunState) -> RunEvent:
        run = Run(runId=self._run_id("expectations", flow), facets={**self._parent(), **self._run_facets(state, None)})
        namespace, name = self._name(flow.output)
        found = [self._assertion(flow, *key, counts) for key, counts in flow.rules.items()]
        facet = assertions.DataQualityAssertionsDatasetFacet(assertions=found, producer=PRODUCER)
        checked = InputDataset(
            namespace=namespace,
            name=name,
            facets=self._schema(flow.output),
            inputFacets={"dataQualityAssertions": facet} if state is RunState.COMPLETE else {},
        )
        return self._event(
            state, run, self._job(f"{self._pipeline}.{flow.name}.expectations", "TEST"), inputs=[checked]
        )

    def _assertion(self, flow: _Flow, dataset: str, rule: str, counts: Counts) -> assertions.Assertion:
        condition, action = self._conditions.get((dataset, rule), (None, None))
        return assertions.Assertion(
            assertion="expectation",
            success=counts["failed"] == 0,
            severity="error" if action == "FAIL" else "warn",
            name=rule,
            description=f"a rule of the view {dataset}" if dataset != flow.output else None,
            expected="0",
            actual=str(counts["failed"]),
            content=condition,
            contentType="sql" if condition else None,
            params={"action": action, "passed_records": counts["passed"], "failed_records": counts["failed"]},
        )

    def _event(self, state: RunState, run: Run, job: Job, **datasets: Any) -> RunEvent:
        return RunEvent(eventType=state, eventTime=self._at, run=run, job=job, producer=PRODUCER, **datasets)

    def _job(self, name: str, kind: str) -> Job:
        processing = "STREAMING" if self._is_continuous and kind != "TEST" else "BATCH"
        facets: dict[str, JobFacet] = {
            "jobType": JobTypeJobFacet(
                processingType=processing, integration="LAKELET", jobType=kind, producer=PRODUCER
            )
        }
        return Job(namespace=self._namespace, name=name, facets=facets)

    def _run_facets(self, state: RunState, error: str | None) -> dict[str, RunFacet]:
        facets: dict[str, RunFacet] = {}
        if state is RunState.START:
            facets["processing_engine"] = ProcessingEngineRunFacet(
                version=self._version, name="lakelet", openlineageAdapterVersion=self._version, producer=PRODUCER
            )
        if error is not None:
            facets["errorMessage"] = ErrorMessageRunFacet(
                message=error, programmingLanguage="PYTHON", producer=PRODUCER
            )
        return facets

    def _parent(self) -> dict[str, RunFacet]:
        run, name = self._update_id, self._pipeline
        return {
            "parent": parent_run.ParentRunFacet(
                run=parent_run.Run(runId=run),
                job=parent_run.Job(namespace=self._namespace, name=name),
                root=parent_run.Root(
                    run=parent_run.RootRun(runId=run), job=parent_run.RootJob(namespace=self._namespace, name=name)
                ),
                producer=PRODUCER,
            )
        }

    def _run_id(self, kind: str, flow: _Flow) -> str:
        return str(uuid.uuid5(uuid.UUID(self._update_id), f"{kind}:{flow.output}:{flow.name}"))

    # -- datasets

    def _read_by(self, flow: _Flow, *, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """Return what a flow reads, views resolved."""
        for label in flow.inputs:
            views = [one for one in self._flows.values() if one.is_view and one.output == label]
            if not views or label in seen:
                yield label
            for view in views if label not in seen else ():
                yield from self._read_by(view, seen=seen | {label})

    def _name(self, label: str) -> tuple[str, str]:
        """Return namespace and name: of files their path, of tables their full name."""
        path = label.partition(":")[2] or label
        if "/" in path:
            return "file", path
        try:
            return self._namespace, str(self._names.resolve(label))
        except LakeletError:  # no table's name
            return self._namespace, label

    def _schema(self, label: str) -> dict[str, Any]:
        columns = self._schemas.get(label)
        if not columns:
            return {}
        fields = [
            SchemaDatasetFacetFields(name=column["name"], type=column["type"], ordinal_position=number)
            for number, column in enumerate(columns, start=1)
        ]
        return {"schema": SchemaDatasetFacet(fields=fields, producer=PRODUCER)}


def _add(flow: _Flow, details: Mapping[str, Any]) -> None:
    """Add the counts of one micro-batch."""
    metrics = details.get("metrics") or {}
    written = [metrics[key] for key in ("num_output_rows", "num_upserted_rows", "num_deleted_rows") if key in metrics]
    if written:
        flow.written_rows = (flow.written_rows or 0) + sum(written)
    if "num_output_bytes" in metrics:
        flow.written_bytes = (flow.written_bytes or 0) + metrics["num_output_bytes"]
    for rule in (details.get("data_quality") or {}).get("expectations", ()):
        counts = flow.rules.setdefault((rule["dataset"], rule["name"]), {"passed": 0, "failed": 0})
        counts["passed"] += rule["passed_records"]
        counts["failed"] += rule["failed_records"]


def _message(event: Mapping[str, Any]) -> str | None:
    exceptions = (event.get("error") or {}).get("exceptions") or ()
    if exceptions:
        return str(exceptions[0]["message"])
    return str(event["message"]) if event["level"] == "ERROR" else None
