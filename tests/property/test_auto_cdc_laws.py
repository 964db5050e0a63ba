"""AUTO CDC against its specification in plain Python, over thousands of histories.

Every key of an example is a history of its own, so one example checks dozens. Whatever the order of arrival, the
batches, the replays and the crashes, the target is what `tests/reference/scd.py` says about the set of events.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pyspark.sql.pandas.types import from_arrow_schema
from tests.collected_tables import CollectedStore
from tests.reference import scd

from lakelet.engine.sail import SailEngine
from lakelet.execution import auto_cdc_pieces, auto_cdc_process
from lakelet.execution.auto_cdc import AutoCdc, CdcResult, sequence_type_of
from lakelet.graph.elements import AutoCdcFlow
from lakelet.names import TableName
from lakelet.pipeline import Pipeline
from lakelet.plan import relation
from lakelet.storage import clustered, known_tables
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_log import latest_version
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_rs_table import DeltaRsTable

COLUMNS = pa.schema(
    [
        ("id", pa.int64()),
        ("city", pa.string()),
        ("name", pa.string()),
        ("points", pa.int64()),
        ("op", pa.string()),
        ("seq", pa.int64()),
    ]
)
PAYLOAD = ("city", "name", "points")
"""In the order of their names, in which ties are decided."""
BOUNDED = settings(
    max_examples=12,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure names its key's events; shrinking takes minutes
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen rows then pass through everything that millions do: many files, splits, several pieces."""
    monkeypatch.setattr(clustered, "LEAF_ROWS", 4)
    monkeypatch.setattr(auto_cdc_pieces, "PIECE_ROWS", 30)
    monkeypatch.setattr(auto_cdc_process, "PIECE_ROWS", 30)
    monkeypatch.setattr(auto_cdc_process, "RECENT_EVENTS", 40)


change = st.tuples(
    st.integers(0, 39),
    st.sampled_from([None, "rome", "oslo"]),
    st.sampled_from([None, "ann", "bob"]),
    st.sampled_from([None, 0, 1]),
    st.sampled_from(["upsert"] * 6 + ["delete"] * 2),
    st.integers(0, 9),
)
truncate = st.tuples(st.none(), st.none(), st.none(), st.none(), st.just("truncate"), st.integers(0, 9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How the changes arrive: `batches` of them, some delivered again, some dying between the two commits."""

    batches: list[list[tuple[Any, ...]]]
    replayed: list[bool]
    crashed: list[bool]

    @property
    def changes(self) -> list[tuple[Any, ...]]:
        return [row for batch in self.batches for row in batch]


@st.composite
def deliveries(draw: st.DrawFn, *, truncates: bool = False) -> Delivery:
    changes = draw(st.lists(change, min_size=60, max_size=260))
    if truncates:
        changes += draw(st.lists(truncate, max_size=2))
    changes += draw(st.lists(st.sampled_from(changes), max_size=20))  # the same event again, in any batch
    arrival = draw(st.sampled_from(["as drawn", "shuffled", "in order"]))
    if arrival == "shuffled":
        changes = draw(st.permutations(changes))
    elif arrival == "in order":  # but for a few, which every batch brings late
        changes.sort(key=lambda row: row[-1] if draw(st.integers(0, 9)) else 9)
    cuts = sorted(draw(st.lists(st.integers(0, len(changes)), min_size=1, max_size=4)))
    edges = [0, *cuts, len(changes)]
    batches = [changes[start:end] for start, end in itertools.pairwise(edges)]
    flags = st.lists(st.booleans(), min_size=len(batches), max_size=len(batches))
    return Delivery(batches=batches, replayed=draw(flags), crashed=draw(flags))


class Died(Exception):
    """The process is gone."""


COMMITS = ("append", "replace", "append_query", "replace_query", "merge_query", "replace_keys_query")


class DyingStore:
    """A store in which every commit to one table kills the process."""

    def __init__(self, store: DeltaRsStore, location: str) -> None:
        self._store = store
        self._location = location

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def open(self, location: str) -> DeltaRsTable | None:
        table = self._store.open(location)
        if table is not None and location == self._location:
            for name in COMMITS:
                if hasattr(table, name):
                    setattr(table, name, _die)
            start = table.change

            def change(**options: Any) -> Any:
                started = start(**options)
                started.commit = _die
                return started

            table.change = change  # type: ignore[method-assign]
        return table

    def create(self, location: str, definition: Any) -> DeltaRsTable:
        self._store.create(location, definition)
        table = self.open(location)
        assert table is not None
        return table


def _die(*args: Any, **options: Any) -> None:
    raise Died


class Bench:
    """One flow with tables of its own."""

    def __init__(self, engine: SailEngine, folder: str, **options: Any) -> None:
        self._engine = engine
        self.target = f"{folder}/target"
        self.auxiliary = f"{folder}/auxiliary"
        self.definition: TableDefinition | None = None
        self.flow = AutoCdcFlow(
            target=TableName("c", "s", "target"),
            source="changes",
            keys=("id",),
            apply_as_deletes="op = 'delete'",
            except_column_list=("op", "seq"),
            **{"name": "flow", "sequence_by": "seq", **options},
        )

    def apply(
        self,
        changes: relation.Relation,
        batch_id: int,
        *,
        dies: bool = False,
        app_id: str | None = None,
        now: datetime | None = None,
        forget_deletes_after: timedelta | None = None,
        columns: pa.Schema = COLUMNS,
        remember_all: bool = False,
        **options: Any,
    ) -> CdcResult:
        schema = from_arrow_schema(columns)
        store = self.store_of()
        cdc = AutoCdc(
            self.flow,
            source_schema=schema,
            sequence_type=sequence_type_of(self.flow, schema, self._engine),
            engine=self._engine,
            store=DyingStore(store, self.target) if dies else store,  # type: ignore[arg-type]
            target=self.target,
            auxiliary=self.auxiliary,
            staging=f"{self.auxiliary}.batch",
            definition=self.definition,
            now=now,
            forget_deletes_after=forget_deletes_after,
            remember_all=remember_all,
        )
        app_id = app_id or ("full-refresh" if options else "first")
        return cdc.apply(changes, Receipt(app_id=app_id, batch_id=batch_id), **options)

    def store_of(self) -> DeltaRsStore:
        return CollectedStore(self._engine) if self._engine.capabilities.cluster_writes else DeltaRsStore()

    @staticmethod
    @contextlib.contextmanager
    def of(engine: SailEngine, **options: Any) -> Iterator[Bench]:
        with tempfile.TemporaryDirectory() as folder:
            yield Bench(engine, folder, **options)

    def deliver(self, delivery: Delivery) -> None:
        never_evaluated = relation.named("a_table_that_does_not_exist")
        for batch_id, rows in enumerate(delivery.batches):
            changes = relation.local(rows_of(rows))
            if delivery.crashed[batch_id]:
                with contextlib.suppress(Died):
                    self.apply(changes, batch_id, dies=True)
                known_tables.forget()  # the next process reads the logs
                changes = never_evaluated
            self.apply(changes, batch_id)
            if delivery.replayed[batch_id]:
                before = self.version()
                replay = self.apply(never_evaluated, batch_id)
                assert (replay.num_upserted_rows, replay.num_deleted_rows) == (0, 0)
                assert self.version() == before

    def version(self) -> int:
        table = DeltaRsStore().open(self.target)
        return -1 if table is None else table.version

    def rows(self) -> set[tuple[Any, ...]]:
        table = DeltaRsStore().open(self.target)
        assert table is not None
        columns = ["id", *PAYLOAD, *(["__START_AT", "__END_AT"] if self.flow.scd_type == 2 else [])]
        found = [tuple(_plain(row[name]) for name in columns) for row in table.delta.to_pyarrow_table().to_pylist()]
        assert len(found) == len(set(found))
        return set(found)


def rows_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    return pa.table({field.name: pa.array([row[at] for row in rows], field.type) for at, field in enumerate(COLUMNS)})


def events_of(changes: list[tuple[Any, ...]], *, keep: tuple[int, ...] = ()) -> list[scd.Event]:
    return [
        {
            "key": key,
            "seq": seq,
            "op": op,
            "values": tuple(values) if op == "upsert" else (None,) * len(PAYLOAD),
            "keep": keep,
        }
        for key, *values, op, seq in changes
    ]


def check_rows(found: set[tuple[Any, ...]], wanted: set[tuple[Any, ...]], delivery: Delivery) -> None:
    """Compare, and show one key of those that differ: its events in order of arrival and both sets of rows."""
    if found == wanted:
        return
    key = min(row[0] for row in found ^ wanted)
    arrived = [
        (batch, *row[1:]) for batch, rows in enumerate(delivery.batches) for row in rows if row[0] in (key, None)
    ]
    lines = [f"key {key}", "events (batch, *payload, op, seq):", *map(str, arrived)]
    for label, rows in (("found", found), ("wanted", wanted)):
        lines += [f"{label}:", *(str(row) for row in sorted(rows, key=str) if row[0] == key)]
    raise AssertionError("\n".join([*lines, f"replayed {delivery.replayed} crashed {delivery.crashed}"]))


def _plain(value: Any) -> Any:
    """Return a struct sequence as the number that it was made from."""
    return value["high"] * 4 + value["low"] if isinstance(value, dict) else value


def check_intervals(rows: set[tuple[Any, ...]]) -> None:
    """Intervals of a key do not overlap, at most one is open, none is empty."""
    intervals: dict[Any, list[tuple[int, float]]] = defaultdict(list)
    for key, *_, start, end in rows:
        intervals[key].append((start, float("inf") if end is None else end))
    for of_key in intervals.values():
        of_key.sort()
        assert all(start < end for start, end in of_key)
        assert all(left[1] <= right[0] for left, right in itertools.pairwise(of_key))


@BOUNDED
@given(delivery=deliveries(truncates=True))
def test_scd1_is_the_latest_event_of_each_key(engine: SailEngine, delivery: Delivery) -> None:
    with Bench.of(engine, apply_as_truncates="op = 'truncate'") as bench:
        bench.deliver(delivery)
        check_rows(bench.rows(), scd.scd1(events_of(delivery.changes)), delivery)


@BOUNDED
@given(delivery=deliveries())
def test_scd2_is_the_runs_of_each_key(engine: SailEngine, delivery: Delivery) -> None:
    with Bench.of(engine, scd_type=2) as bench:
        bench.deliver(delivery)
        rows = bench.rows()
        check_rows(rows, scd.scd2(events_of(delivery.changes), tracked=(0, 1, 2)), delivery)
        check_intervals(rows)


@BOUNDED
@given(delivery=deliveries())
def test_scd2_with_untracked_columns_and_a_struct_sequence(engine: SailEngine, delivery: Delivery) -> None:
    with Bench.of(
        engine,
        scd_type=2,
        track_history_column_list=("name",),
        sequence_by="named_struct('high', seq DIV 4, 'low', seq % 4)",
    ) as bench:
        bench.deliver(delivery)
        rows = bench.rows()
        check_rows(rows, scd.scd2(events_of(delivery.changes), tracked=(1,)), delivery)
        check_intervals(rows)


@BOUNDED
@given(delivery=deliveries(truncates=True))
def test_scd1_with_ignored_nulls(engine: SailEngine, delivery: Delivery) -> None:
    with Bench.of(engine, apply_as_truncates="op = 'truncate'", ignore_null_updates=True) as bench:
        bench.deliver(delivery)
        check_rows(bench.rows(), scd.scd1(events_of(delivery.changes, keep=(0, 1, 2))), delivery)


@BOUNDED
@given(delivery=deliveries())
def test_scd2_with_nulls_ignored_in_some_columns(engine: SailEngine, delivery: Delivery) -> None:
    with Bench.of(
        engine, scd_type=2, ignore_null_updates=True, ignore_null_updates_except_column_list=("points",)
    ) as bench:
        bench.deliver(delivery)
        rows = bench.rows()
        check_rows(rows, scd.scd2(events_of(delivery.changes, keep=(0, 1)), tracked=(0, 1, 2)), delivery)
        check_intervals(rows)


@BOUNDED
@given(delivery=deliveries(), scd_type=st.sampled_from([1, 2]))
def test_a_full_refresh_gives_the_same_table_and_reports_every_tie(
    engine: SailEngine, delivery: Delivery, scd_type: int
) -> None:
    with Bench.of(engine, scd_type=scd_type) as bench:
        bench.deliver(delivery)
        before = bench.rows()
        changes = relation.local(rows_of(delivery.changes))
        result = bench.apply(changes, 0, restart=True)
        assert bench.rows() == before
        assert result.num_ties == scd.num_ties(events_of(delivery.changes))
        with contextlib.suppress(Died):
            bench.apply(changes, 1, restart=True, dies=True)
        bench.apply(relation.named("a_table_that_does_not_exist"), 1, restart=True)
        assert bench.rows() == before


@BOUNDED
@given(delivery=deliveries(), data=st.data(), scd_type=st.sampled_from([1, 2]))
def test_flows_of_one_target_whose_batches_come_in_any_order(
    engine: SailEngine, delivery: Delivery, data: st.DataObject, scd_type: int
) -> None:
    """Two flows, of which one ignores NULLs, take turns; each event keeps the rule of the flow that brought it.

    A batch that dies between its commits is finished when its flow has its next turn, after those of the other one.
    """
    with Bench.of(engine, scd_type=scd_type) as bench:
        plain, ignoring = bench.flow, replace(bench.flow, name="second", ignore_null_updates=True)
        events: list[scd.Event] = []
        unfinished: dict[str, int] = {}

        def finish() -> None:
            if bench.flow.name in unfinished:
                never_evaluated, batch_id = relation.named("no_table"), unfinished.pop(bench.flow.name)
                bench.apply(never_evaluated, batch_id, app_id=bench.flow.name, remember_all=True)

        for batch_id, rows in enumerate(delivery.batches):
            second = data.draw(st.booleans())
            bench.flow = ignoring if second else plain
            finish()
            dies = delivery.crashed[batch_id]
            try:
                changes = relation.local(rows_of(rows))
                bench.apply(changes, batch_id, app_id=bench.flow.name, remember_all=True, dies=dies)
            except Died:
                unfinished[bench.flow.name] = batch_id
            events += events_of(rows, keep=(0, 1, 2) if second else ())
        for bench.flow in (plain, ignoring):
            finish()
        # Of two events that differ in the rule only, one that keeps NULLs counts.
        events.sort(key=lambda event: bool(event["keep"]))
        wanted = scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2))
        differing = [row for row in bench.rows() ^ wanted if not _mixed_tie(events, row[0])]
        assert differing == []


def _mixed_tie(events: list[scd.Event], key: Any) -> bool:
    """Return whether equal payloads of a key came under both rules at one sequence: that tie has an order of its own."""
    seen: dict[Any, set[bool]] = defaultdict(set)
    for event in events:
        if event["key"] == key and event["op"] == "upsert":
            seen[event["seq"], event["values"]].add(bool(event["keep"]))
    return any(len(found) > 1 for found in seen.values())


@BOUNDED
@given(delivery=deliveries(), scd_type=st.sampled_from([1, 2]))
def test_ignored_nulls_in_the_fields_of_a_struct(engine: SailEngine, delivery: Delivery, scd_type: int) -> None:
    """The specification does not know structs: it sees their fields as columns of their own."""
    address = pa.struct([("city", pa.string()), ("name", pa.string())])
    columns = pa.schema([COLUMNS.field("id"), ("address", address), *(COLUMNS.field(at) for at in (3, 4, 5))])
    with Bench.of(engine, scd_type=scd_type, ignore_null_updates=True) as bench:
        for batch_id, rows in enumerate(delivery.batches):
            flat = rows_of(rows)
            structs = [
                None if city is None and name is None else {"city": city, "name": name} for _, city, name, *_ in rows
            ]
            nested = flat.drop_columns(["city", "name"]).add_column(1, "address", pa.array(structs, address))
            bench.apply(relation.local(nested), batch_id, columns=columns)
        table = DeltaRsStore().open(bench.target)
        assert table is not None
        interval = ["__START_AT", "__END_AT"] if scd_type == 2 else []
        nothing = {"city": None, "name": None}
        found = {
            (row["id"], *(row["address"] or nothing).values(), row["points"], *(row[name] for name in interval))
            for row in table.rows().to_pylist()
        }
        events = events_of(delivery.changes, keep=(0, 1, 2))
        wanted = scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2))
        check_rows(found, wanted, delivery)


listed = st.one_of(st.none(), st.lists(st.sampled_from(["city", "NAME", "points", "elsewhere"]), max_size=3))


@BOUNDED
@given(delivery=deliveries(), data=st.data(), scd_type=st.sampled_from([1, 2]))
def test_events_that_set_some_columns(
    engine: SailEngine, delivery: Delivery, data: st.DataObject, scd_type: int
) -> None:
    columns = COLUMNS.append(pa.field("cols", pa.list_(pa.string())))
    with Bench.of(engine, scd_type=scd_type) as bench:
        bench.flow = replace(bench.flow, columns_to_update="cols", except_column_list=("op", "seq", "cols"))
        events: list[scd.Event] = []
        unique: set[tuple[Any, Any]] = set()
        for batch_id, batch in enumerate(delivery.batches):
            rows = []
            for row in batch:  # ties have an order of their own, which the other laws check
                if (row[0], row[-1]) not in unique:
                    unique.add((row[0], row[-1]))
                    rows.append(row)
            names = [data.draw(listed) for _ in rows]
            given_rows = rows_of(rows).append_column(columns.field("cols"), pa.array(names, pa.list_(pa.string())))
            bench.apply(relation.local(given_rows), batch_id, columns=columns)
            for event, listing in zip(events_of(rows), names, strict=True):
                lower = None if listing is None else {name.lower() for name in listing}
                sets = None if lower is None else tuple(at for at, name in enumerate(PAYLOAD) if name in lower)
                events.append({**event, "sets": sets})
        wanted = scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2))
        assert bench.rows() == wanted


@BOUNDED
@given(delivery=deliveries(), data=st.data(), scd_type=st.sampled_from([1, 2]))
def test_deletes_that_are_forgotten(engine: SailEngine, delivery: Delivery, data: st.DataObject, scd_type: int) -> None:
    """Before each batch the deletes that are older than a minute are forgotten; closed rows of a history stay."""
    start, minute = datetime(2024, 1, 1, tzinfo=UTC), 60
    with Bench.of(engine, scd_type=scd_type) as bench:
        at = 0
        events: list[scd.Event] = []
        for batch_id, rows in enumerate(delivery.batches):
            at += data.draw(st.sampled_from([1, 30, 61, 200]))
            now = start + timedelta(seconds=at)
            bench.apply(
                relation.local(rows_of(rows)), batch_id, now=now, forget_deletes_after=timedelta(seconds=minute)
            )
            events = scd.remembered(events, scd_type=scd_type, before=at - minute)
            events += [{**event, "at": at} for event in _unseen(events, rows)]
        wanted = scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2))
        check_rows(bench.rows(), wanted, delivery)


def _unseen(events: list[scd.Event], rows: list[tuple[Any, ...]]) -> list[scd.Event]:
    """Return the events of rows that are no repetition of one that is remembered; that keeps its time."""
    known = [{name: value for name, value in event.items() if name != "at"} for event in events]
    return [event for event in events_of(rows) if event not in known]


snapshots = st.lists(
    st.dictionaries(
        st.integers(0, 25),
        st.tuples(st.sampled_from([None, "rome", "oslo"]), st.sampled_from([None, 0, 1])),
        max_size=25,
    ),
    min_size=1,
    max_size=5,
)


@settings(BOUNDED, max_examples=10)
@given(taken=snapshots, split=st.integers(0, 5), scd_type=st.sampled_from([1, 2]), tracked=st.booleans())
def test_snapshots(
    engine: SailEngine, taken: list[dict[Any, tuple[Any, ...]]], split: int, scd_type: int, tracked: bool
) -> None:
    """Some snapshots in one update, the rest in the next; what changed between them is a history like any other."""
    lists = '["city"]' if tracked and scd_type == 2 else "None"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "spark-pipeline.yml").write_text(SNAPSHOT_SPEC)
        (root / "t.py").write_text(SNAPSHOT_FLOW.format(folder=folder, scd_type=scd_type, tracked=lists))
        for end in sorted({max(1, min(split, len(taken))), len(taken)}):
            ready = [[number, [[key, *values] for key, values in rows.items()]] for number, rows in enumerate(taken, 1)]
            (root / "versions.json").write_text(json.dumps(ready[:end]))
            result = Pipeline(root, engine=engine).run()
            assert result.exit_code == 0, [error.render() for error in result.errors]
        events = scd.snapshot_events(list(enumerate(taken, 1)))
        names = ["id", "city", "points", *(["__START_AT", "__END_AT"] if scd_type == 2 else [])]
        found = {tuple(row[name] for name in names) for row in Pipeline(root, engine=engine).table("t").to_pylist()}
        columns = (0,) if tracked else (0, 1)
        assert found == (scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=columns))
        version = latest_version(str(root / "data" / "tables" / "spark_catalog" / "default" / "t"))
        assert Pipeline(root, engine=engine).run().flows[0].batches == 0
        assert latest_version(str(root / "data" / "tables" / "spark_catalog" / "default" / "t")) == version


SNAPSHOT_SPEC = "name: shop\nstorage: data\nlibraries:\n  - glob:\n      include: t.py\n"
SNAPSHOT_FLOW = """
import json, pathlib
from pyspark import pipelines as dp

def following(latest):
    found = json.loads(pathlib.Path({folder!r}, "versions.json").read_text())
    for version, rows in found:
        if latest is None or version > latest:
            return spark.createDataFrame([tuple(row) for row in rows], "id BIGINT, city STRING, points BIGINT"), version

dp.create_streaming_table("t")
dp.create_auto_cdc_from_snapshot_flow(
    target="t", source=following, keys=["id"], stored_as_scd_type={scd_type}, track_history_column_list={tracked}
)
"""
