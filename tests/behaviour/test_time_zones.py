"""The session's zone says where days begin, whatever a query reads: tables, streams, files, and rows from the program."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from tests.conftest import ADDRESS

from lakelet.pipeline import Pipeline

pytestmark = pytest.mark.feature("Time zones")

SPEC = """
name: days
storage: data
libraries: [{glob: {include: 'pipeline/**'}}]
configuration: {SETTING: ZONE, lakelet.engine: ADDRESS}
"""
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

@dp.table
@dp.expect_or_drop("from noon on", "at >= TIMESTAMP '2024-05-01 12:00:00'")
def afternoons():
    rows = spark.readStream.table("copy")
    begins, noon = F.date_trunc("DAY", "at"), F.to_timestamp(F.lit("2024-05-01 12:00:00"))
    return rows.select("id", "at", begins.alias("begins"), noon.alias("noon"), F.col("at").cast("string").alias("text"))

dp.create_streaming_table("merged", partition_cols=["day"])
dp.create_auto_cdc_flow(target="merged", source="dated", keys=["id", "day"], sequence_by="at", stored_as_scd_type=2)

@dp.temporary_view
def dated():
    return spark.readStream.table("copy").select("id", "at", F.to_date("at").alias("day"))

dp.create_streaming_table("latest")
dp.create_auto_cdc_flow(target="latest", source="stream", keys=["id"], sequence_by="hour")
"""
INSTANTS = [datetime(2024, 5, 1, hour, tzinfo=UTC) for hour in (1, 14, 15, 23)]


@pytest.mark.parametrize("num_rows", [4, 40_000], ids=["few", "many"])
@pytest.mark.parametrize(
    ("setting", "zone"),
    [
        ("lakelet.timezone", "Asia/Tokyo"),
        ("spark.sql.session.timeZone", "America/New_York"),
        ("spark.sql.session.timeZone", "Asia/Kathmandu"),
    ],
)
def test_days_begin_where_the_zone_says(tmp_path: Path, num_rows: int, setting: str, zone: str) -> None:
    """Few rows travel in the query, many as files."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/tables.py").write_text(TABLES)
    spec = SPEC.replace("SETTING", setting).replace("ZONE", zone).replace("ADDRESS", f'"{ADDRESS}"')
    (tmp_path / "spark-pipeline.yml").write_text(spec)
    landing = tmp_path / "data/Volumes/main/raw/landing"
    at = pa.array([INSTANTS[n % 4] for n in range(num_rows)], pa.timestamp("us", "UTC"))
    nested = pa.StructArray.from_arrays([at], ["at"])
    rows = pa.table({"id": pa.array(range(num_rows)), "at": at, "nested": nested})
    write_deltalake(str(landing / "visits"), rows)
    (landing / "files").mkdir()
    pq.write_table(rows, landing / "files/one.parquet")
    local = [instant.astimezone(ZoneInfo(zone)) for instant in INSTANTS]
    wanted = {(n, local[n % 4].date(), local[n % 4].date(), local[n % 4].hour) for n in range(num_rows)}
    days = Counter(local[n % 4].date() for n in range(num_rows))
    noon = datetime(2024, 5, 1, 12, tzinfo=ZoneInfo(zone))
    midnights = [when.replace(hour=0, minute=0) for when in local]
    texts = [f"{when:%Y-%m-%d %H:%M:%S}" for when in local]
    with Pipeline(tmp_path) as pipeline:
        result = pipeline.run()
        assert result.exit_code == 0, [error.render() for error in result.errors]
        for name in ("stream", "again", "table", "files", "old", "latest"):
            assert values(pipeline.table(name), "id", "day", "inner", "hour") == wanted, name
        assert values(pipeline.table("by_day"), "day", "count") == set(days.items())
        found = pipeline.query("SELECT to_date(at) AS day, count(*) AS n FROM copy GROUP BY 1")
        assert values(found, "day", "n") == set(days.items())
        kept = [n for n in range(num_rows) if local[n % 4] >= noon]
        afternoons = values(pipeline.table("afternoons"), "id", "begins", "noon", "text")
        assert afternoons == {(n, midnights[n % 4], noon, texts[n % 4]) for n in kept}
        merged = values(pipeline.table("merged"), "id", "day", "__START_AT", "__END_AT")
        assert merged == {(n, local[n % 4].date(), INSTANTS[n % 4], None) for n in range(num_rows)}
        assert values(pipeline.table("copy"), "id", "at") == {(n, INSTANTS[n % 4]) for n in range(num_rows)}


def values(table: pa.Table, *names: str) -> set[tuple[Any, ...]]:
    return set(zip(*(table.column(name).to_pylist() for name in names), strict=True))
