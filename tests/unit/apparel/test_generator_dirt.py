"""Dirt: each defect at its own rate, on rows that are otherwise those of a clean batch."""

from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from apparel.generator.dirt import DRIFT_COLUMNS, UNKNOWN_ID_BASE
from apparel.generator.model import DIMENSIONS, Stream
from apparel.generator.settings import Dirt, Span

FOREIGN_KEYS = ("store_id", "customer_id", "product_id")


@pytest.fixture
def sales(generator):
    """Writes one batch of 10,000 dirty sales and returns them."""

    def write(memory, **rates):
        generator(memory, sales_per_batch=10_000, dirt=Dirt(**rates)).write_batch()
        return memory.rows(Stream.SALES)

    return write


def share(mask):
    return pc.sum(mask).as_py() / len(mask)


def test_rows_that_dirt_does_not_hit_are_those_of_a_clean_batch(memory, sales):
    clean = sales(type(memory)())
    dirty = sales(
        memory, null_foreign_key_rate=0.1, unknown_foreign_key_rate=0.1, late_rate=0.1, null_sale_key_rate=0.1
    )
    same = [name for name in clean.column_names if name not in (*FOREIGN_KEYS, "event_time", "transaction_id")]
    assert dirty.select(same) == clean.select(same)
    assert share(pc.equal(dirty["event_time"], clean["event_time"])) == pytest.approx(0.9, abs=0.02)


def test_a_duplicate_repeats_a_whole_row(memory, sales):
    rows = sales(memory, duplicate_rate=0.1)
    assert rows.num_rows == pytest.approx(11_000, abs=150)
    assert rows.group_by(rows.column_names).aggregate([]).num_rows == 10_000


def test_duplicates_occur_in_dimensions_too(memory, generator):
    generator(memory, customer_changes=Span(30, 30), dirt=Dirt(duplicate_rate=1)).write_batch()
    assert memory.rows(Stream.CUSTOMERS).num_rows == 50 + 60


@pytest.mark.parametrize(
    ("stream", "rate"),
    [
        (Stream.SALES, "null_sale_key_rate"),
        (Stream.CUSTOMERS, "null_customer_key_rate"),
        (Stream.ITEMS, "null_product_key_rate"),
        (Stream.STORES, "null_store_key_rate"),
    ],
)
def test_null_keys_hit_only_their_stream_and_never_the_bootstrap(memory, stream, rate, generator):
    generator(memory, store_changes=Span(10, 10), dirt=Dirt(**{rate: 1})).write_batch()
    for other in Stream:
        rows = memory.rows(other)
        first = {Stream.STORES: 5, Stream.CUSTOMERS: 50, Stream.ITEMS: 20, Stream.SALES: 0}[other]
        assert rows[other.key].null_count == (rows.num_rows - first if other is stream else 0)


def test_a_row_without_a_key_makes_no_id_known(memory, generator):
    batch = generator(memory, customer_changes=Span(30, 30), dirt=Dirt(null_customer_key_rate=1))
    batch.write_batch()
    batch.write_batch()
    assert set(memory.rows(Stream.SALES)["customer_id"].to_pylist()) <= set(range(1, 51))


def test_a_null_foreign_key_hits_one_key_of_a_sale(memory, sales):
    rows = sales(memory, null_foreign_key_rate=0.1)
    nulls = sum(pc.is_null(rows[key]).to_numpy().astype(int) for key in FOREIGN_KEYS)
    assert nulls.max() == 1
    assert nulls.mean() == pytest.approx(0.1, abs=0.015)
    assert all(rows[key].null_count for key in FOREIGN_KEYS)


def test_an_unknown_foreign_key_is_an_id_that_no_dimension_row_will_ever_have(memory, sales):
    rows = sales(memory, unknown_foreign_key_rate=0.1)
    unknown = sum(pc.greater_equal(rows[key], UNKNOWN_ID_BASE).to_numpy().astype(int) for key in FOREIGN_KEYS)
    assert unknown.max() == 1
    assert unknown.mean() == pytest.approx(0.1, abs=0.015)
    assert all(pc.max(memory.rows(stream)[stream.key]).as_py() < UNKNOWN_ID_BASE for stream in DIMENSIONS)


def test_a_bad_price_is_zero_or_negative(memory, generator):
    generator(memory, product_changes=Span(200, 200), dirt=Dirt(bad_price_rate=1)).write_batch()
    prices = memory.rows(Stream.ITEMS)["price"].to_pylist()
    assert all(price > 0 for price in prices[:20])
    assert all(price <= 0 and price == round(price, 2) for price in prices[20:])


def test_a_late_sale_lies_behind_the_watermark_whatever_came_in_the_batch_before(memory, sales, noon):
    rows = sales(memory, late_rate=0.2)
    oldest_watermark = noon - timedelta(seconds=30 + 60) - timedelta(minutes=10)
    late = pc.less(rows["event_time"], pa.scalar(oldest_watermark))
    on_time = pc.greater_equal(rows["event_time"], pa.scalar(noon - timedelta(seconds=60)))
    assert share(late) == pytest.approx(0.2, abs=0.02)
    assert share(pc.or_(late, on_time)) == 1


def test_schema_drift_adds_a_column_to_every_stream(memory, generator):
    generator(memory, store_changes=Span(10, 10), dirt=Dirt(schema_drift_rate=0.5)).write_batch()
    for stream in Stream:
        column, values = DRIFT_COLUMNS[stream]
        rows = memory.rows(stream)
        assert rows.column_names == [*stream.schema.names, column]
        assert {*rows[column].to_pylist()} <= {None, *values}
        assert rows[column].null_count < rows.num_rows


def test_drift_widens_a_table_that_exists_and_clean_batches_still_fit_afterwards(landing, read, generator):
    generator(landing).write_batch()
    generator(landing, dirt=Dirt(schema_drift_rate=1)).write_batch()
    generator(landing).write_batch()
    channel = read(Stream.SALES)["channel"]
    assert [channel[i].as_py() is not None for i in (0, 499, 500, 999, 1000, 1499)] == [
        False,
        False,
        True,
        True,
        False,
        False,
    ]
