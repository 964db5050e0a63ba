"""AUTO CDC, how long deletes are remembered: `pipelines.cdc.tombstoneGCThresholdInSeconds` of the target.

A remembered delete keeps an older event that arrives late from bringing its row back. Where the property is set, a delete
older than that is forgotten, and such an event is taken for a new row. Its age is counted from the batch that brought it.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from lakelet.execution.auto_cdc_schema import DELETE, SEQUENCE, STORED_AT, TRUNCATE

_LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


def forgettable(events: pa.Table, *, keys: tuple[str, ...], scd_type: int, before: datetime) -> pa.Array:
    """Return which events of an auxiliary table need not be remembered; all or none of a key.

    SCD type 1: the events of a key whose last one is a delete stored before `before`. SCD type 2: those of a key that
    has nothing but such deletes; the events of rows that the target shows stay. Truncates stay.

    Args:
        events: columns `keys`, the sequence, the flags and the time at which each was stored.
    """
    columns = [*keys, SEQUENCE, DELETE, STORED_AT, *([TRUNCATE] if TRUNCATE in events.column_names else [])]
    by_key: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
    for number, row in enumerate(events.select(columns).to_pylist()):
        if not row.get(TRUNCATE):
            by_key[repr([row[key] for key in keys])].append((number, row))
    mask = [False] * events.num_rows
    for found in by_key.values():
        last = [row for _, row in found]
        if scd_type == 1:  # at one sequence value an upsert beats a delete
            last = [max(last, key=lambda row: (_order(row[SEQUENCE]), not row[DELETE]))]
        if all(row[DELETE] and (row[STORED_AT] or _LONG_AGO) < before for row in last):
            for number, _ in found:
                mask[number] = True
    return pa.array(mask, pa.bool_())


def _order(value: Any) -> Any:
    """Return what compares as a sequence value does: structs and arrays item by item, NULL first."""
    if isinstance(value, dict):
        return (1, tuple(_order(item) for item in value.values()))
    if isinstance(value, list):
        return (1, tuple(_order(item) for item in value))
    return (0,) if value is None else (1, value)
