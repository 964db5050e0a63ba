"""Aggregation over a stream."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

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


def test_without_a_watermark_the_table_is_rewritten(project: Any) -> None:
    project.write(
        SALES.format(
            query='sales.groupBy("shop").agg(F.sum("amount").alias("total"), F.countDistinct("amount").alias("n")).filter("total > 1")'
        )
    )
    deliver(project, [("N", 5, 1), ("N", 6, 2), ("S", 7, 5)], [("N", 29, 10), ("E", 39, 1)])
    assert project.rows("totals", "shop", "total", "n") == [("N", 13, 3), ("S", 5, 1)]
