"""A pipeline whose storage is in an object store: the same tables as in a folder, exactly once, one update at a time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.object_stores import ObjectStore

from apparel.demo import PIPELINE as APPAREL
from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet import Pipeline, faults
from lakelet.errors import LakeletError
from lakelet.places import ObjectPath
from lakelet.testing.crash import Crash, crashing

SPEC = """
name: shop
storage: {storage}
configuration: {{lakelet.views.recomputeRows: "0"}}
libraries:
  - glob: {{include: transformations/**}}
"""
TABLES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table
@dp.expect_or_drop("positive", "amount > 0")
def sales():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")

@dp.table
def distinct_sales():
    return spark.readStream.table("sales").withWatermark("at", "10 minutes").dropDuplicates(["id", "at"])

dp.create_streaming_table("customers")
dp.create_auto_cdc_flow(
    target="customers", source="changes", keys=["customer"], sequence_by="seq", stored_as_scd_type=2)

@dp.temporary_view
def changes():
    return spark.readStream.format("delta").load("{changes}")

@dp.materialized_view
def per_customer():
    return spark.read.table("sales").groupBy("customer").agg(F.sum("amount").alias("amount"))
"""
DATASETS = ("sales", "distinct_sales", "customers", "per_customer")
VOLATILE = ("ingest_timestamp", "source_file_path")


def project(folder: Path, storage: str, *, changes: str) -> Path:
    (folder / "transformations").mkdir(parents=True)
    (folder / "spark-pipeline.yml").write_text(SPEC.format(storage=storage), "utf-8")
    (folder / "transformations" / "tables.py").write_text(TABLES.replace("{changes}", changes), "utf-8")
    return folder


def land(storage: str, changes: str, number: int) -> None:
    first = number * 4
    sales = pa.table(
        {
            "id": pa.array([first, first + 1, first + 1, first + 2], pa.int64()),
            "customer": pa.array([1, 2, 2, 3], pa.int64()),
            "amount": pa.array([5, 7, 7, -1], pa.int64()),
            "at": pa.array([(first + at) * 1_000_000 for at in (0, 1, 1, 2)], pa.timestamp("us", "UTC")),
        }
    )
    customers = pa.table({"customer": [1, 2], "name": [f"ann {number}", "bob"], "seq": [number, number]})
    write_deltalake(f"{storage}/Volumes/main/raw/landing/sales", sales, mode="append")
    write_deltalake(changes, customers, mode="append")


def rows(storage: str, name: str) -> pl.DataFrame:
    table = pl.DataFrame(pa.table(DeltaTable(f"{storage}/tables/spark_catalog/default/{name}").to_pyarrow_table()))
    return table.sort(table.columns)


def tables_of(storage: str) -> Mapping[str, pl.DataFrame]:
    return {name: rows(storage, name) for name in DATASETS}


def assert_equal(found: Mapping[str, pl.DataFrame], expected: Mapping[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert found[name].equals(table), f"{name}:\n{found[name]}\nand in a folder:\n{table}"


@pytest.fixture
def places(tmp_path: Path, bucket: str) -> tuple[Path, str, str]:
    """A project whose storage is in a bucket, and whose second source lies in it under an address of its own."""
    storage, changes = f"{bucket}/shop/data", f"{bucket}/elsewhere/changes"
    return project(tmp_path / "remote", storage, changes=changes), storage, changes


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, pl.DataFrame]:
    """What the same pipeline makes of the same two landings with its storage in a folder."""
    tmp_path = tmp_path_factory.mktemp("folder")
    storage, changes = str(tmp_path / "storage"), str(tmp_path / "changes")
    root = project(tmp_path / "local", storage, changes=changes)
    for number in range(2):
        land(storage, changes, number)
    with Pipeline(root) as pipeline:
        assert pipeline.run().exit_code == 0
    return tables_of(storage)


def test_tables_in_an_object_store_are_those_of_a_folder(
    places: tuple[Path, str, str], in_a_folder: Mapping[str, pl.DataFrame]
) -> None:
    root, storage, changes = places
    for number in range(2):
        land(storage, changes, number)
        with Pipeline(root) as pipeline:
            result = pipeline.run()
        assert result.exit_code == 0, [error.render() for error in result.errors]
    with Pipeline(root) as pipeline:
        assert pipeline.query("SELECT count(*) AS n FROM distinct_sales").to_pylist() == [{"n": 4}]
        assert pipeline.query("SELECT count(*) AS n FROM event_log WHERE event_type = 'create_update'").to_pylist() == [
            {"n": 2}
        ]
        assert pipeline.maintain()
        assert pipeline.run().exit_code == 0
    assert_equal(tables_of(storage), in_a_folder)
    assert sorted(path.name for path in root.iterdir()) == [".lakelet", "spark-pipeline.yml", "transformations"]
    assert not (ObjectPath.of(storage) / "_lock").exists()


@pytest.mark.parametrize("point", ["state.committed", "cdc.auxiliary_committed", "flow.rows_committed", "view.swapped"])
def test_an_update_that_dies_loses_and_doubles_nothing(
    point: str, places: tuple[Path, str, str], in_a_folder: Mapping[str, pl.DataFrame]
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    land(storage, changes, 1)
    with Pipeline(root) as pipeline, pytest.raises(Crash), crashing(point):
        pipeline.run()
    with Pipeline(root) as pipeline:
        assert pipeline.run().exit_code == 0
    assert_equal(tables_of(storage), in_a_folder)


def test_a_killed_process_leaves_a_lock_that_the_next_one_takes_over(
    places: tuple[Path, str, str], in_a_folder: Mapping[str, pl.DataFrame]
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    land(storage, changes, 1)
    killed = subprocess.run(
        [str(Path(sys.executable).parent / "lakelet"), "run", "--spec", str(root)],
        env={**os.environ, faults.ENVIRONMENT: "flow.rows_committed:2"},
        capture_output=True,
    )
    assert killed.returncode == 137, killed.stderr.decode()
    lock = ObjectPath.of(storage) / "_lock"
    assert json.loads(lock.read_text())["host"] == socket.gethostname()
    with Pipeline(root) as pipeline:
        assert pipeline.run().exit_code == 0
    assert not lock.exists()
    assert_equal(tables_of(storage), in_a_folder)


@pytest.mark.parametrize("host", [socket.gethostname(), "another.example.com"])
def test_a_lock_whose_owner_may_live_is_respected(host: str, places: tuple[Path, str, str]) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    owner = {"pid": os.getpid(), "host": host, "pipeline": "shop", "started_at": "2026-01-01T00:00:00+00:00"}
    (ObjectPath.of(storage) / "_lock").write_bytes(json.dumps(owner).encode())
    with Pipeline(root) as pipeline, pytest.raises(LakeletError, match="another update runs") as locked:
        pipeline.run()
    assert locked.value.condition == "PIPELINE_LOCKED"
    assert host in str(locked.value.cause)


def test_a_dataset_that_is_reset_starts_anew(
    places: tuple[Path, str, str], in_a_folder: Mapping[str, pl.DataFrame]
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    land(storage, changes, 1)
    with Pipeline(root) as pipeline:
        assert pipeline.run().exit_code == 0
        pipeline.reset("customers")
        assert not (ObjectPath.of(storage) / "tables/spark_catalog/default/customers").exists()
        assert pipeline.run().exit_code == 0
    assert_equal(tables_of(storage), in_a_folder)


def test_the_flagship_in_an_object_store_is_row_for_row_the_one_in_a_folder(tmp_path: Path, bucket: str) -> None:
    remote = ObjectPath.of(f"{bucket}/apparel")
    generator = Generator(GeneratorSettings(seed=7), DeltaLanding(tmp_path))
    for storage in (str(remote), str(tmp_path)):
        if storage == str(remote):
            generator.write_batch()
            volumes = tmp_path / "Volumes"
            for path in sorted(path for path in volumes.rglob("*") if path.is_file()):
                remote.joinpath("Volumes", *path.relative_to(volumes).parts).write_bytes(path.read_bytes())
        with Pipeline(APPAREL, storage=storage) as pipeline:
            result = pipeline.run()
            assert result.exit_code == 0, [error.render() for error in result.errors]
            names = [dataset.name for dataset in pipeline.graph().stored()]
    for name in names:
        one, other = (flagship_rows(storage, name.schema, name.name, name.catalog) for storage in (remote, tmp_path))
        assert one.height, name
        assert one.equals(other), f"{name}:\n{one}\nand in a folder:\n{other}"


def flagship_rows(storage: object, schema: str, name: str, catalog: str) -> pl.DataFrame:
    table = pl.DataFrame(pa.table(DeltaTable(f"{storage}/tables/{catalog}/{schema}/{name}").to_pyarrow_table()))
    table = table.drop([column for column in VOLATILE if column in table.columns])
    return table.sort(table.columns)


def test_a_stream_of_files_is_refused_while_the_storage_is_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    root = project(tmp_path / "files", bucket, changes=f"{bucket}/changes")
    text = "from pyspark import pipelines as dp\n\n@dp.table\ndef notes():\n"
    text += '    return spark.readStream.schema("id INT").json("incoming")\n'
    (root / "transformations" / "tables.py").write_text(text, "utf-8")
    with Pipeline(root) as pipeline, pytest.raises(LakeletError) as refused:
        pipeline.graph()
    assert refused.value.condition == "UNSUPPORTED_SOURCE"
    assert "Delta table" in (refused.value.hint or "")


def test_a_storage_that_cannot_be_written_is_said_in_a_line(tmp_path: Path, object_store: ObjectStore) -> None:
    root = project(tmp_path / "missing", f"{object_store.address('there-is-no-such-bucket')}/x", changes="/nowhere")
    with Pipeline(root) as pipeline, pytest.raises(LakeletError) as refused:
        pipeline.run()
    assert refused.value.condition == "STORAGE_NOT_WRITABLE"
    assert "\n" not in str(refused.value.cause)
    assert "credentials" in (refused.value.hint or "")


def test_a_source_in_a_bucket_that_is_not_there(tmp_path: Path, object_store: ObjectStore) -> None:
    missing = f"{object_store.address('there-is-no-such-bucket')}/x"
    root = project(tmp_path / "missing", "data", changes=missing)
    with Pipeline(root) as pipeline, pytest.raises(LakeletError) as refused:
        pipeline.graph()
    told = refused.value.render()
    assert missing in told
    assert "NoSuchBucket" in told or "404 Not Found" in told
    assert "credentials" in told
