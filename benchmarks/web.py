"""How fast the pages of a large pipeline answer, and what a page costs the pipeline that it shows.

python -m benchmarks.web [--datasets 300] [--updates 10000] [--rounds 8] [--only-cost]
"""

from __future__ import annotations

import argparse
import http.client
import os
import socket
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import uvicorn

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import DataQuality, ExpectationResult, FlowMetrics, FlowStatus, UpdateState
from lakelet.events.table import DeltaEventLog
from lakelet.pipeline import Pipeline, RefreshSelection
from lakelet.web.app import create_app
from lakelet.web.site import Site

PIPELINE = Path(__file__).resolve().parent.parent / "src" / "apparel" / "pipeline"
SPEC = "name: large\nstorage: data\nlibraries:\n  - glob: {include: transformations/**}\n"
CHAIN = """
@dp.materialized_view(name="bronze.orders_{n}")
@dp.expect("positive", "id > 0")
def bronze_{n}():
    return spark.range(10)

@dp.materialized_view(name="silver.orders_{n}")
def silver_{n}():
    return spark.read.table("bronze.orders_{n}").filter("id > 1")

@dp.materialized_view(name="gold.totals_{n}")
def gold_{n}():
    return spark.read.table("silver.orders_{n}").groupBy().count()
"""
PATHS = (
    "/pipeline", "/pipeline.json", "/updates", "/updates?page=100", "/quality", "/events", "/events?q=totals_7",
    "/events?level=ERROR", "/datasets/bronze.orders_1", "/datasets/gold.totals_1", "/sql",
)  # fmt: skip


BLOCK = 8
"""Updates in a row: a page may do its work for one while the next one runs."""


def write_project(root: Path, datasets: int) -> None:
    (root / "transformations").mkdir()
    (root / "spark-pipeline.yml").write_text(SPEC)
    chains = "".join(CHAIN.format(n=number) for number in range(1, datasets // 3 + 1))
    (root / "transformations" / "tables.py").write_text(f"from pyspark import pipelines as dp\n{chains}")


def write_history(pipeline: Pipeline, updates: int) -> int:
    """Write the events of many updates, three flows each, to the event log; returns how many events that are."""
    log = DeltaEventLog(pipeline.catalog.system / "events", flush_every=20_000)
    count = 0

    def counted(event: Any) -> None:
        nonlocal count
        count += 1
        log(event)

    begun = datetime.now(UTC) - timedelta(days=30)
    for number in range(updates):
        now = [begun + timedelta(seconds=200 * number)]

        def clock(now: list[datetime] = now) -> datetime:
            now[0] += timedelta(milliseconds=20)
            return now[0]

        bus = EventBus("pipeline", pipeline.spec.name, str(uuid.uuid4()), clock=clock)
        bus.subscribe(counted)
        kinds.create_update(bus)
        for state in (UpdateState.INITIALIZING, UpdateState.SETTING_UP_TABLES, UpdateState.RUNNING):
            kinds.update_progress(bus, state)
        chain = number % 100 + 1
        for dataset in (f"bronze.orders_{chain}", f"silver.orders_{chain}", f"gold.totals_{chain}"):
            rule = ExpectationResult(
                name="positive", dataset=dataset, action="ALLOW", passed_records=9, failed_records=1
            )
            for status in (FlowStatus.QUEUED, FlowStatus.STARTING):
                kinds.flow_progress(bus, flow=dataset, dataset=dataset, status=status)
            kinds.flow_progress(
                bus, flow=dataset, dataset=dataset, status=FlowStatus.RUNNING,
                metrics=FlowMetrics(num_input_rows=10, num_output_rows=10, duration_ms=12.0),
                quality=DataQuality(expectations=(rule,)), batch_id=number,
            )  # fmt: skip
            kinds.flow_progress(bus, flow=dataset, dataset=dataset, status=FlowStatus.COMPLETED)
        kinds.update_progress(bus, UpdateState.COMPLETED)
    log.close()
    return count


class Server:
    """The pages of a pipeline, in a thread of this process."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.site = Site(pipeline)
        self.told_at = 0.0
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(create_app(self.site), log_level="warning", access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.site.closing.set()
        self._server.should_exit = True
        self._thread.join(60)

    def get(self, path: str) -> float:
        """Return how many milliseconds an answer takes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        begun = time.perf_counter()
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        taken = (time.perf_counter() - begun) * 1000
        assert answer.status == 200, (path, answer.status)
        connection.close()
        return taken

    def spent(self) -> float:
        """Return the seconds of processor time that the pages' own threads have had."""
        names = ("event-watcher", "AnyIO worker thread")
        own = [thread for thread in threading.enumerate() if thread is self._thread or thread.name in names]
        files = [Path(f"/proc/self/task/{thread.native_id}/schedstat") for thread in own]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9

    def settle(self) -> None:
        """Wait until the page has been told of the last event there is."""
        newest = max(path.stat().st_mtime for path in self.site.pipeline.catalog.journal.glob("*.jsonl"))
        while self.told_at < newest or self.site.watcher.progress.finished_at is None:
            time.sleep(0.05)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Have a page follow the live stream meanwhile, as an open browser does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("GET", "/live?lines=no")
        answer = connection.getresponse()
        stop = threading.Event()

        def follow() -> None:
            while not stop.is_set() and (line := answer.readline()):
                if line.startswith(b"id:"):
                    self.told_at = time.time()

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(10)
            connection.close()


def pages(datasets: int, updates: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_project(root, datasets)
        with Pipeline(root) as pipeline:
            events = write_history(pipeline, updates)
            begun = time.perf_counter()
            result = pipeline.run()
            print(f"one update of {datasets} datasets: {time.perf_counter() - begun:.1f} s, {result.state.value}")
            server = Server(pipeline)
            begun = time.perf_counter()
            server.site.watcher.is_ready.wait()
            print(f"{events:,} events indexed in {time.perf_counter() - begun:.1f} s")
            begun = time.perf_counter()
            server.get("/pipeline")
            print(f"first page, with the loading of the files: {time.perf_counter() - begun:.1f} s")
            print(f"\nload of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
            print("\n| page | median | slowest of 20 | processor time |\n|---|---|---|---|")
            for path in PATHS:
                server.get(path)
                used = time.process_time()
                times = [server.get(path) for _ in range(20)]
                used = (time.process_time() - used) * 1000 / len(times)
                print(
                    f"| `{path}` | {statistics.median(times):.0f} ms | {max(times):.0f} ms | {used:.0f} ms |",
                    flush=True,
                )
            server.close()


def cost(rounds: int) -> None:
    """Compare updates of small views with and without an open page: the most events for the least work."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_project(root, 30)
        with Pipeline(root) as pipeline:
            everything = RefreshSelection(full_refresh_all=True)
            _compare("30 datasets of ten rows", pipeline, rounds, lambda: pipeline.run(selection=everything))


def flagship_cost(rounds: int) -> None:
    """Compare the flagship's updates, each over a new batch of sales and changes, with and without an open page."""
    with tempfile.TemporaryDirectory() as folder:
        generator = Generator(GeneratorSettings(seed=7), DeltaLanding(Path(folder)))
        with Pipeline(PIPELINE, storage=folder) as pipeline:
            _compare("the flagship", pipeline, rounds, pipeline.run, before=generator.write_batch)


def _compare(
    name: str,
    pipeline: Pipeline,
    rounds: int,
    update: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Run blocks of updates in turns, without a page and with one, and print what the page adds to an update."""
    before()
    update()
    wall: dict[str, list[float]] = {"no page": [], "a page": []}
    used: dict[str, list[float]] = {"no page": [], "a page": []}
    own = []
    for _ in range(rounds):
        _note(update, before, wall["no page"], used["no page"])
        server = Server(pipeline)
        server.get("/pipeline")
        server.site.watcher.is_ready.wait()
        with server.watched():
            spent = server.spent()
            _note(update, before, wall["a page"], used["a page"], settled=server.settle)
            own.append((server.spent() - spent) * 1000 / BLOCK)
        server.close()
    for kind, values in (("time", wall), ("processor time", used)):
        pairs = [page / alone - 1 for alone, page in zip(values["no page"], values["a page"], strict=True)]
        alone, page = statistics.median(values["no page"]), statistics.median(values["a page"])
        print(f"{kind} of an update of {name}: {alone:.1f} ms, with a page {page:.1f} ms; pairs {_quartiles(pairs)}")
    share = statistics.median(own) / statistics.median(used["no page"])
    print(f"processor time of the page's own threads for it: {statistics.median(own):.1f} ms, {share:.1%}", flush=True)


def _quartiles(shares: list[float]) -> str:
    low, middle, high = statistics.quantiles(shares, n=4)
    return f"{middle:+.1%} (half of them {low:+.1%} to {high:+.1%})"


def _note(
    update: Callable[[], object],
    before: Callable[[], object],
    wall: list[float],
    used: list[float],
    *,
    settled: Callable[[], object] = lambda: None,
) -> None:
    """Run a block of updates, and note what one took: all that its page did for it counts, however late it did it."""
    took = spent = 0.0
    for _ in range(BLOCK):
        before()
        begun, at_first = time.perf_counter(), time.process_time()
        update()
        took, spent = took + time.perf_counter() - begun, spent + time.process_time() - at_first
    at_first = time.process_time()
    settled()
    spent += time.process_time() - at_first
    wall.append(took * 1000 / BLOCK)
    used.append(spent * 1000 / BLOCK)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=300)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=8, help="blocks of updates with and without a page")
    parser.add_argument("--only-cost", action="store_true", help="leave out the pages' own times")
    arguments = parser.parse_args()
    if not arguments.only_cost:
        pages(arguments.datasets, arguments.updates)
    cost(arguments.rounds)
    flagship_cost(arguments.rounds)
