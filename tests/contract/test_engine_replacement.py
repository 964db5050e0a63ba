"""The embedded engine moves to a process of its own, and on to the next one, and nobody who uses it notices."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql.connect import proto

from lakelet import Pipeline
from lakelet.engine import sail
from lakelet.engine.sail import SailEngine
from lakelet.engine.sail_server import ServerProcess
from lakelet.errors import QueryError
from lakelet.events.model import PipelineEvent
from lakelet.plan import relation as plan
from lakelet.processes import is_alive

SOURCE = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[SailEngine]:
    """An engine that is replaced after every few calls."""
    replaced_after(monkeypatch, 3)
    engine = SailEngine(configuration={"spark.sql.session.timeZone": "Asia/Tokyo"})
    yield engine
    engine.close()


def replaced_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    monkeypatch.setattr(sail, "CALLS_INSIDE", calls)
    monkeypatch.setattr(sail, "CALLS_BETWEEN", calls)
    monkeypatch.setattr(sail, "LOOK_CALLS", 1)
    monkeypatch.setattr(sail, "MAX_BYTES", 0)


def until(is_so: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.01)


def server_of(engine: SailEngine) -> int:
    """Return the process of the server that calls go to now, 0 while it is inside of this one."""
    server = engine._current.server
    return server.pid if isinstance(server, ServerProcess) else 0


def until_replaced(engine: SailEngine, *, call: Callable[[], object] | None = None) -> int:
    before = server_of(engine)
    until(lambda: (call or (lambda: one(engine)))() is not None and server_of(engine) != before)
    return server_of(engine)


def one(engine: SailEngine) -> list[dict[str, object]]:
    return list(engine.collect(plan.sql("SELECT 1 AS one")).to_pylist())


def function(name: str, returns: int) -> proto.Command:
    """Return the registration of a Python function without arguments."""
    from pyspark.serializers import CloudPickleSerializer
    from pyspark.sql.types import IntegerType

    command = proto.Command()
    registered = command.register_function
    registered.function_name = name
    registered.deterministic = True
    registered.python_udf.output_type.integer.SetInParent()
    registered.python_udf.eval_type = 100
    registered.python_udf.command = CloudPickleSerializer().dumps((lambda: returns, IntegerType()))
    registered.python_udf.python_ver = f"{sys.version_info.major}.{sys.version_info.minor}"
    return command


def test_settings_and_functions_of_the_session_go_along(engine: SailEngine) -> None:
    engine.command(function("seven", 7))
    question = plan.sql("SELECT seven() AS n, current_timezone() AS zone")
    expected = [{"n": 7, "zone": "Asia/Tokyo"}]
    assert engine.collect(question).to_pylist() == expected
    for _ in range(2):
        assert until_replaced(engine) > 0
        assert engine.collect(question).to_pylist() == expected
        assert [field.name for field in engine.schema(question)] == ["n", "zone"]


def test_rows_under_way_are_read_to_the_end_where_they_began_and_then_that_server_ends(engine: SailEngine) -> None:
    first = until_replaced(engine)
    numbers = plan.new()
    numbers.range.start, numbers.range.end, numbers.range.step = 0, 3_000_000, 1
    reader = engine.stream(numbers)
    begun = reader.read_next_batch().num_rows
    until_replaced(engine)
    assert is_alive(first)
    assert begun + sum(batch.num_rows for batch in reader) == 3_000_000
    until(lambda: not is_alive(first))


def test_rows_that_nobody_reads_keep_no_server(engine: SailEngine) -> None:
    first = until_replaced(engine)
    reader: pa.RecordBatchReader | None = engine.stream(plan.sql("SELECT 1 AS one"))
    until_replaced(engine)
    assert reader is not None and is_alive(first)
    reader = None
    gc.collect()
    until(lambda: not is_alive(first))


def test_a_client_of_user_code_keeps_its_server(engine: SailEngine) -> None:
    first = until_replaced(engine)
    with engine.client() as client:
        until_replaced(engine)
        table, _, _ = client.to_table(proto.Plan(root=plan.sql("SELECT 1 AS one")), {})
        assert table.to_pylist() == [{"one": 1}]
    until(lambda: not is_alive(first))


def test_many_threads_lose_no_answer(engine: SailEngine) -> None:
    wrong: list[object] = []

    def ask(thread: int) -> None:
        for number in range(40):
            rows = engine.collect(plan.sql(f"SELECT {thread} AS thread, {number} AS number")).to_pylist()
            if rows != [{"thread": thread, "number": number}]:
                wrong.append(rows)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    until_replaced(engine)
    until(lambda: len(engine._generations) == 2)  # the one inside of this process, and the current one


def test_a_process_that_is_killed_is_named_and_the_next_call_has_another_one(engine: SailEngine) -> None:
    first = until_replaced(engine)
    slow = plan.sql("SELECT count(*) AS n FROM range(4000000000) WHERE sha2(CAST(id AS STRING), 256) = ''")
    failed: list[QueryError] = []

    def ask() -> None:
        try:
            engine.collect(slow)
        except QueryError as error:
            failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: bool(engine._current.calls))
    os.kill(first, signal.SIGKILL)
    thread.join()
    (error,) = failed
    assert (error.condition, error.retryable) == ("ENGINE_PROCESS_ENDED", True)
    assert "signal 9" in (error.cause or "")
    assert one(engine) == [{"one": 1}]
    assert server_of(engine) != first


def test_where_no_process_can_be_started_the_engine_stays_and_says_so(
    engine: SailEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "executable", str(SOURCE / "no-python"))
    with caplog.at_level(logging.WARNING, "lakelet.engine"):
        until(lambda: bool(one(engine)) and bool(caplog.messages))
    assert "could not be moved to a new process" in caplog.messages[0]
    assert one(engine) == [{"one": 1}]
    monkeypatch.undo()
    replaced_after(monkeypatch, 3)
    assert until_replaced(engine) > 0


def test_a_killed_parent_leaves_no_process_and_an_interrupt_of_the_terminal_is_the_parents(tmp_path: Path) -> None:
    program = (
        "import time\n"
        "from lakelet.engine.sail_server import ServerProcess\n"
        "server = ServerProcess()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    assert parent.stdout is not None
    with parent.stdout as announced:
        child = int(announced.readline())
    try:
        assert os.getpgid(child) != os.getpgid(parent.pid)
        assert is_alive(child)
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not is_alive(child))


SPEC = "name: moving\nstorage: data\nlibraries:\n  - glob: {include: transformations/**}\n"
DATASETS = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F
from pyspark.sql.types import LongType

@F.udf(LongType())
def doubled(n):
    return n * 2

@dp.table
@dp.expect("named", "name IS NOT NULL AND length(name) > 0")
def facts():
    return spark.readStream.format("delta").option("maxFilesPerTrigger", 1).load("source").withColumn("two", doubled("id"))

dp.create_streaming_table("latest")
dp.create_auto_cdc_flow(target="latest", source="facts", keys=["name"], sequence_by="id")

@dp.materialized_view
def totals():
    return spark.sql("SELECT name, count(*) AS n, sum(two) AS two FROM facts GROUP BY name")

@dp.foreach_batch_sink(name="out")
def out(frame, batch):
    frame.selectExpr("id", "two + 1 AS more").write.format("delta").mode("append").save("out")

@dp.append_flow(target="out")
def to_out():
    return spark.readStream.table("facts")
"""


@pytest.mark.parametrize("mode", ["once", "continuous", "killed"])
def test_an_update_whose_engine_is_replaced_all_the_time_has_the_rows_of_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """A function of the user, a function that gets each batch, rules and SQL text: all go with it.

    Killed: as by a machine without memory, in the middle of whatever the flows do; they try again by themselves.
    """
    from deltalake import DeltaTable, write_deltalake

    replaced_after(monkeypatch, 4)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "transformations").mkdir()
    (tmp_path / "spark-pipeline.yml").write_text(SPEC, "utf-8")
    (tmp_path / "transformations" / "datasets.py").write_text(DATASETS, "utf-8")
    for number in range(12):
        rows = pa.table({"id": [2 * number, 2 * number + 1], "name": ["even", "odd"]})
        write_deltalake(str(tmp_path / "source"), rows, mode="append")
    killed: list[int] = []
    with Pipeline(tmp_path, configuration={"pipelines.trigger.interval": "1 millisecond"}) as pipeline:
        engine = pipeline.engine
        assert isinstance(engine, SailEngine)
        until_replaced(engine)  # on a busy machine the update could end before its first server is there

        def kill(event: PipelineEvent) -> None:
            pid = server_of(engine) if mode == "killed" and "metrics" in event.details else 0
            if pid and pid not in killed and len(killed) < 2:
                killed.append(pid)
                os.kill(pid, signal.SIGKILL)

        drain = threading.Event()
        drain.set()
        result = pipeline.run(continuous=mode == "continuous", drain=drain, subscribers=[kill])
        assert result.exit_code == 0, [error.render() for error in result.errors]
        assert server_of(engine) > 0
        assert bool(killed) is (mode == "killed")
        assert sorted(pipeline.table("facts").column("two").to_pylist()) == [2 * n for n in range(24)]
        assert {row["name"]: row["id"] for row in pipeline.table("latest").to_pylist()} == {"even": 22, "odd": 23}
        assert {row["name"]: (row["n"], row["two"]) for row in pipeline.table("totals").to_pylist()} == {
            "even": (12, 264),
            "odd": (12, 288),
        }
    more = DeltaTable(str(tmp_path / "out")).to_pyarrow_table().column("more").to_pylist()
    if mode == "killed":  # a function that writes by itself is called again for a batch that failed
        more = sorted(set(more))
    assert sorted(more) == [2 * n + 1 for n in range(24)]
