"""What every engine must do: run a relation whole, or raise."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from tests.engines import CHOSEN

from lakelet.engine import probes
from lakelet.engine.base import Engine
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.known import ENGINES
from lakelet.engine.probes import detect
from lakelet.engine.sail import CAPABILITIES as EMBEDDED
from lakelet.errors import LakeletError, QueryError
from lakelet.plan import relation as plan
from lakelet.plan.arrow_functions import mapped
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Queries: whole results, or an error")

IS_SAIL_CLUSTER = CHOSEN == "sail-cluster"
cancels = pytest.mark.skipif(
    IS_SAIL_CLUSTER, reason="the workers of Sail's cluster mode finish a cancelled query and keep its rows in memory"
)
MANY = 2_000_000_000
"""Rows of a query that runs for many seconds."""
PARTITIONS = 20_000
"""A server may hand out a partition of the result only when it is done."""


def numbers(rows: int) -> Relation:
    """Return `id` from 0 to `rows` - 1, made by the engine."""
    relation = plan.new()
    relation.range.start, relation.range.end, relation.range.step = 0, rows, 1
    if rows == MANY:
        relation.range.num_partitions = PARTITIONS
    return relation


def read_all(reader: pa.RecordBatchReader) -> pa.Table:
    return reader.read_all()


READS: list[Any] = [
    pytest.param(lambda engine, relation: engine.collect(relation), id="collect"),
    pytest.param(lambda engine, relation: engine.stream(relation).read_all(), id="stream"),
]
Read = Callable[[Engine, Relation], pa.Table]


@pytest.mark.parametrize("read", READS)
def test_rows_of_a_query_arrive_whole(engine: Engine, read: Read) -> None:
    rows = pa.table({"id": pa.array([1, 2], pa.int64()), "name": ["a", None]})
    assert read(engine, plan.local(rows)).to_pylist() == [{"id": 1, "name": "a"}, {"id": 2, "name": None}]


@pytest.mark.parametrize("read", READS)
def test_a_result_without_rows_keeps_its_columns(engine: Engine, read: Read) -> None:
    rows = pa.table(
        {
            "id": pa.array([1], pa.int64()),
            "at": pa.array([datetime(2024, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
            "tags": pa.array([["x"]], pa.list_(pa.string())),
        }
    )
    nothing = read(engine, plan.filtered(plan.local(rows), plan.expression("id < 0")))
    assert nothing.num_rows == 0
    assert nothing.column_names == ["id", "at", "tags"]
    assert nothing.schema.field("id").type == pa.int64()
    assert str(nothing.schema.field("at").type) == "timestamp[us, tz=UTC]"
    assert pa.types.is_list(nothing.schema.field("tags").type)


@pytest.mark.parametrize("read", READS)
def test_a_local_relation_without_rows_keeps_its_columns(engine: Engine, read: Read) -> None:
    schema = pa.schema([("id", pa.int32()), ("price", pa.decimal128(10, 2)), ("at", pa.timestamp("us"))])
    result = read(engine, plan.local(schema.empty_table()))
    assert result.num_rows == 0
    assert [str(field.type) for field in result.schema] == ["int32", "decimal128(10, 2)", "timestamp[us]"]


@pytest.mark.parametrize("read", READS)
def test_five_million_rows_arrive_whole(engine: Engine, read: Read) -> None:
    result = read(engine, numbers(5_000_000))
    assert result.num_rows == 5_000_000
    assert pa.compute.sum(result.column("id")).as_py() == 4_999_999 * 5_000_000 // 2


def test_columns_are_known_without_running_the_query(engine: Engine) -> None:
    columns = engine.schema(plan.sql("SELECT id, id * 1.5 AS half, CAST(id AS STRING) AS text FROM range(5)"))
    assert [(c.name, c.dataType.simpleString()) for c in columns.fields] == [
        ("id", "bigint"),
        ("half", "decimal(23,1)"),
        ("text", "string"),
    ]


@pytest.mark.parametrize("read", READS)
def test_a_missing_column_is_named(engine: Engine, read: Read) -> None:
    with pytest.raises(QueryError) as raised:
        read(engine, plan.filtered(numbers(3), plan.expression("amount > 1")))
    assert raised.value.condition == "UNRESOLVED_COLUMN"
    assert "amount" in raised.value.message
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("read", READS)
def test_an_error_in_a_late_row_fails_the_whole_result(engine: Engine, read: Read) -> None:
    late = plan.with_columns(
        numbers(3_000_000), {"x": plan.expression("CASE WHEN id = 2999999 THEN 1 / (id - 2999999) ELSE 0 END")}
    )
    with pytest.raises(QueryError) as raised:
        read(engine, late)
    # Sail's cluster mode tries a failed task again, and then tells why that failed.
    assert raised.value.condition == ("QUERY_FAILED" if IS_SAIL_CLUSTER else "DIVIDE_BY_ZERO")
    assert not raised.value.retryable


def test_a_failed_query_says_nothing_beside_its_error(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    """pyspark writes the error of Apache Spark, with its place in the text, to stderr as JSON, too."""
    with pytest.raises(QueryError):
        engine.collect(plan.sql("SELECT 1 / (id - id) FROM range(3)"))
    assert capfd.readouterr() == ("", "")


def test_the_columns_of_an_impossible_query_are_an_error(engine: Engine) -> None:
    with pytest.raises(QueryError):
        engine.schema(plan.sql("SELECT no_such_function(1)"))


# -- cancelled queries --------------------------------------------------------------------------------------------


def interrupt_after_rows(engine: Engine, reader: pa.RecordBatchReader, *, rows: int) -> pa.RecordBatchReader:
    """Return the rows of `reader`; the engine is interrupted when `rows` of them have been handed out."""

    def batches() -> Any:
        seen = 0
        for batch in reader:
            before, seen = seen, seen + batch.num_rows
            yield batch
            if before < rows <= seen:
                engine.interrupt()

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


@cancels
def test_a_cancelled_collect_returns_nothing(engine: Engine) -> None:
    """With reattachable execution off, this returned a part of the rows as if they were all."""
    started = threading.Event()
    outcome: list[Any] = []

    def collect() -> None:
        started.set()
        try:
            outcome.append(engine.collect(plan.aggregated(numbers(MANY * 50), {"n": plan.expression("sum(id % 7)")})))
        except LakeletError as error:
            outcome.append(error)

    thread = threading.Thread(target=collect)
    thread.start()
    started.wait()
    while thread.is_alive():  # the query may not have reached the engine yet: until it has, there is nothing to cancel
        engine.interrupt()
        thread.join(0.05)
    assert isinstance(outcome[0], QueryError)
    assert outcome[0].condition == "OPERATION_CANCELED"


@cancels
def test_a_cancelled_stream_raises_instead_of_ending(engine: Engine) -> None:
    with pytest.raises(QueryError) as raised:
        interrupt_after_rows(engine, engine.stream(numbers(MANY)), rows=100_000).read_all()
    assert raised.value.condition == "OPERATION_CANCELED"


@cancels
@pytest.mark.parametrize("write", ["append", "replace"])
def test_a_writer_commits_nothing_of_a_cancelled_query(
    engine: Engine, store: DeltaRsStore, location: str, write: str
) -> None:
    """ENGINE_FACTS 1.1: 3,137,536 of 20 million rows were committed, and the call returned normally."""
    table = store.create(location, TableDefinition(schema=pa.schema([("id", pa.int64())])))
    table.append(pa.table({"id": [1, 2, 3]}))
    rows = interrupt_after_rows(engine, engine.stream(numbers(MANY)), rows=1_000_000)
    with pytest.raises(QueryError) as raised:
        getattr(table, write)(rows, receipt=Receipt(app_id="app", batch_id=0))
    assert raised.value.condition == "OPERATION_CANCELED"
    again = store.open(location)
    assert again is not None
    assert again.version == 1
    assert again.batch_id("app") == -1
    assert again.rows().num_rows == 3


@cancels
def test_the_engine_is_usable_after_a_cancel(engine: Engine) -> None:
    with pytest.raises(QueryError):
        interrupt_after_rows(engine, engine.stream(numbers(MANY)), rows=100_000).read_all()
    assert engine.collect(numbers(3)).num_rows == 3


def test_several_threads_share_one_engine(engine: Engine) -> None:
    sums: dict[int, int] = {}

    def work(number: int) -> None:
        for _ in range(5):
            rows = plan.local(pa.table({"id": list(range(number * 100))}))
            sums[number] = engine.collect(plan.aggregated(rows, {"n": plan.expression("count(*)")}))["n"][0].as_py()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sums == {n: n * 100 for n in range(1, 9)}


# -- time ---------------------------------------------------------------------------------------------------------

DAYS = """
from lakelet.engine.sail import SailEngine
from lakelet.plan import relation as plan
engine = SailEngine()
row = engine.collect(plan.sql(
    "SELECT CAST(TIMESTAMP '2024-01-01 02:00:00Z' AS DATE) AS day, CAST(TIMESTAMP '2024-01-01 02:00:00Z' AS STRING) AS text,"
    " TIMESTAMP '2024-01-01 02:00:00' AS bare"
)).to_pylist()[0]
print(row["day"], row["text"], row["bare"].isoformat(), sep="|")
engine.close()
"""


def test_a_day_is_a_day_in_utc_wherever_the_process_runs() -> None:
    result = subprocess.run(
        [sys.executable, "-c", DAYS],
        env={**os.environ, "TZ": "America/New_York", "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stderr == ""
    assert result.stdout.strip() == "2024-01-01|2024-01-01 02:00:00|2024-01-01T02:00:00+00:00"


# -- capabilities and known differences ---------------------------------------------------------------------------


def can(engine: Engine, relation: Relation) -> bool:
    try:
        engine.collect(relation)
    except QueryError:
        return False
    return True


def test_capabilities_say_what_the_engine_can_do(engine: Engine, tmp_path: Path) -> None:
    import pyarrow.parquet as pq
    from pyspark.sql.types import LongType, StructType

    pq.write_table(pa.table({"k": [1, 1]}), tmp_path / "k.parquet")
    files = plan.parquet([str(tmp_path / "k.parquet")], StructType().add("k", LongType()))
    metadata = plan.with_columns(files, {"f": plan.expression("_metadata.file_path")})
    assert can(engine, metadata) is engine.capabilities.file_metadata

    from_footer = plan.new()  # an engine that is not told the columns looks at the statistics, too
    from_footer.read.data_source.format = "parquet"
    from_footer.read.data_source.paths.append(str(tmp_path / "k.parquet"))
    hashed = plan.with_columns(from_footer, {"h": plan.expression("xxhash64(k)")})
    assert can(engine, hashed) is engine.capabilities.hashes_constants

    (tmp_path / "lines.json").write_text('{"k": 1}\n{"k": \n', "utf-8")
    lines = plan.new()
    lines.read.data_source.format, lines.read.data_source.schema = "json", "k BIGINT"
    lines.read.data_source.paths.append(str(tmp_path / "lines.json"))
    lines.read.data_source.options["mode"] = "DROPMALFORMED"
    assert can(engine, lines) is engine.capabilities.file_readers

    grouped = plan.sql("SELECT id % 2 AS odd, count(*) FROM range(4) GROUP BY ALL")
    assert can(engine, grouped) is engine.capabilities.group_by_all

    watermark = plan.new()
    watermark.with_watermark.input.CopyFrom(plan.sql("SELECT current_timestamp() AS at"))
    watermark.with_watermark.event_time, watermark.with_watermark.delay_threshold = "at", "1 minute"
    assert can(engine, watermark) is engine.capabilities.batch_watermark

    assert can(engine, key_by_frame()) is engine.capabilities.join_key_by_frame
    assert can(engine, probes.overflowing()) is not engine.capabilities.overflow_is_an_error
    assert probes.hashes_as_spark(engine) is engine.capabilities.spark_hashes
    assert can(engine, probes.observed()) is engine.capabilities.observed_metrics
    assert can(engine, probes.mapped_by_function()) is engine.capabilities.arrow_functions


def test_a_function_over_batches_needs_nothing_of_ours_where_it_runs_and_gets_every_row(engine: Engine) -> None:
    from pyspark.sql.types import LongType, StructType

    class Sum:
        def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            import sys

            import pyarrow.compute as pc

            if (
                "lakelet" in sys.modules and not is_here
            ):  # no `assert`: pytest makes one that needs itself where it runs
                raise RuntimeError("a worker has lakelet")
            total = sum(pc.sum(batch.column("v")).as_py() or 0 for batch in batches)
            yield pa.RecordBatch.from_arrays([pa.array([total])], names=["total"])

    is_here = engine.capabilities == EMBEDDED
    rows = plan.sql("SELECT id AS k, id * 2 AS v FROM range(1000)")
    totals = mapped(rows, ["k", "v"], Sum(), StructType().add("total", LongType()))
    # Another name for the column above, and the optimizer looks at what is used below.
    renamed = plan.sql("SELECT total AS total FROM totals", {"totals": totals})
    assert sum(engine.collect(renamed).column("total").to_pylist()) == 999_000


def test_capabilities_say_whose_days_the_engine_takes(engine: Engine, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    late = datetime(2024, 5, 1, 23, tzinfo=UTC)
    pq.write_table(pa.table({"at": pa.array([late], pa.timestamp("us", "UTC"))}), tmp_path / "at.parquet")
    rows = plan.new()
    rows.read.data_source.format = "parquet"
    rows.read.data_source.paths.append(str(tmp_path / "at.parquet"))
    elsewhere = ConnectEngine(engine.url, configuration={"spark.sql.session.timeZone": "Asia/Tokyo"})
    days = [elsewhere.collect(plan.with_columns(rows, {"day": plan.expression("to_date(at)")}))]
    rows.read.data_source.schema = elsewhere.schema(rows).json()
    days.append(elsewhere.collect(plan.with_columns(rows, {"day": plan.expression("to_date(at)")})))
    elsewhere.close()
    untold, told = (found.column("day").to_pylist() for found in days)
    assert told == [date(2024, 5, 2)]
    assert (untold == told) is engine.capabilities.instants_in_session_zone


def test_bounds_of_decimals_are_what_the_log_says_where_the_engine_says_so(engine: Engine, tmp_path: Path) -> None:
    value = Decimal("1234567890123456.78")
    write_deltalake(str(tmp_path), pa.table({"p": pa.array([value], pa.decimal128(18, 2))}))
    log = tmp_path / "_delta_log" / f"{0:020d}.json"
    log.write_text(log.read_text().replace("1234567890123456.8", str(value)))  # as Delta Lake's own writer has it
    found = engine.collect(plan.delta(str(tmp_path), 0)).column("p").to_pylist()
    assert (found == [value]) is engine.capabilities.exact_bounds


def test_an_endpoint_tells_what_the_engine_behind_it_can_do(engine: Engine) -> None:
    """A server elsewhere is asked; what the embedded engine is known for is what it would answer."""
    found = detect(ConnectEngine(engine.url))
    assert dataclasses.replace(found, scoped_sources=engine.capabilities.scoped_sources) == engine.capabilities


def test_the_engine_is_one_of_those_that_the_documentation_describes(engine: Engine) -> None:
    assert engine.capabilities in ENGINES.values()


def test_queries_that_run_at_the_same_time_do_not_see_each_others_sources(engine: Engine) -> None:
    """Apache Spark makes a temporary view of each source, under its name, for the whole session."""
    remote = ConnectEngine(engine.url)
    seen: list[tuple[int, list[int]]] = []

    def read(number: int) -> None:
        for _ in range(10):
            source = plan.local(pa.table({"id": [number]}))
            seen.append((number, remote.collect(plan.sql("SELECT id FROM rows", {"rows": source}))["id"].to_pylist()))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    remote.close()
    assert len(seen) == 40
    assert [pair for pair in seen if pair[1] != [pair[0]]] == []


def test_a_server_that_is_not_there_is_named_without_its_token() -> None:
    with pytest.raises(QueryError) as raised:
        ConnectEngine("sc://127.0.0.1:1/;token=very-secret;use_ssl=false")
    assert (raised.value.condition, raised.value.retryable) == ("ENGINE_UNAVAILABLE", True)
    assert "sc://127.0.0.1:1 " in raised.value.message
    assert "very-secret" not in raised.value.render()


def key_by_frame() -> Relation:
    """Return `a.join(b, "k").join(c, "c").select(a.k)`."""

    def join(left: Relation, right: Relation, key: str) -> Relation:
        joined = plan.new()
        joined.join.left.CopyFrom(left)
        joined.join.right.CopyFrom(right)
        joined.join.using_columns.append(key)
        joined.join.join_type = 1
        return joined

    a = plan.local(pa.table({"k": [1], "c": [1]}))
    joined = join(join(a, plan.local(pa.table({"k": [1]})), "k"), plan.local(pa.table({"c": [1]})), "c")
    selected = plan.new()
    selected.project.input.CopyFrom(joined)
    column = selected.project.expressions.add()
    column.unresolved_attribute.unparsed_identifier = "k"
    column.unresolved_attribute.plan_id = a.common.plan_id
    return selected


@pytest.mark.parametrize(
    ("query", "wrapped"),
    [
        ("SELECT CAST(2147483647 AS INT) + CAST(1 AS INT) AS x", -(2**31)),
        ("SELECT CAST(9223372036854775807 AS BIGINT) + CAST(1 AS BIGINT) AS x", -(2**63)),
        ("SELECT sum(x) AS x FROM VALUES (9223372036854775807), (1) AS t(x)", -(2**63)),
    ],
)
def test_known_difference_integer_overflow_wraps_where_spark_raises(engine: Engine, query: str, wrapped: int) -> None:
    """Remove this test, and the note in the documentation, when the engine raises ARITHMETIC_OVERFLOW."""
    if engine.capabilities.overflow_is_an_error:
        with pytest.raises(QueryError):
            engine.collect(plan.sql(query))
    else:
        assert engine.collect(plan.sql(query))["x"].to_pylist() == [wrapped]


def test_known_difference_decimal_division_truncates_where_spark_rounds(engine: Engine) -> None:
    result = engine.collect(plan.sql("SELECT CAST(2 AS DECIMAL(10, 0)) / CAST(3 AS DECIMAL(10, 0)) AS x"))
    last_digit = "7" if engine.capabilities.overflow_is_an_error else "6"
    assert str(result["x"][0].as_py()).endswith(last_digit)
