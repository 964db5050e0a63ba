"""One dataset: columns, rows, rules, flows, versions, readers, code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lakelet.errors import LakeletError
from lakelet.execution.checkpoint import Checkpoint
from lakelet.web import tables
from lakelet.web.pages import PageRequest, ViewNotFoundError
from lakelet.web.progress import newest_update
from lakelet.web.site import Site
from lakelet.web.source import source_of
from lakelet.web.views.rules import rules_of, violations

BATCHES = 120


def data(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return everything that is known of a dataset; `table` is None before its first update, and of views."""
    found = site.definition.find(request.path["name"])
    if found is None:
        raise ViewNotFoundError(f"the pipeline has no dataset `{request.path['name']}`")
    name = str(found["name"])
    location = site.tables().get(name)
    table, problem = None, None
    sample: dict[str, Any] = {"columns": [], "rows": []}
    if location is not None:
        try:
            table = tables.describe(site.pipeline.store, location)
            sample = tables.sample(site.pipeline.store, location)
        except LakeletError as error:
            problem = str(error)
    update = newest_update(site)
    batches = site.index.batches(name, limit=BATCHES)
    rules = rules_of(found["expectations"], site.index.rules(dataset=name), dataset=name)
    return {
        "dataset": {key: value for key, value in found.items() if key not in ("columns", "expectations")},
        "state": update["datasets"].get(name),
        "update": {**update, "datasets": {}},
        "columns": _columns(found["columns"], table),
        "table": table,
        "sample": sample,
        "problem": problem,
        "rules": rules,
        "violations": violations(site, update["update_id"], name),
        "flows": [_flow(site, found, flow, batches) for flow in found["flows"]],
        "batches": batches,
        "dataset_names": list(site.definition.datasets),
        "source": source_of(site.pipeline.spec.root, found["file"], found["line"]),
    }


def _columns(declared: list[dict[str, Any]], table: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the table's columns, with the comments of the query where the table has none."""
    if table is None:
        return declared
    comments = {column["name"]: column["comment"] for column in declared}
    return [{**column, "comment": column["comment"] or comments.get(column["name"])} for column in table["columns"]]


def _flow(
    site: Site, dataset: Mapping[str, Any], flow: Mapping[str, Any], batches: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return a flow with what its checkpoint and its last micro-batches say."""
    own = [batch for batch in batches if batch["flow"] == flow["name"]]
    last = own[-1] if own else {}
    watermarks = [batch["watermark"] for batch in own if batch["watermark"]]
    return {
        **flow,
        **_checkpoint(site, str(dataset["qualified_name"]), str(flow["name"])),
        "backlog_bytes": last.get("backlog_bytes"),
        "backlog_files": last.get("backlog_files"),
        "watermark": watermarks[-1] if watermarks else None,
        "state_rows": last.get("state_rows"),
        "late_rows": sum(batch["late"] or 0 for batch in own),
    }


def _checkpoint(site: Site, qualified_name: str, flow: str) -> dict[str, Any]:
    folder = site.pipeline.catalog.checkpoint(site.pipeline.names.resolve(qualified_name))
    try:
        checkpoint = Checkpoint.existing(folder, flow)
        if checkpoint is None:
            return {"batch_id": None, "generation": None, "offsets": {}, "unfinished": None}
        committed, unfinished = checkpoint.committed(), checkpoint.unfinished()
    except LakeletError as error:
        return {"batch_id": None, "generation": None, "offsets": {}, "unfinished": None, "problem": str(error)}
    return {
        "batch_id": checkpoint.committed_id,
        "generation": checkpoint.generation,
        "offsets": {key: dict(value) for key, value in committed.sources.items()} if committed else {},
        "unfinished": None if unfinished is None else unfinished.id,
    }
