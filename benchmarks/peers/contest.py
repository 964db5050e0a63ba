"""One peer in the arena: its process, its own copy of the landing zone, its clock and its memory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import psutil
from deltalake import DeltaTable

from apparel.generator.clock import SteppingClock
from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import BulkSettings, GeneratorSettings
from apparel.generator.streams import Generator
from benchmarks.peers.environments import Peer
from benchmarks.peers.specification import TABLES

START = datetime(2026, 1, 1, 8, tzinfo=UTC)
COMMIT_SALES = 250_000
NOT_COMPARED = ("ingest_timestamp", "source_file_path")
CENT = 0.011
"""Rounded sums of doubles may differ by one in the last digit: engines add in different orders."""

Rules = dict[str, dict[str, int]]


class Contestant:
    """A peer with everything it needs; the same seed lands the same rows for each."""

    def __init__(self, peer: Peer, *, seed: int = 1) -> None:
        self.peer = peer
        self.folder = Path(tempfile.mkdtemp(prefix=f"lakelet-bench-{peer.name}-"))
        self.peak_bytes = 0
        clock = SteppingClock(START, step_seconds=30)
        self._generator = Generator(GeneratorSettings(seed=seed), DeltaLanding(self.folder), clock=clock)
        self._process: subprocess.Popen[str] | None = None
        self._stopped = threading.Event()

    @property
    def landing(self) -> Path:
        return self.folder / "Volumes" / "apparel_store" / "00_landing" / "streaming"

    def land(self) -> None:
        """Write one default batch: 500 sales and the changes of the dimensions."""
        self._generator.write_batch()

    def land_history(self, sales: int) -> None:
        """Write a backlog: 50,000 customers, 5,000 products, 200 stores and their sales."""
        bulk = BulkSettings(sales=sales, commits=max(1, sales // COMMIT_SALES))
        for _ in self._generator.write_bulk(bulk):
            pass

    def start(self) -> None:
        self._stopped.clear()
        self._process = subprocess.Popen(
            self.peer.command(self.landing, self.folder / "out"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(self.folder / "stderr.txt").open("a"),
            text=True,
            env={**os.environ, **self.peer.settings},
        )
        threading.Thread(target=self._watch, args=(psutil.Process(self._process.pid),), daemon=True).start()
        self._read()

    def step(self) -> tuple[float, Rules]:
        """Let the peer process what is new; returns the seconds it took and its counts of rules."""
        assert self._process is not None and self._process.stdin is not None
        started = time.perf_counter()
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        answer = self._read()
        return time.perf_counter() - started, answer["rules"]

    def stop(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._stopped.set()
        self._process.stdin.close()
        self._process.wait(60)
        self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def size_bytes(self) -> int:
        """Return what the peer's own files take, without the landing zone."""
        return sum(
            file.stat().st_size
            for file in self.folder.rglob("*")
            if file.is_file() and "00_landing" not in file.parts and file.name != "stderr.txt"
        )

    def _read(self) -> dict[str, Rules]:
        assert self._process is not None and self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            errors = (self.folder / "stderr.txt").read_text("utf-8")[-3000:]
            raise SystemExit(f"{self.peer.label} ended:\n{errors}")
        answer: dict[str, Rules] = json.loads(line)
        return answer

    def _watch(self, process: psutil.Process) -> None:
        """Sample the memory of the peer's processes."""
        while not self._stopped.wait(0.1):
            try:
                family = [process, *process.children(recursive=True)]
                self.peak_bytes = max(self.peak_bytes, sum(one.memory_info().rss for one in family))
            except psutil.Error:
                return  # ended while it was looked at

    # -- its tables ---------------------------------------------------------------------------------------------------

    def attach(self, db: duckdb.DuckDBPyConnection) -> None:
        """Make a view `<peer>_<table>` of each of its tables; the process must have stopped."""
        prefix = self.peer.name.replace("-", "_")
        if self.peer.stores == "duckdb":
            db.execute(f"ATTACH '{self.folder}/out/dbt.duckdb' AS db_{prefix} (READ_ONLY)")
        for table, schema in TABLES.items():
            if self.peer.stores == "duckdb":
                rows = f"db_{prefix}.main.{table}"
            elif self.peer.stores == "parquet":
                rows = f"read_parquet('{self.folder}/out/{table}/*.parquet')"
            else:
                ours = self.folder / "tables" / "apparel_store" / schema / table
                location = ours if self.peer.name == "lakelet" else self.folder / "out" / table
                rows = f"read_parquet({DeltaTable(str(location)).file_uris()!r}, union_by_name = true)"
            db.execute(f"CREATE VIEW {prefix}_{table} AS SELECT * FROM {rows}")


def differences(contestants: Sequence[Contestant]) -> list[str]:
    """Return how the tables of the peers differ from those of the first; nothing if they hold the same rows."""
    with duckdb.connect() as db:
        db.execute("SET TimeZone = 'UTC'")
        for contestant in contestants:
            contestant.attach(db)
        first, *others = [contestant.peer for contestant in contestants]
        return [
            sentence
            for other in others
            for table in TABLES
            if table not in other.apart
            for sentence in compare(db, table, first.name.replace("-", "_"), other.name.replace("-", "_"))
        ]


def compare(db: duckdb.DuckDBPyConnection, table: str, first: str, other: str) -> list[str]:
    columns = db.execute(f"DESCRIBE {first}_{table}").fetchall()
    names = [name for name, *_ in columns if name not in NOT_COMPARED]
    rounded = {name for name, kind, *_ in columns if kind == "DOUBLE" and table.startswith("gold_")}
    keys = [name for name in names if name not in rounded]
    one, two = (", ".join(f"{side}.{name}" for name in keys) for side in ("a", "b"))
    result = []
    for left, right in ((first, other), (other, first)):
        ((count,),) = db.execute(
            f"SELECT count(*) FROM (SELECT {', '.join(keys)} FROM {left}_{table} "
            f"EXCEPT ALL SELECT {', '.join(keys)} FROM {right}_{table})"
        ).fetchall()
        if count:
            result.append(f"{table}: {count} rows of {left} are not in {right}")
    if rounded and not result:
        far = " OR ".join(
            f"abs(a.{name} - b.{name}) > {CENT} OR (a.{name} IS NULL) <> (b.{name} IS NULL)" for name in sorted(rounded)
        )
        ((count,),) = db.execute(
            f"SELECT count(*) FROM {first}_{table} a JOIN {other}_{table} b "
            f"ON ({one}) IS NOT DISTINCT FROM ({two}) WHERE {far}"
        ).fetchall()
        if count:
            result.append(f"{table}: {count} groups of {first} and {other} differ by more than a cent")
    return result
