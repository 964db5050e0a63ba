"""The kit for testing pipelines, on pipelines of one file."""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars
import pyarrow as pa
import pytest

from lakelet.testing import ExpectationViolation, LakeletError, PipelineTest

ORDERS = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table(name="bronze.orders")
def bronze_orders():
    landed = spark.readStream.format("delta").load("/Volumes/shop/landing/orders")
    return landed.withColumn("seen_at", F.current_timestamp())

@dp.temporary_view
@dp.expect_or_drop("has_id", "id IS NOT NULL")
@dp.expect("cheap", "amount < 100")
def clean_orders():
    return spark.readStream.table("bronze.orders")

@dp.table(name="silver.orders")
@dp.expect_or_fail("has_amount", "amount IS NOT NULL")
@dp.expect_or_drop("positive", "amount > 0")
def silver_orders():
    return spark.readStream.table("clean_orders").join(spark.read.table("ref.shops"), "shop", "left")

@dp.materialized_view(name="gold.total")
def total():
    return spark.read.table("silver.orders").agg(F.sum("amount").alias("total"))
"""

CDC = """
import dlt
dlt.create_streaming_table("customers")
dlt.apply_changes(
    target="customers", source="changes", keys=["id"], sequence_by="at", apply_as_deletes="op = 'D'",
    except_column_list=["op", "at"], stored_as_scd_type={scd},
)
"""

OpenTest = Callable[..., PipelineTest]


@pytest.fixture
def open_test(tmp_path: Path) -> Iterator[OpenTest]:
    """Open a test of the text of one pipeline file."""
    with contextlib.ExitStack() as stack:

        def make(text: str, **options: Any) -> PipelineTest:
            file = tmp_path / "orders.py"
            file.write_text(textwrap.dedent(text))
            return stack.enter_context(PipelineTest(file, **options))

        yield make


# -- what is given and what is run --------------------------------------------------------------------------------


def test_a_given_dataset_is_not_computed_and_what_reads_it_is(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("bronze.orders", [{"id": 1, "shop": 7, "amount": 5}, {"id": None, "shop": 7, "amount": 6}])
    test.given("ref.shops", [{"shop": 7, "city": "Bern"}])
    result = test.run("silver.orders")
    assert result.select("id", "amount", "city") == [{"id": 1, "amount": 5, "city": "Bern"}]
    assert list(result.datasets) == ["silver.orders"]


def test_a_given_view_stands_in_for_its_query_and_its_rules(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("clean_orders", [{"id": None, "shop": 7, "amount": 5}])
    test.given("ref.shops", [{"shop": 7}])
    result = test.run("silver.orders")
    assert result.select("id", "amount") == [{"id": None, "amount": 5}]
    assert "has_id" not in [name for _, name in result.rules]


def test_rows_given_to_a_path_come_in_through_the_pipeline(open_test: OpenTest) -> None:
    test = open_test(ORDERS, now="2024-05-01")
    test.given("/Volumes/shop/landing/orders", [{"id": 1, "amount": 5}])
    assert test.run("bronze.orders").rows == [{"id": 1, "amount": 5, "seen_at": datetime(2024, 5, 1, tzinfo=UTC)}]


def test_a_view_gives_its_rows_after_its_drops(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("bronze.orders", [{"id": 1, "amount": 500}, {"id": None, "amount": 5}])
    result = test.run("clean_orders")
    assert result.select("id", "amount") == [{"id": 1, "amount": 500}]
    assert [(row.dataset, row["amount"], row.rules) for row in result.dropped] == [("clean_orders", 5, ("has_id",))]
    assert (result.rules["cheap"].passed, result.rules["cheap"].failed, result.rules["cheap"].action) == (1, 1, "warn")


def test_without_a_name_everything_below_the_given_rows_runs(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("silver.orders", [{"amount": 5}, {"amount": 6}])
    result = test.run()
    assert list(result.datasets) == ["gold.total"]
    assert result.rows == [{"total": 11}]


def test_a_second_run_takes_what_came_since(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("ref.shops", [{"shop": 7}])
    test.given("bronze.orders", [{"id": 1, "shop": 7, "amount": 5}])
    assert test.run("gold.total").rows == [{"total": 5}]
    test.given("bronze.orders", [{"id": 2, "shop": 7, "amount": -1}, {"id": 3, "shop": 7, "amount": 3}])
    result = test.run("gold.total")
    assert result.rows == [{"total": 8}]
    assert [row["id"] for row in result.dropped] == [2]
    assert (result.rules["positive"].passed, result.rules["positive"].failed) == (1, 1)
    again = test.run("gold.total")
    assert (again.dropped, again.rules["positive"].failed) == ((), 0)


def test_a_violated_fail_rule_is_raised_as_it_is(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("ref.shops", [{"shop": 7}])
    test.given("bronze.orders", [{"id": 1, "shop": 7, "amount": None}], schema="id INT, shop INT, amount INT")
    with pytest.raises(ExpectationViolation, match="has_amount"):
        test.run("silver.orders")


@pytest.mark.parametrize(
    ("scd", "after"),
    [
        (1, [{"id": 2, "name": "Bo"}]),
        (2, [{"id": 1, "name": "Al"}, {"id": 1, "name": "Ann"}, {"id": 2, "name": "Bo"}]),
    ],
)
def test_changes_arrive_late_and_out_of_order(open_test: OpenTest, scd: int, after: list[dict[str, Any]]) -> None:
    test = open_test(CDC.format(scd=scd))
    test.given("changes", [{"id": 1, "name": "Ann", "op": "U", "at": 3}, {"id": 2, "name": "Bo", "op": "U", "at": 1}])
    assert test.run("customers").select("id", "name") == [{"id": 1, "name": "Ann"}, {"id": 2, "name": "Bo"}]
    test.given("changes", [{"id": 1, "name": None, "op": "D", "at": 4}, {"id": 1, "name": "Al", "op": "U", "at": 2}])
    assert test.run("customers").select("id", "name") == after


def test_time_stands_still_until_the_test_moves_it(open_test: OpenTest) -> None:
    test = open_test(ORDERS, now="2024-05-01T12:00:00+02:00")
    for day, number in (("2024-05-01T10:00", 1), ("2024-05-02T10:00", 2)):
        test.now = day
        test.given("/Volumes/shop/landing/orders", [{"id": number}])
        result = test.run("bronze.orders")
    assert result.select("id", "seen_at") == [
        {"id": 1, "seen_at": datetime(2024, 5, 1, 10, tzinfo=UTC)},
        {"id": 2, "seen_at": datetime(2024, 5, 2, 10, tzinfo=UTC)},
    ]


def test_files_are_written_where_the_pipeline_looks_for_them(open_test: OpenTest) -> None:
    test = open_test(
        """
        from pyspark import pipelines as dp
        @dp.materialized_view
        def rates():
            return spark.read.option("header", True).csv("/Volumes/shop/ref/rates.csv")
        """
    )
    with pytest.raises(LakeletError, match="TEST_INPUT_MISSING"):
        test.run("rates")
    test.path("/Volumes/shop/ref/rates.csv").write_text("currency,rate\nCHF,0.9\n")
    assert test.run("rates").rows == [{"currency": "CHF", "rate": "0.9"}]


def test_nothing_is_written_outside_of_the_temporary_folder(open_test: OpenTest, tmp_path: Path) -> None:
    test = open_test(
        f"""
        from pyspark import pipelines as dp
        @dp.table(path="{tmp_path}/out")
        def copies():
            return spark.readStream.format("delta").load("{tmp_path}/in")
        """
    )
    test.given(f"{tmp_path}/in", [{"id": 1}])
    assert test.run("copies").rows == [{"id": 1}]
    assert [entry.name for entry in tmp_path.iterdir()] == ["orders.py"]


def test_closing_removes_the_folder(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("silver.orders", [{"amount": 5}])
    folder = test.path("/Volumes/x").parent
    assert folder.exists()
    test.close()
    assert not folder.exists()


def test_a_table_that_a_file_reads_while_it_loads_is_given_first(open_test: OpenTest) -> None:
    test = open_test(
        """
        import dlt
        for row in spark.read.table("ref.countries").collect():
            @dlt.table(name=f"sales_{row.code}")
            def sales(code=row.code):
                return dlt.read_stream("sales").where(f"country = '{code}'")
        @dlt.view
        def sales():
            return spark.readStream.table("raw.sales")
        """
    )
    test.given("ref.countries", [{"code": "ch"}, {"code": "de"}])
    test.given("raw.sales", [{"country": "ch", "amount": 1}, {"country": "de", "amount": 2}])
    result = test.run()
    assert {name: rows.select("amount") for name, rows in result.datasets.items()} == {
        "sales_ch": [{"amount": 1}],
        "sales_de": [{"amount": 2}],
    }


def test_a_sql_file_is_tested_in_the_same_way(tmp_path: Path) -> None:
    file = tmp_path / "events.sql"
    file.write_text(
        """
        CREATE STREAMING TABLE raw (CONSTRAINT positive EXPECT (n > 0) ON VIOLATION DROP ROW)
            AS SELECT * FROM STREAM(source.events);
        CREATE MATERIALIZED VIEW total AS SELECT k, sum(n) AS n FROM raw GROUP BY k;
        """
    )
    with PipelineTest(file) as test:
        test.given("source.events", [{"k": "a", "n": 1}, {"k": "a", "n": 4}, {"k": "b", "n": -1}])
        result = test.run("total")
        assert result.rows == [{"k": "a", "n": 5}]
        assert [(row["k"], row.rules) for row in result.dropped] == [("b", ("positive",))]


# -- rows ---------------------------------------------------------------------------------------------------------

TYPED = """
from pyspark import pipelines as dp
@dp.table(schema="id INT, at TIMESTAMP, day DATE, price DECIMAL(10,2), name STRING")
def raw():
    return spark.readStream.format("delta").load("/Volumes/a/b/raw")
@dp.table
def copy():
    return spark.readStream.table("raw")
"""


def test_values_take_the_type_of_their_column(open_test: OpenTest) -> None:
    test = open_test(TYPED, configuration={"lakelet.timezone": "Europe/Zurich"})
    test.given("raw", [{"id": 1, "at": "2024-05-01 12:00", "day": "2024-05-01", "price": 1.5}, {"ID": 2}])
    assert [str(field.type) for field in test.run("copy").table.schema] == [
        "int32", "timestamp[us, tz=UTC]", "date32[day]", "decimal128(10, 2)", "string",
    ]  # fmt: skip
    first, second = test.run("copy").rows
    assert first["at"] == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert second == {"id": 2, "at": None, "day": None, "price": None, "name": None}


@pytest.mark.parametrize("frame", [pa.table, polars.DataFrame, lambda data: polars.DataFrame(data).to_pandas()])
def test_rows_may_be_a_frame(open_test: OpenTest, frame: Callable[[dict[str, Any]], Any]) -> None:
    test = open_test(TYPED)
    test.given("raw", frame({"id": [1, 2], "name": ["a", None]}))
    assert test.run("copy").select("id", "name") == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]


def test_the_columns_of_a_query_whose_source_does_not_exist_are_those_it_casts_and_names(open_test: OpenTest) -> None:
    test = open_test(
        """
        from pyspark import pipelines as dp
        @dp.table
        def typed():
            rows = spark.readStream.format("delta").load("/Volumes/a/b/raw")
            return rows.selectExpr("CAST(id AS INT) AS id", "free", "upper(name) AS name")
        @dp.table
        def copy():
            return spark.readStream.table("typed")
        """
    )
    test.given("typed", [])
    assert {field.name: str(field.type) for field in test.run("copy").table.schema} == {
        "id": "int32", "free": "string", "name": "string",
    }  # fmt: skip
    with pytest.raises(LakeletError, match="no column `nme`"):
        test.given("typed", [{"nme": "x"}])


def test_an_empty_input_of_unknown_columns_needs_them(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    with pytest.raises(LakeletError, match=r"the columns of `ref\.shops` are not known"):
        test.given("ref.shops", [])
    test.given("ref.shops", [], schema="shop INT, city STRING")
    test.given("bronze.orders", [{"id": 1, "shop": 7, "amount": 5}])
    assert test.run("silver.orders").select("id", "city") == [{"id": 1, "city": None}]


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "message", "hint"),
    [
        ("rwa", [], "no dataset `rwa`", "did you mean `raw`?"),
        ("raw", [{"nmae": "x"}], "no column `nmae`", "did you mean `name`?"),
        ("raw", [{"id": 1}, {"id": "one"}], "`id` of `raw` has a value that is no int", "give values"),
        ("raw", [{"id": 2**40}], "`id` of `raw` has a value that is no int", "give values"),
        ("raw", [1], "a row of `raw` is a int", "list of dicts"),
    ],
)
def test_wrong_rows_are_refused_where_they_are_given(
    open_test: OpenTest, name: str, rows: list[Any], message: str, hint: str
) -> None:
    test = open_test(TYPED)
    with pytest.raises(LakeletError) as error:
        test.given(name, rows)
    assert message in error.value.message
    assert hint in str(error.value.hint)


def test_a_missing_input_is_named_with_the_way_to_it(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("ref.shops", [{"shop": 7}])
    with pytest.raises(LakeletError) as error:
        test.run("gold.total")
    assert error.value.message == "`gold.total` needs rows of `/Volumes/shop/landing/orders`, and the test gave none"
    assert (
        error.value.cause == "/Volumes/shop/landing/orders → bronze.orders → clean_orders → silver.orders → gold.total"
    )
    assert 'test.given("bronze.orders", [...])' in str(error.value.hint)


def test_a_misspelled_input_is_pointed_out(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("/Volumes/shop/landing/ordres", [{"id": 1}])
    with pytest.raises(LakeletError) as error:
        test.run("bronze.orders")
    assert "/Volumes/shop/landing/ordres" in str(error.value.hint)
    test.given("/Volumes/shop/landing/orders", [{"ld": 1, "shop": 7, "amount": 1}])
    test.given("ref.shops", [{"shop": 7}])


def test_a_misspelled_column_of_an_outside_table_is_pointed_out(open_test: OpenTest) -> None:
    test = open_test(CDC.format(scd=1).replace("'D'", "'D' AND reason = 'x'"))
    test.given("changes", [{"id": 1, "op": "D", "at": 1, "raeson": "x"}])
    with pytest.raises(LakeletError, match="reason"):
        test.run("customers")


def test_what_was_computed_cannot_be_given_and_what_was_given_not_computed(open_test: OpenTest) -> None:
    test = open_test(TYPED)
    test.given("/Volumes/a/b/raw", [{"id": 1}], schema="id INT")
    test.run("raw")
    with pytest.raises(LakeletError, match="TEST_INPUT_COMPUTED"):
        test.given("raw", [{"id": 1}])
    test.given("copy", [{"id": 1}])
    with pytest.raises(LakeletError, match="TEST_INPUT_GIVEN"):
        test.run("copy")


def test_a_given_table_whose_rows_change_cannot_be_streamed_either(open_test: OpenTest) -> None:
    test = open_test(
        """
        from pyspark import pipelines as dp
        @dp.materialized_view
        def changing():
            return spark.read.table("source")
        @dp.table
        def reader():
            return spark.readStream.table("changing")
        """
    )
    test.given("changing", [{"id": 1}])
    with pytest.raises(LakeletError, match="STREAMING_READ_OF_CHANGING_TABLE"):
        test.run("reader")


def test_a_rule_that_is_not_there_is_a_key_error_with_the_near_name(open_test: OpenTest) -> None:
    test = open_test(ORDERS)
    test.given("bronze.orders", [{"id": 1, "amount": 5}])
    result = test.run("clean_orders")
    with pytest.raises(KeyError, match="did you mean 'has_id'"):
        result.rules["hasid"]
    with pytest.raises(KeyError, match="did you mean 'amount'"):
        result.select("amout")
    assert result.rules["clean_orders", "has_id"].passed == 1
