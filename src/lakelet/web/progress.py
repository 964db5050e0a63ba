"""The state of an update, and of each of its datasets, as values for pages."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lakelet.events.progress import DatasetProgress, UpdateProgress
from lakelet.web.site import Site

DEAD = "INTERRUPTED"
"""The state of an update whose process ended without a word: a kill, a power cut."""
ENDED = ("COMPLETED", "FAILED", "CANCELED", DEAD)


def dataset_state(dataset: DatasetProgress, now: datetime, *, is_live: bool) -> dict[str, Any]:
    """Return one dataset of the newest update."""
    counts = dataset.total
    status = dataset.status
    is_busy = status is not None and not status.is_final
    seconds = dataset.seconds(now) if is_live or not is_busy else counts.busy_ms / 1000 or None
    return {
        "name": dataset.name,
        "status": None if status is None else DEAD if is_busy and not is_live else status.value,
        "technique": dataset.technique,
        "input": counts.input,
        "written": counts.output,
        "upserted": counts.upserted,
        "deleted": counts.deleted,
        "dropped": counts.dropped,
        "failed": dict(sorted(counts.failed.items(), key=lambda item: -item[1])),
        "batches": counts.batches,
        "seconds": None if seconds is None else round(seconds, 3),
    }


def newest_update(site: Site, *, after: int | None = None) -> dict[str, Any]:
    """Return the newest update; `datasets` has only those that have changed since the event `after`."""
    running = site.runner.to_dict()
    now = site.now()
    with site.watcher.lock:
        progress, changed, sequence = site.watcher.snapshot()
        is_live = running["running"] and progress.finished_at is None
        state = _state(progress, is_live=is_live)
        total = progress.total()
        return {
            "sequence": sequence,
            "update_id": progress.update_id or None,
            "state": state,
            "started_at": _time(progress.started_at),
            "finished_at": _time(progress.finished_at),
            "seconds": round(progress.seconds(now), 1) if is_live or progress.finished_at else None,
            "written": total.written or 0,
            "dropped": total.dropped,
            "warnings": list(progress.warnings[-20:]),
            "runner": running,
            "datasets": {
                name: dataset_state(dataset, now, is_live=is_live)
                for name, dataset in progress.datasets.items()
                if after is None or changed.get(name, 0) > after
            },
        }


def _state(progress: UpdateProgress, *, is_live: bool) -> str | None:
    if progress.state is None:
        return None if not progress.update_id else ("CREATED" if is_live else DEAD)
    return DEAD if progress.finished_at is None and not is_live else progress.state.value


def update_state(site: Site, update: Mapping[str, Any]) -> str:
    """Return the state of any update; one without an end is dead, unless it is the one that runs now."""
    state = str(update["state"] or "CREATED")
    if state in ENDED:
        return state
    is_newest = site.watcher.progress.update_id == update["update_id"]
    return state if is_newest and site.runner.to_dict()["running"] else DEAD


def _time(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="milliseconds")
