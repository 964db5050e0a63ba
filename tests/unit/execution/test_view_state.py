"""The state of a view: the newest entry counts, few slots are few reads, and merged files hold the same entries."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lakelet.execution import view_state
from lakelet.execution.view_state import GROUPS, KIND, MAX_APPENDED_FILES, TIER, VERSION, ViewState
from lakelet.plan.group_query import ID, SLOT
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs import DeltaRsStore


def entries(values: dict[int, int]) -> pa.Table:
    numbers = pa.array(list(values), pa.int64())
    return pa.table(
        {SLOT: numbers, ID[0]: numbers, ID[1]: numbers, "total": pa.array(list(values.values()), pa.int64())}
    )


def seen(*numbers: int) -> pa.Table:
    return entries(dict.fromkeys(numbers, 0)).drop_columns(["total"])


def receipt(version: int) -> Receipt:
    return Receipt(app_id="view", batch_id=version)


def totals(state: ViewState, *slots: int) -> dict[int, int]:
    found = state.entries(GROUPS, pa.array(slots, pa.int64()) if slots else None)
    return dict(zip(found.column(SLOT).to_pylist(), found.column("total").to_pylist(), strict=True))


@pytest.fixture
def state(tmp_path: Path) -> ViewState:
    return ViewState.open(DeltaRsStore(), str(tmp_path / "state"))


def test_the_newest_entry_of_an_identity_counts(state: ViewState) -> None:
    state.replace({GROUPS: entries({1: 10, 2: 20, -5: 5})}, version=1, receipt=receipt(1))
    state.add({GROUPS: entries({2: 21, 3: 30})}, version=2, receipt=receipt(2))
    state.add({GROUPS: entries({2: 22})}, version=3, receipt=receipt(3))
    assert totals(state) == {1: 10, 2: 22, 3: 30, -5: 5}
    assert totals(state, 2, 7) == {2: 22}
    assert sorted(state.slots_since(2).to_pylist()) == [2, 3]
    assert state.batch_id("view") == 3


def test_entries_of_one_kind_are_none_of_another(state: ViewState) -> None:
    state.replace({GROUPS: entries({1: 10}), "values": seen(1, 2)}, version=1, receipt=receipt(1))
    state.add({GROUPS: entries({}), "values": seen(3)}, version=2, receipt=receipt(2))
    assert sorted(state.entries("values").column(SLOT).to_pylist()) == [1, 2, 3]
    assert "total" not in state.entries("values").column_names
    assert totals(state) == {1: 10}


def test_merged_files_hold_the_same_entries(state: ViewState) -> None:
    state.replace({GROUPS: entries(dict.fromkeys(range(100), 0)), "values": seen(1)}, version=1, receipt=receipt(1))
    expected = dict.fromkeys(range(100), 0)
    merges = set()
    for version in range(2, 60):
        changed = {version % 7: version, 100 + version: version}
        state.add({GROUPS: entries(changed), "values": seen(version)}, version=version, receipt=receipt(version))
        expected |= changed
        state.tidy()
        assert state.table is not None
        files = [file for file in state.table.files() if file.partition_values[KIND] == GROUPS]
        merges.add(frozenset(file.partition_values[TIER] for file in files))
        assert sum(file.partition_values[TIER] == "0" for file in files) < MAX_APPENDED_FILES
        assert totals(ViewState.open(state.store, state.location)) == expected
    assert {frozenset({"2"}), frozenset({"1", "2"}), frozenset({"0", "1", "2"})} <= merges
    assert sorted(state.entries("values").column(SLOT).to_pylist()) == [1, *range(2, 60)]
    assert state.batch_id("view") == 59
    assert totals(state, 3) == {3: 59}


def test_few_slots_of_a_large_state_are_few_row_groups(state: ViewState, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.arange(100_000)
    state.replace(
        {GROUPS: entries(dict(zip(numbers.tolist(), numbers.tolist(), strict=True)))}, version=1, receipt=receipt(1)
    )
    read: list[int] = []
    original = pq.ParquetFile.read_row_groups

    def counted(self: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        read.extend(groups)
        return original(self, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", counted)
    assert totals(state, 5, 50_000, 99_999) == {5: 5, 50_000: 50_000, 99_999: 99_999}
    assert len(read) == 3 < 100_000 / view_state.ROW_GROUP_ROWS


def test_versions_are_those_of_the_refresh_that_wrote_an_entry(state: ViewState) -> None:
    state.replace({GROUPS: entries({1: 1})}, version=4, receipt=receipt(4))
    state.add({GROUPS: entries({2: 2})}, version=5, receipt=receipt(5))
    found = state.entries(GROUPS)
    assert dict(zip(found.column(SLOT).to_pylist(), found.column(VERSION).to_pylist(), strict=True)) == {1: 4, 2: 5}
