"""Rows of the event log, selected and written as lines or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lakelet.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

_LEVELS = ("METRICS", "INFO", "WARN", "ERROR")

Event = Mapping[str, Any]


def from_table(rows: pa.Table) -> list[Event]:
    """Return the rows of the event log's table as JSON-ready values, in their order."""
    ordered = rows.sort_by([("timestamp", "ascending"), ("sequence", "ascending")])
    return [
        {
            **row,
            "timestamp": row["timestamp"].isoformat(timespec="microseconds"),
            "sequence": json.loads(row["sequence"]),
            "origin": {key: value for key, value in row["origin"].items() if value is not None},
            "error": json.loads(row["error"]) if row["error"] else None,
            "details": json.loads(row["details"]),
        }
        for row in ordered.to_pylist()
    ]


def select(
    events: Sequence[Event],
    *,
    update: str | None = None,
    level: str | None = None,
    dataset: str | None = None,
    event_type: str | None = None,
) -> list[Event]:
    """Return the events that meet every condition given.

    Args:
        update: the beginning of an update's id, or `latest`.
        level: the least level.
        dataset: a dataset's name; its last part is enough.

    Raises:
        SpecError: `UNKNOWN_UPDATE`, `AMBIGUOUS_UPDATE`, `UNKNOWN_EVENT_DATASET`, `UNKNOWN_EVENT_TYPE`.
    """
    chosen = list(events)
    if update is not None:
        update_id = _update_id(events, update)
        chosen = [event for event in chosen if event["origin"].get("update_id") == update_id]
    if level is not None:
        chosen = [event for event in chosen if _LEVELS.index(event["level"]) >= _LEVELS.index(level)]
    if dataset is not None:
        names = {event["origin"].get("dataset_name") for event in events} - {None}
        matching = {name for name in names if _is_named(name, dataset)}
        _require(matching, dataset, sorted(names), "UNKNOWN_EVENT_DATASET", "dataset")
        chosen = [event for event in chosen if event["origin"].get("dataset_name") in matching]
    if event_type is not None:
        types = {event["event_type"] for event in events}
        _require({event_type} & types, event_type, sorted(types), "UNKNOWN_EVENT_TYPE", "type")
        chosen = [event for event in chosen if event["event_type"] == event_type]
    return chosen


def _update_id(events: Sequence[Event], text: str) -> str:
    ids = list(dict.fromkeys(event["origin"]["update_id"] for event in events if event["origin"].get("update_id")))
    if text.lower() == "latest" and ids:
        return str(ids[-1])
    matching = [update_id for update_id in ids if update_id.startswith(text.lower())]
    if len(matching) > 1:
        raise SpecError(
            "AMBIGUOUS_UPDATE",
            f"{len(matching)} updates begin with `{text}`",
            hint=f"write more of the id: {', '.join(matching[:3])}",
        )
    if not matching:
        recent = ", ".join(update_id[:6] for update_id in ids[-5:])
        raise SpecError(
            "UNKNOWN_UPDATE",
            f"the event log has no update `{text}`",
            hint=f"the last ones are {recent}" if recent else "run the pipeline first: `lakelet run`",
        )
    return str(matching[0])


def _is_named(name: str, wanted: str) -> bool:
    full, asked = name.lower(), wanted.replace("`", "").lower()
    return full == asked or full.endswith(f".{asked}")


def _require(found: set[str], text: str, known: Sequence[str], condition: str, noun: str) -> None:
    if found:
        return
    near = did_you_mean(text, known)
    raise SpecError(
        condition,
        f"the event log has no event of the {noun} `{text}`",
        hint=f"did you mean `{near}`?" if near else f"it has {', '.join(known)}" if known else "run the pipeline first",
    )


def as_json(event: Event) -> str:
    """Return one event as the JSON lines of an update have it."""
    return json.dumps(event, default=str, separators=(",", ":"))


def as_text(event: Event) -> str:
    """Return one event as a line: time (UTC), update, level, type, message; then what else the error says."""
    time = event["timestamp"][:23].replace("T", " ")
    update = (event["origin"].get("update_id") or "")[:6]
    line = f"{time}  {update:<6}  {event['level']:<7}  {event['event_type']:<20}  {event['message']}{_counts(event)}"
    exceptions = (event["error"] or {}).get("exceptions") or []
    details = [
        text for exception in exceptions[:1] for text in (exception.get("origin"), exception.get("cause")) if text
    ]
    return "\n".join([line, *(f"    {text}" for detail in details for text in str(detail).splitlines())])


def _counts(event: Event) -> str:
    details = event["details"].get("flow_progress") or {}
    metrics, quality = details.get("metrics") or {}, details.get("data_quality") or {}
    labels = {
        "num_input_rows": "in",
        "num_output_rows": "written",
        "num_upserted_rows": "upserted",
        "num_deleted_rows": "deleted",
    }
    parts = [f"{metrics[key]:,} {label}" for key, label in labels.items() if metrics.get(key) is not None]
    parts += [f"{quality['dropped_records']:,} dropped"] if quality.get("dropped_records") else []
    parts += [
        f"{rule['name']} {rule['failed_records']:,}"
        for rule in quality.get("expectations", ())
        if rule["failed_records"]
    ]
    return f"  {', '.join(parts)}" if parts else ""
