"""`dropDuplicates` and `dropDuplicatesWithinWatermark` over a stream: of each key the first row, ever or for a while.

State: the keys, and when each is forgotten. The first row of a key is the first in the order in which the batch's query
gives its rows. NULL is a value like any other in a key.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.state import ENDS_AT, ENDS_AT_TYPE
from lakelet.execution.stateful_step import Emission, Step, late_mask
from lakelet.execution.watermark import micros
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.stateful import Operator

TABLE = "keys"
_ROW = "__lakelet_row"


def deduplicate(step: Step) -> Emission:
    """Return the rows of a batch whose key is new.

    Grain: a subset of the batch's rows, at most one a key. Rows with an event time at or before the late threshold are
    dropped before. A key is forgotten when the watermark passes its event time, if that is among the keys; within a
    watermark, when it passes the event time of the key's first row and the delay; otherwise never.
    """
    (rows,) = step.rows
    times = step.part.event_times[0]
    keys = step.part.keys(rows.column_names)
    time = next((name for name in rows.column_names if name.lower() in times), None)
    late = late_mask(rows.column(time), step.thresholds) if time is not None else None
    num_late = 0
    if late is not None:
        num_late = pc.sum(late).as_py() or 0
        rows = rows.filter(pc.invert(late))
    fresh = rows.take(_first_rows(step, rows, keys))
    known = fresh.select(keys).append_column(pa.field(ENDS_AT, ENDS_AT_TYPE), _forgotten_at(step, fresh, keys, time))
    return Emission(rows=plan.local(fresh), num_late_rows=num_late, state={TABLE: known})


def _forgotten_at(step: Step, rows: pa.Table, keys: list[str], time: str | None) -> pa.Array | pa.ChunkedArray:
    if time is not None and step.part.operator is Operator.DEDUPLICATE_WITHIN_WATERMARK:
        (watermark,) = step.part.watermarks[:1]
        return pc.add(micros(rows.column(time)), watermark.delay_ms * 1000).cast(ENDS_AT_TYPE)
    if time is not None and time in keys:
        return micros(rows.column(time)).cast(ENDS_AT_TYPE)
    return pa.nulls(rows.num_rows, ENDS_AT_TYPE)


def _first_rows(step: Step, rows: pa.Table, keys: list[str]) -> pa.Array:
    """Return the positions of the first row of each key that is not remembered, in order."""
    numbered = rows.select(keys).append_column(_ROW, pa.array(range(rows.num_rows), pa.int64()))
    names = ", ".join(quote(key) for key in keys)
    everything = f"SELECT {names}, {_ROW} FROM batch"
    sources = {"batch": plan.local(numbered)}
    remembered = step.tables.before(TABLE, after=step.thresholds.late)
    if remembered is not None:
        everything += f" UNION ALL SELECT {names}, CAST(-1 AS BIGINT) FROM remembered"
        sources["remembered"] = remembered
    query = f"SELECT first FROM (SELECT min({_ROW}) AS first FROM ({everything}) GROUP BY {names}) WHERE first >= 0"
    return step.engine.collect(plan.sql(query, sources)).column("first").combine_chunks().sort()
