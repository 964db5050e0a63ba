"""The same files and the same streams, through Apache Spark and through the runtime: the same rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.spark import file_cases, stream_cases
from tests.spark.plain import plain

from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

SPEC = "name: compare\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
HEADER = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n\n"
FILES = [(case, mode) for case in file_cases.CASES for mode in case.modes]


def run(engine: SailEngine, root: Path, source: str) -> dict[str, Any]:
    """Run a pipeline with one table `out` and return its rows, or the error."""
    (root / "pipeline").mkdir()
    (root / "spark-pipeline.yml").write_text(SPEC)
    (root / "pipeline" / "out.py").write_text(HEADER + source)
    result = Pipeline(root, engine=engine).run()
    if result.exit_code:
        return {"error": "\n".join(error.render() for error in result.errors)}
    return {
        "rows": [plain(row) for row in Pipeline(root, engine=engine).table("out").to_pylist(maps_as_pydicts="strict")]
    }


def in_order(rows: list[Any]) -> list[str]:
    return sorted(json.dumps(row, sort_keys=True) for row in rows)


def compare(ours: dict[str, Any], theirs: dict[str, Any], differs: str) -> None:
    same = (
        ("error" in ours) == ("error" in theirs)
        if "error" in ours or "error" in theirs
        else in_order(ours["rows"]) == in_order(theirs["rows"])
    )
    if differs:
        assert not same, f"no longer differs: {differs}"
        return
    if "error" in ours or "error" in theirs:
        assert ("error" in ours) == ("error" in theirs), (ours, theirs)
    else:
        assert in_order(ours["rows"]) == in_order(theirs["rows"])


@pytest.mark.parametrize(("case", "mode"), FILES, ids=[f"{case.id} {mode}" for case, mode in FILES])
def test_files(
    engine: SailEngine, spark: Any, cases: Any, tmp_path: Path, case: file_cases.FileCase, mode: str
) -> None:
    given = cases[f"{case.id} {mode}"]
    reader = "spark.readStream" if mode == "stream" else "spark.read"
    schema = f".schema({case.schema!r})" if case.schema else ""
    chosen = '.select("length", "content")' if case.format == "binaryFile" else ""
    ours = run(
        engine,
        tmp_path,
        f"@dp.{'table' if mode == 'stream' else 'materialized_view'}\ndef out():\n    return "
        f"{reader}.format({case.format!r}).options(**{dict(case.options)!r}){schema}.load({given['path']!r}){chosen}\n",
    )
    compare(ours, spark[given["id"]], case.differs)


@pytest.mark.parametrize("case", stream_cases.CASES, ids=[case.id for case in stream_cases.CASES])
def test_streams(engine: SailEngine, spark: Any, cases: Any, tmp_path: Path, case: stream_cases.StreamCase) -> None:
    given = cases[case.id]
    streams = "".join(
        f'    {name} = spark.readStream.schema("k STRING, at TIMESTAMP, v BIGINT").option("maxFilesPerTrigger", 1)'
        f".parquet({path!r})\n"
        for name, path in given["streams"].items()
    )
    ours = run(engine, tmp_path, f"@dp.table\ndef out():\n{streams}    return {case.query}\n")
    compare(ours, spark[case.id], case.differs)
