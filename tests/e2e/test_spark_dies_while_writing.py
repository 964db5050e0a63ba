"""A server that is killed, stopped or cut off while it writes data files that no commit has yet: exactly once all the same.

Each test waits for a data file of the target that the log does not know, strikes, and checks that the log has not advanced until
then. What must come out is computed in plain Python.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.conftest import ADDRESS
from tests.local_spark import Write, data_files, killable_server, signal_all, start_again
from tests.remote_kit import proxy_to

from lakelet.engine.base import Engine
from lakelet.engine.spark_server import RunningServer
from lakelet.pipeline import Pipeline, UpdateResult

pytestmark = [
    pytest.mark.feature("Servers that die or stop in the middle of a write"),
    pytest.mark.timeout(900),
]

SPEC = "name: shop\nstorage: data\nlibraries: [{glob: {include: 'pipeline/**'}}]\n"
STEPS = 300_000
"""What the query does for each row: some hundredths of a second."""
TABLES = f"""
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table
@dp.expect("odd", "id % 2 = 1")
@dp.expect_or_drop("not a tenth", "id % 10 <> 0")
def slow():
    rows = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders").repartition(16)
    steps = "aggregate(sequence(1L, {STEPS}L), 0L, (sum, x) -> sum + (x * (id + 1)) % 7)"
    return rows.select("id", F.expr(steps).alias("total"))

dp.create_streaming_table("merged", partition_cols=["shelf"])
dp.create_auto_cdc_flow(
    target="merged", source="changes", keys=["id", "shelf"], sequence_by="seq", apply_as_deletes=F.expr("name = 'gone'"))

@dp.temporary_view
def changes():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/changes")
"""
NUM_ORDERS = 64
NUM_SHELVES = 120
"""Each is a file of the MERGE."""


@pytest.fixture(autouse=True)
def _needs_cluster_writes(engine: Engine) -> None:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")


@pytest.fixture
def server(engine: Engine) -> Iterator[RunningServer]:
    """The server of this run; it runs again afterwards."""
    running = killable_server()
    yield running
    start_again(running)


class Shop:
    """A pipeline of a slow append and of a MERGE into many partitions."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "pipeline").mkdir()
        (root / "pipeline/tables.py").write_text(TABLES)
        (root / "spark-pipeline.yml").write_text(SPEC)
        self.landing = root / "data/Volumes/main/raw/landing"
        self.changes: list[dict[str, Any]] = []
        self.orders: list[int] = []
        write_deltalake(str(self.landing / "orders"), pa.table({"id": pa.array([], pa.int64())}))
        self.change(0)

    def land_for(self, name: str) -> None:
        """Land what the table is written from."""
        if name == "merged":
            self.change(1)
            return
        self.orders = list(range(NUM_ORDERS))
        write_deltalake(str(self.landing / "orders"), pa.table({"id": self.orders}), mode="append")

    def change(self, number: int) -> None:
        """Land changes of every shelf: with the second batch a third goes and as many come."""
        ids = range(number * NUM_SHELVES // 3, number * NUM_SHELVES // 3 + NUM_SHELVES)
        rows = [
            {
                "id": n,
                "shelf": n % NUM_SHELVES,
                "seq": number,
                "name": "gone" if number and n % 3 == 0 else f"{n} {number}",
            }
            for n in ids
        ]
        self.changes += rows
        write_deltalake(str(self.landing / "changes"), pa.Table.from_pylist(rows), mode="append")

    def table(self, name: str) -> Path:
        return self.root / "data/tables/spark_catalog/default" / name

    def run(self, address: str = ADDRESS) -> UpdateResult:
        with Pipeline(self.root, configuration={"lakelet.engine": address}) as pipeline:
            return pipeline.run()

    def ok(self) -> None:
        result = self.run()
        assert result.exit_code == 0, "\n".join(error.render() for error in result.errors)

    def check(self) -> None:
        """Compare both tables with what plain Python makes of everything that has landed."""
        steps = np.arange(1, STEPS + 1)
        wanted = {(n, int((steps * (n + 1) % 7).sum())) for n in self.orders if n % 10}
        self._check("slow", wanted, "id", "total")
        latest = {row["id"]: row for row in self.changes}
        kept = [row for row in latest.values() if row["name"] != "gone"]
        self._check("merged", {(row["id"], row["shelf"], row["name"]) for row in kept}, "id", "shelf", "name")

    def _check(self, name: str, wanted: set[tuple[Any, ...]], *columns: str) -> None:
        table = pa.table(DeltaTable(str(self.table(name))).to_pyarrow_table())
        assert table.num_rows == len(wanted)
        assert set(zip(*(table.column(column).to_pylist() for column in columns), strict=True)) == wanted

    def batches(self, name: str) -> int:
        """Return how many commits have written rows to a table."""
        history = DeltaTable(str(self.table(name))).history()
        return len([commit for commit in history if commit["operation"] in ("WRITE", "MERGE")])


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A pipeline after its first update."""
    shop = Shop(tmp_path)
    shop.ok()
    shop.check()
    return shop


@pytest.mark.parametrize("name", ["slow", "merged"])
def test_a_server_that_is_killed_while_it_writes_loses_and_doubles_nothing(
    shop: Shop, server: RunningServer, name: str
) -> None:
    shop.land_for(name)
    before = shop.batches(name)
    results: list[UpdateResult] = []
    write = Write(shop.table(name), lambda: results.append(shop.run()))
    signal_all(server, signal.SIGKILL)
    write.assert_not_committed()
    write.join()
    assert results[0].exit_code == 1
    conditions = {getattr(error, "condition", "") for error in results[0].errors}
    assert conditions & {"ENGINE_UNAVAILABLE", "ENGINE_SESSION_LOST"}, conditions
    write.assert_not_committed()
    orphans = data_files(shop.table(name)) - committed_files(shop.table(name))
    assert orphans

    start_again(server)
    shop.ok()
    shop.check()
    assert shop.batches(name) == before + 1
    assert not orphans & committed_files(shop.table(name))
    shop.ok()
    assert shop.batches(name) == before + 1


def committed_files(table: Path) -> set[Path]:
    return {Path(uri.removeprefix("file://")) for uri in DeltaTable(str(table)).file_uris()}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", ["slow", "merged"])
@pytest.mark.parametrize("again", ["after the commit", "during the write"])
def test_a_write_whose_answer_never_comes_is_not_written_twice(
    shop: Shop, server: RunningServer, name: str, again: str
) -> None:
    """The network stops, and the server goes on: it commits what this side takes for failed, or is still at it."""
    shop.land_for(name)
    before = shop.batches(name)
    results: list[UpdateResult] = []
    with proxy_to(server.port) as proxy:
        write = Write(shop.table(name), lambda: results.append(shop.run(proxy.url)))
        proxy.stop()
        write.assert_not_committed()
        write.join()
    # A flow tries again by itself, and may find the commit that it did not hear of: then it has nothing to ask the server for.
    conditions = {getattr(error, "condition", "") for error in results[0].errors}
    assert results[0].exit_code == 0 or "ENGINE_UNAVAILABLE" in conditions
    if again == "after the commit":
        write.wait_for_commit()
    shop.ok()
    shop.check()
    assert shop.batches(name) == before + 1


@pytest.mark.usefixtures("impatient")
def test_a_server_that_stops_without_a_word_and_wakes_again_writes_once(shop: Shop, server: RunningServer) -> None:
    shop.land_for("slow")
    before = shop.batches("slow")
    results: list[UpdateResult] = []
    write = Write(shop.table("slow"), lambda: results.append(shop.run()))
    signal_all(server, signal.SIGSTOP)
    try:
        write.assert_not_committed()
        write.join()
        assert "ENGINE_UNAVAILABLE" in {getattr(error, "condition", "") for error in results[0].errors}
    finally:
        signal_all(server, signal.SIGCONT)
    shop.ok()
    shop.check()
    assert shop.batches("slow") == before + 1
