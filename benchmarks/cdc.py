"""Measures AUTO CDC on dimensions of several sizes: the cost of 30 changes, and of the first load.

Every size runs in a process of its own, so the peak memory is its own; beside it, in the same process and by turns, delta-rs's
merge of the same changes into a table of the same rows, and after it Apache Spark's, where there is Java.
`python -m benchmarks.cdc` prints the table alone; some ten minutes on a quiet machine, `--quick` leaves the large size out.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake
from pyspark.sql.pandas.types import from_arrow_schema

from benchmarks.document import table
from benchmarks.peers import environments
from lakelet.engine.sail import SailEngine
from lakelet.execution.auto_cdc import AutoCdc, CdcResult, sequence_type_of
from lakelet.graph.elements import AutoCdcFlow
from lakelet.names import TableName
from lakelet.plan import relation
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs import DeltaRsStore

CHANGES = 30
ROUNDS = 4
"""Events of each key in the first load."""
SIZES = (50_000, 500_000, 5_000_000)
TIMEOUT_SECONDS = 1200
"""For one size and SCD type."""
SPARK_SECONDS = 400
"""For Spark's part of it, the first start of Spark included; what takes longer is left out of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CdcFigures:
    """One size and SCD type, milliseconds of one batch of 30 changes."""

    keys: int
    scd_type: int
    in_order: tuple[float, float]
    late: tuple[float, float]
    merge: tuple[float, float]
    spark_merge: tuple[float, float] | None
    events_per_second: int
    cpu_seconds: float
    load_megabytes: int


def customers(ids: np.ndarray, sequence: int | np.ndarray, random: np.random.Generator) -> pa.Table:
    cities = np.array(["Rome", "Oslo", "Bern", "Paris", "Lima"])
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "name": pa.array([f"customer {number}" for number in ids % 99_991]),
            "city": pa.array(cities[random.integers(0, 5, len(ids))]),
            "segment": pa.array(np.array(["a", "b", "c"])[random.integers(0, 3, len(ids))]),
            "points": random.integers(0, 10_000, len(ids)),
            "balance": random.random(len(ids)),
            "seen_at": pa.array(random.integers(1_700_000_000, 1_710_000_000, len(ids)) * 10**6, pa.timestamp("us", "UTC")),
            "seq": pa.array(np.broadcast_to(sequence, len(ids)), pa.int64()),
        }
    )  # fmt: skip


class Dimension:
    """One AUTO CDC flow with a source of random changes."""

    def __init__(self, folder: Path, *, keys: int, scd_type: int) -> None:
        self._folder, self._keys = folder, keys
        self._random = np.random.default_rng(keys)
        self._batch = 0
        schema = from_arrow_schema(customers(np.arange(1), 0, self._random).schema)
        self._schema, self._engine = schema, SailEngine()
        flow = AutoCdcFlow(
            name="customers",
            target=TableName("c", "s", "customers"),
            source="changes",
            keys=("id",),
            sequence_by="seq",
            except_column_list=("seq",),
            scd_type=scd_type,
        )
        self._cdc = AutoCdc(
            flow,
            source_schema=schema,
            sequence_type=sequence_type_of(flow, schema, self._engine),
            engine=self._engine,
            store=DeltaRsStore(),
            target=str(folder / "target"),
            auxiliary=str(folder / "auxiliary"),
            staging=str(folder / "staged"),
        )

    def load(self, rounds: int) -> tuple[float, float]:
        """Apply `rounds` changes of every key, in random order, as one batch; returns events per second, and CPU seconds."""
        paths = []
        for sequence in range(rounds):
            paths.append(str(self._folder / f"changes-{sequence}.parquet"))
            ids = self._random.permutation(self._keys)
            pq.write_table(customers(ids, 10 * (sequence + 1), self._random), paths[-1])
        started, used = time.perf_counter(), time.process_time()
        self._apply(relation.parquet(paths, self._schema))
        return self._keys * rounds / (time.perf_counter() - started), time.process_time() - used

    def update(self, *, late: bool) -> float:
        """Apply changes of 30 random keys, a third of them late if wanted; returns milliseconds."""
        sequence = np.full(CHANGES, 1_000 + self._batch)
        if late:
            sequence[: CHANGES // 3] = self._random.choice([5, 15, 25, 35], CHANGES // 3)  # between those of the load
        changes = customers(self._random.choice(self._keys, CHANGES, replace=False), sequence, self._random)
        started = time.perf_counter()
        self._apply(relation.local(changes))
        return (time.perf_counter() - started) * 1000

    def merge(self) -> float:
        """Merge 30 random keys into a table of this size with delta-rs; returns milliseconds."""
        location = str(self._folder / "merged")
        if not DeltaTable.is_deltatable(location):
            for start in range(0, self._keys, 500_000):
                ids = np.arange(start, min(start + 500_000, self._keys))
                write_deltalake(location, customers(ids, 1, self._random), mode="append")
        changes = customers(self._random.choice(self._keys, CHANGES, replace=False), 2, self._random)
        columns = {f"`{name}`": f"s.`{name}`" for name in changes.column_names}
        started = time.perf_counter()
        merged = DeltaTable(location).merge(changes, predicate="t.id = s.id", source_alias="s", target_alias="t")
        merged.when_matched_update(columns).when_not_matched_insert(columns).execute()
        return (time.perf_counter() - started) * 1000

    def merge_by_spark(self, turns: int) -> list[float] | None:
        """Merge into a table of this size with Apache Spark; None without Java, without Spark, and if it takes too long."""
        if shutil.which("java") is None:
            return None
        script = str(Path(__file__).with_name("peers") / "merge.py")
        arguments = [str(self._folder / "changes-0.parquet"), str(self._folder / "spark"), str(CHANGES), str(turns)]
        try:
            command = [environments.python("spark"), script, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SPARK_SECONDS, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"Spark's MERGE is left out: {error}\n{error.stderr or ''}"[-2000:], file=sys.stderr)
            return None
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _apply(self, changes: Relation) -> CdcResult:
        result = self._cdc.apply(changes, Receipt(app_id="bench", batch_id=self._batch))
        self._batch += 1
        return result


def measure(keys: int, scd_type: int, *, updates: int, rounds: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="lakelet-cdc-bench-"))
    try:
        dimension = Dimension(folder, keys=keys, scd_type=scd_type)
        rate, cpu_seconds = dimension.load(rounds)
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        for _ in range(3):
            dimension.update(late=True)
        taken: dict[str, list[float]] = {"in_order": [], "late": [], "merge": []}
        for turn in range(updates):
            taken["in_order"].append(dimension.update(late=False))
            taken["late"].append(dimension.update(late=True))
            if turn < max(3, updates // 10):
                taken["merge"].append(dimension.merge())
        by_spark = dimension.merge_by_spark(max(5, updates // 5)) if scd_type == 1 else None
        return {
            "keys": keys,
            "scd_type": scd_type,
            "events_per_second": round(rate),
            "cpu_seconds": round(cpu_seconds, 1),
            "load_megabytes": megabytes,
            "spark_merge": None if by_spark is None else _middle(by_spark),
            **{name: _middle(times) for name, times in taken.items()},
        }
    finally:
        shutil.rmtree(folder)


def _middle(times: list[float]) -> tuple[float, float]:
    return (statistics.median(times), sorted(times)[int(len(times) * 0.9)])


def figures(*, quick: bool) -> list[CdcFigures]:
    found = []
    for keys in SIZES[: 2 if quick else 3]:
        for scd_type in (1, 2):
            arguments = [str(keys), str(scd_type), "10" if quick else "50", str(ROUNDS)]
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.cdc", *arguments],
                cwd=Path(__file__).resolve().parent.parent,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
            if done.returncode:
                raise SystemExit(done.stderr[-3000:])
            found.append(CdcFigures(**json.loads(done.stdout.splitlines()[-1])))
    return found


def report(found: list[CdcFigures]) -> list[str]:
    """Return the section of the report."""

    def shown(times: tuple[float, float] | None) -> str:
        return "–" if times is None else f"{times[0]:.0f} / {times[1]:.0f} ms"

    lines = [
        "## AUTO CDC on large dimensions",
        "",
        f"{CHANGES} changes of random keys per batch, p50 / p90; late: a third of them is older than what is stored. "
        "The first load has four events per key in random order. The merge is delta-rs's own, of as many rows "
        "into a table of as many keys with no history; Spark's is that of the peer environment, in a warm session "
        "(– where it was not measured). "
        f"Load during the run: {os.getloadavg()[1]:.1f}; ratios within the table are what counts.",
        "",
        "| keys | SCD | in order | with late ones | plain merge | Spark's MERGE | first load | CPU of it | peak memory of it |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one.keys:,} | {one.scd_type} | {shown(one.in_order)} | {shown(one.late)} | {shown(one.merge)} | "
            f"{shown(one.spark_merge)} | {one.events_per_second:,} events/s | {one.cpu_seconds:,.0f} s | "
            f"{one.load_megabytes:,} MB |"
        )
    return [*lines, "", table(("what", "measured", "held to"), _held(found)), ""]


def _held(found: list[CdcFigures]) -> list[tuple[str, str, str]]:
    """Return what the figures are held to, beside them."""
    rows = []
    for scd_type in (1, 2):
        of_type = [one for one in found if one.scd_type == scd_type]
        small, large = of_type[0], of_type[-1]
        for what, name in (("in order", "in_order"), ("with late ones", "late")):
            ratio = getattr(large, name)[0] / getattr(small, name)[0]
            text = f"SCD type {scd_type}, {what}: {large.keys:,} keys ÷ {small.keys:,} keys"
            rows.append((text, f"{ratio:.1f}×", "≤ 2×"))
        text = f"SCD type {scd_type}, first load of {large.keys * ROUNDS:,} events of {large.keys:,} keys"
        rows.append((text, f"{large.events_per_second:,} events/s", "≥ 300,000 events/s"))
        rows.append((f"SCD type {scd_type}, peak memory of it", f"{large.load_megabytes:,} MB", "≤ 4,096 MB"))
    return rows


if __name__ == "__main__":
    if len(sys.argv) > 2:
        size, kind, updates, rounds = (int(argument) for argument in sys.argv[1:])
        print(json.dumps(measure(size, kind, updates=updates, rounds=rounds)), flush=True)
        os._exit(0)
    print("\n".join(report(figures(quick="--quick" in sys.argv))))
