"""AUTO CDC in plain Python: the specification of what a target shows, given every valid event in any order.

An event is a dict: `key`, `seq`, `op` ("upsert", "delete" or "truncate") and `values`, a tuple in the order of the
column names; `keep` holds the positions in which a NULL keeps the value before, `sets` those that the event sets at
all (None: every one). No tables, no batches, no replays: they must not matter.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

Event = dict[str, Any]


def payload(event: Event) -> tuple[Any, ...]:
    """Order of events with one key and sequence: column by column, NULL smallest."""
    return tuple((value is not None, value) for value in event["values"])


def one_per_sequence(events: list[Event], *, scd_type: int) -> list[Event]:
    """Sort by sequence. At the same one an upsert beats a delete in type 1, a delete an upsert in type 2."""
    winner = {1: "upsert", 2: "delete"}[scd_type]
    ranked = sorted(events, key=lambda event: (event["seq"], event["op"] == winner, payload(event)))
    return list({event["seq"]: event for event in ranked}.values())


def filled(events: list[Event]) -> list[Event]:
    """Replace what an event does not set by the value of the event before, until a delete ends the life of the row."""
    result: list[Event] = []
    before: tuple[Any, ...] | None = None
    for event in events:
        values = event["values"]
        if event["op"] == "upsert":
            keep, sets = event.get("keep", ()), event.get("sets")
            old = before or (None,) * len(values)
            values = tuple(
                old[at] if (sets is not None and at not in sets) or (value is None and at in keep) else value
                for at, value in enumerate(values)
            )
        before = values if event["op"] == "upsert" else None
        result.append({**event, "values": values})
    return result


def by_key(events: list[Event]) -> dict[Any, list[Event]]:
    groups: dict[Any, list[Event]] = defaultdict(list)
    for event in events:
        groups[event["key"]].append(event)
    return groups


def scd1(events: list[Event]) -> set[tuple[Any, ...]]:
    """Return the rows (key, *values): the last event of each key, unless it is a delete or before a truncate."""
    truncates = [event["seq"] for event in events if event["op"] == "truncate"]
    rows = set()
    for key, mine in by_key([event for event in events if event["op"] != "truncate"]).items():
        living = [event for event in mine if not truncates or event["seq"] >= max(truncates)]
        history = filled(one_per_sequence(living, scd_type=1))
        if history and history[-1]["op"] == "upsert":
            rows.add((key, *history[-1]["values"]))
    return rows


def scd2(events: list[Event], *, tracked: tuple[int, ...]) -> set[tuple[Any, ...]]:
    """Return the rows (key, *values, start, end): one per run of upserts that are equal in the tracked positions."""
    rows = set()
    for key, mine in by_key(events).items():
        run: tuple[Any, Any] | None = None  # start and values of the row that is open
        for event in filled(one_per_sequence(mine, scd_type=2)):
            values, seq = event["values"], event["seq"]
            if run and event["op"] == "upsert" and all(run[1][at] == values[at] for at in tracked):
                run = (run[0], values)
                continue
            if run:
                rows.add((key, *run[1], run[0], seq))
            run = (seq, values) if event["op"] == "upsert" else None
        if run:
            rows.add((key, *run[1], run[0], None))
    return rows


def num_ties(events: list[Event]) -> int:
    """Return for how many (key, sequence) there are different events."""
    different: dict[tuple[Any, Any], set[Any]] = defaultdict(set)
    for event in events:
        if event["op"] != "truncate":
            different[event["key"], event["seq"]].add((event["op"], payload(event)))
    return sum(len(found) > 1 for found in different.values())


def snapshot_events(snapshots: list[tuple[Any, dict[Any, tuple[Any, ...]]]]) -> list[Event]:
    """Return the changes between snapshots (version, values by key): the version is the sequence of each."""
    events: list[Event] = []
    before: dict[Any, tuple[Any, ...]] = {}
    for version, rows in snapshots:
        for key in sorted({*before, *rows}):
            if key not in rows:
                events.append({"key": key, "seq": version, "op": "delete", "values": (None,) * len(before[key])})
            elif key not in before or before[key] != rows[key]:
                events.append({"key": key, "seq": version, "op": "upsert", "values": rows[key]})
        before = rows
    return events


def remembered(events: list[Event], *, scd_type: int, before: float) -> list[Event]:
    """Return the events, each with the time `at` at which it was stored, that a delete stored before `before` leaves."""
    result = []
    for mine in by_key(events).values():
        counting = one_per_sequence(mine, scd_type=scd_type)
        decisive = counting[-1:] if scd_type == 1 else mine
        if not all(event["op"] == "delete" and event["at"] < before for event in decisive):
            result += mine
    return result
