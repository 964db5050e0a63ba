"""Rows that a test gives, as an Arrow table of the right types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import from_arrow_type

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.storage.schema import stored_type
from lakelet.testing.columns import Columns

_CONVERSION = (pa.ArrowException, ValueError, TypeError, ArithmeticError)


def table_of(rows: Any, columns: Columns, *, label: str, zone: ZoneInfo) -> pa.Table:
    """Return rows with the columns of an input; one that they lack is NULL.

    Args:
        rows: a list of dicts, an Arrow table, or a frame of pandas or polars.
        zone: of times without a zone.

    Raises:
        DefinitionError: `TEST_ROWS_INVALID`.
    """
    given = _given_columns(rows, label)
    names = {name.lower(): name for name in columns.types}
    for name in given.values:
        if name.lower() not in names:
            if columns.is_complete:
                near = did_you_mean(name, list(columns.types))
                raise DefinitionError(
                    "TEST_ROWS_INVALID",
                    f"`{label}` has no column `{name}`",
                    hint=f"did you mean `{near}`?" if near else f"its columns are {', '.join(columns.types)}",
                )
            names[name.lower()] = name
    if not names:
        raise DefinitionError(
            "TEST_ROWS_INVALID",
            f"the columns of `{label}` are not known",
            cause="its source does not exist, its query names no columns, and no row was given",
            hint='give a row, or the columns: `test.given(name, [], schema="id INT, name STRING")`',
        )
    by_key = {name.lower(): values for name, values in given.values.items()}
    arrays: dict[str, pa.Array] = {}
    for key, name in names.items():
        kind = columns.types.get(name)
        values = by_key.get(key)
        if values is None:
            arrays[name] = pa.nulls(given.num_rows, kind or pa.string())
        else:
            arrays[name] = _converted(values, kind, zone, f"`{name}` of `{label}`")
    return pa.table(arrays)


class _Given:
    """Columns as they were given: Python values, or Arrow arrays."""

    def __init__(self, values: Mapping[str, Any], num_rows: int) -> None:
        self.values = values
        self.num_rows = num_rows


def _given_columns(rows: Any, label: str) -> _Given:
    table: pa.Table | None = None
    if isinstance(rows, pa.Table):
        table = rows
    elif type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns"):
        table = pa.Table.from_pandas(rows, preserve_index=False)
    elif hasattr(rows, "__arrow_c_stream__"):
        table = pa.table(rows)
    if table is not None:
        values = {name: table.column(name).combine_chunks() for name in table.column_names}
        return _Given({name: _flat(array) for name, array in values.items()}, table.num_rows)
    listed = list(rows) if isinstance(rows, Iterable) and not isinstance(rows, (str, bytes, Mapping)) else [rows]
    wrong = next((row for row in listed if not isinstance(row, Mapping)), None)
    if wrong is not None:
        raise DefinitionError(
            "TEST_ROWS_INVALID",
            f"a row of `{label}` is a {type(wrong).__name__}",
            hint='give a list of dicts, such as `[{"id": 1}]`, an Arrow table, or a frame of pandas or polars',
        )
    names = dict.fromkeys(str(name) for row in listed for name in row)
    return _Given({name: [row.get(name) for row in listed] for name in names}, len(listed))


def _flat(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _converted(values: Any, kind: pa.DataType | None, zone: ZoneInfo, what: str) -> pa.Array:
    try:
        return _array(values, kind, zone)
    except _CONVERSION as error:
        cause = str(error)
        for position, value in enumerate(values):
            try:
                _array([value.as_py() if isinstance(value, pa.Scalar) else value], kind, zone)
            except _CONVERSION as single:
                cause = f"row {position + 1} has {value!r}: {single}"
                break
        raise DefinitionError(
            "TEST_ROWS_INVALID",
            f"{what} has a value that is no {from_arrow_type(kind).simpleString()}"
            if kind is not None
            else f"{what} has values of different types",
            cause=cause,
            hint="give values of the column's type",
        ) from error


def _array(values: Any, kind: pa.DataType | None, zone: ZoneInfo) -> pa.Array:
    if isinstance(values, pa.Array):
        return _cast(values, kind or stored_type(values.type), zone)
    if kind is None:
        aware = [_aware(value, zone) for value in values]
        array = pa.array(aware)
        return _cast(array, stored_type(array.type), zone)
    read = [_read(value, kind, zone) for value in values]
    try:
        return pa.array(read, kind)
    except _CONVERSION:
        return pa.array(read).cast(kind)


def _cast(array: pa.Array, kind: pa.DataType, zone: ZoneInfo) -> pa.Array:
    if pa.types.is_timestamp(array.type) and array.type.tz is None and pa.types.is_timestamp(kind) and kind.tz:
        array = pc.assume_timezone(array, str(zone))
    return array if array.type.equals(kind) else array.cast(kind)


def _read(value: Any, kind: pa.DataType, zone: ZoneInfo) -> Any:
    """Return a Python value in the form that Arrow takes for a type: times and numbers may be text."""
    if value is None:
        return None
    if pa.types.is_timestamp(kind):
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        return _aware(value, zone) if kind.tz else value
    if pa.types.is_date(kind) and isinstance(value, str):
        return date.fromisoformat(value)
    if pa.types.is_decimal(kind) and isinstance(value, (int, float, str)):
        return Decimal(str(value))
    return value


def _aware(value: Any, zone: ZoneInfo) -> Any:
    return value.replace(tzinfo=zone) if isinstance(value, datetime) and value.tzinfo is None else value
