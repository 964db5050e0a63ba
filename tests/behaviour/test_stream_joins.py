"""Joins of two streams: every pair once, and of an outer join what finds no match, once that is sure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
JOIN = """
    @dp.temporary_view
    def ads():
        ads = spark.readStream.format("delta").load("/Volumes/main/raw/landing/ads")
        return ads.withWatermark("at", "5 minutes").filter("id < 100")

    @dp.table
    def result():
        clicks = spark.readStream.format("delta").load("/Volumes/main/raw/landing/clicks").withWatermark("at", "5 minutes")
        ads = spark.readStream.table("ads")
        return {query}
"""
RANGE = 'F.expr("a.id = c.id AND c.at BETWEEN a.at AND a.at + INTERVAL 10 MINUTES")'
OUTER = (
    f'ads.alias("a").join(clicks.alias("c"), {RANGE}, "%s").select("a.id", F.col("a.minute").alias("ad"), "c.minute")'
)
BY_FRAME = """(
            ads.join(clicks, (ads.id == clicks.id) & (clicks.at >= ads.at)
                     & (clicks.at <= ads.at + F.expr("interval 10 minutes")), "left")
            .select(ads.id, ads.minute.alias("ad"), clicks.minute)
        )"""


def land(project: Any, table: str, *rows: tuple[int, int]) -> None:
    times = [START + timedelta(minutes=minute) for _, minute in rows]
    columns = {
        "id": pa.array([key for key, _ in rows], pa.int64()),
        "at": pa.array(times, pa.timestamp("us", "UTC")),
        "minute": pa.array([minute for _, minute in rows], pa.int64()),
    }
    project.land(table, pa.table(columns))


def play(project: Any) -> list[Any]:
    """Land ads and clicks in turns; ad 1 is clicked in time, 2 too late, 3 never."""
    land(project, "ads", (1, 0), (2, 1), (3, 2))
    land(project, "clicks", (1, 5), (9, 6))
    project.ok()
    land(project, "clicks", (1, 3), (2, 12))
    project.ok()
    early = project.rows("result", "id", "ad", "minute")
    land(project, "ads", (4, 60))
    land(project, "clicks", (4, 61))
    project.ok()
    land(project, "ads", (5, 120))
    land(project, "clicks", (5, 119))
    project.ok()
    assert early == [(1, 0, 3), (1, 0, 5)]
    return list(project.rows("result", "id", "ad", "minute"))


@pytest.mark.feature("Joins of streams")
@pytest.mark.parametrize(
    ("query", "more"),
    [
        (OUTER % "inner", []),
        (OUTER % "left", [(2, 1, None), (3, 2, None)]),
        (OUTER % "right", [(None, None, 12), (None, None, 6)]),
        (OUTER % "full", [(2, 1, None), (3, 2, None), (None, None, 12), (None, None, 6)]),
        (BY_FRAME, [(2, 1, None), (3, 2, None)]),
    ],
)
def test_pairs_come_once_and_rows_alone_when_it_is_sure(project: Any, query: str, more: list[Any]) -> None:
    project.write(JOIN.format(query=query))
    assert play(project) == sorted([(1, 0, 3), (1, 0, 5), (4, 60, 61), *more], key=str)


@pytest.mark.feature("Joins of streams")
def test_an_inner_join_by_name_needs_no_watermark(project: Any) -> None:
    project.write(
        """
        @dp.table
        def result():
            ads = spark.readStream.format("delta").load("/Volumes/main/raw/landing/ads")
            clicks = spark.readStream.format("delta").load("/Volumes/main/raw/landing/clicks")
            return ads.join(clicks, "id").select("id", ads.minute.alias("ad"), clicks.minute)
        """
    )
    land(project, "ads", (1, 0), (2, 0))
    land(project, "clicks", (1, 600))
    project.ok()
    land(project, "clicks", (2, 5), (1, 7))
    project.ok()
    assert project.rows("result", "id", "ad", "minute") == [(1, 0, 600), (1, 0, 7), (2, 0, 5)]
