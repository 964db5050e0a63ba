"""Aggregation over a stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

START = datetime(2024, 5, 1, 12, tzinfo=UTC)

SALES = """
    @dp.table
    def totals():
        sales = spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")
        return {query}
""".rstrip()
HOURLY = """(
            sales.withWatermark("at", "10 minutes").groupBy(F.window("at", "30 minutes"), "shop")
            .agg(F.sum("amount").alias("total"), F.count("*").alias("n"))
            .select("shop", F.minute("window.start").alias("start"), "total", "n")
        )"""


def sales(*rows: tuple[str, int | None, int]) -> pa.Table:
    return pa.table(
        {
            "shop": [row[0] for row in rows],
            "at": pa.array([None if row[1] is None else START + timedelta(minutes=row[1]) for row in rows],
                           pa.timestamp("us", "UTC")),
            "amount": pa.array([row[2] for row in rows], pa.int64()),
        }
    )  # fmt: skip


def deliver(project: Any, *batches: list[tuple[str, int | None, int]]) -> None:
    for batch in batches:
        project.land("sales", sales(*batch))
        project.ok()


@pytest.mark.feature("Aggregation of streams")
def test_a_window_is_given_once_when_the_watermark_passes_its_end(project: Any) -> None:
    project.write(SALES.format(query=HOURLY))
    deliver(project, [("N", 5, 1), ("N", 6, 2), ("S", 7, 5)], [("N", 29, 10), ("N", 39, 4)])
    assert project.rows("totals") == []
    deliver(project, [("N", 40, 1)])
    assert project.rows("totals", "shop", "start", "total", "n") == [("N", 0, 13, 3), ("S", 0, 5, 1)]
    deliver(project, [("N", 29, 100), ("N", 55, 1)])
    assert project.rows("totals", "shop", "start", "total", "n") == [("N", 0, 13, 3), ("S", 0, 5, 1)]
    deliver(project, [("N", 71, 100)])
    assert project.rows("totals", "shop", "start", "total", "n") == [("N", 0, 13, 3), ("N", 30, 6, 3), ("S", 0, 5, 1)]


@pytest.mark.feature("Aggregation of streams")
def test_without_a_watermark_the_table_is_rewritten(project: Any) -> None:
    totals = 'F.sum("amount").alias("total"), F.countDistinct("amount").alias("n")'
    project.write(SALES.format(query=f'sales.groupBy("shop").agg({totals}).filter("total > 1")'))
    deliver(project, [("N", 5, 1), ("N", 6, 2), ("S", 7, 5)], [("N", 29, 10), ("E", 39, 1)])
    assert project.rows("totals", "shop", "total", "n") == [("N", 13, 3), ("S", 5, 1)]
    flow = next(event for event in project.events if event.event_type == "flow_definition")
    assert flow.details["flow_type"] == "COMPLETE"
    before = project.version("totals")
    project.ok()
    assert project.version("totals") == before


@pytest.mark.feature("Aggregation of streams")
def test_a_table_that_is_rewritten_has_one_flow_and_no_stream(project: Any) -> None:
    project.write(
        SALES.format(query='sales.groupBy("shop").count()')
        + """
    @dp.append_flow(target="totals")
    def more():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales").select("shop")

    @dp.table
    def copy():
        return spark.readStream.table("totals")
    """
    )
    project.land("sales", sales(("N", 1, 1)))
    assert sorted(error.condition for error in project.run().error.errors) == [
        "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
        "STREAMING_READ_OF_CHANGING_TABLE",
    ]


@pytest.mark.feature("Aggregation of streams")
def test_a_rule_sees_the_rows_above_the_operator(project: Any) -> None:
    query = HOURLY.replace("return", "")
    text = SALES.format(query=query).replace("@dp.table", '@dp.table\n    @dp.expect_or_drop("large", "total > 4")')
    project.write(text)
    deliver(project, [("N", 5, 1), ("S", 7, 5)], [("N", 55, 1)])
    assert project.rows("totals", "shop", "total") == [("S", 5)]


@pytest.mark.feature("Aggregation of streams")
def test_columns_are_found_by_frame_and_by_table_name_above_and_inside_of_an_aggregation(project: Any) -> None:
    project.write(
        """
        @dp.table
        def bronze():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")

        @dp.materialized_view
        def shops():
            return spark.sql("select 'N' as shop, 'North' as name")

        @dp.table
        def totals():
            sales = spark.readStream.table("bronze").withWatermark("at", "1 minute")
            kept = sales.filter(F.col("bronze.amount") > 0)
            hours = kept.groupBy(F.window(sales.at, "1 hour").alias("hour"), kept.shop).agg(F.sum(kept.amount).alias("total"))
            names = spark.read.table("shops")
            return hours.join(names, hours.shop == names.shop, "left").select(hours.shop, names.name, hours.total)
        """
    )
    deliver(project, [("N", 5, 1), ("S", 7, 5), ("N", 8, 2), ("N", 8, -2)], [("N", 65, 1)])
    assert project.rows("totals") == [
        {"shop": "N", "name": "North", "total": 3},
        {"shop": "S", "name": None, "total": 5},
    ]
