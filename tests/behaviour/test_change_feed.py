"""Datasets whose rows change, read downstream by their changes."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CUSTOMERS = """
    dp.create_streaming_table("customers"PROPERTIES)

    dp.create_auto_cdc_flow(
        target="customers", source="events", keys=["id"], sequence_by="seq", apply_as_deletes="op = 'D'",
        except_column_list=["op", "seq"],
    )

    @dp.temporary_view
    def events():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/events")

    @dp.table
    def changes():
        return spark.readStream.option("readChangeFeed", "true").table("customers")
"""
ENABLED = ', table_properties={"delta.enableChangeDataFeed": "true"}'


def events(*rows: tuple[int, int, str, str]) -> pa.Table:
    columns = list(zip(*rows, strict=True))
    return pa.table(dict(zip(("id", "seq", "op", "name"), map(list, columns), strict=True)))


def changes(project: Any) -> list[Any]:
    return project.rows("changes", "_commit_version", "_change_type", "id", "name")


@pytest.mark.feature("Change feeds of datasets")
def test_the_changes_of_an_auto_cdc_target_flow_on(project: Any) -> None:
    project.write(CUSTOMERS.replace("PROPERTIES", ENABLED))
    project.land("events", events((1, 1, "I", "Ann"), (2, 1, "I", "Bob")))
    project.ok()
    first = changes(project)
    assert [row[1:] for row in first] == [("insert", 1, "Ann"), ("insert", 2, "Bob")]
    project.land("events", events((1, 2, "U", "Anna"), (2, 2, "D", "Bob"), (3, 1, "I", "Cy")))
    project.ok()
    assert sorted(row[1:] for row in changes(project) if row not in first) == [
        ("delete", 2, "Bob"),
        ("insert", 3, "Cy"),
        ("update_postimage", 1, "Anna"),
        ("update_preimage", 1, "Ann"),
    ]
    project.ok()
    assert len(changes(project)) == 6


def test_a_full_refresh_of_the_target_flows_on_as_changes_too(project: Any) -> None:
    project.write(CUSTOMERS.replace("PROPERTIES", ENABLED))
    project.land("events", events((1, 1, "I", "Ann")))
    project.ok()
    project.land("events", events((2, 1, "I", "Bob")))
    from lakelet.pipeline import RefreshSelection

    project.ok(selection=RefreshSelection(full_refresh=("customers",)))
    project.ok()
    assert balance(project) == Counter({(1, "Ann"): 1, (2, "Bob"): 1})


def balance(project: Any) -> Counter[Any]:
    """Return the rows that the changes leave, each with its count."""
    now: Counter[Any] = Counter()
    for _, kind, *row in changes(project):
        now[tuple(row)] += 1 if kind in ("insert", "update_postimage") else -1
    return Counter({row: count for row, count in now.items() if count})


EVENT = st.tuples(st.integers(1, 3), st.integers(1, 6), st.sampled_from("IUD"), st.sampled_from(["a", "b"]))


@given(batches=st.lists(st.lists(EVENT, min_size=1, max_size=4, unique_by=lambda e: e[:2]), min_size=1, max_size=3))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_changes_of_an_auto_cdc_target_add_up_to_its_rows(new_project: Any, batches: list[Any]) -> None:
    project = new_project()
    project.write(CUSTOMERS.replace("PROPERTIES", ENABLED))
    for batch in batches:
        project.land("events", events(*batch))
        project.ok()
    assert balance(project) == Counter(project.rows("customers", "id", "name"))


@pytest.mark.feature("Change feeds of datasets")
def test_the_changes_of_a_materialized_view_flow_on(project: Any) -> None:
    project.write(
        """
    @dp.materialized_view(table_properties={"delta.enableChangeDataFeed": "true"})
    def customers():
        orders = spark.read.format("delta").load("/Volumes/main/raw/landing/orders")
        return orders.groupBy("id").agg(F.count("*").alias("name"))

    @dp.table
    def changes():
        return spark.readStream.option("readChangeData", "true").table("customers")
    """
    )
    project.land("orders", pa.table({"id": [1, 1, 2]}))
    project.ok()
    project.land("orders", pa.table({"id": [2, 3]}))
    project.ok()
    assert balance(project) == Counter({(1, 2): 1, (2, 2): 1, (3, 1): 1})


def test_a_dataset_without_change_feed_is_refused_before_anything_runs(project: Any) -> None:
    project.write(CUSTOMERS.replace("PROPERTIES", ""))
    project.land("events", events((1, 1, "I", "Ann")))
    result = project.run()
    [error] = result.errors
    assert error.condition == "DELTA_MISSING_CHANGE_DATA"
    assert "table_properties" in error.hint and error.origin.line
    assert project.version("customers") is None


def test_a_change_feed_is_read_as_a_table(project: Any) -> None:
    project.write(
        """
    @dp.materialized_view
    def history():
        feed = spark.read.option("readChangeFeed", "true").option("startingVersion", 1).option("endingVersion", 2)
        return feed.format("delta").load("/Volumes/main/raw/landing/orders").drop("_commit_timestamp")
    """
    )
    for number in range(4):
        project.land("orders", pa.table({"id": [number]}), configuration={"delta.enableChangeDataFeed": "true"})
    project.ok()
    assert project.rows("history", "_commit_version", "_change_type", "id") == [(1, "insert", 1), (2, "insert", 2)]


def test_deletes_that_are_ignored_are_counted_in_the_event_log(project: Any) -> None:
    project.write(
        """
    @dp.table
    def orders():
        return spark.readStream.option("ignoreDeletes", "true").format("delta").load("/Volumes/main/raw/landing/orders")
    """
    )
    for numbers in ([1, 2, 3], [4]):
        project.land("orders", pa.table({"id": numbers}))
    project.ok()
    DeltaTable(str(project.root / "data/Volumes/main/raw/landing/orders")).delete("id <= 3")  # a whole file
    project.land("orders", pa.table({"id": [5]}))
    project.ok()
    assert project.rows("orders", "id") == [1, 2, 3, 4, 5]
    [progress] = [event.details["metrics"] for event in project.events if "metrics" in event.details]
    assert (progress["num_skipped_rows"], progress["num_output_rows"]) == (3, 1)


def test_left_out_commits_are_counted_in_the_event_log(project: Any) -> None:
    project.write(
        """
    @dp.table
    def orders():
        return spark.readStream.option("skipChangeCommits", "true").format("delta").load("/Volumes/main/raw/landing/orders")
    """
    )
    project.land("orders", pa.table({"id": [1, 2, 3]}))
    project.ok()
    DeltaTable(str(project.root / "data/Volumes/main/raw/landing/orders")).delete("id = 1")
    project.land("orders", pa.table({"id": [4]}))
    project.ok()
    assert project.rows("orders", "id") == [1, 2, 3, 4]
    [progress] = [event.details["metrics"] for event in project.events if "metrics" in event.details]
    assert (progress["num_skipped_rows"], progress["num_output_rows"]) == (5, 1)
    [warning] = [event for event in project.events if event.level.value == "WARN"]
    assert "left out commits [1], which change rows (2 row(s) written, 3 row(s) removed)" in warning.message


@pytest.mark.feature("Change feeds of datasets")
@pytest.mark.parametrize("metadata", [False, True])
def test_an_old_version_of_a_table_is_read_with_and_without_file_metadata(project: Any, metadata: bool) -> None:
    column = '.withColumn("file", F.col("_metadata.file_name"))' if metadata else ""
    project.write(
        f"""
    @dp.materialized_view
    def old():
        return spark.read.option("versionAsOf", 1).format("delta").load("/Volumes/main/raw/landing/orders"){column}
    """
    )
    project.land("orders", pa.table({"id": [1]}))
    project.land("orders", pa.table({"id": [2]}))
    project.land("orders", pa.table({"id": [3], "late": [True]}), schema_mode="merge")
    project.ok()
    assert project.rows("old", "id") == [1, 2]
    assert project.pipeline().table("old").column_names == ["id", *(["file"] if metadata else [])]


def test_a_timestamp_names_the_last_version_before_it(project: Any) -> None:
    project.land("orders", pa.table({"id": [1]}))
    project.land("orders", pa.table({"id": [2]}))
    table = DeltaTable(str(project.root / "data/Volumes/main/raw/landing/orders"))
    times = [item["timestamp"] for item in table.history()][::-1]
    assert [older < newer for older, newer in itertools.pairwise(times)] == [True]
    at = pa.scalar(times[0], pa.timestamp("ms")).as_py().isoformat()
    project.write(
        f"""
    @dp.materialized_view
    def old():
        return spark.read.option("timestampAsOf", "{at}").format("delta").load("/Volumes/main/raw/landing/orders")
    """
    )
    project.ok()
    assert project.rows("old", "id") == [1]


@pytest.mark.parametrize(
    ("option", "condition"),
    [
        ('"versionasoff", 1', "UNKNOWN_OPTION"),
        ('"versionAsOf", "one"', "INVALID_OPTION"),
        ('"versionAsOf", 9', "DELTA_VERSION_NOT_FOUND"),
        ('"startingVersion", 0', "INVALID_OPTION"),
        ('"readChangeFeed", "true"', "INVALID_OPTION"),
    ],
)
def test_options_of_a_table_that_is_no_stream_are_checked(project: Any, option: str, condition: str) -> None:
    project.write(
        f"""
    @dp.materialized_view
    def old():
        return spark.read.option({option}).format("delta").load("/Volumes/main/raw/landing/orders")
    """
    )
    project.land("orders", pa.table({"id": [1]}))
    [error] = project.run().errors
    assert error.condition == condition
