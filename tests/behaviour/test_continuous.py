"""Continuous updates: pace, order, failures that mend themselves, maintenance, and their end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakelet.events.model import FlowStatus, PipelineEvent
from lakelet.execution import pace, upkeep
from lakelet.pipeline import Pipeline, UpdateResult

QUICK = {"pipelines.trigger.interval": "1 millisecond"}
BRANCHES = """
    @dp.table
    @dp.expect_or_fail("small", "id < 10")
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.materialized_view
    def order_count():
        return spark.read.table("orders").agg(F.count("*").alias("n"))

    @dp.table
    def customers():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")

    @dp.materialized_view
    def customer_count():
        return spark.read.table("customers").agg(F.count("*").alias("n"))
"""
FACTS = """
    @dp.table
    def customers():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")

    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def facts():
        names = spark.read.table("customers").withColumnRenamed("id", "customer")
        return spark.readStream.table("orders").join(names, F.col("id") == F.col("customer"), "left")
"""


def ids(*values: int) -> pa.Table:
    return pa.table({"id": pa.array(values, pa.int64())})


class Story:
    """What happens, in order: each step waits for an event and then does something to the project."""

    def __init__(self, project: Any, *steps: tuple[Callable[[PipelineEvent], bool], Callable[[], Any]]) -> None:
        self.project = project
        self.steps = list(steps)
        self.events: list[PipelineEvent] = []
        self.stop, self.drain = threading.Event(), threading.Event()

    def __call__(self, event: PipelineEvent) -> None:
        self.events.append(event)
        if self.steps and self.steps[0][0](event):
            self.steps.pop(0)[1]()

    def tell(self, configuration: Mapping[str, str] = QUICK) -> UpdateResult:
        pipeline = self.project.pipeline(configuration=configuration)
        giving_up = threading.Timer(60, self.stop.set)
        giving_up.start()
        result = pipeline.run(continuous=True, subscribers=[self], stop=self.stop, drain=self.drain)
        giving_up.cancel()
        assert not self.steps, f"{len(self.steps)} steps of the story did not happen"
        return result

    def progress(self, flow: str) -> list[PipelineEvent]:
        return [e for e in self.events if e.event_type == "flow_progress" and e.origin["flow_name"] == flow]

    def batches(self, flow: str) -> int:
        return sum("metrics" in event.details for event in self.progress(flow))


def when(flow: str, status: str) -> Callable[[PipelineEvent], bool]:
    return lambda event: (
        event.event_type == "flow_progress"
        and event.origin.get("flow_name") == flow
        and event.details["status"] == status
        and "metrics" not in event.details
    )


def when_done(flow: str) -> Callable[[PipelineEvent], bool]:
    """A micro-batch of the flow is committed."""
    return lambda event: (
        event.event_type == "flow_progress" and event.origin.get("flow_name") == flow and "metrics" in event.details
    )


def landing(project: Any, name: str) -> Path:
    return project.root / "data/Volumes/main/raw/landing" / name


def take_away(project: Any, name: str) -> None:
    landing(project, name).rename(project.root / f"{name}-away")


def bring_back(project: Any, name: str) -> None:
    (project.root / f"{name}-away").rename(landing(project, name))


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_RETRY_SECONDS", 0.01)


@pytest.fixture
def branches(project: Any) -> Any:
    project.write(BRANCHES)
    project.land("orders", ids(1, 2))
    project.land("customers", ids(7))
    return project


# -- pace ---------------------------------------------------------------------------------------------------------


def test_a_view_is_refreshed_no_more_often_than_its_interval_and_once_more_at_the_end(branches: Any) -> None:
    branches.write(
        BRANCHES.replace(
            "@dp.materialized_view\n    def customer_count",
            '@dp.materialized_view(spark_conf={"pipelines.trigger.interval": "1 hour"})\n    def customer_count',
        )
    )
    story = Story(branches)
    story.steps = [
        (when("customer_count", "COMPLETED"), lambda: branches.land("customers", ids(8))),
        (when("customers", "COMPLETED"), lambda: branches.land("customers", ids(9))),
        (when("customers", "COMPLETED"), lambda: branches.land("customers", ids(10))),
        (when("customers", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert (story.batches("customers"), story.batches("customer_count")) == (4, 2)
    assert branches.rows("customer_count", "n") == [4]


@pytest.mark.parametrize(
    ("decorator", "text"),
    [("spark_conf", "soon"), ("table_properties", "10")],
)
def test_an_interval_that_is_no_time_is_refused_with_file_and_line(project: Any, decorator: str, text: str) -> None:
    project.write(
        f"""
        @dp.table({decorator}={{"pipelines.trigger.interval": "{text}"}})
        def orders():
            return spark.readStream.format("rate").load()
        """
    )
    result = project.run()
    assert (result.exit_code, result.errors[0].condition) == (2, "INVALID_TRIGGER_INTERVAL")
    assert "tables.py:" in str(result.errors[0].origin)
    assert "10 seconds" in (result.errors[0].cause or "")


def test_the_interval_of_a_table_is_no_setting_without_effect(branches: Any) -> None:
    branches.write(
        BRANCHES.replace(
            "@dp.table\n    def customers",
            '@dp.table(spark_conf={"pipelines.trigger.interval": "1 hour"})\n    def customers',
        )
    )
    branches.ok()
    assert not [event for event in branches.events if "has no effect" in event.message]


def test_a_view_of_a_table_from_outside_follows_it(project: Any) -> None:
    project.write(
        """
        @dp.materialized_view
        def total():
            return spark.read.format("delta").load("/Volumes/main/raw/landing/orders").agg(F.sum("id").alias("sum"))
        """
    )
    project.land("orders", ids(1))
    story = Story(project)
    story.steps = [
        (when("total", "COMPLETED"), lambda: project.land("orders", ids(2))),
        (when("total", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert project.rows("total", "sum") == [3]


def test_files_that_arrive_are_picked_up(project: Any) -> None:
    folder = project.root / "incoming"
    folder.mkdir()
    project.write(
        """
        @dp.table
        def orders():
            return (
                spark.readStream.format("cloudFiles").option("cloudFiles.format", "json").schema("id LONG")
                .load("incoming")
            )
        """
    )

    def arrive(number: int) -> None:
        (folder / f".{number}").write_text(json.dumps({"id": number}))
        (folder / f".{number}").rename(folder / f"{number}.json")

    arrive(1)
    story = Story(project)
    story.steps = [
        (when("orders", "COMPLETED"), lambda: arrive(2)),
        (when("orders", "COMPLETED"), lambda: arrive(3)),
        (when("orders", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert project.rows("orders", "id") == [1, 2, 3]


SNAPSHOTS = """
    @dp.materialized_view
    def shops():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/shops").groupBy("id").agg(F.max("name").alias("name"))

    @dp.temporary_view
    def outside():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/shops")

    dp.create_streaming_table("history"{interval})
    dp.create_auto_cdc_from_snapshot_flow(target="history", source="{source}", keys=["id"], stored_as_scd_type=2)
"""


def shop(number: int, name: str) -> pa.Table:
    return pa.table({"id": [number], "name": [name]})


@pytest.mark.parametrize("source", ["shops", "outside"])
def test_a_snapshot_is_taken_again_when_a_table_that_its_source_reads_has_changed(project: Any, source: str) -> None:
    project.write(SNAPSHOTS.format(source=source, interval="")).land("shops", shop(1, "ann"))
    story = Story(project)
    story.steps = [
        (when("history", "COMPLETED"), lambda: project.land("shops", shop(2, "bob"))),
        (when("history", "COMPLETED"), lambda: project.land("shops", shop(3, "cid"))),
        (when("history", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert story.batches("history") == 3
    assert project.rows("history", "id", "name", "__END_AT") == [(1, "ann", None), (2, "bob", None), (3, "cid", None)]


def test_a_snapshot_is_taken_no_more_often_than_its_interval_and_once_more_at_the_end(project: Any) -> None:
    interval = ', spark_conf={"pipelines.trigger.interval": "1 hour"}'
    project.write(SNAPSHOTS.format(source="shops", interval=interval)).land("shops", shop(1, "ann"))
    story = Story(project)
    story.steps = [
        (when("history", "COMPLETED"), lambda: project.land("shops", shop(1, "bob"))),
        (when("shops", "COMPLETED"), lambda: project.land("shops", shop(1, "cid"))),
        (when("shops", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert story.batches("history") == 2
    assert project.rows("history", "name") == ["ann", "cid"]


def test_a_snapshot_function_is_asked_again(project: Any) -> None:
    folder = project.root / "snapshots"
    folder.mkdir()
    project.write(
        f"""
        import os

        def following(latest):
            number = (latest or 0) + 1
            if not os.path.exists(f"{folder}/{{number}}"):
                return None
            return spark.range(number).withColumn("n", F.lit(number)), number

        dp.create_streaming_table("history")
        dp.create_auto_cdc_from_snapshot_flow(target="history", source=following, keys=["id"])
        """
    )
    (folder / "1").touch()
    story = Story(project)
    story.steps = [
        (when("history", "COMPLETED"), (folder / "2").touch),
        (when("history", "COMPLETED"), (folder / "3").touch),
        (when("history", "COMPLETED"), story.drain.set),
    ]
    assert story.tell({**QUICK, "lakelet.maintenance.enabled": "false"}).exit_code == 0
    assert project.rows("history", "id", "n") == [(0, 3), (1, 3), (2, 3)]


# -- failures -----------------------------------------------------------------------------------------------------


def test_a_flow_whose_source_comes_back_recovers_by_itself_and_the_rest_goes_on_meanwhile(branches: Any) -> None:
    story = Story(branches)
    story.steps = [
        (when("order_count", "COMPLETED"), lambda: take_away(branches, "orders")),
        (when("orders", "FAILED"), lambda: None),
        (when("orders", "FAILED"), lambda: branches.land("customers", ids(8))),
        (when("customer_count", "COMPLETED"), lambda: bring_back(branches, "orders")),
        (when("orders", "COMPLETED"), lambda: branches.land("orders", ids(3))),
        (when("order_count", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert branches.rows("order_count", "n") == [3]
    failures = [event for event in story.progress("orders") if event.details["status"] == "FAILED"]
    first, *later = failures
    assert first.error is not None and first.error.condition == "DELTA_TABLE_NOT_FOUND"  # type: ignore[attr-defined]
    assert all(event.error is None and "DELTA_TABLE_NOT_FOUND" in event.message for event in later)
    waits = [event.details["retry"]["in_seconds"] for event in failures]
    assert waits == [0.01 * 2**n for n in range(len(waits))]
    [paused] = [event for event in story.progress("order_count") if event.details["status"] == "SKIPPED"]
    assert paused.details["reason"] == "paused until `orders` succeeds"
    assert not [event for event in story.progress("customers") if event.details["status"] in ("FAILED", "SKIPPED")]


def test_a_poisoned_row_is_told_once_and_tried_again_until_somebody_repairs_the_table(branches: Any) -> None:
    story = Story(branches)
    story.steps = [
        (when("order_count", "COMPLETED"), lambda: branches.land("orders", ids(3, 11))),
        (when("orders", "FAILED"), lambda: None),
        (when("orders", "FAILED"), story.stop.set),
    ]
    result = story.tell()
    assert (result.exit_code, result.state.value) == (1, "FAILED")
    assert [error.condition for error in result.errors] == ["EXPECTATION_VIOLATION.VERBOSITY_ALL"]
    assert {flow.name: flow.status for flow in result.flows} == {
        "orders": FlowStatus.FAILED,
        "order_count": FlowStatus.SKIPPED,
        "customers": FlowStatus.STOPPED,
        "customer_count": FlowStatus.STOPPED,
    }
    assert branches.rows("orders", "id") == [1, 2]
    branches.pipeline().repair("orders", drop_rows=True)
    branches.ok()
    assert branches.rows("orders", "id") == [1, 2, 3]


def test_a_drained_update_tries_a_failing_flow_once_more(branches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "FIRST_RETRY_SECONDS", 3600.0)
    story = Story(branches)

    def mend() -> None:
        bring_back(branches, "orders")
        branches.land("orders", ids(3))
        story.drain.set()

    story.steps = [
        (when("order_count", "COMPLETED"), lambda: take_away(branches, "orders")),
        (when("orders", "FAILED"), mend),
    ]
    assert story.tell().exit_code == 0
    assert branches.rows("order_count", "n") == [3]


# -- order --------------------------------------------------------------------------------------------------------


def test_facts_wait_for_a_dimension_that_fails(project: Any) -> None:
    """Both rows land while the dimension cannot be read; the fact is joined once it can."""
    project.write(FACTS)
    project.land("customers", pa.table({"id": [1], "name": ["ann"]}))
    project.land("orders", ids(1))
    story = Story(project)

    def land_both() -> None:
        bring_back(project, "customers")
        project.land("customers", pa.table({"id": [2], "name": ["bob"]}))
        take_away(project, "customers")
        project.land("orders", ids(2))

    story.steps = [
        (when("facts", "COMPLETED"), lambda: take_away(project, "customers")),
        (when("customers", "FAILED"), land_both),
        (when("orders", "COMPLETED"), lambda: None),
        (when("customers", "FAILED"), lambda: bring_back(project, "customers")),
        (when("facts", "COMPLETED"), story.drain.set),
    ]
    assert story.tell().exit_code == 0
    assert project.rows("facts", "id", "name") == [(1, "ann"), (2, "bob")]


# -- maintenance --------------------------------------------------------------------------------------------------


def test_small_files_are_put_together_beside_the_flows(branches: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "MIN_COMMITS", 3)
    story = Story(branches)
    number = iter(range(100, 110))

    def maintained(event: PipelineEvent) -> bool:
        is_upkeep = event.event_type == "operation_progress" and event.origin.get("dataset_name") == "customers"
        return is_upkeep and event.details["type"] == "MAINTENANCE"

    def land() -> None:
        branches.land("customers", ids(next(number)))

    story.steps = [
        *((when("customers", "COMPLETED"), land) for _ in range(3)),
        (maintained, land),
        (when("customer_count", "COMPLETED"), story.drain.set),
    ]
    assert story.tell({**QUICK, "lakelet.maintenance.interval": "20 milliseconds"}).exit_code == 0
    assert branches.rows("customers", "id") == [100, 101, 102, 103, 7]
    assert branches.rows("customer_count", "n") == [5]
    table = DeltaTable(str(branches.folder("customers")))
    assert "OPTIMIZE" in [commit["operation"] for commit in table.history()]
    assert len(table.file_uris()) < 5


# -- the end ------------------------------------------------------------------------------------------------------


def run_elsewhere(root: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--spec", str(root)]
    return subprocess.Popen(
        [*command, "--continuous", "--json", "--conf", "pipelines.trigger.interval=1 millisecond"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "src"), **environment},
    )


def read_until(process: subprocess.Popen[str], *words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if all(word in line for word in words):
            return
    raise AssertionError(f"the process ended without {words}: {process.communicate()}")


def test_an_interrupt_while_a_flow_waits_to_be_tried_again_ends_the_update_with_exit_code_1(branches: Any) -> None:
    branches.land("orders", ids(11))
    process = run_elsewhere(branches.root)
    read_until(process, '"attempt":3')  # the next try would be four seconds away
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 1, rest + errors
    assert '"attempt":4' not in rest
    assert errors.count("error[EXPECTATION_VIOLATION") == 1


def test_an_interrupt_while_nothing_fails_ends_with_exit_code_130(branches: Any) -> None:
    process = run_elsewhere(branches.root)
    read_until(process, "customer_count", "COMPLETED")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors


def test_what_a_killed_continuous_update_left_is_finished_by_an_ordinary_one(branches: Any) -> None:
    process = run_elsewhere(branches.root)
    read_until(process, "customer_count", "COMPLETED")
    branches.land("customers", ids(8))
    branches.land("orders", ids(3))
    read_until(process, "customers", "RUNNING")
    process.kill()
    process.communicate()
    branches.ok()
    assert branches.rows("customer_count", "n") == [2]
    assert branches.rows("order_count", "n") == [3]
    with Pipeline(branches.root) as pipeline:
        written = [
            json.loads(row["details"])["flow_progress"]["metrics"]["num_output_rows"]
            for row in pipeline.events().to_pylist()
            if row["origin"]["flow_name"] == "customers" and '"metrics"' in row["details"]
        ]
    assert sum(written) == 2


def test_a_slow_flow_holds_up_no_other(project: Any) -> None:
    """One function waits in its first batch until another flow has done three."""
    go, path = project.root / "go", project.root / "seen"
    project.write(
        f"""
        import pathlib, time

        @dp.foreach_batch_sink(name="slow")
        def slow(df, batch_id):
            while not pathlib.Path({str(go)!r}).exists():
                time.sleep(0.02)
            pathlib.Path({str(path)!r}).write_text(str(sorted(row.id for row in df.collect())))

        @dp.append_flow(target="slow")
        def orders():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

        @dp.table
        def customers():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")
        """
    )
    project.land("orders", ids(1))
    project.land("customers", ids(1))

    def land(number: int) -> Callable[[], None]:
        return lambda: project.land("customers", ids(number))

    def let_go() -> None:
        assert not path.exists()
        go.write_text("")

    done = when_done("customers")
    story = Story(
        project, (done, land(2)), (done, land(3)), (done, let_go), (when_done("orders"), lambda: story.drain.set())
    )
    assert story.tell().exit_code == 0
    assert project.rows("customers", "id") == [1, 2, 3]
    assert path.read_text() == "[1]"
