"""The kit for faults: stories of rows and deaths, and a death at every named point of every kind of dataset."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lakelet import faults
from lakelet.errors import DefinitionError
from lakelet.execution import auto_cdc_cluster, auto_cdc_process
from lakelet.testing import ABORT, CRASH_POINTS, EOF, PAUSE, Crash, ExpectationViolation, PipelineTest, crash_at

SHOP = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table
def orders():
    return spark.readStream.format("delta").load("/Volumes/shop/orders").withColumn("seen_at", F.current_timestamp())

@dp.table
@dp.expect_or_fail("positive", "id > 0")
@dp.expect("small", "id < 3")
def checked():
    return spark.readStream.table("orders")

@dp.table
def firsts():
    return spark.readStream.table("orders").dropDuplicates(["id"])

@dp.materialized_view
def total():
    return spark.read.table("orders").agg(F.count("*").alias("n"))

dp.create_streaming_table("latest")
dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="seen_at")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[PipelineTest]:
    file = tmp_path / "shop.py"
    file.write_text(SHOP)
    with PipelineTest(file, now="2024-05-01T12:00:00") as test:
        yield test


def order(number: int) -> list[dict[str, Any]]:
    return [{"id": number}]


def ids(test: PipelineTest, name: str = "orders") -> list[int]:
    return [row["id"] for row in test.run(name).select("id")]


# -- stories ------------------------------------------------------------------------------------------------------


def test_each_batch_of_a_feed_is_one_micro_batch(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), order(2) + order(3), order(4)])
    result = shop.run("orders")
    assert result.select("id") == [{"id": number} for number in (1, 2, 3, 4)]
    batches = [
        event.details["metrics"]["num_output_rows"]
        for event in result.events
        if event.event_type == "flow_progress" and "metrics" in event.details
    ]
    assert batches == [1, 2, 1]


def test_a_story_with_a_death_ends_as_one_without(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), order(2), ABORT(), order(3)])
    with pytest.raises(Crash) as raised:
        shop.run("orders")
    assert raised.value.point == "flow.intent_written"
    assert ids(shop) == [1, 2, 3]
    assert ids(shop) == [1, 2, 3]


def test_a_death_before_the_first_batch_reads_nothing(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [ABORT(), order(1), ABORT("flow.rows_committed"), ABORT(), order(2)])
    for _ in range(3):
        with pytest.raises(Crash):
            shop.run("orders")
    assert ids(shop) == [1, 2]


def test_a_run_ends_at_eof_and_the_next_one_goes_on(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), order(2), EOF(), order(3), EOF(), order(4)])
    assert ids(shop) == [1, 2]
    assert ids(shop) == [1, 2, 3]
    assert ids(shop) == [1, 2, 3, 4]
    assert ids(shop) == [1, 2, 3, 4]


def test_time_passes_on_the_tests_clock(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), PAUSE("90 minutes"), order(2), PAUSE(timedelta(days=1)), order(3)])
    start = datetime(2024, 5, 1, 12, tzinfo=UTC)
    times = [row["seen_at"] for row in shop.run("orders").select("seen_at")]
    assert times == [start, start + timedelta(minutes=90), start + timedelta(days=1, minutes=90)]
    assert shop.now == times[-1]


def test_a_batch_that_is_replayed_has_the_clock_of_its_first_attempt(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), ABORT(), PAUSE("1 hour"), order(2)])
    with pytest.raises(Crash):
        shop.run("orders")
    rows = shop.run("orders").select("id", "seen_at")
    assert [(row["id"], row["seen_at"].hour) for row in rows] == [(1, 12), (2, 13)]


def test_feeds_go_on_side_by_side(shop: PipelineTest, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        textwrap.dedent(
            """
            from pyspark import pipelines as dp

            @dp.table
            def named():
                names = spark.read.format("delta").load("/Volumes/shop/names")
                return spark.readStream.format("delta").load("/Volumes/shop/orders").join(names, "id", "left")
            """
        )
    )
    shop.feed("/Volumes/shop/orders", [order(1), order(2)])
    shop.feed("/Volumes/shop/names", [[{"id": 2, "name": "bob"}], [{"id": 1, "name": "ann"}]])
    assert shop.run("named").select("id", "name") == [{"id": 1, "name": None}, {"id": 2, "name": "bob"}]


def test_counts_and_dropped_rows_are_those_of_the_whole_run(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), order(5), order(2)])
    assert (shop.run("checked").rules["small"].passed, shop.run("checked").rules["small"].passed) == (2, 0)


def test_a_batch_that_fails_ends_the_run_and_what_follows_stays(shop: PipelineTest) -> None:
    shop.feed("/Volumes/shop/orders", [order(1), order(-1), order(2)])
    for _ in range(2):
        with pytest.raises(ExpectationViolation):
            shop.run("checked")
    assert ids(shop) == [-1, 1, 2]


@pytest.mark.parametrize(
    ("items", "says"),
    [
        ({"id": 1}, "give a list of batches"),
        ([{"id": 1}], "put the row into a list"),
        ([order(1), EOF], "call it"),
    ],
)
def test_a_feed_that_is_no_list_of_batches_is_refused(shop: PipelineTest, items: Any, says: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        shop.feed("/Volumes/shop/orders", items)
    assert raised.value.condition == "TEST_FEED_INVALID"
    assert says in (raised.value.hint or "")


@pytest.mark.parametrize("duration", ["soon", timedelta(seconds=-1), "", 5])
def test_a_pause_is_a_length_of_time(duration: Any) -> None:
    with pytest.raises(DefinitionError, match="TEST_FEED_INVALID"):
        PAUSE(duration)


# -- points -------------------------------------------------------------------------------------------------------


def test_every_point_of_the_source_is_public() -> None:
    source = Path(faults.__file__).parent
    reached = {
        found
        for file in source.rglob("*.py")
        for line in file.read_text("utf-8").splitlines()
        if (found := line.strip().removeprefix('reach("').removesuffix('")')) and f'reach("{found}")' == line.strip()
    }
    assert reached == set(CRASH_POINTS)
    assert {
        *faults.POINTS,
        *faults.FILE_POINTS,
        *faults.SINK_POINTS,
        *faults.SINK_FILE_POINTS,
        *faults.STATE_POINTS,
        *faults.TABLE_POINTS,
        *faults.TIDYING_POINTS,
        *faults.MAINTENANCE_POINTS,
    } == set(CRASH_POINTS)


def test_a_wrong_point_is_refused_with_the_nearest_name() -> None:
    for use in (lambda: ABORT(at="flow.row_commited"), lambda: crash_at("flow.row_commited").__enter__()):
        with pytest.raises(DefinitionError) as raised:
            use()
        assert raised.value.condition == "TEST_CRASH_POINT_UNKNOWN"
        assert raised.value.hint == "did you mean `flow.rows_committed`?"
    with pytest.raises(DefinitionError, match="TEST_CRASH_POINT_UNKNOWN"):
        crash_at("view.noted", occurrence=0).__enter__()


def test_a_point_that_is_not_passed_fails_the_test(shop: PipelineTest) -> None:
    shop.given("/Volumes/shop/orders", order(1))
    with pytest.raises(DefinitionError, match="TEST_CRASH_POINT_NOT_REACHED"), crash_at("sink.rows_written"):
        shop.run("orders")
    shop.feed("/Volumes/shop/orders", [order(2), ABORT(at="flow.commit_noted", occurrence=9)])
    with pytest.raises(DefinitionError, match="TEST_CRASH_POINT_NOT_REACHED"):
        shop.run("orders")


def test_the_second_pass_of_a_point_is_another_one(shop: PipelineTest) -> None:
    shop.given("/Volumes/shop/orders", order(1))
    with crash_at("flow.rows_committed", occurrence=2):
        shop.run("checked")
    assert ids(shop) == [1]
    assert ids(shop, "checked") == [1]


EVERYTHING = """
    @dp.table
    def lines():
        return spark.readStream.format("json").schema("id BIGINT, v BIGINT").load("/Volumes/main/raw/in")

    @dp.table
    def firsts():
        return spark.readStream.table("lines").dropDuplicates(["id"])

    @dp.materialized_view
    def total():
        return spark.read.table("lines").agg(F.count("*").alias("n"))

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="lines", keys=["id"], sequence_by="v")

    dp.create_sink("copies", "delta", {"path": "/Volumes/main/raw/copies"})

    @dp.append_flow(target="copies")
    def to_copies():
        return spark.readStream.table("lines")

    dp.create_sink("files", "json", {"path": "/Volumes/main/raw/files"})

    @dp.append_flow(target="files")
    def to_files():
        return spark.readStream.table("lines")
"""


UPDATE_POINTS = [point for point in CRASH_POINTS if not point.startswith("maintenance.")]
"""Points that updates pass; those of maintenance are in test_maintenance.py."""


@pytest.fixture
def _soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto_cdc_process, "RECENT_EVENTS", 10)
    monkeypatch.setattr(auto_cdc_cluster, "SETTLED_ROWS", 10)


@pytest.mark.usefixtures("_soon_settled")
@pytest.mark.parametrize(
    ("point", "occurrence"),
    [(point, number) for point in UPDATE_POINTS for number in (1, 2) if (point, number) != ("state.compacted", 2)]
    + [(point, number) for point in faults.TABLE_POINTS for number in range(3, 9)],
)
def test_a_death_at_any_point_of_any_dataset_loses_and_doubles_nothing(
    project: Any, point: str, occurrence: int
) -> None:
    """Updates with one file each until one dies, and one more: a table with state is put together after ten batches only."""
    project.write(EVERYTHING)
    landed: list[tuple[int, int]] = []
    land_lines(project, landed)
    project.ok()
    with crash_at(point, occurrence=occurrence):
        for _ in range(25):
            land_lines(project, landed)
            project.run()
    land_lines(project, landed)
    project.ok()
    check_everything(project, landed)


def land_lines(project: Any, landed: list[tuple[int, int]]) -> None:
    """Add a file with two rows to the folder and to `landed`."""
    folder = project.root / "data" / "Volumes" / "main" / "raw" / "in"
    folder.mkdir(parents=True, exist_ok=True)
    number = len(landed)
    landed.extend([(number, number), (0, number + 1)])
    text = "".join(f'{{"id": {key}, "v": {value}}}\n' for key, value in landed[number:])
    (folder / f"{number:03}.json").write_text(text)


def check_everything(project: Any, landed: list[tuple[int, int]]) -> None:
    assert sorted(project.rows("lines", "id", "v")) == sorted(landed)
    assert sorted(project.rows("firsts", "id")) == sorted({key for key, _ in landed})
    assert project.rows("total", "n") == [len(landed)]
    assert sorted(project.rows("latest", "id", "v")) == sorted(dict(sorted(landed)).items())
    sinks = project.root / "data" / "Volumes" / "main" / "raw"
    copies = pa_rows(sinks / "copies")
    assert sorted(zip(copies["id"].to_pylist(), copies["v"].to_pylist(), strict=True)) == sorted(landed)
    lines = [json.loads(line) for file in (sinks / "files").glob("*.json") for line in file.read_text().splitlines()]
    assert sorted((line["id"], line["v"]) for line in lines) == sorted(landed)


@pytest.mark.feature("Recovery: a death at every point")
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("_soon_settled")
def test_deaths_at_every_point_one_after_the_other_lose_and_double_nothing(project: Any) -> None:
    """One project, which dies at a point, is run again, and dies at the next one."""
    project.write(EVERYTHING)
    landed: list[tuple[int, int]] = []
    land_lines(project, landed)
    project.ok()
    never = {"view.state_committed", "view.tidied"} if project.engine.capabilities.cluster_writes else set()
    for point in sorted(set(UPDATE_POINTS) - never, key=lambda point: point == "state.compacted"):
        with crash_at(point):
            for _ in range(25):
                land_lines(project, landed)
                project.run()
        project.ok()
        assert sorted(project.rows("lines", "id", "v")) == sorted(landed), point
    check_everything(project, landed)


def pa_rows(location: Path) -> Any:
    from deltalake import DeltaTable

    return DeltaTable(str(location)).to_pyarrow_table()
