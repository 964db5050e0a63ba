"""The rows of the four streams: columns, ranges and realism."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from apparel.generator.model import (
    CATEGORIES,
    DIMENSIONS,
    GENDERS,
    MICROS_PER_DAY,
    PAYMENT_METHODS,
    STORE_STATUSES,
    RowMaker,
    Stream,
    make_sales,
)

NOW = 1_767_225_600_000_000


def sales(count=20_000, *, seed=1, return_rate=0.05, bad_discount_rate=0.02):
    return make_sales(
        np.random.default_rng(seed),
        first_id=1,
        event_times=np.full(count, NOW),
        stores=np.array([1, 2, 3], np.int32),
        customers=np.arange(1, 51, dtype=np.int32),
        products=np.arange(1, 21, dtype=np.int32),
        return_rate=return_rate,
        bad_discount_rate=bad_discount_rate,
    )


def dimension_rows(stream, count=400, *, seed=1, **rates):
    maker = RowMaker(**rates)
    maker.random.seed(seed)
    return [maker.row(stream, i, now=NOW, updated=NOW - i) for i in range(1, count + 1)]


@pytest.mark.parametrize(
    ("stream", "columns"),
    [
        (
            Stream.SALES,
            "transaction_id int32, store_id int32, event_time timestamp[us, tz=UTC], customer_id int32, "
            "product_id int32, quantity int32, unit_price double, total_amount double, payment_method string, "
            "discount_applied double, "
            "tax_amount double",
        ),
        (
            Stream.CUSTOMERS,
            "customer_id int32, name string, email string, address string, join_date timestamp[us, tz=UTC], "
            "loyalty_points int32, phone_number string, age int32, gender string, "
            "last_update_time timestamp[us, tz=UTC]",
        ),
        (
            Stream.ITEMS,
            "product_id int32, name string, category string, brand string, price double, stock_quantity int32, "
            "size string, color string, description string, last_update_time timestamp[us, tz=UTC]",
        ),
        (
            Stream.STORES,
            "store_id int32, name string, address string, manager string, open_date timestamp[us, tz=UTC], "
            "status string, phone_number string, last_update_time timestamp[us, tz=UTC]",
        ),
    ],
)
def test_each_stream_has_exactly_the_columns_of_the_specification(stream, columns):
    assert ", ".join(f"{field.name} {field.type}" for field in stream.schema) == columns


def test_total_is_quantity_times_price_and_tax_is_8_percent_of_it_in_whole_cents():
    for row in sales().to_pylist():
        cents = row["quantity"] * round(row["unit_price"] * 100)
        assert row["total_amount"] == cents / 100
        assert abs(row["tax_amount"] * 100 - cents * 0.08) <= 0.5 + 1e-6


def test_money_has_two_decimals():
    table = sales()
    for column in ("unit_price", "total_amount", "discount_applied", "tax_amount"):
        assert all(value == round(value, 2) for value in table[column].to_pylist())


def test_quantity_price_and_discount_fill_their_ranges():
    table = sales(return_rate=0, bad_discount_rate=0)
    assert set(table["quantity"].to_pylist()) == {1, 2, 3, 4, 5}
    prices, discounts = (pc.min_max(table[name]).as_py() for name in ("unit_price", "discount_applied"))
    assert 10 <= prices["min"] < 10.2
    assert 99.8 < prices["max"] <= 100
    assert 0 <= discounts["min"] < 0.1
    assert 19.9 < discounts["max"] <= 20
    assert set(table["payment_method"].to_pylist()) == set(PAYMENT_METHODS)


def test_a_return_negates_quantity_total_and_tax_and_nothing_else():
    kept, returned = sales(500, return_rate=0), sales(500, return_rate=1)
    for column in ("quantity", "total_amount", "tax_amount"):
        assert returned[column].to_pylist() == [-value for value in kept[column].to_pylist()]
    others = ["transaction_id", "unit_price", "discount_applied", "payment_method", "customer_id"]
    assert returned.select(others) == kept.select(others)


def test_returns_and_bad_discounts_occur_at_their_rates():
    table = sales()
    assert pc.sum(pc.less(table["quantity"], 0)).as_py() / 20_000 == pytest.approx(0.05, abs=0.006)
    assert pc.sum(pc.less(table["discount_applied"], 0)).as_py() / 20_000 == pytest.approx(0.02, abs=0.004)


def test_a_bad_discount_is_never_zero():
    assert pc.max(sales(bad_discount_rate=1)["discount_applied"]).as_py() < 0


@pytest.mark.parametrize("stream", DIMENSIONS)
def test_dimension_rows_have_every_column_in_the_types_of_the_schema(stream):
    table = pa.Table.from_pylist(dimension_rows(stream), stream.schema)
    assert all(table[name].null_count == 0 for name in table.column_names)
    assert set(dimension_rows(stream, 1)[0]) == set(stream.schema.names)


def test_customers_pass_every_rule_of_the_quality_view():
    for row in dimension_rows(Stream.CUSTOMERS):
        assert re.fullmatch(r"[a-z0-9.]+@example\.(com|org|net)", row["email"])
        assert 18 <= row["age"] <= 100
        assert row["loyalty_points"] >= 0
        assert row["gender"] in GENDERS
        assert NOW - 5 * 365 * MICROS_PER_DAY <= row["join_date"] < NOW


def test_products_pass_every_rule_of_the_quality_view():
    for row in dimension_rows(Stream.ITEMS):
        assert 0 < row["price"] < 10_000
        assert row["price"] == round(row["price"], 2)
        assert row["stock_quantity"] >= 0
        assert row["category"] in CATEGORIES
        assert row["brand"]


def test_stores_pass_every_rule_of_the_quality_view():
    rows = dimension_rows(Stream.STORES)
    assert {row["status"] for row in rows} == set(STORE_STATUSES)
    assert all(row["manager"] and row["open_date"] < NOW for row in rows)


def test_emails_and_managers_are_missing_at_their_rates():
    customers = dimension_rows(Stream.CUSTOMERS, 4000, missing_email_rate=0.02)
    stores = dimension_rows(Stream.STORES, 4000, missing_manager_rate=0.02)
    assert sum(row["email"] is None for row in customers) / 4000 == pytest.approx(0.02, abs=0.008)
    assert sum(row["manager"] is None for row in stores) / 4000 == pytest.approx(0.02, abs=0.008)


def test_the_same_seed_gives_the_same_rows_and_another_seed_other_rows():
    assert sales(100) == sales(100)
    assert sales(100) != sales(100, seed=2)
    for stream in DIMENSIONS:
        assert dimension_rows(stream, 20) == dimension_rows(stream, 20)
        assert dimension_rows(stream, 20) != dimension_rows(stream, 20, seed=2)
