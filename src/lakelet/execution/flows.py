"""The core loop: every available micro-batch of one flow, each exactly once.

A batch first writes its intent, then commits rows and receipt in one table commit, then notes that it is done. A crash
anywhere is repaired by the next run: an intent without a note is replayed as it was recorded, and a receipt found in the
table means that only the note is missing.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.errors import CdcError, StorageError
from lakelet.events import kinds
from lakelet.events.model import FlowMetrics, FlowStatus
from lakelet.execution.auto_cdc import AutoCdc, CdcResult
from lakelet.execution.auto_cdc_events import EXAMPLES, applicable, outside, where_violated
from lakelet.execution.auto_cdc_schema import keeps_values
from lakelet.execution.batch_plan import backlog_after, num_skipped_rows, plan_batch
from lakelet.execution.batch_query import checked_query
from lakelet.execution.binding import BoundQuery, ViewRows
from lakelet.execution.checkpoint import (
    FORMAT,
    STAGED,
    Batch,
    Checkpoint,
    drop_old_epochs,
    epochs,
    read_json,
    write_json,
)
from lakelet.execution.code_changes import tell_of_changes
from lakelet.execution.context import UpdateContext
from lakelet.execution.expectations import Quality, check_view
from lakelet.execution.foreign import check_commits, note_versions
from lakelet.execution.reads import plan_leaf
from lakelet.execution.sinks import tidy_sink, write_sink
from lakelet.execution.stateful import StatefulBatch
from lakelet.execution.watermark import shown
from lakelet.execution.writing import pending_rows
from lakelet.faults import reach
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Action, AutoCdcFlow, Dataset, DatasetKind
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.schema import compare, evolved, nullable


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What one batch did to the table."""

    output_rows: int | None = None
    upserted_rows: int | None = None
    deleted_rows: int | None = None


def run_flow(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> int:
    """Process every available micro-batch of a flow; returns how many there were.

    Raises:
        FlowError: the batch that failed is not in the table and is tried again by the next update.
    """
    generation = context.generation(dataset.name)
    folder = context.catalog.checkpoint(dataset.name)
    checkpoint = Checkpoint(folder, flow.name, generation, keep=context.kept_batches)
    batches = 0
    if dataset.kind is not DatasetKind.SINK:
        refuse_lost_table(context, flow, dataset, checkpoint)
    tell_of_changes(context, flow, dataset, checkpoint)
    takes_one_batch = flow.flow.once and not flow.streaming
    if (flow.flow.once and checkpoint.is_finished) or (takes_one_batch and checkpoint.committed_id >= 0):
        return 0
    while not context.stop.is_set():
        batch = checkpoint.unfinished()
        is_replay = batch is not None
        if batch is None:
            batch = plan_batch(context, flow, checkpoint)
            if batch is None:
                break
            checkpoint.write_offsets(batch)
        reach("flow.intent_written")
        run_batch(context, flow, dataset, checkpoint, batch, is_replay=is_replay)
        batches += 1
        if takes_one_batch:
            break
    if flow.flow.once and flow.streaming and not context.stop.is_set():
        checkpoint.finish()
    if batches and generation:
        drop_old_epochs(folder, generation)
    return batches


def run_batch(
    context: UpdateContext,
    flow: ResolvedFlow,
    dataset: Dataset,
    checkpoint: Checkpoint,
    batch: Batch,
    *,
    is_replay: bool,
) -> None:
    """Bring one batch into the table, unless it is there already, publish its counts, and note that it is done."""
    started = time.perf_counter()
    context = context.at(batch.at)
    app_id = context.app_id(flow, checkpoint.epoch)
    quality = context.quality(flow)
    if dataset.kind is DatasetKind.SINK:
        bound, step = checked_query(context, flow, batch, quality, checkpoint, keep=True)
        written = Written(output_rows=write_sink(context, dataset, checkpoint, batch, bound.rows))
        quality.num_rows = written.output_rows or 0
        publish_and_note(context, flow, dataset, checkpoint, batch, written, quality, step, started, is_replay)
        return
    table = context.table(dataset)
    _check_table(context, flow, table, app_id, checkpoint)
    receipt = Receipt(app_id=app_id, batch_id=batch.id)
    present = table.batch_id(app_id) >= batch.id
    bound, step = checked_query(context, flow, batch, quality, checkpoint, keep=True)
    if isinstance(flow.flow, AutoCdcFlow):
        written = _apply_changes(context, flow, dataset, table, batch, bound, receipt, quality, checkpoint)
        _note_null_rule(context, flow.flow, checkpoint)
    else:
        written = _append(context, flow, dataset, table, bound.rows, receipt, quality, present=present)
    reach("flow.rows_committed")
    publish_and_note(context, flow, dataset, checkpoint, batch, written, quality, step, started, is_replay)


def publish_and_note(
    context: UpdateContext,
    flow: ResolvedFlow,
    dataset: Dataset,
    checkpoint: Checkpoint,
    batch: Batch,
    written: Written,
    quality: Quality,
    step: StatefulBatch | None,
    started: float,
    is_replay: bool,
) -> None:
    """Publish the counts of a batch that is in its target, and note that it is done."""
    app_id = context.app_id(flow, checkpoint.epoch)
    backlog = backlog_after(context, flow, batch)
    kinds.flow_progress(
        context.events,
        flow=flow.name,
        dataset=context.display(dataset.name),
        status=FlowStatus.RUNNING,
        batch_id=batch.id,
        metrics=FlowMetrics(
            backlog_bytes=None if backlog is None else backlog.num_bytes,
            backlog_files=None if backlog is None else backlog.num_files,
            num_input_rows=quality.num_rows if step is None else step.num_input_rows,
            num_output_rows=written.output_rows,
            num_upserted_rows=written.upserted_rows,
            num_deleted_rows=written.deleted_rows,
            duration_ms=round((time.perf_counter() - started) * 1000, 1),
            num_skipped_rows=num_skipped_rows(batch),
            num_rows_dropped_by_watermark=None if step is None else step.num_late_rows,
            num_state_rows=None if step is None else step.num_state_rows(),
            watermark=None if step is None else shown(step.thresholds.now),
        ),
        quality=quality.result,
        event_id=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{app_id}/{batch.id}")),
        is_replay=is_replay,
    )
    reach("flow.batch_published")
    versions = {} if dataset.kind is DatasetKind.SINK else note_versions(context, dataset, checkpoint)
    checkpoint.write_commit(batch, versions | (step.note() if step else {}), durable=dataset.kind is DatasetKind.SINK)
    reach("flow.commit_noted")
    if dataset.kind is DatasetKind.SINK:
        tidy_sink(context, dataset, checkpoint)
    if step is not None:
        step.tidy()


def rehearse_batch(
    context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint, batch: Batch
) -> None:
    """Do everything that a batch does but write.

    Raises:
        FlowError: why the batch cannot be finished.
    """
    context = context.at(batch.at)
    quality = Quality()
    bound, _ = checked_query(context, flow, batch, quality, checkpoint, keep=False)
    display = context.display(dataset.name)
    if isinstance(flow.flow, AutoCdcFlow):
        changes = _valid_changes(context, dataset, bound.rows, quality)
        _check_where(context, flow.flow, changes)
        _applier(context, flow.flow, flow, dataset, batch.at, checkpoint).check(changes)
        return
    pending_rows(context.engine, bound.rows, dataset, display, quality).count()


def _append(
    context: UpdateContext,
    flow: ResolvedFlow,
    dataset: Dataset,
    table: Table,
    rows: Relation,
    receipt: Receipt,
    quality: Quality,
    *,
    present: bool,
) -> Written:
    display = context.display(dataset.name)
    pending = pending_rows(context.engine, rows, dataset, display, quality)
    if present:
        return Written(output_rows=pending.count())
    is_fresh = starts_generation(context, flow, dataset, table, receipt)
    columns = check_columns(context, flow, dataset, pending.schema, stored=None if is_fresh else table.schema)
    part = context.stateful(flow)
    if is_fresh or (part is not None and part.is_complete):
        partitions = dataset.partition_cols if is_fresh else None
        return Written(output_rows=pending.replace(table, columns, receipt=receipt, partition_cols=partitions))
    return Written(output_rows=pending.append(table, receipt=receipt, evolve=len(columns) > len(table.schema)))


def check_columns(
    context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, incoming: pa.Schema, *, stored: pa.Schema | None
) -> pa.Schema:
    """Return the columns that the table will have with these rows.

    Args:
        stored: columns of the table as it is; None where its rows, and with them its columns, are replaced.

    Raises:
        StorageError: `DATASET_SCHEMA_MISMATCH` for a type that the stored column cannot hold, and for a column that the
            declared schema does not have.
    """
    declared = None
    if dataset.schema is not None or stored is None:
        declared = nullable(to_arrow_schema(context.resolver.schema(dataset.name), timezone="UTC"))
    base = declared if stored is None else stored
    assert base is not None
    change = compare(base, incoming)
    known = {name.lower() for name in declared.names} if declared is not None and dataset.schema is not None else None
    stray = tuple(name for name in change.added if known is not None and name.lower() not in known)
    if change.conflicts or stray:
        raise _schema_mismatch(context, flow, dataset, change.conflicts, stray)
    return evolved(base, incoming)


def starts_generation(
    context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, table: Table, receipt: Receipt
) -> bool:
    """Return whether no flow of the dataset has written in this generation: then the old rows go with this commit."""
    generation = int(receipt.app_id.rpartition("/")[2].partition(".")[0])
    if generation == 0:
        return False
    folder = context.catalog.checkpoint(dataset.name)
    return all(
        table.batch_id(context.app_id(other, epoch)) < 0
        for other in context.graph.flows_to(dataset.name)
        for epoch in epochs(folder, other.name, generation)
    )


def _apply_changes(
    context: UpdateContext,
    flow: ResolvedFlow,
    dataset: Dataset,
    table: Table,
    batch: Batch,
    bound: BoundQuery,
    receipt: Receipt,
    quality: Quality,
    checkpoint: Checkpoint,
) -> Written:
    assert isinstance(flow.flow, AutoCdcFlow)
    changes = _valid_changes(context, dataset, bound.rows, quality)
    applier = _applier(context, flow.flow, flow, dataset, batch.at, checkpoint)
    if context.drop_invalid:
        changes = applicable(flow.flow, changes)
    _check_where(context, flow.flow, changes)
    restart = starts_generation(context, flow, dataset, table, receipt)
    if restart:
        _check_begun(context, flow, dataset, receipt)
    result = applier.apply(changes, receipt, restart=restart)
    quality.num_rows = result.num_input_rows
    if result.num_ties:
        examples = "; ".join(f"{dict(tie.key)} at {tie.sequence}" for tie in result.ties)
        kinds.warning(
            context.events,
            f"Flow '{flow.name}': {result.num_ties} key(s) have different events with one sequence value: {examples}",
            flow=flow.name,
            dataset=context.display(dataset.name),
        )
    return written_by(result)


def _check_begun(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, receipt: Receipt) -> None:
    """Refuse to begin a full refresh that another flow of the target has begun: its events are stored, its rows are not.

    Raises:
        CdcError: `AUTOCDC_REFRESH_UNFINISHED`.
    """
    events = context.store.open(context.catalog.auxiliary(dataset.name))
    if events is None or events.batch_id(receipt.app_id) >= receipt.batch_id:
        return
    if not starts_generation(context, flow, dataset, events, receipt):
        display = context.display(dataset.name)
        raise CdcError(
            "AUTOCDC_REFRESH_UNFINISHED",
            f"another flow has begun the full refresh of `{display}` and could not finish it",
            origin=context.origin(flow),
            cause="its events are stored and its rows are not yet in the table; to begin anew would lose them",
            hint="mend what made that flow fail, and run the update again: it goes on first; if there is no such flow any more, "
            f"begin anew with `lakelet run --full-refresh {display}`",
        )


def written_by(result: CdcResult) -> Written:
    """Return what AUTO CDC did to the target."""
    return Written(upserted_rows=result.num_upserted_rows, deleted_rows=result.num_deleted_rows)


def _note_null_rule(context: UpdateContext, declared: AutoCdcFlow, checkpoint: Checkpoint) -> None:
    """Note how a flow treats NULLs, and say so if it treats those of earlier events differently."""
    path = checkpoint.folder / "auto_cdc.json"
    now = {
        "ignore_null_updates": declared.ignore_null_updates,
        "ignore_null_updates_column_list": declared.ignore_null_updates_column_list,
        "ignore_null_updates_except_column_list": declared.ignore_null_updates_except_column_list,
        "columns_to_update": declared.columns_to_update,
    }
    rule = {name: list(value) if isinstance(value, tuple) else value for name, value in now.items()}
    before = read_json(path)["null_rule"] if path.is_file() else None
    if before == rule:
        return
    if before is not None:
        changed = ", ".join(
            f"`{name}` from {before[name]} to {rule[name]}" for name in rule if before[name] != rule[name]
        )
        display = context.display(declared.target)
        kinds.warning(
            context.events,
            f"Flow '{declared.name}': {changed} changed; events that are stored keep the rule under which they came, so "
            f"apply the new one to all with `lakelet run --full-refresh {display}`",
            flow=declared.name,
            dataset=display,
        )
    write_json(path, {"format": FORMAT, "null_rule": rule})


def _valid_changes(context: UpdateContext, dataset: Dataset, changes: Relation, quality: Quality) -> Relation:
    """Return the change rows that the rules of an AUTO CDC target let through; its rules see the change rows."""
    if dataset.expectations:
        display = context.display(dataset.name)
        check_view(ViewRows(view=dataset, rows=changes), display, context.engine, quality)
        for rule in dataset.expectations:
            if rule.action is Action.DROP:
                changes = plan.filtered(changes, plan.is_true(plan.expression_of(rule.condition)))
    return changes


def _check_where(context: UpdateContext, declared: AutoCdcFlow, changes: Relation) -> None:
    """Require that every change row satisfies the flow's `where`.

    Raises:
        CdcError: `AUTOCDC_WHERE_VIOLATED`.
    """
    if declared.where is None:
        return
    violating = outside(declared, changes)
    examples = context.engine.collect(plan.limited(violating, EXAMPLES))
    if examples.num_rows:
        counted = context.engine.collect(plan.sql("SELECT count(*) AS n FROM rows", {"rows": violating}))
        raise where_violated(declared, counted.column("n")[0].as_py(), examples)


def _applier(
    context: UpdateContext,
    declared: AutoCdcFlow,
    flow: ResolvedFlow,
    dataset: Dataset,
    at: datetime,
    checkpoint: Checkpoint,
) -> AutoCdc:
    columns = context.resolver.leaf_schema(plan_leaf(flow.relation), context.origin(flow))
    return AutoCdc(
        declared,
        source_schema=columns,
        sequence_type=context.resolver.sequence_type(declared, columns),
        engine=context.engine,
        store=context.store,
        target=context.location(dataset),
        auxiliary=context.catalog.auxiliary(dataset.name),
        staging=str(checkpoint.folder / STAGED),
        definition=context.definition(dataset),
        now=at,
        forget_deletes_after=context.forget_deletes_after(dataset),
        fail_on_ties=context.cdc_ties == "fail",
        remember_all=any(
            isinstance(other.flow, AutoCdcFlow) and keeps_values(other.flow)
            for other in context.graph.flows_to(dataset.name)
        ),
    )


def refuse_lost_table(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Refuse to go on where a flow has committed to a table that is not there any more, or that others have written.

    Raises:
        StorageError: `TABLE_BEHIND_CHECKPOINT`, and those of `check_commits`.
    """
    if checkpoint.committed_id < 0:
        return
    if not context.store.exists(context.location(dataset)):
        raise _behind(context, flow, checkpoint, "the table is gone: it was deleted or moved by somebody else")
    check_commits(context, flow, dataset, checkpoint)


def _check_table(context: UpdateContext, flow: ResolvedFlow, table: Table, app_id: str, checkpoint: Checkpoint) -> None:
    """Refuse a table that does not hold what the checkpoint says was committed to it."""
    if isinstance(flow.flow, AutoCdcFlow):
        return
    if table.batch_id(app_id) < checkpoint.committed_id:
        raise _behind(
            context,
            flow,
            checkpoint,
            f"the checkpoint is at batch {checkpoint.committed_id}, the table at {table.batch_id(app_id)}: the table was "
            "deleted, restored or replaced by somebody else",
        )


def _behind(context: UpdateContext, flow: ResolvedFlow, checkpoint: Checkpoint, cause: str) -> StorageError:
    display = context.display(flow.target)
    return StorageError(
        "TABLE_BEHIND_CHECKPOINT",
        f"the table of `{display}` lacks batches that the flow `{flow.name}` has committed",
        origin=context.origin(flow),
        cause=cause,
        hint=f"restore the table, or rebuild it with `lakelet run --full-refresh {display}`",
    )


def has_committed(context: UpdateContext, dataset: Dataset) -> bool:
    """Return whether a flow has committed to the dataset's table in this generation."""
    folder, generation = context.catalog.checkpoint(dataset.name), context.generation(dataset.name)
    flows = context.graph.flows_to(dataset.name)
    return folder.is_dir() and any(Checkpoint(folder, flow.name, generation).committed_id >= 0 for flow in flows)


def _schema_mismatch(
    context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, conflicts: tuple[str, ...], added: tuple[str, ...]
) -> StorageError:
    display = context.display(dataset.name)
    causes = [*conflicts]
    if dataset.schema is not None:
        causes += [f"`{name}` is not in the declared schema" for name in added]
    return StorageError(
        "DATASET_SCHEMA_MISMATCH",
        f"the columns of the query do not fit the table `{display}`",
        origin=context.origin(flow),
        cause="\n".join(causes),
        hint=f"cast the columns in the query, or rebuild the table with `lakelet run --full-refresh {display}`",
    )
