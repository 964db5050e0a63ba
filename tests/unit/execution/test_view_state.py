"""The state of a view: the newest entry counts, few slots are few reads, and merged files hold the same entries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakelet.execution import distinct_values, view_state
from lakelet.execution.view_state import GROUPS, KIND, TIER, VALUE, VERSION, ViewState
from lakelet.plan.group_query import ID, SLOT
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs import DeltaRsStore

MOST_FILES = 8


def entries(values: dict[int, int]) -> pa.Table:
    numbers = pa.array(list(values), pa.int64())
    return pa.table(
        {SLOT: numbers, ID[0]: numbers, ID[1]: numbers, "total": pa.array(list(values.values()), pa.int64())}
    )


def seen(*numbers: int) -> pa.Table:
    return pa.table([pa.array(numbers, pa.int64())] * 2, names=list(VALUE))


def replace(state: ViewState, version: int, **tables: pa.Table) -> None:
    state.replace(tables.items(), version=version, receipt=receipt(version))


def known(state: ViewState, *numbers: int) -> list[int]:
    """Return which of these values the state has."""
    found = distinct_values._known(seen(*numbers), state.files("values"))
    return [number for number, is_known in zip(numbers, found, strict=True) if is_known]


def receipt(version: int) -> Receipt:
    return Receipt(app_id="view", batch_id=version)


def totals(state: ViewState, *slots: int) -> dict[int, int]:
    found = state.groups(pa.array(slots, pa.int64()) if slots else None)
    return dict(zip(found.column(SLOT).to_pylist(), found.column("total").to_pylist(), strict=True))


@pytest.fixture
def state(tmp_path: Path) -> ViewState:
    return ViewState.open(DeltaRsStore(), str(tmp_path / "state"))


def test_the_newest_entry_of_an_identity_counts(state: ViewState) -> None:
    replace(state, 1, groups=entries({1: 10, 2: 20, -5: 5}))
    state.add({GROUPS: entries({2: 21, 3: 30})}, version=2, receipt=receipt(2))
    state.add({GROUPS: entries({2: 22})}, version=3, receipt=receipt(3))
    assert totals(state) == {1: 10, 2: 22, 3: 30, -5: 5}
    assert totals(state, 2, 7) == {2: 22}
    assert sorted(state.slots_since(2).to_pylist()) == [2, 3]
    assert state.batch_id("view") == 3


def test_entries_of_one_kind_are_none_of_another(state: ViewState) -> None:
    replace(state, 1, groups=entries({1: 10}), values=seen(1, 2))
    state.add({GROUPS: entries({}), "values": seen(3)}, version=2, receipt=receipt(2))
    assert known(state, 0, 1, 2, 3, 4) == [1, 2, 3]
    assert totals(state) == {1: 10}


@pytest.mark.parametrize("at_once", [view_state.MERGED_AT_ONCE, 7])
def test_merged_files_hold_the_same_entries(state: ViewState, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_state, "MERGED_AT_ONCE", at_once)
    spread = 2**63 // 60  # values in every range of slots
    replace(state, 1, groups=entries(dict.fromkeys(range(100), 0)), values=seen(-spread))
    expected = dict.fromkeys(range(100), 0)
    merges = set()
    for version in range(2, 60):
        changed = {version % 7: version, 100 + version: version}
        values = seen(version * spread, -version * spread)
        state.add({GROUPS: entries(changed), "values": values}, version=version, receipt=receipt(version))
        expected |= changed
        tier = state.tier_to_merge(MOST_FILES)
        if tier is not None:
            state.tidy(tier, receipt(version))
        assert state.table is not None
        files = [file for file in state.table.files() if file.partition_values[KIND] == GROUPS]
        merges.add(frozenset(file.partition_values[TIER] for file in files))
        assert sum(file.partition_values[TIER] == "0" for file in files) < MOST_FILES
        assert totals(ViewState.open(state.store, state.location)) == expected
    assert {frozenset({"2"}), frozenset({"1", "2"}), frozenset({"0", "1", "2"})} <= merges
    wanted = [sign * number * spread for number in range(1, 60) for sign in (-1, 1)]
    assert known(state, *wanted, 5, -5) == [value for value in wanted if value != spread]
    assert sum(file.num_records or 0 for file in state.files("values")) == len(wanted) - 1
    assert state.batch_id("view") == 59
    assert totals(state, 3) == {3: 59}


def test_few_slots_of_a_large_state_are_few_row_groups(state: ViewState, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(100_000)
    replace(state, 1, groups=entries(dict(zip(numbers.tolist(), numbers.tolist(), strict=True))))
    read: list[int] = []
    original = pq.ParquetFile.read_row_groups

    def counted(self: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        read.extend(groups)
        return original(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    assert totals(state, 5, 50_000, 99_999) == {5: 5, 50_000: 50_000, 99_999: 99_999}
    assert len(read) == 3 < 100_000 / view_state.ROW_GROUP_ROWS


def test_versions_are_those_of_the_refresh_that_wrote_an_entry(state: ViewState) -> None:
    replace(state, 4, groups=entries({1: 1}))
    state.add({GROUPS: entries({2: 2})}, version=5, receipt=receipt(5))
    found = state.groups()
    assert dict(zip(found.column(SLOT).to_pylist(), found.column(VERSION).to_pylist(), strict=True)) == {1: 4, 2: 5}


def test_a_value_is_new_without_a_row_being_read(state: ViewState, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(state, 1, groups=entries({}), values=seen(*range(0, 2**62, 2**50)))
    assert known(state, 2**50, 2**50 + 1, 2**50 + 2**40, -(2**50)) == [2**50]

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a row was read")

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", read)
    monkeypatch.setattr(pq.ParquetFile, "read", read)  # what is remembered of the file is enough
    assert known(state, 2**50 + 2**40, -(2**50)) == []


def test_values_that_share_a_slot_are_told_apart() -> None:
    entries_ = np.array([[5, 1, 0], [5, 2, 0], [5, 1, 0], [4, 1, 1], [5, 2, 1]], dtype=np.int64)
    found = distinct_values._first_of_each(entries_)
    assert sorted(map(tuple, found[:, :2].tolist())) == [(4, 1), (5, 1), (5, 2)]
