"""An index of data files by the smallest and greatest values of their columns: which files may have a key.

The index is an Arrow table with one row per file: path, size_bytes, num_records, and `min.c`, `max.c`, `null_count.c` for each
column `c` that files are chosen by; NULL where the table's log does not say. All functions are pure.
"""

from __future__ import annotations

import contextlib
import datetime
import math
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakelet.storage.decimal_bounds import doubtful, may_be_rounded

LOOKED_AT = 4_000_000
"""Pairs of a key and a file that are compared one by one; more than that are not worth it."""
RECENT = "recent-"
"""How the name of the file begins that has rows which came last, of any keys."""


# -- which files --------------------------------------------------------------------------------------------------


def enclosing(index: pa.Table, keys: pa.Table) -> list[int]:
    """Return the files that may have a row with one of `keys`, column by column."""
    possible = np.ones(index.num_rows, bool)
    for name in keys.column_names:
        if f"min.{name}" not in index.column_names or not index.num_rows:
            continue
        low, high = index.column(f"min.{name}"), _upper(index.column(f"max.{name}"))
        values = keys.column(name).cast(low.type)
        found = _ranks(values.drop_null(), low, high)
        sought, lows, highs = np.sort(found[0]), found[1], found[2]
        inside = np.searchsorted(sought, lows, "left") < np.searchsorted(sought, highs, "right")
        nulls = index.column(f"null_count.{name}").fill_null(1).to_numpy() > 0
        # Without bounds a file may have anything; one whose column is all NULL has nothing but that.
        unknown = pc.or_(low.is_null(), high.is_null()).to_numpy()
        full = pc.equal(index.column(f"null_count.{name}"), index.column("num_records")).fill_null(False).to_numpy()
        hit = (inside & ~unknown) | (unknown & ~full & bool(len(sought)))
        possible &= hit | (nulls & bool(values.null_count))
    return list(np.flatnonzero(possible).tolist())


def surpassing(index: pa.Table, keys: pa.Table, column: str, values: pa.ChunkedArray) -> np.ndarray:
    """Return for which keys no file can have a row whose `column` is as great as the key's value or greater, or NULL.

    Args:
        values: one per key.
    """
    none, size = np.zeros(keys.num_rows, bool), keys.num_rows * index.num_rows
    if not _is_whole(values.type) or f"max.{column}" not in index.column_names or size > LOOKED_AT:
        return none
    possible = np.ones((keys.num_rows, index.num_rows), bool)
    for name in keys.column_names:
        if f"min.{name}" in index.column_names:
            low, high = index.column(f"min.{name}"), _upper(index.column(f"max.{name}"))
            sought, lows, highs = _ranks(keys.column(name).cast(low.type), low, high)
            unknown = pc.or_(low.is_null(), high.is_null()).to_numpy()
            possible &= unknown | ((lows <= sought[:, None]) & (sought[:, None] <= highs))
    greatest = _upper(index.column(f"max.{column}"))
    own, others = _ranks(values.cast(greatest.type), greatest)
    has_nulls = index.column(f"null_count.{column}").fill_null(1).to_numpy() > 0
    below = (others < own[:, None]) & (greatest.is_valid().to_numpy() & ~has_nulls)
    return np.asarray((below | ~possible).all(axis=1))


def overlapping(index: pa.Table, column: str, low: pa.Scalar | None, high: pa.Scalar | None) -> list[int]:
    possible = pa.repeat(True, index.num_rows)
    if f"min.{column}" in index.column_names:
        if low is not None:
            least = pc.greater_equal(_upper(index.column(f"max.{column}")), low)
            possible = pc.and_(possible, pc.fill_null(least, True))
        if high is not None:
            possible = pc.and_(possible, pc.fill_null(pc.less(index.column(f"min.{column}"), high), True))
    return list(np.flatnonzero(possible.to_numpy(zero_copy_only=False)).tolist())


def floors(index: pa.Table, keys: pa.Table) -> np.ndarray:
    """Return for each key the file with the greatest minimum up to it, or else the first; -1 if there is no file."""
    leaves = np.flatnonzero(~pc.starts_with(index.column("path"), RECENT).to_numpy())
    index, files = index.take(pa.array(leaves, pa.int64())), len(leaves)
    if not files or not keys.num_rows:
        return np.full(keys.num_rows, -1, np.int64)
    columns = {
        name: _joined(index.column(f"min.{name}"), keys.column(name))
        for name in keys.column_names
        if f"min.{name}" in index.column_names
    }  # fmt: skip
    columns["__is_key"] = pa.chunked_array([np.repeat(np.array([0, 1], np.int8), [files, keys.num_rows])])
    by = [(name, "ascending", "at_start") for name in columns]
    order = pc.sort_indices(pa.table(columns), by).to_numpy()
    before = np.maximum.accumulate(np.where(order < files, np.arange(len(order)), -1))
    first = order[np.argmax(order < files)]
    homes = leaves[np.where(before >= 0, order[before], first)]
    result = np.empty(keys.num_rows, np.int64)
    result[order[order >= files] - files] = homes[order >= files]
    return result


def matching(rows: pa.Table, keys: pa.Table) -> np.ndarray:
    """Return which rows have the values of one row of `keys` in its columns; NULL equals NULL."""
    found = np.ones(rows.num_rows, bool)
    for name in keys.column_names:
        values = keys.column(name).cast(rows.schema.field(name).type).combine_chunks()
        found &= pc.is_in(rows.column(name), value_set=values).to_numpy()
    if keys.num_columns == 1 or not found.any():
        return found
    # Every value occurs among the keys; now whether they occur together.
    some = np.flatnonzero(found)
    combined = np.zeros(len(some) + keys.num_rows, np.int64)
    for name in keys.column_names:
        kind = rows.schema.field(name).type
        both = _joined(rows.column(name).take(some), keys.column(name).cast(kind)).combine_chunks()
        codes = both.dictionary_encode(null_encoding="encode").indices
        combined = np.unique(combined * len(combined) + codes.to_numpy(), return_inverse=True)[1]
    found[some] = np.isin(combined[: len(some)], combined[len(some) :])
    return found


def between(rows: pa.Table, column: str, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Table:
    """Return the rows with `low <= column < high`; None is no bound, and without any NULLs are in."""
    if low is not None:
        rows = rows.filter(pc.greater_equal(rows.column(column), low))
    return rows if high is None else rows.filter(pc.less(rows.column(column), high))


def split_points(sample: pa.ChunkedArray, pieces: int) -> list[pa.Scalar]:
    """Return at most `pieces - 1` different values that cut the sample into parts of like size."""
    ordered = sample.drop_null().sort()
    points = ordered.take(np.unique(np.arange(1, pieces) * len(ordered) // pieces)) if len(ordered) else ordered
    return [point for point in points.unique() if point != ordered[0]]


def _joined(*columns: pa.ChunkedArray) -> pa.ChunkedArray:
    return pa.chunked_array([chunk for column in columns for chunk in column.chunks], columns[0].type)


def _ranks(*columns: pa.ChunkedArray) -> list[np.ndarray]:
    """Return numbers that order and equal as the values of all columns together do."""
    ranks = pc.rank(_joined(*columns), tiebreaker="dense").to_numpy()
    return np.split(ranks, np.cumsum([len(column) for column in columns])[:-1])


# -- statistics ---------------------------------------------------------------------------------------------------


def _is_indexed(kind: pa.DataType) -> bool:
    types = pa.types
    checks = (
        types.is_integer,
        types.is_floating,
        types.is_decimal,
        types.is_string,
        types.is_date32,
        types.is_timestamp,
    )
    return any(check(kind) for check in checks)


def _is_whole(kind: pa.DataType) -> bool:
    """Return whether bounds of this type are neither cut nor rounded by any writer, but for what `_upper` makes good."""
    types = pa.types
    return bool(types.is_integer(kind) or types.is_timestamp(kind) or types.is_date32(kind))


def index_schema(schema: pa.Schema) -> pa.Schema:
    fields = [pa.field("path", pa.string()), pa.field("size_bytes", pa.int64()), pa.field("num_records", pa.int64())]
    for field in schema:
        if _is_indexed(field.type):
            fields += [pa.field(f"min.{field.name}", field.type), pa.field(f"max.{field.name}", field.type)]
            fields.append(pa.field(f"null_count.{field.name}", pa.int64()))
    return pa.schema(fields)


def index_column(bounds: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return bounds of the log, or a count, as a column of the index; NULL in place of those that may be rounded."""
    if pa.types.is_null(bounds.type):
        return pa.chunked_array([pa.nulls(len(bounds), kind)])
    values = bounds.cast(kind)
    unsure = doubtful(values)
    return pc.if_else(pa.array(unsure), pa.scalar(None, kind), values) if unsure.any() else values


def bounded_columns(rows: pa.Table) -> list[str]:
    """Return the columns that get bounds, those without NaN: it is greater than any number, and no bound says so."""
    return [
        field.name
        for field in rows.schema
        if not (pa.types.is_floating(field.type) and pc.any(pc.is_nan(rows.column(field.name))).as_py())
    ]


Statistics = dict[str, tuple[Any, Any, int]]
"""By plain column of a file: minimum, maximum and the number of NULLs; a column may have no bounds."""


def statistics(rows: pa.Table, written: pq.FileMetaData) -> Statistics:
    """Return the statistics of a file with one row group."""
    result: Statistics = {}
    group = written.row_group(0)
    places = {group.column(at).path_in_schema: at for at in range(group.num_columns)}
    for field in rows.schema:
        if pa.types.is_nested(field.type):
            continue
        low = high = None
        column = rows.column(field.name)
        if _is_indexed(field.type):
            found = group.column(places[field.name]).statistics
            if found is not None and found.has_min_max:
                with contextlib.suppress(OverflowError, ValueError):  # Python has no dates after the year 9999
                    low, high = found.min, found.max
        result[field.name] = (low, high, column.null_count)
    return result


def statistics_json(found: dict[str, tuple[Any, Any, int]], rows: int) -> dict[str, Any]:
    bounds = {name: (_json_value(low), _json_value(high)) for name, (low, high, _) in found.items()}
    bounded = {name: pair for name, pair in bounds.items() if None not in pair}
    return {
        "numRecords": rows,
        "minValues": {name: low for name, (low, _) in bounded.items()},
        "maxValues": {name: high for name, (_, high) in bounded.items()},
        "nullCount": {name: nulls for name, (_, _, nulls) in found.items()},
    }


def _json_value(value: Any) -> Any:
    """Return a bound as the log has it; None for infinity, and for a decimal that a reader may take for a rounded one."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Decimal):
        if may_be_rounded(value, -int(value.as_tuple().exponent)):
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None).isoformat(timespec="microseconds") + ("Z" if value.tzinfo else "")
    return value.isoformat() if isinstance(value, datetime.date) else value


def _upper(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return maxima that hold although other writers cut timestamps to milliseconds."""
    if not pa.types.is_timestamp(column.type):
        return column
    return pc.add(column, pa.scalar(1000, pa.duration("us")))
