"""Arrow columns compared as SQL compares them: NULL equals NULL, NaN equals NaN, structs field by field, maps without order.

Columns of plain types are compared as a whole; arrays, maps and what holds them value by value in Python.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = "pa.Array | pa.ChunkedArray"


def same_as_before(column: Column) -> np.ndarray:
    """Return for each value whether it equals the one before it; False for the first."""
    array = _whole(column)
    result = np.zeros(len(array), bool)
    if len(array) > 1:
        result[1:] = _same(array.slice(1), array.slice(0, len(array) - 1))
    return result


def _same(left: pa.Array, right: pa.Array) -> np.ndarray:
    both_null = _bools(pc.and_(left.is_null(), right.is_null()))
    if pa.types.is_struct(left.type):
        equal = _bools(pc.and_(left.is_valid(), right.is_valid()))
        for one, other in zip(left.flatten(), right.flatten(), strict=True):
            equal &= _same(one, other)
        return np.asarray(equal | both_null)
    if pa.types.is_nested(left.type):
        pairs = zip(left.to_pylist(), right.to_pylist(), strict=True)
        return np.array([comparable(one, left.type) == comparable(other, left.type) for one, other in pairs], bool)
    if pa.types.is_null(left.type):
        return both_null
    equal = _bools(pc.fill_null(pc.equal(left, right), False))
    if pa.types.is_floating(left.type):
        equal |= _bools(pc.fill_null(pc.and_(pc.is_nan(left), pc.is_nan(right)), False))
    return np.asarray(equal | both_null)


def order_columns(column: Column) -> Iterator[pa.Array]:
    """Yield columns that, one after the other, order as the values do: NULL first, NaN last, structs field by field."""
    array = _whole(column)
    if pa.types.is_struct(array.type):
        yield array.is_valid().cast(pa.int8())
        for field in array.flatten():
            yield from order_columns(field)
    elif pa.types.is_nested(array.type):
        keys = [comparable(value, array.type) for value in array.to_pylist()]
        ranks = {key: rank for rank, key in enumerate(sorted(set(keys)))}
        yield pa.array([ranks[key] for key in keys], pa.int64())
    elif pa.types.is_floating(array.type):
        # Arrow puts NaN beside the NULLs.
        yield _bools(pc.fill_null(pc.is_nan(array), False)).astype(np.int8)
        yield pc.if_else(pc.is_nan(array), pa.scalar(0, array.type), array)
    elif pa.types.is_boolean(array.type) or pa.types.is_null(array.type):
        yield array.cast(pa.int8())
    elif pa.types.is_duration(array.type):
        yield array.cast(pa.int64())
    else:
        yield array


def sorted_by(*columns: Column) -> np.ndarray:
    """Return the positions of the values in ascending order, NULL first; equal ones keep their order."""
    parts = [part for column in columns for part in order_columns(column)]
    table = pa.table({str(at): part for at, part in enumerate(parts)})
    order = pc.sort_indices(table, [(name, "ascending", "at_start") for name in table.column_names])
    return np.asarray(order)


def before(column: Column, limit: pa.Scalar) -> np.ndarray:
    """Return which values come before `limit` in their order."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    values = _whole(pa.chunked_array([*chunks, pa.array([limit.as_py()], column.type)], column.type))
    order = sorted_by(values)
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.cumsum(~same_as_before(values.take(pa.array(order))))
    return np.asarray(ranks[:-1] < ranks[-1])


def comparable(value: Any, kind: pa.DataType) -> Any:
    """Return what Python can order and compare: NULL is the smallest value, NaN the greatest.

    Structs compare field by field; maps and arrays of structs by their JSON text, a map's entries in order.
    """
    if value is None:
        return (0,)
    if pa.types.is_struct(kind):
        return (1, *(comparable(value[field.name], field.type) for field in kind))
    if pa.types.is_map(kind):
        return (1, _text(sorted(value, key=lambda entry: _text(entry[0]))))
    if pa.types.is_nested(kind):
        of_items = kind.value_type
        if pa.types.is_nested(of_items):
            return (1, _text(value))
        return (1, *(comparable(item, of_items) for item in value))
    if isinstance(value, float):
        return (2, 0.0) if math.isnan(value) else (1, value)
    return (1, value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value)


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _whole(column: Column) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _bools(array: Column) -> np.ndarray:
    return np.array(array.to_numpy(zero_copy_only=False), bool)
