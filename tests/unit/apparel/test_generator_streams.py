"""Batches: what one holds, what it may reference, and that the same seed and clock give the same rows."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import count as counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from apparel.generator.clock import SteppingClock, Stop
from apparel.generator.model import DIMENSIONS, Stream
from apparel.generator.settings import GeneratorSettings, Span
from apparel.generator.streams import Generator, run


def test_a_batch_has_exactly_500_sales(memory, generator):
    writer = generator(memory)
    assert [writer.write_batch().rows[Stream.SALES] for _ in range(3)] == [500, 500, 500]
    assert memory.rows(Stream.SALES)["transaction_id"].to_pylist() == list(range(1, 1501))


def test_changes_are_drawn_each_batch_from_their_whole_range(memory, generator):
    writer = generator(memory, sales_per_batch=1)
    batches = [writer.write_batch() for _ in range(300)]
    drawn = {stream: {b.rows[stream] - b.bootstrapped[stream] for b in batches} for stream in DIMENSIONS}
    assert drawn[Stream.CUSTOMERS] == set(range(1, 31))
    assert drawn[Stream.ITEMS] == set(range(1, 21))
    assert drawn[Stream.STORES] == set(range(0, 11))


def test_an_empty_landing_zone_is_filled_with_5_stores_50_customers_and_20_products_once(memory, generator):
    first, second = (generator(memory).write_batch() for _ in range(2))
    assert first.bootstrapped == {Stream.STORES: 5, Stream.CUSTOMERS: 50, Stream.ITEMS: 20}
    assert set(second.bootstrapped.values()) == {0}


def test_event_times_and_update_times_lie_0_to_60_seconds_in_the_past(memory, generator, noon):
    writer = generator(memory, customer_changes=Span(30, 30), store_changes=Span(10, 10))
    for _ in range(5):
        writer.write_batch()
    for stream in Stream:
        times = memory.rows(stream)[stream.time].to_pylist()
        assert noon - timedelta(seconds=60) <= min(times) < max(times) <= noon
        assert times != sorted(times), "sequence values arrive out of order"


@pytest.mark.parametrize(
    ("stream", "share", "changes"),
    [
        (Stream.CUSTOMERS, 0.3, {"customer_changes": Span(3000, 3000)}),
        (Stream.ITEMS, 0.3, {"product_changes": Span(3000, 3000)}),
        (Stream.STORES, 0.5, {"store_changes": Span(3000, 3000)}),
    ],
)
def test_changes_update_known_ids_at_their_share(memory, generator, stream, share, changes):
    written = generator(memory, **changes).write_batch()
    ids = memory.rows(stream)[stream.key]
    first = written.bootstrapped[stream]
    new = pc.count_distinct(ids).as_py() - first
    assert 1 - new / 3000 == pytest.approx(share, abs=0.03)
    assert sorted(set(ids.to_pylist())) == list(range(1, first + new + 1)), "new ids follow without a gap"


def test_an_update_replaces_every_attribute(memory, generator):
    generator(memory, customer_changes=Span(40, 40), update_share_customers=1.0).write_batch()
    versions: dict[int, list[dict]] = {}
    for row in memory.rows(Stream.CUSTOMERS).to_pylist():
        versions.setdefault(row["customer_id"], []).append(row)
    updated = [pair for rows in versions.values() for pair in pairwise(rows)]
    assert len(updated) == 40
    for name in ("name", "address", "phone_number", "join_date", "loyalty_points", "last_update_time"):
        assert sum(before[name] != after[name] for before, after in updated) >= 38, name
    for name in ("age", "gender", "email"):
        assert any(before[name] != after[name] for before, after in updated), name


def test_the_same_id_may_occur_twice_in_one_batch(memory, generator):
    generator(memory, bootstrap_customers=2, customer_changes=Span(30, 30), update_share_customers=1.0).write_batch()
    changes = memory.commits[3][1] if memory.commits[3][0] is Stream.CUSTOMERS else memory.commits[4][1]
    assert max(Counter(changes["customer_id"].to_pylist()).values()) > 1


def test_sales_wait_until_every_dimension_has_ids(memory, generator):
    waiting = generator(memory, bootstrap_stores=0, store_changes=Span(0, 0)).write_batch()
    assert waiting.rows[Stream.SALES] == 0
    assert waiting.first_transaction_id is None
    assert waiting.rows[Stream.CUSTOMERS] > 50
    opened = generator(memory, bootstrap_stores=0, store_changes=Span(1, 1)).write_batch()
    assert opened.rows[Stream.SALES] == 500
    assert set(memory.rows(Stream.SALES)["store_id"].to_pylist()) == {1}


def test_a_sale_references_only_ids_that_were_committed_before_it(memory, generator):
    writer = generator(memory, customer_changes=Span(30, 30), store_changes=Span(10, 10))
    for _ in range(4):
        writer.write_batch()
    committed = {stream.key: set() for stream in DIMENSIONS}
    for stream, rows in memory.commits:
        if stream is Stream.SALES:
            for key, ids in committed.items():
                assert set(rows[key].to_pylist()) <= ids
        else:
            committed[stream.key] |= set(rows[stream.key].to_pylist())


def test_a_column_that_is_all_null_keeps_its_type(memory, generator):
    generator(memory, missing_email_rate=1.0).write_batch()
    email = memory.commits[1][1]["email"]
    assert memory.commits[1][0] is Stream.CUSTOMERS
    assert (email.null_count, email.type) == (50, pa.string())


def test_a_batch_reports_what_it_wrote(memory, generator, noon):
    writer = generator(memory)
    writer.write_batch()
    batch = writer.write_batch()
    assert (batch.number, batch.at) == (2, noon)
    assert (batch.first_transaction_id, batch.last_transaction_id) == (501, 1000)
    assert writer.next_transaction_id == 1001
    assert batch.versions == {stream: memory.read_state(stream).version for stream in Stream}


def written(memory):
    return {stream: memory.rows(stream).to_pylist() for stream in Stream}


def test_the_same_seed_and_clock_give_the_same_rows(memory, generator):
    others = [type(memory)(), type(memory)()]
    for landing, seed in [(memory, 7), (others[0], 7), (others[1], 8)]:
        writer = generator(landing, seed=seed)
        for _ in range(3):
            writer.write_batch()
    assert written(memory) == written(others[0])
    assert written(memory)[Stream.SALES] != written(others[1])[Stream.SALES]


def test_a_run_that_is_stopped_between_batches_writes_what_one_long_run_writes(memory, generator):
    long, writer = type(memory)(), None
    writer = generator(long)
    for _ in range(6):
        writer.write_batch()
        generator(memory).write_batch()
    assert written(memory) == written(long)


def test_no_batch_repeats_the_rows_of_an_earlier_one(memory, generator):
    for _ in range(4):
        generator(memory).write_batch()
    sales = memory.rows(Stream.SALES).drop_columns("transaction_id")
    assert sales.group_by(sales.column_names).aggregate([]).num_rows == 2000
    names = memory.rows(Stream.CUSTOMERS)["address"]
    assert pc.count_distinct(names).as_py() == len(names)


def test_without_a_seed_two_runs_differ(memory, generator):
    other = type(memory)()
    generator(memory, seed=None).write_batch()
    generator(other, seed=None).write_batch()
    assert written(memory) != written(other)


def test_a_batch_that_wrote_nothing_does_not_draw_the_same_nothing_forever(memory, generator):
    writer = generator(
        memory,
        sales_per_batch=0,
        bootstrap_stores=1,
        bootstrap_customers=0,
        bootstrap_products=0,
        customer_changes=Span(0, 0),
        product_changes=Span(0, 0),
        store_changes=Span(0, 1),
    )
    assert len({writer.write_batch().rows[Stream.STORES] for _ in range(30)}) > 1


def test_one_random_stream_may_be_given_for_everything(memory):
    landings = [memory, type(memory)()]
    for landing in landings:
        rng = np.random.default_rng(5)
        writer = Generator(GeneratorSettings(), landing, clock=lambda: datetime(2026, 1, 1, tzinfo=UTC), rng=rng)
        writer.write_batch()
        writer.write_batch()
    assert written(landings[0]) == written(landings[1])


class NoWaiting(Stop):
    """Notes what it was asked to wait, and asks to stop after some waits."""

    def __init__(self, *, stop_after: int = 1_000) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._left = stop_after

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self._left -= 1
        if self._left == 0:
            self.request()


def test_a_run_writes_a_batch_each_interval_and_does_not_wait_after_the_last(memory, generator):
    stop = NoWaiting()
    batches = run(generator(memory, interval_seconds=30), stop=stop, batches=3, monotonic=lambda: 100.0)
    assert [batch.number for batch in batches] == [1, 2, 3]
    assert stop.waits == [30, 60]


def test_a_slow_batch_delays_the_next_and_no_burst_catches_up(memory, generator):
    stop, now = NoWaiting(), counter(0, 100)
    list(run(generator(memory, interval_seconds=30), stop=stop, batches=3, monotonic=lambda: float(next(now))))
    assert all(wait <= 30 for wait in stop.waits)


def test_a_run_without_a_number_of_batches_ends_when_it_is_asked_to(memory, generator):
    assert len(list(run(generator(memory), stop=NoWaiting(stop_after=4)))) == 4


def test_a_stepping_clock_moves_by_its_step():
    clock = SteppingClock(datetime(2026, 1, 1, tzinfo=UTC), step_seconds=30)
    assert [clock().second for _ in range(3)] == [0, 30, 0]


def test_a_stop_request_ends_a_wait_at_once():
    stop = Stop()
    stop.request(15)
    stop.wait(3600)
    assert stop.signal_number == 15
