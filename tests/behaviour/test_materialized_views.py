"""Materialized views: the rows equal the batch query at every update, and a failed refresh leaves the old ones."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakelet import faults
from lakelet.pipeline import RefreshSelection

TOTALS = """
    @dp.materialized_view(comment="Sales by shop", table_properties={"quality": "gold"})
    def totals():
        sales = spark.read.format("delta").load("/Volumes/main/raw/landing/sales")
        return sales.groupBy("shop").agg(F.sum("amount").alias("amount"))
""".rstrip()


def sales(*rows: tuple[str, int]) -> pa.Table:
    shops, amounts = zip(*rows, strict=True) if rows else ((), ())
    return pa.table({"shop": pa.array(shops, pa.string()), "amount": pa.array(amounts, pa.int64())})


def test_a_view_follows_its_tables(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1), ("S", 2)))
    project.ok()
    assert project.techniques() == {"totals": ("COMPLETE_RECOMPUTE", ["FIRST_REFRESH"])}
    project.land("sales", sales(("N", 10)))
    project.ok()
    assert project.techniques() == {"totals": ("GROUP_AGGREGATE", [])}
    assert project.rows("totals", "shop", "amount") == [("N", 11), ("S", 2)]


@pytest.mark.feature("Materialized views")
def test_a_view_follows_updates_and_deletes_too(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1), ("S", 2)))
    project.ok()
    DeltaTable(str(project.root / "data/Volumes/main/raw/landing/sales")).delete("shop = 'N'")
    project.ok()
    assert project.rows("totals", "shop", "amount") == [("S", 2)]


@pytest.mark.feature("Materialized views")
def test_nothing_new_is_no_operation(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    version = project.version("totals")
    project.ok()
    assert project.techniques() == {"totals": ("NO_OP", [])}
    assert project.version("totals") == version


def test_compaction_of_a_table_that_it_reads_is_nothing_new(project: Any) -> None:
    project.write(TOTALS)
    for amount in (1, 2):
        project.land("sales", sales(("N", amount)))
    project.ok()
    DeltaTable(str(project.root / "data/Volumes/main/raw/landing/sales")).optimize.compact()
    project.ok()
    assert project.techniques()["totals"][0] == "NO_OP"


def test_moving_the_code_to_another_line_is_nothing_new(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    project.write("\n\n    # a comment\n" + TOTALS)
    project.ok()
    assert project.techniques()["totals"][0] == "NO_OP"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("F.sum", "F.max"),
        ("@dp.materialized_view(", '@dp.expect("rich", "amount > 5")\n    @dp.materialized_view('),
    ],
    ids=["query", "rules"],
)
def test_a_changed_definition_is_computed_anew(project: Any, old: str, new: str) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1), ("N", 2)))
    project.ok()
    project.write(TOTALS.replace(old, new))
    project.ok()
    assert project.techniques() == {"totals": ("COMPLETE_RECOMPUTE", ["QUERY_FINGERPRINT_CHANGED"])}


@pytest.mark.parametrize(
    ("query", "volatile"),
    [
        ("spark.range(1).select(F.current_timestamp().alias('x'))", True),
        ("spark.range(1).select(F.expr('uuid()').alias('x'))", True),
        ("spark.range(1).select(F.rand(7).alias('x'))", True),
        ("spark.sql('SELECT current_date AS x')", True),
        ("spark.sql('SELECT id AS operand, upper(\\'random walk\\') AS x FROM range(1)')", False),
        ("spark.range(1).select(F.unix_timestamp(F.lit('2024-01-01 00:00:00')).alias('x'))", False),
        ("spark.sql('SELECT * FROM {numbers}', numbers=spark.range(3))", False),
        ("spark.range(3).filter(F.col('id') == spark.range(2).agg(F.max('id')).scalar())", False),
    ],
)
def test_only_a_query_that_may_give_other_rows_is_always_computed(project: Any, query: str, volatile: bool) -> None:
    project.write(f"@dp.materialized_view\ndef x():\n    return {query}\n")
    project.ok()
    project.ok()
    expected = ("COMPLETE_RECOMPUTE", ["PLAN_NOT_DETERMINISTIC"]) if volatile else ("NO_OP", [])
    assert project.techniques() == {"x": expected}


def test_a_batch_query_in_table_is_a_materialized_view(project: Any) -> None:
    project.write(
        """
        @dlt.table
        def totals():
            return dlt.read("sales").groupBy("shop").count()

        @dlt.view
        def sales():
            return spark.read.format("delta").load("/Volumes/main/raw/landing/sales")
        """
    )
    project.land("sales", sales(("N", 1), ("N", 2)))
    project.ok()
    project.land("sales", sales(("N", 3)))
    project.ok()
    assert project.rows("totals", "shop", "count") == [("N", 3)]
    kinds = {
        e.origin["dataset_name"]: e.details["dataset_type"]
        for e in project.events
        if e.event_type == "dataset_definition"
    }
    assert kinds == {"totals": "MATERIALIZED_VIEW", "sales": "VIEW"}


@pytest.mark.feature("Materialized views")
@pytest.mark.parametrize(
    "breaks",
    [
        '@dp.expect_or_fail("small", "amount < 10")\n    @dp.materialized_view(',
        "late error",
    ],
)
def test_a_refresh_that_fails_leaves_the_old_rows(project: Any, breaks: str) -> None:
    source = TOTALS
    if breaks == "late error":
        source += '.withColumn("x", F.expr("1 / (11 - amount)"))'
    else:
        source = TOTALS.replace("@dp.materialized_view(", breaks)
    project.write(source).land("sales", sales(("N", 1)))
    project.ok()
    version = project.version("totals")
    project.land("sales", sales(("N", 10)))
    result = project.run()
    assert (result.exit_code, project.status(result)) == (1, {"totals": "FAILED"})
    assert project.version("totals") == version
    assert project.rows("totals", "shop", "amount") == [("N", 1)]
    project.land("sales", sales(("N", -7)))
    project.ok()
    assert project.rows("totals", "shop", "amount") == [("N", 4)]


class Crash(BaseException):
    pass


@pytest.mark.feature("Materialized views")
@pytest.mark.parametrize("point", ["view.planned", "view.swapped", "view.noted"])
def test_a_refresh_that_dies_is_finished_by_the_next_update(project: Any, point: str) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    project.land("sales", sales(("N", 10)))

    def hook(reached: str) -> None:
        if reached == point:
            raise Crash(point)

    with pytest.raises(Crash), faults.installed(hook):
        project.run()
    project.ok()
    assert project.rows("totals", "shop", "amount") == [("N", 11)]


def test_rows_that_somebody_else_wrote_do_not_stay(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    write_deltalake(str(project.folder("totals")), sales(("X", 9)), mode="append")
    project.ok()
    assert project.techniques() == {"totals": ("COMPLETE_RECOMPUTE", ["TABLE_CHANGED_BY_OTHERS"])}
    assert project.rows("totals", "shop", "amount") == [("N", 1)]


def test_a_deleted_table_is_made_again(project: Any) -> None:
    import shutil

    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    shutil.rmtree(project.folder("totals"))
    [issue] = project.pipeline().explain("totals").issues
    assert (issue.type, "is gone" in issue.text) == ("TABLE_MISSING", True)
    project.ok()
    assert project.techniques() == {"totals": ("COMPLETE_RECOMPUTE", ["TABLE_MISSING"])}
    assert project.rows("totals", "shop", "amount") == [("N", 1)]


def test_a_full_refresh_computes_it_anew(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    project.ok(selection=RefreshSelection(full_refresh=("totals",)))
    assert project.techniques() == {"totals": ("COMPLETE_RECOMPUTE", ["FULL_REFRESH"])}
    project.ok()
    assert project.techniques() == {"totals": ("NO_OP", [])}


@pytest.mark.feature("Materialized views")
def test_columns_follow_the_query(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    project.write(TOTALS + '.select(F.upper("shop").alias("name"), F.col("amount").cast("string").alias("amount"))')
    project.ok()
    assert project.rows("totals") == [{"name": "N", "amount": "1"}]
    assert DeltaTable(str(project.folder("totals"))).metadata().description == "Sales by shop"
    assert DeltaTable(str(project.folder("totals"))).metadata().configuration["quality"] == "gold"


@pytest.mark.feature("Materialized views")
def test_a_declared_schema_gives_the_types(project: Any) -> None:
    project.write(TOTALS.replace("comment=", 'schema="amount DECIMAL(20, 0), shop STRING", comment='))
    project.land("sales", sales(("N", 1)))
    result = project.run()
    if result.exit_code:  # a type that would lose nothing may be refused, but not written as another one
        assert result.errors[0].condition in (
            "DATASET_SCHEMA_MISMATCH",
            "USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE",
        )
    else:
        assert str(project.rows("totals")[0]["amount"]) == "1"
    project.write(TOTALS.replace("comment=", 'schema="shop STRING, amount DOUBLE, note STRING", comment='))
    assert "BIGINT" not in str(project.run().exit_code)


def test_the_order_of_declared_columns_is_the_tables(project: Any) -> None:
    project.write(TOTALS.replace("comment=", 'schema="amount BIGINT, shop STRING", comment='))
    project.land("sales", sales(("N", 1)))
    project.ok()
    assert [list(row) for row in project.rows("totals")] == [["amount", "shop"]]


@pytest.mark.feature("Materialized views")
def test_partitions_are_kept_at_every_refresh(project: Any) -> None:
    project.write(TOTALS.replace("comment=", 'partition_cols=["shop"], comment='))
    project.land("sales", sales(("a b", 1), ("x/y", 2)))
    project.ok()
    project.land("sales", sales(("a b", 1)))
    project.ok()
    assert DeltaTable(str(project.folder("totals"))).metadata().partition_columns == ["shop"]
    assert project.rows("totals", "shop", "amount") == [("a b", 2), ("x/y", 2)]


def test_changed_partitions_take_effect_at_the_next_update(project: Any) -> None:
    project.write(TOTALS).land("sales", sales(("N", 1)))
    project.ok()
    project.write(TOTALS.replace("comment=", 'partition_cols=["shop"], comment='))
    project.ok()
    assert DeltaTable(str(project.folder("totals"))).metadata().partition_columns == ["shop"]
    assert project.rows("totals", "shop", "amount") == [("N", 1)]


def test_a_view_over_files_follows_new_files_in_any_folder_of_a_glob(project: Any) -> None:
    import json

    project.write(
        """
        @dp.materialized_view
        def events():
            return spark.read.schema("id BIGINT").json("/Volumes/main/raw/events/*/*.json")
        """
    )
    folder = project.root / "data/Volumes/main/raw/events"
    for day, number in (("d1", 1), ("d2", 2)):
        (folder / day).mkdir(parents=True)
        (folder / day / "a.json").write_text(json.dumps({"id": number}) + "\n")
    project.ok()
    assert project.rows("events", "id") == [1, 2]
    (folder / "d3").mkdir()
    (folder / "d3" / "a.json").write_text('{"id": 3}\n')
    project.ok()
    assert project.rows("events", "id") == [1, 2, 3]
    project.ok()
    assert project.techniques()["events"][0] == "NO_OP"


@pytest.mark.feature("Materialized views")
def test_rules_of_views_in_views_are_counted_on_their_own_rows(project: Any) -> None:
    project.write(
        """
        @dp.temporary_view
        @dp.expect_or_drop("has amount", "amount IS NOT NULL")
        def known():
            return spark.read.format("delta").load("/Volumes/main/raw/landing/sales")

        @dp.temporary_view
        @dp.expect("north", F.col("shop") == "N")
        @dp.expect_or_drop("positive", F.col("amount") > 0)
        def positive():
            return spark.read.table("known")

        @dp.materialized_view
        @dp.expect("at least two", "n >= 2")
        def totals():
            both = spark.read.table("positive").alias("a").join(spark.read.table("positive").alias("b"), "shop")
            return both.groupBy("shop").agg(F.count("*").alias("n"))
        """
    )
    project.land("sales", pa.table({"shop": ["N", "N", "S", "S", "S"], "amount": [1, 2, 3, None, -1]}))
    project.ok()
    assert project.rows("totals", "shop", "n") == [("N", 4), ("S", 1)]
    [quality] = [e.details["data_quality"] for e in project.events if "data_quality" in e.details]
    counts = {(r["dataset"], r["name"]): (r["passed_records"], r["failed_records"]) for r in quality["expectations"]}
    assert counts == {
        ("known", "has amount"): (4, 1),
        ("positive", "north"): (2, 2),
        ("positive", "positive"): (3, 1),
        ("totals", "at least two"): (1, 1),
    }
    assert quality["dropped_records"] == 2
