"""Memory of a continuous update over thousands of micro-batches: `python -m benchmarks.memory_curve`.

A small pipeline with every feature runs in this process: rules on a table and on a view, SCD 1 and 2, deduplication and a
windowed aggregation with state, a join with a dimension, a file stream, a materialized view, SQL, maintenance. Rows land as
soon as those before have gone through. What is measured is the resident memory that the operating system has given to it.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from deltalake import write_deltalake

from benchmarks.report import machine, table, write_section
from lakelet import Pipeline
from lakelet.events.model import PipelineEvent

SPEC = "name: curve\nstorage: data\nlibraries:\n  - glob: {include: transformations/**}\n"
TABLES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.temporary_view
@dp.expect_or_drop("positive", "amount > 0")
def cleaned():
    return spark.readStream.table("bronze")

@dp.table
@dp.expect("has_id", "id IS NOT NULL")
def bronze():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")

dp.create_streaming_table("customers")
dp.create_auto_cdc_flow(
    target="customers", source="customer_changes", keys=["customer"], sequence_by="at", stored_as_scd_type=2)

dp.create_streaming_table("current_customers")
dp.create_auto_cdc_flow(
    target="current_customers", source="customer_changes", keys=["customer"], sequence_by="at", stored_as_scd_type=1)

@dp.temporary_view
def customer_changes():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")

@dp.table
def facts():
    names = spark.read.table("current_customers").select("customer", "name")
    return spark.readStream.table("cleaned").join(names, "customer", "left")

@dp.table
def distinct_sales():
    return spark.readStream.table("bronze").withWatermark("at", "10 minutes").dropDuplicates(["id", "at"])

@dp.table
def per_minute():
    sales = spark.readStream.table("bronze").withWatermark("at", "10 minutes")
    return sales.groupBy(F.window("at", "1 minute")).agg(F.sum("amount").alias("amount"))

@dp.table
def notes():
    return (
        spark.readStream.format("cloudFiles").option("cloudFiles.format", "json").schema("id LONG, text STRING")
        .load("incoming")
    )

@dp.materialized_view
def per_customer():
    return spark.read.table("facts").groupBy("customer", "name").agg(F.sum("amount").alias("amount"))
"""
SQL = "CREATE OR REFRESH MATERIALIZED VIEW total AS SELECT count(*) AS n, sum(amount) AS amount FROM facts;\n"
START = datetime(2026, 1, 1, tzinfo=UTC)


class Feed:
    """Lands the next rows when those before have reached the last table, and notes the memory."""

    def __init__(self, root: Path, *, batches: int, every: int) -> None:
        self.root, self.batches, self.every = root, batches, every
        self.drain = threading.Event()
        self.landed = self.committed = 0
        self.curve: list[tuple[int, int, int]] = []
        self._ready = threading.Event()

    def __call__(self, event: PipelineEvent) -> None:
        if event.event_type != "flow_progress":
            return
        self.committed += "metrics" in event.details
        if event.origin.get("flow_name") == "total" and "metrics" in event.details:
            self._ready.set()

    def run(self) -> None:
        for number in range(self.batches):
            self.land(number)
            self._ready.wait(30)
            self._ready.clear()
            if number % self.every == 0:
                gc.collect()
                self.curve.append((number, self.committed, resident_bytes()))
                print(*self.curve[-1], flush=True)
        self.drain.set()

    def land(self, number: int) -> None:
        at = START + timedelta(seconds=20 * number)
        landing = self.root / "data/Volumes/main/raw/landing"
        customers = pa.table({"customer": [number % 50], "name": [f"name {number}"], "at": [at]})
        sales = pa.table(
            {
                "id": [number * 10 + n for n in (0, 1, 2, 3, 3)],
                "customer": [(number + n) % 50 for n in range(5)],
                "amount": [float(n - 1) for n in (0, 2, 3, 4, 4)],
                "at": [at] * 5,
            }
        )
        for name, rows in (("customers", customers), ("sales", sales)):
            write_deltalake(str(landing / name), rows, mode="append", configuration={"delta.checkpointInterval": "10"})
        note = self.root / "incoming" / f"{number // 500}" / f"{number}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.with_name(f".{number}").write_text(json.dumps({"id": number, "text": "x" * 50}), "utf-8")
        note.with_name(f".{number}").rename(note)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files_below(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=500, help="how often rows land")
    parser.add_argument("--points", type=int, default=10)
    parser.add_argument("--report", action="store_true", help="write the figures into docs/reliability.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakelet-memory-") as folder:
        root = Path(folder)
        (root / "transformations").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC, "utf-8")
        (root / "transformations" / "tables.py").write_text(textwrap.dedent(TABLES), "utf-8")
        (root / "transformations" / "total.sql").write_text(SQL, "utf-8")
        feed = Feed(root, batches=options.batches, every=max(1, options.batches // options.points))
        feed.land(0)
        configuration = {
            "pipelines.trigger.interval": "1 millisecond",
            "lakelet.maintenance.interval": "10 seconds",
        }
        started = time.monotonic()
        with Pipeline(root, configuration=configuration) as pipeline:
            writer = threading.Thread(target=feed.run)
            writer.start()
            result = pipeline.run(continuous=True, drain=feed.drain, subscribers=[feed])
            writer.join()
        assert result.exit_code == 0, [error.render() for error in result.errors]
        checkpoints = files_below(root / "data" / "_checkpoints")
    rows = [(batches, committed, f"{size / 2**20:.0f} MiB") for batches, committed, size in feed.curve]
    text = (
        f"{table(('rows landed, times', 'micro-batches and refreshes committed', 'resident memory'), rows)}\n\n"
        f"{time.monotonic() - started:.0f} s, {checkpoints} checkpoint files at the end. ({machine()})"
    )
    print(text)
    if options.report:
        write_section("memory_curve", text)


if __name__ == "__main__":
    main()
