"""Deduplication over a stream: of each key the first row, whatever the batches; and forgotten when the watermark says so."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

START = datetime(2024, 5, 1, 12, tzinfo=UTC)

CLICKS = """
    @dp.table
    def clicks():
        return (
            spark.readStream.format("delta").load("/Volumes/main/raw/landing/clicks")
            {query}
        )
""".rstrip()


def clicks(*rows: tuple[Any, int | None]) -> pa.Table:
    """Return rows of (id, minutes after noon)."""
    return pa.table(
        {
            "id": pa.array([row[0] for row in rows], pa.int64()),
            "at": pa.array([None if row[1] is None else START + timedelta(minutes=row[1]) for row in rows],
                           pa.timestamp("us", "UTC")),
            "minute": pa.array([row[1] for row in rows], pa.int64()),
        }
    )  # fmt: skip


def deliver(project: Any, *batches: list[tuple[Any, int | None]]) -> None:
    for batch in batches:
        project.land("clicks", clicks(*batch))
        project.ok()


@pytest.mark.feature("Deduplication of streams")
def test_a_key_comes_once_however_often_and_in_which_update_it_arrives(project: Any) -> None:
    project.write(CLICKS.format(query='.dropDuplicates(["id"])'))
    deliver(project, [(1, 0), (1, 1), (2, 0)], [(2, 5), (3, 1)], [(None, 1)], [(None, 2), (1, 9)])
    assert project.rows("clicks", "id", "minute") == [(1, 0), (2, 0), (3, 1), (None, 1)]


@pytest.mark.feature("Deduplication of streams")
def test_with_the_watermark_column_among_the_keys_late_rows_are_dropped_and_counted(project: Any) -> None:
    project.write(CLICKS.format(query='.withWatermark("at", "10 minutes").dropDuplicates(["id", "at"])'))
    deliver(project, [(1, 0), (1, 30)], [(2, 20), (2, 21), (1, 30), (3, None), (3, None)])
    assert project.rows("clicks", "id", "minute") == [(1, 0), (1, 30), (2, 21), (3, None)]


@pytest.mark.feature("Deduplication of streams")
def test_distinct(project: Any) -> None:
    project.write(CLICKS.format(query='.distinct().filter("id < 3").withColumn("twice", F.col("id") * 2)'))
    deliver(project, [(1, 0), (1, 0)], [(1, 0), (2, 7), (3, 1)])
    assert project.rows("clicks", "id", "minute", "twice") == [(1, 0, 2), (2, 7, 4)]


@pytest.mark.feature("Deduplication of streams")
def test_within_watermark(project: Any) -> None:
    project.write(CLICKS.format(query='.withWatermark("at", "10 minutes").dropDuplicatesWithinWatermark(["id"])'))
    deliver(project, [(1, 0), (1, 9)], [(1, 9)], [(2, 40)], [(1, 41)])
    assert project.rows("clicks", "id", "minute") == [(1, 0), (1, 41), (2, 40)]
