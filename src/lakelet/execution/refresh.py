"""Materialized views: the stored rows equal the batch query over the tables that it reads, at every update.

A view is left alone (NO_OP) when neither the query nor a version that it reads has changed; otherwise it is computed anew and
swapped in one commit, so a refresh that fails leaves the old rows readable.
"""

from __future__ import annotations

import glob
import hashlib
import time
from pathlib import Path
from typing import Any

from lakelet.events import kinds
from lakelet.events.model import FlowMetrics, FlowStatus
from lakelet.execution.checkpoint import FORMAT, read_json, write_json
from lakelet.execution.context import UpdateContext
from lakelet.execution.expectations import check_view
from lakelet.execution.faults import reach
from lakelet.execution.flows import check_columns, pinned_versions
from lakelet.execution.writing import pending_rows
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset, Expectation
from lakelet.plan.normalize import fingerprint, is_volatile
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf
from lakelet.storage.base import Receipt
from lakelet.storage.delta_log import changes_rows


def refresh_view(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> bool:
    """Bring a materialized view up to date; returns whether its table was written.

    Raises:
        FlowError: the table still has its old rows.
    """
    started = time.perf_counter()
    display = context.display(dataset.name)
    inputs = context.inputs(flow)
    versions = pinned_versions(context, inputs.locations)
    state: dict[str, Any] = {
        "format": FORMAT,
        "generation": context.generation(dataset),
        "fingerprint": _fingerprint(context, flow, dataset),
        "inputs": {context.catalog.relative(location): version for location, version in versions.items()},
        "files": [_listing(leaf) for leaf in inputs.files],
    }
    path = context.catalog.checkpoint(dataset.name) / "view.json"
    recorded = read_json(path) if path.exists() else {}
    table = context.table(dataset)
    if recorded and not _inputs_changed(context, recorded, versions):
        state["inputs"] = recorded["inputs"]
    own = recorded.get("table_version", -1)
    is_own = own >= 0 and not changes_rows(context.location(dataset), after=own, until=table.version)
    reasons = _reasons(state, recorded, is_own=is_own, volatile=_is_volatile(context, flow))
    technique = "COMPLETE_RECOMPUTE" if reasons else "NO_OP"
    kinds.planning_information(context.events, flow=flow.name, dataset=display, technique=technique, reasons=reasons)
    if not reasons:
        return False
    reach("view.planned")
    at = context.clock()
    context = context.at(at)
    bound = context.binder.bind(flow.relation, context.origin(flow), slices={}, versions=versions, at=at)
    quality = context.quality(flow)
    for view in bound.views:
        check_view(view, context.display(view.view.name), context.engine, quality)
    pending = pending_rows(context.engine, bound.rows, dataset, display, quality)
    columns = None if dataset.schema is None else check_columns(context, flow, dataset, pending.schema, stored=None)
    written = pending.replace(
        table,
        columns,
        receipt=Receipt(app_id=context.app_id(flow, state["generation"]), batch_id=table.version + 1),
        partition_cols=dataset.partition_cols,
    )
    reach("view.swapped")
    kinds.flow_progress(
        context.events,
        flow=flow.name,
        dataset=display,
        status=FlowStatus.RUNNING,
        metrics=FlowMetrics(
            num_input_rows=None,
            num_output_rows=written,
            duration_ms=round((time.perf_counter() - started) * 1000, 1),
        ),
        quality=quality.result,
    )
    write_json(path, {**state, "table_version": table.version})
    reach("view.noted")
    return True


def _inputs_changed(context: UpdateContext, recorded: dict[str, Any], versions: dict[str, int]) -> bool:
    known = recorded["inputs"]
    return {context.catalog.relative(location) for location in versions} != set(known) or any(
        changes_rows(location, after=known[context.catalog.relative(location)], until=version)
        for location, version in versions.items()
    )


def _reasons(state: dict[str, Any], recorded: dict[str, Any], *, is_own: bool, volatile: bool) -> list[str]:
    """Return why a view must be computed, in Databricks' words; nothing if its rows are current.

    Args:
        is_own: the table has the rows that the last refresh wrote.
    """
    if not recorded:
        return ["FIRST_REFRESH"]
    reasons = []
    if recorded.get("generation") != state["generation"]:
        reasons.append("FULL_REFRESH")
    if recorded.get("fingerprint") != state["fingerprint"]:
        reasons.append("QUERY_FINGERPRINT_CHANGED")
    if recorded.get("inputs") != state["inputs"] or recorded.get("files") != state["files"]:
        reasons.append("DATA_HAS_CHANGED")
    if not is_own:
        reasons.append("TABLE_CHANGED_BY_OTHERS")
    if volatile:
        reasons.append("PLAN_NOT_DETERMINISTIC")
    return reasons


def _trees(context: UpdateContext, flow: ResolvedFlow) -> list[tuple[Relation, tuple[Expectation, ...]]]:
    """Return the flow's tree and those of the views it reads, with the rules of each view."""
    return [(flow.relation, ()), *context.binder.view_trees(flow.relation, context.origin(flow))]


def _fingerprint(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for tree, rules in _trees(context, flow):
        digest.update(fingerprint(tree).encode())
        digest.update(repr([(rule.name, rule.text, rule.action.value) for rule in rules]).encode())
    digest.update(repr([(rule.name, rule.text, rule.action.value) for rule in dataset.expectations]).encode())
    digest.update(f"{context.engine.version}/{context.time_zone}/{dataset.schema}/{dataset.partition_cols}".encode())
    return digest.hexdigest()


def _is_volatile(context: UpdateContext, flow: ResolvedFlow) -> bool:
    return any(is_volatile(tree) for tree, _ in _trees(context, flow))


def _listing(leaf: Leaf) -> list[list[Any]]:
    """Return what lies at the paths of a file read: names, sizes and times."""
    found: list[list[Any]] = []
    for text in leaf.paths:
        for root in sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else [text]:
            files = sorted(Path(root).rglob("*")) if Path(root).is_dir() else [Path(root)]
            found += [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    return found
