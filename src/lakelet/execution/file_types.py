"""Types of values that files write as text: inferred as Spark does, merged across files, and converted.

Inference of JSON: `JsonInferSchema`, of CSV: `CSVInferSchema` in Apache Spark's sources.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from typing import Any

from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    MapType,
    NullType,
    ShortType,
    StringType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from lakelet.execution.date_patterns import Parse

Convert = Callable[[Any], Any]
"""Turns a value of a file into one of a column; raises ValueError for one that does not fit."""

_INT_BITS: dict[type[DataType], int] = {ByteType: 7, ShortType: 15, IntegerType: 31, LongType: 63}
_DIGITS: dict[type[DataType], int] = {ByteType: 3, ShortType: 5, IntegerType: 10, LongType: 20}
_MAX_DIGITS = 38
_DATE = re.compile(r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2}))?)?")
_TIMESTAMP = re.compile(
    r"(\d{4})-(\d{1,2})-(\d{1,2})(?:[ T](\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d{1,9}))?)?\s*(Z|UTC|[+-]\d{1,2}(?::?\d{2})?)?)?"
)
_INTEGER = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SPECIAL = {"nan": math.nan, "inf": math.inf, "+inf": math.inf, "-inf": -math.inf,
            "infinity": math.inf, "+infinity": math.inf, "-infinity": -math.inf}  # fmt: skip


class Real(float):
    """A JSON number with a point or an exponent, and how the file writes it."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, text: str) -> Real:
        result = super().__new__(cls, text)
        result.text = text
        return result


def json_text(value: Any) -> str:
    """Return a value as compact JSON, numbers as the file writes them."""
    match value:
        case Real():
            return value.text
        case dict():
            return "{" + ",".join(f"{json_text(key)}:{json_text(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(json_text, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)


# -- inference ----------------------------------------------------------------------------------------------------


def json_type(value: Any, *, decimals: bool = False, timestamps: bool = False, primitives: bool = True) -> DataType:
    """Return the type of a JSON value.

    Args:
        decimals: real numbers are decimals where they fit.
        timestamps: text that looks like one is a timestamp.
        primitives: numbers and booleans have a type, otherwise they are text.
    """
    options = {"decimals": decimals, "timestamps": timestamps, "primitives": primitives}
    match value:
        case None:
            return NullType()
        case dict():
            fields = [StructField(name, json_type(value[name], **options), True) for name in sorted(value)]
            return StructType(fields) if fields else StringType()
        case list():
            kind: DataType = NullType()
            for item in value:
                kind = merged(kind, json_type(item, **options))
            return ArrayType(kind, True)
        case str():
            return TimestampType() if timestamps and _is(value, timestamp_of) else StringType()
        case _ if not primitives:
            return StringType()
        case bool():
            return BooleanType()
        case int():
            if -(2**63) <= value < 2**63:
                return LongType()
            return DecimalType(len(str(abs(value))), 0) if abs(value) < 10**_MAX_DIGITS else DoubleType()
        case Real() if decimals:
            return _decimal_type(value.text)
        case _:
            return DoubleType()


def _decimal_type(text: str) -> DataType:
    _, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        return DoubleType()
    scale = max(0, -exponent)
    precision = max(len(digits) + max(0, exponent), scale)
    return DecimalType(precision, scale) if precision <= _MAX_DIGITS else DoubleType()


def text_type(text: str) -> DataType:
    """Return the narrowest type of a CSV value or of a value in a path."""
    if _INTEGER.fullmatch(text):
        value = int(text)
        if -(2**31) <= value < 2**31:
            return IntegerType()
        if -(2**63) <= value < 2**63:
            return LongType()
        return DecimalType(len(str(abs(value))), 0) if abs(value) < 10**_MAX_DIGITS else DoubleType()
    if _FLOAT.fullmatch(text) or text in ("NaN", "Inf", "-Inf", "Infinity", "-Infinity"):
        return DoubleType()
    if re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", text) and _is(text, date_of):
        return DateType()
    if _is(text, timestamp_of) and len(text) > 10:
        return TimestampType()
    return BooleanType() if text.lower() in ("true", "false") else StringType()


_WIDTHS: tuple[type[DataType], ...] = (ByteType, ShortType, IntegerType, LongType)


def merged(one: DataType, other: DataType) -> DataType:
    """Return the type that holds the values of both; text holds everything."""
    if one == other:
        return one
    if isinstance(one, NullType):
        return other
    if isinstance(other, NullType):
        return one
    kinds = (type(one), type(other))
    if all(kind in _WIDTHS for kind in kinds):
        return max(one, other, key=lambda kind: _WIDTHS.index(type(kind)))
    numbers = (*_WIDTHS, DecimalType, FloatType, DoubleType)
    if all(kind in numbers for kind in kinds):
        if DoubleType in kinds or FloatType in kinds:
            return DoubleType()
        return _widest_decimal(_as_decimal(one), _as_decimal(other))
    if set(kinds) == {DateType, TimestampType}:
        return TimestampType()
    if isinstance(one, StructType) and isinstance(other, StructType):
        return merged_columns(one, other)
    if isinstance(one, ArrayType) and isinstance(other, ArrayType):
        return ArrayType(merged(one.elementType, other.elementType), True)
    if isinstance(one, MapType) and isinstance(other, MapType):
        return MapType(merged(one.keyType, other.keyType), merged(one.valueType, other.valueType), True)
    return StringType()


def merged_columns(one: StructType, other: StructType) -> StructType:
    """Return the columns of both: those of `one`, and what `other` adds."""
    types: dict[str, DataType] = {item.name: item.dataType for item in one.fields}
    for item in other.fields:
        types[item.name] = merged(types.get(item.name, NullType()), item.dataType)
    return StructType([StructField(name, kind, True) for name, kind in types.items()])


def _as_decimal(kind: DataType) -> DecimalType:
    if isinstance(kind, DecimalType):
        return kind
    return DecimalType(_DIGITS[type(kind)], 0)


def _widest_decimal(one: DecimalType, other: DecimalType) -> DataType:
    scale = max(one.scale, other.scale)
    whole = max(one.precision - one.scale, other.precision - other.scale)
    return DecimalType(whole + scale, scale) if whole + scale <= _MAX_DIGITS else DoubleType()


def settled(kind: DataType) -> DataType:
    """Return a type that a table can have: what only NULL was seen of is text."""
    match kind:
        case NullType():
            return StringType()
        case StructType():
            return StructType([StructField(item.name, settled(item.dataType), True) for item in kind.fields])
        case ArrayType():
            return ArrayType(settled(kind.elementType), True)
        case _:
            return kind


# -- values -------------------------------------------------------------------------------------------------------


def date_of(text: str) -> date:
    found = _DATE.match(text.strip())
    if not found or (len(text.strip()) > found.end() and text.strip()[found.end()] not in " T"):
        raise ValueError(text)
    return date(int(found[1]), int(found[2] or 1), int(found[3] or 1))


def timestamp_of(text: str) -> datetime:
    """Return a timestamp; one without a zone is UTC."""
    found = _TIMESTAMP.fullmatch(text.strip())
    if not found:
        raise ValueError(text)
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    micros = int((fraction or "").ljust(6, "0")[:6])
    value = datetime(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), micros, UTC)
    if zone and zone[0] in "+-":
        digits = zone[1:].replace(":", "")
        hours, minutes = (int(digits), 0) if len(digits) <= 2 else (int(digits[:-2]), int(digits[-2:]))
        shift = timedelta(hours=hours, minutes=minutes)
        value = value.replace(tzinfo=timezone(shift if zone[0] == "+" else -shift)).astimezone(UTC)
    return value


class PartialValue(ValueError):
    """A value with a struct in which a field does not fit: `value` has NULL for that field, and all others."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.value = value


def converter(kind: DataType, formats: Mapping[str, Parse], *, from_text: bool) -> Convert:
    """Return what turns values into those of `kind`.

    Args:
        formats: `date` and `timestamp`: what reads them, where the user gave a pattern.
        from_text: values are text, as in CSV and paths; otherwise they are JSON values, and text is no number.
    """
    moment = formats.get("timestamp", timestamp_of)
    day = (lambda text: formats["date"](text).date()) if "date" in formats else date_of
    match kind:
        case StringType():
            return lambda value: value if isinstance(value, str) else json_text(value)
        case ByteType() | ShortType() | IntegerType() | LongType():
            limit = 1 << _INT_BITS[type(kind)]
            return lambda value: _integer(value, limit, from_text)
        case FloatType() | DoubleType():
            return lambda value: _real(value, from_text)
        case DecimalType():
            return lambda value: _decimal(value, kind, from_text)
        case BooleanType():
            return lambda value: _boolean(value, from_text)
        case DateType():
            return lambda value: day(_text(value))
        case TimestampType():
            return lambda value: (
                datetime.fromtimestamp(value, UTC) if type(value) is int and not from_text else moment(_text(value))
            )
        case TimestampNTZType():
            return lambda value: moment(_text(value)).replace(tzinfo=None)
        case BinaryType():
            return lambda value: _text(value).encode() if from_text else base64.b64decode(_text(value), validate=True)
        case ArrayType() if not from_text:
            item = converter(kind.elementType, formats, from_text=False)
            return lambda value: _items(item, _of(value, list))
        case MapType() if not from_text:
            item = converter(kind.valueType, formats, from_text=False)
            return lambda value: _entries(item, _of(value, dict))
        case StructType() if not from_text:
            fields = [(field.name, converter(field.dataType, formats, from_text=False)) for field in kind.fields]
            return lambda value: _struct(_of(value, dict), fields)
        case _:
            return _misfit


def _items(convert: Convert, values: Iterable[Any]) -> list[Any]:
    """Convert the items of an array or a map; one that does not fit at all makes the whole unfit."""
    result: list[Any] = []
    is_partial = False
    for value in values:
        try:
            result.append(None if value is None else convert(value))
        except PartialValue as error:
            result.append(error.value)
            is_partial = True
    if is_partial:
        raise PartialValue(result)
    return result


def _entries(convert: Convert, value: dict[str, Any]) -> list[tuple[str, Any]]:
    try:
        return list(zip(value, _items(convert, value.values()), strict=True))
    except PartialValue as error:
        raise PartialValue(list(zip(value, error.value, strict=True))) from error


def _struct(value: dict[str, Any], fields: Sequence[tuple[str, Convert]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    is_partial = False
    for name, convert in fields:
        try:
            result[name] = None if value.get(name) is None else convert(value[name])
        except (ValueError, TypeError, OverflowError) as error:
            result[name] = error.value if isinstance(error, PartialValue) else None
            is_partial = True
    if is_partial:
        raise PartialValue(result)
    return result


def _misfit(value: Any) -> Any:
    raise ValueError(value)


def _of(value: Any, kind: type) -> Any:
    return value if isinstance(value, kind) else _misfit(value)


def _text(value: Any) -> str:
    return str(_of(value, str))


def _integer(value: Any, limit: int, from_text: bool) -> int:
    if from_text and _INTEGER.fullmatch(value):
        value = int(value)
    if type(value) is not int or not -limit <= value < limit:
        raise ValueError(value)
    return value


def _real(value: Any, from_text: bool) -> float:
    if isinstance(value, str):
        if value.lower() in _SPECIAL:
            return _SPECIAL[value.lower()]
        if not from_text or not _FLOAT.fullmatch(value):
            raise ValueError(value)
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(value)
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(value) from error


def _decimal(value: Any, kind: DecimalType, from_text: bool) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str if from_text else int | float):
        raise ValueError(value)
    try:
        exact = Decimal(value.text if isinstance(value, Real) else str(value))
        result = exact.quantize(Decimal(1).scaleb(-kind.scale), rounding="ROUND_HALF_UP")
    except InvalidOperation as error:
        raise ValueError(value) from error
    if not result.is_finite() or abs(result) >= Decimal(10) ** (kind.precision - kind.scale):
        raise ValueError(value)
    return result


def _boolean(value: Any, from_text: bool) -> bool:
    if from_text and value.lower() in ("true", "false"):
        return bool(value.lower() == "true")
    return bool(_of(value, bool))


def _is(text: str, parse: Callable[[str], Any]) -> bool:
    try:
        parse(text)
    except ValueError:
        return False
    return True
