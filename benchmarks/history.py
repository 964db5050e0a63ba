"""One more update of the flagship over a long history: `python -m benchmarks.history`.

The aim is that an update over 100 times the sales takes at most 1.2 times as long. Each history is loaded in one update first,
which takes minutes for ten million sales. Prints a table and writes nothing.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from benchmarks.document import machine, table
from lakelet import Pipeline

PIPELINE = Path(__file__).resolve().parent.parent / "src" / "apparel" / "pipeline"
SALES_OF_A_COMMIT = 250_000
UNCOUNTED = 3
"""Updates after the load that are not counted: the first ones meet tables that nobody has opened."""


def measure(sales: int, updates: int, folder: Path) -> tuple[str, ...]:
    """Return a row: sales, median wall and CPU milliseconds of an update, peak memory of the process so far."""
    subprocess.run(
        [str(Path(sys.executable).parent / "apparel"), "generate", "--storage", str(folder), "--bulk-sales", str(sales),
         "--commits", str(max(1, sales // SALES_OF_A_COMMIT)), "--seed", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    generator = Generator(GeneratorSettings(seed=1), DeltaLanding(folder))
    wall, cpu = [], []
    with Pipeline(PIPELINE, storage=folder) as pipeline:
        _run(pipeline)
        for _ in range(UNCOUNTED + updates):
            generator.write_batch()
            started, used = time.perf_counter(), time.process_time()
            _run(pipeline)
            wall.append((time.perf_counter() - started) * 1000)
            cpu.append((time.process_time() - used) * 1000)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    middle = (statistics.median(values[UNCOUNTED:]) for values in (wall, cpu))
    return (f"{sales:,}", *(f"{value:.0f} ms" for value in middle), f"{peak:,.0f} MB")


def _run(pipeline: Pipeline) -> None:
    result = pipeline.run()
    if result.exit_code:
        raise SystemExit("\n".join(error.render() for error in result.errors))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sales", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--updates", type=int, default=60)
    options = parser.parse_args()
    rows = []
    for sales in options.sales:
        folder = Path(tempfile.mkdtemp(prefix="lakelet-history-"))
        try:
            rows.append(measure(sales, options.updates, folder))
        finally:
            shutil.rmtree(folder)
    print(machine("pysail", "deltalake", "pyarrow"))
    print(table(("sales before", "update, wall p50", "update, CPU p50", "peak memory so far"), rows))


if __name__ == "__main__":
    main()
