"""A table that was open goes on from where it was left; whatever has happened to it in between is seen."""

from __future__ import annotations

import gc
import shutil
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakelet.errors import StorageError
from lakelet.storage import delta_rs, delta_rs_table
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_rs_table import DeltaRsTable
from lakelet.storage.handles import COMMITS_OF_A_HANDLE

NUMBERS = pa.schema([("n", pa.int64())])


def numbers(*values: int) -> pa.Table:
    return pa.table([list(values)], schema=NUMBERS)


def opened(store: DeltaRsStore, location: str) -> DeltaRsTable:
    table = store.open(location)
    assert table is not None
    return table


def rows(store: DeltaRsStore, location: str) -> list[int]:
    return sorted(opened(store, location).rows().column("n").to_pylist())


@pytest.fixture(autouse=True, params=[0, 32_768], ids=["appended by delta-rs", "appended at once"])
def most_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    most: int = request.param
    monkeypatch.setattr(delta_rs_table, "SMALL_ROWS", most)
    return most


@pytest.fixture
def made(store: DeltaRsStore, location: str) -> str:
    """A table whose handle is known to the store."""
    store.create(location, TableDefinition(schema=NUMBERS)).append(numbers(1))
    return location


@pytest.fixture
def log_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often a table was opened from its log."""
    seen: list[str] = []

    def counted(location: str, version: int | None = None) -> DeltaTable:
        seen.append(location)
        return DeltaTable(location, version=version)

    monkeypatch.setattr(delta_rs, "DeltaTable", counted)
    return seen


def test_a_table_that_only_this_process_writes_is_opened_once(
    store: DeltaRsStore, made: str, log_reads: list[str]
) -> None:
    for value in range(COMMITS_OF_A_HANDLE - 2):
        opened(store, made).append(numbers(value))
    assert log_reads == []


def test_a_handle_that_has_followed_many_commits_is_opened_anew(
    store: DeltaRsStore, made: str, log_reads: list[str], most_rows: int
) -> None:
    for value in range(3 * COMMITS_OF_A_HANDLE):
        opened(store, made).append(numbers(value))
    assert len(log_reads) == (0 if most_rows else 3)
    assert len(rows(store, made)) == 3 * COMMITS_OF_A_HANDLE + 1


def test_a_commit_of_somebody_else_is_seen(store: DeltaRsStore, made: str) -> None:
    write_deltalake(made, numbers(2), mode="append")
    assert rows(store, made) == [1, 2]
    write_deltalake(made, pa.table({"n": [3], "more": ["x"]}), mode="append", schema_mode="merge")
    assert opened(store, made).schema.names == ["n", "more"]


def test_another_table_in_its_place_is_seen(store: DeltaRsStore, made: str) -> None:
    old = opened(store, made).id
    shutil.rmtree(made)
    for value in (7, 8, 9):  # more versions than the old one had
        write_deltalake(made, numbers(value), mode="append")
    assert rows(store, made) == [7, 8, 9]
    assert opened(store, made).id != old


def test_a_table_that_was_set_back_to_a_copy_is_seen(store: DeltaRsStore, made: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    opened(store, made).append(numbers(2))
    shutil.rmtree(made)
    shutil.copytree(copy, made)
    assert rows(store, made) == [1]


def test_a_table_that_is_gone_does_not_open(store: DeltaRsStore, made: str) -> None:
    shutil.rmtree(made)
    assert store.open(made) is None


def test_two_who_have_it_open_at_once_conflict_as_before(store: DeltaRsStore, made: str) -> None:
    one, other = opened(store, made), opened(store, made)
    assert one.delta is not other.delta
    one.append(numbers(2), receipt=Receipt(app_id="lakelet/t", batch_id=1))
    assert other.batch_id("lakelet/t") == -1
    with pytest.raises(StorageError, match="another writer"):
        other.append(numbers(2), receipt=Receipt(app_id="lakelet/t", batch_id=1))
    del one, other
    assert rows(store, made) == [1, 2]


def test_an_open_table_stays_at_its_version_while_others_open_it(store: DeltaRsStore, made: str) -> None:
    before = opened(store, made)
    opened(store, made).append(numbers(2))
    assert opened(store, made).version == before.version + 1
    assert before.rows().num_rows == 1


def test_many_threads_read_and_one_writes(store: DeltaRsStore, made: str) -> None:
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            known = 0
            while not done.is_set():
                found = len(rows(store, made))
                assert found >= known
                known = found
                gc.collect()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for value in range(12):
        opened(store, made).append(numbers(value))
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert len(rows(store, made)) == 13
