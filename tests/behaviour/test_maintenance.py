"""Compaction, vacuum and log clean-up between updates change nothing, and take nothing that a flow still needs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from deltalake import DeltaTable

from lakelet import faults
from lakelet.cli import cli
from lakelet.errors import LockError, SpecError
from lakelet.execution.lock import pipeline_lock
from lakelet.execution.maintenance import Retention, maintain_table, versions_in_use
from lakelet.pipeline import Pipeline, RefreshSelection
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.testing import crash_at

SHOP = """
    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def copies():
        return spark.readStream.table("orders")

    @dp.table
    def distinct_orders():
        return spark.readStream.table("orders").dropDuplicates(["id"])

    @dp.materialized_view
    def total():
        return spark.read.table("orders").agg(F.count("*").alias("n"), F.sum("v").alias("v"))

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="v")
"""
TABLES = ("orders", "copies", "distinct_orders", "total", "latest")


def rows(*pairs: tuple[int, int]) -> pa.Table:
    return pa.table(
        {"id": pa.array([a for a, _ in pairs], pa.int64()), "v": pa.array([b for _, b in pairs], pa.int64())}
    )


def landing(project: Any) -> str:
    return str(project.root / "data" / "Volumes" / "main" / "raw" / "landing" / "orders")


def tend_everything(project: Any) -> None:
    """Do the worst that is allowed: no retention at all, for the source and for every table of the pipeline."""
    age(project)
    catalog = project.pipeline().catalog
    retention = Retention(files_hours=0, log_hours=0, allow_short=True)
    need = versions_in_use(catalog).get(landing(project))
    maintain_table(DeltaRsStore(), landing(project), label="orders", need=need, retention=retention)
    project.pipeline().maintain(retention_hours=0, log_retention_hours=0, allow_short_retention=True)


def age(project: Any) -> None:
    """Let every file of every log be two months old."""
    old = time.time() - 60 * 86400
    for path in (project.root / "data").rglob("_delta_log/*"):
        os.utime(path, (old, old))


def data_files(folder: str | Path) -> set[str]:
    return {str(path) for path in Path(folder).rglob("*.parquet") if "_delta_log" not in path.parts}


def log_files(folder: str | Path) -> list[str]:
    return sorted(path.name for path in (Path(folder) / "_delta_log").glob("*.json"))


@pytest.mark.parametrize("tended", [False, True])
def test_maintenance_between_every_two_updates_changes_nothing(project: Any, tended: bool) -> None:
    project.write(SHOP)
    for number in range(14):
        project.land("orders", rows((number, 1), (number % 3, number)))
        if number % 3:
            if tended:
                tend_everything(project)
            project.ok()
        if tended:
            tend_everything(project)
    landed = [pair for number in range(14) for pair in ((number, 1), (number % 3, number))]
    assert project.rows("orders", "id", "v") == sorted(landed, key=str)
    assert project.rows("copies", "id", "v") == sorted(landed, key=str)
    assert project.rows("total", "n", "v") == [(len(landed), sum(v for _, v in landed))]
    assert project.rows("distinct_orders", "id") == sorted(range(14), key=str)
    newest = {key: max(v for other, v in landed if other == key) for key, _ in landed}
    assert dict(project.rows("latest", "id", "v")) == newest
    before = [project.version(name) for name in TABLES]
    project.ok()
    assert [project.version(name) for name in TABLES] == before
    if tended:
        tend_everything(project)
        assert len(data_files(project.folder("orders"))) == 1
        (auxiliary,) = {
            path.parent.parent for path in (project.root / "data" / "_auxiliary").rglob("_delta_log/*.json")
        }
        current = {uri.removeprefix("file://") for uri in DeltaTable(str(auxiliary)).file_uris()}
        assert data_files(auxiliary) == current, "in order of their keys, the files stay as they are; old ones go"
        assert len(data_files(project.root / "data" / "system" / "events")) == 1
        assert log_files(project.folder("orders"))[0] > f"{10:020d}"


def test_a_flow_that_is_behind_keeps_the_files_and_commits_that_it_has_not_read(project: Any) -> None:
    project.write(SHOP)
    project.land("orders", rows((0, 0)))
    project.ok()
    only_orders = RefreshSelection(refresh=("orders",))
    for number in range(1, 25):
        project.land("orders", rows((number, number)))
        project.ok(selection=only_orders)
    unread = data_files(project.folder("orders"))
    location = str(project.folder("orders"))
    assert project.pipeline().versions_in_use()[location] == 2
    tend_everything(project)
    assert DeltaTable(location).file_uris() != sorted(unread)
    assert unread - data_files(location) <= {min(unread, key=os.path.getmtime)}
    [kept] = [done for done in project.pipeline().maintain() if done.table.endswith("/orders")]
    assert kept.kept_for in TABLES, kept
    project.ok()
    assert project.rows("copies", "id") == sorted(range(25), key=str)
    tend_everything(project)
    assert len(data_files(location)) == 1
    assert log_files(location)[0] > f"{20:020d}"


@pytest.mark.parametrize(
    ("point", "occurrence"), [(point, number) for point in faults.MAINTENANCE_POINTS for number in (1, 2, 5)]
)
def test_maintenance_that_dies_takes_nothing_and_is_finished_by_the_next(
    project: Any, point: str, occurrence: int
) -> None:
    """One flow is behind all the time: what it has not read yet must stay."""
    project.write(SHOP)
    landed = [(number, number) for number in range(14)]
    for pair in landed:
        project.land("orders", rows(pair))
        project.ok(selection=RefreshSelection(refresh=("orders", "latest", "distinct_orders", "total")))
        if pair[0] == 3:
            project.ok()
    with crash_at(point, occurrence=occurrence):
        tend_everything(project)
    project.land("orders", rows((14, 14)))
    project.ok()
    for name in ("orders", "copies", "latest"):
        assert sorted(project.rows(name, "id", "v")) == [*landed, (14, 14)], name
    assert sorted(project.rows("distinct_orders", "id")) == list(range(15))
    assert project.rows("total", "n", "v") == [(15, sum(range(15)))]
    tend_everything(project)
    assert len(data_files(project.folder("copies"))) == 1
    project.ok()
    assert sorted(project.rows("copies", "id", "v")) == [*landed, (14, 14)]


class Crash(BaseException):
    """The death of the process."""


def die(point: str) -> None:
    if point == "flow.intent_written":
        raise Crash(point)


def test_an_unfinished_batch_keeps_the_snapshot_of_the_table_beside_its_stream(project: Any) -> None:
    project.write(
        """
        @dp.table
        def named():
            orders = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
            names = spark.read.format("delta").load("/Volumes/main/raw/landing/names")
            return orders.join(names, "id", "left")
        """
    )
    project.land("orders", rows((1, 1)))
    project.land("names", pa.table({"id": [1], "name": ["old"]}))
    with pytest.raises(Crash), faults.installed(die):
        project.run()
    for name in ("new", "newer"):
        project.land("names", pa.table({"id": [1], "name": [name]}), mode="overwrite")
    names = landing(project).replace("orders", "names")
    assert project.pipeline().versions_in_use() == {landing(project): 0, names: 0}
    for place in (names, landing(project)):
        age(project)
        need = versions_in_use(project.pipeline().catalog)[place]
        retention = Retention(files_hours=0, log_hours=0, allow_short=True)
        maintain_table(DeltaRsStore(), place, label=place, need=need, retention=retention)
    project.ok()
    assert project.rows("named", "id", "name") == [(1, "old")]


def test_the_commits_of_an_update_do_not_clean_the_log_up(project: Any) -> None:
    """A writer that cleans up behind itself, as delta-rs does by default, takes commits from flows that are behind."""
    project.write(SHOP)
    for number in range(12):
        project.land("orders", rows((number, number)))
        project.ok(selection=RefreshSelection(refresh=("orders",)))
        age(project)
    assert log_files(project.folder("orders"))[0] == f"{0:020d}.json"
    project.ok()
    assert project.rows("copies", "id") == sorted(range(12), key=str)


def test_a_dry_run_of_maintenance_changes_nothing(project: Any) -> None:
    project.write(SHOP)
    for number in range(3):
        project.land("orders", rows((number, number)))
        project.ok()
    before = {path: path.stat().st_mtime_ns for path in (project.root / "data").rglob("*")}
    found = project.pipeline().maintain(retention_hours=0, allow_short_retention=True, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in (project.root / "data").rglob("*")} == before
    assert {done.table.rpartition("/")[2] for done in found} >= {*TABLES, "events"}


def test_maintenance_waits_for_no_update_and_is_refused_while_one_runs(project: Any) -> None:
    project.write(SHOP)
    with pipeline_lock(project.root / "data" / "_lock", pipeline="shop"), pytest.raises(LockError):
        project.pipeline().maintain()


def test_a_short_retention_must_be_allowed(project: Any) -> None:
    project.write(SHOP)
    with pytest.raises(SpecError, match="RETENTION_TOO_SHORT"):
        project.pipeline().maintain(retention_hours=5)


def test_maintenance_needs_no_file_of_the_pipeline(project: Any) -> None:
    project.write(SHOP)
    project.land("orders", rows((1, 1)))
    project.ok()
    project.write("this is no python")
    done = [each.table for each in Pipeline(project.root).maintain()]
    assert len(done) == 9
    assert sum(name.endswith("/view_state") for name in done) == 1


def test_a_table_whose_log_was_cleaned_up_by_somebody_else_is_left_alone(project: Any) -> None:
    project.write(SHOP)
    for number in range(12):
        project.land("orders", rows((number, number)))
        project.ok(selection=RefreshSelection(refresh=("orders",) if number else ("orders", "copies")))
    for name in log_files(project.folder("orders"))[:9]:
        (project.folder("orders") / "_delta_log" / name).unlink()
    [found] = [done for done in project.pipeline().maintain(dry_run=True) if done.table.endswith("/orders")]
    assert found.skipped == "the flow copies needs version 2, which the log no longer has"


def test_the_command_says_what_it_did(project: Any) -> None:
    project.write(SHOP)
    for number in range(3):
        project.land("orders", rows((number, number)))
        project.ok()

    def run(*options: str) -> Any:
        return CliRunner().invoke(cli, ["maintain", "--spec", str(project.root), *options])

    line = "tables/spark_catalog/default/orders: 3 → 1 files, deleted 3 data files and 0 log files"
    assert run("--retention-hours", "1").exit_code == 2
    done = run("--retention-hours", "0", "--allow-short-retention")
    assert done.exit_code == 0 and line in done.stdout.splitlines()
    [orders] = [t for t in json.loads(run("--json").stdout)["tables"] if t["table"].endswith("/orders")]
    assert (orders["files_before"], orders["files_after"], orders["vacuumed_files"]) == (1, 1, 0)
