"""The demonstration: a generator writes to the landing zone while the pipeline runs beside it, then the answers are shown."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apparel import operations
from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator

if TYPE_CHECKING:
    import pyarrow as pa

    from lakelet.pipeline import Pipeline, UpdateResult

PIPELINE = Path(__file__).parent / "pipeline"
GOLD = {
    "Revenue by store and day": "SELECT * FROM 03_gold.gold_daily_sales_by_store ORDER BY total_revenue DESC LIMIT 5",
    "Best products": "SELECT * FROM 03_gold.gold_product_performance ORDER BY total_revenue DESC LIMIT 5",
    "Best customers": "SELECT * FROM 03_gold.gold_customer_lifetime_value ORDER BY total_spend DESC LIMIT 5",
}
QUALITY = """
    SELECT dataset, rule, action, MAX(passed) AS passed, MAX(failed) AS failed
    FROM (
      SELECT origin.flow_name, e.dataset, e.name AS rule, e.action,
             SUM(e.passed_records) AS passed, SUM(e.failed_records) AS failed
      FROM (
        SELECT origin, explode(from_json(get_json_object(details, '$.flow_progress.data_quality.expectations'),
          'array<struct<name: string, dataset: string, action: string, passed_records: long, failed_records: long>>')) AS e
        FROM event_log WHERE event_type = 'flow_progress' AND origin.update_id = '{update}'
      )
      GROUP BY origin.flow_name, e.dataset, e.name, e.action
    )
    GROUP BY dataset, rule, action ORDER BY failed DESC, dataset, rule
"""
"""Rows that each rule saw. A view's rules are counted by every flow that reads it, over the same rows: hence the maximum."""


@dataclass(slots=True)
class Feed:
    """A generator that writes batches in a thread of its own until it has written enough or is stopped.

    Attributes:
        batches: how many to write, None for no end.
        on_end: called when the last batch is written, or writing failed.
    """

    generator: Generator
    interval_seconds: float
    batches: int | None
    on_end: Callable[[], None]
    written: int = 0
    failure: BaseException | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            while self.batches is None or self.written < self.batches:
                self.generator.write_batch()
                self.written += 1
                if self._stop.wait(self.interval_seconds):
                    break
        except BaseException as error:
            self.failure = error
        finally:
            self.on_end()

    def stop(self) -> None:
        self._stop.set()


def run_demo(
    storage: Path,
    *,
    batches: int | None,
    interval_seconds: float,
    seed: int | None,
    view: Callable[[], AbstractContextManager[Any]],
    stop: threading.Event,
) -> UpdateResult:
    """Set up, generate and run the pipeline side by side; returns how the update ended.

    Args:
        batches: how many batches the generator writes; None: until `stop` is set.
        view: makes the subscriber that shows an update.
    """
    from lakelet.pipeline import Pipeline

    operations.setup(storage)
    generator = Generator(GeneratorSettings(seed=seed), DeltaLanding(storage))
    generator.write_batch()
    drain = threading.Event()
    feed = Feed(generator, interval_seconds, None if batches is None else batches - 1, drain.set)
    thread = threading.Thread(target=feed.run, name="generator", daemon=True)
    with Pipeline(PIPELINE, storage=storage) as pipeline:
        thread.start()
        try:
            with view() as subscriber:
                result = pipeline.run(continuous=True, stop=stop, drain=drain, subscribers=[subscriber])
        finally:
            feed.stop()
            thread.join()
        if feed.failure is not None:
            raise feed.failure
        if result.error is None:
            show_answers(pipeline, result)
    return result


def serve_demo(
    storage: Path,
    *,
    batches: int | None,
    interval_seconds: float,
    seed: int | None,
    port: int,
    say: Callable[[str], None],
) -> None:
    """Set up, generate and run the pipeline side by side behind its pages, until SIGINT or SIGTERM."""
    from apparel.dashboard import FIRST, PAGES
    from lakelet.pipeline import Pipeline
    from lakelet.web import Address, Site, serve

    operations.setup(storage)
    generator = Generator(GeneratorSettings(seed=seed), DeltaLanding(storage))
    generator.write_batch()
    drain = threading.Event()
    feed = Feed(generator, interval_seconds, None if batches is None else batches - 1, drain.set)
    thread = threading.Thread(target=feed.run, name="generator", daemon=True)

    def ready(address: Address, site: Site) -> None:
        say(f"apparel: {address.url} (Ctrl-C ends it)")
        site.runner.start(continuous=True, drain=drain)
        thread.start()

    with Pipeline(PIPELINE, storage=storage) as pipeline:
        try:
            serve(pipeline, port=port, pages=PAGES, first=FIRST, ready=ready)
        finally:
            feed.stop()
            if thread.ident is not None:
                thread.join()
    if feed.failure is not None:
        raise feed.failure


def show_answers(pipeline: Pipeline, result: UpdateResult) -> None:
    """Print the gold tables and the counts of every rule."""
    from lakelet.terminal.rows import write_table

    for title, query in GOLD.items():
        _print_table(title, pipeline.query(query), write_table)
    _print_table(
        "Expectations (rows passed and failed)", pipeline.query(QUALITY.format(update=result.update_id)), write_table
    )


def _print_table(title: str, rows: pa.Table, write_table: Callable[..., None]) -> None:
    sys.stdout.write(f"\n{title}\n")
    write_table(rows, sys.stdout)
