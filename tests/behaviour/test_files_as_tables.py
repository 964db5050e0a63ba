"""Files that a query reads as a table: the same rows on every engine, whoever reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from lakelet.execution import reads

pytestmark = pytest.mark.feature("Files as tables")


def folder(project: Any) -> Path:
    found: Path = project.root / "data" / "Volumes" / "main" / "raw" / "in"
    found.mkdir(parents=True, exist_ok=True)
    return found


CASES = {
    "csv": (
        'format("csv").schema("id BIGINT, name STRING, at DATE").option("header", "true").option("sep", ";")',
        {"a.csv": "id;name;at\n1;ann;2024-05-01\n2;;\n", "b.csv": 'id;name;at\n3;"o;k";2024-05-02\n'},
        [(1, "ann", "2024-05-01"), (2, None, None), (3, "o;k", "2024-05-02")],
    ),
    "json without broken lines": (
        'format("json").schema("id BIGINT, name STRING, at DATE").option("mode", "DROPMALFORMED")',
        {"a.json": '{"id": 1, "name": "ann", "at": "2024-05-01"}\n{"id": \n{"id": 3}\n'},
        [(1, "ann", "2024-05-01"), (3, None, None)],
    ),
    "files of some names": (
        'format("json").schema("id BIGINT, name STRING, at DATE").option("pathGlobFilter", "b*.json")',
        {"a.json": '{"id": 1}\n', "b.json": '{"id": 2, "name": "bob"}\n'},
        [(2, "bob", None)],
    ),
    "text": (
        'format("text")',
        {"a.txt": "one\ntwo\n"},
        [("one",), ("two",)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_rows_of_files_are_those_that_spark_reads(project: Any, case: str) -> None:
    read, files, expected = CASES[case]
    for name, text in files.items():
        (folder(project) / name).write_text(text, "utf-8")
    project.write(
        f"""
        @dp.materialized_view
        def rows():
            return spark.read.{read}.load("/Volumes/main/raw/in")
        """
    )
    project.ok()
    found = [tuple(str(v) if hasattr(v, "year") else v for v in row.values()) for row in project.rows("rows")]
    assert sorted(found, key=str) == sorted(expected, key=str)


def put(project: Any, name: str, number: int) -> None:
    path = folder(project) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"id": number}) + "\n", "utf-8")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{a,b}", [1, 2]),
        ("{a,b}/*.json", [1, 2]),
        ("*/*.json", [1, 2, 3]),
        ("[ab]/", [1, 2]),
        ("c d", [3]),
    ],
)
def test_patterns_and_names_that_look_like_some(project: Any, pattern: str, expected: list[int]) -> None:
    for number, name in enumerate(("a/x [1].json", "b/y (2).json", "c d/z.json"), 1):
        put(project, name, number)
    project.write(
        f"""
        @dp.materialized_view
        def rows():
            return spark.read.schema("id BIGINT").json("/Volumes/main/raw/in/{pattern}")
        """
    )
    project.ok()
    assert project.rows("rows", "id") == expected
    put(project, "a/x [1].json", 100) if 1 in expected else put(project, "c d/z.json", 100)
    project.ok()
    assert project.rows("rows", "id") == sorted([*expected[1:], 100], key=str)


def test_there_is_nothing_where_a_folder_is_misspelt(project: Any) -> None:
    put(project, "a/x.json", 1)
    project.write(
        """
        @dp.materialized_view
        def rows():
            return spark.read.schema("id BIGINT").json("/Volumes/main/raw/in/{aa,bb}")
        """
    )
    (error,) = project.run().errors
    assert error.condition == "PATH_NOT_FOUND"


def test_a_cluster_reads_them_itself(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not project.engine.capabilities.file_readers:
        pytest.skip("the runtime reads such files for this engine")

    def never(*args: Any, **options: Any) -> Any:
        raise AssertionError("the files are read in this process")

    monkeypatch.setattr(reads, "read_batch", never)
    monkeypatch.setattr(project.engine, "stream", never)
    lines = (json.dumps({"id": n, "name": "n" * 200}) for n in range(30_000))  # more than travels inside of a plan
    (folder(project) / "a.json").write_text("\n".join(lines), "utf-8")
    project.write(
        """
        @dp.materialized_view
        def rows():
            return spark.read.json("/Volumes/main/raw/in").groupBy("name").agg(F.count("*").alias("n"), F.max("id").alias("last"))
        """
    )
    project.ok()
    assert project.rows("rows", "n", "last") == [(30_000, 29_999)]


def test_rescued_data_is_no_option_of_sparks_readers_and_kept_nevertheless(project: Any) -> None:
    (folder(project) / "a.json").write_text('{"id": 1, "more": true}\n', "utf-8")
    project.write(
        """
        @dp.materialized_view
        def rows():
            return (
                spark.read.format("json").schema("id BIGINT").option("rescuedDataColumn", "_rest")
                .load("/Volumes/main/raw/in")
            )
        """
    )
    project.ok()
    (row,) = project.rows("rows")
    assert (row["id"], json.loads(row["_rest"])["more"]) == (1, True)


def test_a_million_numbers_in_parquet(project: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": range(1_000_000)}), folder(project) / "a.parquet")
    project.write(
        """
        @dp.materialized_view
        def rows():
            return spark.read.parquet("/Volumes/main/raw/in").agg(F.sum("id").alias("total"))
        """
    )
    project.ok()
    assert project.rows("rows", "total") == [499_999_500_000]
