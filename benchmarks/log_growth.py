"""What a long log and many files cost an update: `python -m benchmarks.log_growth --report`.

A table gets so many commits of one file each. Measured is what a flow does with it: find the newest version, plan the rows of
one more commit, open the table, append to it; the first look of a process, and the next ones. Then what a reader waits for,
before the table is put in order as a continuous update does it by itself every ten minutes, and after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from deltalake import DeltaTable

from benchmarks.control_loop import DOCUMENT, ONE_ROW, ROWS, StandInStore, add_file, write_log
from benchmarks.document import machine, table, write_part
from lakelet.execution.delta_source import DeltaSource
from lakelet.execution.maintenance import Retention, maintain_table
from lakelet.execution.reading import read_table
from lakelet.storage import delta_log
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore

RUNS = 9


def millis(step: Callable[[], object], runs: int = RUNS) -> float:
    """Return the median of the CPU time of a step, all threads, in milliseconds."""
    taken = []
    for _ in range(runs):
        started = time.process_time()
        step()
        taken.append((time.process_time() - started) * 1000)
    return statistics.median(taken)


def grow(location: str, commits: int) -> None:
    """Make a table of so many commits, with a checkpoint of its log at the end, as its writers leave it."""
    StandInStore().create(location, TableDefinition(schema=ROWS.schema))
    template = add_file(location)
    for version in range(1, commits):
        stats = json.dumps(
            {"numRecords": 1, "minValues": {"id": version}, "maxValues": {"id": version}, "nullCount": {"id": 0}}
        )
        Path(location, f"{version}.parquet").write_bytes(ONE_ROW)
        write_log(location, version, [{"add": {**template, "path": f"{version}.parquet", "stats": stats}}])
    DeltaTable(location).create_checkpoint()


def measure(commits: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="lakelet-log-") as folder:
        location, store = str(Path(folder, "table")), DeltaRsStore()
        grow(location, commits)
        costs: dict[str, float] = {}

        def first_look() -> None:
            delta_log._found.clear()
            delta_log.latest_version(location)

        costs["find the newest version, first time in a process"] = millis(first_look)
        costs["find the newest version again"] = millis(lambda: delta_log.latest_version(location))
        source = DeltaSource(location=location, label="table", store=store, options={"startingversion": "latest"})
        place = source.plan(None, source.head()).end
        batch_id = 0

        def one_more() -> None:
            nonlocal batch_id
            batch_id += 1
            opened = store.open(location)
            assert opened is not None
            opened.append(ROWS, receipt=Receipt(app_id="bench", batch_id=batch_id))

        def read_one() -> None:
            nonlocal place
            piece = source.plan(place, source.head())
            assert piece.num_files == RUNS, piece
            place = piece.end

        costs["open the table and append a row"] = millis(one_more)
        costs[f"plan the rows of {RUNS} more commits"] = millis(read_one, runs=1)
        costs["open the table"] = millis(lambda: store.open(location))
        costs["list the files of a version (first batch of a stream)"] = millis(
            lambda: delta_log.snapshot_files(location, delta_log.latest_version(location) or 0), runs=3
        )
        costs["read all rows, files as they came"] = millis(lambda: read_table(store, location, "table"), runs=1)
        maintain_table(store, location, label="table", need=None, retention=Retention())
        costs["read all rows, after maintenance"] = millis(lambda: read_table(store, location, "table"))
        costs["open the table and append a row, after maintenance"] = millis(one_more)
        print(commits, {name: round(cost, 1) for name, cost in costs.items()}, flush=True)
        return costs


def report(sizes: list[int], measured: list[dict[str, float]]) -> str:
    rows = [(what, *(f"{costs[what]:,.1f} ms" for costs in measured)) for what in measured[0]]
    return "\n".join(
        [
            table(("step, CPU time", *(f"{size:,} commits" for size in sizes)), rows),
            "",
            f"Machine: {machine('deltalake')}.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commits", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--report", action="store_true", help="write the figures into docs/concepts/scaling.md")
    options = parser.parse_args()
    text = report(options.commits, [measure(commits) for commits in options.commits])
    print(text)
    if options.report:
        write_part("log growth", text, document=DOCUMENT)


if __name__ == "__main__":
    main()
