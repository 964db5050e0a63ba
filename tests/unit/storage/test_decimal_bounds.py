"""Which bounds of decimals are believed, and how delta-rs is told to write none."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakelet.storage.decimal_bounds import (
    doubtful,
    has_wide,
    holds_wide,
    is_wide,
    may_be_rounded,
    misread,
    rounded,
    writer_properties,
)

WIDE = pa.decimal128(18, 2)


@pytest.mark.parametrize(
    ("text", "scale", "doubted"),
    [
        ("0", 0, False),
        ("999999999999999", 0, False),
        ("1000000000000000", 0, True),
        ("9007199254740992", 0, True),
        ("9007199254740993", 0, False),  # no double is this number, so nobody has rounded to it
        ("9223372036854775807", 0, True),  # what is cut off at 64 bits
        ("-9223372036854775808", 0, True),
        ("99999999999999999999", 0, False),
        ("9999999999999.99", 2, False),
        ("-10000000000000.00", 2, True),
        ("1234567890123456.78", 2, True),
        ("1.0000000000", 10, False),
        ("1.000000000000000000", 18, True),
    ],
)
def test_bounds_of_more_than_15_digits_are_believed_where_no_double_is_the_same(
    text: str, scale: int, doubted: bool
) -> None:
    value = Decimal(text)
    assert may_be_rounded(value, scale) is doubted
    bounds = pa.chunked_array([pa.array([value, None], pa.decimal128(38, scale))])
    assert doubtful(bounds).tolist() == [doubted, False]


@given(st.integers(-(10**38) + 1, 10**38 - 1))
def test_whatever_delta_rs_makes_of_another_whole_number_is_doubted(number: int) -> None:
    written = max(-(2**63), min(2**63 - 1, int(float(number))))
    assert written == number or may_be_rounded(Decimal(written), 0)


@given(st.integers(-(10**18) + 1, 10**18 - 1), st.sampled_from((1, 2, 9, 18)))
def test_whatever_delta_rs_makes_of_another_decimal_is_doubted_by_an_exact_reader(units: int, scale: int) -> None:
    unit = Decimal(1).scaleb(-scale)
    written = Decimal(repr(float(units) / 10.0**scale)).quantize(unit)
    bounds = pa.chunked_array([pa.array([written], pa.decimal128(38, scale))])
    assert written == units * unit or rounded(bounds).tolist() == [True]


def test_an_exact_reader_believes_what_no_double_has_as_its_text() -> None:
    values = [Decimal("1234567890123456.78"), Decimal("1234567890123456.80"), Decimal("1.25"), None]
    assert rounded(pa.chunked_array([pa.array(values, WIDE)])).tolist() == [False, True, False, False]
    codes = [Decimal(2**60), Decimal(2**60 + 1)]
    assert rounded(pa.chunked_array([pa.array(codes, pa.decimal128(20, 0))])).tolist() == [True, False]


def test_bounds_that_sail_reads_as_others() -> None:
    values = [Decimal("1234567890123456.78"), Decimal("12345678901234.50"), Decimal("1.25"), None]
    assert misread(pa.chunked_array([pa.array(values, pa.decimal128(38, 2))])).tolist() == [True, False, False, False]
    whole = pa.chunked_array([pa.array([Decimal(10**30 + 1)], pa.decimal128(38, 0))])
    assert misread(whole).tolist() == [False]


def test_other_types_have_nothing_to_doubt() -> None:
    for values in (pa.array([2**60]), pa.array([Decimal(1)], pa.decimal128(15, 0)), pa.array(["x"])):
        column = pa.chunked_array([values])
        assert not np.concatenate([doubtful(column), misread(column)]).any()


def test_wide_decimals_are_looked_for_in_structs() -> None:
    inside = pa.struct([("a", pa.struct([("p", WIDE)]))])
    assert is_wide(WIDE)
    assert not is_wide(inside)
    assert holds_wide(inside)
    assert not holds_wide(pa.list_(WIDE))
    assert not has_wide(pa.schema([("s", inside)]))


def test_tables_without_wide_decimals_are_written_as_delta_rs_writes_them() -> None:
    schema = pa.schema([("n", pa.int64()), ("d", pa.decimal128(15, 2)), ("l", pa.list_(WIDE))])
    assert writer_properties(schema) is None
    assert writer_properties(schema, compacts=True) is None
    assert writer_properties(schema, row_group_rows=10).column_properties is None


def test_properties_name_the_wide_columns_and_keep_the_compression() -> None:
    schema = pa.schema([("n", pa.int64()), ("d", WIDE)])
    found = writer_properties(schema)
    assert set(found.column_properties) == {"d"}
    assert found.compression == "SNAPPY"
    assert writer_properties(schema, compacts=True).compression == "ZSTD(4)"
    groups = writer_properties(schema, row_group_rows=10)
    assert groups.max_row_group_size == 10
    assert groups.default_column_properties.dictionary_enabled is False
    assert groups.default_column_properties.statistics_enabled == "CHUNK"
