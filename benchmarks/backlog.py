"""A backlog from landing to gold, beside the floor: `python -m benchmarks.backlog --sales 50000000`.

Both read the same landing zone, each in a process of its own, by turns. CPU seconds say what the work costs, also on a machine
that does other things; memory is the peak of the process. Five million sales take a minute, fifty some ten.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.document import machine, table

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "src" / "apparel" / "pipeline"
LANDING = "Volumes/apparel_store/00_landing/streaming"
COMMIT_SALES = 250_000
STATE = ("tables", "_checkpoints", "_auxiliary", "_schemas", "system")


def ours(storage: Path, out: Path) -> None:
    from lakelet import Pipeline

    result = Pipeline(PIPELINE, storage=storage).run()
    assert result.exit_code == 0, [error.render() for error in result.errors]


def floor(storage: Path, out: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
    from benchmarks.peers.floor import make

    make(storage / LANDING, out)()


SIDES: dict[str, Callable[[Path, Path], None]] = {"lakelet": ours, "floor": floor}


def measured(side: str, storage: Path) -> tuple[float, float, float]:
    """Run one side in a process of its own; returns seconds, CPU seconds and peak memory in MB."""
    with tempfile.TemporaryDirectory(prefix="lakelet-backlog-out-") as out:
        command = [sys.executable, "-m", "benchmarks.backlog", "--run", side, "--storage", str(storage), "--out", out]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    for name in STATE:
        shutil.rmtree(storage / name, ignore_errors=True)
    seconds, cpu, peak = json.loads(done.stdout.splitlines()[-1])
    print(f"{side}: {seconds:.1f} s, {cpu:.1f} s CPU, {peak:,.0f} MB", flush=True)
    return seconds, cpu, peak


def medians(sales: int, *, sides: Sequence[str], rounds: int = 1) -> dict[str, tuple[float, float, float]]:
    """Land a backlog and let the sides take turns at it; returns seconds, CPU seconds and peak memory in MB of each."""
    with tempfile.TemporaryDirectory(prefix="lakelet-backlog-") as folder:
        commits = max(1, sales // COMMIT_SALES)
        subprocess.run(
            [str(Path(sys.executable).parent / "apparel"), "generate", "--storage", folder, "--seed", "1",
             "--bulk-sales", str(sales), "--commits", str(commits)],
            check=True, capture_output=True,
        )  # fmt: skip
        found: dict[str, list[tuple[float, float, float]]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                found[side].append(measured(side, Path(folder)))
    return {
        side: (
            statistics.median(run[0] for run in runs),
            statistics.median(run[1] for run in runs),
            statistics.median(run[2] for run in runs),
        )
        for side, runs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sales", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--only", choices=SIDES, help="one side: at fifty million sales the floor needs more memory than most have"
    )
    parser.add_argument("--run", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--storage", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        wall, cpu = time.perf_counter(), time.process_time()
        SIDES[options.run](options.storage, options.out)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu, peak]), flush=True)
        os._exit(0)  # what an engine's threads still tidy up is no part of it
    sides = list(SIDES) if options.only is None else [options.only]
    rows = []
    for side, (seconds, cpu, peak) in medians(options.sales, sides=sides, rounds=options.rounds).items():
        rate = f"{options.sales / seconds:,.0f} sales/s"
        rows.append(
            (side, f"{seconds:.1f} s", rate, f"{cpu:.1f} s", f"{cpu / options.sales * 1e6:.1f} µs", f"{peak:,.0f} MB")
        )
    head = (f"{options.sales:,} sales", "time", "rate", "CPU", "CPU a sale", "peak memory")
    print(table(head, rows), f"Machine: {machine('pysail', 'deltalake', 'duckdb')}.", sep="\n\n")


if __name__ == "__main__":
    main()
