"""Poison rows: what stops a flow for good, and how to step over it on the record."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lakelet.errors import LakeletError
from lakelet.events import kinds
from lakelet.execution.binding import Binder
from lakelet.execution.checkpoint import Batch, Checkpoint
from lakelet.execution.context import UpdateContext
from lakelet.execution.flows import rehearse_batch, run_batch
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Action, Dataset, SnapshotCdcFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class UnfinishedBatch:
    """A batch that a flow began and did not finish.

    Attributes:
        error: why it cannot be finished; None if the next update will.
        stepped_over: its invalid rows have been dropped, and the rest is in the table.
    """

    flow: str
    dataset: str
    batch: Batch
    error: LakeletError | None
    stepped_over: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the batch as JSON-ready values."""
        return {
            "flow": self.flow,
            "dataset": self.dataset,
            "batch": self.batch.to_json(),
            "error": None if self.error is None else {"condition": self.error.condition, "message": str(self.error)},
            "stepped_over": self.stepped_over,
        }


def repair_dataset(context: UpdateContext, dataset: Dataset, *, drop_rows: bool) -> tuple[UnfinishedBatch, ...]:
    """Look at the unfinished batches of a dataset's flows, and finish those that invalid rows keep from it if asked to.

    Args:
        drop_rows: write the batch without the rows that violate a fail rule, or that AUTO CDC cannot apply. This is done
            for the batch that is stuck and for no other, and is noted in the event log with the counts.
    """
    found: list[UnfinishedBatch] = []
    for flow in context.graph.flows_to(dataset.name):
        checkpoint = Checkpoint(context.catalog.checkpoint(dataset.name), flow.name, context.generation(dataset.name))
        batch = checkpoint.unfinished()
        if batch is None or isinstance(flow.flow, SnapshotCdcFlow):  # a snapshot is taken anew by the next update
            continue
        error = _reason(context, flow, dataset, checkpoint, batch)
        display = context.display(dataset.name)
        if error is not None and drop_rows:
            _step_over(context, flow, dataset, checkpoint, batch, error)
        found.append(
            UnfinishedBatch(
                flow=flow.name, dataset=display, batch=batch, error=error, stepped_over=drop_rows and error is not None
            )
        )
    return tuple(found)


def _reason(
    context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint, batch: Batch
) -> LakeletError | None:
    try:
        rehearse_batch(context, flow, dataset, checkpoint, batch)
    except LakeletError as error:
        return error.at(context.origin(flow))
    return None


def _step_over(
    context: UpdateContext,
    flow: ResolvedFlow,
    dataset: Dataset,
    checkpoint: Checkpoint,
    batch: Batch,
    error: LakeletError,
) -> None:
    kinds.warning(
        context.events,
        f"Flow '{flow.name}': batch {batch.id} is finished without its invalid rows, as asked: {error}",
        flow=flow.name,
        dataset=context.display(dataset.name),
    )
    resolver = replace(
        context.resolver, datasets={key: _relaxed(item) for key, item in context.resolver.datasets.items()}
    )
    relaxed = replace(context, resolver=resolver, binder=Binder(resolver), drop_invalid=True)
    run_batch(relaxed, flow, _relaxed(dataset), checkpoint, batch, is_replay=True)


def _relaxed(dataset: Dataset) -> Dataset:
    """Return the dataset with its fail rules turned into drop rules."""
    rules = tuple(
        replace(rule, action=Action.DROP) if rule.action is Action.FAIL else rule for rule in dataset.expectations
    )
    return replace(dataset, expectations=rules)
