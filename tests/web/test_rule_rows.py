"""The rows that fail a rule are one click away: those of the dataset, those of its input, or the reason why there are none."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql.connect.functions import col, lit, upper
from starlette.testclient import TestClient
from tests.web.web_kit import Shop, text_of

from lakelet.plan.relation import expression_of
from lakelet.web.rule_rows import as_sql

RULES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table(name="bronze.orders")
@dp.expect_or_drop("landed", "id IS NOT NULL")
def orders():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

@dp.temporary_view
@dp.expect_or_drop("positive", "amount > 0")
@dp.expect("named", "customer <> 'bob' -- not him")
@dp.expect("shouted", "loud <> 'CYD'")
def good_orders():
    return spark.readStream.table("bronze.orders").withColumn("loud", F.upper("customer"))

@dp.table(name="silver.paid")
@dp.expect_or_drop("small", "amount < 100")
@dp.expect_or_drop("quiet", F.col("customer").isNotNull() & (F.col("id") < 2))
@dp.expect("kept", "id < 0")
def paid():
    return spark.readStream.table("good_orders").filter("id <> 7").filter(F.length("customer") == 3).drop("loud")

dp.create_streaming_table("silver.sql_paid", expect_all_or_drop={"small": "amount < 100", "dear": "twice > 100"})

@dp.append_flow(target="silver.sql_paid")
def from_sql():
    return spark.sql("SELECT id, amount, amount * 2 AS twice FROM STREAM(bronze.orders) WHERE id > 1")

@dp.materialized_view(name="gold.totals")
@dp.expect_or_drop("some", "total > 0")
def totals():
    return spark.read.table("bronze.orders").groupBy("customer").agg(F.sum("amount").alias("total"))

@dp.materialized_view(name="gold.both")
@dp.expect_or_drop("some", "amount > 50")
def both():
    return spark.read.table("bronze.orders").join(spark.read.table("silver.paid").select("id"), "id")
"""


@pytest.fixture
def rules(shop: Shop) -> Any:
    """The shop with rules of every kind, and each rule by dataset and name."""
    shop.land((4, None, 5), (7, "gus", 500), (8, "hal", None), (None, "ida", 1))
    shop.write(RULES)
    assert shop.run().exit_code == 0
    client = shop.client()
    return client, {(rule["dataset"], rule["name"]): rule for rule in client.get("/quality.json").json()["rules"]}


def ids(client: TestClient, rule: dict[str, Any]) -> list[int]:
    data = client.get("/sql.json", params={"query": rule["query"]}).json()
    assert data["errors"] == []
    return sorted(row[0] for row in data["rows"])


def test_a_rule_that_warns_shows_rows_of_its_own_table(rules: Any) -> None:
    client, found = rules
    rule = found["silver.paid", "kept"]
    assert (ids(client, rule), rule["query_note"]) == ([1], None)
    assert "FROM `silver`.`paid`" in rule["query"]


def test_a_dropped_row_is_shown_from_the_table_that_the_query_reads(rules: Any) -> None:
    client, found = rules
    rule = found["silver.paid", "small"]
    assert (
        "FROM `bronze`.`orders`\nWHERE (amount > 0)\n  AND (id <> 7)\n  AND (amount < 100) IS NOT TRUE" in rule["query"]
    )
    assert ids(client, rule) == [2]
    assert rule["query_note"].startswith("rows of bronze.orders, its input; some of them its query may leave out")
    assert rule["failed"] == 1


def test_a_null_is_a_failure_as_in_the_counts(rules: Any) -> None:
    client, found = rules
    rule = found["good_orders", "positive"]
    assert (ids(client, rule), rule["failed"]) == ([3, 8], 2)
    assert rule["query_note"] == "rows of bronze.orders, its input"


def test_a_rule_that_warns_in_a_view_shows_rows_of_its_input(rules: Any) -> None:
    client, found = rules
    rule = found["good_orders", "named"]
    assert (ids(client, rule), rule["failed"]) == ([2, 4], 2)


def test_a_rule_that_is_a_column_is_written_as_sql(rules: Any) -> None:
    client, found = rules
    rule = found["silver.paid", "quiet"]
    assert "((customer IS NOT NULL) AND (id < 2)) IS NOT TRUE" in rule["query"]
    assert ids(client, rule) == [2, 4]


def test_sql_is_followed_as_dataframes_are(rules: Any) -> None:
    client, found = rules
    assert ids(client, found["silver.sql_paid", "small"]) == [2, 7, 8]
    assert found["silver.sql_paid", "dear"]["query_note"] == "`twice` is made by the query of `silver.sql_paid`"


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (("bronze.orders", "landed"), "`bronze.orders` reads from outside of the pipeline: these rows are there"),
        (("good_orders", "shouted"), "`loud` is made by the query of `good_orders`"),
        (("gold.totals", "some"), "the query of `gold.totals` aggregates rows"),
        (("gold.both", "some"), "the query of `gold.both` joins tables"),
    ],
)
def test_where_there_are_no_rows_it_says_why(rules: Any, rule: tuple[str, str], reason: str) -> None:
    client, found = rules
    assert (found[rule]["query"], found[rule]["query_note"]) == (None, reason)
    assert found[rule]["failed"] > 0
    assert f"none to show: {reason}" in text_of(client.get(f"/datasets/{rule[0]}").text)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (col("a") > 0.5, "a > 0.5D"),
        (~(col("a") <= -1) | col("b").isNull(), "(NOT (a <= -1)) OR (b IS NULL)"),
        (col("a").isin("x", "it's"), "a IN ('x', 'it\\'s')"),
        (col("a").between(1, 2), "(a >= 1) AND (a <= 2)"),
        (col("odd name") == lit(True), "`odd name` = true"),
        (upper("a") == "X", None),
    ],
)
def test_a_condition_of_columns_and_literals_is_written_as_sql(condition: Any, text: str | None) -> None:
    assert as_sql(expression_of(condition)) == text


def test_names_that_sql_would_not_read_are_quoted(shop: Shop) -> None:
    shop.write(
        """
        from pyspark import pipelines as dp

        @dp.materialized_view(name="`my-orders`")
        @dp.expect("small", "id < 1")
        def orders():
            return spark.range(2)
        """
    )
    assert shop.run().exit_code == 0
    client = shop.client()
    data = client.get("/datasets/my-orders.json").json()
    for query in (data["dataset"]["query"], client.get("/sql.json").json()["table_queries"]["my-orders"]):
        answer = client.get("/sql.json", params={"query": query}).json()
        assert (sorted(answer["rows"]), answer["errors"]) == ([[0], [1]], [])
    assert client.get("/sql.json", params={"query": data["rules"][0]["query"]}).json()["rows"] == [[1]]
    for path in ("/datasets/my-orders", "/sql"):
        assert "SELECT+%2A+FROM+%60my-orders%60+LIMIT+100" in client.get(path).text
