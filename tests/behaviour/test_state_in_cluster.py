"""State of streams where a cluster computes: no row passes through this process, and either kind of engine can go on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

from lakelet import faults
from lakelet.engine.base import Engine
from lakelet.engine.sail import SailEngine
from lakelet.execution import slices, state
from lakelet.plan.relation import messages
from lakelet.storage.delta_rs_table import DeltaRsTable

pytestmark = pytest.mark.feature("State of streams in the cluster")

START = datetime(2024, 5, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _needs_cluster_writes(engine: Engine) -> None:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")


# -- what crosses -------------------------------------------------------------------------------------------------

EVERYTHING = """
    @dp.table
    def visits():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/visits")

    @dp.table
    def firsts():
        return spark.readStream.table("visits").withWatermark("at", "10 minutes").dropDuplicatesWithinWatermark(["page"])

    @dp.table
    @dp.expect("counted", "n > 0")
    def windows():
        visits = spark.readStream.table("visits").withWatermark("at", "10 minutes")
        return visits.groupBy(F.window("at", "30 minutes"), "page").agg(F.count("*").alias("n")).drop("window")

    @dp.table
    def totals():
        return spark.readStream.table("visits").groupBy("page").agg(F.max("minute").alias("latest"))

    @dp.table
    def pairs():
        left = spark.readStream.table("visits").filter("minute % 2 = 0").withWatermark("at", "10 minutes").alias("l")
        right = spark.readStream.table("visits").filter("minute % 3 = 0").withWatermark("at", "10 minutes").alias("r")
        near = F.expr("l.page = r.page AND r.at BETWEEN l.at AND l.at + INTERVAL 5 MINUTES")
        return left.join(right, near, "full").select("l.page", F.col("r.page").alias("other"))

    @dp.materialized_view
    def even():
        return spark.read.table("visits").filter("minute % 2 = 0").select("page")

    @dp.materialized_view
    @dp.expect("counted", "n > 0")
    def pages():
        rows = spark.read.table("visits").groupBy("page")
        return rows.agg(F.count("*").alias("n"), F.avg("minute").alias("minute"), F.countDistinct("at").alias("times"))

    dp.create_sink("copies", "delta", {"path": "/Volumes/main/raw/copies"})

    @dp.append_flow(target="copies")
    def to_copies():
        return spark.readStream.table("firsts")
"""


@dataclass
class Crossing:
    """What comes to this process, and what leaves it for the cluster.

    Attributes:
        received: rows in the cluster's answers.
        sent: rows inside of the plans that it is sent.
        read: rows of data files that are read here.
        written: rows of the pipeline's tables that are written here.
    """

    received: int = 0
    sent: int = 0
    read: int = 0
    written: int = 0
    queries: list[int] = field(default_factory=list)


@contextlib.contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crossing]:
    """Count the rows that cross while the context is open."""
    found = Crossing()
    begin, answer = ExecutePlanResponseReattachableIterator.__init__, ExecutePlanResponseReattachableIterator.__next__
    read, rows, append, replace = slices._read, DeltaRsTable.rows, DeltaRsTable.append, DeltaRsTable.replace

    def begun(self: Any, request: Any, *args: Any, **options: Any) -> None:
        for message in messages(request.plan):
            if message.DESCRIPTOR.name == "LocalRelation" and message.data:  # type: ignore[attr-defined]
                found.sent += pa.ipc.open_stream(message.data).read_all().num_rows  # type: ignore[attr-defined]
        begin(self, request, *args, **options)

    def answered(self: Any) -> Any:
        response = answer(self)
        if response.HasField("arrow_batch"):
            found.received += response.arrow_batch.row_count
            found.queries.append(response.arrow_batch.row_count)
        return response

    def read_here(*args: Any) -> pa.Table:
        table = read(*args)
        found.read += table.num_rows
        return table

    def rows_here(self: Any) -> pa.Table:
        table = rows(self)
        found.read += table.num_rows
        return table

    def counted(write: Callable[..., int]) -> Callable[..., int]:
        def written_here(self: Any, *args: Any, **options: Any) -> int:
            count = write(self, *args, **options)
            if "_system" not in self.location:
                found.written += count
            return count

        return written_here

    with monkeypatch.context() as patched:
        patched.setattr(ExecutePlanResponseReattachableIterator, "__init__", begun)
        patched.setattr(ExecutePlanResponseReattachableIterator, "__next__", answered)
        patched.setattr(slices, "_read", read_here)
        patched.setattr(DeltaRsTable, "rows", rows_here)
        patched.setattr(DeltaRsTable, "append", counted(append))
        patched.setattr(DeltaRsTable, "replace", counted(replace))
        yield found


def visits(hour: int, count: int) -> pa.Table:
    """Return rows of one hour; each page is seen twice."""
    minutes = [hour * 60 + number * 59 // count for number in range(count)]
    return pa.table(
        {
            "page": [f"page {number // 2} of {hour}" for number in range(count)],
            "at": pa.array([START + timedelta(minutes=minute) for minute in minutes], pa.timestamp("us", "UTC")),
            "minute": pa.array(minutes, pa.int64()),
        }
    )


@pytest.mark.timeout(900)
def test_only_numbers_cross_however_many_rows_there_are(new_project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "COMPACTION_FILES", 2)  # tables of state are put together in each update
    found = {}
    for count in (40, 4_000):
        project = new_project()
        project.write(EVERYTHING)
        project.land("visits", visits(0, count))
        project.ok()
        project.land("visits", visits(1, count))
        with watched(monkeypatch) as found[count]:
            project.ok()
        assert project.techniques() == {"even": ("APPEND_ONLY", []), "pages": ("GROUP_AGGREGATE", [])}
        assert len(project.rows("firsts")) == count
        assert sum(project.rows("windows", "n")) > count
        assert len(project.rows("totals")) == count
        assert len(project.rows("pairs")) > count // 10
        assert len(project.rows("even")) > count // 2
        assert len(project.rows("pages")) == count
    for crossing in found.values():
        assert (crossing.sent, crossing.read, crossing.written) == (0, 0, 0)
        assert max(crossing.queries) == 1, "a query that gives more than numbers"
    assert found[40].received == found[4_000].received


# -- there and back -----------------------------------------------------------------------------------------------

QUERIES = {
    "distinct": 'visits.dropDuplicates(["page"])',
    "within": 'visits.withWatermark("at", "10 minutes").dropDuplicatesWithinWatermark(["page"])',
    "windows": 'visits.withWatermark("at", "10 minutes").groupBy(F.window("at", "30 minutes"), "page")'
    '.agg(F.count("*").alias("n"), F.sum("minute").alias("minute")).drop("window")',
    "totals": 'visits.groupBy("page").agg(F.count("*").alias("n"), F.sum("minute").alias("minute"))',
    "join": """(
            visits.filter("minute % 2 = 0").withWatermark("at", "10 minutes").alias("l")
            .join(visits.filter("minute % 3 = 0").withWatermark("at", "10 minutes").alias("r"),
                  F.expr("l.page = r.page AND r.at BETWEEN l.at AND l.at + INTERVAL 5 MINUTES"), "full")
            .select("l.page", F.col("l.minute").alias("m"), F.col("r.page").alias("p"), F.col("r.minute").alias("n"))
        )""",
}
UPDATES = (
    [("a", 0), ("a", 2), ("b", 3)],
    [("a", 3), ("b", 12), ("c", 30)],
    [("a", 33), ("b", 30), ("c", 5), ("c", 31)],
    [("a", 36), ("d", 60), ("d", 63)],
    [("a", 90), ("d", 64)],
    [("a", 200)],
)


class Crash(BaseException):
    """Ends an update as the death of the process would."""


def land(project: Any, rows: list[tuple[str, int]]) -> None:
    minutes = [minute for _, minute in rows]
    times = pa.array([START + timedelta(minutes=minute) for minute in minutes], pa.timestamp("us", "UTC"))
    project.land("visits", pa.table({"page": [page for page, _ in rows], "at": times, "minute": minutes}))


def die(project: Any, point: str) -> bool:
    """Run an update that ends at a point, as the death of the process would; returns whether it passed it."""
    deaths = []

    def hook(reached: str) -> None:
        if reached == point:
            deaths.append(point)
            raise Crash

    with faults.installed(hook), contextlib.suppress(Crash):
        project.run()
    return bool(deaths)


def deliver(project: Any, rows: list[tuple[str, int]], engine: Engine, dies_at: str = "") -> bool:
    """Land rows and bring them in, after a death if asked; returns whether there was one."""
    land(project, rows)
    project.engine = engine
    died = bool(dies_at) and die(project, dies_at)
    project.ok()
    return died


def query(name: str) -> str:
    return f"""
        @dp.table
        def result():
            visits = spark.readStream.format("delta").load("/Volumes/main/raw/landing/visits")
            return {QUERIES[name]}
    """


@pytest.fixture
def embedded() -> Iterator[Engine]:
    engine = SailEngine()
    yield engine
    engine.close()


@pytest.mark.parametrize("name", QUERIES)
def test_a_flow_with_state_goes_from_one_engine_to_the_other_and_back(
    new_project: Any, engine: Engine, embedded: Engine, name: str
) -> None:
    """Both ways, also after a death between the state and the rows of a batch."""
    alone, both = new_project().write(query(name)), new_project().write(query(name))
    for number, rows in enumerate(UPDATES):
        deliver(alone, rows, embedded)
        dies_at = "state.committed" if number in (1, 2) else ""
        died = deliver(both, rows, engine if number % 2 else embedded, dies_at)
        assert died or number != 1, "the second update remembers rows for every query"
        assert both.rows("result") == alone.rows("result"), number


GROUPS = """
    @dp.materialized_view
    def result():
        visits = spark.read.format("delta").load("/Volumes/main/raw/landing/visits")
        groups = visits.groupBy(F.window("at", "30 minutes").alias("w"), "page")
        values = [F.sum("minute").alias("s"), F.avg(F.col("minute") / 7).alias("a"), F.stddev("minute").alias("d")]
        values += [F.min("page").alias("p"), F.countDistinct("minute").alias("c"), F.max(F.col("minute") > 30).alias("b")]
        return groups.agg(*values).select("w.start", "page", "s", "p", "c", "b", F.round("a", 6), F.round("d", 6))
"""


def test_a_view_with_groups_goes_from_one_engine_to_the_other_and_back(
    new_project: Any, engine: Engine, embedded: Engine
) -> None:
    """Both ways, also after a death between the state and the rows of a refresh."""
    alone, both = new_project().write(GROUPS), new_project().write(GROUPS)
    for number, rows in enumerate(UPDATES):
        deliver(alone, rows, embedded)
        died = deliver(
            both, rows, engine if number % 2 else embedded, "view.state_committed" if number in (1, 2) else ""
        )
        assert died == (number in (1, 2))
        if number > 2:
            assert both.techniques()["result"] == ("GROUP_AGGREGATE", [])
        assert both.rows("result") == alone.rows("result"), number


@pytest.mark.parametrize("begins_in_cluster", [True, False])
def test_a_join_whose_state_is_begun_is_finished_by_the_same_engine(
    project: Any, engine: Engine, embedded: Engine, begins_in_cluster: bool
) -> None:
    first, second = (engine, embedded) if begins_in_cluster else (embedded, engine)
    project.write(query("join"))
    land(project, [("a", 0), ("a", 3), ("b", 6)])
    project.engine = first
    die(project, "state.committed")
    project.engine = second
    [error] = project.run().errors
    assert error.condition == "STATE_OF_ANOTHER_ENGINE"
    project.engine = first
    project.ok()
    project.engine = second
    deliver(project, [("a", 4), ("b", 9), ("c", 60)], second)
    assert project.rows("result", "m", "n") == [(0, 0), (0, 3), (4, None), (6, 6), (6, 9), (60, 60)]
