"""Watermarks: what they count, what survives a death, and what a changed query means for the state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.reference import streams

from lakelet import faults
from lakelet.pipeline import RefreshSelection

START = datetime(2024, 5, 1, 12, tzinfo=UTC)
VISITS = """
    @dp.temporary_view
    def visits():
        return (
            spark.readStream.format("delta").load("/Volumes/main/raw/landing/visits")
            .withWatermark("at", "10 minutes")
        )

    @dp.table
    def result():
        return spark.readStream.table("visits"){query}
"""
QUERIES = {
    "distinct": '.dropDuplicates(["page", "at"])',
    "within": '.dropDuplicatesWithinWatermark(["page"])',
    "windows": '.groupBy(F.window("at", "30 minutes"), "page").agg(F.count("*").alias("n")).drop("window")',
    "instants": '.groupBy("at").agg(F.count("*").alias("n"))',
}
BATCHES = (
    [("a", 0), ("a", 0), ("b", 3)],
    [("a", 20), ("b", 3), ("b", 29)],
    [("a", 45), ("c", 44), ("a", 20)],
    [("c", 90), ("a", 1), ("b", 80)],
    [("a", 200)],
)


class Crash(BaseException):
    """Ends an update as the death of the process would."""


@contextlib.contextmanager
def crash_at(point: str) -> Iterator[None]:
    def hook(reached: str) -> None:
        if reached == point:
            raise Crash

    with faults.installed(hook), contextlib.suppress(Crash):
        yield


def land(project: Any, *rows: tuple[str, int | None], name: str = "visits") -> None:
    times = [None if minute is None else START + timedelta(minutes=minute) for _, minute in rows]
    columns = {"page": [page for page, _ in rows], "at": pa.array(times, pa.timestamp("us", "UTC"))}
    project.land(name, pa.table(columns))


def metrics(project: Any) -> list[dict[str, Any]]:
    """Return the metrics of the last update's micro-batches."""
    found = [event.details["metrics"] for event in project.events if "metrics" in event.details]
    left_out = ("duration_ms", "backlog_bytes", "backlog_files")
    return [{key: value for key, value in item.items() if key not in left_out} for item in found]


def test_the_watermark_moves_after_a_batch_and_is_in_the_event_log(project: Any) -> None:
    project.write(VISITS.format(query=QUERIES["windows"]))
    land(project, ("a", 0), ("a", 15), ("b", None))
    project.ok()
    assert metrics(project) == [
        {"num_input_rows": 2, "num_output_rows": 0, "num_rows_dropped_by_watermark": 0, "num_state_rows": 2},
        {"num_input_rows": 0, "num_output_rows": 0, "num_rows_dropped_by_watermark": 0, "num_state_rows": 2,
         "watermark": "2024-05-01T12:05:00.000+00:00"},
    ]  # fmt: skip
    land(project, ("a", 41))
    land(project, ("a", 2))
    project.ok()
    assert [item.get("watermark", "")[11:16] for item in metrics(project)] == ["12:05", "12:31"]
    assert [item["num_output_rows"] for item in metrics(project)] == [0, 1]
    land(project, ("a", 29), ("a", 30))
    project.ok()
    assert [item["num_rows_dropped_by_watermark"] for item in metrics(project)] == [1]
    assert project.rows("result", "page", "n") == [("a", 3)]


def test_without_an_operator_with_state_a_watermark_drops_nothing(project: Any) -> None:
    project.write(VISITS.format(query=""))
    land(project, ("a", 600))
    project.ok()
    land(project, ("a", 1))
    project.ok()
    assert len(project.rows("result")) == 2
    assert "watermark" not in metrics(project)[0]


@pytest.mark.parametrize(
    "point", [point for point in faults.POINTS if point.startswith("flow.")] + [*faults.STATE_POINTS]
)
@pytest.mark.parametrize("name", QUERIES)
def test_a_death_at_any_point_changes_nothing(
    project: Any, name: str, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakelet.execution.state.COMPACTION_FILES", 2)
    project.write(VISITS.format(query=QUERIES[name]))
    for batch in BATCHES:
        land(project, *batch)
        for _ in range(3):
            with crash_at(point):
                project.run()
        project.ok()
    died = project.rows("result")
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert project.ok().flows[0].batches == 0
    shown = [tuple(_minutes(value) for value in row.values()) for row in died]
    assert sorted(shown, key=str) == sorted(_expected(name), key=str)


def _expected(name: str) -> list[tuple[Any, ...]]:
    updates = [[[{"key": page, "at": minute} for page, minute in batch]] for batch in BATCHES]
    match name:
        case "distinct":
            return [(row["key"], row["at"]) for row in streams.distinct(updates, ["key", "at"], 10)]
        case "within":
            return [(row["key"], row["at"]) for row in streams.distinct_within(updates, ["key"], 10)]
        case "windows":
            groups, _ = streams.grouped(updates, streams.windows(30, 30), 10)
            return [(key, len(rows)) for (_, key), rows in groups]
        case _:
            groups, _ = streams.grouped(updates, lambda row: [(row["at"], row["at"])], 10)
            return [(at, len(rows)) for at, rows in groups]


def _minutes(value: Any) -> Any:
    return int((value - START).total_seconds()) // 60 if isinstance(value, datetime) else value


def state_tables(project: Any) -> dict[str, DeltaTable]:
    folders = (project.root / "data" / "_checkpoints").glob("**/state/*")
    return {folder.name: DeltaTable(str(folder)) for folder in folders if (folder / "_delta_log").is_dir()}


@pytest.mark.parametrize(
    "query", [QUERIES["distinct"], QUERIES["within"], QUERIES["windows"], QUERIES["instants"]], ids=QUERIES
)
def test_state_is_bounded_by_the_watermark(project: Any, monkeypatch: pytest.MonkeyPatch, query: str) -> None:
    monkeypatch.setattr("lakelet.execution.state.COMPACTION_FILES", 3)
    project.write(VISITS.format(query=query))
    for hour in range(12):
        land(project, (f"a{hour}", hour * 60), (f"b{hour}", hour * 60 + 1))
        project.ok()
    found = state_tables(project)
    assert found
    for name, table in found.items():
        assert table.to_pyarrow_table().num_rows <= 6, name
        assert len(list(Path(table.table_uri.removeprefix("file://")).glob("*.parquet"))) <= 4, name


@pytest.mark.parametrize("how", ["inner", "left", "right", "full"])
def test_the_state_of_a_join_is_bounded_by_both_watermarks(
    project: Any, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("lakelet.execution.state.COMPACTION_FILES", 3)
    project.write(
        f"""
        def read(name):
            rows = spark.readStream.format("delta").load(f"/Volumes/main/raw/landing/{{name}}")
            return rows.withWatermark("at", "10 minutes").alias(name)

        @dp.table
        def result():
            near = F.expr("v.page = w.page AND v.at BETWEEN w.at AND w.at + INTERVAL 5 MINUTES")
            pairs = read("visits").alias("v").join(read("others").alias("w"), near, "{how}")
            return pairs.select(F.col("v.page").alias("page"), F.col("w.page").alias("other"))
        """
    )
    for hour in range(12):
        rows = (("a", hour * 60), (f"b{hour}", hour * 60 + 1))
        land(project, *rows)
        land(project, *rows, name="others")
        project.ok()
    found = state_tables(project)
    assert len(found) >= 2
    for name, table in found.items():
        assert table.to_pyarrow_table().num_rows <= 6, name
    assert ("a", "a") in project.rows("result", "page", "other")


@pytest.mark.parametrize(
    ("before", "after", "cause"),
    [
        ('.dropDuplicates(["page", "at"])', '.dropDuplicates(["page"])', "keys changed from `page, at` to `page`"),
        ('.dropDuplicates(["page"])', '.dropDuplicatesWithinWatermark(["page"])', "operator changed from"),
        ('.dropDuplicates(["page"])', "", "its dropDuplicates is gone"),
        ("", '.dropDuplicates(["page"])', "its dropDuplicates is new"),
        (
            QUERIES["windows"],
            QUERIES["windows"].replace("30", "20"),
            "keys changed from `window(at, 30 minutes), page`",
        ),
        (QUERIES["instants"], '.groupBy("at").agg(F.max("page").alias("n"))', "aggregates changed"),
    ],
)
def test_a_changed_operator_needs_a_full_refresh(project: Any, before: str, after: str, cause: str) -> None:
    project.write(VISITS.format(query=before))
    land(project, ("a", 0), ("b", 30))
    project.ok()
    project.write(VISITS.format(query=after))
    land(project, ("a", 60))
    [error] = project.run().errors
    assert error.condition == "STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA"
    assert cause in error.render()
    assert "--full-refresh result" in error.render()
    project.ok(selection=RefreshSelection(full_refresh=("result",)))


def test_state_that_is_gone_is_missed(project: Any) -> None:
    import shutil

    project.write(VISITS.format(query=QUERIES["distinct"]))
    land(project, ("a", 0))
    project.ok()
    [folder] = (project.root / "data" / "_checkpoints").glob("**/state/keys")
    shutil.rmtree(folder)
    land(project, ("a", 60))
    assert [error.condition for error in project.run().errors] == ["STATE_TABLE_BEHIND_CHECKPOINT"]


@pytest.mark.parametrize(
    ("query", "condition"),
    [
        ('.withWatermark("at", "1 minute").dropDuplicates()', "WATERMARK_REDEFINED"),
        ('.withColumn("a", F.expr("1"))', None),
    ],
)
def test_one_watermark_for_each_stream(project: Any, query: str, condition: str | None) -> None:
    project.write(VISITS.format(query=query))
    land(project, ("a", 0))
    assert [error.condition for error in project.run().errors] == ([condition] if condition else [])


@pytest.mark.parametrize(
    ("column", "delay", "condition"),
    [
        ("page", "10 minutes", "EVENT_TIME_IS_NOT_ON_TIMESTAMP_TYPE"),
        ("att", "10 minutes", "UNRESOLVED_COLUMN"),
        ("at", "10 apples", "CANNOT_PARSE_INTERVAL"),
    ],
)
def test_a_wrong_watermark_is_refused(project: Any, column: str, delay: str, condition: str) -> None:
    text = VISITS.format(query=".dropDuplicates()").replace('("at", "10 minutes")', f'("{column}", "{delay}")')
    project.write(text)
    land(project, ("a", 0))
    [error] = project.run().errors
    assert error.condition == condition
    assert error.origin.line is not None


def test_state_can_be_looked_at(project: Any) -> None:
    project.write(VISITS.format(query=QUERIES["windows"]))
    land(project, ("a", 0), ("b", 31), ("a", 50))
    project.ok()
    [report] = project.pipeline().state("result")
    assert (report.operator, report.table, report.rows) == ("aggregation", "rows", 2)
    assert report.watermark == "2024-05-01T12:40:00.000+00:00"
    assert report.oldest == "2024-05-01T13:00:00.000+00:00"
    assert report.bytes > 0
