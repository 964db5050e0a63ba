"""A storage in an object store with an engine elsewhere: the tables of the embedded engine in a folder, exactly once.

A Sail server finds the store by the environment that it was started with, and so does Spark where `make test-object-stores` has
started it. For S3 it is told in the session, since the store of a test listens on another port than the last one; that needs
a server of `lakelet spark up --object-store s3`.
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.conftest import ADDRESS
from tests.engines import CHOSEN
from tests.object_stores import ObjectStore
from tests.object_stores.s3 import S3, s3_server
from tests.remote_kit import sail_server

from lakelet.engine.connect import ConnectEngine
from lakelet.errors import LakeletError
from lakelet.events.model import PipelineEvent
from lakelet.pipeline import Pipeline, UpdateResult
from lakelet.plan import relation as plan
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_spark import DeltaSparkStore, DeltaSparkTable
from lakelet.testing.crash import Crash, crashing

pytestmark = [pytest.mark.feature("Tables in an object store"), pytest.mark.timeout(900)]

SPEC = "name: shop\nstorage: {storage}\nlibraries: [{{glob: {{include: 'transformations/**'}}}}]\n"
TABLES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table
@dp.expect("known", "customer IS NOT NULL")
@dp.expect_or_drop("positive", "amount > 0")
def sales():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales").withColumn("euros", F.col("amount") / 100)

@dp.table(partition_cols=["customer"])
def large_sales():
    return spark.readStream.table("sales").where("amount > 90").drop("noise")

@dp.table
def distinct_sales():
    return spark.readStream.table("sales").withWatermark("at", "10 minutes").drop("noise").dropDuplicates(["id", "at"])

@dp.temporary_view
def changes():
    return spark.readStream.format("delta").load("{changes}")

dp.create_streaming_table("customers")
dp.create_auto_cdc_flow(
    target="customers", source="changes", keys=["customer"], sequence_by="seq", stored_as_scd_type=2)

dp.create_streaming_table("customers_by_region", partition_cols=["region"])
dp.create_auto_cdc_flow(
    target="customers_by_region", source="changes", keys=["customer", "region"], sequence_by="seq",
    apply_as_deletes=F.expr("name = 'gone'"))

@dp.materialized_view
def per_customer():
    return spark.read.table("sales").groupBy("customer").agg(F.sum("amount").alias("amount"), F.count("*").alias("n"))

@dp.materialized_view
def per_region():
    joined = "sales s JOIN customers_by_region c USING (customer)"
    return spark.sql(f"SELECT c.region, sum(s.amount) AS amount FROM {joined} GROUP BY ALL")
"""
DATASETS = (
    "sales", "large_sales", "distinct_sales", "customers", "customers_by_region", "per_customer", "per_region",
)  # fmt: skip
NUM_SALES = 40_000
"""With their noise 6 MB: more than travels inside of a query."""
Tables = Mapping[str, pl.DataFrame]


def project(folder: Path, storage: str, changes: str) -> Path:
    (folder / "transformations").mkdir(parents=True)
    (folder / "spark-pipeline.yml").write_text(SPEC.format(storage=storage), "utf-8")
    (folder / "transformations" / "tables.py").write_text(TABLES.replace("{changes}", changes), "utf-8")
    return folder


def land(storage: str, changes: str, number: int) -> None:
    """Land one batch: sales of which some are invalid and some twice there, changes of which some delete."""
    count = NUM_SALES if number == 0 else 40
    noise = random.Random(number)
    ids = [number * NUM_SALES + n - n % 3 for n in range(count)]
    sales = {
        "id": pa.array(ids, pa.int64()),
        "customer": pa.array([None if n % 97 == 0 else n % 5 for n in ids], pa.int64()),
        "amount": pa.array([n * 7919 % 101 - 2 for n in ids], pa.int64()),
        "at": pa.array([number * 10**9 + n for n in ids], pa.timestamp("us", "UTC")),
        "noise": pa.array([noise.randbytes(80).hex() for _ in range(count)]),
    }
    names = ["ann", "bob", "gone" if number == 1 else "cid", "dan", "eve"]
    customers = {
        "customer": list(range(5)),
        "region": ["north", "south", "north", "south", "north"],
        "name": [name if name == "gone" else f"{name} {number}" for name in names],
        "seq": [number] * 5,
    }
    write_deltalake(f"{storage}/Volumes/main/raw/landing/sales", pa.table(sales), mode="append")
    write_deltalake(changes, pa.table(customers), mode="append")


def tables_of(storage: str) -> Tables:
    found = {}
    for name in DATASETS:
        table = DeltaTable(f"{storage}/tables/spark_catalog/default/{name}").to_pyarrow_table()
        frame = pl.DataFrame(pa.table(table))
        frame = frame.select(sorted(frame.columns))  # where the partition's column stands is the writer's choice
        found[name] = frame.sort(frame.columns)
    return found


def versions_of(storage: str) -> dict[str, int]:
    return {name: DeltaTable(f"{storage}/tables/spark_catalog/default/{name}").version() for name in DATASETS}


def counts_of(events: list[PipelineEvent]) -> set[tuple[str, int, int]]:
    """Return what was counted of each rule: name, passed, failed."""
    found = set()
    for event in events:
        quality = event.details.get("data_quality") or {}
        for rule in quality.get("expectations") or []:
            found.add((rule["name"], rule["passed_records"], rule["failed_records"]))
    return found


def assert_equal(found: Tables, expected: Tables) -> None:
    for name, table in expected.items():
        assert found[name].equals(table), f"{name}:\n{found[name]}\nand embedded, in a folder:\n{table}"


@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """An engine elsewhere that sees the object store.

    Attributes:
        configuration: what a project says to run there.
    """

    url: str
    configuration: Mapping[str, str]

    def run(self, root: Path, **options: Any) -> UpdateResult:
        with Pipeline(root, configuration=self.configuration) as pipeline:
            return pipeline.run(**options)


@pytest.fixture(scope="module")
def elsewhere(object_store: ObjectStore, engine: ConnectEngine) -> Iterator[Elsewhere]:
    if CHOSEN.startswith("sail"):
        with sail_server("local-cluster" if CHOSEN == "sail-cluster" else "local") as server:
            yield Elsewhere(url=server.url, configuration={"lakelet.engine": server.url})
        return
    if not isinstance(object_store, S3):  # the server of this run was started for this store
        yield Elsewhere(url=ADDRESS, configuration={"lakelet.engine": ADDRESS})
        return
    if not engine.setting("spark.hadoop.fs.s3.impl"):
        pytest.skip("only a server of `lakelet spark up --object-store s3` has what reads S3")
    yield Elsewhere(url=ADDRESS, configuration={"lakelet.engine": ADDRESS, **hadoop(object_store.url)})


def hadoop(address: str) -> dict[str, str]:
    """Return how a project tells Spark where the store of this run is."""
    settings = {
        "endpoint": address,
        "endpoint.region": "us-east-1",
        "path.style.access": "true",
        "access.key": "test",
        "secret.key": "test",
    }
    return {f"spark.hadoop.fs.s3a.{key}": value for key, value in settings.items()}


@pytest.fixture
def places(tmp_path: Path, bucket: str) -> tuple[Path, str, str]:
    """A project whose storage is in a bucket, and whose second source lies in it under an address of its own."""
    storage, changes = f"{bucket}/shop/data", f"{bucket}/elsewhere/changes"
    return project(tmp_path / "remote", storage, changes), storage, changes


@pytest.fixture(scope="module")
def in_a_folder(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Tables, set[tuple[str, int, int]]]]:
    """What the embedded engine makes of the same landings in a folder, and counts, after each."""
    folder = tmp_path_factory.mktemp("folder")
    storage, changes = str(folder / "storage"), str(folder / "changes")
    root = project(folder / "local", storage, changes)
    found = []
    for number in range(3):
        land(storage, changes, number)
        events: list[PipelineEvent] = []
        with Pipeline(root) as pipeline:
            assert pipeline.run(subscribers=[events.append]).exit_code == 0
        found.append((tables_of(storage), counts_of(events)))
    assert found[0][1]
    return found


def ok(result: UpdateResult) -> None:
    assert result.exit_code == 0, "\n".join(error.render() for error in result.errors)


def test_tables_are_those_of_the_embedded_engine_in_a_folder_also_when_the_engine_changes_in_between(
    places: tuple[Path, str, str], elsewhere: Elsewhere, in_a_folder: list[tuple[Tables, set[tuple[str, int, int]]]]
) -> None:
    root, storage, changes = places
    embedded = Elsewhere(url="sail", configuration={})
    for number, chosen in enumerate((elsewhere, embedded, elsewhere)):
        land(storage, changes, number)
        events: list[PipelineEvent] = []
        ok(chosen.run(root, subscribers=[events.append]))
        assert_equal(tables_of(storage), in_a_folder[number][0])
        assert counts_of(events) == in_a_folder[number][1]
    before = versions_of(storage)
    ok(elsewhere.run(root))
    streaming = set(DATASETS) - {"per_customer", "per_region"}
    assert {name: versions_of(storage)[name] for name in streaming} == {name: before[name] for name in streaming}


@pytest.mark.parametrize("point", ["flow.rows_committed", "cdc.target_committed"])
def test_an_update_that_dies_loses_and_doubles_nothing(
    point: str,
    places: tuple[Path, str, str],
    elsewhere: Elsewhere,
    in_a_folder: list[tuple[Tables, set[tuple[str, int, int]]]],
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    with crashing(point), pytest.raises(Crash):
        elsewhere.run(root)
    ok(elsewhere.run(root))
    assert_equal(tables_of(storage), in_a_folder[0][0])


# -- Spark's own writer


@pytest.fixture
def spark(elsewhere: Elsewhere) -> Iterator[ConnectEngine]:
    with nullcontext(ConnectEngine(elsewhere.url, configuration=elsewhere.configuration)) as engine:
        if not engine.capabilities.cluster_writes:
            pytest.skip("rows stream through this process on this engine")
        yield engine
        engine.close()


def test_a_replayed_batch_writes_nothing(spark: ConnectEngine, bucket: str) -> None:
    columns = pa.schema([("id", pa.int64()), ("name", pa.string())])
    table = DeltaSparkStore(spark).create(f"{bucket}/table", TableDefinition(schema=columns))
    assert isinstance(table, DeltaSparkTable)
    rows = plan.sql("SELECT id, concat('n', id) AS name FROM range(3)")
    changes = pa.table({"id": [0, 1, 9], "name": ["x", None, "n9"], "__op": ["U", "D", "U"]})
    for _ in range(2):
        table.append_query(spark, rows, columns, receipt=Receipt(app_id="flow", batch_id=0), evolve=False)
        assert table.version == 1
    for _ in range(2):
        table.merge(changes, keys=("id",), receipt=Receipt(app_id="flow", batch_id=1))
        assert table.version == 2
    again = DeltaRsStore().open(f"{bucket}/table")
    assert again is not None
    assert sorted((row["id"], row["name"]) for row in again.rows().to_pylist()) == [(0, "x"), (2, "n2"), (9, "n9")]
    assert again.batch_id("flow") == 1


def test_an_address_of_hadoop_is_one_of_ours_too(
    tmp_path: Path,
    s3: S3,
    bucket: str,
    spark: ConnectEngine,
    elsewhere: Elsewhere,
    in_a_folder: list[tuple[Tables, set[tuple[str, int, int]]]],
) -> None:
    """`s3a://`, which every cluster with `hadoop-aws` knows without a setting."""
    storage, changes = f"{bucket.replace('s3:', 's3a:')}/data", f"{bucket.replace('s3:', 's3a:')}/changes"
    root = project(tmp_path / "remote", storage, changes)
    land(storage, changes, 0)
    ok(elsewhere.run(root))
    assert_equal(tables_of(storage), in_a_folder[0][0])


def refused(root: Path, elsewhere: Elsewhere, **settings: str) -> LakeletError:
    """Return the error of an update that did nothing."""
    changed = {f"spark.hadoop.fs.{key.replace('_', '.')}": value for key, value in settings.items()}
    with Pipeline(root, configuration={**elsewhere.configuration, **changed}) as pipeline:
        result = pipeline.run()
    assert result.exit_code == 1
    (error,) = result.errors
    assert isinstance(error, LakeletError)
    assert error.condition == "STORAGE_OUT_OF_REACH"
    assert "\tat " not in str(error.cause)
    return error


def test_a_cluster_that_sees_another_store_at_the_address_is_found_out_before_anything_is_written(
    s3: S3, places: tuple[Path, str, str], spark: ConnectEngine, elsewhere: Elsewhere
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    name = f"lake-{uuid.uuid4().hex[:12]}"  # of its own: the cluster keeps a connection for each bucket
    bucket = s3.address(name)
    with s3_server() as other:
        other.make(name)
        os.environ["AWS_ENDPOINT_URL"] = s3.url
        s3.make(name)
        error = refused(project(root.parent / "there", bucket, changes), elsewhere, s3a_endpoint=other.url)
    assert "sees another store" in str(error.hint)
    assert not DeltaTable.is_deltatable(f"{bucket}/tables/spark_catalog/default/sales")


def test_a_cluster_that_does_not_know_the_scheme_is_told_how_to(
    s3: S3, places: tuple[Path, str, str], spark: ConnectEngine, elsewhere: Elsewhere
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    error = refused(root, elsewhere, s3_impl="org.example.Missing")
    assert "hadoop-aws" in str(error.hint)


def test_a_cluster_without_credentials_is_told_by_name(
    s3: S3, places: tuple[Path, str, str], spark: ConnectEngine, elsewhere: Elsewhere
) -> None:
    root, storage, changes = places
    land(storage, changes, 0)
    error = refused(root, elsewhere, s3a_access_key="", s3a_secret_key="")
    assert "credentials" in str(error.cause).lower()
