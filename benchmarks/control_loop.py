"""What lakelet itself costs with many flows: `python -m benchmarks.control_loop --report`.

A project of thousands of small pipelines side by side (a source outside, a table that reads it, a table that reads that one,
and a view over it) is loaded, checked and drawn, and then run by the real scheduler, planner, checkpoints, log reader and
event log. Only the two ends are stand-ins: an engine that gives one row for every query, and a store whose commits are a file of
one row and a file in a Delta log. So what is left is the control loop, and it must cost the same per flow whether there are a
hundred or ten thousand.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema

from benchmarks.document import machine, table, write_part
from lakelet import Pipeline
from lakelet.engine.sail import SailEngine
from lakelet.events.model import PipelineEvent
from lakelet.graph.formats import as_json, as_text
from lakelet.storage.base import Receipt, TableDefinition, TableSize

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "concepts" / "scaling.md"
SPEC = "name: many\nstorage: data\nlibraries:\n  - glob: {include: transformations/**}\n"
HEAD = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"
LINE = """
@dp.table
def bronze_{n}():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/source_{n}")

@dp.table
def silver_{n}():
    return spark.readStream.table("bronze_{n}").withColumn("doubled", F.col("amount") * 2)

@dp.materialized_view
def gold_{n}():
    return spark.read.table("silver_{n}").groupBy("id").agg(F.sum("doubled").alias("doubled"))
"""
FLOWS_A_LINE = 3
LINES_A_FILE = 100
ROWS = pa.table({"id": pa.array([1], pa.int64()), "amount": pa.array([1], pa.int64())})


def _one_row() -> bytes:
    content = pa.BufferOutputStream()
    pq.write_table(ROWS, content)
    return bytes(content.getvalue())


ONE_ROW = _one_row()


@dataclass(slots=True)
class StandInTable:
    """A table without delta-rs: every commit is a file of one row and a file in the log."""

    location: str
    id: str
    schema: pa.Schema
    version: int
    batch_ids: dict[str, int] = field(default_factory=dict)
    partition_cols: tuple[str, ...] = ()
    properties: Mapping[str, str] = field(default_factory=dict)

    def batch_id(self, app_id: str) -> int:
        return self.batch_ids.get(app_id, -1)

    def start(self) -> None:
        self._commit(None, rows=0)

    def set_properties(self, properties: Mapping[str, str]) -> None: ...

    def set_comment(self, comment: str) -> None: ...

    def size(self) -> TableSize:
        return TableSize(files=1, rows=1, bytes=1)

    def append(self, rows: Any, *, receipt: Receipt | None = None, **_: Any) -> int:
        count = sum(batch.num_rows for batch in rows)
        self._commit(receipt, rows=count)
        return count

    def replace(self, rows: Any, *, receipt: Receipt | None = None, **_: Any) -> int:
        return self.append(rows, receipt=receipt)

    def _commit(self, receipt: Receipt | None, *, rows: int) -> None:
        actions: list[dict[str, Any]] = [{"commitInfo": {"timestamp": int(time.time() * 1000), "operation": "WRITE"}}]
        if receipt is not None:
            actions.append({"txn": {"appId": receipt.app_id, "version": receipt.batch_id}})
            self.batch_ids[receipt.app_id] = receipt.batch_id
        if self.version < 0:
            actions += [{"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}, {"metaData": self._metadata()}]
        if rows:
            actions.append({"add": add_file(self.location)})
        self.version += 1
        write_log(self.location, self.version, actions)

    def _metadata(self) -> dict[str, Any]:
        columns = json.loads(Schema.from_arrow(self.schema).to_json())
        return {
            "id": self.id,
            "format": {"provider": "parquet", "options": {}},
            "schemaString": json.dumps(columns),
            "partitionColumns": [],
            "configuration": {},
        }


def add_file(location: str) -> dict[str, Any]:
    """Write a file of one row; returns what the log says of it."""
    name = f"{uuid.uuid4()}.parquet"
    Path(location, name).write_bytes(ONE_ROW)
    stats = json.dumps({"numRecords": 1})
    return {
        "path": name,
        "size": len(ONE_ROW),
        "partitionValues": {},
        "dataChange": True,
        "modificationTime": 0,
        "stats": stats,
    }


def write_log(location: str, version: int, actions: list[dict[str, Any]]) -> None:
    log = Path(location, "_delta_log")
    log.mkdir(parents=True, exist_ok=True)
    log.joinpath(f"{version:020d}.json").write_text("\n".join(map(json.dumps, actions)), "utf-8")


class StandInStore:
    """Keeps what `DeltaRsStore` reads from a log in memory."""

    def __init__(self) -> None:
        self._tables: dict[str, StandInTable] = {}

    def open(self, location: str, *, version: int | None = None) -> StandInTable | None:
        return self._tables.get(location)

    def exists(self, location: str) -> bool:
        return location in self._tables

    def create(self, location: str, definition: TableDefinition) -> StandInTable:
        found = self._tables.get(location)
        if found is None:
            found = self._tables[location] = StandInTable(location, str(uuid.uuid4()), definition.schema, -1)
            found.start()
        return found

    def drop(self, location: str) -> None:
        self._tables.pop(location, None)


class StandInEngine(SailEngine):
    """Says which columns a query has, and gives one row of them without running anything."""

    def stream(self, relation: Any) -> pa.RecordBatchReader:
        return ROWS.to_reader()

    def collect(self, relation: Any) -> pa.Table:
        return ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one step took.

    Attributes:
        cpu_seconds: of this process, all threads, engine included.
    """

    what: str
    cpu_seconds: float
    wall_seconds: float
    rss_bytes: int


@contextmanager
def measured(what: str, costs: list[Cost]) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    size = int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    cost = Cost(
        what=what,
        cpu_seconds=time.process_time() - cpu,
        wall_seconds=time.perf_counter() - wall,
        rss_bytes=size,
    )
    print(f"  {what}: {cost.cpu_seconds:.2f} s CPU, {cost.wall_seconds:.2f} s, {size / 2**20:,.0f} MiB", flush=True)
    costs.append(cost)


def write_project(root: Path, lines: int) -> None:
    folder = root / "transformations"
    folder.mkdir()
    (root / "spark-pipeline.yml").write_text(SPEC, "utf-8")
    for first in range(0, lines, LINES_A_FILE):
        text = HEAD + "".join(LINE.format(n=n) for n in range(first, min(first + LINES_A_FILE, lines)))
        (folder / f"lines_{first}.py").write_text(text, "utf-8")


class Sources:
    """The tables outside of the pipeline."""

    def __init__(self, root: Path, lines: int, store: StandInStore) -> None:
        landing = root / "data/Volumes/main/raw/landing"
        definition = TableDefinition(schema=ROWS.schema)
        self._tables = [store.create(str(landing / f"source_{n}"), definition) for n in range(lines)]

    def land(self, count: int | None = None) -> None:
        """Add a row to so many of them, None for all."""
        for source in self._tables[:count]:
            source.append([ROWS.to_batches()[0]])


def run_once(pipeline: Pipeline, expected: int) -> None:
    result = pipeline.run()
    assert result.exit_code == 0, [error.render() for error in result.errors][:3]
    batches = sum(flow.batches for flow in result.flows)
    assert batches == expected, f"{batches} micro-batches and refreshes instead of {expected}"


def run_continuously(pipeline: Pipeline, sources: Sources, lines: int, costs: list[Cost], idle_seconds: float) -> None:
    """Land a row in every source, then in one of a hundred, while a continuous update runs; then do nothing for a while."""
    drain, gone_through = threading.Event(), threading.Event()
    views, wanted = 0, lines

    def count(event: PipelineEvent) -> None:
        nonlocal views
        name = str(event.origin.get("flow_name", ""))
        if (
            event.event_type == "flow_progress"
            and "metrics" in event.details
            and name.rpartition(".")[2].startswith("gold_")
        ):
            views += 1
            if views >= wanted:
                gone_through.set()

    sources.land()
    updating = threading.Thread(
        target=pipeline.run, kwargs={"continuous": True, "drain": drain, "subscribers": [count]}
    )
    with measured("continuous, a row in every source, from the start to the last view", costs):
        updating.start()
        assert gone_through.wait(3600)
    few = max(1, lines // 100)
    gone_through.clear()
    views, wanted = 0, few
    with measured("continuous, a row in one source of a hundred", costs):
        sources.land(few)
        assert gone_through.wait(3600)
    with measured(f"continuous, {idle_seconds:.0f} s in which nothing lands", costs):
        time.sleep(idle_seconds)
    drain.set()
    updating.join()


def measure(flows: int, *, idle_seconds: float = 10) -> list[Cost]:
    costs: list[Cost] = []
    lines = flows // FLOWS_A_LINE
    print(f"{lines * FLOWS_A_LINE:,} flows")
    with tempfile.TemporaryDirectory(prefix="lakelet-loop-") as folder:
        root = Path(folder)
        write_project(root, lines)
        store = StandInStore()
        sources = Sources(root, lines, store)
        settings = {"pipelines.trigger.interval": "1 millisecond", "lakelet.maintenance.enabled": "false"}
        engine = StandInEngine()
        pipeline = Pipeline(root, configuration=settings, engine=engine)
        pipeline._store = store  # type: ignore[assignment]
        with measured("load, resolve and check (dry-run)", costs):
            graph = pipeline.graph()
        with measured("graph as text and as JSON", costs):
            as_text(graph)
            as_json(graph)
        sources.land()
        with measured("first update, one row in every source", costs):
            run_once(pipeline, lines * FLOWS_A_LINE)
        with measured("update, nothing new", costs):
            run_once(pipeline, 0)
        sources.land()
        with measured("update, one more row in every source", costs):
            run_once(pipeline, lines * FLOWS_A_LINE)
        run_continuously(pipeline, sources, lines, costs, idle_seconds)
        engine.close()
    return costs


def report(sizes: list[int], all_costs: list[list[Cost]]) -> str:
    rows = []
    for costs in zip(*all_costs, strict=True):
        cells = [
            f"{cost.cpu_seconds:.1f} s ({cost.cpu_seconds / size * 1000:.2f} ms)"
            for size, cost in zip(sizes, costs, strict=True)
        ]
        rows.append((costs[0].what, *cells, f"{costs[-1].rss_bytes / 2**20:,.0f} MiB"))
    head = ("step", *(f"{size:,} flows" for size in sizes), f"memory after it, {sizes[-1]:,} flows")
    return "\n".join(
        [
            "CPU seconds of the process, and milliseconds per flow.",
            "",
            table(head, rows),
            "",
            f"Machine: {machine('deltalake')}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flows", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--report", action="store_true", help="write the figures into docs/concepts/scaling.md")
    options = parser.parse_args()
    text = report(options.flows, [measure(flows) for flows in options.flows])
    print(text)
    if options.report:
        write_part("control loop", text, document=DOCUMENT)


if __name__ == "__main__":
    main()
