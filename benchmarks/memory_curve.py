"""Memory of a continuous update over thousands of micro-batches: `python -m benchmarks.memory_curve`.

A small pipeline with every feature runs in this process: rules on a table and on a view, SCD 1 and 2, deduplication and a
windowed aggregation with state, a join with a dimension, a file stream, a materialized view, SQL, maintenance. Rows land as
soon as those before have gone through. What is measured is the resident memory that the operating system has given to it, and to
the processes that it has started: the embedded engine's. Pages of program code that they share are counted in both.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

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
COMPACTED_EVERY = 50
"""So often the writer of the landing tables puts their files together."""


class Feed:
    """Lands the next rows when those before have reached the last table, and notes the memory."""

    def __init__(self, root: Path, *, batches: int, every: int, seconds: float) -> None:
        self.root, self.batches, self.every = root, batches, every
        self.ends_at = time.monotonic() + seconds
        self.drain = threading.Event()
        self.landed = self.committed = 0
        self.engines: set[int] = set()
        self.curve: list[tuple[int, int, int, int]] = []
        self._ready = threading.Event()
        command = [sys.executable, "-m", "benchmarks.memory_curve", "--land", str(root)]
        self._lander = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, event: PipelineEvent) -> None:
        if event.event_type != "flow_progress":
            return
        self.committed += "metrics" in event.details
        if event.origin.get("flow_name") == "total" and "metrics" in event.details:
            self._ready.set()

    def run(self) -> None:
        for number in range(self.batches):
            if time.monotonic() > self.ends_at:
                break
            self.land(number)
            self._ready.wait(30)
            self._ready.clear()
            if number % self.every == 0:
                self.measure(number)
        self.measure(number)
        self.drain.set()

    def measure(self, number: int) -> None:
        gc.collect()
        here = psutil.Process()
        others = [process for process in here.children() if process.pid != self._lander.pid]
        self.engines.update(process.pid for process in others)
        size = sum(process.memory_info().rss for process in others)
        self.curve.append((number + 1, self.committed, here.memory_info().rss, size))
        print(*self.curve[-1], flush=True)

    def land(self, number: int) -> None:
        assert self._lander.stdin is not None and self._lander.stdout is not None
        self._lander.stdin.write(f"{number}\n")
        self._lander.stdin.flush()
        self._lander.stdout.readline()

    def close(self) -> None:
        self._lander.communicate()


def land(root: Path, number: int) -> None:
    at = START + timedelta(seconds=20 * number)
    landing = root / "data/Volumes/main/raw/landing"
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
        if number % COMPACTED_EVERY == COMPACTED_EVERY - 1:  # a table of ever more files takes ever more memory to read
            DeltaTable(str(landing / name)).optimize.compact()
    note = root / "incoming" / f"{number // 500}" / f"{number}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    note.with_name(f".{number}").write_text(json.dumps({"id": number, "text": "x" * 50}), "utf-8")
    note.with_name(f".{number}").rename(note)


def land_as_told(root: Path) -> None:
    """Land rows for each number on standard input: the writer is a process of its own, as it would be."""
    for line in sys.stdin:
        land(root, int(line))
        print(line, end="", flush=True)


def files_below(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=600, help="how often rows land, at most")
    parser.add_argument("--minutes", type=float, default=30, help="for how long they land, at most")
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="write the figures into docs/reliability.md")
    parser.add_argument("--land", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.land:
        return land_as_told(options.land)
    with tempfile.TemporaryDirectory(prefix="lakelet-memory-") as folder:
        root = Path(folder)
        (root / "transformations").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC, "utf-8")
        (root / "transformations" / "tables.py").write_text(textwrap.dedent(TABLES), "utf-8")
        (root / "transformations" / "total.sql").write_text(SQL, "utf-8")
        every = max(1, options.batches // options.points)
        feed = Feed(root, batches=options.batches, every=every, seconds=options.minutes * 60)
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
            feed.close()
        assert result.exit_code == 0, [error.render() for error in result.errors]
        checkpoints = files_below(root / "data" / "_checkpoints")
    rows = [
        (landed, committed, f"{size / 2**20:.0f} MiB", f"{others / 2**20:.0f} MiB")
        for landed, committed, size, others in feed.curve
    ]
    columns = ("rows landed, times", "micro-batches and refreshes committed", "this process", "the engine's processes")
    text = (
        f"{table(columns, rows)}\n\n{time.monotonic() - started:.0f} s, {len(feed.engines)} processes of the engine seen at "
        f"these points, {checkpoints} checkpoint files at the end. ({machine()})"
    )
    print(text)
    if options.report:
        write_section("memory_curve", text)


if __name__ == "__main__":
    main()
