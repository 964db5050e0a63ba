"""What operators with state must give, row by row in plain Python: the rules of docs/concepts/streaming_state.md.

Rows are dicts with the event time `at` in minutes, or None. An update is a list of micro-batches, a micro-batch a list of
rows. After the micro-batches of an update comes an empty one, if the watermark has moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

Row = dict[str, Any]
Updates = list[list[list[Row]]]


def timed(updates: Updates, *delays: int) -> Iterator[tuple[list[Row], int | None, int | None]]:
    """Yield each micro-batch with its watermarks `late` and `now`; of several streams (`row["stream"]`) the slowest counts."""
    late: int | None = None
    now: int | None = None
    marks: list[int | None] = [None] * len(delays)
    for update in updates:
        pending = [*update, []]
        for position, rows in enumerate(pending):
            slowest = None if None in marks else min(mark for mark in marks if mark is not None)
            moved = max((mark for mark in (now, slowest) if mark is not None), default=None)
            if position == len(update) and moved == now:
                continue
            late, now = now, moved
            yield rows, late, now
            for stream, delay in enumerate(delays):
                times = [row["at"] for row in rows if row.get("stream", 0) == stream and row["at"] is not None]
                marks[stream] = max(
                    (m for m in (marks[stream], *(time - delay for time in times)) if m is not None), default=None
                )


def passed(time: int | None, mark: int | None) -> bool:
    return time is not None and mark is not None and time <= mark


def distinct(updates: Updates, keys: list[str], delay: int | None = None) -> list[Row]:
    """`dropDuplicates`; with a watermark if there is a delay."""
    seen: set[tuple[Any, ...]] = set()
    result = []
    for rows, late, _ in timed(updates, delay) if delay is not None else ((b, None, None) for u in updates for b in u):
        for row in rows:
            key = tuple(row[name] for name in keys)
            if not passed(row["at"], late) and key not in seen:
                seen.add(key)
                result.append(row)
    return result


def distinct_within(updates: Updates, keys: list[str], delay: int) -> list[Row]:
    """`dropDuplicatesWithinWatermark`: a key is forgotten when the watermark reaches its first row's time and the delay."""
    until: dict[tuple[Any, ...], int | None] = {}
    result = []
    for rows, late, now in timed(updates, delay):
        for row in rows:
            key = tuple(row[name] for name in keys)
            if not passed(row["at"], late) and key not in until:
                until[key] = None if row["at"] is None else row["at"] + delay
                result.append(row)
        until = {key: end for key, end in until.items() if not passed(end, now)}
    return result


def grouped(
    updates: Updates, groups: Callable[[Row], list[tuple[Any, int | None]]], delay: int
) -> tuple[list[tuple[Any, list[Row]]], int]:
    """Aggregate in append mode: (groups with their rows, in the order in which they close, and how many rows were late).

    Args:
        groups: the groups that a row belongs to, each with the event time at which it ends.
    """
    open_groups: dict[tuple[Any, int | None], list[Row]] = defaultdict(list)
    result, num_late = [], 0
    for rows, late, now in timed(updates, delay):
        for row in rows:
            for group, end in groups(row):
                if passed(end, late):
                    num_late += 1
                else:
                    open_groups[group, end].append(row)
        for (group, end), members in list(open_groups.items()):
            if passed(end, now):
                del open_groups[group, end]
                result.append((group, members))
    return result, num_late


def windows(length: int, slide: int) -> Callable[[Row], list[tuple[Any, int | None]]]:
    """Return the windows of a row by its `key`: (start, key), and the end. A row without an event time has none."""

    def of(row: Row) -> list[tuple[Any, int | None]]:
        if row["at"] is None:
            return []
        first = row["at"] // slide * slide
        return [((start, row["key"]), start + length) for start in range(first, row["at"] - length, -slide)]

    return of


def joined(
    updates: Updates, match: Callable[[Row, Row], bool], kind: str, delays: tuple[int, int],
    ends: tuple[Callable[[Row], int | None], Callable[[Row], int | None]],
) -> list[tuple[Row | None, Row | None]]:  # fmt: skip
    """Join the streams 0 and 1.

    Args:
        kind: inner, left, right or full.
        ends: of each side, the watermark from which on a row can find no match any more.
    """
    sides: tuple[list[Row], list[Row]] = ([], [])
    matched: set[int] = set()
    result: list[tuple[Row | None, Row | None]] = []
    kept = {"inner": (), "left": (0,), "right": (1,), "full": (0, 1)}[kind]
    for rows, late, now in timed(updates, *delays):
        for row in rows:
            if passed(row["at"], late):
                continue
            side = row["stream"]
            for other in sides[1 - side]:
                left, right = (row, other) if side == 0 else (other, row)
                if match(left, right):
                    result.append((left, right))
                    matched |= {id(left), id(right)}
            sides[side].append(row)
        for side in (0, 1):
            for row in list(sides[side]):
                if passed(ends[side](row), now):
                    sides[side].remove(row)
                    if side in kept and id(row) not in matched:
                        result.append((row, None) if side == 0 else (None, row))
    return result
