"""The query of one micro-batch, ready for the engine: its slices, its state, the rules of its views."""

from __future__ import annotations

from collections.abc import Iterable

from lakelet.errors import SourceError
from lakelet.execution.binding import BoundQuery, ViewRows
from lakelet.execution.checkpoint import Batch, Checkpoint
from lakelet.execution.context import UpdateContext
from lakelet.execution.expectations import Quality, check_view
from lakelet.execution.stateful import StatefulBatch, check_row_wise, run_operator
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.plan.relation import Relation


def checked_query(
    context: UpdateContext, flow: ResolvedFlow, batch: Batch, quality: Quality, checkpoint: Checkpoint, *, keep: bool
) -> tuple[BoundQuery, StatefulBatch | None]:
    """Return the query of a batch, the rules of the views that it reads already counted, and what its state went through.

    Args:
        keep: commit what the batch adds to the state.
    """
    part = context.stateful(flow)
    slices = batch_slices(context, flow, batch)
    versions = {context.catalog.absolute(text): version for text, version in batch.versions.items()}
    origin = context.origin(flow)
    step = None
    if part is None:
        check_row_wise(checkpoint, context.display(flow.target))
    else:
        inputs = context.binder.bind_inputs(flow.relation, origin, slices=slices, versions=versions)
        _check_views(context, inputs.views, quality)
        step = run_operator(context, flow, part, inputs, batch, checkpoint, keep=keep)
    bound = context.binder.bind(
        flow.relation,
        origin,
        slices=slices,
        versions=versions,
        emitted=None if step is None else step.emitted,
    )
    _check_views(context, bound.views, quality)
    return bound, step


def _check_views(context: UpdateContext, views: Iterable[ViewRows], quality: Quality) -> None:
    for view in views:
        check_view(view, context.display(view.view.name), context.engine, quality)


def batch_slices(context: UpdateContext, flow: ResolvedFlow, batch: Batch) -> dict[str, Relation]:
    """Return the rows of each stream that the batch's intent records."""
    slices: dict[str, Relation] = {}
    for item in context.inputs(flow).streams.values():
        recorded = batch.sources.get(item.id)
        source = context.source(flow, item)
        if recorded is None:
            raise SourceError(
                "CHECKPOINT_SOURCE_MISSING",
                f"the flow `{flow.name}` reads `{item.id}`, which its unfinished batch does not know",
                origin=context.origin(flow),
                hint=f"run once with the query as it was, or `lakelet run --full-refresh {context.display(flow.target)}`",
            )
        slices[item.id] = source.rows(recorded["start"], recorded["end"], metadata=item.metadata)
    return slices
