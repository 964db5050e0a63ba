"""AUTO CDC as a cluster does it, case by case, on an embedded engine that plays the cluster."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from tests.collected_tables import CollectedStore, PlayedCluster
from tests.property.test_auto_cdc_laws import Bench, rows_of

from lakelet.engine.sail import SailEngine
from lakelet.errors import CdcError
from lakelet.execution import auto_cdc_cluster
from lakelet.execution.auto_cdc_cluster import SETTLED_PROPERTY
from lakelet.execution.clock import ClockedEngine
from lakelet.plan import relation as plan
from lakelet.plan.arrow_functions import mapped
from lakelet.storage.base import TableDefinition
from lakelet.storage.schema import sql_type

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture
def cluster(engine: SailEngine) -> Any:
    return PlayedCluster(engine)


def change(key: int | None, seq: int, op: str = "upsert", city: str | None = "rome") -> tuple[Any, ...]:
    return (key, city, "ann", 1, op, seq)


def changes(*rows: tuple[Any, ...]) -> plan.Relation:
    return plan.local(rows_of(list(rows)))


def events(bench: Bench) -> list[dict[str, Any]]:
    table = bench.store_of().open(bench.auxiliary)
    assert table is not None
    return table.rows().to_pylist()


def test_the_clock_of_a_batch_stands_still(cluster: Any, tmp_path: Path) -> None:
    bench = Bench(ClockedEngine(cluster, NOW, "UTC"), str(tmp_path), sequence_by="current_timestamp()")
    bench.store_of = lambda: CollectedStore(cluster)  # type: ignore[method-assign]
    bench.apply(changes(change(1, 0)), 0)
    assert [event["__lakelet_sequence"] for event in events(bench)] == [NOW]


def test_flows_of_one_target_need_not_agree_on_truncates(cluster: Any, tmp_path: Path) -> None:
    truncating = Bench(cluster, str(tmp_path), apply_as_truncates="op = 'truncate'")
    plain = Bench(cluster, str(tmp_path), name="second")
    truncating.apply(changes(change(1, 1), change(None, 2, "truncate"), change(2, 3)), 0, app_id="a")
    assert plain.apply(changes(change(3, 4), change(4, 1)), 0, app_id="b").num_input_rows == 2
    assert {row[0] for row in truncating.rows()} == {2, 3}


def test_a_truncate_that_comes_again_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    bench = Bench(cluster, str(tmp_path), apply_as_truncates="op = 'truncate'")
    bench.apply(changes(change(1, 1), change(None, 2, "truncate"), change(2, 3)), 0)
    bench.apply(changes(change(None, 2, "truncate"), change(None, 1, "truncate")), 1)
    assert [event["__lakelet_sequence"] for event in events(bench) if event["__lakelet_truncate"]] == [2]
    assert {row[0] for row in bench.rows()} == {2}


def test_what_is_needed_is_written_anew_only_when_it_has_doubled(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_cdc_cluster, "SETTLED_ROWS", 2)
    bench = Bench(cluster, str(tmp_path))

    def mark() -> str:
        table = bench.store_of().open(bench.auxiliary)
        assert table is not None
        return table.properties[SETTLED_PROPERTY]

    bench.apply(changes(*(change(key, 1) for key in range(10))), 0)
    assert mark() == "10"
    bench.apply(changes(*(change(key, 2) for key in range(10))), 1)
    assert (mark(), len(events(bench))) == ("10", 20)
    bench.apply(changes(change(0, 3), change(1, 3)), 2)
    assert (mark(), len(events(bench))) == ("10", 10)
    assert {event["__lakelet_sequence"] for event in events(bench)} == {2, 3}


def test_a_type_that_does_not_fit_is_refused_before_anything_is_written(cluster: Any, tmp_path: Path) -> None:
    bench = Bench(cluster, str(tmp_path))
    narrow = pa.schema([("id", pa.int64()), ("city", pa.string()), ("name", pa.string()), ("points", pa.int16())])
    bench.definition = TableDefinition(schema=narrow)
    with pytest.raises(CdcError, match="COLUMN_TYPE_DRIFT") as raised:
        bench.apply(changes(change(1, 1)), 0)
    assert "`points` is smallint in the table and bigint in the query" in str(raised.value.cause)
    assert bench.store_of().open(bench.auxiliary) is None


def test_names_of_fields_are_quoted_where_sql_needs_it() -> None:
    kind = pa.struct([("plain", pa.int32()), ("first-name", pa.struct([("a`b", pa.string())]))])
    assert sql_type(kind) == "struct<plain:int,`first-name`:struct<`a``b`:string>>"


def test_a_function_of_ours_needs_no_module_of_ours() -> None:
    """What a worker gets is unpickled by a Python that has no lakelet; the registry of the process is left alone."""
    from pyspark import cloudpickle

    from lakelet.execution.auto_cdc_history import Shape
    from lakelet.execution.auto_cdc_worker import Decision

    registry: Any = cloudpickle
    before = set(registry.list_registry_pickle_by_value())
    shape = Shape(keys=("k",), columns=("k",), scd_type=1, tracked=(), remembers_all=False)
    decision = Decision(
        shape=shape, keys=("k",), row_keys=("k",), identity=("k",), truncated_at=pa.scalar(4, pa.int64())
    )
    from pyspark.sql.types import LongType, StructType

    relation = mapped(plan.sql("SELECT 1L AS k"), ["k"], decision, StructType().add("k", LongType()))
    assert set(registry.list_registry_pickle_by_value()) == before
    program = (
        "import sys; sys.modules['lakelet'] = None\n"
        "from pyspark import cloudpickle\n"
        "found, _ = cloudpickle.loads(sys.stdin.buffer.read())\n"
        "print(list(found(iter([]))), found.truncated_at.as_py(), found.shape.keys)\n"
    )
    command = relation.map_partitions.func.python_udf.command
    done = subprocess.run([sys.executable, "-c", program], input=command, capture_output=True, check=False)
    assert done.stdout.decode().strip() == "[] 4 ('k',)", done.stderr.decode()
