"""How files arrive, in which order, how often an update runs, who parses them and where it dies: the rows are those of the
files, once each."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.collected_tables import CollectedStore, PlayedCluster

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline
from lakelet.storage import delta_spark

TRANSFORMATIONS = """
from pyspark import pipelines as dp


@dp.table
def files():
    return (
        spark.readStream.format("cloudFiles").option("cloudFiles.format", "{format}")
        .option("cloudFiles.maxFilesPerTrigger", "2"){options}.load("/Volumes/c/s/v/in")
    )
"""
POINTS = [*faults.FILE_POINTS, *faults.POINTS[:4]]
Row = dict[str, Any]


class Death(BaseException):
    """The end of the process."""


# -- formats ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format of files.

    Attributes:
        columns: of the table.
        row: strategy of a row, by column; a column that is missing is NULL.
        write: writes a file.
        first: the rows of a file that is there before everything else, from which columns may be inferred.
        options: calls on the reader.
    """

    columns: Sequence[str]
    row: st.SearchStrategy[Row]
    write: Callable[[Path, list[Row]], None]
    first: Row
    options: str = ""

    def values(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in self.columns)


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


def write_json(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["a", "b"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


SCHEMA = pa.schema([("a", pa.string()), ("b", pa.int64())])


def write_parquet(path: Path, rows: list[Row]) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path, row_group_size=2)


def write_orc(path: Path, rows: list[Row]) -> None:
    pyarrow.orc.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), path)


def write_avro(path: Path, rows: list[Row]) -> None:
    fields = [
        {"name": name, "type": ["null", kind], "default": None} for name, kind in (("a", "string"), ("b", "long"))
    ]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)


def write_text(path: Path, rows: list[Row]) -> None:
    """The last line ends with the file, or with its own end: by turns."""
    text = "".join(row["value"] + "\n" for row in rows)
    path.write_text(text if len(rows) % 2 or not rows or not rows[-1]["value"] else text[:-1], "utf-8")


def table_row(text: st.SearchStrategy[str]) -> st.SearchStrategy[Row]:
    number = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
    return st.fixed_dictionaries({"a": st.one_of(st.none(), text), "b": number})


FORMATS = {
    "json": Format(
        columns="abcd",
        row=st.dictionaries(
            st.sampled_from("abcd"), st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none()), max_size=4
        ),
        write=write_json,
        first={"a": "first"},
    ),
    "csv": Format(
        columns="ab",
        row=table_row(st.text("ab,é; '", min_size=1, max_size=4)),  # nothing between two commas is NULL
        write=write_csv,
        first={"a": "first", "b": 1},
        options='.option("header", "true").schema("a STRING, b LONG")',
    ),
    "parquet": Format(
        columns="ab", row=table_row(st.text(max_size=3)), write=write_parquet, first={"a": "first", "b": 1}
    ),
    "orc": Format(columns="ab", row=table_row(st.text(max_size=3)), write=write_orc, first={"a": "first", "b": 1}),
    "avro": Format(columns="ab", row=table_row(st.text(max_size=3)), write=write_avro, first={"a": "first", "b": 1}),
    "text": Format(
        columns=["value"],
        row=st.fixed_dictionaries({"value": st.text('ab ,é"{', max_size=4)}),
        write=write_text,
        first={"value": "first"},
    ),
}


# -- how they arrive ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """Files that arrive, and where the update that follows dies.

    Attributes:
        point: None for no death.
        runs: whether there is an update.
        in_cluster: the workers of a played cluster parse the files, and not this process.
    """

    files: list[list[Row]]
    point: str | None
    runs: bool
    in_cluster: bool


def steps_of(row: st.SearchStrategy[Row]) -> st.SearchStrategy[list[Step]]:
    return st.lists(
        st.builds(
            Step,
            files=st.lists(st.lists(row, max_size=4), max_size=3),
            point=st.one_of(st.none(), st.sampled_from(POINTS)),
            runs=st.booleans(),
            in_cluster=st.booleans(),
        ),
        min_size=1,
        max_size=4,
    )


@pytest.fixture(scope="module", params=FORMATS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that reads files of one format; its folder has the name of the format."""
    root = tmp_path_factory.mktemp("files") / request.param
    (root / "transformations").mkdir(parents=True)
    source = TRANSFORMATIONS.format(format=request.param, options=FORMATS[request.param].options)
    (root / "transformations" / "files.py").write_text(source)
    (root / "spark-pipeline.yml").write_text(
        "name: files\nstorage: storage\ncatalog: c\ndatabase: s\nlibraries:\n  - glob: {include: transformations/**}\n"
    )
    return root


@settings(
    max_examples=20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data(), times=st.randoms(use_true_random=False))
def test_every_row_of_every_file_is_there_once(
    project: Path, engine: SailEngine, data: st.DataObject, times: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delta_spark, "DeltaSparkStore", CollectedStore)
    kind = FORMATS[project.name]
    steps = data.draw(steps_of(kind.row))
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        landing = storage / "Volumes/c/s/v/in"
        landing.mkdir(parents=True)
        kind.write(landing / f"first.{project.name}", [kind.first])
        expected = Counter([kind.values(kind.first)])
        for number, step in enumerate(steps):
            for index, rows in enumerate(step.files):
                path = landing / f"{times.randint(0, 999):03}-{number}-{index}.{project.name}"
                kind.write(path, rows)
                os.utime(path, (1_700_000_000 + times.randint(0, 9),) * 2)
                expected.update(map(kind.values, rows))
            if step.runs:
                update(project, storage, PlayedCluster(engine) if step.in_cluster else engine, step.point)
        update(project, storage, engine, None)
        table = DeltaTable(str(storage / "tables/c/s/files")).to_pyarrow_table()
        found = Counter(map(kind.values, table.to_pylist()))
        assert found == (Counter(map(inferred, expected.elements())) if project.name == "json" else expected)


def inferred(values: tuple[Any, ...]) -> tuple[str | None, ...]:
    """Return a row as JSON is read without a schema: every column is text."""
    return tuple(map(as_text, values))


def update(project: Path, storage: Path, engine: Any, point: str | None) -> None:
    def hook(reached: str) -> None:
        if reached == point:
            raise Death(point)

    with faults.installed(hook):
        try:
            result = Pipeline(project, storage=storage, engine=engine).run()
        except Death:
            return
    assert result.exit_code == 0, [error.render() for error in result.errors]
