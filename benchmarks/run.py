"""Measures the flagship and writes docs/benchmarks.md: `make bench`.

Each part runs the product as a user would. Figures are medians of several runs on the machine that is named in the report;
`--quick` takes fewer runs, for trying the script out.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from benchmarks import cdc, incremental_views
from benchmarks.document import machine, table, write_part
from lakelet import Pipeline

ROOT = Path(__file__).resolve().parent.parent
PIPELINE = ROOT / "src" / "apparel" / "pipeline"
BIN = Path(sys.executable).parent
PARTS = ("flagship", "dimensions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One row of the report."""

    what: str
    measured: str
    held_to: str


@contextmanager
def storage() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="lakelet-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def cold_start(runs: int) -> Figure:
    """Shell to finished first update: a new process, empty tables, the generator's first batch."""
    seconds = []
    for seed in range(runs):
        with storage() as folder:
            Generator(GeneratorSettings(seed=seed), DeltaLanding(folder)).write_batch()
            started = time.perf_counter()
            subprocess.run(
                [str(BIN / "lakelet"), "run", "--spec", str(PIPELINE), "--storage", str(folder)],
                check=True,
                capture_output=True,
            )
            seconds.append(time.perf_counter() - started)
    return Figure(
        what="shell to finished first update, default batch",
        measured=f"{statistics.median(seconds):.2f} s (range {min(seconds):.2f}–{max(seconds):.2f}, {runs} runs)",
        held_to="≤ 5 s",
    )


def warm_update(updates: int) -> Figure:
    """One more default batch in a live process: 500 sales and the dimension changes, all datasets committed."""
    with storage() as folder, Pipeline(PIPELINE, storage=folder) as pipeline:
        generator = Generator(GeneratorSettings(seed=1), DeltaLanding(folder))
        for _ in range(3):
            generator.write_batch()
            _run(pipeline)
        millis = []
        for _ in range(updates):
            generator.write_batch()
            started = time.perf_counter()
            _run(pipeline)
            millis.append((time.perf_counter() - started) * 1000)
    millis.sort()
    p99 = millis[min(len(millis) - 1, int(len(millis) * 0.99))]
    return Figure(
        what="one more update in a live process, default batch",
        measured=f"warm update p50 {statistics.median(millis):.0f} ms, p99 {p99:.0f} ms ({updates} updates)",
        held_to="p50 ≤ 400 ms",
    )


def backlog(sales: int) -> tuple[Figure, Figure, Figure]:
    """A bulk load from landing to gold in one update; memory is the peak of the whole process."""
    with storage() as folder:
        started = time.perf_counter()
        subprocess.run(
            [str(BIN / "apparel"), "generate", "--storage", str(folder), "--bulk-sales", str(sales), "--commits",
             str(max(1, sales // 250_000)), "--seed", "1"],
            check=True, capture_output=True,
        )  # fmt: skip
        generated = time.perf_counter() - started
        script = (
            "import resource, time; from lakelet import Pipeline\n"
            f"p = Pipeline({str(PIPELINE)!r}, storage={str(folder)!r}); t = time.perf_counter(); r = p.run()\n"
            "assert r.exit_code == 0, r.errors\n"
            "print(time.perf_counter() - t, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
        )
        done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        seconds, megabytes = (float(part) for part in done.stdout.split())
    return (
        Figure(
            what=f"generator, bulk mode, {sales:,} sales, start-up included",
            measured=f"{sales / generated:,.0f} sales/s",
            held_to="≥ 500,000 sales/s",
        ),
        Figure(
            what=f"backlog of {sales:,} sales, bronze to gold",
            measured=f"{seconds:.1f} s, {sales / seconds:,.0f} sales/s",
            held_to="stated",
        ),
        Figure(what="peak memory of that backlog", measured=f"{megabytes:,.0f} MB", held_to="≤ 2,000 MB"),
    )


def _run(pipeline: Pipeline) -> None:
    result = pipeline.run()
    if result.exit_code:
        raise SystemExit("\n".join(error.render() for error in result.errors))


def report(figures: list[Figure]) -> str:
    rows = [(figure.what, figure.measured, figure.held_to) for figure in figures]
    return "\n".join(
        [
            "## The flagship",
            "",
            f"Machine: {machine('pysail', 'pyspark-client', 'deltalake', 'pyarrow')}.",
            "",
            table(("what", "measured", "held to"), rows),
            "",
            "Each update brings all datasets of the apparel pipeline up to date, every rule counted.",
        ]
    )


def flagship(quick: bool) -> str:
    """Measure the flagship, and return the part of the document."""
    return report(
        [
            cold_start(2 if quick else 7),
            warm_update(10 if quick else 100),
            *backlog(500_000 if quick else 5_000_000),
            *(
                Figure(what=what, measured=measured, held_to=held)
                for what, measured, held in incremental_views.rows(3 if quick else 9)
            ),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs and a smaller backlog; prints, writes nothing")
    parser.add_argument("--only", choices=PARTS, help="one part; the others stay as they were measured")
    options = parser.parse_args()
    for part in PARTS if options.only is None else (options.only,):
        text = (
            flagship(options.quick) if part == "flagship" else "\n".join(cdc.report(cdc.figures(quick=options.quick)))
        )
        print(text, end="\n\n", flush=True)
        if not options.quick:
            write_part(part, text)


if __name__ == "__main__":
    main()
