"""A Delta source whose columns change between updates and during a continuous one."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakelet.pipeline import RefreshSelection

PIPELINE = """
    @dp.table
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def copies():
        return spark.readStream.table("orders")

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="seq")
"""


def rows(*ids: int, kind: pa.DataType | None = None, **columns: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids, kind or pa.int64()), "seq": pa.array(ids, pa.int64()), **columns})


@pytest.fixture
def shop(project: Any) -> Any:
    project.write(PIPELINE)
    project.land("orders", rows(1))
    project.ok()
    return project


def landing(project: Any) -> Path:
    return Path(project.root / "data/Volumes/main/raw/landing/orders")


def test_a_new_column_reaches_all_tables_behind_it(shop: Any) -> None:
    shop.land("orders", rows(2, size=["XL"]), schema_mode="merge")
    shop.ok()
    for table in ("orders", "copies", "latest"):
        assert shop.rows(table, "id", "size") == [(1, None), (2, "XL")]


def test_a_new_column_reaches_all_tables_during_a_continuous_update(shop: Any) -> None:
    drain = threading.Event()
    seen = 0

    def on_event(event: Any) -> None:
        nonlocal seen
        if event.event_type == "flow_progress" and "metrics" in event.details and event.origin["flow_name"] == "latest":
            seen += 1
            if seen == 1:
                shop.land("orders", rows(3, size=["XL"]), schema_mode="merge")
            else:
                drain.set()

    shop.land("orders", rows(2))
    guard = threading.Timer(60, drain.set)
    guard.start()
    result = shop.pipeline().run(continuous=True, drain=drain, subscribers=[on_event])
    guard.cancel()
    assert result.exit_code == 0, [error.render() for error in result.errors]
    for table in ("orders", "copies", "latest"):
        assert shop.rows(table, "id", "size") == [(1, None), (2, None), (3, "XL")]


def test_a_column_that_no_longer_comes_is_null(shop: Any) -> None:
    shop.land("orders", rows(2, size=["XL"]), schema_mode="merge")
    shop.ok()
    shop.land("orders", rows(3), schema_mode="merge")
    shop.ok()
    for table in ("orders", "copies", "latest"):
        assert shop.rows(table, "id", "size") == [(1, None), (2, "XL"), (3, None)]


def replaced(project: Any, table: pa.Table) -> None:
    write_deltalake(str(landing(project)), table, mode="overwrite", schema_mode="overwrite")


@pytest.mark.parametrize(
    "table",
    [
        rows(2, kind=pa.int32()),
        pa.table({"number": [2], "seq": [2]}),
        pa.table({"id": [2]}),
    ],
    ids=["narrowed", "renamed", "dropped"],
)
def test_columns_that_only_a_rewrite_of_the_source_can_change_are_refused(shop: Any, table: pa.Table) -> None:
    before = [shop.version(name) for name in ("orders", "copies", "latest")]
    replaced(shop, table)
    result = shop.run()
    assert "DELTA_SOURCE_TABLE_IGNORE_CHANGES" in {error.condition for error in result.errors} or {
        error.condition for error in result.errors
    } & {"UNRESOLVED_COLUMN", "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA"}
    assert [shop.version(name) for name in ("orders", "copies", "latest")] == before


def test_a_type_that_the_table_cannot_hold_is_refused_with_both_types(shop: Any) -> None:
    replaced(shop, rows(kind=pa.string()).slice(0, 0))
    shop.write(PIPELINE.replace('.format("delta")', '.option("skipChangeCommits", "true").format("delta")'))
    shop.land("orders", pa.table({"id": ["a"], "seq": [2]}))
    before = shop.version("orders")
    result = shop.run()
    conditions = {error.condition for error in result.errors}
    assert "DATASET_SCHEMA_MISMATCH" in conditions
    [error] = [item for item in result.errors if item.condition == "DATASET_SCHEMA_MISMATCH"]
    assert "`id` is bigint in the table and string in the query" in error.cause
    assert shop.version("orders") == before


def test_a_source_with_column_mapping_is_refused(shop: Any) -> None:
    log = landing(shop) / "_delta_log"
    version = DeltaTable(str(landing(shop))).version() + 1
    [first] = [json.loads(line) for line in (log / f"{0:020d}.json").read_text().splitlines() if "metaData" in line]
    first["metaData"]["configuration"]["delta.columnMapping.mode"] = "name"
    (log / f"{version:020d}.json").write_text(json.dumps(first) + "\n")
    result = shop.run()
    assert "COLUMN_MAPPING_UNSUPPORTED" in {error.condition for error in result.errors}


# -- a source whose owner changes its columns without writing a row ---------------------------------------------------


def redefine(project: Any, *fields: dict[str, Any]) -> None:
    """Commit other columns for the landing table, as `ALTER TABLE` does elsewhere; no data file changes."""
    log = landing(project) / "_delta_log"
    actions = [json.loads(line) for line in (log / f"{0:020}.json").read_text("utf-8").splitlines()]
    [metadata] = [action["metaData"] for action in actions if "metaData" in action]
    columns = [{"nullable": True, "metadata": {}, **field} for field in fields]
    metadata["schemaString"] = json.dumps({"type": "struct", "fields": columns})
    newest = max(int(path.stem) for path in log.glob("*.json"))
    (log / f"{newest + 1:020}.json").write_text(json.dumps({"metaData": metadata}) + "\n", "utf-8")


ID, SEQ = {"name": "id", "type": "long"}, {"name": "seq", "type": "long"}


def test_a_column_that_the_source_widens_is_refused_before_anything_is_written(project: Any) -> None:
    project.write(PIPELINE).land("orders", rows(1, size=pa.array([7], pa.int32())))
    project.ok()
    before = {table: project.version(table) for table in ("orders", "copies", "latest")}
    redefine(project, ID, SEQ, {"name": "size", "type": "long"})
    project.land("orders", rows(2, size=pa.array([2**40], pa.int64())))
    result = project.run()
    assert result.exit_code == 1
    assert {table: project.version(table) for table in before} == before
    refused = [error for error in result.errors if error.condition == "DATASET_SCHEMA_MISMATCH"]
    assert "`size` is int in the table and bigint in the query" in str(refused[0].cause)
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    for table in before:
        assert project.rows(table, "id", "size") == [(1, 7), (2, 2**40)]


def test_a_column_that_the_source_drops_is_null_from_then_on(project: Any) -> None:
    project.write(PIPELINE).land("orders", rows(1, size=["XL"]))
    project.ok()
    redefine(project, ID, SEQ)
    project.land("orders", rows(2))
    project.ok()
    for table in ("orders", "copies", "latest"):
        assert project.rows(table, "id", "size") == [(1, "XL"), (2, None)]
