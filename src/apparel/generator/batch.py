"""One batch in progress: the rows of a stream follow from the ledger and are committed on top of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa

from apparel.generator.clock import Stop
from apparel.generator.dirt import UNKNOWN_ID_BASE, batch_schema, soil
from apparel.generator.ledger import Ledger
from apparel.generator.model import (
    DIMENSIONS,
    MICROS_PER_SECOND,
    Ids,
    Micros,
    Row,
    RowMaker,
    Stream,
    make_sales,
)
from apparel.generator.settings import GeneratorSettings, Span
from lakelet.errors import LakeletError

# Rows made at once: some 20 MB of columns, large enough that numpy's overhead per call vanishes.
CHUNK_ROWS = 262_144
_HIGHEST_TRANSACTION_ID = 2**31 - 1


class StoppedError(Exception):
    """A stop was requested in the middle of a bulk commit; it was abandoned and nothing of it is visible."""


class Batch:
    """Makes the rows of one batch and counts what was written.

    Rows are made anew, from the ledger as it then is, whenever another writer committed first.

    Args:
        settings: rates and sizes.
        ledger: what has been written so far; each commit advances it.
        maker: makes dimension rows; the batch reseeds it.
        rng: the random stream of the batch. Dirt gets a stream of its own, so that it changes no other row.
        now: the clock's reading, in microseconds.
        stop: checked between chunks of a commit; None lets every commit finish.
    """

    def __init__(
        self,
        *,
        settings: GeneratorSettings,
        ledger: Ledger,
        maker: RowMaker,
        rng: np.random.Generator,
        now: int,
        stop: Stop | None,
    ) -> None:
        self.started = time.perf_counter()
        self.settings = settings
        self.ledger = ledger
        self.maker = maker
        self.rng = rng
        self.dirt_rng = rng.spawn(1)[0]
        self.now = now
        self.stop = stop
        self.rows = dict.fromkeys(Stream, 0)
        self.bootstrapped = dict.fromkeys(DIMENSIONS, 0)
        self.first_transaction_id: int | None = None
        maker.random.seed(int(rng.integers(2**63)))

    def bootstrap(self, stream: Stream, count: int, *, chunk_rows: int = CHUNK_ROWS) -> None:
        """Fill an empty dimension with `count` new ids, without dirt."""

        def make() -> pa.RecordBatchReader | None:
            if count == 0 or len(self.ledger[stream].ids):
                return None
            first = self.ledger[stream].max_id + 1
            starts = range(first, first + count, chunk_rows)
            chunks = ([self._row(stream, i) for i in range(at, min(at + chunk_rows, first + count))] for at in starts)
            tables = (pa.Table.from_pylist(rows, stream.schema) for rows in chunks)
            return self._reader(tables, stream.schema)

        self.bootstrapped[stream] = self._commit(stream, make)

    def change(self, stream: Stream) -> None:
        """Write this batch's new and updated rows of a dimension; the same id may occur twice."""
        changes, update_share = _changes(stream, self.settings)

        def make() -> pa.RecordBatchReader | None:
            count = self.maker.random.randint(changes.low, changes.high)
            if count == 0:
                return None
            rows = [self._row(stream, row_id) for row_id in self._changed_ids(stream, count, update_share)]
            return self._reader(
                iter([self._soiled(pa.Table.from_pylist(rows, stream.schema), stream)]), self._schema(stream)
            )

        self._commit(stream, make)

    def sell(self, count: int, *, over_micros: int = 0) -> None:
        """Write `count` sales that reference written ids; event times rise over a period that ends now."""

        def make() -> pa.RecordBatchReader | None:
            ids = [self.ledger[stream].ids for stream in DIMENSIONS]
            if count == 0 or not all(map(len, ids)):
                return None
            first = self.ledger[Stream.SALES].max_id + 1
            if first + count - 1 > _HIGHEST_TRANSACTION_ID:
                raise _exhausted(Stream.SALES, first + count - 1)
            self.first_transaction_id = first
            return self._reader(self._sales(first, count, over_micros, ids), self._schema(Stream.SALES))

        if not self._commit(Stream.SALES, make):
            self.first_transaction_id = None

    def _sales(self, first: int, count: int, over_micros: int, ids: list[Ids]) -> Iterator[pa.Table]:
        """Make sales chunk by chunk."""
        stores, customers, products = ids
        start = self.now - over_micros
        for done in range(0, count, CHUNK_ROWS):
            position = np.arange(done + 1, min(done + CHUNK_ROWS, count) + 1, dtype=np.float64)
            on_schedule: Micros = start + (position / count * over_micros).astype(np.int64)
            sales = make_sales(
                self.rng,
                first_id=first + done,
                event_times=on_schedule - self.rng.integers(0, self._skew_micros + 1, len(position)),
                stores=stores,
                customers=customers,
                products=products,
                return_rate=self.settings.return_rate,
                bad_discount_rate=self.settings.bad_discount_rate,
            )
            yield self._soiled(sales, Stream.SALES)

    def _row(self, stream: Stream, row_id: int) -> Row:
        updated = self.now - self.maker.random.randint(0, self._skew_micros)
        return self.maker.row(stream, row_id, now=self.now, updated=updated)

    def _changed_ids(self, stream: Stream, count: int, update_share: float) -> Iterator[int]:
        """Draw the ids of changes: known ones, this batch's included, or new ones above the highest."""
        random, known = self.maker.random, self.ledger[stream].ids
        highest, new = self.ledger[stream].max_id, 0
        if highest + count >= UNKNOWN_ID_BASE:
            raise _exhausted(stream, highest + count)
        for _ in range(count):
            if random.random() < update_share and len(known) + new:
                position = random.randrange(len(known) + new)
                yield int(known[position]) if position < len(known) else highest + 1 + position - len(known)
            else:
                new += 1
                yield highest + new

    def _soiled(self, rows: pa.Table, stream: Stream) -> pa.Table:
        on_time_seconds = self.settings.skew_seconds + self.settings.interval_seconds
        return soil(rows, stream, self.settings.dirt, self.dirt_rng, on_time_seconds=on_time_seconds)

    def _schema(self, stream: Stream) -> pa.Schema:
        return batch_schema(stream, self.settings.dirt)

    def _reader(self, tables: Iterator[pa.Table], schema: pa.Schema) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            for table in tables:
                if self.stop and self.stop.requested:
                    raise StoppedError
                yield from table.to_batches()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def _commit(self, stream: Stream, make: Callable[[], pa.RecordBatchReader | None]) -> int:
        try:
            appended = self.ledger.commit(stream, make)
        except LakeletError as error:
            # delta-rs reports what the reader raised as a failure of its own.
            if self.stop and self.stop.requested:
                raise StoppedError from error
            raise
        count = appended.row_count if appended else 0
        self.rows[stream] += count
        return count

    @property
    def _skew_micros(self) -> int:
        return int(self.settings.skew_seconds * MICROS_PER_SECOND)


def _changes(stream: Stream, settings: GeneratorSettings) -> tuple[Span, float]:
    """Return how many rows of a dimension a batch changes, and the share of updates among them."""
    match stream:
        case Stream.CUSTOMERS:
            return settings.customer_changes, settings.update_share_customers
        case Stream.ITEMS:
            return settings.product_changes, settings.update_share_products
        case Stream.STORES:
            return settings.store_changes, settings.update_share_stores
        case Stream.SALES:
            raise ValueError("sales have no changes")


def _exhausted(stream: Stream, wanted: int) -> LakeletError:
    return LakeletError(
        "APPAREL_IDS_EXHAUSTED",
        f"stream `{stream}` would need {stream.key} {wanted}, which is out of range",
        hint="start afresh with `apparel reset --landing`",
    )
