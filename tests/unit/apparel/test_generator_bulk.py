"""Bulk mode: many sales in few commits, reproducible from the seed."""

from datetime import timedelta

import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from apparel.generator import batch as batches
from apparel.generator.batch import StoppedError
from apparel.generator.clock import Stop
from apparel.generator.model import Stream
from apparel.generator.settings import BulkSettings, Dirt
from lakelet.errors import LakeletError

SMALL = {"customers": 100, "products": 30, "stores": 4}


def test_a_bulk_load_writes_exactly_its_sales_in_its_commits(memory, generator):
    written = list(generator(memory).write_bulk(BulkSettings(sales=10_001, commits=4, **SMALL)))
    assert [one.rows[Stream.SALES] for one in written] == [2500, 2500, 2500, 2501]
    assert memory.rows(Stream.SALES)["transaction_id"].to_pylist() == list(range(1, 10_002))


def test_a_bulk_load_fills_empty_dimensions_first_in_the_sizes_that_were_set(memory, generator):
    written = list(generator(memory).write_bulk(BulkSettings(sales=1000, commits=2, **SMALL)))
    assert written[0].bootstrapped == {Stream.STORES: 4, Stream.CUSTOMERS: 100, Stream.ITEMS: 30}
    assert set(written[1].bootstrapped.values()) == {0}
    assert set(memory.rows(Stream.SALES)["customer_id"].to_pylist()) == set(range(1, 101))


def test_a_bulk_load_keeps_dimensions_that_are_there(memory, generator):
    generator(memory).write_batch()
    known = memory.rows(Stream.CUSTOMERS).num_rows
    list(generator(memory).write_bulk(BulkSettings(sales=1000, **SMALL)))
    assert memory.rows(Stream.CUSTOMERS).num_rows == known
    assert memory.rows(Stream.SALES).num_rows == 1500


def test_the_same_seed_gives_the_same_bulk_rows_on_disk(tmp_path, generator):
    from apparel.generator.landing import DeltaLanding

    tables = []
    for name in ("one", "two"):
        landing = DeltaLanding(tmp_path / name)
        list(generator(landing).write_bulk(BulkSettings(sales=20_000, commits=2, **SMALL)))
        tables.append([DeltaTable(landing.folder / s).to_pyarrow_table().sort_by(s.key) for s in Stream])
    assert tables[0] == tables[1]


def test_bulk_event_times_rise_over_the_days_and_no_sale_is_older_than_its_dimensions(memory, generator, noon):
    list(generator(memory).write_bulk(BulkSettings(sales=30_000, commits=3, days=3, **SMALL)))
    times = memory.rows(Stream.SALES)["event_time"]
    assert noon - timedelta(days=3, seconds=60) <= pc.min(times).as_py() < noon - timedelta(days=2, hours=23)
    assert noon - timedelta(seconds=70) < pc.max(times).as_py() <= noon
    per_day = [rows for stream, rows in memory.commits if stream is Stream.SALES]
    assert [pc.max(rows["event_time"]).as_py().day for rows in per_day] == [27, 28, 1]
    assert pc.max(memory.rows(Stream.CUSTOMERS)["last_update_time"]).as_py() <= noon - timedelta(days=3)


def test_chunks_leave_no_seam(memory, generator, monkeypatch):
    monkeypatch.setattr(batches, "CHUNK_ROWS", 1000)
    list(generator(memory).write_bulk(BulkSettings(sales=4500, days=1, **SMALL)))
    sales = memory.rows(Stream.SALES)
    assert sales["transaction_id"].to_pylist() == list(range(1, 4501))
    values = sales.drop_columns("transaction_id")
    assert values.group_by(values.column_names).aggregate([]).num_rows == 4500


def test_dirt_works_in_bulk(memory, generator):
    dirty = generator(memory, dirt=Dirt(duplicate_rate=0.1, schema_drift_rate=0.1))
    list(dirty.write_bulk(BulkSettings(sales=5000, **SMALL)))
    assert 5300 < memory.rows(Stream.SALES).num_rows < 5700
    assert "channel" in memory.rows(Stream.SALES).column_names


def test_a_stop_request_abandons_the_commit_and_keeps_the_ones_before(landing, generator, read):
    stop = Stop()
    loads = generator(landing).write_bulk(BulkSettings(sales=2000, commits=2, **SMALL), stop=stop)
    next(loads)
    stop.request()
    with pytest.raises(StoppedError):
        next(loads)
    assert read(Stream.SALES).num_rows == 1000
    assert generator(landing).next_transaction_id == 1001


def test_a_bulk_load_without_stores_is_an_error_not_sales_that_wait_forever(memory, generator):
    with pytest.raises(LakeletError) as caught:
        list(generator(memory).write_bulk(BulkSettings(sales=10, customers=1, products=1, stores=0)))
    assert caught.value.condition == "APPAREL_NO_DIMENSIONS"


def test_ids_beyond_32_bits_are_refused(memory, generator):
    with pytest.raises(LakeletError) as caught:
        list(generator(memory).write_bulk(BulkSettings(sales=2**31, **SMALL)))
    assert caught.value.condition == "APPAREL_IDS_EXHAUSTED"
    assert memory.rows(Stream.SALES).num_rows == 0
