"""The rows of a query as JSON, CSV and a table."""

from __future__ import annotations

import datetime
import io
import json
from decimal import Decimal

import pyarrow as pa
import pytest

from lakelet.terminal.rows import to_json, write_csv, write_json, write_table

ROWS = pa.table(
    {
        "id": [1, 2],
        "price": pa.array([Decimal("1.10"), None], pa.decimal128(5, 2)),
        "at": pa.array([datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC), None], pa.timestamp("us", tz="UTC")),
        "tags": pa.array([["a", None], None], pa.list_(pa.string())),
    }
)


def test_json_is_an_array_of_objects_that_any_reader_takes() -> None:
    out = io.StringIO()
    write_json(ROWS, out)
    assert json.loads(out.getvalue(), parse_float=Decimal) == [
        {"id": 1, "price": Decimal("1.10"), "at": "2026-03-01T00:00:00+00:00", "tags": ["a", None]},
        {"id": 2, "price": None, "at": None, "tags": None},
    ]


def test_json_of_no_rows_is_an_empty_array() -> None:
    out = io.StringIO()
    write_json(ROWS.slice(0, 0), out)
    assert out.getvalue() == "[]\n"


def test_two_columns_of_one_name_both_reach_json() -> None:
    out = io.StringIO()
    write_json(pa.table([[1], [2]], names=["a", "a"]), out)
    assert json.loads(out.getvalue()) == [{"a": 1, "a_2": 2}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("12345678901234567890.10"), "12345678901234567890.10"),
        (Decimal("1E+3"), "1000"),
        (float("nan"), '"nan"'),
        (True, "true"),
        ("é\n", '"é\\n"'),
        (datetime.date(2026, 3, 1), '"2026-03-01"'),
        (b"\x00\xff", '"AP8="'),
        ({"k": [1, None]}, '{"k": [1, null]}'),
    ],
)
def test_each_kind_of_value_is_valid_json_without_loss(value: object, text: str) -> None:
    assert to_json(value) == text


def test_csv_has_empty_fields_for_null_and_json_for_nested_values() -> None:
    out = io.StringIO()
    write_csv(ROWS, out)
    assert out.getvalue().splitlines() == [
        "id,price,at,tags",
        '1,1.10,2026-03-01 00:00:00+00:00,"[""a"", null]"',
        "2,,,",
    ]


def test_a_table_says_null_and_how_many_rows_there_are() -> None:
    out = io.StringIO()
    write_table(ROWS, out)
    lines = [line.split() for line in out.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["id", "price", "at", "tags"]
    assert lines[3] == ["2", "NULL", "NULL", "NULL"]
    assert lines[-1] == ["2", "rows"]


def test_a_long_table_is_cut_and_says_so() -> None:
    out = io.StringIO()
    write_table(pa.table({"n": list(range(250))}), out)
    assert out.getvalue().splitlines()[-1] == "250 rows, the first 100 shown"


def test_wide_rows_are_not_folded_in_a_file() -> None:
    out = io.StringIO()
    write_table(pa.table({"a": ["x" * 300], "[b]": ["[red]y"]}), out)
    assert any("x" * 300 in line and "[red]y" in line for line in out.getvalue().splitlines())
