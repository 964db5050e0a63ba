"""Updates: the history, and one of them with its flows over time and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lakelet.web.pages import PageRequest, ViewNotFoundError
from lakelet.web.progress import update_state
from lakelet.web.site import Site

PAGE_ROWS = 50
FLOWS = 1000


def listing(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return one page of updates, the newest first."""
    count = site.index.count_updates()
    pages = max(1, -(-count // PAGE_ROWS))
    page = request.number("page", default=1, least=1, most=pages)
    found = site.index.updates(limit=PAGE_ROWS, offset=(page - 1) * PAGE_ROWS)
    return {
        "updates": [_shown(site, update) for update in found],
        "count": count,
        "page_number": page,
        "pages": pages,
        "ready": site.watcher.is_ready.is_set(),
        "problem": site.watcher.problem,
    }


def one(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return an update: its flows with their place in time, its errors, its rules."""
    found = site.index.update(request.path["update"])
    if found is None:
        raise ViewNotFoundError(f"the event log has no update `{request.path['update']}`")
    update_id = str(found["update_id"])
    update = _shown(site, found)
    flows = site.index.flows(update_id, limit=FLOWS)
    rules = [
        {**rule, "share_failed": rule["failed"] / ((rule["passed"] + rule["failed"]) or 1)}
        for rule in site.index.rules(update_id=update_id)
    ]
    rules.sort(key=lambda rule: (-rule["share_failed"], rule["dataset"], rule["name"]))
    return {
        "update": update,
        "flows": _timeline(flows, update),
        "errors": _errors(site, update_id),
        "rules": rules,
        "warnings": [row for row in site.index.events(update_id=update_id, level="WARN", limit=50)
                     if row["level"] == "WARN"],
    }  # fmt: skip


def _shown(site: Site, update: Mapping[str, Any]) -> dict[str, Any]:
    end = update["finished_at"] or update["last_at"]
    return {
        **update,
        "state": update_state(site, update),
        "short_id": str(update["update_id"])[:6],
        "seconds": round((_at(end) - _at(update["started_at"])).total_seconds(), 3),
    }


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _timeline(flows: list[dict[str, Any]], update: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Give each flow its start and length as shares (0..1000) of the update's time."""
    begun, whole = _at(update["started_at"]), max(float(update["seconds"]), 0.001)
    result = []
    for flow in flows:
        offset = length = None
        if flow["started_at"] is not None:
            start = (_at(flow["started_at"]) - begun).total_seconds()
            end = (_at(flow["finished_at"] or update["last_at"]) - begun).total_seconds()
            offset = round(1000 * start / whole)
            length = max(4, round(1000 * (end - start) / whole))
        seconds = None if flow["started_at"] is None or not flow["finished_at"] else (
            _at(flow["finished_at"]) - _at(flow["started_at"])).total_seconds()  # fmt: skip
        result.append({**flow, "offset": offset, "length": length, "seconds": seconds})
    return result


def _errors(site: Site, update_id: str) -> list[dict[str, Any]]:
    """Return the errors of an update, each once, in the order in which they came."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for event in site.index.errors(update_id):
        for exception in (event["error"] or {}).get("exceptions", ())[:1] if event["error"] else ():
            key = (exception.get("condition"), exception["message"])
            found.setdefault(
                key,
                {
                    "condition": exception.get("condition") or exception["class_name"],
                    "message": str(exception["message"]).removeprefix(f"[{exception.get('condition')}] "),
                    "place": exception.get("origin"),
                    "cause": exception.get("cause"),
                    "hint": exception.get("hint"),
                    "dataset": event["origin"].get("dataset_name"),
                    "sequence": event["sequence"]["data_plane_id"]["seq_no"],
                },
            )
    return list(found.values())
