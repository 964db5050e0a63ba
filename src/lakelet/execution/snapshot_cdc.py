"""AUTO CDC from snapshots: each snapshot is compared with the rows that the target has, and the differences are applied.

New keys and rows that differ are upserts, keys that are gone are deletes; the version of the snapshot is the sequence of
all of them. From there on it is AUTO CDC: events first, with the receipt, then the target.

The intent of a batch has the version and columns of its snapshot. An intent whose events are stored is finished from
them. One whose events are not stored has changed nothing: its snapshot is taken anew.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyspark.sql.types import ArrayType, DataType, MapType, StructType, VariantType

from lakelet.errors import CdcError
from lakelet.execution.auto_cdc import AutoCdc
from lakelet.execution.auto_cdc_schema import END_AT
from lakelet.execution.batch_plan import pinned_versions
from lakelet.execution.checkpoint import STAGED, Batch, Checkpoint, drop_old_epochs
from lakelet.execution.context import UpdateContext
from lakelet.execution.expectations import Quality, check_view
from lakelet.execution.flows import (
    publish_and_note,
    refuse_lost_table,
    starts_generation,
    written_by,
)
from lakelet.execution.snapshot_source import (
    GONE,
    SOURCE,
    Snapshot,
    change_columns,
    change_flow,
    first_snapshot_missing,
    latest_version,
    next_snapshot,
)
from lakelet.execution.snapshot_versions import SnapshotVersion
from lakelet.faults import reach
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset, SnapshotCdcFlow
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.clock import is_volatile
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table

EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flow:
    """One snapshot flow in one update."""

    context: UpdateContext
    resolved: ResolvedFlow
    declared: SnapshotCdcFlow
    dataset: Dataset
    checkpoint: Checkpoint

    def receipt(self, batch: Batch) -> Receipt:
        return Receipt(app_id=self.context.app_id(self.resolved, self.checkpoint.epoch), batch_id=batch.id)


def run_snapshots(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> int:
    """Apply every snapshot that there is; returns how many there were.

    Raises:
        FlowError: the snapshot that failed is not in the table, and is taken again by the next update.
    """
    assert isinstance(flow.flow, SnapshotCdcFlow)
    folder, generation = context.catalog.checkpoint(dataset.name), context.generation(dataset.name)
    checkpoint = Checkpoint(folder, flow.name, generation, keep=context.kept_batches)
    run = _Flow(context=context, resolved=flow, declared=flow.flow, dataset=dataset, checkpoint=checkpoint)
    refuse_lost_table(context, flow, dataset, checkpoint)
    if flow.flow.once and checkpoint.is_finished:
        return 0
    batches = int(_finish(run))
    while not context.stop.is_set():
        taken = _take(run)
        if taken is None:
            break
        batch, snapshot = taken
        checkpoint.write_offsets(batch)
        reach("flow.intent_written")
        _run_batch(run, batch, snapshot)
        batches += 1
        if isinstance(flow.flow.source, str):
            break
    if flow.flow.once and not context.stop.is_set():
        checkpoint.finish()
    if batches and generation:
        drop_old_epochs(folder, generation)
    return batches


def _finish(run: _Flow) -> bool:
    """Finish the batch that was begun, if its events are stored; returns whether it was."""
    batch = run.checkpoint.unfinished()
    if batch is None:
        return False
    receipt = run.receipt(batch)
    auxiliary = run.context.store.open(run.context.catalog.auxiliary(run.dataset.name))
    if auxiliary is None or auxiliary.batch_id(receipt.app_id) < batch.id:
        return False
    changes = plan.named("the events of this batch are stored")
    _apply(run, batch, changes, Quality(), time.perf_counter(), is_replay=True)
    return True


def _take(run: _Flow) -> tuple[Batch, Snapshot] | None:
    """Return the next snapshot with the intent to apply it, None if there is nothing new."""
    context, declared, checkpoint = run.context, run.declared, run.checkpoint
    origin = context.origin(run.resolved)
    committed = checkpoint.committed()
    latest = latest_version(committed)
    snapshot = next_snapshot(context.resolver, declared, latest, time_zone=context.time_zone)
    if snapshot is None:
        if committed is None:
            raise first_snapshot_missing(declared)
        return None
    inputs = context.binder.inputs(snapshot.rows, origin)
    versions = {
        context.catalog.relative(location): version
        for location, version in pinned_versions(context, inputs.locations).items()
    }
    query = _query_digest(context, snapshot, run.resolved)
    if snapshot.version is None and committed is not None and query is not None and not inputs.files:
        before = committed.sources[SOURCE]
        if committed.versions == versions and before["query"] == query:
            return None
    at = context.clock()
    batch = Batch(
        id=checkpoint.next_id,
        at=at,
        sources={
            SOURCE: {
                "version": (snapshot.version or _now(at, latest)).to_json(),
                "columns": context.resolver.analyze(snapshot.rows, origin).json(),
                "query": query,
            }
        },
        versions=versions,
    )
    return batch, snapshot


def _now(at: datetime, latest: SnapshotVersion | None) -> SnapshotVersion:
    """Return the version of a snapshot taken at `at`; where the clock stood still or went back, the next instant."""
    if latest is not None and at <= latest.value:
        at = latest.value + timedelta(microseconds=1)
    return SnapshotVersion(kind="datetime", value=at)


def _query_digest(context: UpdateContext, snapshot: Snapshot, flow: ResolvedFlow) -> str | None:
    """Return a digest of a snapshot's query; None for one whose rows may change although no table does."""
    views = context.binder.view_trees(snapshot.rows, context.origin(flow))
    trees = [(snapshot.rows, ()), *views]
    if any(is_volatile(tree) for tree, _ in trees):
        return None
    parts = [fingerprint(tree) + repr([(r.name, r.text, r.action.value) for r in rules]) for tree, rules in trees]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _run_batch(run: _Flow, batch: Batch, snapshot: Snapshot) -> None:
    started = time.perf_counter()
    context = run.context.at(batch.at)
    versions = {context.catalog.absolute(text): version for text, version in batch.versions.items()}
    bound = context.binder.bind(snapshot.rows, context.origin(run.resolved), slices={}, versions=versions)
    quality = context.quality(run.resolved)
    for view in bound.views:
        check_view(view, context.display(view.view.name), context.engine, quality)
    _check_keys(run, context, bound.rows, batch)
    table = context.table(run.dataset)
    is_fresh = starts_generation(context, run.resolved, run.dataset, table, run.receipt(batch))
    changes = _changes(run, bound.rows, _columns(batch), table, is_fresh=is_fresh)
    _apply(run, batch, changes, quality, started, is_replay=False)


def _apply(run: _Flow, batch: Batch, changes: Relation, quality: Quality, started: float, *, is_replay: bool) -> None:
    """Bring the changes of one snapshot into the target, publish the counts, and note that it is done."""
    context = run.context.at(batch.at)
    version = latest_version(batch)
    assert version is not None
    receipt = run.receipt(batch)
    applier = AutoCdc(
        change_flow(run.declared, version),
        source_schema=change_columns(_columns(batch)),
        sequence_type=version.type,
        engine=context.engine,
        store=context.store,
        target=context.location(run.dataset),
        auxiliary=context.catalog.auxiliary(run.dataset.name),
        staging=str(run.checkpoint.folder / STAGED),
        definition=context.definition(run.dataset),
        now=batch.at,
        forget_deletes_after=context.forget_deletes_after(run.dataset),
    )
    restart = starts_generation(context, run.resolved, run.dataset, context.table(run.dataset), receipt)
    result = applier.apply(changes, receipt, restart=restart)
    quality.num_rows = result.num_input_rows
    reach("flow.rows_committed")
    publish_and_note(
        context, run.resolved, run.dataset, run.checkpoint, batch, written_by(result), quality, None, started, is_replay
    )


def _columns(batch: Batch) -> StructType:
    return StructType.fromJson(json.loads(batch.sources[SOURCE]["columns"]))


def _check_keys(run: _Flow, context: UpdateContext, rows: Relation, batch: Batch) -> None:
    """Require one row per key in a snapshot.

    Raises:
        CdcError: `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.DUPLICATE_KEY_VIOLATION`,
            `AUTOCDC_MICROBATCH_VALIDATION.NULL_KEY`.
    """
    keys = [quote(key) for key in run.declared.keys]
    is_null = " OR ".join(f"{key} IS NULL" for key in keys)
    query = (
        f"SELECT {', '.join(keys)}, count(*) AS `__lakelet_rows`, {is_null} AS `__lakelet_null` FROM snapshot "
        f"GROUP BY {', '.join(keys)} HAVING count(*) > 1 OR {is_null} LIMIT {EXAMPLES}"
    )
    found: list[dict[str, Any]] = context.engine.collect(plan.sql(query, {"snapshot": rows})).to_pylist()
    if not found:
        return
    shown = [{name: value for name, value in row.items() if not name.startswith("__lakelet_")} for row in found]
    if any(row["__lakelet_null"] for row in found):
        raise CdcError(
            "AUTOCDC_MICROBATCH_VALIDATION.NULL_KEY",
            f"rows of a snapshot of `{run.declared.name}` have a NULL in the key {', '.join(keys)}; nothing was written",
            origin=run.declared.origin,
            cause="without a key a row cannot be found again in the next snapshot\n"
            + "\n".join(f"for example: {row}" for row in shown),
            hint="drop such rows in the snapshot's query",
        )
    version = latest_version(batch)
    lines = [f"{row} has {count['__lakelet_rows']} rows" for row, count in zip(shown, found, strict=True)]
    raise CdcError(
        "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.DUPLICATE_KEY_VIOLATION",
        f"the snapshot of `{run.declared.name}` with version {version.value if version else None} has keys with several "
        "rows; nothing of it was written",
        origin=run.declared.origin,
        cause="\n".join(lines),
        hint="name all columns that identify a row in `keys`, or deduplicate the snapshot in its query",
    )


def _changes(run: _Flow, rows: Relation, columns: StructType, table: Table, *, is_fresh: bool) -> Relation:
    """Return one change row per key that is new, differs or is gone; the columns are those of `change_columns`."""
    names = {field.name.lower(): field for field in columns}
    outputs = ", ".join(quote(name) for name in columns.names)
    if is_fresh:
        return plan.sql(f"SELECT {outputs}, false AS {quote(GONE)} FROM snapshot", {"snapshot": rows})
    keys = {key.lower() for key in run.declared.keys}
    stored = {name.lower(): name for name in table.schema.names if name not in ("__START_AT", "__END_AT")}
    same = []
    for folded, name in stored.items():
        right = f"t.{quote(name)}"
        if folded in names:
            kind = names[folded].dataType
            left = f"s.{quote(names[folded].name)}"
            same.append(f"{comparable(left, kind)} <=> {comparable(right, kind)}")
        else:
            same.append(f"{right} IS NULL")
    same += [f"s.{quote(field.name)} IS NULL" for folded, field in names.items() if folded not in stored]
    values = [
        f"coalesce(s.{quote(field.name)}, t.{quote(stored[folded])}) AS {quote(field.name)}"
        if folded in keys
        else f"s.{quote(field.name)}"
        for folded, field in names.items()
    ]
    joined = " AND ".join(f"s.{quote(names[key].name)} = t.{quote(stored[key])}" for key in sorted(keys))
    shown = f" WHERE {quote(END_AT)} IS NULL" if run.declared.scd_type == 2 else ""
    query = (
        f"SELECT {', '.join(values)}, s.`__lakelet_in` IS NULL AS {quote(GONE)} "
        f"FROM (SELECT *, true AS `__lakelet_in` FROM snapshot) s "
        f"FULL OUTER JOIN (SELECT *, true AS `__lakelet_in` FROM shown{shown}) t ON {joined} "
        f"WHERE s.`__lakelet_in` IS NULL OR t.`__lakelet_in` IS NULL OR NOT ({' AND '.join(same)})"
    )
    return plan.sql(query, {"snapshot": rows, "shown": run.context.resolver.delta_rows(table.location, table.version)})


def comparable(value: str, kind: DataType) -> str:
    """Return an expression that `<=>` can compare: of a map its sorted entries, of a nested one its text."""
    if isinstance(kind, MapType) and not _holds_map(kind.keyType) and not _holds_map(kind.valueType):
        return f"array_sort(map_entries({value}))"
    return f"to_json({value})" if _holds_map(kind) else value


def _holds_map(kind: DataType) -> bool:
    if isinstance(kind, StructType):
        return any(_holds_map(field.dataType) for field in kind)
    if isinstance(kind, ArrayType):
        return _holds_map(kind.elementType)
    return isinstance(kind, MapType | VariantType)
