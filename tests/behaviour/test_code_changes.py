"""Renamed and removed flows, changed queries: what goes on, what starts anew, and what the event log says of it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

ORDERS = """
    dp.create_streaming_table("orders")

    @dp.append_flow(target="orders")
    def {name}():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders"){more}
"""


def orders(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


def warnings(project: Any) -> list[str]:
    return [event.message for event in project.events if event.event_type == "warning"]


def test_a_changed_query_takes_new_rows_only_and_says_so_once(project: Any) -> None:
    project.write(ORDERS.format(name="north", more="")).land("orders", orders(1, 2))
    project.ok()
    project.write(ORDERS.format(name="north", more='.filter("id > 10")')).land("orders", orders(3, 30))
    project.ok()
    [told] = warnings(project)
    assert "its query has changed" in told and "--full-refresh orders" in told
    assert project.rows("orders", "id") == [1, 2, 30]
    project.land("orders", orders(40))
    project.ok()
    assert warnings(project) == []


def test_a_changed_view_changes_the_query_of_the_flows_that_read_it(project: Any) -> None:
    views = """
    @dp.temporary_view
    def seen():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders").filter("id > {least}")

    @dp.table
    def orders():
        return spark.readStream.table("seen")
    """
    project.write(views.format(least=0)).land("orders", orders(1))
    project.ok()
    project.ok()
    assert warnings(project) == []
    project.write(views.format(least=5))
    project.ok()
    assert len(warnings(project)) == 1


def test_the_same_query_written_at_other_lines_has_not_changed(project: Any) -> None:
    """A function of the user's that travels with the query is the same one, too."""
    text = """
    from pyspark.sql.types import LongType

    def grow(value):
        known = {"a", "b", "c", "d"}
        return value + len(known)

    @dp.table
    def orders():
        landed = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        return landed.withColumn("more", F.udf(grow, LongType())("id"))
    """
    project.write(text).land("orders", orders(1))
    project.ok()
    project.write("\n\n    # a remark\n" + text).land("orders", orders(2))
    project.ok()
    assert warnings(project) == []
    assert project.rows("orders", "id", "more") == [(1, 5), (2, 6)]


def test_a_flow_under_a_new_name_is_told_of_with_what_to_do(project: Any) -> None:
    project.write(ORDERS.format(name="north", more="")).land("orders", orders(1))
    project.ok()
    project.write(ORDERS.format(name="northern", more=""))
    project.ok()
    [told] = warnings(project)
    assert "flow 'north', which has written to `orders`, is gone" in told
    assert 'name="north"' in told
    assert project.rows("orders", "id") == [1, 1]
    project.ok()
    assert warnings(project) == []


def test_a_pinned_name_goes_on(project: Any) -> None:
    project.write(ORDERS.format(name="north", more="")).land("orders", orders(1))
    project.ok()
    project.write(ORDERS.format(name="northern", more="").replace('target="orders")', 'target="orders", name="north")'))
    project.land("orders", orders(2))
    project.ok()
    assert warnings(project) == []
    assert project.rows("orders", "id") == [1, 2]


def test_a_new_flow_beside_the_old_ones_is_no_renamed_one(project: Any) -> None:
    project.write(ORDERS.format(name="north", more="")).land("orders", orders(1))
    project.ok()
    second = ORDERS.format(name="south", more="").partition("\n\n")[2].replace("landing/orders", "landing/south")
    project.write(ORDERS.format(name="north", more="") + second).land("south", orders(2))
    project.ok()
    assert warnings(project) == []
    project.write(ORDERS.format(name="north", more=""))
    project.ok()
    assert warnings(project) == []
    assert project.rows("orders", "id") == [1, 2]


def test_changed_keys_of_an_operator_or_of_auto_cdc_are_refused_with_a_way_on(project: Any) -> None:
    text = """
    @dp.table
    def firsts():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders").dropDuplicates(["{key}"])

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="firsts", keys=["{key}"], sequence_by="v")
    """
    project.write(text.format(key="id")).land("orders", pa.table({"id": [1], "other": [1], "v": [1]}))
    project.ok()
    project.write(text.format(key="other")).land("orders", pa.table({"id": [2], "other": [2], "v": [2]}))
    [error] = project.run().errors
    assert error.condition == "STREAMING_STATEFUL_OPERATOR_NOT_MATCH_IN_STATE_METADATA"
    assert "--full-refresh firsts" in (error.hint or "")
    project.write(text.replace('dropDuplicates(["{key}"])', 'dropDuplicates(["id"])').format(key="other"))
    [error] = project.run().errors
    assert error.condition.startswith("AUTOCDC_INVALID_STATE")
    assert "--full-refresh latest" in (error.hint or "")
