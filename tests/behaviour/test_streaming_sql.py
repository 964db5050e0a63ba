"""Streams that are grouped, joined and freed of duplicates in SQL text: the rows that the same DataFrames give."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
SOURCES = """
    @dp.temporary_view
    def a():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/a")

    @dp.temporary_view
    def b():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/b")

    def stream(name):
        return spark.readStream.table(name).withWatermark("at", "10 minutes")

    @dp.table
    def frames():
        return {frames}
"""
PAIRS = {
    "groups without a watermark": (
        "SELECT k, count(*) AS n, sum(v) total FROM STREAM(a) WHERE v > 1 GROUP BY k",
        'spark.readStream.table("a").where("v > 1").groupBy("k").agg(F.count("*").alias("n"), F.sum("v").alias("total"))',
    ),
    "a total": (
        "SELECT max(v) AS top FROM STREAM a",
        'spark.readStream.table("a").agg(F.max("v").alias("top"))',
    ),
    "windows": (
        "SELECT window.start AS since, upper(k) AS name, sum(v) AS s FROM STREAM(a) WATERMARK at DELAY OF INTERVAL 10 MINUTES "
        "GROUP BY window(at, '10 minutes'), k HAVING count(*) > 1",
        'stream("a").groupBy(F.window("at", "10 minutes"), "k").agg(F.sum("v").alias("s"), F.count("*").alias("n"))'
        '.where("n > 1").select(F.col("window.start").alias("since"), F.upper("k").alias("name"), "s")',
    ),
    "distinct": (
        "SELECT DISTINCT k, v % 2 AS odd FROM STREAM(a)",
        'spark.readStream.table("a").select("k", F.expr("v % 2").alias("odd")).distinct()',
    ),
    "an inner join": (
        "SELECT l.k, l.v AS lv, r.v AS rv FROM STREAM(a) AS l JOIN STREAM(b) r ON l.k = r.k WHERE l.v > 1",
        'spark.readStream.table("a").alias("l").join(spark.readStream.table("b").alias("r"), F.expr("l.k = r.k"))'
        '.where("l.v > 1").select("l.k", F.col("l.v").alias("lv"), F.col("r.v").alias("rv"))',
    ),
    "a left join": (
        "SELECT l.v AS lv, r.v AS rv FROM STREAM(a) WATERMARK at DELAY OF INTERVAL 10 MINUTES AS l LEFT JOIN "
        "STREAM(b) WATERMARK at DELAY OF INTERVAL 10 MINUTES AS r "
        "ON l.k = r.k AND r.at BETWEEN l.at AND l.at + INTERVAL 5 MINUTES",
        'stream("a").alias("l").join(stream("b").alias("r"), '
        'F.expr("l.k = r.k AND r.at BETWEEN l.at AND l.at + INTERVAL 5 MINUTES"), "left")'
        '.select(F.col("l.v").alias("lv"), F.col("r.v").alias("rv"))',
    ),
}


def land(project: Any, name: str, *rows: tuple[str, int, int]) -> None:
    keys, minutes, values = zip(*rows, strict=True)
    times = pa.array([START + timedelta(minutes=minute) for minute in minutes], pa.timestamp("us", "UTC"))
    project.land(name, pa.table({"k": list(keys), "at": times, "v": list(values)}))


@pytest.mark.parametrize("pair", PAIRS)
def test_sql_text_and_frames_give_the_same_table(project: Any, pair: str) -> None:
    sql, frames = PAIRS[pair]
    project.write(SOURCES.format(frames=frames))
    project.write(f"CREATE STREAMING TABLE texts AS {sql};", file="texts.sql")
    for batch in range(3):
        land(project, "a", ("x", 15 * batch, 1 + batch), ("x", 15 * batch + 1, 2), ("y", 15 * batch + 3, 3))
        land(project, "b", ("x", 15 * batch + 2, 10 + batch), ("z", 15 * batch, 20))
        project.ok()
    rows = project.rows("texts")
    assert rows and rows == project.rows("frames")
