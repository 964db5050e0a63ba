"""AUTO CDC, rule by rule: change rows in, target rows out, as tables.

A table is text: the first line has the column names, `-` is NULL. Each rule runs in one batch, in many, and in reverse.
"""

from __future__ import annotations

import dataclasses
import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema
from tests.reference import scd

from lakelet.engine.sail import SailEngine
from lakelet.errors import CdcError, StorageError
from lakelet.execution import auto_cdc_pieces, auto_cdc_process
from lakelet.execution.auto_cdc import AutoCdc, CdcResult, sequence_type_of
from lakelet.graph.elements import AutoCdcFlow
from lakelet.names import TableName
from lakelet.plan import relation
from lakelet.storage import clustered
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_spark import DeltaSparkStore

NUMBERS = {"userId", "sequenceNum", "seq", "id", "__START_AT", "__END_AT"}


def table(text: str) -> pa.Table:
    """Read a table from text; a quantity of white space separates the cells."""
    head, *lines = [line.split() for line in text.strip().splitlines() if line.strip()]
    columns = {}
    for at, name in enumerate(head):
        cells = [None if line[at] == "-" else line[at] for line in lines]
        is_number = name in NUMBERS
        values = [None if cell is None else int(cell) for cell in cells] if is_number else cells
        columns[name] = pa.array(values, pa.int64() if is_number else pa.string())
    return pa.table(columns)


def rows(rows: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in rows.to_pylist()), key=repr)


class Flow:
    """One AUTO CDC flow whose tables lie in a folder of the test."""

    def __init__(self, engine: SailEngine, folder: Path, **options: Any) -> None:
        self._engine = engine
        self._store = DeltaSparkStore(engine) if engine.capabilities.cluster_writes else DeltaRsStore()
        self._target, self.auxiliary = str(folder / "target"), str(folder / "auxiliary")
        self._options = {"keys": ("userId",), "sequence_by": "sequenceNum", "name": "flow", **options}
        self._next_batch = 0

    def changed(self, **options: Any) -> None:
        self._options.update(options)

    def apply(self, changes: pa.Table, *, batch_id: int | None = None, restart: bool = False) -> CdcResult:
        flow = AutoCdcFlow(target=TableName("c", "s", "target"), source="changes", **self._options)
        source = from_arrow_schema(changes.schema)
        cdc = AutoCdc(
            flow,
            source_schema=source,
            sequence_type=sequence_type_of(flow, source, self._engine),
            engine=self._engine,
            store=self._store,
            target=self._target,
            auxiliary=self.auxiliary,
            staging=f"{self.auxiliary}.batch",
        )
        if batch_id is None:
            batch_id, self._next_batch = self._next_batch, self._next_batch + 1
        receipt = Receipt(app_id=f"{flow.name}-{restart}", batch_id=batch_id)
        return cdc.apply(relation.local(changes), receipt, restart=restart)

    @property
    def rows(self) -> pa.Table:
        table = self._store.open(self._target)
        assert table is not None
        return table.delta.to_pyarrow_table()

    def version(self, location: str | None = None) -> int:
        table = self._store.open(location or self._target)
        return -1 if table is None else table.version

    def num_events(self) -> int:
        table = self._store.open(self.auxiliary)
        return 0 if table is None else table.delta.to_pyarrow_table().num_rows


ARRIVALS = pytest.mark.parametrize("arrival", ["one batch", "row by row", "row by row, backwards"])


def check(
    engine: SailEngine, folder: Path, arrival: str, changes: str, target: str, **options: Any
) -> tuple[Flow, pa.Table]:
    """Apply the changes in the given way and compare the target."""
    flow = Flow(engine, folder, **options)
    given = table(changes)
    order = range(given.num_rows - 1, -1, -1) if "backwards" in arrival else range(given.num_rows)
    for batch in [given] if arrival == "one batch" else [given.take([at]) for at in order]:
        flow.apply(batch)
    wanted = table(target)
    assert rows(flow.rows.select(wanted.column_names)) == rows(wanted)
    return flow, given


# -- the documents' golden vectors --------------------------------------------------------------------------------

CHANGES = """
    userId  name      city         operation  sequenceNum
    124     Raul      Oaxaca       INSERT     1
    123     Isabel    Monterrey    INSERT     1
    125     Mercedes  Tijuana      INSERT     2
    126     Lily      Cancun       INSERT     2
    123     -         -            DELETE     6
    125     Mercedes  Guadalajara  UPDATE     6
    125     Mercedes  Mexicali     UPDATE     5
    123     Isabel    Chihuahua    UPDATE     5
"""
TRUNCATE = "    -       -         -            TRUNCATE   3\n"
DOCUMENTED: dict[str, Any] = {
    "apply_as_deletes": "operation = 'DELETE'",
    "except_column_list": ("operation", "sequenceNum"),
}
SCD1 = """
    userId  name      city
    124     Raul      Oaxaca
    125     Mercedes  Guadalajara
    126     Lily      Cancun
"""
SCD1_TRUNCATED = """
    userId  name      city
    125     Mercedes  Guadalajara
"""
SCD2 = """
    userId  name      city         __START_AT  __END_AT
    123     Isabel    Monterrey    1           5
    123     Isabel    Chihuahua    5           6
    124     Raul      Oaxaca       1           -
    125     Mercedes  Tijuana      2           5
    125     Mercedes  Mexicali     5           6
    125     Mercedes  Guadalajara  6           -
    126     Lily      Cancun       2           -
"""
SCD2_CITY_UNTRACKED = """
    userId  name      city         __START_AT  __END_AT
    123     Isabel    Chihuahua    1           6
    124     Raul      Oaxaca       1           -
    125     Mercedes  Guadalajara  2           -
    126     Lily      Cancun       2           -
"""


@pytest.mark.feature("AUTO CDC")
@ARRIVALS
def test_documented_scd1(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, CHANGES, SCD1, **DOCUMENTED)


@pytest.mark.feature("AUTO CDC")
@ARRIVALS
def test_documented_scd1_with_truncate(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    options = {**DOCUMENTED, "apply_as_truncates": F.expr("operation = 'TRUNCATE'")}
    check(engine, tmp_path, arrival, CHANGES + TRUNCATE, SCD1_TRUNCATED, **options)


@pytest.mark.feature("AUTO CDC")
@ARRIVALS
def test_documented_scd2(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, CHANGES, SCD2, scd_type=2, **DOCUMENTED)


@pytest.mark.feature("AUTO CDC")
@ARRIVALS
def test_documented_scd2_with_an_untracked_column(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    options = {**DOCUMENTED, "track_history_except_column_list": ("city",)}
    check(engine, tmp_path, arrival, CHANGES, SCD2_CITY_UNTRACKED, scd_type=2, **options)


def test_the_reference_gives_the_documented_tables() -> None:
    def events(text: str) -> list[scd.Event]:
        ops = {"DELETE": "delete", "TRUNCATE": "truncate"}
        return [
            {"key": key, "seq": seq, "op": ops.get(op, "upsert"), "values": (name, city)}
            for key, name, city, op, seq in rows(table(text))
        ]

    assert sorted(scd.scd1(events(CHANGES)), key=repr) == rows(table(SCD1))
    assert sorted(scd.scd1(events(CHANGES + TRUNCATE)), key=repr) == rows(table(SCD1_TRUNCATED))
    assert sorted(scd.scd2(events(CHANGES), tracked=(0, 1)), key=repr) == rows(table(SCD2))
    assert sorted(scd.scd2(events(CHANGES), tracked=(0,)), key=repr) == rows(table(SCD2_CITY_UNTRACKED))


# -- late and duplicate events ------------------------------------------------------------------------------------

BY_SEQ: dict[str, Any] = {
    "keys": ("id",),
    "sequence_by": "seq",
    "apply_as_deletes": "op = 'D'",
    "except_column_list": ("op", "seq"),
}


@ARRIVALS
def test_a_late_event_gets_its_place_in_the_history(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    changes = """
        id  name  op  seq
        1   new   U   12
        1   late  U   10
    """
    history = """
        id  name  __START_AT  __END_AT
        1   late  10          12
        1   new   12          -
    """
    check(engine, tmp_path, arrival, changes, history, scd_type=2, **BY_SEQ)


@ARRIVALS
def test_a_late_event_is_dropped_by_scd1(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    changes = """
        id  name  op  seq
        1   new   U   12
        1   late  U   10
    """
    check(engine, tmp_path, arrival, changes, "id name\n1 new", **BY_SEQ)


CLOSED_THEN_LATE = """
    id  name  op  seq
    1   old   U   17
    1   -     D   20
    1   late  U   18
"""


@pytest.mark.feature("AUTO CDC")
@ARRIVALS
def test_a_late_event_splits_a_closed_interval(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    history = """
        id  name  __START_AT  __END_AT
        1   old   17          18
        1   late  18          20
    """
    check(engine, tmp_path, arrival, CLOSED_THEN_LATE, history, scd_type=2, **BY_SEQ)


@ARRIVALS
def test_a_late_event_does_not_bring_a_deleted_row_back(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, CLOSED_THEN_LATE, "id name", **BY_SEQ)


@pytest.mark.parametrize("scd_type", [1, 2])
def test_a_delete_of_an_unknown_key_writes_no_row_and_is_remembered(
    engine: SailEngine, tmp_path: Path, scd_type: int
) -> None:
    flow = Flow(engine, tmp_path, scd_type=scd_type, **BY_SEQ)
    flow.apply(table("id name op seq\n9 x U 1"))
    before = flow.version()
    flow.apply(table("id name op seq\n1 - D 20"))
    assert flow.version() == before
    flow.apply(table("id name op seq\n1 late U 18"))
    found = [row for row in flow.rows.to_pylist() if row["id"] == 1]
    assert found == ([] if scd_type == 1 else [{"id": 1, "name": "late", "__START_AT": 18, "__END_AT": 20}])


@ARRIVALS
def test_equal_neighbours_are_one_row_and_a_late_event_splits_it(
    engine: SailEngine, tmp_path: Path, arrival: str
) -> None:
    changes = """
        id  name     op  seq
        1   Alice    U   5
        1   Alice    U   10
        1   Alice    U   15
        1   Charlie  U   20
        1   Bob      U   12
    """
    history = """
        id  name     __START_AT  __END_AT
        1   Alice    5           12
        1   Bob      12          15
        1   Alice    15          20
        1   Charlie  20          -
    """
    check(engine, tmp_path, arrival, changes, history, scd_type=2, **BY_SEQ)


@ARRIVALS
def test_a_row_shows_the_last_values_of_untracked_columns(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    lines = "\n".join(f"1 ann {seq}s U {seq}" for seq in range(10, 20))
    options = {**BY_SEQ, "track_history_except_column_list": ("synced",)}
    history = "id name synced __START_AT __END_AT\n1 ann 19s 10 -"
    check(engine, tmp_path, arrival, f"id name synced op seq\n{lines}", history, scd_type=2, **options)


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("scd_type", [1, 2])
def test_an_event_delivered_again_adds_nothing(engine: SailEngine, tmp_path: Path, scd_type: int) -> None:
    flow = Flow(engine, tmp_path, scd_type=scd_type, **DOCUMENTED)
    flow.apply(table(CHANGES))
    version, events = flow.version(), flow.num_events()
    again = flow.apply(table(CHANGES))
    assert again == CdcResult(num_input_rows=8)
    assert (flow.version(), flow.num_events()) == (version, events)


def test_a_batch_without_rows_commits_its_receipt_only(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **DOCUMENTED)
    nothing = table(CHANGES).slice(0, 0)
    assert flow.apply(nothing) == CdcResult()
    flow.apply(table(CHANGES))
    version, auxiliary = flow.version(), flow.version(flow.auxiliary)
    assert flow.apply(nothing) == CdcResult()
    assert (flow.version(), flow.version(flow.auxiliary)) == (version, auxiliary + 1)


def test_the_counts_are_those_of_the_target(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    first = flow.apply(table("id name op seq\n1 a U 1\n2 b U 1\n3 c U 1"))
    assert (first.num_upserted_rows, first.num_deleted_rows, first.num_input_rows) == (3, 0, 3)
    second = flow.apply(table("id name op seq\n1 a2 U 2\n2 b U 2\n3 - D 2\n4 - D 2"))
    assert (second.num_upserted_rows, second.num_deleted_rows, second.num_input_rows) == (1, 1, 4)


# -- NULLs --------------------------------------------------------------------------------------------------------

SPARSE = """
    id  name  city  op  seq
    1   ann   rome  U   1
    1   bob   -     U   2
    1   -     -     U   3
"""


@ARRIVALS
def test_a_null_overwrites(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, SPARSE, "id name city\n1 - -", **BY_SEQ)


@ARRIVALS
def test_an_ignored_null_keeps_the_value_before(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, SPARSE, "id name city\n1 bob rome", ignore_null_updates=True, **BY_SEQ)


@ARRIVALS
def test_nulls_are_ignored_in_the_listed_columns(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    options = {**BY_SEQ, "ignore_null_updates": True, "ignore_null_updates_column_list": ("city",)}
    check(engine, tmp_path, arrival, SPARSE, "id name city\n1 - rome", **options)


@ARRIVALS
def test_a_late_event_fills_what_later_events_left_null(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    history = """
        id  name  city  __START_AT  __END_AT
        1   ann   rome  1           2
        1   bob   rome  2           -
    """
    check(engine, tmp_path, arrival, SPARSE, history, scd_type=2, ignore_null_updates=True, **BY_SEQ)


@ARRIVALS
def test_a_delete_ends_what_ignored_nulls_keep(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    changes = """
        id  name  city  op  seq
        1   ann   rome  U   1
        1   -     -     D   2
        1   bob   -     U   3
    """
    check(engine, tmp_path, arrival, changes, "id name city\n1 bob -", ignore_null_updates=True, **BY_SEQ)


def test_fields_of_a_struct_keep_their_values_one_by_one(engine: SailEngine, tmp_path: Path) -> None:
    address = pa.struct([("city", pa.string()), ("zip", pa.string())])
    flow = Flow(engine, tmp_path, keys=("id",), sequence_by="seq", ignore_null_updates=True)
    for seq, value in [(2, {"city": None, "zip": "20"}), (3, None), (1, {"city": "rome", "zip": "10"})]:
        flow.apply(pa.table({"id": [1], "seq": [seq], "address": pa.array([value], address)}))
    assert flow.rows.column("address").to_pylist() == [{"city": "rome", "zip": "20"}]


def test_a_null_condition_is_an_upsert(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann - 1"))
    assert rows(flow.rows) == [(1, "ann")]


@pytest.mark.parametrize(
    ("changes", "kind", "count"),
    [
        ("id name op seq\n1 a U 1\n- b U 2\n- c D 3", "NULL_KEY", "2 change rows"),
        ("id name op seq\n1 a U 1\n2 b U -", "NULL_SEQUENCE", "1 change rows"),
    ],
)
def test_a_row_without_key_or_sequence_fails_the_batch(
    engine: SailEngine, tmp_path: Path, changes: str, kind: str, count: str
) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1"))
    before = (flow.version(), flow.version(flow.auxiliary))
    with pytest.raises(CdcError) as caught:
        flow.apply(table(changes))
    assert caught.value.condition == f"AUTOCDC_MICROBATCH_VALIDATION.{kind}"
    assert count in caught.value.message
    assert "'name': 'b'" in (caught.value.cause or "")
    assert (flow.version(), flow.version(flow.auxiliary)) == before


def test_a_struct_of_nulls_is_a_null_sequence(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **{**BY_SEQ, "sequence_by": F.struct("seq", "op")})
    with pytest.raises(CdcError, match="NULL_SEQUENCE"):
        flow.apply(table("id name op seq\n1 a - -"))


# -- ties ---------------------------------------------------------------------------------------------------------


@ARRIVALS
def test_an_upsert_beats_a_delete_in_scd1(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    check(engine, tmp_path, arrival, "id name op seq\n1 a U 1\n1 - D 1", "id name\n1 a", **BY_SEQ)


@ARRIVALS
def test_a_delete_beats_an_upsert_in_scd2(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    history = "id name __START_AT __END_AT\n1 a 1 2"
    changes = "id name op seq\n1 a U 1\n1 b U 2\n1 - D 2"
    check(engine, tmp_path, arrival, changes, history, scd_type=2, **BY_SEQ)


@ARRIVALS
def test_the_greatest_payload_wins_and_null_is_the_smallest(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    changes = """
        id  name  city  op  seq
        1   zoe   -     U   1
        1   ann   oslo  U   1
        1   bob   oslo  U   1
    """
    check(engine, tmp_path, arrival, changes, "id name city\n1 bob oslo", **BY_SEQ)


def test_ties_are_reported_once_and_replays_are_none(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    flow.apply(table("id name op seq\n1 a U 1\n2 a U 1\n3 a U 1"))
    result = flow.apply(table("id name op seq\n1 b U 1\n2 a U 1\n3 - D 1\n4 a U 1\n4 b U 1\n4 b U 1"))
    assert result.num_ties == 3
    assert [(tie.key, tie.sequence) for tie in result.ties] == [({"id": 1}, 1), ({"id": 3}, 1), ({"id": 4}, 1)]
    later = flow.apply(table("id name op seq\n1 c U 2\n1 b U 1"))
    assert later.num_ties == 0


# -- types and columns --------------------------------------------------------------------------------------------


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("scd_type", [1, 2])
def test_any_type_is_kept_and_equal_values_open_no_version(engine: SailEngine, tmp_path: Path, scd_type: int) -> None:
    def changes(seq: int) -> pa.Table:
        return pa.table(
            {
                "id": pa.array(["k"]),
                "seq": pa.array([seq], pa.int32()),
                "struct": [{"a": 1, "b": {"c": None}}],
                "array": [[1.5, None, float("nan")]],
                "array_of_structs": [[{"x": 1}, None]],
                "map": pa.array([[("a", 1), ("b", None)]], pa.map_(pa.string(), pa.int64())),
                "maps": pa.array([[[("a", 1)]]], pa.list_(pa.map_(pa.string(), pa.int64()))),
                "decimal": pa.array([Decimal("1.50")], pa.decimal128(10, 2)),
                "date": [datetime.date(2024, 2, 29)],
                "at": pa.array([datetime.datetime(2024, 1, 1, 0, 0, 0, 7)], pa.timestamp("us", "UTC")),
                "nan": [float("nan")],
                "binary": [b"\x00\xff"],
                "flag": [True],
            }
        )

    flow = Flow(engine, tmp_path, keys=("id",), sequence_by="seq", scd_type=scd_type, except_column_list=("seq",))
    flow.apply(changes(1))
    version = flow.version()
    assert flow.apply(changes(2)).num_upserted_rows == 0
    assert flow.version() == version
    stored = flow.rows.drop_columns([name for name in flow.rows.column_names if name.startswith("__")])
    assert repr(stored.to_pylist()) == repr(changes(1).drop_columns(["seq"]).to_pylist())


@ARRIVALS
def test_a_struct_orders_by_its_fields(engine: SailEngine, tmp_path: Path, arrival: str) -> None:
    changes = """
        id  name    minor  op  seq
        1   first   a      U   1
        1   third   c      U   1
        1   second  b      U   1
    """
    options = {**BY_SEQ, "sequence_by": F.struct("seq", "minor"), "except_column_list": ("op", "seq", "minor")}
    flow = Flow(engine, tmp_path, scd_type=2, **options)
    given = table(changes)
    for batch in [given] if arrival == "one batch" else [given.take([at]) for at in (1, 2, 0)]:
        flow.apply(batch)
    found = {row["name"]: (row["__START_AT"]["minor"], row["__END_AT"]) for row in flow.rows.to_pylist()}
    assert found == {
        "first": ("a", {"seq": 1, "minor": "b"}),
        "second": ("b", {"seq": 1, "minor": "c"}),
        "third": ("c", None),
    }


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("scd_type", [1, 2])
def test_a_new_column_is_added_and_null_in_old_rows(engine: SailEngine, tmp_path: Path, scd_type: int) -> None:
    flow = Flow(engine, tmp_path, scd_type=scd_type, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1\n2 bob U 1"))
    flow.apply(table("id name city op seq\n1 ann rome U 2"))
    found = rows(flow.rows.select(["id", "name", "city"]))
    old = [] if scd_type == 1 else [(1, "ann", None)]
    assert found == sorted([*old, (1, "ann", "rome"), (2, "bob", None)], key=repr)


@pytest.mark.feature("AUTO CDC")
def test_keys_of_several_columns_and_odd_names(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, keys=("a b", "it's"), sequence_by="seq", except_column_list=("seq",))
    for seq, value in [(1, "x"), (2, "y")]:
        columns = {"a b": [1, 1], "it's": ["p", "q"], "wei rd.name": [value, value], "seq": [seq, 3 - seq]}
        flow.apply(pa.table(columns))
    assert rows(flow.rows) == [(1, "p", "y"), (1, "q", "x")]


# -- state --------------------------------------------------------------------------------------------------------


def test_flows_that_share_a_target_are_ordered_by_sequence(engine: SailEngine, tmp_path: Path) -> None:
    hydration = Flow(engine, tmp_path, **{**BY_SEQ, "name": "hydration"})
    live = Flow(engine, tmp_path, **{**BY_SEQ, "name": "live"})
    live.apply(table("id name op seq\n1 new U 5"))
    hydration.apply(table("id name op seq\n1 old U 0\n2 old U 0"))
    assert rows(live.rows) == [(1, "new"), (2, "old")]


@pytest.mark.parametrize("scd_type", [1, 2])
def test_a_large_batch_gives_what_a_small_one_gives(
    engine: SailEngine, tmp_path: Path, scd_type: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Flow(engine, tmp_path / "small", scd_type=scd_type, **DOCUMENTED)
    large = Flow(engine, tmp_path / "large", scd_type=scd_type, **DOCUMENTED)
    given = table(CHANGES + "    124  Other  Oaxaca  UPDATE  1\n")
    results = []
    for flow, limit in ((small, 100), (large, 2)):
        monkeypatch.setattr(auto_cdc_pieces, "PIECE_ROWS", limit)
        monkeypatch.setattr(auto_cdc_process, "PIECE_ROWS", limit)
        flow.apply(given.slice(0, 4))
        results.append(flow.apply(given.slice(4)))
    assert results[0] == results[1]
    assert results[0].num_ties == 1
    assert rows(small.rows) == rows(large.rows)


@pytest.mark.parametrize(("scd_type", "remembered"), [(1, [9]), (2, [1, 5, 9])])
def test_events_that_no_late_one_can_need_are_forgotten(
    engine: SailEngine, tmp_path: Path, scd_type: int, remembered: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_cdc_process, "RECENT_EVENTS", 4)
    flow = Flow(engine, tmp_path, scd_type=scd_type, **BY_SEQ)
    for seq in (1, 5, 5, 1, 9, 5):
        flow.apply(table(f"id name op seq\n1 n{seq} U {seq}\n{seq + 10} other U 1"))
    opened = DeltaRsStore().open(flow.auxiliary)
    assert opened is not None
    events = opened.rows_of(pa.table({"id": [1]}))
    assert sorted(set(events.column("__lakelet_sequence").to_pylist())) == remembered
    assert opened.recent_rows().num_rows <= 4
    assert ("n9" in flow.rows.column("name").to_pylist()) and flow.rows.num_rows == (4 if scd_type == 1 else 6)


def test_a_batch_rewrites_only_the_files_of_its_keys(
    engine: SailEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustered, "LEAF_ROWS", 16)
    flow = Flow(engine, tmp_path, scd_type=2, **BY_SEQ)
    ids = list(range(1600))
    flow.apply(table("id name op seq\n0 a U 1"))
    flow.apply(pa.table({"id": ids, "name": ["a"] * 1600, "op": ["U"] * 1600, "seq": [1] * 1600}))
    files = set(tmp_path.glob("target/*.parquet"))
    assert len(files) >= 80
    flow.apply(table("id name op seq\n3 b U 2\n801 b U 2\n2000 b U 2"))
    assert len(set(tmp_path.glob("target/*.parquet")) - files) == 3
    assert flow.rows.num_rows == 1603


@pytest.mark.parametrize("scd_type", [1, 2])
def test_events_in_order_need_no_event_before_them(
    engine: SailEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scd_type: int
) -> None:
    flow = Flow(engine, tmp_path, scd_type=scd_type, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1\n2 bob U 1\n3 cat U 1\n4 dan D 1"))
    monkeypatch.setattr(clustered, "_remembered", clustered._Remembered())
    (events,) = tmp_path.glob("auxiliary/part-*.parquet")
    events.rename(tmp_path / "away")
    flow.apply(table("id name op seq\n1 zoe U 2\n2 - D 2\n3 cat U 2\n4 dan U 2\n5 eve U 2"))
    with pytest.raises(StorageError, match="TABLE_IO_FAILED"):
        flow.apply(table("id name op seq\n3 old U 0"))
    (tmp_path / "away").rename(events)
    flow.apply(table("id name op seq\n1 old U 1\n5 old U 1\n3 cam U 3"))
    if scd_type == 1:
        wanted = [(1, "zoe"), (3, "cam"), (4, "dan"), (5, "eve")]
        assert rows(flow.rows.select(["id", "name"])) == wanted
    else:
        assert rows(flow.rows.select(["id", "name", "__START_AT", "__END_AT"])) == [
            (1, "old", 1, 2),
            (1, "zoe", 2, None),
            (2, "bob", 1, 2),
            (3, "cam", 3, None),
            (3, "cat", 1, 3),
            (4, "dan", 2, None),
            (5, "eve", 2, None),
            (5, "old", 1, 2),
        ]


def test_a_target_that_others_have_laid_out_is_changed_as_well(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, scd_type=2, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1\n2 bob U 1\n3 cat U 1"))
    opened = DeltaRsStore().open(str(tmp_path / "target"))
    assert opened is not None
    write_deltalake(opened.delta, opened.rows(), mode="overwrite", partition_by=["name"], schema_mode="overwrite")
    flow.apply(table("id name op seq\n2 - D 2\n3 dan U 3\n4 eve U 1"))
    assert rows(flow.rows.select(["id", "name", "__START_AT", "__END_AT"])) == [
        (1, "ann", 1, None),
        (2, "bob", 1, 2),
        (3, "cat", 1, 3),
        (3, "dan", 3, None),
        (4, "eve", 1, None),
    ]


@pytest.mark.feature("AUTO CDC")
def test_a_lost_target_is_derived_again(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, scd_type=2, **DOCUMENTED)
    flow.apply(table(CHANGES))
    DeltaRsStore().drop(str(tmp_path / "target"))
    flow.apply(table(CHANGES).slice(0, 1))
    assert rows(flow.rows) == rows(table(SCD2))


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"keys": ("id", "name")}, "KEY_SCHEMA_DRIFT"),
        ({"scd_type": 1}, "SCD_TYPE_DRIFT"),
        ({"sequence_by": "CAST(seq AS STRING)"}, "SEQUENCING_TYPE_DRIFT"),
        ({"track_history_column_list": ("name",)}, "TRACK_HISTORY_DRIFT"),
        ({"track_history_except_column_list": ("name",)}, "TRACK_HISTORY_DRIFT"),
    ],
)
def test_another_declaration_needs_a_full_refresh(
    engine: SailEngine, tmp_path: Path, change: dict[str, Any], condition: str
) -> None:
    flow = Flow(engine, tmp_path, scd_type=2, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1"))
    flow.changed(**change)
    with pytest.raises(CdcError) as caught:
        flow.apply(table("id name op seq\n1 bob U 2"))
    assert caught.value.condition == f"AUTOCDC_INVALID_STATE.{condition}"
    assert "--full-refresh" in (caught.value.hint or "")
    flow.apply(table("id name op seq\n1 bob U 2"), batch_id=0, restart=True)
    flow.apply(table("id name op seq\n2 bob U 2"), batch_id=9)
    assert sorted(flow.rows.column("id").to_pylist()) == [1, 2]


def test_a_column_of_another_type_is_refused(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1"))
    with pytest.raises(CdcError, match="COLUMN_TYPE_DRIFT"):
        flow.apply(pa.table({"id": [1], "name": [1.5], "op": ["U"], "seq": [2]}))


def test_a_target_with_rows_of_unknown_origin_is_refused(engine: SailEngine, tmp_path: Path) -> None:
    flow = Flow(engine, tmp_path, **BY_SEQ)
    flow.apply(table("id name op seq\n1 ann U 1"))
    DeltaRsStore().drop(flow.auxiliary)
    with pytest.raises(CdcError, match="AUXILIARY_TABLE_MISSING"):
        flow.apply(table("id name op seq\n2 bob U 2"))


def test_a_result_is_plain_data() -> None:
    assert dataclasses.asdict(CdcResult())["num_ties"] == 0


@pytest.mark.parametrize(
    ("options", "num_rows"),
    [
        ({}, 2),
        ({"except_column_list": ("seq",)}, 1),
        ({"track_history_except_column_list": ("seq",)}, 1),
    ],
)
def test_the_sequence_column_is_tracked_like_any_other(
    engine: SailEngine, tmp_path: Path, options: dict[str, Any], num_rows: int
) -> None:
    flow = Flow(engine, tmp_path, scd_type=2, keys=("id",), sequence_by="seq", **options)
    flow.apply(pa.table({"id": [1, 1], "name": ["a", "a"], "seq": [1, 2]}))
    assert flow.rows.num_rows == num_rows
