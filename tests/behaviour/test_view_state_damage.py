"""What happens to a view when others touch what it remembers of its groups: never a wrong row, whatever it costs."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from lakelet.execution import distinct_values
from lakelet.execution.group_refresh import GroupsInProcess
from lakelet.pipeline import RefreshSelection
from lakelet.testing import crash_at

VIEW = """
    @dp.materialized_view
    def v():
        sales = spark.read.format("delta").load("/Volumes/main/raw/landing/sales")
        return sales.groupBy("shop").agg(F.sum("amount").alias("x"), F.countDistinct("customer").alias("c"))
"""
WHOLE = VIEW.replace("def v", "def whole")


@pytest.fixture
def shop(project: Any) -> Any:
    """Three updates are done: one from the start, two that followed what was added."""
    project.write(VIEW)
    for number in range(3):
        land(project, number)
        project.ok()
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    return project


def land(project: Any, number: int) -> None:
    """Land rows of two shops and three customers; each number has one customer of its own."""
    rows = [("N", number, "a"), ("N", 10 * number, f"own {number}"), ("S", 100 * number, "b")]
    project.land(
        "sales", pa.table({name: [row[at] for row in rows] for at, name in enumerate(("shop", "amount", "customer"))})
    )


def state(project: Any) -> Path:
    folder: Path = project.root / "data" / "_checkpoints" / "spark_catalog" / "default" / "v" / "view_state"
    return folder


def is_right(project: Any) -> bool:
    """Compare with the same query as a view that has never been refreshed before."""
    project.write(WHOLE, file="whole.py")
    project.ok(selection=RefreshSelection(full_refresh=("whole",)))
    found = project.rows("v") == project.rows("whole")
    (project.root / "pipeline" / "whole.py").unlink()
    return bool(found)


def data_files(project: Any) -> list[Path]:
    return [Path(uri.removeprefix("file://")) for uri in DeltaTable(str(state(project))).file_uris()]


def torn(project: Any) -> None:
    for file in data_files(project):
        file.write_bytes(file.read_bytes()[:-20])


def emptied(project: Any) -> None:
    for file in data_files(project):
        file.write_bytes(b"")


def missing(project: Any) -> None:
    data_files(project)[0].unlink()


def restored(project: Any) -> None:
    DeltaTable(str(state(project))).restore(DeltaTable(str(state(project))).version() - 1)


def without_last_commit(project: Any) -> None:
    sorted((state(project) / "_delta_log").glob("*.json"))[-1].unlink()


def deleted(project: Any) -> None:
    shutil.rmtree(state(project))


def emptied_by_statement(project: Any) -> None:
    DeltaTable(str(state(project))).delete()


def appended(project: Any) -> None:
    table = DeltaTable(str(state(project)))
    write_deltalake(table, table.to_pyarrow_table(), mode="append")


def overwritten_by_its_past(project: Any) -> None:
    table = DeltaTable(str(state(project)))
    rows = DeltaTable(str(state(project)), version=table.version() - 1).to_pyarrow_table()
    write_deltalake(table, rows, mode="overwrite")


def torn_log(project: Any) -> None:
    last = max((state(project) / "_delta_log").glob("*.json"))
    last.write_text(last.read_text()[:-40])


DAMAGES: dict[str, Callable[[Any], None]] = {
    damage.__name__.replace("_", " "): damage
    for damage in (
        torn, emptied, missing, restored, without_last_commit, deleted, emptied_by_statement, appended, overwritten_by_its_past,
        torn_log,
    )
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_view_whose_partial_values_are_not_what_they_were_is_computed_anew_and_followed_again(
    shop: Any, damage: Callable[[Any], None]
) -> None:
    damage(shop)
    land(shop, 3)
    shop.ok()
    assert shop.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "CHANGE_SET_MISSING"])
    assert is_right(shop)
    land(shop, 4)
    shop.ok()
    assert shop.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert is_right(shop)


@pytest.mark.parametrize("is_first", [True, False], ids=["first refresh", "later refresh"])
@pytest.mark.parametrize("point", ["view.state_committed", "view.swapped"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_refresh_that_died_does_not_go_on_from_what_others_have_touched(
    project: Any, damage: Callable[[Any], None], point: str, is_first: bool
) -> None:
    project.write(VIEW)
    for number in () if is_first else (0, 1):
        land(project, number)
        project.ok()
    land(project, 2)
    with crash_at(point):
        project.run()
    damage(project)
    for number in (3, 4):
        project.ok()
        assert is_right(project)
        land(project, number)
    project.ok()
    assert is_right(project)


def test_partial_values_that_others_compact_and_vacuum_are_followed(shop: Any) -> None:
    table = DeltaTable(str(state(shop)))
    table.optimize.compact()
    table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True)
    land(shop, 3)
    shop.ok()
    assert shop.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert is_right(shop)


def test_partial_values_that_were_tidied_up_are_followed(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are merged after the note: the commit must be known as the view's own."""
    monkeypatch.setattr(GroupsInProcess, "most_appended_files", 2)
    monkeypatch.setattr(distinct_values, "_remembered", remembered := distinct_values._Remembered())
    versions = []
    for number in range(3, 9):
        land(shop, number)
        shop.ok()
        assert shop.techniques()["v"][0] == "GROUP_AGGREGATE"
        versions.append(DeltaTable(str(state(shop))).version())
    assert 2 in {after - before for before, after in itertools.pairwise(versions)}
    assert set(remembered._slots) <= set(map(str, data_files(shop))), "merged files are kept in memory"
    assert is_right(shop)


def test_what_only_reading_finds_out_is_named_with_the_command_that_repairs_it(shop: Any) -> None:
    for file in data_files(shop):
        found = file.read_bytes()
        file.write_bytes(b"\x00" * (len(found) - 8) + found[-8:])
    before = shop.rows("v")
    land(shop, 3)
    for _ in range(2):
        [error] = shop.run().errors
        assert error.condition == "STATE_TABLE_BEHIND_CHECKPOINT", error.render()
        assert "Traceback" not in error.render() and str(state(shop)) in error.render()
        assert "`lakelet run --full-refresh v`" in (error.hint or "")
        assert shop.rows("v") == before
    shop.ok(selection=RefreshSelection(full_refresh=("v",)))
    assert is_right(shop)


def test_a_file_of_a_state_that_has_other_rows_than_the_log_says_is_named(shop: Any) -> None:
    """Of the same size by chance: what the log says of its rows is compared when it is read."""
    file = max(data_files(shop), key=lambda path: path.stat().st_size)
    size = file.stat().st_size
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with file.open("rb") as written:
        content = written.read()
    metadata = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[:4] + b"\x00" * (size - len(content)) + content[4:metadata] + content[metadata:])
    land(shop, 3)
    [error] = shop.run().errors
    assert error.condition == "STATE_TABLE_BEHIND_CHECKPOINT"
    assert "rows where the table's log says" in (error.cause or "")
