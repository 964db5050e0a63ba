"""The rules of the apparel pipeline, one sentence each; they double as examples of `lakelet.testing`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

import apparel
from lakelet.testing import ExpectationViolation, PipelineTest

PIPELINE = Path(apparel.__file__).parent / "pipeline"
LANDING = "/Volumes/apparel_store/00_landing/streaming"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)

SALE: dict[str, Any] = {
    "transaction_id": 1, "store_id": 10, "event_time": "2024-05-01 10:00", "customer_id": 20, "product_id": 30,
    "quantity": 2, "unit_price": 10.0, "total_amount": 20.0, "payment_method": "Cash", "discount_applied": 0.0,
    "tax_amount": 1.6,
}  # fmt: skip
CUSTOMER: dict[str, Any] = {
    "customer_id": 20, "name": "Ann", "email": "ann@shop.example", "address": "Main St 1", "phone_number": "1",
    "join_date": "2020-01-01", "loyalty_points": 5, "age": 30, "gender": "Female", "last_update_time": "2024-01-01",
}  # fmt: skip
PRODUCT: dict[str, Any] = {
    "product_id": 30, "name": "Shirt", "category": "Casual Wear", "brand": "Acme", "price": 10.0, "stock_quantity": 7,
    "size": "M", "color": "blue", "description": "A shirt", "last_update_time": "2024-01-01",
}  # fmt: skip
STORE: dict[str, Any] = {
    "store_id": 10, "name": "Downtown", "address": "Main St 2", "manager": "Bob", "open_date": "2019-01-01",
    "status": "Open", "phone_number": "2", "last_update_time": "2024-01-01",
}  # fmt: skip


@pytest.fixture
def test() -> Iterator[PipelineTest]:
    with PipelineTest(PIPELINE, now=NOON) as test:
        yield test


# -- bronze -------------------------------------------------------------------------------------------------------


def test_bronze_casts_every_column_and_adds_when_and_whence_it_came(test: PipelineTest) -> None:
    landed = {**SALE, "transaction_id": "1", "event_time": datetime(2024, 5, 1, 10, tzinfo=UTC), "quantity": 2}
    test.given(f"{LANDING}/sales", [landed])
    (row,) = test.run("01_bronze.bronze_sales").rows
    assert (row["transaction_id"], row["quantity"], row["total_amount"]) == (1, 2, 20.0)
    assert row["ingest_timestamp"] == NOON
    assert row["source_file_path"].endswith(".parquet")


@pytest.mark.parametrize(
    ("stream", "table", "key"),
    [
        ("sales", "bronze_sales", "transaction_id"),
        ("customers", "bronze_customers", "customer_id"),
        ("items", "bronze_products", "product_id"),
        ("stores", "bronze_stores", "store_id"),
    ],
)
def test_a_landed_row_without_its_id_fails_the_update(test: PipelineTest, stream: str, table: str, key: str) -> None:
    test.given(f"{LANDING}/{stream}", [{key: 1}, {key: None}])
    with pytest.raises(ExpectationViolation, match=f"valid_{key}"):
        test.run(f"01_bronze.{table}")


# -- silver quality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "column", "good", "bad"),
    [
        ("valid_email", "email", [None, "a@b.c"], ["a@b", "ann"]),
        ("realistic_age", "age", [18, 100], [17, 101, None]),
        ("realistic_loyalty_points", "loyalty_points", [0], [-1, None]),
        ("valid_gender", "gender", ["Male", "Female", "Other"], ["male", None]),
    ],
)
def test_a_customer_that_looks_wrong_is_counted_and_kept(
    test: PipelineTest, rule: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    _check_rule(
        test, "customers_cleaned_stream", "01_bronze.bronze_customers", CUSTOMER, "warn", rule, column, good, bad
    )


@pytest.mark.parametrize(
    ("rule", "column", "good", "bad"),
    [
        ("valid_product_id", "product_id", [30], [None]),
        ("valid_product_price", "price", [0.01, 9999.99], [0.0, -1.0, 10000.0, None]),
    ],
)
def test_a_product_that_cannot_be_charged_is_dropped(
    test: PipelineTest, rule: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    _check_rule(test, "products_cleaned_stream", "01_bronze.bronze_products", PRODUCT, "drop", rule, column, good, bad)


@pytest.mark.parametrize(
    ("rule", "column", "good", "bad"),
    [
        ("non_negative_stock", "stock_quantity", [0], [-1, None]),
        (
            "valid_category",
            "category",
            ["Casual Wear", "Formal Wear", "Sportswear", "Accessories", "Footwear"],
            ["Toys", None],
        ),
        ("valid_brand", "brand", ["Acme"], [None]),
    ],
)
def test_a_product_that_looks_wrong_is_counted_and_kept(
    test: PipelineTest, rule: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    _check_rule(test, "products_cleaned_stream", "01_bronze.bronze_products", PRODUCT, "warn", rule, column, good, bad)


@pytest.mark.parametrize(
    ("view", "bronze", "row", "key"),
    [
        ("customers_cleaned_stream", "bronze_customers", CUSTOMER, "customer_id"),
        ("stores_cleaned_stream", "bronze_stores", STORE, "store_id"),
    ],
)
def test_a_customer_or_store_without_an_id_is_dropped(
    test: PipelineTest, view: str, bronze: str, row: dict[str, Any], key: str
) -> None:
    _check_rule(test, view, f"01_bronze.{bronze}", row, "drop", f"valid_{key}", key, [1], [None])


@pytest.mark.parametrize(
    ("rule", "column", "good", "bad"), [("valid_status", "status", ["Open", "Under Renovation"], ["Closed", None])]
)
def test_a_store_with_an_unknown_status_is_counted_and_kept(
    test: PipelineTest, rule: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    _check_rule(test, "stores_cleaned_stream", "01_bronze.bronze_stores", STORE, "warn", rule, column, good, bad)


def test_a_store_without_a_manager_has_an_unknown_one_and_passes(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_stores", [{**STORE, "manager": None}])
    result = test.run("stores_cleaned_stream")
    assert result.select("store_id", "manager") == [{"store_id": 10, "manager": "Unknown"}]
    assert result.rules["valid_manager_name"].failed == 0


@pytest.mark.parametrize(
    ("rule", "column", "good", "bad"),
    [
        ("valid_payment_method", "payment_method",
         ["Cash", "Credit Card", "Debit Card", "Mobile Pay", "Gift Card"], ["Shells", None]),
        ("realistic_discount", "discount_applied", [0.0, 0.5], [-0.1, None]),
    ],
)  # fmt: skip
def test_a_sale_that_looks_wrong_is_counted_and_kept(
    test: PipelineTest, rule: str, column: str, good: list[Any], bad: list[Any]
) -> None:
    _check_rule(test, "sales_cleaned_stream", "01_bronze.bronze_sales", SALE, "warn", rule, column, good, bad)


def test_a_sale_has_the_day_of_its_time(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_sales", [{**SALE, "event_time": "2024-04-30 23:59:59"}])
    assert test.run("sales_cleaned_stream").select("date") == [{"date": date(2024, 4, 30)}]


# -- silver facts -------------------------------------------------------------------------------------------------


def test_sales_have_a_positive_quantity_and_returns_a_negative_one(test: PipelineTest) -> None:
    quantities = {1: 2, 2: -3, 3: 0, 4: None}
    test.given("01_bronze.bronze_sales", [{**SALE, "transaction_id": k, "quantity": q} for k, q in quantities.items()])
    result = test.run("02_silver.silver_sales_transactions", "02_silver.silver_returns_transactions")
    assert result["silver_sales_transactions"].select("transaction_id") == [{"transaction_id": 1}]
    assert result["silver_returns_transactions"].select("transaction_id") == [{"transaction_id": 2}]


def test_a_return_has_positive_amounts_of_its_own(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_sales", [{**SALE, "quantity": -3, "total_amount": -30.0}])
    (row,) = test.run("02_silver.silver_returns_transactions").rows
    assert (row["returned_quantity"], row["returned_amount"]) == (3, 30.0)
    assert not {"quantity", "total_amount"} & set(row)


@pytest.mark.parametrize(("table", "quantity"), [("silver_sales_transactions", 2), ("silver_returns_transactions", -2)])
@pytest.mark.parametrize(
    ("rule", "column", "bad"),
    [
        ("valid_discount", "discount_applied", -0.1),
        ("valid_discount", "discount_applied", None),
        ("valid_store_id", "store_id", None),
        ("valid_customer_id", "customer_id", None),
        ("valid_product_id", "product_id", None),
    ],
)
def test_a_fact_that_cannot_be_used_is_dropped(
    test: PipelineTest, table: str, quantity: int, rule: str, column: str, bad: float | None
) -> None:
    sale = {**SALE, "quantity": quantity}
    test.given("01_bronze.bronze_sales", [sale, {**sale, "transaction_id": 2, column: bad}])
    result = test.run(f"02_silver.{table}")
    assert result.select("transaction_id") == [{"transaction_id": 1}]
    assert [(row["transaction_id"], row.rules) for row in result.dropped] == [(2, (rule,))]
    assert (result.rules[rule].passed, result.rules[rule].failed, result.rules[rule].action) == (1, 1, "drop")


def test_a_row_that_violates_two_rules_is_dropped_once_and_counted_by_both(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_sales", [{**SALE, "store_id": None, "product_id": None}])
    result = test.run("02_silver.silver_sales_transactions")
    assert [row.rules for row in result.dropped] == [("valid_store_id", "valid_product_id")]
    assert result.rules["valid_store_id"].failed == result.rules["valid_product_id"].failed == 1


# -- silver history -----------------------------------------------------------------------------------------------

VERSION = ("__START_AT", "__END_AT")


def day(number: int) -> datetime:
    return datetime(2024, 1, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("table", "bronze", "row", "tracked", "untracked"),
    [
        ("silver_customers", "bronze_customers", CUSTOMER,
         ["name", "email", "address", "phone_number", "gender"], ["age", "loyalty_points", "join_date"]),
        ("silver_products", "bronze_products", PRODUCT,
         ["name", "category", "brand", "price", "description", "color", "size"], ["stock_quantity"]),
        ("silver_stores", "bronze_stores", STORE,
         ["name", "address", "manager", "status"], ["open_date", "phone_number"]),
    ],
)  # fmt: skip
def test_a_tracked_column_opens_a_version_and_any_other_is_updated_in_place(
    test: PipelineTest, table: str, bronze: str, row: dict[str, Any], tracked: list[str], untracked: list[str]
) -> None:
    key = next(iter(row))
    others = {"price": 11.0, "age": 31, "loyalty_points": 6, "stock_quantity": 8}
    times = {"join_date": "2021-01-01", "open_date": "2021-01-01"}
    rows = []
    for number, column in enumerate([*tracked, *untracked], start=1):
        changed = others.get(column) or times.get(column) or f"new {column}"
        rows += [{**row, key: number}, {**row, key: number, column: changed, "last_update_time": "2024-01-02"}]
    test.given(f"01_bronze.{bronze}", rows)
    found = test.run(f"02_silver.{table}").select(key, *VERSION)
    for number, _ in enumerate(tracked, start=1):
        versions = [(r["__START_AT"], r["__END_AT"]) for r in found if r[key] == number]
        assert versions == [(day(1), day(2)), (day(2), None)], tracked[number - 1]
    for number, _ in enumerate(untracked, start=len(tracked) + 1):
        assert [(r["__START_AT"], r["__END_AT"]) for r in found if r[key] == number] == [(day(1), None)]


def test_history_stores_neither_the_sequence_nor_whence_a_row_came(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_customers", [CUSTOMER])
    columns = test.run("02_silver.silver_customers").table.column_names
    assert not {"last_update_time", "ingest_timestamp", "source_file_path"} & set(columns)


def test_a_null_in_an_update_keeps_the_value(test: PipelineTest) -> None:
    update = {"customer_id": 20, "loyalty_points": 9, "last_update_time": "2024-01-02"}
    test.given("01_bronze.bronze_customers", [CUSTOMER, update])
    result = test.run("02_silver.silver_customers")
    assert result.select("name", "email", "loyalty_points", *VERSION) == [
        {"name": "Ann", "email": "ann@shop.example", "loyalty_points": 9, "__START_AT": day(1), "__END_AT": None}
    ]


def test_a_change_that_arrives_late_lands_where_it_belongs(test: PipelineTest) -> None:
    moved = {"customer_id": 20, "address": "Third St 3", "last_update_time": "2024-01-03"}
    test.given("01_bronze.bronze_customers", [CUSTOMER, moved])
    assert len(test.run("02_silver.silver_customers").rows) == 2
    late = {"customer_id": 20, "address": "Second St 2", "last_update_time": "2024-01-02"}
    test.given("01_bronze.bronze_customers", [late])
    assert test.run("02_silver.silver_customers").select(*VERSION, "address") == [
        {"__START_AT": day(1), "__END_AT": day(2), "address": "Main St 1"},
        {"__START_AT": day(2), "__END_AT": day(3), "address": "Second St 2"},
        {"__START_AT": day(3), "__END_AT": None, "address": "Third St 3"},
    ]


def test_current_rows_are_those_whose_version_is_open(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_stores", [STORE, {**STORE, "name": "Uptown", "last_update_time": "2024-01-02"}])
    assert test.run("silver_stores_current").select("store_id", "name") == [{"store_id": 10, "name": "Uptown"}]


# -- gold ---------------------------------------------------------------------------------------------------------


def test_a_sale_has_the_names_of_its_store_customer_and_product(test: PipelineTest) -> None:
    test.given("01_bronze.bronze_stores", [STORE])
    test.given("01_bronze.bronze_customers", [CUSTOMER])
    test.given("01_bronze.bronze_products", [PRODUCT])
    test.given("01_bronze.bronze_sales", [SALE, {**SALE, "transaction_id": 2, "quantity": -1}])
    result = test.run("03_gold.denormalized_sales_facts")
    names = ("transaction_id", "store_name", "customer_name", "product_name", "product_category")
    assert result.select(*names) == [
        dict(zip(names, (1, "Downtown", "Ann", "Shirt", "Casual Wear"), strict=True)),
    ]
    assert result.table.column_names == [
        "transaction_id", "event_time", "customer_id", "customer_name", "product_id", "product_name",
        "product_category", "store_id", "store_name", "quantity", "unit_price", "total_amount", "payment_method",
        "discount_applied", "tax_amount",
    ]  # fmt: skip


def test_a_sale_whose_dimensions_are_not_known_yet_stays_without_names(test: PipelineTest) -> None:
    for dimension in ("stores", "customers", "products"):
        test.given(f"02_silver.silver_{dimension}", [])
    test.given("02_silver.silver_sales_transactions", [SALE])
    result = test.run("03_gold.denormalized_sales_facts")
    assert result.select("transaction_id", "store_name", "customer_name", "product_name") == [
        {"transaction_id": 1, "store_name": None, "customer_name": None, "product_name": None}
    ]


FACT = {
    **SALE,
    "store_name": "Downtown",
    "customer_name": "Ann",
    "product_name": "Shirt",
    "product_category": "Casual Wear",
}


def test_the_day_of_a_store_sums_its_sales(test: PipelineTest) -> None:
    facts = [
        FACT,
        {**FACT, "transaction_id": 2, "customer_id": 21, "quantity": 1, "total_amount": 0.105},
        {**FACT, "transaction_id": 3, "event_time": "2024-05-02 00:00"},
    ]
    test.given("03_gold.denormalized_sales_facts", facts)
    keys = (
        "sale_date",
        "store_id",
        "store_name",
        "total_revenue",
        "total_transactions",
        "total_items_sold",
        "unique_customers",
    )
    assert test.run("03_gold.gold_daily_sales_by_store").select(*keys) == [
        dict(zip(keys, (date(2024, 5, 1), 10, "Downtown", 20.11, 2, 3, 2), strict=True)),
        dict(zip(keys, (date(2024, 5, 2), 10, "Downtown", 20.0, 1, 2, 1), strict=True)),
    ]


def test_a_product_sums_what_it_brought_in(test: PipelineTest) -> None:
    test.given("03_gold.denormalized_sales_facts", [FACT, {**FACT, "transaction_id": 2, "total_amount": 1.0}])
    assert test.run("03_gold.gold_product_performance").rows == [
        {"product_id": 30, "product_name": "Shirt", "product_category": "Casual Wear", "total_revenue": 21.0,
         "total_quantity_sold": 4, "total_orders": 2},
    ]  # fmt: skip


def test_a_customer_is_worth_what_was_spent_so_far(test: PipelineTest) -> None:
    test.given("03_gold.denormalized_sales_facts", [FACT])
    test.run("03_gold.gold_customer_lifetime_value")
    test.given("03_gold.denormalized_sales_facts", [{**FACT, "event_time": "2024-06-01", "total_amount": 5.0}])
    assert test.run("03_gold.gold_customer_lifetime_value").rows == [
        {"customer_id": 20, "customer_name": "Ann", "total_spend": 25.0, "total_orders": 1,
         "first_purchase_date": date(2024, 5, 1), "last_purchase_date": date(2024, 6, 1), "avg_order_value": 12.5},
    ]  # fmt: skip


def _check_rule(
    test: PipelineTest,
    view: str,
    bronze: str,
    row: dict[str, Any],
    action: str,
    rule: str,
    column: str,
    good: list[Any],
    bad: list[Any],
) -> None:
    """Check which values pass a rule of a view, and that the others are dropped, or kept."""
    test.given(bronze, [{**row, column: value} for value in [*good, *bad]])
    result = test.run(view)
    assert result.rules[rule].action == action
    assert (result.rules[rule].passed, result.rules[rule].failed) == (len(good), len(bad))
    assert [other for other in result.rules.values() if other.name != rule and other.failed] == []
    kept = [found[column] for found in result.rows]
    gone = [found[column] for found in result.dropped]
    expected = (good, bad) if action == "drop" else ([*good, *bad], [])
    assert (sorted(kept, key=repr), sorted(gone, key=repr)) == tuple(sorted(values, key=repr) for values in expected)
