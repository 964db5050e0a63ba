"""Setup, list, health and maintenance of a storage root."""

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from apparel import operations
from apparel.generator.model import DIMENSIONS, Stream
from apparel.generator.settings import Dirt
from lakelet.errors import LakeletError, SpecError
from lakelet.execution.checkpoint import FORMAT, Batch, Checkpoint, write_json


def tree(storage: Path) -> dict[str, float]:
    return {str(path.relative_to(storage)): path.stat().st_mtime_ns for path in storage.rglob("*")}


def test_setup_creates_catalog_schemas_volume_and_empty_folders(storage):
    places = operations.setup(storage)
    assert all(place.created and place.path.is_dir() for place in places)
    assert [(place.kind, place.name) for place in places] == [
        ("catalog", "apparel_store"),
        ("schema", "apparel_store.00_landing"),
        ("schema", "apparel_store.01_bronze"),
        ("schema", "apparel_store.02_silver"),
        ("schema", "apparel_store.03_gold"),
        ("volume", "apparel_store.00_landing.streaming"),
        *(("folder", f"/Volumes/apparel_store/00_landing/streaming/{stream}") for stream in Stream),
    ]
    assert not any(path.is_file() for path in storage.rglob("*"))


def test_setup_twice_changes_nothing(storage, landing, generator):
    operations.setup(storage)
    generator(landing).write_batch()
    before = tree(storage)
    assert not any(place.created for place in operations.setup(storage))
    assert tree(storage) == before


def test_setup_completes_what_is_missing(storage):
    operations.setup(storage)
    (storage / "tables" / "apparel_store" / "03_gold").rmdir()
    assert [place.name for place in operations.setup(storage) if place.created] == ["apparel_store.03_gold"]


def test_setup_below_a_file_is_an_error_with_an_action(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeletError) as caught:
        operations.setup(tmp_path / "file")
    assert caught.value.hint


def test_the_generator_writes_into_folders_that_setup_made(storage, landing, generator, read):
    operations.setup(storage)
    generator(landing).write_batch()
    assert read(Stream.SALES).num_rows == 500


def test_a_list_of_an_empty_storage_is_all_zero(storage):
    for listing in operations.list_written(storage):
        assert (listing.rows, listing.versions, listing.files, listing.first_at) == (0, 0, 0, None)


def test_a_list_of_a_table_without_rows_has_no_times(landing, storage):
    DeltaTable.create(landing.folder / "sales", schema=Stream.SALES.schema)
    sales = operations.list_written(storage)[-1]
    assert (sales.rows, sales.versions, sales.files, sales.last_at) == (0, 1, 0, None)


def test_the_list_says_what_is_in_the_tables(storage, landing, generator, read):
    writer = generator(landing)
    for _ in range(3):
        batch = writer.write_batch()
    for listing in operations.list_written(storage):
        rows = read(Stream(listing.stream))
        table = DeltaTable(landing.folder / listing.stream)
        times = rows[Stream(listing.stream).time].to_pylist()
        assert listing.rows == rows.num_rows
        assert listing.versions == batch.versions[Stream(listing.stream)] + 1
        assert listing.files == len(table.file_uris())
        assert listing.size_bytes == sum(Path(uri).stat().st_size for uri in table.file_uris())
        assert abs((listing.first_at - min(times)).total_seconds()) <= 0.001
        assert abs((listing.last_at - max(times)).total_seconds()) <= 0.001


def test_health_of_an_empty_storage_is_all_zero(storage):
    report = operations.health(storage)
    assert set(report.rows.values()) == {0}
    assert all((key.orphans, key.nulls) == (0, 0) for key in report.foreign_keys)


def test_a_clean_run_has_no_orphans(storage, landing, generator):
    generator(landing).write_batch()
    assert all((key.orphans, key.nulls) == (0, 0) for key in operations.health(storage).foreign_keys)


def test_health_counts_the_orphans_that_duckdb_counts(storage, landing, generator):
    writer = generator(
        landing,
        dirt=Dirt(unknown_foreign_key_rate=0.2, null_foreign_key_rate=0.1, null_customer_key_rate=0.2),
    )
    for _ in range(3):
        writer.write_batch()
    report = operations.health(storage)
    with duckdb.connect() as db:
        for stream in Stream:
            files = DeltaTable(landing.folder / stream).file_uris()
            db.execute(f"CREATE TABLE {stream} AS SELECT * FROM read_parquet({files})")
        for stream, key in zip(DIMENSIONS, report.foreign_keys, strict=True):
            orphans, nulls = db.execute(
                f"""SELECT count(*) FILTER (WHERE {stream.key} IS NOT NULL AND NOT EXISTS
                        (SELECT 1 FROM {stream} d WHERE d.{stream.key} = s.{stream.key})),
                    count(*) FILTER (WHERE {stream.key} IS NULL) FROM sales s"""
            ).fetchone()
            assert (key.foreign_key, key.orphans, key.nulls) == (stream.key, orphans, nulls)
            assert orphans > 0
            assert nulls > 0
        assert report.rows == {stream: db.execute(f"SELECT count(*) FROM {stream}").fetchone()[0] for stream in Stream}


def test_without_a_dimension_table_every_reference_is_an_orphan(storage, landing, generator):
    import shutil

    generator(landing).write_batch()
    shutil.rmtree(landing.folder / "stores")
    orphans = {key.foreign_key: key.orphans for key in operations.health(storage).foreign_keys}
    assert orphans == {"store_id": 500, "customer_id": 0, "product_id": 0}


def commits(folder: Path) -> list[dict]:
    logs = sorted((folder / "_delta_log").glob("*.json"))
    return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


def test_compaction_merges_files_without_new_rows_for_streaming_readers(storage, landing, generator, read):
    writer = generator(landing)
    for _ in range(4):
        writer.write_batch()
    rows = read(Stream.SALES)
    report = {Path(done.table).name: done for done in operations.maintain(storage)}
    assert (report["sales"].files_before, report["sales"].files_after) == (4, 1)
    assert read(Stream.SALES) == rows
    removed = [action["remove"] for action in commits(landing.folder / "sales") if "remove" in action]
    added = [action["add"] for action in commits(landing.folder / "sales") if "add" in action]
    assert len(removed) == 4
    assert not any(action["dataChange"] for action in removed)
    assert sum(action["dataChange"] for action in added) == 4


def test_maintenance_twice_changes_nothing(storage, landing, generator):
    writer = generator(landing)
    writer.write_batch()
    writer.write_batch()
    operations.maintain(storage)
    versions = [listing.versions for listing in operations.list_written(storage)]
    operations.maintain(storage)
    assert [listing.versions for listing in operations.list_written(storage)] == versions


def test_vacuum_keeps_files_of_the_last_week(storage, landing, generator):
    writer = generator(landing)
    writer.write_batch()
    writer.write_batch()
    files = DeltaTable(landing.folder / "sales").file_uris()
    assert all(done.vacuumed_files == 0 for done in operations.maintain(storage))
    assert all(Path(file).exists() for file in files)


def test_a_retention_below_a_week_is_refused_unless_it_is_allowed(storage, landing, generator):
    writer = generator(landing)
    writer.write_batch()
    writer.write_batch()
    files = DeltaTable(landing.folder / "sales").file_uris()
    with pytest.raises(SpecError) as caught:
        operations.maintain(storage, retention_hours=1)
    assert caught.value.condition == "RETENTION_TOO_SHORT"
    operations.maintain(storage, retention_hours=0, allow_short_retention=True)
    assert not any(Path(file).exists() for file in files)


def test_vacuum_keeps_what_an_unfinished_reader_still_needs_however_old(storage, landing, generator):
    writer = generator(landing)
    files = []
    for _ in range(4):
        writer.write_batch()
        files.append(set(DeltaTable(landing.folder / "sales").file_uris()))
    location = str((landing.folder / "sales").relative_to(storage))
    offset = {"version": 2, "index": 0, "snapshot": False, "table": None}
    batch = Batch(id=0, at=datetime.now(UTC), sources={"s": {"start": offset, "end": offset}}, tables={"s": location})
    checkpoint = Checkpoint(storage / "_checkpoints" / "apparel_store" / "01_bronze" / "bronze_sales", "slow", 0)
    checkpoint.write_offsets(batch)
    checkpoint.write_commit(batch)
    operations.maintain(storage, retention_hours=0, allow_short_retention=True)
    unread = files[-1] - files[1]
    assert len(unread) == 2
    assert all(Path(file).exists() for file in unread)


def test_a_dry_run_changes_nothing(storage, landing, generator):
    writer = generator(landing)
    writer.write_batch()
    writer.write_batch()
    before = tree(storage)
    operations.maintain(storage, retention_hours=0, allow_short_retention=True, dry_run=True)
    assert tree(storage) == before


def test_the_pipelines_tables_are_maintained_too_unless_an_update_runs(storage):
    folder = storage / "tables" / "apparel_store" / "01_bronze" / "bronze_sales"
    for _ in range(3):
        write_deltalake(folder, pa.table({"x": [1]}), mode="append")
    record = storage / "_checkpoints" / "apparel_store" / "01_bronze" / "bronze_sales" / "definition.json"
    write_json(record, {"format": FORMAT, "location": str(folder.relative_to(storage))})
    lock = storage / "_lock"
    lock.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
    assert operations.maintain(storage)[-1].skipped == "an update is running"
    lock.unlink()
    done = operations.maintain(storage)[-1]
    assert (done.table, done.files_before, done.files_after) == (
        "tables/apparel_store/01_bronze/bronze_sales",
        3,
        1,
    )
