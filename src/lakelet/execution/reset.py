"""Starting datasets, or single flows, anew: first a plan that says what goes, then the deed.

    a dataset   its table, what AUTO CDC and its operators remember, and its checkpoints go; the next update fills it again
    a flow      its checkpoint goes and the table keeps its rows; the next update appends what the sources still have

Both begin with one small file that moves the checkpoint to a new epoch, and with it the id of the receipts. So a reset that
dies half-way leaves a dataset that the next update refreshes from the start, never one that looks done or is written twice.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lakelet.errors import GraphError, LakeletError, StorageError, did_you_mean, raise_all
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.execution.checkpoint import (
    batches_in_use,
    checkpoint_folders,
    file_name,
    flow_name,
    read_derived,
    read_generation,
    start_epoch,
    start_generation,
)
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import Dataset, DatasetKind, reset_allowed
from lakelet.names import TableName
from lakelet.places import place, remove_folder
from lakelet.storage.base import TableStore
from lakelet.storage.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetReset:
    """A dataset that starts anew.

    Attributes:
        tables: locations of the tables that are dropped.
        rows: of the dataset's own table, None if it cannot be read.
        readers: flows that read the table as a stream and do not start anew with it: they will fail.
        is_declared: False for a dataset that is no longer in the code.
    """

    dataset: str
    checkpoint: str
    tables: tuple[str, ...]
    rows: int | None
    readers: tuple[str, ...] = ()
    is_declared: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON-ready values."""
        return {"kind": "dataset", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointReset:
    """A flow whose checkpoint starts anew.

    Attributes:
        batches: micro-batches that it has committed; their rows stay in the table.
    """

    flow: str
    dataset: str
    checkpoint: str
    batches: int

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON-ready values."""
        return {"kind": "checkpoint", **asdict(self)}


ResetStep = DatasetReset | CheckpointReset


def plan_reset(
    graph: DataflowGraph, catalog: Catalog, store: TableStore, *, datasets: Sequence[str], flows: Sequence[str]
) -> tuple[ResetStep, ...]:
    """Return what starts anew; every wrong name is reported at once.

    Args:
        catalog: the graph's, which knows the places of its tables.
        datasets: tables; those that are no longer in the code are found by what they have left in the storage folder.
        flows: flows, or datasets with one flow.

    Raises:
        GraphError: `UNKNOWN_DATASET`, `UNKNOWN_FLOW`, `DATASET_NOT_STORED`, `FULL_REFRESH_NOT_ALLOWED`,
            `FLOW_WITHOUT_CHECKPOINT`.
    """
    steps: list[ResetStep] = []
    errors: list[LakeletError] = []
    for text in dict.fromkeys(datasets):
        try:
            steps.append(_dataset_reset(graph, catalog, store, text))
        except LakeletError as error:
            errors.append(error)
    for text in dict.fromkeys(flows):
        try:
            steps.append(_checkpoint_reset(graph, catalog, find_flow(graph, text)))
        except LakeletError as error:
            errors.append(error)
    raise_all(errors)
    gone = [step.checkpoint for step in steps if isinstance(step, DatasetReset)]
    return tuple(
        replace(step, readers=_readers(catalog, step, gone)) if isinstance(step, DatasetReset) else step
        for step in steps
    )


def apply_reset(catalog: Catalog, store: TableStore, steps: Sequence[ResetStep]) -> None:
    """Do what a plan says; the caller holds the pipeline's lock.

    Raises:
        StorageError: `CHECKPOINT_NOT_WRITABLE`, `STORAGE_NOT_WRITABLE`.
    """
    for step in steps:
        match step:
            case DatasetReset():
                folder = place(step.checkpoint)
                with _corrupt_ignored():  # no update goes on with such a checkpoint, until its folder is gone
                    start_generation(folder)
                for location in step.tables:
                    store.drop(location)
                remove_folder(folder)
            case CheckpointReset():
                folder = place(step.checkpoint).parent
                start_epoch(folder, step.flow, read_generation(folder))


def announce(events: EventBus, step: ResetStep) -> None:
    """Note a reset in the event log."""
    match step:
        case DatasetReset():
            gone = f"; flows that read it as a stream will fail: {', '.join(step.readers)}" if step.readers else ""
            kinds.warning(
                events,
                f"`{step.dataset}` was reset: its table and its checkpoints are gone{gone}",
                dataset=step.dataset,
            )
        case CheckpointReset():
            announce_checkpoint_reset(events, step.flow, step.dataset)


def announce_checkpoint_reset(events: EventBus, flow: str, dataset: str) -> None:
    """Note in the event log that a flow reads its sources from the start."""
    kinds.warning(
        events,
        f"Flow '{flow}': its checkpoint was reset: it reads its sources from the start, and `{dataset}` keeps its rows",
        flow=flow,
        dataset=dataset,
    )


def find_flow(graph: DataflowGraph, text: str) -> ResolvedFlow:
    """Return the flow that a user names, by its own name or by that of a dataset that has no other flow.

    Raises:
        GraphError: `UNKNOWN_FLOW`, and `FLOW_WITHOUT_CHECKPOINT` for one that notes nothing of what it has read.
    """
    stored = [flow for dataset in graph.runnable() for flow in graph.flows_to(dataset.name)]
    found = [flow for flow in stored if flow.name == text]
    if not found:
        key = graph.names.resolve(text).key
        found = [flow for flow in stored if flow.target.key == key]
    if len(found) != 1:
        names = [flow.name for flow in found or stored]
        near = did_you_mean(text, names)
        raise GraphError(
            "UNKNOWN_FLOW",
            f"`{text}` has {len(found)} flows" if found else f"the pipeline has no flow `{text}`",
            hint=f"did you mean `{near}`?" if near and not found else f"name one of {', '.join(names)}",
        )
    [flow] = found
    if graph.dataset(flow.target).kind is DatasetKind.MATERIALIZED_VIEW:
        raise GraphError(
            "FLOW_WITHOUT_CHECKPOINT",
            f"`{text}` is a materialized view, and its flow has no checkpoint",
            hint=f"compute it anew with `lakelet run --full-refresh {graph.display(flow.target)}`",
        )
    return flow


# -- the steps ----------------------------------------------------------------------------------------------------


def _dataset_reset(graph: DataflowGraph, catalog: Catalog, store: TableStore, text: str) -> DatasetReset:
    name, declared = _table(graph, catalog, text)
    folder = catalog.checkpoint(name)
    recorded = read_derived(folder / "definition.json")
    properties = declared.table_properties if declared else recorded.get("properties", {})
    if not reset_allowed(properties):
        raise GraphError(
            "FULL_REFRESH_NOT_ALLOWED",
            f"`{graph.display(name)}` must not start anew",
            origin=declared.origin if declared else None,
            cause="its table property `pipelines.reset.allowed` is false",
            hint="remove the property first",
        )
    own = catalog.location(name) if declared else catalog.absolute(recorded.get("location", catalog.location(name)))
    rows = None
    with contextlib.suppress(StorageError):  # what cannot be read may be what the reset is for
        table = store.open(own)
        rows = 0 if table is None else table.size().rows
    return DatasetReset(
        dataset=graph.display(name),
        checkpoint=str(folder),
        tables=tuple(location for location in (own, catalog.auxiliary(name)) if place(location).exists()),
        rows=rows,
        is_declared=declared is not None,
    )


def _table(graph: DataflowGraph, catalog: Catalog, text: str) -> tuple[TableName, Dataset | None]:
    """Return the table that a user names, and its declaration unless it is no longer in the code."""
    try:
        dataset = graph.find(text)
    except GraphError:
        name = graph.names.resolve(text)
        if not catalog.checkpoint(name).is_dir():
            raise
        return name, None
    if dataset.kind is DatasetKind.TEMPORARY_VIEW or dataset.kind is DatasetKind.SINK:
        flows = ", ".join(f"`{flow.name}`" for flow in graph.flows_to(dataset.name))
        is_sink = dataset.kind is DatasetKind.SINK
        raise GraphError(
            "DATASET_NOT_STORED",
            f"`{text}` is a {dataset.kind.label} and has no table of the pipeline's own",
            hint=f"let a flow into it start anew: `--checkpoint` with {flows}"
            if is_sink
            else "name a table that reads it",
        )
    return dataset.name, dataset


def _checkpoint_reset(graph: DataflowGraph, catalog: Catalog, flow: ResolvedFlow) -> CheckpointReset:
    folder = catalog.checkpoint(flow.target)
    batches: dict[str, int] = {}
    with _corrupt_ignored():
        for place, last, _ in batches_in_use(folder, read_generation(folder)):
            batches[flow_name(place.parent.name)] = 0 if last is None else last.id + 1
    return CheckpointReset(
        flow=flow.name,
        dataset=graph.display(flow.target),
        checkpoint=str(folder / file_name(flow.name)),
        batches=batches.get(flow.name, 0),
    )


def _readers(catalog: Catalog, step: DatasetReset, gone: Sequence[str]) -> tuple[str, ...]:
    """Return the flows that have read the table of a dataset as a stream, and are not among those that start anew."""
    if not step.tables:
        return ()
    location = catalog.relative(step.tables[0])
    found: list[str] = []
    for folder in checkpoint_folders(catalog):
        if str(folder) not in gone:
            with _corrupt_ignored():
                found += [
                    flow_name(place.parent.name)
                    for place, last, _ in batches_in_use(folder, read_generation(folder))
                    if last is not None and location in last.tables.values()
                ]
    return tuple(found)


@contextlib.contextmanager
def _corrupt_ignored() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        if error.condition != "CHECKPOINT_CORRUPT":
            raise
