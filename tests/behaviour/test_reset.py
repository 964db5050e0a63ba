"""Datasets and flows that start anew, and only those: nothing else is lost, nothing is written twice unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lakelet import faults
from lakelet.cli import cli
from lakelet.errors import GraphError, LakeletError, LockError
from lakelet.execution import reset
from lakelet.execution.lock import pipeline_lock
from lakelet.pipeline import RefreshSelection

SHOP = """
    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def copies():
        return spark.readStream.table("orders")

    @dp.materialized_view
    def total():
        return spark.read.table("orders").agg(F.count("*").alias("n"))
"""


def orders(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64())})


@pytest.fixture
def shop(project: Any) -> Any:
    project.write(SHOP)
    project.land("orders", orders(1, 2))
    project.ok()
    return project


def files(project: Any) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (project.root / "data").rglob("*")}


# -- datasets -----------------------------------------------------------------------------------------------------


def test_a_reset_dataset_is_filled_again_by_the_next_update(shop: Any) -> None:
    [step] = shop.pipeline().reset("copies")
    assert (step.dataset, step.rows, step.readers) == ("copies", 2, ())
    assert not shop.folder("copies").exists()
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2]
    shop.land("orders", orders(3))
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2, 3]
    assert shop.rows("orders", "id") == [1, 2, 3]


def test_readers_of_a_reset_table_are_named_and_fail_until_they_start_anew_too(shop: Any) -> None:
    [step] = shop.pipeline().reset("orders", dry_run=True)
    assert step.readers == ("copies",)
    shop.pipeline().reset("orders")
    [error] = shop.run().errors
    assert (error.condition, error.origin.dataset) == ("SOURCE_TABLE_REPLACED", "copies")
    shop.pipeline().reset("copies")
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2]
    assert shop.rows("total", "n") == [2]


def test_all_that_start_anew_together_have_no_readers_left(shop: Any) -> None:
    steps = shop.pipeline().reset("orders", "copies", "total")
    assert [step.readers for step in steps] == [(), (), ()]
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2]
    assert shop.rows("total", "n") == [2]


def test_what_auto_cdc_remembers_goes_with_its_table(project: Any) -> None:
    project.write(
        """
        dp.create_streaming_table("latest")
        dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="v", stored_as_scd_type=2)

        @dp.table
        def orders():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        """
    )
    project.land("orders", pa.table({"id": [1, 1], "v": [1, 2]}))
    project.ok()
    before = project.rows("latest")
    [step] = project.pipeline().reset("latest")
    assert len(step.tables) == 2
    assert not any(Path(table).exists() for table in step.tables)
    project.ok()
    assert project.rows("latest") == before


def test_a_dataset_that_is_no_longer_in_the_code_can_be_reset(shop: Any) -> None:
    shop.write(SHOP.partition("@dp.materialized_view")[0])
    [step] = shop.pipeline().reset("total")
    assert not step.is_declared
    assert not shop.folder("total").exists()
    assert not any(path.name == "total" for path in (shop.root / "data" / "_checkpoints").rglob("*"))


@pytest.mark.parametrize("declared", [True, False])
def test_a_table_that_must_keep_its_rows_is_not_reset(project: Any, declared: bool) -> None:
    kept = SHOP.replace(
        "@dp.table\n    def copies", '@dp.table(table_properties={"pipelines.reset.allowed": "false"})\n    def copies'
    )
    project.write(kept).land("orders", orders(1))
    project.ok()
    if not declared:
        project.write(SHOP.partition("@dp.table\n    def copies")[0])
    before = files(project)
    with pytest.raises(GraphError) as raised:
        project.pipeline().reset("copies", dry_run=True)
    assert raised.value.condition == "FULL_REFRESH_NOT_ALLOWED"
    assert files(project) == before


def test_every_wrong_name_is_reported_at_once_and_nothing_is_reset(shop: Any) -> None:
    with pytest.raises(LakeletError) as raised:
        shop.pipeline().reset("copys", "orders", checkpoints=["ordres"])
    text = raised.value.render()
    assert "did you mean `copies`?" in text and "did you mean `orders`?" in text
    assert shop.rows("orders", "id") == [1, 2]


def test_a_reset_waits_for_no_update_and_is_refused_while_one_runs(shop: Any) -> None:
    with pipeline_lock(shop.root / "data" / "_lock", pipeline="shop"), pytest.raises(LockError):
        shop.pipeline().reset("copies")
    assert shop.rows("copies", "id") == [1, 2]


class Crash(BaseException):
    """The death of the process."""


@pytest.mark.parametrize("step", ["start_generation", "drop", "remove_folder"])
def test_a_reset_that_dies_is_finished_by_the_next_update(
    shop: Any, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is left, the next update refreshes the dataset from the start; it never takes its old receipts for new."""

    def die(*_: Any, **__: Any) -> None:
        raise Crash(step)

    if step == "drop":
        monkeypatch.setattr("lakelet.storage.delta_rs.DeltaRsStore.drop", die)
    else:
        monkeypatch.setattr(reset, step, die)
    with pytest.raises(Crash):
        shop.pipeline().reset("copies")
    monkeypatch.undo()
    shop.land("orders", orders(3))
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2, 3]


# -- checkpoints --------------------------------------------------------------------------------------------------


def test_a_flow_whose_checkpoint_was_reset_appends_what_its_source_has_now(project: Any) -> None:
    """As after a source table was made anew: its rows are other rows, and those read before stay."""
    project.write(SHOP).land("orders", orders(1, 2))
    project.ok()
    shutil.rmtree(project.root / "data" / "Volumes" / "main" / "raw" / "landing" / "orders")
    project.land("orders", orders(10))
    [error] = project.run().errors
    assert error.condition == "SOURCE_TABLE_REPLACED"
    assert "--reset-checkpoint orders" in (error.hint or "")
    [step] = project.pipeline().reset(checkpoints=["orders"])
    assert (step.flow, step.dataset, step.batches) == ("orders", "orders", 1)
    for _ in range(2):
        project.ok()
        assert project.rows("orders", "id") == [1, 10, 2]
        assert project.rows("copies", "id") == [1, 10, 2]
        assert project.rows("total", "n") == [3]


def test_a_reset_flow_is_not_taken_for_done_and_writes_again_only_what_was_asked(shop: Any) -> None:
    shop.ok(selection=RefreshSelection(reset_checkpoint=("copies",)))
    assert shop.rows("copies", "id") == [1, 1, 2, 2]
    shop.ok()
    shop.land("orders", orders(3))
    shop.ok()
    assert shop.rows("copies", "id") == [1, 1, 2, 2, 3]
    shop.ok(selection=RefreshSelection(reset_checkpoint=("copies",)))
    assert shop.rows("copies", "id") == [1, 1, 1, 2, 2, 2, 3, 3]


def test_a_flow_may_be_reset_after_a_full_refresh_and_keeps_the_rows_of_its_table(shop: Any) -> None:
    shop.ok(selection=RefreshSelection(full_refresh=("copies",)))
    shop.ok(selection=RefreshSelection(reset_checkpoint=("copies",)))
    assert shop.rows("copies", "id") == [1, 1, 2, 2]
    shop.ok(selection=RefreshSelection(full_refresh=("copies",)))
    assert shop.rows("copies", "id") == [1, 2]


def test_other_flows_into_the_table_go_on_where_they_were(project: Any) -> None:
    project.write(
        """
        dp.create_streaming_table("orders")

        @dp.append_flow(target="orders")
        def north():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/north")

        @dp.append_flow(target="orders", name="southern orders")
        def south():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/south")
        """
    )
    project.land("north", orders(1))
    project.land("south", orders(2))
    project.ok()
    with pytest.raises(GraphError) as raised:
        project.pipeline().reset(checkpoints=["orders"])
    assert raised.value.hint == "name one of north, southern orders"
    project.pipeline().reset(checkpoints=["southern orders"])
    project.ok()
    assert project.rows("orders", "id") == [1, 2, 2]


@pytest.mark.parametrize("point", ["flow.intent_written", "flow.rows_committed", "flow.commit_noted"])
def test_a_reset_flow_that_dies_is_finished_by_the_next_update(shop: Any, point: str) -> None:
    def die(reached: str) -> None:
        if reached == point:
            raise Crash(point)

    shop.pipeline().reset(checkpoints=["copies"])
    with pytest.raises(Crash), faults.installed(die):
        shop.run()
    shop.ok()
    assert shop.rows("copies", "id") == [1, 1, 2, 2]


def test_what_an_operator_remembers_goes_with_the_checkpoint(project: Any) -> None:
    project.write(
        """
        @dp.table
        def firsts():
            return (
                spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders").dropDuplicates(["id"])
            )
        """
    )
    project.land("orders", orders(1, 1))
    project.ok()
    project.pipeline().reset(checkpoints=["firsts"])
    project.ok()
    project.ok()
    assert project.rows("firsts", "id") == [1, 1]


def test_events_of_auto_cdc_that_come_again_change_nothing(project: Any) -> None:
    project.write(
        """
        dp.create_streaming_table("latest")
        dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="v", stored_as_scd_type=2)

        @dp.table
        def orders():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        """
    )
    project.land("orders", pa.table({"id": [1, 1], "v": [1, 2]}))
    project.ok()
    before = project.rows("latest")
    result = project.ok(selection=RefreshSelection(reset_checkpoint=("latest",)))
    assert [flow.batches for flow in result.flows if flow.dataset == "latest"] == [1]
    assert project.rows("latest") == before


def test_one_pipeline_object_sees_the_reset_of_a_stream_of_files(project: Any) -> None:
    project.write(
        """
        @dp.table
        def lines():
            return spark.readStream.format("text").load("/Volumes/main/raw/in")
        """
    )
    folder = project.root / "data" / "Volumes" / "main" / "raw" / "in"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("one\n")
    pipeline = project.pipeline()
    assert pipeline.run().exit_code == 0
    assert pipeline.run(selection=RefreshSelection(reset_checkpoint=("lines",))).exit_code == 0
    assert pipeline.run(selection=RefreshSelection(full_refresh=("lines",))).exit_code == 0
    assert pipeline.run().exit_code == 0
    assert project.rows("lines", "value") == ["one"]


def test_a_materialized_view_has_no_checkpoint_to_reset(shop: Any) -> None:
    with pytest.raises(GraphError) as raised:
        shop.pipeline().reset(checkpoints=["total"])
    assert raised.value.condition == "FLOW_WITHOUT_CHECKPOINT"
    assert "--full-refresh total" in (raised.value.hint or "")


def test_the_event_log_tells_of_resets(shop: Any) -> None:
    shop.pipeline().reset("orders", checkpoints=["copies"])
    messages = [text for text in shop.pipeline().events().column("message").to_pylist() if "reset" in text]
    assert messages == [
        "`orders` was reset: its table and its checkpoints are gone; flows that read it as a stream will fail: copies",
        "Flow 'copies': its checkpoint was reset: it reads its sources from the start, and `copies` keeps its rows",
    ]


# -- the command --------------------------------------------------------------------------------------------------


def command(project: Any, *words: str, answer: str | None = None) -> Any:
    return CliRunner().invoke(cli, [*words, "--spec", str(project.root)], input=answer)


def test_the_command_shows_and_asks_before_it_resets(shop: Any) -> None:
    before = files(shop)
    shown = command(shop, "reset", "orders", "--dry-run")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines() == [
        "drop the table orders: 2 rows, and its checkpoints",
        "  copies reads it as a stream, and fails until it is reset or refreshed from the start, too",
    ]
    assert command(shop, "reset").exit_code == 2
    refused = command(shop, "reset", "orders", answer="n\n")
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "nothing was reset" in refused.stderr
    nobody = command(shop, "reset", "orders", answer="")
    assert nobody.exit_code == 2 and "--yes" in nobody.stderr
    assert files(shop) == before
    agreed = command(shop, "reset", "orders", "copies", answer="y\n")
    assert agreed.exit_code == 0
    assert agreed.stdout.splitlines() == [
        "dropped the table orders: 2 rows, and its checkpoints",
        "dropped the table copies: 2 rows, and its checkpoints",
    ]
    shop.ok()
    assert shop.rows("copies", "id") == [1, 2]


def test_a_checkpoint_is_reset_by_both_commands(shop: Any) -> None:
    done = command(shop, "reset", "--checkpoint", "copies", "--yes", "--json")
    [step] = json.loads(done.stdout)["steps"]
    assert (step["kind"], step["flow"], step["batches"]) == ("checkpoint", "copies", 1)
    assert command(shop, "run").exit_code == 0
    assert shop.rows("copies", "id") == [1, 1, 2, 2]
    assert command(shop, "run", "--reset-checkpoint", "copies").exit_code == 0
    assert shop.rows("copies", "id") == [1, 1, 1, 2, 2, 2]
    assert command(shop, "run", "--reset-checkpoint", "copys").exit_code == 2
