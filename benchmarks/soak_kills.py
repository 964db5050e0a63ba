"""Kills the flagship again and again, and compares every table and every count with an independent oracle: `make soak`.

The generator and the continuous pipeline run as processes of their own. One of them, or both, is killed (SIGKILL) at a random
moment and started again; in between, tables are compacted and vacuumed, and that is killed, too. At the end the rest is
processed, and a DuckDB computation from the landing files must agree with every table, every count of a rule and every count
of rows. Repeat a run with `--seed`; the moments of the kills are then drawn alike, though they do not hit the same line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.context
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from deltalake import DeltaTable
from tests.reference.apparel_oracle import TABLES, Oracle, reported, table_of
from tests.reference.apparel_play import SETTINGS

from apparel import operations
from apparel.generator.landing import DeltaLanding
from apparel.generator.streams import Generator
from benchmarks.report import machine, table, write_section
from lakelet import Pipeline

PIPELINE = Path(operations.__file__).parent / "pipeline"
CONFIGURATION = {
    "lakelet.views.recomputeRows": "0",
    "pipelines.trigger.interval": "50 milliseconds",
    "lakelet.maintenance.interval": "3 seconds",
    # The oracle computes from the intents of all batches.
    "spark.sql.streaming.minBatchesToRetain": "1000000",
    "lakelet.maxBytesPerTrigger": "64kb",
}
APPENDED = (
    *(f"01_bronze.bronze_{name}" for name in ("sales", "customers", "products", "stores")),
    "02_silver.silver_sales_transactions",
    "02_silver.silver_returns_transactions",
    "03_gold.denormalized_sales_facts",
)
"""Tables that only grow: their rows are the rows that their flows have reported."""
MODULES = [
    "pandas",
    "pysail.spark",
    "apparel.generator.streams",
    "lakelet.execution.continuous",
    "lakelet.engine.sail",
    "lakelet.project",
    "lakelet.pipelines.session",
]


# -- the processes that die -------------------------------------------------------------------------------------------


def generate(storage: Path, seed: int, interval_seconds: float, sales: int) -> None:
    os.nice(10)
    generator = Generator(replace(SETTINGS, seed=seed, sales_per_batch=sales), DeltaLanding(storage))
    while True:
        generator.write_batch()
        time.sleep(interval_seconds)


def run_continuously(storage: Path) -> None:
    os.nice(10)
    with Pipeline(PIPELINE, storage=storage, configuration=CONFIGURATION) as pipeline:
        result = pipeline.run(continuous=True)
    raise SystemExit(f"the continuous update ended by itself: {result}")


def maintain(storage: Path) -> None:
    """Compact everything and remove every file that no flow needs; nobody else is alive."""
    operations.maintain(storage, retention_hours=0, allow_short_retention=True)


# -- the soak ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Soak:
    """One storage, and who works on it.

    Attributes:
        shells: share of the starts of the pipeline that go through `lakelet run` in a new interpreter.
        maintenances: share of the kills that are followed by maintenance.
        awaited: share of the kills that come only when the pipeline has begun to process.
    """

    root: Path
    seed: int
    sales_per_batch: int = 40
    interval_seconds: float = 0.4
    shells: float = 0.05
    maintenances: float = 0.15
    awaited: float = 0.85
    hits: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    _draw: random.Random = field(init=False)
    _context: multiprocessing.context.ForkServerContext = field(init=False)
    _seen: set[str] = field(default_factory=set)
    _processes: dict[str, BaseProcess | subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(MODULES)
        operations.setup(self.storage)

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    def run(self, *, kills: int, seconds: float, say: Callable[[str], None] = print) -> None:
        """Kill and start again until there were so many kills, or the time is over."""
        # A generator that is killed before its first commit leaves nothing to process.
        Generator(
            replace(SETTINGS, seed=self.seed, sales_per_batch=self.sales_per_batch), DeltaLanding(self.storage)
        ).write_batch()
        ends_at = time.monotonic() + seconds
        self._ensure_all()
        while self.kills < kills and time.monotonic() < ends_at:
            if self._draw.random() < self.awaited:
                self._wait_until_started(ends_at)
            time.sleep(self._draw.choice((0.5, 2.0, 4.0)) * self._draw.random())
            self._check_alive()
            victims = self._draw.choice((["pipeline"], ["pipeline"], ["generator"], ["pipeline", "generator"]))
            for name in victims:
                self._kill(name)
            if self._draw.random() < self.maintenances and self._has_begun():
                for name in ("pipeline", "generator"):
                    self._kill(name)
                self._maintain()
            self._ensure_all()
            if self.kills % 25 < len(victims):
                say(f"{self.kills} kills: {dict(self.hits)}")
        for name in ("generator", "pipeline"):
            self._kill(name)

    def drain(self) -> None:
        """Process the rest in an ordinary update."""
        with Pipeline(PIPELINE, storage=self.storage, configuration=CONFIGURATION) as pipeline:
            result = pipeline.run()
            assert result.exit_code == 0, [error.render() for error in result.errors]

    def differences(self) -> list[str]:
        """Return where tables, counts of rules or counts of rows are not what the landing zone says."""
        self._save_files()
        oracle = Oracle(self.storage, archive=self.archive)
        found = [text for name in TABLES for text in oracle.differences(name)]
        rules, dropped = reported(self.storage)
        for said, expected, nothing in ((rules, oracle.expectations(), (0, 0)), (dropped, oracle.dropped(), 0)):
            found += [
                f"{name}: the event log says {said.get(name, nothing)}, not {expected.get(name)}"
                for name in {**said, **expected}
                if said.get(name, nothing) != expected.get(name, "that there is such a rule")
            ]
        counts, num_doubles = rows_written(self.storage)
        if num_doubles:
            found.append(f"{num_doubles} events are in the event log twice")
        for name in APPENDED:
            rows = DeltaTable(str(table_of(self.storage, name))).to_pyarrow_dataset().count_rows()
            if counts[name] != rows:
                found.append(f"{name}: the event log says {counts[name]} rows were written, the table has {rows}")
        return found

    # -- processes ----------------------------------------------------------------------------------------------------

    def _ensure_all(self) -> None:
        if "generator" not in self._processes:
            seed = self._draw.randrange(10**6)
            arguments = (self.storage, seed, self.interval_seconds, self.sales_per_batch)
            self._processes["generator"] = self._forked(generate, *arguments)
        if "pipeline" not in self._processes:
            self._seen = {path.name for path in (self.storage / "system" / "updates").glob("*.jsonl")}
            if self._draw.random() < self.shells:
                self._processes["pipeline"] = self._shell()
            else:
                self._processes["pipeline"] = self._forked(run_continuously, self.storage)

    def _forked(self, function: Callable[..., None], *arguments: object) -> BaseProcess:
        process = self._context.Process(target=function, args=arguments, daemon=True)
        process.start()
        return process

    def _shell(self) -> subprocess.Popen[bytes]:
        options = [f"--conf={key}={value}" for key, value in CONFIGURATION.items()]
        command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--continuous", *options]
        return subprocess.Popen(
            [*command, "--spec", str(PIPELINE), "--storage", str(self.storage)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join() if isinstance(process, BaseProcess) else process.wait()
        self.kills += 1
        self.hits[self._where_it_hit() if name == "pipeline" else name] += 1

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            code = process.exitcode if isinstance(process, BaseProcess) else process.poll()
            assert code is None, f"the {name} ended by itself with exit code {code} (seed {self.seed})"

    def _maintain(self) -> None:
        """Compact and vacuum, to the end or until it is killed, too."""
        self._save_files()
        process = self._forked(maintain, self.storage)
        if self._draw.random() < 0.5:
            process.join(self._draw.random() * 1.5)
            if process.is_alive():
                process.kill()
                self.kills += 1
                self.hits["maintenance"] += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"maintenance ended with exit code {process.exitcode}"

    def _has_begun(self) -> bool:
        """Return whether all streams have begun: the files of a stream's first batch are those of a snapshot."""
        notes = self.storage / "_checkpoints" / operations.CATALOG
        return all(any((notes / name.replace(".", "/")).glob("*/0/commits/0")) for name in APPENDED)

    def _save_files(self) -> None:
        """Keep every data file for the oracle under a second name, before it may be vacuumed."""
        for folder in ("Volumes", "tables"):
            for file in (self.storage / folder).rglob("*.parquet"):
                copy = self.archive / file.relative_to(self.storage)
                if "_delta_log" not in file.parts and not copy.exists():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    os.link(file, copy)

    def _where_it_hit(self) -> str:
        """Return what the pipeline was doing when it was killed, as far as what it left tells."""
        if not self._has_started():
            return "pipeline, while starting"
        stages = set()
        for intents in self.storage.glob("_checkpoints/*/*/*/*/*/offsets"):
            intent, note = (_last(intents), _last(intents.with_name("commits")))
            if intent > note:
                stages.add(self._is_committed(intents.parent, intent))
        if True in stages:
            return "pipeline, rows committed, note missing"
        return "pipeline, in a batch before its commit" if stages else "pipeline, elsewhere"

    def _wait_until_started(self, ends_at: float) -> None:
        while not self._has_started() and time.monotonic() < ends_at:
            self._check_alive()
            time.sleep(0.05)

    def _has_started(self) -> bool:
        """Return whether the update that was begun last has brought flows to work."""
        lines = {path.name: path for path in (self.storage / "system" / "updates").glob("*.jsonl")}
        new = [path for name, path in lines.items() if name not in self._seen]
        return any('"flow_progress"' in path.read_text("utf-8") for path in new)

    def _is_committed(self, checkpoint: Path, batch: int) -> bool:
        catalog, schema, name, flow, generation = checkpoint.relative_to(self.storage / "_checkpoints").parts
        for tables in ("_auxiliary", "tables"):
            location = self.storage / tables / catalog / schema / name
            if (location / "_delta_log").is_dir():
                app_id = f"lakelet/{catalog}.{schema}.{name}/{flow}/{generation}"
                present = DeltaTable(str(location)).transaction_version(app_id)
                return present is not None and present >= batch
        return False


def _last(folder: Path) -> int:
    return max((int(file.name) for file in folder.glob("*") if file.name.isdigit()), default=-1)


def rows_written(storage: Path) -> tuple[Counter[str], int]:
    """Return the rows that each flow has reported, each batch once, and how many batches were reported twice."""
    log = DeltaTable(str(storage / "system" / "events")).to_pyarrow_table(columns=["id", "origin", "details"])
    events: dict[str, tuple[str, int]] = {}
    batches = 0
    for event in log.to_pylist():
        metrics = (json.loads(event["details"]).get("flow_progress") or {}).get("metrics")
        if metrics:
            batches += 1
            events[event["id"]] = (event["origin"]["flow_name"], metrics.get("num_output_rows") or 0)
    counts: Counter[str] = Counter()
    for flow, rows in events.values():
        counts[flow] += rows
    return counts, batches - len(events)


def summary(soak: Soak, differences: list[str], seconds: float) -> str:
    log = DeltaTable(str(soak.storage / "system" / "events")).to_pyarrow_table(
        columns=["origin", "event_type", "details"]
    )
    updates = len({origin["update_id"] for origin in log.column("origin").to_pylist()})
    batches = sum('"metrics"' in details for details in log.column("details").to_pylist())
    rows = sum(DeltaTable(str(table_of(soak.storage, name))).to_pyarrow_dataset().count_rows() for name in TABLES)
    landed = DeltaTable(str(table_of(soak.storage, "01_bronze.bronze_sales"))).to_pyarrow_dataset().count_rows()
    figures = table(
        ("kills", "number"),
        [*((where, count) for where, count in sorted(soak.hits.items())), ("all", soak.kills)],
    )
    result = "**agrees with the oracle on every table, rule and count**" if not differences else "**DIFFERS**"
    return (
        f"{figures}\n\n{updates} updates, {batches:,} micro-batches and refreshes, {landed:,} sales landed, {rows:,} rows in "
        f"{len(TABLES)} tables, {seconds / 60:.1f} minutes, seed {soak.seed}: {result}. ({machine()})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--report", action="store_true", help="write the figures into docs/reliability.md")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    root = options.keep or Path(tempfile.mkdtemp(prefix="lakelet-soak-"))
    soak = Soak(root=root, seed=seed)
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        soak.run(kills=options.kills, seconds=options.minutes * 60)
        soak.drain()
        seconds = time.monotonic() - started
        differences = soak.differences()
        text = summary(soak, differences, seconds)
        print(text)
        print(*(text[:400] for text in differences[:20]), sep="\n")
        if options.report and not differences:
            write_section("soak", text)
        if options.keep is None and not differences:
            stack.callback(shutil.rmtree, root)
        if differences:
            print(f"the storage is at {root}")
            raise SystemExit(1)


if __name__ == "__main__":
    main()
