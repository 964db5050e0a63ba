"""AUTO CDC on a cluster that writes Delta tables itself: no row comes here, and the tables are those of the embedded engine."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.behaviour.test_auto_cdc_flows import land, warnings_of, write
from tests.property.test_auto_cdc_laws import Bench, events_of, rows_of
from tests.reference import scd

from lakelet.engine.base import Engine
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import SailEngine
from lakelet.plan import relation as plan
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_rs_table import DeltaRsTable
from lakelet.storage.delta_spark import DeltaSparkStore, stage

pytestmark = pytest.mark.feature("AUTO CDC in the cluster")


@pytest.fixture(autouse=True)
def _needs_cluster_writes(engine: Engine) -> None:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")


@pytest.fixture
def embedded() -> Iterator[SailEngine]:
    engine = SailEngine()
    yield engine
    engine.close()


def bench(engine: Any, folder: Path, **options: Any) -> Bench:
    made = Bench(engine, str(folder), **options)
    made.store_of = lambda: DeltaSparkStore(engine)  # type: ignore[method-assign]
    return made


def history(seed: int, *, truncates: bool) -> list[list[tuple[Any, ...]]]:
    """Return batches of changes of forty keys: late ones, repeated ones, ties, deletes."""
    rng = random.Random(seed)

    def change() -> tuple[Any, ...]:
        if truncates and rng.random() < 0.01:
            return (None, None, None, None, "truncate", rng.randrange(30))
        city, name = rng.choice([None, "rome", "oslo"]), rng.choice([None, "ann", "bob"])
        op = "delete" if rng.random() < 0.2 else "upsert"
        return (rng.randrange(40), city, name, rng.choice([None, 0, 1]), op, rng.randrange(30))

    batches = [[change() for _ in range(rng.randrange(1, 80))] for _ in range(4)]
    batches[-1] += rng.sample(batches[0], k=len(batches[0]) // 2)
    return batches


@pytest.mark.parametrize("scd_type", [1, 2])
def test_a_flow_that_changes_its_engine_with_every_batch_has_the_rows_of_the_specification(
    engine: ConnectEngine, embedded: SailEngine, tmp_path: Path, scd_type: int
) -> None:
    options = {"apply_as_truncates": "op = 'truncate'"} if scd_type == 1 else {"scd_type": 2}
    batches = history(scd_type, truncates=scd_type == 1)
    on_cluster, here = bench(engine, tmp_path, **options), Bench(embedded, str(tmp_path), **options)
    for number, rows in enumerate(batches):
        result = (on_cluster if number % 2 else here).apply(plan.local(rows_of(rows)), number)
        assert result.num_input_rows == len(rows)
    events = events_of([row for rows in batches for row in rows])
    assert here.rows() == (scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2)))
    again = on_cluster.apply(plan.named("nothing_is_evaluated_again"), 3)
    assert (again.num_upserted_rows, again.num_deleted_rows) == (0, 0)


ROWS = 20_000


@pytest.mark.parametrize("scd_type", [1, 2])
def test_no_row_comes_here(
    engine: ConnectEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scd_type: int
) -> None:
    """Of a batch this process sees counts; it neither collects rows nor reads or writes data files."""
    source = DeltaRsStore().create(str(tmp_path / "source"), TableDefinition(schema=rows_of([]).schema))
    for late in (False, True):
        numbers = range(ROWS)
        source.append(
            rows_of(
                [(n % 5000, "rome", f"n{n}", n, "delete" if n % 7 == 0 else "upsert", n * 2 - late) for n in numbers]
            )
        )
    flow = bench(engine, tmp_path, **({"scd_type": 2} if scd_type == 2 else {}))
    collected: list[int] = []
    collect = engine.collect

    def counted(relation: plan.Relation) -> pa.Table:
        rows = collect(relation)
        collected.append(rows.num_rows)
        return rows

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("rows pass through this process")

    monkeypatch.setattr(engine, "collect", counted)
    monkeypatch.setattr(engine, "stream", never)
    for name in ("rows", "rows_of", "rows_between", "recent_rows", "change", "split_points"):
        monkeypatch.setattr(DeltaRsTable, name, never)
    for batch, version in enumerate((1, 2)):
        result = flow.apply(plan.delta(source.location, version), batch)
        assert result.num_input_rows == ROWS * version
    assert sum(collected) <= 10
    monkeypatch.undo()
    events = events_of([tuple(row.values()) for row in source.rows().to_pylist()])
    assert flow.rows() == (scd.scd1(events) if scd_type == 1 else scd.scd2(events, tracked=(0, 1, 2)))


def test_workers_without_pyarrow_leave_the_rows_to_this_process_which_says_so(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    can = dataclasses.replace(project.engine.capabilities, arrow_functions=False)
    monkeypatch.setattr(project.engine, "capabilities", can)
    write(project, "stored_as_scd_type=2")
    land(project, "id op seq name\n1 U 1 ann\n1 U 2 bob\n2 U 1 eve\n2 D 3 -")
    project.ok()
    names = ["id", "name", "__START_AT", "__END_AT"]
    assert project.rows("t", *names) == [(1, "ann", 1, 2), (1, "bob", 2, None), (2, "eve", 1, 3)]
    (text,) = warnings_of(project)
    assert "changes of AUTO CDC pass through this process" in text and "with pyarrow" in text


def test_fields_of_a_struct_are_staged_by_their_names(engine: ConnectEngine, tmp_path: Path) -> None:
    wide = pa.schema([("id", pa.int64()), ("at", pa.struct([("x", pa.int64()), ("y", pa.list_(pa.int64()))]))])
    rows = plan.sql("SELECT 1L AS ID, struct(array(2, 3) AS Y, 1 AS X) AS at")
    incoming = pa.schema([("ID", pa.int64()), ("at", pa.struct([("Y", pa.list_(pa.int32())), ("X", pa.int32())]))])
    folder = str(tmp_path / "st{a,b}ged [1]*")  # no pattern
    measures = {"n": plan.expression("count(*)"), "named": plan.expression("count_if(at.x = 1)")}
    staged, counts = stage(engine, folder, rows, incoming, wide, measures)
    assert counts == {"n": 1, "named": 1}
    assert engine.collect(staged).to_pylist() == [{"id": 1, "at": {"x": 1, "y": [2, 3]}}]


def test_all_rows_of_some_keys_are_replaced_in_one_commit_that_a_replay_does_not_repeat(
    engine: ConnectEngine, tmp_path: Path
) -> None:
    table = DeltaSparkStore(engine).create(
        str(tmp_path / "table"), TableDefinition(schema=pa.schema([("k", pa.int64()), ("v", pa.string())]))
    )
    table.append(pa.table({"k": [1, 1, 2], "v": ["a", "b", "c"]}))
    rows = plan.sql(
        "SELECT 1L AS k, CAST(NULL AS STRING) AS v, 'D' AS __op UNION ALL SELECT 1L, 'new', 'I' "
        "UNION ALL SELECT 1L, 'newer', 'I' UNION ALL SELECT 3L, CAST(NULL AS STRING), 'D'"
    )
    for _ in range(2):
        table.replace_keys_query(rows, ["k", "v", "__op"], keys=("k",), receipt=Receipt(app_id="a", batch_id=0))
    found = sorted((row["k"], row["v"]) for row in table.rows().to_pylist())
    assert found == [(1, "new"), (1, "newer"), (2, "c")]
    assert table.version == 2


def test_maintenance_puts_the_files_of_both_tables_together(project: Any) -> None:
    write(project, "stored_as_scd_type=2")
    for seq in (1, 2, 3):
        land(project, f"id op seq name\n1{seq} U {seq} ann\n1 U {seq} n{seq}")
        project.ok()
    folders = [project.folder("t"), project.root / "data" / "_auxiliary" / "spark_catalog" / "default" / "t"]
    before = [len(DeltaTable(str(folder)).file_uris()) for folder in folders]
    project.pipeline().maintain(retention_hours=0, allow_short_retention=True)
    assert [len(DeltaTable(str(folder)).file_uris()) for folder in folders] == [1, 1] < before
    land(project, "id op seq name\n1 D 9 -")
    project.ok()
    assert warnings_of(project) == []
    assert project.rows("t", "id", "name", "__START_AT", "__END_AT") == [
        (1, "n1", 1, 2),
        (1, "n2", 2, 3),
        (1, "n3", 3, 9),
        (11, "ann", 1, None),
        (12, "ann", 2, None),
        (13, "ann", 3, None),
    ]
