"""The generator: batches of the four streams, bulk loads, and the loop that writes a batch each interval.

Every batch is a pure function of the settings, the clock's reading and what the landing zone holds. Its
random stream is derived from the seed and the ledger's fingerprint: a run that is stopped and started again
between two batches writes what one long run writes, and no run repeats the rows of an earlier one.

Dimensions commit before sales, one table after the other: at whatever commit a run dies, every sale that
was written references ids that were written before it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from apparel.generator.batch import CHUNK_ROWS, Batch
from apparel.generator.clock import Clock, Stop, utc_now
from apparel.generator.landing import Landing
from apparel.generator.ledger import Ledger
from apparel.generator.model import DIMENSIONS, MICROS_PER_DAY, RowMaker, Stream
from apparel.generator.settings import BulkSettings, GeneratorSettings
from lakelet.errors import LakeletError


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenBatch:
    """One batch after its last commit.

    Attributes:
        number: 1 for the first batch of this generator.
        at: the clock's reading that its times are relative to.
        rows: rows written per stream, bootstrap and duplicates included.
        bootstrapped: the part of them that filled empty dimensions.
        versions: each stream's table version after the batch, None while a stream has no table.
        first_transaction_id: id of its first sale, None if sales had to wait for dimensions.
        last_transaction_id: highest id of its sales.
        duration_ms: from reading the clock to the last commit.
    """

    number: int
    at: datetime
    rows: dict[Stream, int]
    bootstrapped: dict[Stream, int]
    versions: dict[Stream, int | None]
    first_transaction_id: int | None
    last_transaction_id: int | None
    duration_ms: float = field(compare=False)


class Generator:
    """Writes batches to a landing zone.

    Args:
        settings: rates and sizes; without a seed, each generator draws its own.
        landing: where the streams go.
        clock: read once per batch.
        rng: one random stream for everything, instead of one per batch derived from the seed.

    Raises:
        LakeletError: what reading the landing zone raises, see `DeltaLanding.read_state`.
    """

    def __init__(
        self,
        settings: GeneratorSettings,
        landing: Landing,
        *,
        clock: Clock = utc_now,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._rng = rng
        self._seed = secrets.randbits(64) if settings.seed is None else settings.seed
        self._ledger = Ledger(landing)
        self._maker = RowMaker(
            missing_email_rate=settings.missing_email_rate, missing_manager_rate=settings.missing_manager_rate
        )
        self._batches = 0
        self._batches_without_rows = 0

    @property
    def next_transaction_id(self) -> int:
        """The id that the next sale gets: one above the highest written."""
        return self._ledger[Stream.SALES].max_id + 1

    def write_batch(self) -> WrittenBatch:
        """Write one batch of every stream; an empty dimension is filled first.

        Sales wait, and the batch has none, until every dimension has an id. Each stream is one commit, and
        at most one more for the bootstrap. Not one transaction: a kill in between leaves a prefix of the
        commits, which the next run continues.

        Raises:
            LakeletError: LANDING_CONTENDED, APPAREL_IDS_EXHAUSTED, and those of `Landing.append`.
        """
        settings = self.settings
        sizes = {
            Stream.STORES: settings.bootstrap_stores,
            Stream.CUSTOMERS: settings.bootstrap_customers,
            Stream.ITEMS: settings.bootstrap_products,
        }
        batch = self._begin()
        for stream in DIMENSIONS:
            batch.bootstrap(stream, sizes[stream])
        for stream in DIMENSIONS:
            batch.change(stream)
        batch.sell(settings.sales_per_batch)
        return self._finish(batch)

    def write_bulk(self, bulk: BulkSettings, *, stop: Stop | None = None) -> Iterator[WrittenBatch]:
        """Write many sales in few commits, yielding after each; empty dimensions are filled before the first.

        Event times rise evenly over `bulk.days` up to the clock's reading, each with the usual skew. Memory
        is that of some chunks, whatever the size of a commit.

        Raises:
            StoppedError: `stop` was requested; commits before the current one remain.
            LakeletError: as `write_batch`.
        """
        sizes = {Stream.STORES: bulk.stores, Stream.CUSTOMERS: bulk.customers, Stream.ITEMS: bulk.products}
        end = _micros(self._clock())
        span = int(bulk.days * MICROS_PER_DAY)
        for commit in range(bulk.commits):
            first, last = bulk.sales * commit // bulk.commits, bulk.sales * (commit + 1) // bulk.commits
            # Dimensions are as old as the oldest sale, so that no sale precedes what it references.
            batch = self._begin(now=end - span, stop=stop)
            for stream in DIMENSIONS:
                batch.bootstrap(stream, sizes[stream], chunk_rows=CHUNK_ROWS)
            if any(len(self._ledger[stream].ids) == 0 for stream in DIMENSIONS):
                raise LakeletError(
                    "APPAREL_NO_DIMENSIONS",
                    "a bulk load has no ids to reference",
                    cause="a dimension is empty and its bulk size is 0",
                    hint="give --bulk-customers, --bulk-products and --bulk-stores at least 1 each",
                )
            # The upper edge of this commit's part of the period; from the whole, so that it does not drift.
            batch.now = end - span + span * last // max(bulk.sales, 1)
            batch.sell(last - first, over_micros=span * (last - first) // max(bulk.sales, 1))
            yield self._finish(batch)

    def _begin(self, *, now: int | None = None, stop: Stop | None = None) -> Batch:
        entropy = [self._seed, *self._ledger.fingerprint(), self._batches_without_rows]
        rng = self._rng or np.random.default_rng(np.random.SeedSequence(entropy))
        return Batch(
            settings=self.settings,
            ledger=self._ledger,
            maker=self._maker,
            rng=rng,
            now=_micros(self._clock()) if now is None else now,
            stop=stop,
        )

    def _finish(self, batch: Batch) -> WrittenBatch:
        written = any(batch.rows.values())
        self._batches += 1
        # The ledger did not move, so the next batch would draw the same numbers again, and again write
        # nothing.
        self._batches_without_rows = 0 if written else self._batches_without_rows + 1
        return WrittenBatch(
            number=self._batches,
            at=datetime.fromtimestamp(0, UTC) + timedelta(microseconds=batch.now),
            rows=batch.rows,
            bootstrapped=batch.bootstrapped,
            versions={stream: self._ledger[stream].version for stream in Stream},
            first_transaction_id=batch.first_transaction_id,
            last_transaction_id=self._ledger[Stream.SALES].max_id if batch.rows[Stream.SALES] else None,
            duration_ms=(time.perf_counter() - batch.started) * 1000,
        )


def run(
    generator: Generator,
    *,
    stop: Stop,
    batches: int | None = None,
    monotonic: Callable[[], float] = time.monotonic,
) -> Iterator[WrittenBatch]:
    """Write a batch each interval and yield it, until stopped or until `batches` are written.

    Batches start at fixed times; one that takes longer than the interval delays the next, and no burst
    catches up.

    Raises:
        LakeletError: as `Generator.write_batch`.
    """
    due = monotonic()
    written = 0
    while not stop.requested and (batches is None or written < batches):
        yield generator.write_batch()
        written += 1
        if written != batches:
            due = max(due + generator.settings.interval_seconds, monotonic())
            stop.wait(due - monotonic())


def _micros(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)
