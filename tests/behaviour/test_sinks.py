"""Sinks: where rows go that leave the pipeline, and how often."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.behaviour.test_streaming_tables import Crash, crash_at, orders

from lakelet import faults
from lakelet.pipeline import RefreshSelection

EVERYTHING = RefreshSelection(full_refresh_all=True)
FLOW = """
@dp.append_flow(target="out")
def to_out():
    return spark.readStream.table("orders")
"""


def pipeline(sink: str, flow: str = FLOW) -> str:
    return (
        "@dp.table\ndef orders():\n    return spark.readStream.format('delta').load('/Volumes/main/raw/landing/orders')\n"
        + sink
        + flow
    )


def delta_rows(path: Path) -> list[int]:
    return sorted(DeltaTable(str(path)).to_pyarrow_table().column("id").to_pylist())


@pytest.mark.feature("Sinks")
def test_a_delta_sink_gets_each_row_once(project: Any) -> None:
    project.write(pipeline("dp.create_sink('out', 'delta', {'path': 'outside/orders'})"))
    project.land("orders", orders(1, 2))
    project.ok()
    project.land("orders", orders(3))
    project.ok()
    project.ok()
    assert delta_rows(project.root / "outside" / "orders") == [1, 2, 3]


def test_a_full_refresh_appends_everything_again(project: Any) -> None:
    project.write(pipeline("dp.create_sink('out', 'delta', {'tableName': 'main.ext.orders'})"))
    project.land("orders", orders(1))
    project.ok()
    project.ok(selection=EVERYTHING)
    assert delta_rows(project.root / "data" / "tables" / "main" / "ext" / "orders") == [1, 1]


@pytest.mark.parametrize(
    "point", [*faults.SINK_POINTS, "flow.intent_written", "flow.batch_published", "flow.commit_noted"]
)
@pytest.mark.parametrize("sink", ["delta", "json", "parquet"])
def test_a_crash_doubles_no_row_of_a_sink(project: Any, point: str, sink: str) -> None:
    project.write(pipeline(f"dp.create_sink('out', '{sink}', {{'path': 'outside'}})"))
    project.land("orders", orders(1, 2))
    hook = crash_at(point, times=1 if point in faults.SINK_POINTS else 2)  # the first pass is that of `orders`
    with pytest.raises(Crash), hook:
        project.run()
    project.land("orders", orders(3))
    project.ok()
    outside = project.root / "outside"
    if sink == "delta":
        found = delta_rows(outside)
    elif sink == "json":
        found = sorted(
            json.loads(line)["id"] for path in outside.glob("*.json") for line in path.read_text().splitlines()
        )
    else:
        found = sorted(
            value for path in outside.glob("*.parquet") for value in pq.read_table(path).column("id").to_pylist()
        )
    assert found == [1, 2, 3]


@pytest.mark.feature("Sinks")
def test_files_that_any_reader_understands(project: Any) -> None:
    query = """
@dp.append_flow(target="out")
def to_out():
    rows = spark.readStream.table("orders")
    return rows.select("id", F.lit("a, b").alias("t"), F.lit(None).cast("int").alias("n"))
"""
    project.write(pipeline("dp.create_sink('out', 'csv', {'path': 'outside', 'header': 'true'})", query))
    project.land("orders", orders(1))
    project.ok()
    [path] = (project.root / "outside").glob("part-*")
    assert list(csv.DictReader(path.read_text().splitlines())) == [{"id": "1", "t": "a, b", "n": ""}]
    project.write(pipeline("dp.create_sink('out', 'json', {'path': 'lines'})", query))
    project.ok(selection=EVERYTHING)
    [path] = (project.root / "lines").glob("part-*")
    assert json.loads(path.read_text()) == {"id": 1, "t": "a, b"}


FOREACH = """
import json, pathlib

@dp.foreach_batch_sink(name="out")
def out(df, batch_id):
    path = pathlib.Path(PATH)
    calls = json.loads(path.read_text()) if path.exists() else []
    calls.append([batch_id, sorted(row.id for row in df.collect()), df.columns])
    path.write_text(json.dumps(calls))
    if FAIL.exists():
        raise ValueError("no")
"""


@pytest.mark.feature("Sinks")
def test_a_function_is_called_with_every_batch(project: Any) -> None:
    calls = project.root / "calls.json"
    fail = project.root / "fail"
    source = FOREACH.replace("PATH", repr(str(calls)), 1).replace("FAIL", f"pathlib.Path({str(fail)!r})")
    project.write(pipeline(source))
    project.land("orders", orders(1, 2))
    project.ok()
    project.land("orders", orders(3))
    fail.write_text("")
    error = project.run().errors[0]
    assert (error.condition, error.cause) == ("FOREACH_BATCH_USER_FUNCTION_ERROR", "ValueError: no")
    fail.unlink()
    project.ok()  # at least once, with the same rows
    project.ok(selection=EVERYTHING)
    found = json.loads(calls.read_text())
    assert [call[:2] for call in found] == [[0, [1, 2]], [1, [3]], [1, [3]], [0, [1, 2, 3]]]
    assert found[0][2] == ["id"]


@pytest.mark.feature("Sinks")
def test_a_function_may_write_with_its_dataframe(project: Any) -> None:
    target = project.root / "copies"
    source = f"""
@dp.foreach_batch_sink("out")
def out(df, batch_id):
    df.filter("id > 1").write.format("delta").mode("append").save({str(target)!r})
    assert df.sparkSession.range(3).count() == 3
"""
    project.write(pipeline(source, FLOW.replace("append_flow", "update_flow")))
    project.land("orders", orders(1, 2))
    project.ok()
    assert delta_rows(target) == [2]


def test_a_table_that_another_pipeline_began_takes_no_wrong_receipt(project: Any) -> None:
    write_deltalake(str(project.root / "outside"), orders(9))
    project.write(pipeline("dp.create_sink('out', 'delta', {'path': 'outside'})"))
    project.land("orders", orders(1))
    project.ok()
    import shutil

    shutil.rmtree(project.root / "data" / "_checkpoints")
    shutil.rmtree(project.root / "data" / "tables")
    project.ok()
    assert delta_rows(project.root / "outside") == [1, 1, 9]


def test_columns_that_the_table_of_a_sink_does_not_have(project: Any) -> None:
    write_deltalake(str(project.root / "outside"), orders(9))
    wider = FLOW.replace('"orders")', '"orders").withColumn("more", F.lit(1))')
    project.write(pipeline("dp.create_sink('out', 'delta', {'path': 'outside'})", wider))
    project.land("orders", orders(1))
    error = project.run().errors[0]
    assert (error.condition, error.cause) == ("DATASET_SCHEMA_MISMATCH", "`more` is not in the table")
    project.write(pipeline("dp.create_sink('out', 'delta', {'path': 'outside', 'mergeSchema': 'true'})", wider))
    project.ok()
    assert delta_rows(project.root / "outside") == [1, 9]


@pytest.mark.parametrize(
    ("source", "condition", "says"),
    [
        (pipeline("dp.create_sink('out', 'kafka', {'topic': 'x'})"), "UNSUPPORTED_FEATURE", "kafka"),
        (pipeline("dp.create_sink('out', 'delta', {})"), "INVALID_OPTION", "`path` or `tableName`"),
        (pipeline("dp.create_sink('out', 'delta', {'pth': 'x'})"), "UNKNOWN_OPTION", "pth"),
        (pipeline("dp.create_sink('out', 'csv', {'path': 'x', 'sep': '||'})"), "INVALID_OPTION", "`sep`"),
        (pipeline("dp.create_sink('out', 'delta', {'tableName': 'orders'})"), "SINK_TARGET_IS_DATASET", "orders"),
        (
            pipeline("dp.create_sink('out', 'json', {'path': 'x'})", FLOW.replace("readStream", "read")),
            "INVALID_FLOW_QUERY_TYPE.NOT_A_STREAM_FOR_SINK",
            "reads no stream",
        ),
        (
            pipeline("dp.create_sink('out', 'json', {'path': 'x'})", "\n@dp.expect('a', 'id > 0')" + FLOW),
            "EXPECTATION_WITHOUT_DATASET",
            "declares no dataset",
        ),
        (
            pipeline("dp.create_sink('out', 'json', {'path': 'x'})")
            + "@dp.materialized_view\ndef mv():\n    return spark.read.table('out')\n",
            "SINK_NOT_READABLE",
            "sink",
        ),
        (
            pipeline("dp.create_streaming_table('out')", FLOW.replace("append_flow", "update_flow")),
            "UPDATE_FLOW_TARGET_NOT_SINK",
            "no sink",
        ),
    ],
)
def test_what_a_sink_does_not_do(project: Any, source: str, condition: str, says: str) -> None:
    project.write(source)
    project.land("orders", orders(1))
    result = project.run()
    assert result.exit_code == 2
    assert any(error.condition == condition and says in error.message for error in _flat(result.errors))


def _flat(errors: Any) -> list[Any]:
    return [part for error in errors for part in getattr(error, "errors", (error,))]
