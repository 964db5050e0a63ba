"""AUTO CDC, how long deletes are remembered: `pipelines.cdc.tombstoneGCThresholdInSeconds` of the target.

A remembered delete keeps an older event that arrives late from bringing its row back. Where the property is set, a delete
older than that is forgotten, and such an event is taken for a new row. Its age is counted from the batch that brought it.
"""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.arrow_values import sorted_by
from lakelet.execution.auto_cdc_history import all_same, by_key, last_places
from lakelet.execution.auto_cdc_schema import DELETE, SEQUENCE, STORED_AT


def forgettable(events: pa.Table, *, keys: tuple[str, ...], scd_type: int, before: datetime) -> np.ndarray:
    """Return which of all events of some keys need not be remembered; all or none of a key.

    SCD type 1: the events of a key whose last one is a delete stored before `before`. SCD type 2: those of a key that
    has nothing but such deletes; the events of rows that the target shows stay.

    Args:
        events: upserts and deletes; columns `keys`, the sequence, the flags and the time at which each was stored.
    """
    order = sorted_by(*(events.column(name) for name in (*keys, SEQUENCE)))
    ordered = events.take(pa.array(order))
    same_key = all_same(ordered, keys)
    old = pc.fill_null(pc.less(ordered.column(STORED_AT), pa.scalar(before, pa.timestamp("us", "UTC"))), True)
    stays = ~(old.to_numpy() & ordered.column(DELETE).to_numpy())
    if scd_type == 1:
        stays &= last_places(same_key, all_same(ordered, (*keys, SEQUENCE)))
    result = np.empty(len(order), bool)
    result[order] = ~by_key(stays, same_key)
    return result
