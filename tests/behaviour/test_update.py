"""Updates: what runs, in which order, and what one failure means for the rest."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakelet import faults
from lakelet.errors import LockError
from lakelet.execution.lock import pipeline_lock
from lakelet.pipeline import Pipeline, RefreshSelection
from lakelet.storage.delta_log import checkpointed_version

TWO_BRANCHES = """
    @dp.table
    @dp.expect_or_fail("small", "id < 10")
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.materialized_view
    def order_count():
        return spark.read.table("orders").agg(F.count("*").alias("n"))

    @dp.materialized_view
    def order_report():
        return spark.read.table("order_count").withColumn("text", F.lit("report"))

    @dp.table
    def customers():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")

    @dp.materialized_view
    def customer_count():
        return spark.read.table("customers").agg(F.count("*").alias("n"))
"""


def ids(*values: int) -> pa.Table:
    return pa.table({"id": pa.array(values, pa.int64())})


@pytest.fixture
def branches(project: Any) -> Any:
    project.write(TWO_BRANCHES)
    project.land("orders", ids(1, 2))
    project.land("customers", ids(7))
    return project


# -- failures -----------------------------------------------------------------------------------------------------


def test_one_failure_skips_what_depends_on_it_and_nothing_else(branches: Any) -> None:
    branches.land("orders", ids(11))
    result = branches.run()
    assert (result.exit_code, result.state.value) == (1, "FAILED")
    assert branches.status(result) == {
        "orders": "FAILED",
        "order_count": "SKIPPED",
        "order_report": "SKIPPED",
        "customers": "COMPLETED",
        "customer_count": "COMPLETED",
    }
    assert [error.condition for error in result.errors] == ["EXPECTATION_VIOLATION.VERBOSITY_ALL"]
    skipped = {flow.name: flow.error for flow in result.flows if flow.status.value == "SKIPPED"}
    assert "`orders` did not succeed" in str(skipped["order_count"])
    assert branches.rows("customer_count", "n") == [1]


def test_the_rows_of_a_failed_batch_are_not_lost(branches: Any) -> None:
    branches.ok()
    branches.land("orders", ids(3, 11))
    branches.run()
    assert branches.rows("orders", "id") == [1, 2]
    branches.write(TWO_BRANCHES.replace("id < 10", "id < 100"))
    branches.ok()
    assert branches.rows("orders", "id") == [1, 11, 2, 3]
    assert branches.rows("order_report", "n", "text") == [(4, "report")]


def test_a_bug_in_one_flow_does_not_stop_the_others(branches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakelet.execution import update

    run_flow = update.run_flow

    def broken(context: Any, flow: Any, dataset: Any) -> int:
        if flow.name == "orders":
            raise KeyError("a bug of lakelet's own")
        return run_flow(context, flow, dataset)

    monkeypatch.setattr(update, "run_flow", broken)
    result = branches.run()
    assert result.exit_code != 0
    assert branches.status(result)["customer_count"] == "COMPLETED"
    assert branches.status(result)["order_count"] == "SKIPPED"


def test_a_missing_source_fails_its_own_flow_or_the_whole_check(branches: Any) -> None:
    import shutil

    branches.ok()
    shutil.rmtree(branches.root / "data/Volumes/main/raw/landing/orders")
    branches.land("customers", ids(8))
    result = branches.run()
    assert result.exit_code != 0
    assert {error.condition for error in result.errors} == {"DELTA_TABLE_NOT_FOUND"}
    assert branches.version("orders") == 1


def test_an_invalid_pipeline_runs_nothing(branches: Any) -> None:
    branches.write(TWO_BRANCHES.replace('spark.read.table("orders")', 'spark.read.table("order")'))
    result = branches.run()
    assert (result.exit_code, result.flows) == (2, ())
    assert "did you mean `orders`" in (result.errors[0].hint or "")
    assert branches.version("customers") is None


# -- selection ----------------------------------------------------------------------------------------------------


def test_a_refresh_of_some_tables_leaves_the_others_alone(branches: Any) -> None:
    result = branches.ok(selection=RefreshSelection(refresh=("customers",)))
    assert branches.status(result) == {
        "customers": "COMPLETED",
        "orders": "EXCLUDED",
        "order_count": "EXCLUDED",
        "order_report": "EXCLUDED",
        "customer_count": "EXCLUDED",
    }
    assert branches.version("orders") is None


def test_a_selected_reader_reads_what_its_excluded_table_has(branches: Any) -> None:
    branches.ok()
    branches.land("customers", ids(8, 9))
    branches.ok(selection=RefreshSelection(refresh=("customer_count",)))
    assert branches.rows("customer_count", "n") == [1]


def test_a_selected_reader_of_a_table_that_does_not_exist_yet_fails_by_itself(branches: Any) -> None:
    result = branches.run(selection=RefreshSelection(refresh=("customer_count",)))
    assert result.exit_code == 1
    [error] = result.errors
    assert error.condition == "DELTA_TABLE_NOT_FOUND"


def test_a_selection_may_refresh_one_and_rebuild_another(branches: Any) -> None:
    branches.ok()
    branches.land("customers", ids(8))
    result = branches.ok(selection=RefreshSelection(refresh=("customers",), full_refresh=("order_count",)))
    assert {name for name, status in branches.status(result).items() if status != "EXCLUDED"} == {
        "customers",
        "order_count",
    }
    assert branches.techniques() == {"order_count": ("COMPLETE_RECOMPUTE", ["FULL_REFRESH"])}


def test_a_name_that_does_not_exist_is_refused_with_a_near_one(branches: Any) -> None:
    result = branches.run(selection=RefreshSelection(refresh=("customer",)))
    assert result.errors[0].condition == "UNKNOWN_DATASET"
    assert "customers" in (result.errors[0].hint or "")


# -- stop and lock ------------------------------------------------------------------------------------------------


def test_a_stopped_update_ends_after_the_batch_under_way(project: Any) -> None:
    project.write(
        """
        @dp.table
        def orders():
            return (
                spark.readStream.format("delta").option("maxFilesPerTrigger", 1)
                .load("/Volumes/main/raw/landing/orders")
            )

        @dp.table
        def copies():
            return spark.readStream.table("orders")
        """
    )
    for number in range(5):
        project.land("orders", ids(number))
    stop = threading.Event()
    batches = []

    def after_two(event: Any) -> None:
        if event.event_type == "flow_progress" and "metrics" in event.details:
            batches.append(event.origin.get("batch_id"))
            if len(batches) == 2:
                stop.set()

    result = project.pipeline().run(subscribers=[after_two], stop=stop)
    assert (result.exit_code, result.state.value) == (130, "CANCELED")
    assert project.status(result) == {"orders": "STOPPED", "copies": "STOPPED"}
    assert project.rows("orders", "id") == [0, 1]
    project.ok()
    assert project.rows("copies", "id") == [0, 1, 2, 3, 4]


RUN = """
import sys
from lakelet.pipeline import Pipeline
from lakelet.errors import LockError
try:
    Pipeline(sys.argv[1]).run()
except LockError as error:
    print(error.condition, "|", error.cause)
"""


def test_a_second_process_is_refused_and_told_who_holds_the_pipeline(branches: Any) -> None:
    with pipeline_lock(branches.root / "data" / "_lock", pipeline="shop"):
        result = subprocess.run(
            [sys.executable, "-c", RUN, str(branches.root)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PATH": "/usr/bin:/bin"},
        )
    import os

    assert result.stdout.startswith("PIPELINE_LOCKED")
    assert f"process {os.getpid()} on" in result.stdout


def test_two_updates_in_one_process_are_refused_too(branches: Any) -> None:
    refused: list[LockError] = []

    def run_again(event: Any) -> None:
        if event.event_type == "create_update":
            try:
                Pipeline(branches.root, engine=branches.engine).run()
            except LockError as error:
                refused.append(error)

    branches.pipeline().run(subscribers=[run_again])
    assert [error.condition for error in refused] == ["PIPELINE_LOCKED"]
    branches.ok()


# -- continuous ---------------------------------------------------------------------------------------------------


def test_a_continuous_update_goes_on_with_rows_that_arrive(branches: Any) -> None:
    stop = threading.Event()
    landed = []

    def feed(event: Any) -> None:
        if event.event_type != "flow_progress" or event.origin.get("flow_name") != "customer_count":
            return
        if event.details["status"] == "COMPLETED":
            if len(landed) == 2:
                stop.set()
            else:
                landed.append(len(landed))
                branches.land("customers", ids(100 + len(landed)))

    pipeline = branches.pipeline(configuration={"pipelines.trigger.interval": "10 milliseconds"})
    result = pipeline.run(continuous=True, subscribers=[feed], stop=stop)
    assert result.state.value == "CANCELED"
    branches.ok()
    assert branches.rows("customers", "id") == [101, 102, 7]
    assert branches.rows("customer_count", "n") == [3]


def test_one_pipeline_object_runs_again_and_again(branches: Any) -> None:
    pipeline = branches.pipeline()
    assert pipeline.run().exit_code == 0
    branches.land("customers", pa.table({"id": [8], "name": ["ann"]}), schema_mode="merge")
    assert pipeline.run().exit_code == 0
    assert branches.rows("customers", "id", "name") == [(7, None), (8, "ann")]
    assert pipeline.run(selection=RefreshSelection(full_refresh=("customers",))).exit_code == 0
    assert branches.rows("customers", "id", "name") == [(7, None), (8, "ann")]


# -- pinned versions ----------------------------------------------------------------------------------------------


def test_a_replay_reads_the_recorded_version_of_a_table_whose_log_was_checkpointed_since(project: Any) -> None:
    """The embedded engine cannot: it knows no version from before the last checkpoint."""
    project.write(
        """
        @dp.table
        def customers():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")

        @dp.table
        def facts():
            orders = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
            return orders.join(spark.read.table("customers"), "id", "left")
        """
    )

    def land_customer(number: int) -> None:
        project.land("customers", pa.table({"id": pa.array([number], pa.int64()), "name": [f"c{number}"]}))

    project.land("orders", ids())
    for number in range(3):
        land_customer(number)
        project.ok(selection=RefreshSelection(refresh=("customers",)))
    project.land("orders", ids(2, 9))

    class Killed(BaseException):
        pass

    def die(point: str) -> None:
        if point == "flow.intent_written":
            raise Killed

    with faults.installed(die), pytest.raises(Killed):
        project.run(selection=RefreshSelection(refresh=("facts",)))
    for number in range(3, 25):
        land_customer(number)
        project.ok(selection=RefreshSelection(refresh=("customers",)))
    assert checkpointed_version(str(project.folder("customers"))) > 10
    project.ok()
    assert project.rows("facts", "id", "name") == [(2, "c2"), (9, None)]
