"""Types of tables: what is stored, what fits, how rows are brought into shape."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakelet.errors import StorageError
from lakelet.storage.schema import compare, conform, evolved, nullable


def schema(**columns: Any) -> pa.Schema:
    return pa.schema(list(columns.items()))


def conformed(rows: dict[str, Any], **columns: Any) -> list[dict[str, Any]]:
    batch = rows if isinstance(rows, pa.RecordBatch) else pa.RecordBatch.from_pydict(rows)
    result = conform(batch, schema(**columns))
    result.validate(full=True)
    return result.to_pylist()  # type: ignore[no-any-return]


# -- rows into shape


def test_columns_are_matched_by_name_in_any_order_and_case() -> None:
    assert conformed({"B": ["x"], "a": [1]}, a=pa.int64(), b=pa.string(), c=pa.date32()) == [
        {"a": 1, "b": "x", "c": None}
    ]


def test_a_value_that_does_not_fit_names_its_column() -> None:
    with pytest.raises(StorageError) as raised:
        conformed({"a": ["x"]}, a=pa.int64())
    assert raised.value.condition == "CAST_INVALID_INPUT"
    assert "`a`" in raised.value.message


def test_a_number_that_is_too_large_is_not_wrapped() -> None:
    with pytest.raises(StorageError, match="CAST_INVALID_INPUT"):
        conformed({"a": [2**40]}, a=pa.int32())
    with pytest.raises(StorageError, match="CAST_INVALID_INPUT"):
        conformed({"a": [Decimal("123.45")]}, a=pa.decimal128(4, 2))


def test_structs_are_matched_by_field_also_inside_of_lists_and_slices() -> None:
    have = pa.struct([("y", pa.int32()), ("X", pa.string())])
    want = pa.struct([("x", pa.string()), ("y", pa.int64()), ("z", pa.int64())])
    rows = [[{"y": 1, "X": "a"}, None], None, [], [{"y": 2, "X": "b"}]]
    batch = pa.record_batch([pa.array(rows, pa.list_(have))], names=["items"]).slice(1)
    result = conform(batch, schema(items=pa.list_(want)))
    result.validate(full=True)
    assert result["items"].to_pylist() == [None, [], [{"x": "b", "y": 2, "z": None}]]


def test_an_untyped_column_is_null_of_any_type() -> None:
    assert conformed({"a": pa.nulls(1)}, a=pa.struct([("x", pa.int64())])) == [{"a": None}]


@given(
    st.lists(st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=3)), max_size=6),
    st.integers(0, 6),
)
def test_lists_of_structs_keep_every_value(values: list[Any], offset: int) -> None:
    rows = [v if v is None else [None if n is None else {"n": n} for n in v] for v in values]
    kind = pa.list_(pa.struct([("n", pa.int32())]))
    batch = pa.record_batch([pa.array(rows, kind)], names=["a"]).slice(offset)
    want = pa.list_(pa.struct([("n", pa.int64())]))
    assert conform(batch, schema(a=want))["a"].to_pylist() == rows[offset:]


# -- schemas beside each other


def test_a_new_column_is_added_and_a_missing_one_named() -> None:
    change = compare(schema(a=pa.int64(), b=pa.string()), schema(A=pa.int64(), c=pa.date32()))
    assert (change.added, change.missing, change.conflicts, change.evolves) == (("c",), ("b",), (), True)


@pytest.mark.parametrize(
    ("incoming", "stored", "fits"),
    [
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.float32(), pa.float64(), True),
        (pa.int32(), pa.float64(), True),
        (pa.int64(), pa.float64(), False),
        (pa.decimal128(8, 2), pa.decimal128(10, 2), True),
        (pa.decimal128(10, 3), pa.decimal128(10, 2), False),
        (pa.decimal128(10, 2), pa.decimal128(10, 3), False),
        (pa.large_string(), pa.string(), True),
        (pa.string(), pa.int64(), False),
        (pa.date32(), pa.timestamp("us", "UTC"), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), False),
        (pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "UTC"), True),
        (pa.null(), pa.int64(), True),
        (pa.struct([("x", pa.int32())]), pa.struct([("x", pa.int64()), ("y", pa.string())]), True),
        (pa.struct([("z", pa.int32())]), pa.struct([("x", pa.int64())]), False),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), True),
        (pa.map_(pa.string(), pa.int64()), pa.map_(pa.string(), pa.int64()), True),
        (pa.map_(pa.string(), pa.string()), pa.map_(pa.string(), pa.int64()), False),
    ],
    ids=str,
)
def test_a_type_fits_where_every_value_does(incoming: pa.DataType, stored: pa.DataType, fits: bool) -> None:
    change = compare(nullable(schema(a=stored)), schema(a=incoming))
    assert (change.conflicts == ()) is fits
    if fits:
        conform(pa.record_batch([pa.nulls(1, incoming)], names=["a"]), nullable(schema(a=stored)))


def test_an_evolved_schema_keeps_stored_types_and_order() -> None:
    result = evolved(schema(b=pa.int64(), a=pa.string()), schema(A=pa.string(), c=pa.large_string(), b=pa.int32()))
    assert [(field.name, str(field.type)) for field in result] == [("b", "int64"), ("a", "string"), ("c", "string")]
