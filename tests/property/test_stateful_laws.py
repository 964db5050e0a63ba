"""Operators with state against the plainest reading of their rules: any batches, lateness, deaths and restarts."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.deaths import dying
from tests.reference import streams
from tests.reference.streams import Row, Updates

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
SPEC = "name: laws\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
HEADER = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

def stream(name):
    options = {"startingVersion": "0", "maxFilesPerTrigger": "1"}
    return spark.readStream.format("delta").options(**options).load(f"/Volumes/c/s/v/{name}")

@dp.table
def out():
    return """
POINTS = [point for point in (*faults.POINTS, *faults.STATE_POINTS) if point.split(".")[0] in ("flow", "state")]


def table(rows: list[Row]) -> pa.Table:
    times = [None if row["at"] is None else START + timedelta(minutes=row["at"]) for row in rows]
    return pa.table(
        {
            "key": pa.array([row["key"] for row in rows], pa.int64()),
            "at": pa.array(times, pa.timestamp("us", "UTC")),
            "minute": pa.array([row["at"] for row in rows], pa.int64()),
            "value": pa.array([row["value"] for row in rows], pa.int64()),
            "stream": pa.array([row.get("stream", 0) for row in rows], pa.int64()),
        }
    )


def play(
    engine: SailEngine, query: str, updates: Updates, deaths: list[tuple[str | None, int]]
) -> list[dict[str, Any]]:
    """Run the updates, each dying where it is told to before it is run to its end; returns the rows of the target."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pipeline").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC)
        (root / "pipeline" / "out.py").write_text(HEADER + query + "\n")
        events = str(root / "data/Volumes/c/s/v/events")
        write_deltalake(events, table([]))
        for update, (point, after) in zip(updates, deaths, strict=False):
            for batch in update:
                write_deltalake(events, table(batch), mode="append")
            with dying(point, after):
                Pipeline(root, engine=engine).run()
            result = Pipeline(root, engine=engine).run()
            assert result.exit_code == 0, [error.render() for error in result.errors]
        return list(Pipeline(root, engine=engine).table("out").to_pylist())


ROWS = st.fixed_dictionaries(
    {
        "key": st.one_of(st.none(), st.integers(0, 2)),
        "at": st.one_of(st.none(), st.integers(0, 60)),
        "value": st.integers(0, 9),
    }
)
UPDATES = st.lists(st.lists(st.lists(ROWS, min_size=1, max_size=4), min_size=1, max_size=3), min_size=1, max_size=4)
DEATHS = st.lists(
    st.tuples(st.sampled_from([None, "state.committed", *POINTS]), st.integers(1, 3)), min_size=4, max_size=4
)
law = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


def bag(rows: list[Any], *names: str) -> Counter[Any]:
    return Counter(tuple(row[name] for name in names) for row in rows)


@law
@given(updates=UPDATES, deaths=DEATHS)
def test_drop_duplicates(engine: SailEngine, updates: Updates, deaths: Any) -> None:
    rows = play(engine, 'stream("events").dropDuplicates(["key"])', updates, deaths)
    assert bag(rows, "key", "minute", "value") == bag(
        [{**row, "minute": row["at"]} for row in streams.distinct(updates, ["key"])], "key", "minute", "value"
    )


@law
@given(updates=UPDATES, deaths=DEATHS)
def test_drop_duplicates_with_a_watermark(engine: SailEngine, updates: Updates, deaths: Any) -> None:
    query = 'stream("events").withWatermark("at", "7 minutes").dropDuplicates(["key", "at"])'
    expected = streams.distinct(updates, ["key", "at"], 7)
    assert bag(play(engine, query, updates, deaths), "key", "minute", "value") == bag(
        [{**row, "minute": row["at"]} for row in expected], "key", "minute", "value"
    )


@law
@given(updates=UPDATES, deaths=DEATHS)
def test_drop_duplicates_within_a_watermark(engine: SailEngine, updates: Updates, deaths: Any) -> None:
    query = 'stream("events").withWatermark("at", "7 minutes").dropDuplicatesWithinWatermark(["key"])'
    expected = streams.distinct_within(updates, ["key"], 7)
    assert bag(play(engine, query, updates, deaths), "key", "minute", "value") == bag(
        [{**row, "minute": row["at"]} for row in expected], "key", "minute", "value"
    )


@law
@given(updates=UPDATES, deaths=DEATHS, slide=st.sampled_from([10, 5]))
def test_windows(engine: SailEngine, updates: Updates, deaths: Any, slide: int) -> None:
    query = f"""(
        stream("events").withWatermark("at", "7 minutes")
        .groupBy(F.window("at", "10 minutes", "{slide} minutes"), "key")
        .agg(F.count("*").alias("n"), F.sort_array(F.collect_list("value")).alias("values"))
        .withColumn("start", F.col("window.start").cast("long"))
    )"""
    expected, _ = streams.grouped(updates, streams.windows(10, slide), 7)
    found = play(engine, query, updates, deaths)
    epoch = int(START.timestamp())
    assert Counter((row["start"], row["key"], row["n"], tuple(row["values"])) for row in found) == Counter(
        (epoch + start * 60, key, len(rows), tuple(sorted(row["value"] for row in rows)))
        for (start, key), rows in expected
    )


@law
@given(updates=UPDATES, deaths=DEATHS)
def test_groups_without_a_watermark(engine: SailEngine, updates: Updates, deaths: Any) -> None:
    query = 'stream("events").groupBy("key").agg(F.count("*").alias("n"), F.sum("value").alias("total"))'
    rows = [row for update in updates for batch in update for row in batch]
    expected = Counter(
        (key, sum(row["key"] == key for row in rows), sum(row["value"] for row in rows if row["key"] == key))
        for key in {row["key"] for row in rows}
    )
    assert bag(play(engine, query, updates, deaths), "key", "n", "total") == expected


SIDED = st.builds(
    lambda row, stream: {**row, "stream": stream},
    st.fixed_dictionaries({"key": st.integers(0, 2), "at": st.integers(0, 60), "value": st.integers(0, 9)}),
    st.integers(0, 1),
)
SIDED_UPDATES = st.lists(
    st.lists(st.lists(SIDED, min_size=1, max_size=5), min_size=1, max_size=2), min_size=1, max_size=4
)


@law
@given(updates=SIDED_UPDATES, deaths=DEATHS, kind=st.sampled_from(["inner", "left", "right", "full"]))
def test_joins(engine: SailEngine, updates: Updates, deaths: Any, kind: str) -> None:
    query = f"""(
        stream("events").filter("stream = 0").withWatermark("at", "4 minutes").alias("a")
        .join(stream("events").filter("stream = 1").withWatermark("at", "7 minutes").alias("b"),
              F.expr("a.key = b.key AND b.at >= a.at - interval 3 minutes AND b.at <= a.at + interval 8 minutes"), "{kind}")
        .selectExpr("a.key AS key", "a.minute AS minute", "a.value AS value",
                    "b.key AS key2", "b.minute AS minute2", "b.value AS value2")
    )"""
    expected = streams.joined(
        updates,
        lambda left, right: left["key"] == right["key"] and left["at"] - 3 <= right["at"] <= left["at"] + 8,
        kind,
        (4, 7),
        (lambda row: row["at"] + 8, lambda row: row["at"] + 3),
    )
    blank = {"key": None, "at": None, "value": None}
    wanted = Counter(
        tuple((side or blank)[name] for side in pair for name in ("key", "at", "value")) for pair in expected
    )
    found = play(engine, query, updates, deaths)
    assert bag(found, "key", "minute", "value", "key2", "minute2", "value2") == wanted
