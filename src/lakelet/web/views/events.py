"""The event log: searched, filtered, and one event whole."""

from __future__ import annotations

from typing import Any

from lakelet.web.indexing import LEVELS
from lakelet.web.pages import PageRequest, ViewNotFoundError
from lakelet.web.site import Site

PAGE_ROWS = 100


def listing(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return events that meet every filter, the newest first.

    Parameters: `q` (text), `level` (the least), `dataset`, `type`, `update`, `before` (the number of an event: older ones).
    """
    level = request.text("level").upper()
    update = request.text("update")
    found_update = site.index.update(update) if update else None
    if update and found_update is None:
        raise ViewNotFoundError(f"the event log has no update `{update}`")
    before = request.number("before", default=0, most=10**17)
    filters = {
        "q": request.text("q")[:200],
        "level": level if level in LEVELS else "",
        "dataset": request.text("dataset"),
        "type": request.text("type"),
        "update": update,
    }
    rows = site.index.events(
        before=before or None,
        update_id=found_update["update_id"] if found_update else None,
        level=filters["level"] or None,
        dataset=filters["dataset"] or None,
        event_type=filters["type"] or None,
        text=filters["q"],
        limit=PAGE_ROWS + 1,
    )
    return {
        "events": rows[:PAGE_ROWS],
        "next_before": rows[PAGE_ROWS - 1]["sequence"] if len(rows) > PAGE_ROWS else None,
        "filters": filters,
        "is_first_page": not before,
        "levels": list(LEVELS),
        "types": site.index.types(),
        "dataset_names": list(site.definition.datasets),
    }


def one(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return one event as the event log has it."""
    event = site.index.event(int(request.path["sequence"]))
    if event is None:
        raise ViewNotFoundError("the event log has no such event")
    return {"event": event, "sequence": int(request.path["sequence"])}
