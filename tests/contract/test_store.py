"""What every table store must do: commit rows and receipt together, conflict loudly, and never half."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from lakelet.errors import QueryError, StorageError
from lakelet.storage.base import Receipt, Table, TableDefinition
from lakelet.storage.delta_log import read_commit
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Tables: rows and receipt in one commit")

ORDERS = pa.schema([("id", pa.int64()), ("customer", pa.string()), ("amount", pa.decimal128(10, 2))])


def orders(*rows: tuple[int, str | None, str | None]) -> pa.Table:
    ids, customers, amounts = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table([ids, customers, [Decimal(a) if a else None for a in amounts]], schema=ORDERS)


def rows_of(table: Table | None) -> list[dict[str, Any]]:
    assert table is not None
    return sorted(table.rows().to_pylist(), key=lambda row: [str(value) for value in row.values()])


def reopened(store: DeltaRsStore, location: str) -> Table:
    table = store.open(location)
    assert table is not None
    return table


@pytest.fixture
def table(store: DeltaRsStore, location: str) -> Table:
    return store.create(location, TableDefinition(schema=ORDERS))


# -- create and open ----------------------------------------------------------------------------------------------


def test_where_no_table_is_nothing_opens(store: DeltaRsStore, tmp_path: Path) -> None:
    assert store.open(str(tmp_path / "nowhere")) is None
    assert store.open(str(tmp_path)) is None
    (tmp_path / "_delta_log").mkdir()
    assert store.open(str(tmp_path)) is None


def test_creating_a_table_that_is_there_opens_it(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, "ann", "5.00")))
    again = store.create(location, TableDefinition(schema=pa.schema([("other", pa.int64())])))
    assert again.version == 1
    assert again.schema.names == ["id", "customer", "amount"]


def test_comment_and_properties_are_the_tables(store: DeltaRsStore, location: str) -> None:
    table = store.create(
        location, TableDefinition(schema=ORDERS, comment="All orders", properties={"quality": "bronze", "a.b": "c d"})
    )
    assert table.properties["quality"] == "bronze"
    assert table.properties["a.b"] == "c d"
    assert table.properties["delta.checkpointInterval"] == "10"
    assert store.open(location).delta.metadata().description == "All orders"  # type: ignore[union-attr]


def test_setting_properties_commits_only_what_changes(table: Table) -> None:
    table.set_properties({"pipelines.reset.allowed": "false"})
    assert (table.version, table.properties["pipelines.reset.allowed"]) == (1, "false")
    table.set_properties({"pipelines.reset.allowed": "false"})
    assert table.version == 1


def test_every_column_is_nullable_and_has_a_type_that_delta_stores(store: DeltaRsStore, location: str) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            ("text", pa.large_string()),
            ("seen", pa.timestamp("ns", "Europe/Berlin")),
            ("local", pa.timestamp("ms")),
            ("tag", pa.dictionary(pa.int32(), pa.string())),
            ("nothing", pa.null()),
            ("items", pa.large_list(pa.struct([pa.field("sku", pa.large_string(), nullable=False)]))),
            ("prices", pa.map_(pa.string(), pa.float64())),
        ]
    )
    table = store.create(location, TableDefinition(schema=schema))
    assert all(field.nullable for field in table.schema)
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "int64",
        "text": "string",
        "seen": "timestamp[us, tz=UTC]",
        "local": "timestamp[us]",
        "tag": "string",
        "nothing": "string",
        "items": "list<element: struct<sku: string>>",
        "prices": "map<string, double>",
    }


@pytest.mark.parametrize("folder", ["my shop", "zoë", "a~b", "50%", "a#b", "a'b", "x=1"])
def test_a_folder_may_have_an_unusual_name(store: DeltaRsStore, tmp_path: Path, engine: Any, folder: str) -> None:
    from lakelet.plan import relation as plan

    location = str(tmp_path / folder / "orders")
    store.create(location, TableDefinition(schema=ORDERS)).append(orders((1, "ann", "5.00")))
    assert rows_of(store.open(location))[0]["customer"] == "ann"
    assert engine.collect(plan.delta(location, 1)).num_rows == 1
    assert [entry.name for entry in tmp_path.iterdir()] == [folder]


@pytest.mark.parametrize("folder", ["a[1]", "a%20b", "a|b", "a^b", "a\\b", "a\nb"])
def test_a_folder_that_the_writer_cannot_handle_is_refused(store: DeltaRsStore, tmp_path: Path, folder: str) -> None:
    """delta-rs panics at some of them, and writes to another folder at the others."""
    with pytest.raises(StorageError, match="UNSUPPORTED_PATH"):
        store.create(str(tmp_path / folder), TableDefinition(schema=ORDERS))


def test_a_dropped_table_is_gone_and_dropping_it_again_is_fine(
    store: DeltaRsStore, location: str, table: Table
) -> None:
    store.drop(location)
    store.drop(location)
    assert store.open(location) is None


# -- receipts -----------------------------------------------------------------------------------------------------


def test_a_receipt_is_in_the_commit_of_its_rows(store: DeltaRsStore, location: str, table: Table) -> None:
    assert table.batch_id("flow/1") == -1
    assert table.append(orders((1, "ann", "5.00"), (2, "bob", None)), receipt=Receipt(app_id="flow/1", batch_id=0)) == 2
    assert (table.version, table.batch_id("flow/1")) == (1, 0)
    assert (reopened(store, location).batch_id("flow/1"), reopened(store, location).batch_id("flow/2")) == (0, -1)


def test_no_rows_still_commit_their_receipt(store: DeltaRsStore, location: str, table: Table) -> None:
    assert table.append(orders(), receipt=Receipt(app_id="flow", batch_id=7)) == 0
    assert (table.version, table.batch_id("flow")) == (1, 7)
    commit = read_commit(location, 1)
    assert commit is not None
    assert (commit.added, commit.removes_rows) == ((), False)


def test_receipts_survive_log_checkpoints(store: DeltaRsStore, location: str, table: Table) -> None:
    for number in range(25):
        table.append(orders((number, "ann", None)), receipt=Receipt(app_id=f"flow/{number % 2}", batch_id=number))
    assert len(list(Path(location, "_delta_log").glob("*.checkpoint.parquet"))) == 2
    again = reopened(store, location)
    assert (again.batch_id("flow/0"), again.batch_id("flow/1"), again.rows().num_rows) == (24, 23, 25)


def test_a_writer_with_an_old_handle_conflicts_loudly(store: DeltaRsStore, location: str, table: Table) -> None:
    """delta-rs accepts the same receipt twice: only the stale handle stops the second writer."""
    first, second = reopened(store, location), reopened(store, location)
    receipt = Receipt(app_id="flow", batch_id=0)
    first.append(orders((1, "ann", None)), receipt=receipt)
    with pytest.raises(StorageError) as raised:
        second.append(orders((1, "ann", None)), receipt=receipt)
    assert raised.value.condition == "CONCURRENT_WRITE"
    assert raised.value.retryable
    assert reopened(store, location).rows().num_rows == 1


# -- append -------------------------------------------------------------------------------------------------------


def test_rows_are_appended_by_column_name_without_regard_to_case(
    store: DeltaRsStore, location: str, table: Table
) -> None:
    """A query that says `ID` for the stored `id` once wrote NULLs."""
    table.append(pa.table({"AMOUNT": [Decimal("1.50")], "ID": pa.array([1], pa.int32())}))
    assert rows_of(store.open(location)) == [{"id": 1, "customer": None, "amount": Decimal("1.50")}]


def test_a_value_that_does_not_fit_its_column_writes_nothing(store: DeltaRsStore, location: str, table: Table) -> None:
    with pytest.raises(StorageError) as raised:
        table.append(pa.table({"id": ["7", "seven"]}))
    assert raised.value.condition == "CAST_INVALID_INPUT"
    assert "`id`" in raised.value.message
    assert reopened(store, location).version == 0


def test_new_columns_come_last_and_are_null_in_old_rows(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, "ann", "1.00")))
    more = pa.table({"coupon": ["X"], "id": pa.array([2], pa.int32()), "Customer": ["bob"]})
    assert table.append(more, evolve=True, receipt=Receipt(app_id="flow", batch_id=0)) == 1
    again = reopened(store, location)
    assert [(field.name, str(field.type)) for field in again.schema] == [
        ("id", "int64"),
        ("customer", "string"),
        ("amount", "decimal128(10, 2)"),
        ("coupon", "string"),
    ]
    assert rows_of(again) == [
        {"id": 1, "customer": "ann", "amount": Decimal("1.00"), "coupon": None},
        {"id": 2, "customer": "bob", "amount": None, "coupon": "X"},
    ]
    assert again.batch_id("flow") == 0


def test_nested_rows_are_matched_by_field_name(store: DeltaRsStore, location: str) -> None:
    item = pa.struct([("sku", pa.string()), ("count", pa.int64())])
    table = store.create(location, TableDefinition(schema=pa.schema([("item", item), ("items", pa.list_(item))])))
    incoming = pa.struct([("count", pa.int32()), ("sku", pa.string())])
    only_sku = pa.struct([("sku", pa.string())])
    table.append(
        pa.table(
            {
                "item": pa.array([{"count": 2, "sku": "a"}, None], incoming),
                "items": pa.array([[{"sku": "b"}], None], pa.list_(only_sku)),
            }
        )
    )
    assert table.rows().to_pylist() == [
        {"item": {"sku": "a", "count": 2}, "items": [{"sku": "b", "count": None}]},
        {"item": None, "items": None},
    ]


class SourceBroke(Exception):
    pass


@pytest.mark.parametrize("write", ["append", "replace"])
@pytest.mark.parametrize("error", [QueryError("QUERY_FAILED", "late row"), SourceBroke("bug"), KeyboardInterrupt()])
def test_a_reader_that_fails_leaves_the_old_rows_and_its_own_error(
    store: DeltaRsStore, location: str, table: Table, write: str, error: BaseException
) -> None:
    table.append(orders((1, "ann", None)))

    def batches() -> Iterator[pa.RecordBatch]:
        yield from orders((2, "bob", None)).to_batches()
        raise error

    with pytest.raises(type(error)):
        getattr(table, write)(
            pa.RecordBatchReader.from_batches(ORDERS, batches()), receipt=Receipt(app_id="flow", batch_id=0)
        )
    again = reopened(store, location)
    assert (again.version, again.batch_id("flow")) == (1, -1)
    assert [row["id"] for row in rows_of(again)] == [1]


@pytest.mark.parametrize("most", [0, 2, 32_768], ids=["by delta-rs", "just too many", "at once"])
def test_rows_are_the_same_however_many_come(
    store: DeltaRsStore, location: str, table: Table, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakelet.storage.delta_rs_table.SMALL_ROWS", most)
    rows = orders((1, "ann", "1.00"), (2, None, None), (3, "ca'rl", "-3.25"))
    batches = [batch for at in range(3) for batch in rows.slice(at, 1).to_batches()]
    receipt = Receipt(app_id="flow", batch_id=3)
    assert table.append(pa.RecordBatchReader.from_batches(ORDERS, batches), receipt=receipt) == 3
    again = reopened(store, location)
    assert (again.batch_id("flow"), again.version) == (3, 1)
    assert again.rows().sort_by("id").to_pylist() == rows.to_pylist()
    with duckdb.connect() as duck:
        added = read_commit(location, 1)
        assert added is not None
        found = duck.execute(f"SELECT * FROM '{added.added[0].path}' ORDER BY id").fetchall()
    assert found == [tuple(row.values()) for row in rows.to_pylist()]
    assert [file.num_records for file in added.added] == [3]


def test_two_who_append_at_the_same_time_both_do(store: DeltaRsStore, location: str, table: Table) -> None:
    first, second = reopened(store, location), reopened(store, location)
    first.append(orders((1, "ann", None)), receipt=Receipt(app_id="one", batch_id=0))
    second.append(orders((2, "bob", None)), receipt=Receipt(app_id="two", batch_id=0))
    again = reopened(store, location)
    assert [row["id"] for row in rows_of(again)] == [1, 2]
    assert (again.batch_id("one"), again.batch_id("two")) == (0, 0)
    assert len(list(Path(location).glob("*.parquet"))) == 2


def test_what_must_not_be_null_is_not(store: DeltaRsStore, location: str) -> None:
    from deltalake import DeltaTable

    strict = pa.schema([pa.field("id", pa.int64(), nullable=False), ("customer", pa.string())])
    DeltaTable.create(location, strict)
    table = reopened(store, location)
    with pytest.raises(StorageError):
        table.append(pa.table({"id": pa.array([None], pa.int64()), "customer": ["ann"]}))
    assert reopened(store, location).version == 0


def test_a_commit_that_fails_leaves_the_table_as_it_was(
    store: DeltaRsStore, location: str, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lakelet.storage.log_writer._write_new", full)
        with pytest.raises(StorageError, match="DISK_FULL"):
            table.append(orders((1, "ann", None)))
    assert reopened(store, location).version == 0
    assert reopened(store, location).append(orders((1, "ann", None))) == 1
    assert [row["id"] for row in rows_of(store.open(location))] == [1]


@pytest.mark.parametrize("error", [OSError("no answer"), FileExistsError("an attempt before was ours")])
def test_a_commit_whose_answer_is_lost_is_there(
    store: DeltaRsStore, location: str, table: Table, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lakelet.storage import log_writer

    write = log_writer._write_new

    def lost(path: Any, data: bytes) -> None:
        write(path, data)
        raise error

    monkeypatch.setattr(log_writer, "_write_new", lost)
    assert table.append(orders((1, "ann", None)), receipt=Receipt(app_id="flow", batch_id=0)) == 1
    again = reopened(store, location)
    assert (again.version, again.batch_id("flow")) == (1, 0)
    assert [row["id"] for row in rows_of(again)] == [1]


def test_bounds_that_json_or_a_calendar_lacks_are_left_out(store: DeltaRsStore, location: str) -> None:
    far = pa.array([400_000_000_000_000_000, 0], pa.int64())
    rows = pa.table(
        {
            "x": [float("inf"), 1.0],
            "y": [float("-inf"), float("inf")],
            "day": pa.array([3_000_000, 1], pa.int32()).cast(pa.date32()),
            "at": far.cast(pa.timestamp("us", "UTC")),
            "n": [1, 2],
        }
    )
    table = store.create(location, TableDefinition(schema=rows.schema))
    table.append(rows)
    text = (Path(location) / "_delta_log" / f"{1:020d}.json").read_text()
    assert "Infinity" not in text
    assert json.loads(json.loads(text.splitlines()[-1])["add"]["stats"])["maxValues"] == {"n": 2}
    again = reopened(store, location)
    assert again.rows().sort_by("n").equals(rows.cast(again.rows().schema))
    with duckdb.connect() as duck:
        added = read_commit(location, 1)
        assert added is not None
        assert duck.execute(f"SELECT x, y FROM '{added.added[0].path}' WHERE x > 5").fetchall() == [
            (float("inf"), float("-inf"))
        ]


def test_a_store_whose_engine_writes_opens_tables_that_it_can_write_after_any_writer(
    location: str, table: Table
) -> None:
    from lakelet.storage.delta_spark import DeltaSparkStore, DeltaSparkTable

    table.append(orders((1, "ann", None)))
    in_cluster = DeltaSparkStore(None).open(location)  # type: ignore[arg-type]
    assert isinstance(in_cluster, DeltaSparkTable)
    assert in_cluster.version == 1


# -- replace ------------------------------------------------------------------------------------------------------


def test_replace_swaps_rows_and_columns_in_one_commit(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, "ann", None)))
    before = reopened(store, location)
    table.replace(pa.table({"total": [3]}), receipt=Receipt(app_id="view", batch_id=2))
    assert (table.version, table.batch_id("view")) == (2, 2)
    assert rows_of(store.open(location)) == [{"total": 3}]
    assert [row["id"] for row in rows_of(before)] == [1]  # a reader that had opened the old version still reads it


def test_replace_with_no_rows_empties_the_table(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, "ann", None)))
    assert table.replace(orders()) == 0
    assert rows_of(store.open(location)) == []
    assert reopened(store, location).schema.names == ORDERS.names


# -- merge --------------------------------------------------------------------------------------------------------


def changes(*rows: tuple[str, int | None, str | None, str | None]) -> pa.Table:
    operations = pa.array([row[0] for row in rows])
    ids = [row[1:] for row in rows]
    return orders(*ids).append_column("__op", operations)  # type: ignore[arg-type]


def test_merge_inserts_updates_and_deletes_in_one_commit(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, "ann", "1.00"), (2, "bob", "2.00"), (3, "cat", "3.00")))
    table.merge(
        changes(("U", 1, "ann", "9.00"), ("D", 2, None, None), ("U", 4, "dan", "4.00"), ("D", 5, None, None)),
        keys=("id",),
        receipt=Receipt(app_id="cdc", batch_id=3),
    )
    assert (table.version, table.batch_id("cdc")) == (2, 3)
    assert [(row["id"], row["customer"], str(row["amount"])) for row in rows_of(store.open(location))] == [
        (1, "ann", "9.00"),
        (3, "cat", "3.00"),
        (4, "dan", "4.00"),
    ]


def test_merge_finds_rows_by_null_keys(store: DeltaRsStore, location: str, table: Table) -> None:
    table.append(orders((1, None, "1.00"), (1, "ann", "2.00")))
    table.merge(changes(("U", 1, None, "9.00"), ("D", 1, "ann", None)), keys=("id", "customer"))
    assert [(row["customer"], str(row["amount"])) for row in rows_of(store.open(location))] == [(None, "9.00")]


def test_merge_with_unusual_column_names(store: DeltaRsStore, location: str) -> None:
    schema = pa.schema([("order id", pa.int64()), ("Straße", pa.string()), ("select", pa.string())])
    table = store.create(location, TableDefinition(schema=schema))
    table.append(pa.table([[1], ["x"], ["a"]], schema=schema))
    table.merge(
        pa.table([[1, 2], ["y", "z"], ["b", "c"]], schema=schema).append_column("__op", pa.array(["U", "U"])),
        keys=("order id",),
    )
    assert sorted(row["Straße"] for row in rows_of(store.open(location))) == ["y", "z"]


# -- partitions ---------------------------------------------------------------------------------------------------

PARTITION_VALUES: list[Any] = [
    pytest.param(pa.string(), ["a b", "a%20b", "ü/x=y", "it's", "*?[{\\", "#", '"', None], id="text"),
    pytest.param(pa.date32(), [date(2024, 2, 29), None], id="date"),
    pytest.param(pa.timestamp("us", "UTC"), [datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC), None], id="timestamp"),
    pytest.param(pa.timestamp("us"), [datetime(2024, 1, 1, 1, 2, 3, 4), None], id="timestamp_ntz"),
    pytest.param(pa.decimal128(10, 2), [Decimal("1.50"), None], id="decimal"),
    pytest.param(pa.bool_(), [True, False, None], id="boolean"),
    pytest.param(pa.int32(), [-1, None], id="integer"),
]


@pytest.mark.parametrize(("kind", "values"), PARTITION_VALUES)
def test_partition_values_come_back_as_they_were(
    store: DeltaRsStore, location: str, engine: Any, kind: pa.DataType, values: list[Any]
) -> None:
    from lakelet.plan import relation as plan

    schema = pa.schema([("k", kind), ("n", pa.int64())])
    table = store.create(location, TableDefinition(schema=schema, partition_cols=("k",)))
    table.append(pa.table([values, list(range(len(values)))], schema=schema))
    assert table.partition_cols == ("k",)
    expected = dict(enumerate(values))
    assert {row["n"]: row["k"] for row in rows_of(store.open(location))} == expected
    assert {row["n"]: row["k"] for row in engine.collect(plan.delta(location, 1)).to_pylist()} == expected
    table.replace(pa.table([values[:1], [7]], schema=schema))
    assert rows_of(store.open(location)) == [{"k": values[0], "n": 7}]
    assert reopened(store, location).partition_cols == ("k",)


# -- maintenance and other readers --------------------------------------------------------------------------------


def test_compaction_changes_no_row_and_commits_only_if_it_helps(
    store: DeltaRsStore, location: str, table: Table
) -> None:
    for number in range(3):
        table.append(orders((number, "ann", None)))
    table.compact()
    assert (reopened(store, location).version, reopened(store, location).rows().num_rows) == (4, 3)
    reopened(store, location).compact()
    assert reopened(store, location).version == 4


def test_other_tools_read_the_table_from_its_path(location: str, table: Table) -> None:
    import polars

    table.append(orders((1, "ann", "1.00")), receipt=Receipt(app_id="flow", batch_id=0))
    table.append(orders((2, "bob", "2.00")), receipt=Receipt(app_id="flow", batch_id=1))
    assert polars.read_delta(location).sort("id")["customer"].to_list() == ["ann", "bob"]
    from deltalake import DeltaTable

    dataset = DeltaTable(location).to_pyarrow_dataset()  # noqa: F841 - read by name in the query
    assert duckdb.sql("SELECT sum(amount)::VARCHAR FROM dataset").fetchall() == [("3.00",)]


# -- a disk that does not take it ---------------------------------------------------------------------------------


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """Mount two megabytes of memory at `folder`; skips where that is not allowed."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_nothing_is_committed(store: DeltaRsStore, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk"):
        location = str(tmp_path / "disk" / "table")
        table = store.create(location, TableDefinition(schema=pa.schema([("noise", pa.binary())])))
        table.append(pa.table({"noise": [b"small"]}))
        with pytest.raises(StorageError) as raised:
            table.append(pa.table({"noise": [os.urandom(4 * 2**20)]}), receipt=Receipt(app_id="flow", batch_id=0))
        assert raised.value.condition == "DISK_FULL"
        again = reopened(store, location)
        assert (again.version, again.batch_id("flow"), again.rows().num_rows) == (1, -1, 1)


def test_a_full_disk_is_named_whatever_the_system(
    store: DeltaRsStore, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deltalake.exceptions import DeltaError

    def write(*_: Any, **__: Any) -> None:
        raise DeltaError("Generic LocalFileSystem error: No space left on device (os error 28)")

    monkeypatch.setattr("lakelet.storage.delta_rs_table.write_deltalake", write)
    monkeypatch.setattr("lakelet.storage.delta_rs_table.SMALL_ROWS", 0)
    with pytest.raises(StorageError, match="DISK_FULL"):
        table.append(orders((1, "ann", None)))


def test_a_read_only_folder_is_named(store: DeltaRsStore, tmp_path: Path) -> None:
    """Root may write anywhere, so the folder is made unwritable by a mount where that is possible."""
    folder = tmp_path / "fixed"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    if os.geteuid() == 0 and not mounted:
        pytest.skip("root cannot be kept from writing here")
    folder.chmod(0o500) if not mounted else None
    try:
        with pytest.raises(StorageError) as raised:
            store.create(str(folder / "table"), TableDefinition(schema=ORDERS))
        assert raised.value.condition == "STORAGE_NOT_WRITABLE"
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        else:
            folder.chmod(0o700)
