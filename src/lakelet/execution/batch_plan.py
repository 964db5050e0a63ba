"""The next micro-batch of a flow: what it reads, and what waits after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lakelet.errors import LakeletError
from lakelet.events import kinds
from lakelet.execution.checkpoint import Batch, Checkpoint
from lakelet.execution.context import UpdateContext
from lakelet.execution.diagnosis import missing_table
from lakelet.execution.sources import Backlog, Skipped, Slice
from lakelet.execution.stateful import plan_state
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.storage.delta_log import latest_version


def plan_batch(context: UpdateContext, flow: ResolvedFlow, checkpoint: Checkpoint) -> Batch | None:
    """Return the next batch of a flow, or None if nothing is new.

    Its clock is never before that of the batch before it, even if the machine's clock was set back.

    The first batch after a full refresh is planned even without input: it empties the table. So is one that only closes
    what the watermark has passed.
    """
    committed = checkpoint.committed()
    inputs = context.inputs(flow)
    slices: dict[str, Slice] = {}
    for item in inputs.streams.values():
        after = committed.sources.get(item.id, {}).get("end") if committed else None
        slices[item.id] = context.source(flow, item).plan(after, context.head(flow, item))
    is_first = committed is None
    nothing_new = all(piece.is_empty for piece in slices.values())
    starts_generation = is_first and checkpoint.generation > 0
    part = context.stateful(flow)
    state, is_due = plan_state(part, checkpoint, context.display(flow.target)) if part else ({}, False)
    is_batch = flow.flow.once and not flow.streaming
    if not is_batch and nothing_new and not starts_generation and not is_due:
        return None
    for name, piece in slices.items():
        if piece.skipped is not None:
            kinds.warning(
                context.events,
                f"Flow '{flow.name}', which reads `{name}`, left out {piece.skipped}",
                flow=flow.name,
                dataset=context.display(flow.target),
            )
    return Batch(
        id=checkpoint.next_id,
        at=max(context.clock(), committed.at) if committed is not None else context.clock(),
        sources={name: _intent_of(piece) for name, piece in slices.items()},
        tables={
            item.id: context.catalog.relative(location)
            for item in inputs.streams.values()
            if item.source.read is None and (location := context.resolver.location(item.source)) is not None
        },
        versions={
            context.catalog.relative(location): version
            for location, version in pinned_versions(context, inputs.locations).items()
        },
        state=state,
    )


def _intent_of(piece: Slice) -> dict[str, Any]:
    """Return what a batch's intent records of one source."""
    skipped = {} if piece.skipped is None else {"skipped": piece.skipped.to_json()}
    return {"start": piece.start, "end": piece.end, **skipped}


def backlog_after(context: UpdateContext, flow: ResolvedFlow, batch: Batch) -> Backlog | None:
    """Return what the sources of a flow had when they were looked at, and this batch and those before it did not read."""
    total: Backlog | None = None
    for item in context.inputs(flow).streams.values():
        after = batch.sources.get(item.id, {}).get("end")
        try:
            found = None if after is None else context.source(flow, item).backlog(after, context.head(flow, item))
        except (LakeletError, OSError):  # a replay does without looking; the next batch says what is wrong
            found = None
        if found is not None and total is not None:
            sizes = (total.num_bytes, found.num_bytes)
            known = None if None in sizes else sum(size or 0 for size in sizes)
            found = Backlog(num_files=total.num_files + found.num_files, num_bytes=known)
        total = found or total
    return total


def num_skipped_rows(batch: Batch) -> int | None:
    """Return how many rows the sources of a batch left out on the user's word, None if no commit was left out."""
    skipped = [Skipped.from_json(found["skipped"]) for found in batch.sources.values() if "skipped" in found]
    return sum(item.num_rows for item in skipped) if skipped else None


def pinned_versions(context: UpdateContext, locations: Mapping[str, str]) -> dict[str, int]:
    """Return the version at which each table beside the stream is read.

    Raises:
        SourceError: `DELTA_TABLE_NOT_FOUND`.
    """
    versions: dict[str, int] = {}
    for location, label in locations.items():
        version = context.versions[location] if location in context.versions else latest_version(location)
        if version is None:
            raise missing_table(label, location)
        versions[location] = version
    return versions
