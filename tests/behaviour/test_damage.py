"""What others do to files and tables between two updates: detected, explained, never guessed, and the hint repairs it."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from lakelet.cli import cli
from lakelet.execution.checkpoint import checkpoint_folders
from lakelet.pipeline import RefreshSelection

SHOP = """
    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def firsts():
        return spark.readStream.table("orders").dropDuplicates(["id"])

    @dp.table
    def lines():
        return spark.readStream.format("text").load("/Volumes/main/raw/in")

    @dp.materialized_view
    def total():
        return spark.read.table("orders").agg(F.count("*").alias("n"))

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="v")
"""


def rows(*ids: int) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), "v": pa.array(ids, pa.int64())})


@pytest.fixture
def shop(project: Any) -> Any:
    """Two updates are done, and input for a third has arrived."""
    project.write(SHOP)
    folder = project.root / "data" / "Volumes" / "main" / "raw" / "in"
    folder.mkdir(parents=True)
    for number in range(3):
        project.land("orders", rows(number))
        (folder / f"{number}.txt").write_text(f"line {number}\n")
        if number < 2:
            project.ok()
    return project


def landing(project: Any) -> Path:
    folder: Path = project.root / "data" / "Volumes" / "main" / "raw" / "landing" / "orders"
    return folder


def place(project: Any, table: str) -> Path:
    data: Path = project.root / "data"
    hidden = {
        "auxiliary": data / "_auxiliary" / "spark_catalog" / "default" / "latest",
        "state": data / "_checkpoints" / "spark_catalog" / "default" / "firsts" / "firsts" / "0" / "state" / "keys",
    }
    return hidden.get(table) or project.folder(table)


def is_right(project: Any) -> bool:
    found = [project.rows(name, "id") for name in ("orders", "firsts", "latest")]
    return found == [[0, 1, 2]] * 3 and project.rows("total", "n") == [3] and len(project.rows("lines")) == 3


def follow(project: Any, hint: str) -> None:
    """Do what a hint says, as a user would."""
    found = re.search(r"`lakelet (reset|run --full-refresh) (\w+)`", hint)
    assert found is not None, hint
    if found[1] == "reset":
        project.pipeline().reset(found[2])
    else:
        project.ok(selection=RefreshSelection(full_refresh=(found[2],)))


# -- checkpoint files ---------------------------------------------------------------------------------------------

BREAK: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x00\xff\x13",
}


def checkpoint_files(project: Any) -> list[Path]:
    folders = checkpoint_folders(project.pipeline().catalog)
    found = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    return sorted(path for path in found if "_delta_log" not in path.parts)


@pytest.mark.parametrize("how", BREAK)
def test_every_broken_checkpoint_file_is_harmless_or_named_with_what_repairs_it(shop: Any, how: str) -> None:
    """All files of all datasets at once: each error must name a dataset, and resetting those must lead to the right rows."""
    for path in checkpoint_files(shop):
        path.write_bytes(BREAK[how](path.read_bytes()))
    for _ in range(8):
        result = shop.run()
        if result.exit_code == 0:
            break
        for error in result.errors:
            assert error.condition in ("CHECKPOINT_CORRUPT", "SOURCE_TABLE_REPLACED"), error.render()
            assert "Traceback" not in error.render()
            follow(shop, (error.hint or "").replace("or keep its rows", ""))
    assert is_right(shop)


def test_a_broken_generation_is_named_and_a_reset_repairs_it(shop: Any) -> None:
    shop.ok(selection=RefreshSelection(full_refresh=("firsts",)))
    path = shop.root / "data" / "_checkpoints" / "spark_catalog" / "default" / "firsts" / "generation.json"
    path.write_text('{"format": 1, "gene')
    error = shop.run().errors[0]
    assert (error.condition, error.origin.dataset) == ("CHECKPOINT_CORRUPT", "firsts")
    follow(shop, error.hint or "")
    shop.ok()
    assert is_right(shop)


def test_a_checkpoint_of_a_newer_release_is_left_alone(shop: Any) -> None:
    for path in checkpoint_files(shop):
        if path.suffix != ".jsonl":
            path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    before = {path: path.read_bytes() for path in checkpoint_files(shop)}
    assert {error.condition for error in shop.run().errors} == {"CHECKPOINT_TOO_NEW"}
    assert {path: path.read_bytes() for path in checkpoint_files(shop) if path in before} == before


def test_a_half_written_file_without_its_commit_is_nobodys_row(shop: Any) -> None:
    for table in ("orders", "firsts", "total", "latest", "auxiliary", "state"):
        (place(shop, table) / "part-00000-killed-c000.snappy.parquet").write_bytes(b"PAR1 and no more")
    shop.ok()
    assert is_right(shop)


# -- tables of the pipeline ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", ["orders", "firsts", "latest", "auxiliary", "state"])
def test_a_table_that_was_set_back_is_refused(shop: Any, table: str) -> None:
    newest = DeltaTable(str(place(shop, table)))
    version = newest.version()
    newest.restore(1)
    errors = shop.run().errors
    [error] = [error for error in errors if error.condition == "TABLE_SET_BACK"]
    owner = {"auxiliary": "latest", "state": "firsts"}.get(table, table)
    assert error.origin is not None and error.origin.dataset == owner
    assert f"restore version {version}" in (error.hint or "")
    for reader in {owner, *({"firsts", "latest"} if table == "orders" else ())}:
        shop.pipeline().reset(reader)
    shop.ok()
    assert is_right(shop)


def test_a_restore_that_was_undone_is_forgotten(shop: Any) -> None:
    table = DeltaTable(str(place(shop, "firsts")))
    version = table.version()
    table.restore(1)
    assert [error.condition for error in shop.run().errors] == ["TABLE_SET_BACK"]
    table.update_incremental()
    table.restore(version)
    shop.ok()
    assert is_right(shop)


def test_rows_that_others_write_are_told_of_once_and_stay(shop: Any) -> None:
    write_deltalake(str(place(shop, "firsts")), rows(77), mode="append")
    DeltaTable(str(place(shop, "firsts"))).delete("id = 0")
    shop.ok()
    told = [event.message for event in shop.events if "somebody else" in event.message]
    assert len(told) == 1
    assert "version 3 (WRITE), 4 (DELETE)" in told[0] and "--full-refresh firsts" in told[0]
    assert shop.rows("firsts", "id") == [1, 2, 77]
    shop.ok()
    assert not [event for event in shop.events if "somebody else" in event.message]


@pytest.mark.parametrize("table", ["orders", "firsts", "total", "latest", "auxiliary", "state"])
def test_a_table_that_others_compact_and_vacuum_stays_as_it_is(shop: Any, table: str) -> None:
    found = DeltaTable(str(place(shop, table)))
    found.optimize.compact()
    found.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    shop.ok()
    assert is_right(shop)
    assert not [event for event in shop.events if "somebody else" in event.message]


@pytest.mark.parametrize("table", ["firsts", "total", "latest", "auxiliary", "state"])
def test_a_table_whose_log_is_torn_is_named_and_a_reset_repairs_it(shop: Any, table: str) -> None:
    newest = sorted((place(shop, table) / "_delta_log").glob("*.json"))[-1]
    newest.write_bytes(newest.read_bytes()[:40])
    [error] = shop.run().errors
    assert error.condition == "TABLE_IO_FAILED"
    follow(shop, error.hint or "")
    shop.ok()
    assert is_right(shop)


# -- tables that a flow reads -------------------------------------------------------------------------------------


def source_is(what: str, project: Any) -> None:
    folder = landing(project)
    table = DeltaTable(str(folder))
    match what:
        case "deleted":
            shutil.rmtree(folder)
        case "made anew":
            shutil.rmtree(folder)
            project.land("orders", rows(50))
            project.land("orders", rows(51))
        case "made anew, longer":
            shutil.rmtree(folder)
            for number in range(9):
                project.land("orders", rows(50 + number))
        case "restored":
            table.restore(1)
        case "shrunk":
            for commit in sorted((folder / "_delta_log").glob("*.json"))[1:]:
                commit.unlink()
        case "vacuumed":
            project.land("orders", rows(8), mode="overwrite")
            DeltaTable(str(folder)).vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
        case "cleaned up":
            for number in range(20):
                project.land("orders", rows(100 + number))
            DeltaTable(str(folder)).create_checkpoint()
            for commit in sorted((folder / "_delta_log").glob("*.json"))[:20]:
                commit.unlink()
        case "torn":
            commit = sorted((folder / "_delta_log").glob("*.json"))[-1]
            commit.write_bytes(commit.read_bytes()[:60])


@pytest.mark.parametrize(
    ("what", "condition"),
    [
        ("deleted", "DELTA_TABLE_NOT_FOUND"),
        ("made anew", "SOURCE_TABLE_REPLACED"),
        ("made anew, longer", "SOURCE_TABLE_REPLACED"),
        ("restored", "DELTA_SOURCE_TABLE_IGNORE_CHANGES"),
        ("shrunk", "SOURCE_TABLE_REPLACED"),
        ("vacuumed", "DATA_FILE_MISSING|DELTA_SOURCE_TABLE_IGNORE_CHANGES"),
        ("cleaned up", "SOURCE_LOG_MISSING"),
        ("torn", "TABLE_IO_FAILED"),
    ],
)
def test_a_source_that_is_not_what_it_was_stops_its_flow_and_nothing_else(shop: Any, what: str, condition: str) -> None:
    source_is(what, shop)
    for _ in range(2):
        errors = [error for error in shop.run().errors if error.origin and error.origin.flow in (None, "orders")]
        assert len(errors) == 1, errors
        assert re.fullmatch(condition, errors[0].condition), errors[0].render()
        assert errors[0].hint and "Traceback" not in errors[0].render()
    table = DeltaTable(str(shop.folder("orders"))).to_pyarrow_table()
    assert sorted(table.column("id").to_pylist()) == [0, 1]


# -- clocks -------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_stops_nothing_and_no_flow_goes_back_in_time(project: Any) -> None:
    now = datetime(2024, 5, 1, 12, tzinfo=UTC)
    project.clock = lambda: now
    project.write(
        """
        @dp.table
        def orders():
            landed = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
            return landed.withColumn("seen_at", F.current_timestamp())
        """
    )
    for number, shift in enumerate((timedelta(), timedelta(days=-400), timedelta(hours=1))):
        now += shift if number < 2 else timedelta(days=400) + shift
        project.land("orders", rows(number))
        project.ok()
    start = datetime(2024, 5, 1, 12, tzinfo=UTC)
    seen = [row["seen_at"] for row in project.rows("orders")]
    assert seen == [start, start, start + timedelta(hours=1)]


# -- poison rows --------------------------------------------------------------------------------------------------


def test_a_row_that_stops_a_flow_for_good_is_shown_and_stepped_over_by_the_command(project: Any) -> None:
    project.write(
        """
        @dp.table
        @dp.expect_or_fail("positive", "id > 0")
        def orders():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        """
    )
    project.land("orders", rows(1, -5, 3))

    def command(*words: str) -> Any:
        return CliRunner().invoke(cli, [*words, "--spec", str(project.root)])

    for _ in range(2):
        failed = command("run")
        assert failed.exit_code == 1
        assert "lakelet repair orders --drop-rows" in failed.stderr
    shown = command("repair", "orders")
    assert shown.exit_code == 0
    assert '"id": -5' in shown.stdout and "batch 0 of flow `orders`" in shown.stdout
    assert project.rows("orders", "id") == []
    assert "finished without its invalid rows" in command("repair", "orders", "--drop-rows").stdout
    assert project.rows("orders", "id") == [1, 3]
    assert "no flow of orders has an unfinished batch" in command("repair", "orders").stdout
    assert "batch 0 is finished without its invalid rows, as asked" in command("events", "--level", "WARN").stdout
    project.land("orders", rows(-6))
    assert command("run").exit_code == 1
