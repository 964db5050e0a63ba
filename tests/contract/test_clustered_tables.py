"""Tables in small files by key: a change leaves what a dict would hold, for every type of key, and every reader sees it."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from deltalake.transaction import AddAction

from lakelet.engine.sail import SailEngine
from lakelet.errors import StorageError
from lakelet.plan import relation as plan
from lakelet.storage import clustered, delta_rs, log_writer
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_rs_table import DeltaRsTable

pytestmark = pytest.mark.feature("Tables: changes by key")

RECEIPT = Receipt(app_id="test", batch_id=1)
KEYS: dict[str, tuple[pa.DataType, Callable[[int], Any]]] = {
    "number": (pa.int64(), lambda n: n - 40),
    "text": (pa.string(), lambda n: f"é{n % 10}-{n}" * (1 + n % 3)),
    "day": (pa.date32(), lambda n: date(2024, 1, 1) + timedelta(days=n)),
    "time": (pa.timestamp("us", "UTC"), lambda n: datetime(1969, 12, 31, tzinfo=UTC) + timedelta(microseconds=n * 333)),
    "local": (pa.timestamp("us"), lambda n: datetime(2024, 1, 1) + timedelta(microseconds=n * 333)),
    "decimal": (pa.decimal128(38, 0), lambda n: Decimal(10**30 + n)),
    "cents": (pa.decimal128(10, 2), lambda n: Decimal(n) / 100),
    "double": (pa.float64(), lambda n: float("nan") if n == 7 else n / 7),
    "flag": (pa.bool_(), lambda n: n % 2 == 0),
    "bytes": (pa.binary(), lambda n: bytes([n, 255 - n])),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustered, "LEAF_ROWS", 4)


def opened(store: DeltaRsStore, location: str) -> DeltaRsTable:
    table = store.open(location)
    assert table is not None
    return table


def plain(value: Any) -> Any:
    return "nan" if value != value else value


@pytest.mark.parametrize("names", [*([name] for name in KEYS), ["text", "number"], ["flag", "day"]], ids="+".join)
def test_random_changes_leave_what_a_dict_would_hold(tmp_path: Path, names: list[str]) -> None:
    chance = random.Random(1)
    fields = [pa.field(f"key {name}", KEYS[name][0]) for name in names]
    schema = pa.schema([*fields, ("value", pa.int64()), ("parts", pa.list_(pa.int64()))])
    keys = tuple(field.name for field in fields)
    location, store = str(tmp_path / "t"), DeltaRsStore()
    store.create(location, TableDefinition(schema=schema))
    wanted: dict[tuple[Any, ...], tuple[int, list[int]]] = {}
    for turn in range(12):
        table = opened(store, location)
        change = table.change(keys=keys, identity=keys)
        for _ in range(chance.choice([1, 3])):
            numbers = chance.sample(range(80), chance.choice([1, 5, 30]))
            some = {tuple(KEYS[name][1](number) for name in names): number for number in numbers}
            if len(names) == 1 and chance.random() < 0.3:
                some[(None,)] = -1
            unique = {tuple(plain(value) for value in key): key for key in some}
            stays = [key for key in unique.values() if chance.random() < 0.8]
            rows = [{**dict(zip(keys, key, strict=True)), "value": turn, "parts": [turn, some[key]]} for key in stays]
            affected = [dict(zip(keys, key, strict=True)) for key in unique.values()]
            change.replace(
                pa.Table.from_pylist(affected, schema=pa.schema(fields)), pa.Table.from_pylist(rows, schema=schema)
            )
            for key in unique:
                wanted.pop(key, None)
            wanted.update({tuple(map(plain, key)): (turn, [turn, some[key]]) for key in stays})
            if stays and chance.random() < 0.5:
                sought = pa.Table.from_pylist([dict(zip(keys, stays[0], strict=True))], schema=pa.schema(fields))
                assert table.rows_of(sought).num_rows <= 1
        change.commit(RECEIPT)
    table = opened(store, location)
    found = {tuple(plain(row[key]) for key in keys): (row["value"], row["parts"]) for row in table.rows().to_pylist()}
    assert found == wanted
    assert table.rows().num_rows == len(wanted) == table.size().rows
    assert max(table.leaf_files.index.column("num_records").to_pylist()) <= 8
    for key in found:
        given = {name: (float("nan") if value == "nan" else value) for name, value in zip(keys, key, strict=True)}
        (row,) = table.rows_of(pa.Table.from_pylist([given], schema=pa.schema(fields))).to_pylist()
        assert (row["value"], row["parts"]) == wanted[key]


@pytest.fixture
def numbers(tmp_path: Path) -> DeltaRsTable:
    store, location = DeltaRsStore(), str(tmp_path / "numbers")
    schema = pa.schema(
        [("id", pa.int64()), ("name", pa.string()), ("seen", pa.timestamp("us", "UTC")), ("x", pa.float64())]
    )
    table = store.create(location, TableDefinition(schema=schema))
    change = table.change(keys=("id",), identity=("id",))
    change.replace(*numbered(range(100), "a"))
    change.commit(RECEIPT)
    return opened(store, location)


def numbered(ids: Any, name: str) -> tuple[pa.Table, pa.Table]:
    keys = pa.table({"id": pa.array(ids, pa.int64())})
    at = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(microseconds=number * 1001) for number in ids]
    x = [float("nan") if number % 10 == 3 else number / 10 for number in ids]
    rows = keys.append_column("name", pa.array([name] * len(ids), pa.string()))
    return keys, rows.append_column("seen", pa.array(at, pa.timestamp("us", "UTC"))).append_column(
        "x", pa.array(x, pa.float64())
    )


def test_a_change_writes_the_files_of_its_keys_only(numbers: DeltaRsTable) -> None:
    before = set(numbers.delta.file_uris())
    change = numbers.change(keys=("id",), identity=("id",))
    change.replace(*numbered([10, 11, 90], "b"))
    change.commit(Receipt(app_id="test", batch_id=2))
    after = set(numbers.delta.file_uris())
    assert len(before) == 25
    assert len(before - after) == len(after - before) == 2
    assert numbers.batch_id("test") == 2


def test_rows_of_files_that_the_table_no_longer_has_are_not_kept_in_memory(
    numbers: DeltaRsTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that is changed again and again would fill the whole memory for rows with files that nobody reads."""
    monkeypatch.setattr(clustered, "_remembered", kept := clustered._Remembered())
    for turn in range(20):
        change = numbers.change(keys=("id",), identity=("id",))
        change.replace(*numbered([10, 11], f"{turn}"))
        change.add(numbered([turn], "new")[1])
        change.commit(Receipt(app_id="test", batch_id=turn + 2))
    files = {str(Path(numbers.location) / path) for path in numbers.leaf_files.index.column("path").to_pylist()}
    assert set(kept._tables) <= files
    assert kept._size == sum(rows.nbytes for rows in kept._tables.values())


def test_nothing_is_visible_before_the_commit(numbers: DeltaRsTable) -> None:
    change = numbers.change(keys=("id",), identity=("id",))
    change.replace(*numbered([1], "b"))
    assert set(opened(DeltaRsStore(), numbers.location).rows().column("name").to_pylist()) == {"a"}
    change.replace(*numbered([1], "c"))
    change.commit(None)
    rows = opened(DeltaRsStore(), numbers.location).rows()
    assert sorted(set(rows.column("name").to_pylist())) == ["a", "c"]
    assert rows.num_rows == 100


def test_of_two_changes_of_one_version_the_second_fails(numbers: DeltaRsTable) -> None:
    other = opened(DeltaRsStore(), numbers.location)
    changes = [table.change(keys=("id",), identity=("id",)) for table in (numbers, other)]
    for change, number in zip(changes, (1, 99), strict=True):
        change.replace(*numbered([number], "b"))
    changes[0].commit(RECEIPT)
    with pytest.raises(StorageError, match="CONCURRENT_WRITE"):
        changes[1].commit(RECEIPT)


def test_recent_rows_are_found_and_go_with_their_keys(numbers: DeltaRsTable) -> None:
    for batch, ids in enumerate(([5, 70], [6, 71], [200])):
        change = numbers.change(keys=("id",), identity=("id",))
        change.add(numbered(ids, f"recent {batch}")[1])
        change.commit(None)
    assert numbers.recent_rows().num_rows == 5
    assert numbers.size().files == 28
    assert sorted(numbers.rows_of(pa.table({"id": [70, 200]})).column("name").to_pylist()) == [
        "a",
        "recent 0",
        "recent 2",
    ]
    change = numbers.change(keys=("id",), identity=("id",))
    change.replace(*numbered([5, 6, 70, 71, 200], "settled"))
    change.commit(None)
    assert numbers.recent_rows().num_rows == 0
    assert numbers.rows().num_rows == 101


def test_recent_rows_have_a_few_files_however_many_changes_there_are(numbers: DeltaRsTable) -> None:
    files = []
    for batch in range(20):
        change = numbers.change(keys=("id",), identity=("id",))
        change.add(numbered([batch], "recent")[1])
        change.commit(None)
        files.append(numbers.size().files - 25)
    assert files == [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4]
    assert sorted(numbers.recent_rows().column("id").to_pylist()) == list(range(20))


@pytest.mark.parametrize(
    "predicate", ["id = 57", "id > 95", "x > 9.5e0", "seen >= TIMESTAMP '2024-01-01 00:00:00.090090Z'"]
)
def test_every_reader_finds_the_rows_by_the_statistics(
    numbers: DeltaRsTable, engine: SailEngine, predicate: str
) -> None:
    con = duckdb.connect()
    con.execute("SET TimeZone='UTC'")
    con.register("t", numbers.rows())
    wanted = sorted(row[0] for row in con.sql(f"SELECT id FROM t WHERE {predicate}").fetchall())
    assert wanted
    found = engine.collect(
        plan.sql(f"SELECT id FROM t WHERE {predicate}", {"t": plan.delta(numbers.location, numbers.version)})
    )
    assert sorted(found.column("id").to_pylist()) == wanted
    if predicate.startswith("id"):
        assert (
            sorted(pl.scan_delta(numbers.location).sql(f"SELECT id FROM self WHERE {predicate}").collect()["id"])
            == wanted
        )
        column, operator, value = predicate.split()
        dataset = DeltaTable(numbers.location).to_pyarrow_table(filters=[(column, operator, int(value))])
        assert sorted(dataset.column("id").to_pylist()) == wanted


def change_names(table: DeltaRsTable, ids: list[int], name: str, batch: int) -> None:
    change = table.change(keys=("id",), identity=("id",))
    change.replace(*numbered(ids, name))
    change.commit(Receipt(app_id="test", batch_id=batch))


def test_a_process_that_has_made_the_last_commit_does_not_read_the_log(
    numbers: DeltaRsTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_names(numbers, [5], "b", 2)
    with monkeypatch.context() as patched:
        patched.setattr(delta_rs, "DeltaTable", None)
        table = opened(DeltaRsStore(), numbers.location)
        assert (table.version, table.batch_id("test"), table.partition_cols) == (2, 2, ())
        assert table.rows_of(pa.table({"id": [5]})).column("name").to_pylist() == ["b"]
        change_names(table, [6], "c", 3)
        assert opened(DeltaRsStore(), numbers.location).batch_id("test") == 3
    known, read = opened(DeltaRsStore(), numbers.location), DeltaTable(numbers.location)
    assert (known.version, known.id, known.batch_id("other")) == (read.version(), str(read.metadata().id), -1)
    assert known.properties == read.metadata().configuration
    assert sorted(known.delta.file_uris()) == sorted(read.file_uris())
    assert known.schema.names == [field.name for field in read.schema().fields]


def test_a_commit_of_somebody_else_is_seen(numbers: DeltaRsTable) -> None:
    change_names(numbers, [5], "b", 2)
    stale = opened(DeltaRsStore(), numbers.location)
    DeltaTable(numbers.location).delete("id = 5")
    assert opened(DeltaRsStore(), numbers.location).rows_of(pa.table({"id": [5]})).num_rows == 0
    with pytest.raises(StorageError, match="CONCURRENT_WRITE"):
        change_names(stale, [6], "c", 3)
    assert not [path for path in Path(numbers.location, "_delta_log").iterdir() if path.name.endswith(".tmp")]


def test_another_table_at_the_same_place_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    store, location = DeltaRsStore(), str(tmp_path / "t")
    for name in ("a", "b"):
        store.drop(location)
        table = store.create(location, TableDefinition(schema=numbered([1], name)[1].schema))
        assert opened(store, location).batch_id("test") == -1
        change_names(table, [1], name, 1)
        assert opened(store, location).rows_of(pa.table({"id": [1]})).column("name").to_pylist() == [name]
    assert opened(store, location).rows().num_rows == 1


def test_checkpoints_come_as_often_as_the_table_says(numbers: DeltaRsTable, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Path(numbers.location, "_delta_log")
    for batch in range(2, 26):
        change_names(opened(DeltaRsStore(), numbers.location), [batch], "b", batch)
    assert len(list(log.glob("*.checkpoint.parquet"))) == 2
    assert DeltaTable(numbers.location).to_pyarrow_table(filters=[("name", "=", "b")]).num_rows == 24
    monkeypatch.setattr(log_writer, "FILES_PER_COMMIT", 1)
    for batch in range(26, 46):
        change_names(opened(DeltaRsStore(), numbers.location), [batch], "b", batch)
    assert len(list(log.glob("*.checkpoint.parquet"))) == 3  # one after as many commits as there are files


def test_a_file_with_any_name_is_removed(tmp_path: Path) -> None:
    schema = numbered([1], "a")[1].schema
    table = DeltaRsStore().create(str(tmp_path / "t"), TableDefinition(schema=schema))
    name = "k=1 %2F ä.parquet"
    pq.write_table(numbered([1, 2], "a")[1], Path(table.location) / name)
    action = AddAction(name, (Path(table.location) / name).stat().st_size, {}, 1, True, '{"numRecords": 2}')
    table.delta.create_write_transaction([action], mode="append", schema=table.delta.schema())
    change_names(opened(DeltaRsStore(), table.location), [1], "b", 1)
    assert sorted(DeltaTable(table.location).to_pyarrow_table().column("name").to_pylist()) == ["a", "b"]


def test_which_keys_a_value_surely_comes_after(numbers: DeltaRsTable) -> None:
    change = numbers.change(keys=("id",), identity=("id",))
    change.add(numbered([50], "recent")[1])
    change.commit(None)
    table = opened(DeltaRsStore(), numbers.location)
    ids = [0, 3, 4, 50, 99, 500]
    keys, last = pa.table({"id": ids}), numbered([3], "")[1].column("seen")
    values = pa.chunked_array([pa.concat_arrays([pc.add(last, pa.scalar(2, pa.duration("ms"))).chunk(0)] * 6)])
    # 0 to 3 share a file whose last value is that of 3; 50 has a recent row; nothing is known of 500
    assert table.surely_before(keys, "seen", values).tolist() == [True, True, False, False, False, True]
    assert table.surely_before(keys, "name", pa.chunked_array([["z"] * 6])).tolist() == [False] * 6


def test_a_table_with_a_change_feed_is_merged_and_its_feed_is_right(tmp_path: Path) -> None:
    store, location = DeltaRsStore(), str(tmp_path / "t")
    keys, rows = numbered(range(10), "a")
    table = store.create(
        location, TableDefinition(schema=rows.schema, properties={"delta.enableChangeDataFeed": "true"})
    )
    table.append(rows)
    change = table.change(keys=("id",), identity=("id",))
    new = numbered([2], "b")[1]
    changes = pa.concat_tables([new, rows.slice(3, 1)]).append_column("__op", pa.array(["U", "D"]))
    change.replace(keys.slice(2, 2), new, changes=changes)
    change.commit(RECEIPT)
    feed = pa.table(DeltaTable(location).load_cdf(starting_version=2)).to_pylist()
    assert sorted((row["id"], row["_change_type"]) for row in feed) == [
        (2, "update_postimage"),
        (2, "update_preimage"),
        (3, "delete"),
    ]
