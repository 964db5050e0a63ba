"""Sinks of files: the same values on every engine, and on a cluster no row passes through this process."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.behaviour.test_sinks import EVERYTHING, pipeline
from tests.behaviour.test_state_in_cluster import watched
from tests.behaviour.test_streaming_tables import Crash, crash_at, orders

from lakelet import faults
from lakelet.engine.base import Engine
from lakelet.engine.sail import SailEngine
from lakelet.execution import sink_files

READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "parquet": lambda path: pq.read_table(path).to_pylist(),
    "json": lambda path: [json.loads(line, parse_float=Decimal) for line in path.read_text().split("\n")[:-1]],
    "csv": lambda path: list(csv.DictReader(path.read_text().split("\n")[:-1])),
}


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a sink's folder, by id."""
    found = [row for path in sorted(folder.glob("part-*")) for row in READERS[path.suffix[1:]](path)]
    return sorted(found, key=lambda row: int(row["id"]))


def sink(kind: str, *columns: str, **options: str) -> str:
    """Return a pipeline with a sink of files in the folder `outside`."""
    settings = {"path": "outside", **({"header": "true"} if kind == "csv" else {}), **options}
    query = f"""
@dp.append_flow(target="out")
def to_out():
    return spark.readStream.table("orders").selectExpr{("id", *columns)!r}
"""
    return pipeline(f"dp.create_sink('out', '{kind}', {settings!r})", query)


# -- values -------------------------------------------------------------------------------------------------------

PLAIN = (
    "if(id = 2, NULL, timestamp'2024-05-01 12:00:00.123456Z') AS at",
    "if(id = 2, NULL, timestamp_ntz'2024-05-01 12:00:00') AS local",
    "if(id = 2, NULL, date'0999-02-03') AS day",
    "if(id = 2, NULL, CAST('12345678901234567890.120' AS DECIMAL(30, 3))) AS exact",
    "if(id = 2, NULL, CAST(0.1 AS FLOAT)) AS narrow",
    "if(id = 2, NULL, 0.1D) AS wide",
    "if(id = 2, NULL, true) AS flag",
    "if(id = 2, NULL, '  a, \"b\" ;|x ') AS said",
    "if(id = 2, NULL, '') AS empty",
    "if(id = 2, NULL, 'é☃') AS letters",
    "NULL AS nothing",
)
NESTED = (
    "if(id = 2, NULL, named_struct('a', id, 'b', NULL, 'at', timestamp'2024-05-01 12:00:00Z')) AS pair",
    "array(1, NULL) AS list",
    "map('k', 1, 'l', NULL) AS named",
    "map(3, CAST(0.25 AS FLOAT)) AS numbered",
    "map(true, 1) AS chosen",
    "X'00FF' AS bytes",
    "double('NaN') AS nan",
    "-double('Infinity') AS least",
    r"'two\nlines' AS lines",
)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.feature("Sinks")
def test_json_has_the_same_values_on_every_engine(project: Any, zone: str) -> None:
    project.write(sink("json", *PLAIN, *NESTED))
    project.land("orders", orders(1, 2))
    project.ok(configuration={"spark.sql.session.timeZone": zone})
    first, second = rows(project.root / "outside")
    nested = {
        "list": [1, None],
        "named": {"k": 1, "l": None},
        "numbered": {"3": Decimal("0.25")},
        "chosen": {"true": 1},
        "bytes": "AP8=",
        "nan": "NaN",
        "least": "-Infinity",
        "lines": "two\nlines",
    }
    assert first == {
        "id": 1,
        "at": "2024-05-01T12:00:00.123456Z",
        "local": "2024-05-01T12:00:00.000000",
        "day": "0999-02-03",
        "exact": Decimal("12345678901234567890.120"),
        "narrow": Decimal("0.1"),
        "wide": Decimal("0.1"),
        "flag": True,
        "said": '  a, "b" ;|x ',
        "empty": "",
        "letters": "é☃",
        "pair": {"a": 1, "at": "2024-05-01T12:00:00.000000Z"},
        **nested,
    }
    assert second == {"id": 2, **nested}, "a field that is NULL is left out"


@pytest.mark.parametrize(
    ("separator", "zone"), [(",", "Europe/Berlin"), (";", "UTC"), ("\\t", "UTC"), ("|", "UTC"), (":", "UTC")]
)
@pytest.mark.feature("Sinks")
def test_csv_has_the_same_values_on_every_engine(project: Any, separator: str, zone: str) -> None:
    project.write(sink("csv", *PLAIN, sep=separator))
    project.land("orders", orders(1, 2))
    project.ok(configuration={"spark.sql.session.timeZone": zone})
    texts = [path.read_text().splitlines() for path in (project.root / "outside").glob("part-*")]
    delimiter = separator.replace("\\t", "\t")
    first, second = sorted(
        (row for lines in texts for row in csv.DictReader(lines, delimiter=delimiter)), key=lambda row: str(row["id"])
    )
    assert first == {
        "id": "1",
        "at": "2024-05-01 12:00:00.123456Z",
        "local": "2024-05-01 12:00:00.000000",
        "day": "0999-02-03",
        "exact": "12345678901234567890.120",
        "narrow": "0.1",
        "wide": "0.1",
        "flag": "true",
        "said": '  a, "b" ;|x ',
        "empty": "",
        "letters": "é☃",
        "nothing": "",
    }
    assert second == {**dict.fromkeys(first, ""), "id": "2"}
    if separator == ",":
        tail = {",".join(line.split(",")[-3:]) for lines in texts for line in lines[1:]}
        assert {line.replace('"é☃"', "é☃") for line in tail} == {'"",é☃,', ",,"}, "NULL is not the empty text"


@pytest.mark.feature("Sinks")
def test_csv_tells_numbers_that_are_none_and_lines_that_would_be_empty(project: Any) -> None:
    query = """
@dp.append_flow(target="out")
def to_out():
    values = "CASE id WHEN 1 THEN double('NaN') WHEN 2 THEN double('Infinity') WHEN 3 THEN -double('Infinity') END AS v"
    return spark.readStream.table("orders").selectExpr(values)
"""
    project.write(pipeline("dp.create_sink('out', 'csv', {'path': 'outside'})", query))
    project.land("orders", orders(1, 2, 3, 4))
    project.ok()
    found = [line for path in (project.root / "outside").glob("part-*") for line in path.read_text().splitlines()]
    assert sorted(found) == ['""', "-Infinity", "Infinity", "NaN"]


@pytest.mark.feature("Sinks")
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_parquet_has_the_same_values_on_every_engine(project: Any, zone: str) -> None:
    project.write(sink("parquet", *PLAIN, *NESTED))
    project.land("orders", orders(1, 2))
    project.ok(configuration={"spark.sql.session.timeZone": zone})
    first, second = rows(project.root / "outside")
    at = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert (first["at"], first["local"]) == (at.replace(microsecond=123456), datetime(2024, 5, 1, 12))
    assert (first["day"], first["exact"]) == (date(999, 2, 3), Decimal("12345678901234567890.120"))
    assert (first["said"], first["empty"], first["nothing"]) == ('  a, "b" ;|x ', "", None)
    assert first["pair"] == {"a": 1, "b": None, "at": at}
    assert (first["list"], dict(first["named"]), first["bytes"]) == ([1, None], {"k": 1, "l": None}, b"\x00\xff")
    assert (second["at"], second["pair"], second["empty"]) == (None, None, None)


@pytest.mark.parametrize("column", ["array(1) AS x", "X'00' AS x", "map('a', 1) AS x", "struct(1) AS x"])
def test_csv_has_no_nested_values(project: Any, column: str) -> None:
    check_refused(project, "csv", column)


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
@pytest.mark.parametrize("column", ["interval '1' day AS x", "interval '1' year AS x", "array(interval '1' day) AS x"])
def test_files_have_no_intervals(project: Any, kind: str, column: str) -> None:
    check_refused(project, kind, column)


def check_refused(project: Any, kind: str, column: str) -> None:
    project.write(sink(kind, column))
    project.land("orders", orders(1))
    [error] = project.run().errors
    assert error.condition == "UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE"
    assert "`x`" in error.message


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_batch_without_rows_writes_no_file_and_the_rows_of_others_are_counted(project: Any, kind: str) -> None:
    project.write(sink(kind).replace("selectExpr('id',)", "filter('id > 2')"))
    found = []
    for ids in ((1, 2), (3, 1, 4), (2,), (5,)):
        project.land("orders", orders(*ids))
        project.ok()
        found += counts(project)
    assert found == [0, 2, 0, 1]
    assert [int(row["id"]) for row in rows(project.root / "outside")] == [3, 4, 5]


def counts(project: Any) -> list[int]:
    """Return how many rows each batch of the last update brought to the sink."""
    progress = [event for event in project.events if event.event_type == "flow_progress"]
    return [
        event.details["metrics"]["num_output_rows"]
        for event in progress
        if "metrics" in event.details and event.origin["flow_name"] == "to_out"
    ]


# -- deaths -------------------------------------------------------------------------------------------------------


@pytest.fixture
def embedded() -> Iterator[Engine]:
    engine = SailEngine()
    yield engine
    engine.close()


@pytest.mark.feature("Sinks")
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
@pytest.mark.parametrize("point", faults.SINK_FILE_POINTS)
def test_a_batch_that_one_engine_began_is_finished_by_the_other_one(
    project: Any, engine: Engine, embedded: Engine, kind: str, point: str
) -> None:
    project.write(sink(kind))
    expected: list[int] = []
    for number, (first, second) in enumerate([(engine, embedded), (embedded, engine)]):
        ids = [10 * number + value for value in range(4)]
        expected += ids
        project.land("orders", orders(*ids))
        project.engine = first
        with pytest.raises(Crash), crash_at(point):
            project.run()
        project.engine = second
        project.ok()
        assert [int(row["id"]) for row in rows(project.root / "outside")] == expected
    project.ok(selection=EVERYTHING)
    assert [int(row["id"]) for row in rows(project.root / "outside")] == sorted(expected * 2)


# -- on a cluster -------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(engine: Engine) -> Engine:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")
    return engine


@pytest.mark.feature("Sinks of files in the cluster")
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_only_numbers_cross_however_many_rows_there_are(
    new_project: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    found = {}
    for count in (40, 4_000):
        project = new_project()
        project.write(sink(kind))
        project.land("orders", orders(1))
        project.ok()
        project.land("orders", orders(*range(2, count + 1)))
        with watched(monkeypatch) as found[count]:
            project.ok()
        assert [int(row["id"]) for row in rows(project.root / "outside")] == list(range(1, count + 1))
    for crossing in found.values():
        assert (crossing.sent, crossing.read, crossing.written) == (0, 0, 0)
    assert found[40].received == found[4_000].received


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_rows_are_counted_in_the_files_where_the_observation_comes_too_late(
    project: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write = sink_files.write_files
    monkeypatch.setattr(sink_files, "write_files", lambda *args, **options: write(*args, **options) and {})
    project.write(sink(kind, r"'two\nlines' AS text"))
    project.land("orders", orders(1, 2, 3))
    project.ok()
    assert counts(project) == [3]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.feature("Sinks of files in the cluster")
@pytest.mark.usefixtures("cluster")
def test_a_full_disk_of_the_cluster_is_told_and_loses_nothing(project: Any) -> None:
    project.write(sink("json", "repeat(uuid(), 2000) AS text"))
    project.land("orders", orders(*range(100)))
    with small_disk(project.root / "outside"):
        [error] = project.run().errors
        assert error.condition == "SINK_NOT_WRITABLE"
        assert "the cluster says" in error.cause
        assert "No space left" in error.cause
        assert list((project.root / "outside").glob("part-*")) == []
    project.ok()
    assert len(rows(project.root / "outside")) == 100


@pytest.mark.usefixtures("cluster")
def test_a_task_may_write_many_files(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = sink_files.spark_options
    monkeypatch.setattr(sink_files, "spark_options", lambda *of: {**options(*of), "maxRecordsPerFile": "1"})
    project.write(sink("json"))
    project.land("orders", orders(1, 2, 3, 4))
    project.ok()
    assert [row["id"] for row in rows(project.root / "outside")] == [1, 2, 3, 4]
    assert len(list((project.root / "outside").glob("part-*"))) == 4
