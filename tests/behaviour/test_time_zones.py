"""The session's zone says where days begin, whatever a query reads: tables, streams, files, and rows from the program."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lakelet.pipeline import Pipeline

SPEC = "name: days\nstorage: data\nlibraries: [{glob: {include: 'pipeline/**'}}]\nconfiguration: {lakelet.timezone: Asia/Tokyo}\n"
TABLES = """
from datetime import datetime, timezone
from pyspark import pipelines as dp
from pyspark.sql import functions as F

LANDING = "/Volumes/main/raw/landing/visits"

def days(rows):
    return rows.select("id", F.to_date("at").alias("day"), F.to_date("nested.at").alias("inner"), F.hour("at").alias("hour"))

@dp.table
def stream():
    return days(spark.readStream.format("delta").load(LANDING))

@dp.table
def copy():
    return spark.readStream.format("delta").load(LANDING)

@dp.table
def again():
    return days(spark.readStream.table("copy"))

@dp.materialized_view
def table():
    return days(spark.read.table("copy"))

@dp.materialized_view
def files():
    return days(spark.read.parquet("/Volumes/main/raw/landing/files"))

@dp.materialized_view
def old():
    return days(spark.read.format("delta").option("versionAsOf", 0).load(LANDING))

@dp.materialized_view
def by_day():
    return spark.read.table("copy").groupBy(F.to_date("at").alias("day")).count()

dp.create_streaming_table("latest")
dp.create_auto_cdc_flow(target="latest", source="stream", keys=["id"], sequence_by="hour")
"""
INSTANTS = [datetime(2024, 5, 1, hour, tzinfo=UTC) for hour in (1, 14, 15, 23)]
DAYS = [date(2024, 5, 1), date(2024, 5, 1), date(2024, 5, 2), date(2024, 5, 2)]


@pytest.mark.parametrize("num_rows", [4, 40_000], ids=["few", "many"])
def test_days_begin_where_the_zone_says(tmp_path: Path, num_rows: int) -> None:
    """Few rows travel in the query, many as files."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/tables.py").write_text(TABLES)
    (tmp_path / "spark-pipeline.yml").write_text(SPEC)
    landing = tmp_path / "data/Volumes/main/raw/landing"
    at = pa.array([INSTANTS[n % 4] for n in range(num_rows)], pa.timestamp("us", "UTC"))
    nested = pa.StructArray.from_arrays([at], ["at"])
    rows = pa.table({"id": pa.array(range(num_rows)), "at": at, "nested": nested})
    write_deltalake(str(landing / "visits"), rows)
    (landing / "files").mkdir()
    pq.write_table(rows, landing / "files/one.parquet")
    wanted = {(n, DAYS[n % 4], DAYS[n % 4], (INSTANTS[n % 4].hour + 9) % 24) for n in range(num_rows)}
    with Pipeline(tmp_path) as pipeline:
        result = pipeline.run()
        assert result.exit_code == 0, [error.render() for error in result.errors]
        for name in ("stream", "again", "table", "files", "old", "latest"):
            assert values(pipeline.table(name), "id", "day", "inner", "hour") == wanted, name
        halves = {(DAYS[0], num_rows // 2), (DAYS[2], num_rows // 2)}
        assert values(pipeline.table("by_day"), "day", "count") == halves
        assert (
            values(pipeline.query("SELECT to_date(at) AS day, count(*) AS n FROM copy GROUP BY 1"), "day", "n")
            == halves
        )
        assert values(pipeline.table("copy"), "id", "at") == {(n, INSTANTS[n % 4]) for n in range(num_rows)}


def values(table: pa.Table, *names: str) -> set[tuple[Any, ...]]:
    return set(zip(*(table.column(name).to_pylist() for name in names), strict=True))
