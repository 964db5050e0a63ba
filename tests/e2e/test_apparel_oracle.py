"""The flagship against its oracle: every row of every table, and every count of every rule.

`tests/reference/apparel_play.py` writes the landing zone and runs updates in random turns, and
`tests/reference/apparel_oracle.py` computes in DuckDB what must come of it. Repeat a run with
`APPAREL_SEED=<seed>`; every failure shows the seed.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.reference.apparel_oracle import (
    GRAIN,
    KEYS,
    LAST_DIGIT,
    TABLES,
    Oracle,
    checkpoints,
    data_files,
    intents,
    reported,
    table_of,
    versions,
)
from tests.reference.apparel_play import EDGE, PIPELINE, Play, generator, seed_of_this_run

from apparel.generator.settings import Dirt, Span
from lakelet import faults
from lakelet.events.model import FlowStatus, UpdateState
from lakelet.pipeline import Pipeline, RefreshSelection, UpdateResult

REPOSITORY = Path(__file__).parents[2]
SEED = seed_of_this_run()
SALES_TO_GOLD = {
    "01_bronze.bronze_sales",
    "02_silver.silver_sales_transactions",
    "02_silver.silver_returns_transactions",
    "03_gold.denormalized_sales_facts",
    *GRAIN,
}


@pytest.fixture(autouse=True)
def _say_the_seed() -> None:
    print(f"APPAREL_SEED={SEED}")  # noqa: T201 pytest shows it with a failure


def check(storage: Path, *, tables: Sequence[str] = TABLES, counts: bool = True, stepped_over: bool = False) -> Oracle:
    """Compare all tables and all counts with the oracle."""
    oracle = Oracle(storage, stepped_over=stepped_over)
    differences = [text for table in tables for text in oracle.differences(table)]
    assert not differences, "\n".join([f"APPAREL_SEED={SEED}", *differences])
    if counts:
        assert miscounted(storage, oracle) == {}
    return oracle


def miscounted(storage: Path, oracle: Oracle) -> dict[Any, Any]:
    """Return what the event log says and what it should, where they differ; a rule without rows counts nothing."""
    rules, dropped = reported(storage)
    found: dict[Any, Any] = {}
    for said, expected, nothing in ((rules, oracle.expectations(), (0, 0)), (dropped, oracle.dropped(), 0)):
        for name in {**said, **expected}:
            if said.get(name, nothing) != expected.get(name, "no such rule"):
                found[name] = {"reported": said.get(name, nothing), "expected": expected.get(name)}
    return found


def run_elsewhere(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Play in a process of its own."""
    path = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-m", "tests.reference.apparel_play", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )


# -- one play, and what is true of it ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A play in which the oracle was asked after every update."""
    play = Play(tmp_path_factory.mktemp("played"), SEED)
    for update in play.steps():
        assert update.exit_code == 0, update.errors
        check(play.storage)
        check_names_were_the_newest(play.storage, update)
    yield play
    play.close()


def check_names_were_the_newest(storage: Path, update: UpdateResult) -> None:
    """The batches of facts in this update were joined with what the dimensions are at its end."""
    table = "03_gold.denormalized_sales_facts"
    (outcome,) = [flow for flow in update.flows if flow.dataset == table]
    source = table_of(storage, "02_silver.silver_sales_transactions")
    newest = {
        f"silver_{name}": DeltaTable(str(table_of(storage, f"02_silver.silver_{name}"))).version() for name in KEYS
    }
    for batch in intents(storage, table, source)[-outcome.batches :] if outcome.batches else []:
        assert batch.versions == newest


def test_every_update_of_the_play_agrees_with_the_oracle(played: Play) -> None:
    assert played.updates
    check(played.storage)


def test_the_play_breaks_every_rule_that_can_break(played: Play) -> None:
    counts = Oracle(played.storage).expectations()
    never = {rule for (_, _, rule), (_, failed) in counts.items() if failed == 0}
    broken = {rule for (_, _, rule), (_, failed) in counts.items() if failed}
    # A NULL key stops bronze, and a store without a manager has become 'Unknown' before the rule looks.
    in_vain = {"valid_transaction_id", "valid_customer_id", "valid_product_id", "valid_store_id", "valid_manager_name"}
    assert never <= in_vain
    assert broken == {rule for _, _, rule in counts} - {"valid_transaction_id", "valid_manager_name"}


def test_the_play_has_the_histories_that_are_hard(played: Play) -> None:
    """Late events, ties with another payload, sales without a name; else the oracle agrees about little."""
    oracle = Oracle(played.storage)
    (late,) = oracle.rows("""
        SELECT count(*) AS n FROM expected_bronze_customers a JOIN expected_bronze_customers b USING (customer_id)
        WHERE a.ingest_timestamp < b.ingest_timestamp AND a.last_update_time > b.last_update_time""")
    (ties,) = oracle.rows("""
        SELECT count(*) AS n FROM (SELECT customer_id FROM landing_customers GROUP BY customer_id, last_update_time
        HAVING count(DISTINCT (name, email, address, phone_number, age)) > 1)""")
    (versions_of_one,) = oracle.rows(
        "SELECT max(n) AS n FROM (SELECT count(*) AS n FROM expected_silver_customers GROUP BY customer_id)"
    )
    (nameless,) = oracle.rows("SELECT count(*) AS n FROM expected_denormalized_sales_facts WHERE customer_name IS NULL")
    assert (late["n"] > 0, ties["n"] >= 3, versions_of_one["n"] >= 4, nameless["n"] > 0) == (True, True, True, True)


def test_a_history_written_out(played: Play) -> None:
    """The odd customer 900001, whose events came in two commits and out of order."""
    rows = pl.read_delta(str(table_of(played.storage, "02_silver.silver_customers")))
    # The generator changes known customers, this one too, but only in the new year.
    of_last_year = (pl.col("customer_id") == 900_001) & (pl.col("__START_AT") < EDGE)
    mine = rows.filter(of_last_year).sort("__START_AT").rows(named=True)
    start = mine[1]["__START_AT"]
    found = [
        (
            row["name"],
            row["email"],
            row["address"],
            row["age"],
            row["gender"],
            (row["__START_AT"] - start).total_seconds(),
        )
        for row in mine
    ]
    assert found == [
        ("First Odd", "ann@odd.example", None, 40, "Other", -10.0),
        ("Ann Odd", "ann@odd.example", "1 Odd Street", 40, "Other", 0.0),
        ("Late Odd", "late@odd.example", "1 Odd Street", 40, "Other", 10.0),
        ("Ann Odd", "ann@odd.example", "1 Odd Street", 17, "Other", 40.0),
        ("Ann Odd", "ann@odd.example", "9 Odd Street", 101, "X", 60.0),
        ("Ann Odd", "ann@odd.example", "1 Odd Street", 18, "Other", 80.0),
    ]
    assert [row["__END_AT"] for row in mine[:-1]] == [row["__START_AT"] for row in mine[1:]]


def test_a_second_run_without_new_input_commits_nothing(played: Play) -> None:
    before = versions(played.storage), checkpoints(played.storage)
    assert played.update().exit_code == 0
    assert (versions(played.storage), checkpoints(played.storage)) == before


@pytest.mark.parametrize("table", TABLES)
def test_every_table_opens_elsewhere_from_its_path(played: Play, table: str) -> None:
    location = str(table_of(played.storage, table))
    rows = DeltaTable(location).to_pyarrow_table()
    (duck,) = duckdb.sql(f"SELECT count(*) FROM read_parquet({data_files(Path(location))!r})").fetchall()
    frame = pl.read_delta(location)
    assert (rows.num_rows, frame.height, pl.scan_delta(location).collect().height) == (duck[0],) * 3
    assert frame.columns == rows.column_names
    assert rows.num_rows > 0


def test_bronze_and_silver_have_the_declared_types(played: Play) -> None:
    schema = pa.schema(DeltaTable(str(table_of(played.storage, "01_bronze.bronze_sales"))).schema().to_arrow())
    time = pa.timestamp("us", "UTC")
    assert [str(field.type) for field in schema] == [
        *("int32", "int32", str(time), "int32", "int32", "int32", "double", "double", "string", "double", "double"),
        *(str(time), "string"),
    ]


# -- the same play again, elsewhere -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played_in_new_york(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same play, in a process whose time zone is not UTC."""
    storage = tmp_path_factory.mktemp("new_york")
    done = run_elsewhere(str(storage), str(SEED), TZ="America/New_York")
    assert done.returncode == 0 and set(done.stdout.split()) == {"COMPLETED"}, done.stderr + done.stdout
    return storage


def test_another_time_zone_agrees_with_the_oracle(played_in_new_york: Path) -> None:
    oracle = check(played_in_new_york)
    # 2 o'clock in UTC is the evening before in New York.
    assert {
        row["d"] for row in oracle.rows("SELECT DISTINCT sale_date AS d FROM expected_gold_daily_sales_by_store")
    } >= {date(2026, 1, 1)}


@pytest.mark.parametrize("table", ["03_gold.denormalized_sales_facts", *GRAIN])
def test_the_same_seed_gives_the_same_gold(played: Play, played_in_new_york: Path, table: str) -> None:
    one, other = (_sorted_rows(storage, table) for storage in (played.storage, played_in_new_york))
    assert len(one) == len(other)
    assert [row for row, again in zip(one, other, strict=True) if not _alike(row, again)] == []


def _sorted_rows(storage: Path, table: str) -> list[tuple[Any, ...]]:
    rows = pl.read_delta(str(table_of(storage, table)))
    exact = [name for name in rows.columns if rows.schema[name] != pl.Float64]
    return rows.sort([*exact, *rows.columns], nulls_last=True).rows()


def _alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    return all(
        abs(a - b) <= LAST_DIGIT * 1.0001 if isinstance(a, float) and isinstance(b, float) else a == b
        for a, b in zip(one, other, strict=True)
    )


def test_a_full_refresh_of_everything_agrees_with_the_oracle(played_in_new_york: Path) -> None:
    """Comes last for this storage: all sales are joined anew, with the newest names."""
    with Pipeline(PIPELINE, storage=played_in_new_york) as pipeline:
        assert pipeline.run(selection=RefreshSelection(full_refresh_all=True)).exit_code == 0
        check(played_in_new_york, counts=False)
        before = versions(played_in_new_york)
        assert pipeline.run().exit_code == 0
    assert versions(played_in_new_york) == before


# -- without dirt -----------------------------------------------------------------------------------------------------


def test_without_dirt_no_sale_lacks_a_name_while_the_pipeline_runs_beside_the_generator(tmp_path: Path) -> None:
    """A slice of sales never overtakes the dimension rows that had landed before it."""
    clean = generator(tmp_path, seed=SEED, dirt=Dirt(), sales_per_batch=30)
    clean.write_batch()
    stop, rounds = threading.Event(), threading.Semaphore(0)

    def count_rounds(event: Any) -> None:
        flow, details = event.origin.get("flow_name"), event.details
        if flow == "03_gold.denormalized_sales_facts" and details.get("metrics"):
            rounds.release()

    def write() -> None:
        for _ in range(16):
            clean.write_batch()
        # The pipeline has seen some of them, and what it has not seen comes next.
        for _ in range(3):
            rounds.acquire(timeout=30)
        stop.set()

    configuration = {"pipelines.trigger.interval": "10 milliseconds", "lakelet.maxBytesPerTrigger": "12kb"}
    with Pipeline(PIPELINE, storage=tmp_path, configuration=configuration) as pipeline:
        writer = threading.Thread(target=write)
        writer.start()
        result = pipeline.run(continuous=True, subscribers=[count_rounds], stop=stop)
        writer.join()
        assert result.state is UpdateState.CANCELED, result.errors
        assert pipeline.run().exit_code == 0
    facts = pl.read_delta(str(table_of(tmp_path, "03_gold.denormalized_sales_facts")))
    assert facts.height > 300
    assert facts.filter(pl.any_horizontal(pl.col("customer_name", "product_name", "store_name").is_null())).rows() == []
    assert facts["transaction_id"].n_unique() == facts.height


# -- a row that stops its flow ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A storage whose first batch went well and whose second has sales without an id."""
    play = Play(tmp_path_factory.mktemp("poisoned"), SEED)
    good = generator(play.storage, seed=SEED)
    good.write_batch()
    assert play.update().exit_code == 0
    yield play
    play.close()


def statuses(update: UpdateResult) -> dict[FlowStatus, set[str]]:
    """Return which datasets ended in each status."""
    found: dict[FlowStatus, set[str]] = {}
    for flow in update.flows:
        found.setdefault(flow.status, set()).add(flow.dataset)
    return found


def table_versions(storage: Path, tables: set[str]) -> dict[str, int]:
    return {table: DeltaTable(str(table_of(storage, table))).version() for table in tables}


def test_a_null_id_stops_its_flow_for_good_and_nobody_else(poisoned: Play) -> None:
    storage = poisoned.storage
    generator(storage, seed=SEED, dirt=Dirt(null_sale_key_rate=0.5)).write_batch()
    before = table_versions(storage, SALES_TO_GOLD)
    update = poisoned.update()
    assert statuses(update) == {
        FlowStatus.FAILED: {"01_bronze.bronze_sales"},
        FlowStatus.SKIPPED: SALES_TO_GOLD - {"01_bronze.bronze_sales"},
        FlowStatus.COMPLETED: set(TABLES) - SALES_TO_GOLD,
    }
    (error,) = update.errors
    assert error.condition.startswith("EXPECTATION_VIOLATION")
    assert "valid_transaction_id" in str(error)
    assert update.exit_code == 1

    # Another batch, without a flaw, does not help: the flow is not past the poisoned one.
    generator(storage, seed=SEED + 1).write_batch()
    again = poisoned.update()
    assert (again.exit_code, statuses(again)) == (1, statuses(update))
    assert table_versions(storage, SALES_TO_GOLD) == before
    check(storage, tables=tuple(table for table in TABLES if table not in SALES_TO_GOLD), counts=False)


def test_a_repair_steps_over_the_poisoned_rows_on_the_record(poisoned: Play) -> None:
    """Follows the test above, whose storage it mends."""
    pipeline = poisoned.pipeline()
    (stuck,) = pipeline.repair("01_bronze.bronze_sales", drop_rows=True)
    assert stuck.stepped_over
    assert poisoned.update().exit_code == 0
    oracle = check(poisoned.storage, stepped_over=True)
    _, failed = oracle.expectations()["01_bronze.bronze_sales", "01_bronze.bronze_sales", "valid_transaction_id"]
    assert failed > 0
    assert any("without its invalid rows" in message for message in pipeline.events()["message"].to_pylist())


@pytest.mark.parametrize("name", KEYS)
def test_a_null_id_in_a_dimension_keeps_sales_out_of_gold_only(tmp_path: Path, name: str) -> None:
    generator(tmp_path, seed=SEED).write_batch()
    rates = {f"null_{name.removesuffix('s')}_key_rate": 1.0}
    changes = {f"{name.removesuffix('s')}_changes": Span(3, 3)}
    generator(tmp_path, seed=SEED, dirt=Dirt(**rates), **changes).write_batch()
    with Pipeline(PIPELINE, storage=tmp_path, configuration={"lakelet.maxBytesPerTrigger": "1b"}) as pipeline:
        update = pipeline.run()
    skipped = {f"02_silver.silver_{name}", "03_gold.denormalized_sales_facts", *GRAIN}
    assert statuses(update) == {
        FlowStatus.FAILED: {f"01_bronze.bronze_{name}"},
        FlowStatus.SKIPPED: skipped,
        FlowStatus.COMPLETED: set(TABLES) - skipped - {f"01_bronze.bronze_{name}"},
    }
    # The commits before the poisoned one are in bronze, each a batch of its own.
    stored = pl.read_delta(str(table_of(tmp_path, f"01_bronze.bronze_{name}")))
    assert stored.height > 0
    assert stored[KEYS[name]].null_count() == 0
    assert set(table_versions(tmp_path, skipped).values()) == {0}


# -- killed at each point ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Play]:
    """A storage on which updates die, one after the other."""
    play = Play(tmp_path_factory.mktemp("mortal"), SEED)
    generator(play.storage, seed=SEED).write_batch()
    assert play.update().exit_code == 0
    yield play
    play.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """What an update left behind that was killed at a point, after the next update had mended it."""

    point: str
    exit_code: int
    differences: list[str]
    miscounted: dict[Any, Any]


@pytest.fixture(scope="module", params=faults.POINTS)
def death(mortal: Play, counted_before: dict[str, Any], request: pytest.FixtureRequest) -> Death:
    """A process that ends at the first pass of a point as if it were killed, and an ordinary update after it."""
    generator(mortal.storage, seed=SEED).write_batch()
    killed = run_elsewhere(str(mortal.storage), LAKELET_CRASH_AT=request.param)
    assert mortal.update().exit_code == 0
    oracle = Oracle(mortal.storage)
    found = miscounted(mortal.storage, oracle)
    more = {rule: count for rule, count in found.items() if rule not in counted_before}
    counted_before |= found
    differences = [text for table in TABLES for text in oracle.differences(table)]
    return Death(point=request.param, exit_code=killed.returncode, differences=differences, miscounted=more)


@pytest.fixture(scope="module")
def counted_before() -> dict[str, Any]:
    """Rules whose counts are wrong since an earlier death."""
    return {}


def test_an_update_passes_the_point(death: Death) -> None:
    assert death.exit_code == 137


def test_a_process_killed_at_a_point_loses_and_doubles_nothing(death: Death) -> None:
    assert death.differences == []


def test_a_process_killed_at_a_point_counts_every_row_once(death: Death) -> None:
    assert death.miscounted == {}


class Killed(BaseException):
    """Not an error that anybody handles."""


def test_an_update_that_dies_at_any_pass_of_any_point_loses_and_doubles_nothing(tmp_path: Path) -> None:
    play, draw, deaths = Play(tmp_path, SEED), random.Random(SEED), 0
    for _ in range(4):
        generator(tmp_path, seed=SEED).write_batch()
        left = draw.randrange(30)
        passed: list[str] = []

        def die(point: str, passed: list[str] = passed, left: int = left) -> None:
            passed.append(point)
            if len(passed) > left:
                raise Killed

        with faults.installed(die), contextlib.suppress(Killed):
            play.update()
        deaths += len(passed) > left
        assert play.update().exit_code == 0
        check(tmp_path, counts=False)
    play.close()
    assert deaths
