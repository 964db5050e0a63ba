"""Writes that the engine does itself: each with its receipt, counted in the same job, nothing where a rule fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakelet.engine.base import Engine
from lakelet.errors import ExpectationViolation, Origin
from lakelet.execution.expectations import Quality
from lakelet.execution.writing import ClusterRows
from lakelet.graph.elements import Action, Dataset, DatasetKind, Expectation
from lakelet.names import TableName
from lakelet.plan import relation as plan
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_spark import DeltaSparkStore, DeltaSparkTable

pytestmark = pytest.mark.feature("Writes and MERGE in the cluster")

COLUMNS = pa.schema([("id", pa.int64()), ("name", pa.string())])


@pytest.fixture(autouse=True)
def _needs_cluster_writes(engine: Engine) -> None:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")


@pytest.fixture
def table(engine: Engine, tmp_path: Path) -> DeltaSparkTable:
    return DeltaSparkStore(engine).create(str(tmp_path / "table"), TableDefinition(schema=COLUMNS))


def pending(engine: Engine, quality: Quality, query: str, **rules: tuple[str, Action]) -> ClusterRows:
    dataset = Dataset(
        name=TableName(catalog="spark_catalog", schema="default", name="orders"),
        kind=DatasetKind.STREAMING_TABLE,
        origin=Origin(file="orders.py", line=1),
        expectations=tuple(
            Expectation(name=name, condition=text, action=action, origin=Origin())
            for name, (text, action) in rules.items()
        ),
    )
    return ClusterRows(engine, plan.sql(query), dataset, "orders", quality)


def counts(quality: Quality) -> dict[str, tuple[int, int]]:
    assert quality.result is not None
    return {rule.name: (rule.passed_records, rule.failed_records) for rule in quality.result.expectations}


def rows(table: DeltaSparkTable) -> list[dict[str, Any]]:
    """Return the rows as another reader sees them."""
    again = DeltaRsStore().open(table.location)
    assert again is not None
    return sorted(again.rows().to_pylist(), key=lambda row: row["id"])


def test_rows_receipt_and_counts_come_of_one_commit(engine: Engine, table: DeltaSparkTable) -> None:
    quality = Quality()
    query = "SELECT id, CASE WHEN id > 0 THEN concat('n', id) END AS name FROM range(5)"
    rules = {"named": ("name IS NOT NULL", Action.WARN), "small": ("id < 3", Action.DROP)}
    written = pending(engine, quality, query, **rules).append(
        table, receipt=Receipt(app_id="flow", batch_id=0), evolve=False
    )
    assert (written, quality.num_rows) == (3, 5)
    assert counts(quality) == {"named": (4, 1), "small": (3, 2)}
    assert rows(table) == [{"id": 0, "name": None}, {"id": 1, "name": "n1"}, {"id": 2, "name": "n2"}]
    assert (table.version, table.batch_id("flow")) == (1, 0)


def test_a_batch_that_is_there_is_not_written_again_and_still_counted(engine: Engine, table: DeltaSparkTable) -> None:
    receipt = Receipt(app_id="flow", batch_id=0)
    for _ in range(2):
        quality = Quality()
        query = "SELECT id, CAST(NULL AS STRING) AS name FROM range(5)"
        again = pending(engine, quality, query, small=("id < 3", Action.DROP))
        assert again.append(table, receipt=receipt, evolve=False) == 3
        assert counts(quality) == {"small": (3, 2)}
    assert (table.version, len(rows(table))) == (1, 3)


def test_no_rows_still_commit_their_receipt(engine: Engine, table: DeltaSparkTable) -> None:
    nothing = pending(engine, Quality(), "SELECT id, 'x' AS name FROM range(5) WHERE id < 0")
    assert nothing.append(table, receipt=Receipt(app_id="flow", batch_id=4), evolve=False) == 0
    assert (table.version, table.batch_id("flow"), rows(table)) == (1, 4, [])


def test_a_fail_rule_commits_nothing_and_shows_rows_even_those_that_a_drop_rule_would_hide(
    engine: Engine, table: DeltaSparkTable
) -> None:
    broken = pending(
        engine,
        Quality(),
        "SELECT id, 'x' AS name FROM range(1000)",
        low=("id < 998", Action.FAIL),
        kept=("id < 900", Action.DROP),
    )
    with pytest.raises(ExpectationViolation) as raised:
        broken.append(table, receipt=Receipt(app_id="flow", batch_id=0), evolve=False)
    assert "`low` (id < 998): 2 rows" in str(raised.value.cause)
    assert '"id": 998' in str(raised.value.cause)
    again = DeltaRsStore().open(table.location)
    assert again is not None
    assert (again.version, again.batch_id("flow")) == (0, -1)


def test_a_new_column_is_added_and_a_narrow_type_widened(engine: Engine, table: DeltaSparkTable) -> None:
    wider = pending(engine, Quality(), "SELECT CAST(7 AS INT) AS ID, 1.5D AS price")
    assert wider.append(table, receipt=Receipt(app_id="flow", batch_id=0), evolve=True) == 1
    assert rows(table) == [{"id": 7, "name": None, "price": 1.5}]
    assert table.schema.names == ["id", "name", "price"]


def test_replace_swaps_rows_and_columns_and_partitions(engine: Engine, table: DeltaSparkTable) -> None:
    table.append(pa.table({"id": [1], "name": ["old"]}))
    columns = pa.schema([("id", pa.int64()), ("day", pa.date32()), ("name", pa.string())])
    swapped = pending(engine, Quality(), "SELECT id, DATE'2024-01-01' AS day FROM range(2)")
    receipt = Receipt(app_id="flow/1", batch_id=0)
    assert swapped.replace(table, columns, receipt=receipt, partition_cols=("day",)) == 2
    assert [(row["id"], str(row["day"]), row["name"]) for row in rows(table)] == [
        (0, "2024-01-01", None),
        (1, "2024-01-01", None),
    ]
    assert (table.partition_cols, table.batch_id("flow/1"), table.version) == (("day",), 0, 2)


def test_merge_inserts_updates_and_deletes_and_a_replay_does_nothing(engine: Engine, table: DeltaSparkTable) -> None:
    table.append(pa.table({"id": pa.array([1, 2, None], pa.int64()), "name": ["a", "b", "c"]}))
    changes = pa.table(
        {
            "id": pa.array([1, 2, None, 4], pa.int64()),
            "name": ["a2", None, "c2", "d"],
            "__op": ["U", "D", "U", "U"],
        }
    )
    receipt = Receipt(app_id="cdc", batch_id=0)
    table.merge(changes, keys=("id",), receipt=receipt)
    expected = [("a2", 1), ("c2", None), ("d", 4)]
    assert sorted((row["name"], row["id"]) for row in table.rows().to_pylist()) == expected
    assert (table.version, table.batch_id("cdc")) == (2, 0)

    other = pa.table({"id": pa.array([1], pa.int64()), "name": ["never"], "__op": ["U"]})
    table.merge(other, keys=("id",), receipt=receipt)
    assert sorted((row["name"], row["id"]) for row in table.rows().to_pylist()) == expected
    assert table.version == 2


def test_the_receipt_of_a_merge_is_no_setting_of_other_writes(engine: Engine, table: DeltaSparkTable) -> None:
    row = pa.table({"id": pa.array([1], pa.int64()), "name": ["a"], "__op": ["U"]})
    table.merge(row, keys=("id",), receipt=Receipt(app_id="cdc", batch_id=5))
    key = "spark.databricks.delta.write.txnAppId"
    assert engine.setting(key) is None  # type: ignore[attr-defined]
