"""Deliberate defects: each breaks one rule of the pipeline, at its own rate.

A defect acts on a finished batch, in columns, and draws from a random stream of its own; with every rate 0
the batch comes back as it was.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from apparel.generator.model import DIMENSIONS, MICROS_PER_SECOND, Stream
from apparel.generator.settings import Dirt

Mask: TypeAlias = npt.NDArray[np.bool_]

# Ids from here on never belong to a dimension row.
UNKNOWN_ID_BASE = 2_000_000_000
WATERMARK_SECONDS = 600
_NULL_ID = pa.scalar(None, pa.int32())
FOREIGN_KEYS = tuple(dimension.key for dimension in DIMENSIONS)

# The column that a newer version of each source system starts to send, and its values.
DRIFT_COLUMNS = {
    Stream.SALES: ("channel", ("in store", "web", "app")),
    Stream.CUSTOMERS: ("loyalty_tier", ("bronze", "silver", "gold")),
    Stream.ITEMS: ("material", ("cotton", "wool", "linen", "polyester")),
    Stream.STORES: ("region", ("north", "south", "east", "west")),
}


def batch_schema(stream: Stream, dirt: Dirt) -> pa.Schema:
    """Return the schema of a batch: the stream's own, and the new column if the source drifts."""
    if dirt.schema_drift_rate == 0:
        return stream.schema
    return stream.schema.append(pa.field(DRIFT_COLUMNS[stream][0], pa.string()))


def soil(rows: pa.Table, stream: Stream, dirt: Dirt, rng: np.random.Generator, *, on_time_seconds: float) -> pa.Table:
    """Return a batch with its defects.

    Row rule: retains every row in its order; only duplicates add rows, after those of the batch.

    Args:
        rows: a clean batch of the stream.
        stream: which stream it is.
        dirt: the rates.
        rng: the random stream of the dirt.
        on_time_seconds: how old an event may be without being late, which is skew plus interval; a late one
            is older than this and the watermark together, by up to an hour.
    """
    if stream is Stream.SALES:
        rows = _break_foreign_keys(rows, dirt, rng)
        rows = _delay(rows, dirt.late_rate, rng, on_time_seconds)
    if stream is Stream.ITEMS and dirt.bad_price_rate:
        bad_prices = pa.array((0 - rng.integers(0, 10001, rows.num_rows)) / 100)
        rows = _replace(rows, "price", _hit(rows, dirt.bad_price_rate, rng), bad_prices)
    if null_key_rate := _null_key_rate(stream, dirt):
        rows = _replace(rows, stream.key, _hit(rows, null_key_rate, rng), _NULL_ID)
    if dirt.schema_drift_rate:
        rows = _drift(rows, stream, dirt.schema_drift_rate, rng)
    if dirt.duplicate_rate:
        rows = pa.concat_tables([rows, rows.filter(pa.array(_hit(rows, dirt.duplicate_rate, rng)))])
    return rows


def _hit(rows: pa.Table, rate: float, rng: np.random.Generator) -> Mask:
    """Draw which rows a defect hits."""
    mask: Mask = rng.random(rows.num_rows) < rate
    return mask


def _replace(rows: pa.Table, column: str, mask: Mask, replacement: pa.Array | pa.Scalar) -> pa.Table:
    """Replace the values of a column where the mask holds."""
    position = rows.schema.get_field_index(column)
    return rows.set_column(position, rows.schema.field(position), pc.if_else(pa.array(mask), replacement, rows[column]))


def _break_foreign_keys(rows: pa.Table, dirt: Dirt, rng: np.random.Generator) -> pa.Table:
    """Give some sales one foreign key that no dimension row has, and empty one of some others."""
    for rate, unknown in ((dirt.unknown_foreign_key_rate, True), (dirt.null_foreign_key_rate, False)):
        if rate == 0:
            continue
        hit, which = _hit(rows, rate, rng), rng.integers(0, len(FOREIGN_KEYS), rows.num_rows)
        ids = UNKNOWN_ID_BASE + rng.integers(0, 100_000_000, rows.num_rows)
        for position, key in enumerate(FOREIGN_KEYS):
            rows = _replace(rows, key, hit & (which == position), pa.array(ids, pa.int32()) if unknown else _NULL_ID)
    return rows


def _delay(rows: pa.Table, rate: float, rng: np.random.Generator, on_time_seconds: float) -> pa.Table:
    """Move the event times of some sales behind the watermark."""
    if rate == 0:
        return rows
    limit = int((WATERMARK_SECONDS + on_time_seconds) * MICROS_PER_SECOND)
    late_by = pa.array(limit + rng.integers(1, 3600 * MICROS_PER_SECOND, rows.num_rows), pa.duration("us"))
    return _replace(rows, "event_time", _hit(rows, rate, rng), pc.subtract(rows["event_time"], late_by))


def _drift(rows: pa.Table, stream: Stream, rate: float, rng: np.random.Generator) -> pa.Table:
    """Append the new column; a row that is not hit has NULL in it, as rows of the old source version do."""
    column, values = DRIFT_COLUMNS[stream]
    drawn = pa.array(values).take(pa.array(rng.integers(0, len(values), rows.num_rows)))
    return rows.append_column(
        pa.field(column, pa.string()),
        pc.if_else(pa.array(_hit(rows, rate, rng)), drawn, pa.scalar(None, pa.string())),
    )


def _null_key_rate(stream: Stream, dirt: Dirt) -> float:
    match stream:
        case Stream.SALES:
            return dirt.null_sale_key_rate
        case Stream.CUSTOMERS:
            return dirt.null_customer_key_rate
        case Stream.ITEMS:
            return dirt.null_product_key_rate
        case Stream.STORES:
            return dirt.null_store_key_rate
