"""The pipeline: its graph, its datasets, and the newest update as it runs."""

from __future__ import annotations

from typing import Any

from lakelet.web.pages import PageRequest
from lakelet.web.progress import newest_update
from lakelet.web.site import Site

NODE_FIELDS = (
    "name", "short_name", "schema_name", "layer", "kind", "kind_label", "comment", "inputs", "readers", "refreshable",
    "is_stored",
)  # fmt: skip


def data(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return `datasets` in the order of execution, `edges`, and `update`: the state of the newest one."""
    definition = site.definition
    datasets = [
        {**{name: item[name] for name in NODE_FIELDS}, "rules": len(item["expectations"])}
        for item in definition.graph["datasets"]
    ]
    return {
        "name": site.name,
        "summary": definition.summary,
        "errors": list(definition.errors),
        "loaded_at": None if definition.loaded_at is None else definition.loaded_at.isoformat(timespec="seconds"),
        "layers": list(dict.fromkeys(item["layer"] for item in datasets)),
        "datasets": datasets,
        "edges": _edges(definition.graph["edges"]),
        "update": newest_update(site),
    }


def _edges(edges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one edge for each pair of datasets; a streaming read wins."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for edge in edges:
        pair = (edge["from"], edge["to"])
        streaming = edge["streaming"] or found.get(pair, {}).get("streaming", False)
        found[pair] = {"from": pair[0], "to": pair[1], "streaming": streaming, "external": edge["external"]}
    return list(found.values())
