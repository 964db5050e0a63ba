"""Refresh time of a group-by view as its history grows: incremental beside complete, in one run.

    python -m benchmarks.incremental_views [--quick] [--engine sc://host:port]

One update appends 500 sales to a history of 50,000, 500,000 or 5,000,000; customers grow with the history, so do groups. With
`--engine`, histories of 200,000 to 20 million on that engine, where no view is computed anew because it is small.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from deltalake import write_deltalake

from lakelet import Pipeline
from lakelet.events.model import PipelineEvent

BASE_ROWS = 50_000
ROWS_PER_CUSTOMER = 50
UPDATES = 9
VIEW = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

def query():
    sales = spark.read.format("delta").load("/Volumes/main/raw/landing/sales")
    return sales.groupBy("customer").agg(
        F.round(F.sum("amount"), 2).alias("spent"), F.count("*").alias("orders"), F.avg("amount").alias("average"),
        F.min("at").alias("first"), F.max("at").alias("last"), F.countDistinct("product").alias("products"),
    )

@dp.materialized_view
def incremental():
    return query()

@dp.materialized_view(refresh_policy="full")
def complete():
    return query()
"""


def sales(rows: int, customers: int, rng: np.random.Generator) -> pa.Table:
    return pa.table(
        {
            "customer": pa.array(rng.integers(0, customers, rows)).cast(pa.string()),
            "product": pa.array(rng.integers(0, 1000, rows)).cast(pa.string()),
            "amount": rng.integers(1, 10_000, rows) / 100,
            "at": pa.array(rng.integers(0, 10**15, rows)).cast(pa.timestamp("us", "UTC")),
        }
    )


def measure(factor: int, updates: int, configuration: Mapping[str, str] | None = None) -> dict[str, float]:
    """Return the median milliseconds of a refresh of each view."""
    rng = np.random.default_rng(1)
    customers = BASE_ROWS * factor // ROWS_PER_CUSTOMER
    with tempfile.TemporaryDirectory(prefix="lakelet-bench-") as folder:
        root = Path(folder)
        (root / "pipeline").mkdir()
        (root / "spark-pipeline.yml").write_text(
            "name: bench\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
        )
        (root / "pipeline" / "views.py").write_text(VIEW)
        path = str(root / "data/Volumes/main/raw/landing/sales")
        Path(path).parent.mkdir(parents=True)
        for _ in range(10):
            write_deltalake(path, sales(BASE_ROWS * factor // 10, customers, rng), mode="append")
        found: dict[str, list[float]] = {"incremental": [], "complete": []}

        def note(event: PipelineEvent) -> None:
            duration = (
                event.details.get("metrics", {}).get("duration_ms") if event.event_type == "flow_progress" else None
            )
            if duration is not None:
                found[event.origin["flow_name"]].append(duration)

        with Pipeline(root, configuration=configuration or {}) as pipeline:
            _run(pipeline, [])
            for _ in range(updates):
                write_deltalake(path, sales(500, customers, rng), mode="append")
                for name in found:
                    _run(pipeline, [note], name)
        return {name: statistics.median(values) for name, values in found.items()}


def _run(pipeline: Pipeline, subscribers: list, *names: str) -> None:
    from lakelet import RefreshSelection

    result = pipeline.run(subscribers=subscribers, selection=RefreshSelection(refresh=names))
    if result.exit_code:
        raise SystemExit("\n".join(error.render() for error in result.errors))


def rows(updates: int) -> list[tuple[str, str, str]]:
    """Return the lines of the report: what, measured, held to."""
    result = []
    first = 0.0
    for factor in (1, 10, 100):
        started = time.perf_counter()
        millis = measure(factor, updates)
        first = first or millis["incremental"]
        ratio = millis["incremental"] / first
        result.append(
            (
                f"refresh of a group-by view, 500 new rows on {BASE_ROWS * factor:,} ({factor}× history)",
                f"incremental {millis['incremental']:.0f} ms ({ratio:.1f}×), complete {millis['complete']:.0f} ms",
                "incremental follows the changed groups",
            )
        )
        print(f"{result[-1]} in {time.perf_counter() - started:.0f} s", flush=True)
    return result


def elsewhere(engine: str, updates: int) -> None:
    """Print what refreshes take on another engine."""
    configuration = {"lakelet.engine": engine, "lakelet.views.recomputeRows": "0"}
    for factor in (4, 20, 100, 400):
        millis = measure(factor, updates, configuration)
        times = ", ".join(f"{name} {value / 1000:.1f} s" for name, value in millis.items())
        print(f"500 new rows on {BASE_ROWS * factor:,}: {times}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer updates")
    parser.add_argument("--engine", help="address of another engine")
    chosen = parser.parse_args()
    number = 3 if chosen.quick else UPDATES
    if chosen.engine:
        elsewhere(chosen.engine, number)
    else:
        rows(number)
