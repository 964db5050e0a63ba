"""What a request to each engine takes, and one more default batch of the flagship: `python -m benchmarks.engine_latency`.

Engines: the embedded one, a Sail server in a process of its own behind gRPC, and with `--spark sc://…` that of Apache Spark
with Delta Lake (`lakelet spark up` starts one). They take turns, so that whatever else the machine does hits all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from benchmarks.document import machine, table, write_part
from lakelet import Pipeline
from lakelet.engine.base import Engine
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import SailEngine
from lakelet.engine.sail_server import ServerProcess
from lakelet.plan import relation as plan

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "concepts" / "scaling.md"
PIPELINE = ROOT / "src" / "apparel" / "pipeline"
ROWS = pa.table(
    {"id": range(500), "amount": [float(n % 7) for n in range(500)], "store": [f"s{n % 50}" for n in range(500)]}
)


def slice_of_rows() -> plan.Relation:
    """500 rows that travel in the query, filtered: what a small micro-batch asks for."""
    return plan.filtered(plan.local(ROWS), plan.expression("amount > 1.5 AND store IS NOT NULL"))


REQUESTS: dict[str, Callable[[Engine], object]] = {
    "columns of a query (analysis)": lambda engine: engine.schema(slice_of_rows()),
    "one row (`SELECT 1`)": lambda engine: engine.collect(plan.sql("SELECT 1 AS n")),
    "500 rows inside of the query, filtered": lambda engine: engine.collect(slice_of_rows()),
}


@contextlib.contextmanager
def engines(spark: str | None) -> Iterator[dict[str, Engine]]:
    server = ServerProcess()
    found: dict[str, Engine] = {
        "embedded": SailEngine(),
        "Sail server": ConnectEngine(server.url),
    }
    if spark is not None:
        found["Apache Spark"] = ConnectEngine(spark)
    try:
        yield found
    finally:
        for engine in found.values():
            engine.close()
        server.stop()


def requests(found: Mapping[str, Engine], *, calls: int) -> list[tuple[str, ...]]:
    rows = []
    for what, ask in REQUESTS.items():
        millis: dict[str, list[float]] = {name: [] for name in found}
        for number in range(calls + 20):
            for name, engine in found.items():
                started = time.perf_counter()
                ask(engine)
                if number >= 20:  # until then an engine starts threads and compiles
                    millis[name].append((time.perf_counter() - started) * 1000)
        rows.append((what, *(_shown(each) for each in millis.values())))
    return rows


def updates(found: Mapping[str, Engine], *, count: int) -> tuple[str, ...]:
    millis: dict[str, list[float]] = {name: [] for name in found}
    with tempfile.TemporaryDirectory(prefix="lakelet-latency-") as folder, contextlib.ExitStack() as stack:
        sides = []
        for name, engine in found.items():
            storage = Path(folder) / name.replace(" ", "_").lower()
            pipeline = stack.enter_context(Pipeline(PIPELINE, storage=storage, engine=engine))
            sides.append((name, pipeline, Generator(GeneratorSettings(seed=1), DeltaLanding(storage))))
        for number in range(count + 2):
            for name, pipeline, generator in sides:
                generator.write_batch()
                started = time.perf_counter()
                result = pipeline.run()
                assert result.exit_code == 0, [error.render() for error in result.errors]
                if number >= 2:
                    millis[name].append((time.perf_counter() - started) * 1000)
    return ("one more default batch of the flagship", *(_shown(each) for each in millis.values()))


def _shown(millis: list[float]) -> str:
    ordered = sorted(millis)
    return f"{statistics.median(ordered):,.1f} / {ordered[int(len(ordered) * 0.95)]:,.1f} ms ({len(ordered)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--spark", help="address of a Spark Connect server with Delta Lake")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--updates", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="write the figures into docs/concepts/scaling.md")
    options = parser.parse_args()
    with engines(options.spark) as found:
        rows = [*requests(found, calls=options.calls), updates(found, count=options.updates)]
        text = (
            f"Median and 95th percentile, in brackets how often.\n\n{table(('request', *found), rows)}\n\n"
            f"Machine: {machine('pysail', 'pyspark-client')}."
        )
    print(text)
    if options.report:
        write_part("engine latency", text, document=DOCUMENT)


if __name__ == "__main__":
    main()
