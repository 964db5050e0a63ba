"""Types of text values: what is inferred, how types merge, what is converted and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from pyspark.sql.types import ArrayType, DataType, DecimalType, DoubleType, LongType, NullType, StringType, StructType

from lakelet.execution.file_types import Real, converter, json_text, json_type, merged, settled, text_type

_TYPES = {
    "long": LongType(), "double": DoubleType(), "string": StringType(), "void": NullType(),
    "decimal(22,0)": DecimalType(22, 0), "decimal(10,2)": DecimalType(10, 2),
}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, "bigint"), (2**70, "decimal(22,0)"), (10**40, "double"), (Real("1.0"), "double"), (True, "boolean"), ("1", "string"),
     (None, "void"), ([1, Real("2.5")], "array<double>"), ({"b": 1, "a": None}, "struct<a:void,b:bigint>"), ({}, "string"),
     ([], "array<void>")],
)  # fmt: skip
def test_types_of_json_values(value: Any, expected: str) -> None:
    assert json_type(value).simpleString() == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", "int"), ("-12345678901", "bigint"), ("1.5", "double"), ("1e3", "double"), ("true", "boolean"), ("NaN", "double"),
     ("2026-01-02", "date"), ("2026-01-02 03:04:05", "timestamp"), ("2026-13-02", "string"),
     ("1_000", "string"), ("x", "string")],
)  # fmt: skip
def test_types_of_csv_values(text: str, expected: str) -> None:
    assert text_type(text).simpleString() == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [(_TYPES["long"], _TYPES["double"], "double"), (_TYPES["long"], _TYPES["void"], "bigint"),
     (_TYPES["long"], _TYPES["string"], "string"), (_TYPES["long"], _TYPES["decimal(22,0)"], "decimal(22,0)"),
     (_TYPES["long"], _TYPES["decimal(10,2)"], "decimal(22,2)"), (ArrayType(LongType()), LongType(), "string"),
     (StructType().add("a", LongType()), StructType().add("b", LongType()), "struct<a:bigint,b:bigint>")],
)  # fmt: skip
def test_merged_types_do_not_depend_on_the_order(one: DataType, other: DataType, expected: str) -> None:
    assert merged(one, other).simpleString() == expected
    assert sorted(merged(other, one).simpleString()) == sorted(expected)


def test_what_was_null_everywhere_is_text() -> None:
    kind = json_type({"a": None, "b": [None], "c": {"d": None}})
    assert settled(kind).simpleString() == "struct<a:string,b:array<string>,c:struct<d:string>>"


def test_numbers_keep_their_text() -> None:
    assert json_text({"a": [Real("1.50"), 2, None, "é"]}) == '{"a":[1.50,2,null,"é"]}'


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("int", "7", 7), ("int", "3000000000", ValueError), ("int", "7.0", ValueError), ("bigint", "x", ValueError),
     ("double", "1e3", 1000.0), ("double", "", ValueError), ("decimal(5,2)", "1.005", Decimal("1.01")),
     ("decimal(3,2)", "12", ValueError), ("boolean", "TRUE", True), ("boolean", "1", ValueError),
     ("date", "2026-1-2", date(2026, 1, 2)), ("date", "2026-02-30", ValueError),
     ("timestamp", "2026-01-02T03:04:05.123456+02:00", datetime(2026, 1, 2, 1, 4, 5, 123456, UTC)),
     ("timestamp", "2026-01-02 03:04", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
     ("timestamp", "soon", ValueError)],
)  # fmt: skip
def test_values_of_text_files(kind: str, text: str, value: Any) -> None:
    convert = converter(_kind(kind), {}, from_text=True)
    if value is ValueError:
        with pytest.raises(ValueError, match=r"|."):
            convert(text)
    else:
        assert convert(text) == value


def _kind(name: str) -> DataType:
    from pyspark.sql.types import BooleanType, DateType, IntegerType, TimestampType

    if name.startswith("decimal"):
        precision, scale = name[8:-1].split(",")
        return DecimalType(int(precision), int(scale))
    return {"int": IntegerType(), "bigint": LongType(), "double": DoubleType(), "boolean": BooleanType(),
            "date": DateType(), "timestamp": TimestampType()}[name]  # fmt: skip


def test_json_text_is_no_number() -> None:
    with pytest.raises(ValueError, match="1"):
        converter(LongType(), {}, from_text=False)("1")
