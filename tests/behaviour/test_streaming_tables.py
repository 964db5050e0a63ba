"""Streaming tables: every row of a source once, whatever happens in between."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakelet import faults
from lakelet.pipeline import RefreshSelection

ORDERS = """
    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
""".rstrip()


def orders(*ids: int, **columns: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), **columns})


class Crash(BaseException):
    """Ends an update where a test wants it, as the death of the process would: nothing handles it."""


def crash_at(point: str, *, times: int = 1) -> Any:
    """Return a hook that raises when `point` is reached for the `times`-th time."""
    seen = 0

    def hook(reached: str) -> None:
        nonlocal seen
        seen += reached == point
        if reached == point and seen == times:
            raise Crash(point)

    return faults.installed(hook)


# -- increments ---------------------------------------------------------------------------------------------------


@pytest.mark.feature("Streaming tables")
def test_each_update_reads_what_is_new(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1, 2))
    assert project.ok().flows[0].batches == 1
    project.land("orders", orders(3))
    project.land("orders", orders(4))
    project.ok()
    assert project.rows("orders", "id") == [1, 2, 3, 4]


@pytest.mark.feature("Streaming tables")
def test_a_second_update_without_new_input_commits_nothing(project: Any) -> None:
    project.write(
        ORDERS
        + """
    @dp.table
    @dp.expect_or_drop("positive", "id > 0")
    def positive():
        return spark.readStream.table("orders")

    @dp.materialized_view
    def total():
        return spark.read.table("positive").agg(F.count("*").alias("n"))
    """
    )
    project.land("orders", orders(1, -2))
    project.ok()
    versions = [project.version(name) for name in ("orders", "positive", "total")]
    project.ok()
    project.ok()
    assert [project.version(name) for name in ("orders", "positive", "total")] == versions
    assert project.techniques() == {"total": ("NO_OP", [])}


@pytest.mark.feature("Streaming tables")
def test_a_downstream_table_sees_the_rows_of_the_same_update(project: Any) -> None:
    project.write(
        ORDERS
        + """
    @dp.temporary_view
    def big_orders():
        return spark.readStream.table("orders").filter("id > 1")

    @dp.table
    def big():
        return spark.readStream.table("big_orders").withColumn("twice", F.col("id") * 2)
    """
    )
    project.land("orders", orders(1, 2, 3))
    project.ok()
    assert project.rows("big", "id", "twice") == [(2, 4), (3, 6)]


@pytest.mark.feature("Streaming tables")
def test_max_files_per_trigger_makes_several_batches(project: Any) -> None:
    project.write(ORDERS.replace('.format("delta")', '.format("delta").option("maxFilesPerTrigger", 1)'))
    for number in range(3):
        project.land("orders", orders(number))
    assert project.ok().flows[0].batches == 3
    assert project.rows("orders", "id") == [0, 1, 2]


@pytest.mark.feature("Streaming tables")
def test_a_batch_whose_rows_are_all_dropped_is_done(project: Any) -> None:
    project.write(ORDERS.replace("@dp.table", '@dp.table\n    @dp.expect_or_drop("positive", "id > 0")'))
    project.land("orders", orders(-1, -2))
    assert project.ok().flows[0].batches == 1
    assert project.rows("orders", "id") == []
    assert project.ok().flows[0].batches == 0


# -- several flows ------------------------------------------------------------------------------------------------

FAN_IN = """
    dp.create_streaming_table("orders", comment="All orders", partition_cols=["shop"])

    @dp.append_flow(target="orders")
    def from_north():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/north").withColumn("shop", F.lit("N"))

    @dp.append_flow(target="orders", name="southern orders")
    def from_south():
        return (
            spark.readStream.format("delta").load("/Volumes/main/raw/landing/south")
            .select(F.lit("S").alias("shop"), "id", F.lit(True).alias("late"))
        )
"""


@pytest.mark.feature("Streaming tables")
def test_several_flows_append_to_one_table(project: Any) -> None:
    project.write(FAN_IN)
    project.land("north", orders(1, 2))
    project.land("south", orders(1))
    project.ok()
    project.land("south", orders(3))
    assert {flow.name: flow.batches for flow in project.ok().flows} == {"from_north": 0, "southern orders": 1}
    assert project.rows("orders", "shop", "id", "late") == [
        ("N", 1, None),
        ("N", 2, None),
        ("S", 1, True),
        ("S", 3, True),
    ]
    table = DeltaTable(str(project.folder("orders")))
    assert table.metadata().partition_columns == ["shop"]
    assert table.metadata().description == "All orders"


@pytest.mark.feature("Streaming tables")
def test_a_full_refresh_of_several_flows_keeps_the_rows_of_each_once(project: Any) -> None:
    project.write(FAN_IN)
    project.land("north", orders(1))
    project.land("south", orders(2))
    project.ok()
    before = project.rows("orders")
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.rows("orders") == before
    project.ok()
    assert project.rows("orders") == before


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("point", ["flow.intent_written", "flow.rows_committed", "flow.commit_noted"])
def test_a_full_refresh_that_dies_is_finished_by_the_next_update(project: Any, point: str, times: int) -> None:
    project.write(FAN_IN)
    project.land("north", orders(1))
    project.land("south", orders(2))
    project.ok()
    before = project.rows("orders")
    with pytest.raises(Crash), crash_at(point, times=times):
        project.run(selection=RefreshSelection(full_refresh_all=True))
    project.ok()
    assert project.rows("orders") == before


@pytest.mark.feature("Streaming tables")
def test_a_once_flow_fills_in_old_rows_a_single_time(project: Any) -> None:
    project.write(
        """
        dp.create_streaming_table("orders")

        @dp.append_flow(target="orders")
        def new_orders():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

        @dp.append_flow(target="orders", once=True)
        def old_orders():
            return spark.read.format("delta").load("/Volumes/main/raw/landing/archive")
        """
    )
    project.land("orders", orders(10))
    project.land("archive", orders(1, 2))
    project.ok()
    assert project.rows("orders", "id") == [1, 10, 2]
    project.land("archive", orders(3))
    result = project.ok()
    assert project.status(result)["old_orders"] == "IDLE"
    assert project.rows("orders", "id") == [1, 10, 2]
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.rows("orders", "id") == [1, 10, 2, 3]


# -- full refresh -------------------------------------------------------------------------------------------------


def test_a_full_refresh_reads_the_sources_from_the_start(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1, 2))
    project.ok()
    project.write(ORDERS + '.filter("id > 1")')
    project.ok()
    assert project.rows("orders", "id") == [1, 2]
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.rows("orders", "id") == [2]


def test_a_full_refresh_empties_the_table_when_the_source_has_no_rows_any_more(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1, 2))
    project.ok()
    project.write(ORDERS + '.filter("id > 5")')
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert project.rows("orders", "id") == []


def test_a_full_refresh_that_fails_leaves_the_old_rows(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1, 2))
    project.ok()
    project.write(ORDERS.replace("@dp.table", '@dp.table\n    @dp.expect_or_fail("small", "id < 2")'))
    result = project.run(selection=RefreshSelection(full_refresh_all=True))
    assert result.exit_code == 1
    assert project.rows("orders", "id") == [1, 2]


@pytest.mark.feature("Streaming tables")
def test_a_full_refresh_takes_a_changed_type(project: Any) -> None:
    """An incremental update refuses the change, and its hint is the full refresh."""
    project.write(ORDERS).land("orders", orders(1))
    project.ok()
    project.write(ORDERS + '.withColumn("id", F.col("id").cast("string"))')
    project.land("orders", orders(2))
    [error] = project.run().errors
    assert error.condition == "DATASET_SCHEMA_MISMATCH"
    assert "`id` is bigint in the table and string in the query" in (error.cause or "")
    assert project.version("orders") == 1
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.rows("orders", "id") == ["1", "2"]


def test_a_table_that_must_not_be_reset_is_left_out_or_refused(project: Any) -> None:
    project.write(
        ORDERS.replace("@dp.table", '@dp.table(table_properties={"pipelines.reset.allowed": "false"})')
        + """
    @dp.table
    def copies():
        return spark.readStream.table("orders")
    """
    )
    project.land("orders", orders(1))
    project.ok()
    version = project.version("orders")
    result = project.run(selection=RefreshSelection(full_refresh=("orders",)))
    assert [error.condition for error in result.errors] == ["FULL_REFRESH_NOT_ALLOWED"]
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert project.version("orders") == version
    assert project.rows("copies", "id") == [1]


def test_readers_of_a_refreshed_table_must_be_refreshed_too(project: Any) -> None:
    project.write(
        ORDERS
        + """
    @dp.table
    def copies():
        return spark.readStream.table("orders")
    """
    )
    project.land("orders", orders(1))
    project.ok()
    result = project.run(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.status(result) == {"orders": "COMPLETED", "copies": "EXCLUDED"}
    [error] = project.run().errors
    assert error.condition == "DELTA_SOURCE_TABLE_IGNORE_CHANGES"
    assert error.origin is not None and error.origin.dataset == "copies"
    project.ok(selection=RefreshSelection(full_refresh=("copies",)))
    assert project.rows("copies", "id") == [1]


# -- columns ------------------------------------------------------------------------------------------------------


@pytest.mark.feature("Streaming tables")
def test_a_new_column_of_the_source_becomes_a_column_of_the_table(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1))
    project.ok()
    project.land("orders", orders(2, coupon=["X"]), schema_mode="merge")
    project.ok()
    assert project.rows("orders", "id", "coupon") == [(1, None), (2, "X")]


def test_a_column_that_the_query_no_longer_has_is_null_from_then_on(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1, note=["a"]))
    project.ok()
    project.write(ORDERS + '.drop("note")').land("orders", orders(2, note=["b"]))
    project.ok()
    assert project.rows("orders", "id", "note") == [(1, "a"), (2, None)]


def test_columns_are_the_same_in_upper_and_lower_case(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1))
    project.ok()
    project.write(ORDERS + '.withColumnRenamed("id", "ID")').land("orders", orders(2))
    project.ok()
    assert project.rows("orders") == [{"id": 1}, {"id": 2}]


def test_two_columns_of_one_name_are_refused(project: Any) -> None:
    project.write(ORDERS + '.select("id", F.col("id").alias("ID"))').land("orders", orders(1))
    result = project.run()
    assert result.exit_code != 0
    [error] = result.errors
    assert error.condition == "COLUMN_ALREADY_EXISTS"
    assert "`id`" in error.message.lower()


def test_a_declared_schema_is_the_tables(project: Any) -> None:
    project.write(ORDERS.replace("@dp.table", '@dp.table(schema="id BIGINT, note STRING, amount DECIMAL(10, 2)")'))
    project.land("orders", orders(1))
    project.ok()
    assert project.rows("orders") == [{"id": 1, "note": None, "amount": None}]
    project.land("orders", orders(2, extra=["x"]), schema_mode="merge")
    [error] = project.run().errors
    assert error.condition == "USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE"
    assert "extra" in error.render()
    assert project.version("orders") == 1


def test_a_column_added_to_the_declared_schema_is_added_to_the_table(project: Any) -> None:
    project.write(ORDERS.replace("@dp.table", '@dp.table(schema="id BIGINT")')).land("orders", orders(1))
    project.ok()
    project.write(ORDERS.replace("@dp.table", '@dp.table(schema="id BIGINT, extra STRING")'))
    project.land("orders", orders(2, extra=["x"]), schema_mode="merge")
    project.ok()
    assert project.rows("orders", "id", "extra") == [(1, None), (2, "x")]


# -- streams beside tables ----------------------------------------------------------------------------------------

NAMED = """
    @dp.table
    def named():
        orders = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        names = spark.read.format("delta").load("/Volumes/main/raw/landing/names")
        return orders.join(names, "id", "left")
"""


def test_rows_written_once_do_not_follow_the_table_beside_the_stream(project: Any) -> None:
    project.write(NAMED)
    project.land("orders", orders(1, 2))
    project.land("names", orders(1, name=["ann"]))
    project.ok()
    project.land("names", orders(2, name=["bob"]))
    project.land("orders", orders(2))
    project.ok()
    assert project.rows("named", "id", "name") == [(1, "ann"), (2, "bob"), (2, None)]


@pytest.mark.feature("Streaming tables")
@pytest.mark.parametrize("point", ["flow.intent_written", "flow.rows_committed", "flow.commit_noted"])
def test_a_replay_sees_the_table_beside_the_stream_as_it_was(project: Any, point: str) -> None:
    project.write(NAMED)
    project.land("orders", orders(1))
    project.land("names", orders(1, name=["old"]))
    with pytest.raises(Crash), crash_at(point):
        project.run()
    project.land("names", orders(1, name=["new"]), mode="overwrite")
    project.land("orders", orders(2))
    project.ok()
    assert project.rows("named", "id", "name") == [(1, "old"), (2, None)]


@pytest.mark.feature("Streaming tables")
def test_a_replay_has_the_clock_of_its_first_attempt(project: Any) -> None:
    now = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    project.clock = lambda: now
    project.write(
        ORDERS
        + """.select(
            F.current_timestamp().alias("frame"),
            F.expr("date_trunc('DAY', now())").alias("text"),
            F.to_date(F.current_timestamp()).alias("day"),
        )
    """
    )
    project.land("orders", orders(1))
    with pytest.raises(Crash), crash_at("flow.intent_written"):
        project.run()
    first, now = now, now + timedelta(days=3)
    project.ok()
    assert project.rows("orders") == [
        {"frame": first, "text": datetime(2024, 5, 6, tzinfo=UTC), "day": first.date()},
    ]


@pytest.mark.feature("Streaming tables")
def test_a_stream_may_be_read_twice_in_one_query(project: Any) -> None:
    project.write(
        """
        @dp.table
        def both():
            orders = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
            again = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
            return orders.filter("id = 1").union(again.filter("id > 1")).unionAll(orders.select(F.col("id") * 10))
        """
    )
    project.land("orders", orders(1, 2))
    project.ok()
    project.land("orders", orders(3))
    project.ok()
    assert project.rows("both", "id") == [1, 10, 2, 20, 3, 30]


@pytest.mark.feature("Streaming tables")
def test_the_rate_source_counts_seconds(project: Any) -> None:
    now = datetime(2024, 1, 1, tzinfo=UTC)
    project.clock = lambda: now
    project.write(
        """
        @dp.table
        def ticks():
            return spark.readStream.format("rate").option("rowsPerSecond", 2).load()
        """
    )
    project.ok()
    now += timedelta(seconds=2)
    project.ok()
    assert project.rows("ticks", "value") == [0, 1, 2, 3, 4, 5]
    assert [row["timestamp"].isoformat() for row in project.rows("ticks")][-1] == "2024-01-01T00:00:01.500000+00:00"


# -- where the table lies -----------------------------------------------------------------------------------------


def test_a_path_of_its_own_a_comment_and_properties_take_effect(project: Any) -> None:
    place = project.root / "elsewhere" / "orders"
    project.write(
        ORDERS.replace(
            "@dp.table",
            f'@dlt.table(path="{place}", comment="All orders", partition_cols=["id"], table_properties={{"quality": "bronze"}})',
        )
    )
    project.land("orders", orders(1, note=["x"]))
    project.ok()
    table = DeltaTable(str(place))
    assert not project.folder("orders").exists()
    assert table.metadata().description == "All orders"
    assert table.metadata().configuration["quality"] == "bronze"
    assert table.metadata().partition_columns == ["id"]
    assert project.rows("orders", "id") == [1]


def test_a_changed_comment_and_changed_properties_take_effect(project: Any) -> None:
    def declare(arguments: str) -> None:
        project.write(ORDERS.replace("@dp.table", f"@dp.table({arguments})"))

    def metadata() -> Any:
        return DeltaTable(str(project.folder("orders"))).metadata()

    declare('comment="old", table_properties={"quality": "raw"}')
    project.land("orders", orders(1, note=["x"]))
    project.ok()
    declare('comment="new", table_properties={"quality": "bronze"}, partition_cols=["note"]')
    project.ok()
    assert (metadata().description, metadata().configuration["quality"]) == ("new", "bronze")
    assert metadata().partition_columns == []
    assert any("take effect with `--full-refresh orders`" in event.message for event in project.events)
    version = project.version("orders")
    project.ok()
    assert project.version("orders") == version
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert metadata().partition_columns == ["note"]
    assert project.rows("orders", "id", "note") == [(1, "x")]


def test_clustering_is_noted_in_the_event_log(project: Any) -> None:
    project.write(ORDERS.replace("@dp.table", '@dp.table(cluster_by=["id"])')).land("orders", orders(1))
    project.ok()
    assert [e.message for e in project.events if e.event_type == "warning" and "cluster" in e.message]


def test_a_private_table_is_for_its_own_pipeline(project: Any) -> None:
    project.write(
        ORDERS.replace("@dp.table", "@dp.table(private=True)")
        + """
    @dp.table
    def copies():
        return spark.readStream.table("orders")
    """
    )
    project.land("orders", orders(1))
    project.ok()
    assert project.rows("copies", "id") == [1]
    assert not project.folder("orders").exists()


@pytest.mark.parametrize("more", [True, False], ids=["new input", "nothing new"])
def test_a_table_that_somebody_deleted_is_missed(project: Any, more: bool) -> None:
    """An empty table in its place would look like a table whose rows are all there."""
    project.write(ORDERS).land("orders", orders(1))
    project.ok()
    shutil.rmtree(project.folder("orders"))
    if more:
        project.land("orders", orders(2))
    for _ in range(2):
        [error] = project.run().errors
        assert error.condition == "TABLE_BEHIND_CHECKPOINT"
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert project.rows("orders", "id") == ([1, 2] if more else [1])


def test_a_table_that_somebody_restored_is_missed(project: Any) -> None:
    project.write(ORDERS).land("orders", orders(1))
    project.ok()
    saved = project.root / "saved"
    shutil.copytree(project.folder("orders"), saved)
    project.land("orders", orders(2))
    project.ok()
    shutil.rmtree(project.folder("orders"))
    shutil.copytree(saved, project.folder("orders"))
    project.land("orders", orders(3))
    [error] = project.run().errors
    assert error.condition == "TABLE_BEHIND_CHECKPOINT"


def test_a_storage_folder_may_have_an_unusual_name(project: Any) -> None:
    root = project.root / "Zoë's shop ~ 50%"
    (project.root / "pipeline").rename(project.root / "moved")
    root.mkdir()
    shutil.move(project.root / "moved", root / "pipeline")
    shutil.move(project.root / "spark-pipeline.yml", root)
    project.root = root
    project.write(
        ORDERS
        + """
    @dp.materialized_view
    def total():
        return spark.read.table("orders").agg(F.count("*").alias("n"))
    """
    )
    project.land("orders", orders(1, 2))
    project.ok()
    assert project.rows("total", "n") == [2]


def test_the_clock_of_a_rule_is_that_of_its_batch(project: Any) -> None:
    project.write(
        """
    from pyspark.sql import functions as F

    @dp.table
    @dp.expect_or_drop("seen_now", "seen_at = current_timestamp()")
    @dp.expect("also_now", F.col("seen_at") == F.current_timestamp())
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders").withColumn(
            "seen_at", F.current_timestamp())
    """
    )
    project.land("orders", orders(1, 2))
    project.ok()
    assert project.rows("orders", "id") == [1, 2]


def backlogs(project: Any) -> list[tuple[int, int]]:
    counts = [event.details.get("metrics", {}) for event in project.events if event.event_type == "flow_progress"]
    return [(found["backlog_files"], found["backlog_bytes"]) for found in counts if "backlog_files" in found]


def test_what_waits_after_a_batch_is_counted(project: Any) -> None:
    for number in range(3):
        project.land("orders", orders(number))
    one_by_one = ORDERS.replace(".load(", '.option("maxFilesPerTrigger", 1).load(')
    project.write(one_by_one)
    project.ok()  # the snapshot at which the stream begins, file by file
    assert [files for files, _ in backlogs(project)] == [2, 1, 0]
    assert [size for _, size in backlogs(project)][1:] != [0, 0]
    for number in range(3):
        project.land("orders", orders(number, number))
    project.ok()  # commits
    new = [f.stat().st_size for f in sorted(landed(project), key=lambda f: f.stat().st_mtime_ns)][3:]
    assert backlogs(project) == [(2, new[1] + new[2]), (1, new[2]), (0, 0)]


def landed(project: Any) -> list[Any]:
    return list((project.root / "data/Volumes/main/raw/landing/orders").glob("*.parquet"))
