"""What a continuous update costs while nothing arrives, and how soon it sees a commit: `python -m benchmarks.idle`.

The flagship runs continuously in a process of its own. CPU is what the operating system has charged to that process and to
those that it has started, the engine's among them; the latency is the time from the end of a commit to the landing zone until
the clock of the first micro-batch that reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from apparel import operations
from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from benchmarks.report import machine, table, write_section

PIPELINE = Path(operations.__file__).parent / "pipeline"


@contextlib.contextmanager
def continuous_update(storage: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--continuous", "--json", *options]
    process = subprocess.Popen(
        [*command, "--spec", str(PIPELINE), "--storage", str(storage)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, of those below it that live, and of those that it has waited for."""
    root = psutil.Process(pid)
    total = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # what ends here is counted by its parent
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def engine_processes(pid: int) -> int:
    """Return how many processes there are below one."""
    return len(psutil.Process(pid).children(recursive=True))


def first_batch_after(process: subprocess.Popen[str], storage: Path, flow: str, batch: int) -> datetime:
    """Return the clock of a micro-batch of `flow`, when it is done."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        progress = event["details"].get("flow_progress", {})
        if event["origin"].get("flow_name") == flow and "metrics" in progress and event["origin"]["batch_id"] >= batch:
            schema, _, name = flow.partition(".")
            (intents,) = (storage / "_checkpoints" / operations.CATALOG / schema / name).glob("*/0/offsets")
            return datetime.fromisoformat(json.loads((intents / str(batch)).read_text("utf-8"))["at"])
    raise SystemExit("the continuous update ended")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm", type=int, default=80, help="commits before that, at most")
    parser.add_argument("--commits", type=int, default=20)
    parser.add_argument("--report", action="store_true", help="write the figures into docs/reliability.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lakelet-idle-") as folder:
        storage = Path(folder)
        generator = Generator(GeneratorSettings(seed=1), DeltaLanding(storage))
        generator.write_batch()
        flow = "01_bronze.bronze_sales"
        with continuous_update(storage, "--conf", "pipelines.trigger.interval=10 milliseconds") as process:
            first_batch_after(process, storage, flow, 0)
            time.sleep(5)  # the first batches go through to gold
            seen = 0
            while (
                not engine_processes(process.pid) and seen < options.warm
            ):  # until the engine has a process of its own
                seen += 1
                generator.write_batch()
                first_batch_after(process, storage, flow, seen)
            time.sleep(5)
            processes = 1 + engine_processes(process.pid)
            before = cpu_seconds(process.pid)
            time.sleep(options.seconds)
            share = (cpu_seconds(process.pid) - before) / options.seconds * 100
            latencies = []
            for number in range(options.commits):
                generator.write_batch()
                committed = datetime.now(UTC)
                at = first_batch_after(process, storage, flow, seen + number + 1)
                latencies.append((at - committed).total_seconds() * 1000)
                time.sleep(1 + 0.037 * number)  # not in step with the looks, and idle again
    rows = [
        (f"processor time of all {processes} processes while nothing arrives, share of one core", f"{share:.2f} %"),
        ("commit to start of the batch that reads it, median", f"{statistics.median(latencies):.0f} ms"),
        ("the same, longest", f"{max(latencies):.0f} ms"),
    ]
    text = (
        f"{table(('what', 'measured'), rows)}\n\n{options.seconds:g} s idle, {options.commits} commits. ({machine()})"
    )
    print(text)
    if options.report:
        write_section("idle", text)


if __name__ == "__main__":
    main()
