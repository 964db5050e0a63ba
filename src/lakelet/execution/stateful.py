"""One micro-batch of a flow whose query remembers rows: split at the operator, run it, keep what it wants to remember.

    below the operator   row by row over the slice, evaluated once: collected here, or written to files by a cluster
    the operator         those rows and the state before the batch; its state is committed first, with the batch's receipt
    above the operator   row by row over what it gives; rows and receipt go to the target in one commit, the note comes last

The intent records the watermark and the version of each state table, so a replay computes the same rows. A crash after the
state's commit is repaired by it: the receipt in the state table says that the batch's rows are there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakelet.execution import stateful_cluster, stateful_cluster_join
from lakelet.execution.binding import BoundInputs
from lakelet.execution.checkpoint import FORMAT, Batch, Checkpoint, read_json, write_json
from lakelet.execution.staged_rows import Staging, forget_staged, staged_batch
from lakelet.execution.state import StateTables, state_behind, state_elsewhere, state_mismatch
from lakelet.execution.stateful_aggregate import aggregate, with_event_key
from lakelet.execution.stateful_cluster import ClusterStep
from lakelet.execution.stateful_dedupe import deduplicate
from lakelet.execution.stateful_join import SIDES, join
from lakelet.execution.stateful_part import StatefulPart
from lakelet.execution.stateful_step import Emission, Step
from lakelet.execution.watermark import Thresholds, advanced, latest, next_thresholds
from lakelet.places import Place
from lakelet.plan import relation as plan
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.relation import Relation
from lakelet.plan.stateful import Operator
from lakelet.storage.base import Receipt
from lakelet.storage.delta_log import latest_version

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.dataflow_graph import ResolvedFlow

TABLES = {
    Operator.DEDUPLICATE: ("keys",),
    Operator.DEDUPLICATE_WITHIN_WATERMARK: ("keys",),
    Operator.AGGREGATE: ("rows",),
    Operator.JOIN: ("left", "right", "matched_left", "matched_right"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StatefulBatch:
    """What the operator of a flow made of a batch.

    Attributes:
        emitted: its rows, for the query above it.
        num_input_rows: rows that reached it.
        watermarks: of each stream, after this batch.
        names: of its state tables.
    """

    emitted: Relation
    num_input_rows: int
    num_late_rows: int
    thresholds: Thresholds
    watermarks: Mapping[str, int | None]
    tables: StateTables
    names: tuple[str, ...]
    checkpoint: Checkpoint

    def note(self) -> dict[str, Any]:
        """Return what the batch's note says for the next one."""
        versions = {name: latest_version(self.tables.location(name)) for name in self.names}
        return {"watermarks": dict(self.watermarks), "state": versions}

    def num_state_rows(self) -> int:
        return sum(self.tables.num_rows(name) for name in self.names)

    def tidy(self) -> None:
        """Put the state's files together; only after the note, when no replay needs older versions."""
        # Of a bucket it takes two requests to find nothing.
        if self.tables.in_cluster or isinstance(self.checkpoint.folder, Path):
            forget_staged(self.checkpoint)
        for name in self.names:
            self.tables.tidy(name, after=self.thresholds.now)


def plan_state(part: StatefulPart, checkpoint: Checkpoint, dataset: str) -> tuple[dict[str, Any], bool]:
    """Return what the intent of the next batch records of the state, and whether the batch is due even without input.

    Raises:
        StorageError: `STATE_TABLE_BEHIND_CHECKPOINT`.
    """
    before = checkpoint.committed()
    details = checkpoint.details()
    known = Thresholds.from_json(before.state.get("watermark", {})) if before else Thresholds()
    thresholds = next_thresholds(known, details.get("watermarks", {}), streams=len(part.watermarks))
    folder = state_folder(checkpoint)
    versions = {name: latest_version(str(folder / name)) for name in TABLES[part.operator]}
    noted = {name: version for name, version in details.get("state", {}).items() if version is not None}
    for name, version in noted.items():
        if (found := versions.get(name)) is None or found < version:
            raise state_behind(dataset, str(folder / name), found, version)
    is_due = before is not None and not part.is_complete and thresholds.advances
    return {"watermark": thresholds.to_json(), "versions": versions}, is_due


def run_operator(
    context: UpdateContext,
    flow: ResolvedFlow,
    part: StatefulPart,
    inputs: BoundInputs,
    batch: Batch,
    checkpoint: Checkpoint,
    *,
    keep: bool,
) -> StatefulBatch:
    """Run the operator of a flow for one batch.

    Args:
        keep: commit what it remembers; False for a rehearsal.

    Raises:
        StorageError: `STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA`, `STATE_TABLE_BEHIND_CHECKPOINT`,
            `STATE_OF_ANOTHER_ENGINE`.
    """
    display = context.display(flow.target)
    thresholds = Thresholds.from_json(batch.state.get("watermark", {}))
    queries = inputs.rows
    if part.operator is Operator.AGGREGATE:
        queries = (with_event_key(part, queries[0]),)
    tables = StateTables(
        store=context.store,
        engine=context.engine,
        folder=state_folder(checkpoint),
        versions=batch.state.get("versions", {}),
        receipt=Receipt(app_id=context.app_id(flow, checkpoint.epoch), batch_id=batch.id),
        flow=display,
    )
    run = _run_in_cluster if context.engine.capabilities.cluster_writes else _run_here
    description, num_input_rows, emission = run(
        _Batch(
            context=context,
            part=part,
            queries=queries,
            thresholds=thresholds,
            tables=tables,
            checkpoint=checkpoint,
            display=display,
            keep=keep,
        )
    )
    times = [
        _latest(context, mark.column, found) for mark, found in zip(part.watermarks, inputs.watermarked, strict=True)
    ]
    if keep:
        _remember(checkpoint, description)
        for name, added in emission.state.items():
            tables.add(name, added)
    return StatefulBatch(
        emitted=emission.rows,
        num_input_rows=num_input_rows,
        num_late_rows=emission.num_late_rows,
        thresholds=thresholds,
        watermarks=advanced(checkpoint.details().get("watermarks", {}), part.watermarks, times),
        tables=tables,
        names=TABLES[part.operator],
        checkpoint=checkpoint,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """An operator and what it reads in one batch."""

    context: UpdateContext
    part: StatefulPart
    queries: Sequence[Relation]
    thresholds: Thresholds
    tables: StateTables
    checkpoint: Checkpoint
    display: str
    keep: bool

    @property
    def is_begun(self) -> bool:
        """Whether a join has remembered some rows of this batch before it was cut off."""
        return self.part.operator is Operator.JOIN and any(map(self.tables.is_begun, TABLES[Operator.JOIN]))

    def checked(self, columns: Iterable[str]) -> dict[str, str]:
        """Return what the operator is, after a look that its state is of the same one and may go on with this engine."""
        is_staged = staged_batch(self.checkpoint) == self.tables.receipt.batch_id
        if self.is_begun and is_staged != self.tables.in_cluster:
            raise state_elsewhere(self.display)
        if self.keep and is_staged and not self.tables.in_cluster:
            forget_staged(self.checkpoint)  # what is remembered from here on does not come of those rows
        description = self.part.description(list(columns))
        _check_unchanged(self.checkpoint, description, self.display)
        return description


def _run_here(batch: _Batch) -> tuple[dict[str, str], int, Emission]:
    """Run an operator over rows that are collected; returns what it is, how many rows it read, and what it makes of them."""
    engine, part = batch.context.engine, batch.part
    rows = tuple(engine.collect(query) for query in batch.queries)
    description = batch.checked(name for table in rows for name in table.column_names)
    step = Step(part=part, rows=rows, thresholds=batch.thresholds, tables=batch.tables, engine=engine)
    match part.operator:
        case Operator.DEDUPLICATE | Operator.DEDUPLICATE_WITHIN_WATERMARK:
            emission = deduplicate(step)
        case Operator.AGGREGATE:
            emission = aggregate(step)
        case Operator.JOIN:
            emission = join(step)
    return description, sum(table.num_rows for table in rows), emission


def _run_in_cluster(batch: _Batch) -> tuple[dict[str, str], int, Emission]:
    """Run an operator over rows that the cluster has written; otherwise as `_run_here`."""
    engine, part = batch.context.engine, batch.part
    read = stateful_cluster.inputs(part, batch.queries, engine)
    description = batch.checked(name for item in read for name in item.columns.names)
    staging = Staging(
        checkpoint=batch.checkpoint,
        engine=engine,
        batch_id=batch.tables.receipt.batch_id,
        query=_digest(batch.context, part),
        is_begun=batch.is_begun,
        thresholds=batch.thresholds,
    )
    names = SIDES if part.operator is Operator.JOIN else ("rows",)
    rows = staging.inputs(dict(zip(names, read, strict=True)), keep=batch.keep)
    step = ClusterStep(part=part, rows=rows, thresholds=batch.thresholds, tables=batch.tables, staging=staging)
    match part.operator:
        case Operator.DEDUPLICATE | Operator.DEDUPLICATE_WITHIN_WATERMARK:
            emission = stateful_cluster.deduplicate(step)
        case Operator.AGGREGATE:
            emission = stateful_cluster.aggregate(step)
        case Operator.JOIN:
            emission = stateful_cluster_join.join(step)
    return description, sum(item.num_input for item in rows), emission


def _digest(context: UpdateContext, part: StatefulPart) -> str:
    """Return a digest of what is below an operator: its own tree and the views that it reads, with their rules."""
    digest = hashlib.sha256(fingerprint(part.node).encode())
    for tree, rules in context.binder.view_trees(part.node, part.origin):
        digest.update(fingerprint(tree).encode())
        digest.update(repr([(rule.text, rule.action.value) for rule in rules]).encode())
    return digest.hexdigest()


def _latest(context: UpdateContext, column: str, rows: Relation) -> int | None:
    """Return the latest event time among the rows on which a watermark is declared."""
    times = plan.aggregated(rows, {"latest": plan.call("max", plan.attribute(column))})
    found: pa.Table = context.engine.collect(times)
    return latest(found.column("latest"))


def check_row_wise(checkpoint: Checkpoint, dataset: str) -> None:
    """Refuse a flow that works row by row now and had an operator with state.

    Raises:
        StorageError: `STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA`.
    """
    path = description_file(checkpoint)
    if path.is_file():
        raise state_mismatch(dataset, f"its {read_json(path)['description']['operator']} is gone")


def _check_unchanged(checkpoint: Checkpoint, now: Mapping[str, str], dataset: str) -> None:
    path = description_file(checkpoint)
    if not path.is_file():
        if checkpoint.committed_id >= 0:
            raise state_mismatch(dataset, f"its {now['operator']} is new, and the rows until now went by without it")
        return
    before: dict[str, str] = read_json(path)["description"]
    changed = [
        f"{what} changed from `{before.get(what, 'none')}` to `{now.get(what, 'none')}`"
        for what in {**before, **now}
        if before.get(what) != now.get(what)
    ]
    if changed:
        raise state_mismatch(dataset, "\n".join(changed))


def _remember(checkpoint: Checkpoint, description: Mapping[str, str]) -> None:
    path = description_file(checkpoint)
    if not path.is_file():
        write_json(path, {"format": FORMAT, "description": dict(description)})


def description_file(checkpoint: Checkpoint) -> Place:
    """Return the file that says what the operator is whose rows are remembered."""
    return checkpoint.folder / "state.json"


def state_folder(checkpoint: Checkpoint) -> Place:
    """Return the folder of the state tables of a flow in one epoch."""
    return checkpoint.folder / "state"
