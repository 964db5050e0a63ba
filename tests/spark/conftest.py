"""Apache Spark beside the runtime: `make test-spark-compare` sets LAKELET_SPARK_PYTHON, without it the suite is skipped."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.spark import file_cases, stream_cases

RUNNER = Path(__file__).parent / "run_spark.py"
START = datetime(2024, 5, 1, 12, tzinfo=UTC)
TIMEOUT_SECONDS = 1200


@pytest.fixture(scope="session")
def land(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder with the files of all cases."""
    folder = tmp_path_factory.mktemp("land")
    for number, case in enumerate(file_cases.CASES):
        for name, content in case.files.items():
            file = folder / f"files{number}" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.encode() if isinstance(content, str) else content)
    for number, stream in enumerate(stream_cases.CASES):
        for name, batches in (("a", stream.a), ("b", stream.b)):
            for position, rows in enumerate(batches):
                _write_batch(folder / f"stream{number}" / name, position, rows)
    yield folder


def _write_batch(folder: Path, position: int, rows: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {
            "k": pa.array([row[0] for row in rows], pa.string()),
            "at": pa.array(
                [None if row[1] is None else START + timedelta(minutes=row[1]) for row in rows],
                pa.timestamp("us", "UTC"),
            ),
            "v": pa.array([row[2] for row in rows], pa.int64()),
        }
    )
    file = folder / f"{position}.parquet"
    pq.write_table(table, file)
    os.utime(file, (1_700_000_000 + position,) * 2)


def manifest(land: Path) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for number, case in enumerate(file_cases.CASES):
        for mode in case.modes:
            path = str(land / f"files{number}" / case.path)
            fields = {"format": case.format, "schema": case.schema, "options": dict(case.options)}
            cases.append({"id": f"{case.id} {mode}", "mode": mode, "path": path, **fields})
    for number, stream in enumerate(stream_cases.CASES):
        streams = {"a": str(land / f"stream{number}" / "a")}
        if stream.b:
            streams["b"] = str(land / f"stream{number}" / "b")
        fields = {key: value for key, value in asdict(stream).items() if key in ("query", "complete")}
        cases.append({"id": stream.id, "streams": streams, **fields})
    return cases


@pytest.fixture(scope="session")
def cases(land: Path) -> dict[str, dict[str, Any]]:
    return {case["id"]: case for case in manifest(land)}


@pytest.fixture(scope="session")
def spark(cases: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What Apache Spark makes of each case: {"rows": …} or {"error": …}."""
    folder = tmp_path_factory.mktemp("spark")
    (folder / "manifest.json").write_text(json.dumps(list(cases.values())))
    command = [os.environ["LAKELET_SPARK_PYTHON"], str(RUNNER), "manifest.json", "results.json"]
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SPARK_REMOTE")}
    done = subprocess.run(
        command, cwd=folder, env={**environment, "TZ": "UTC"}, capture_output=True, text=True, timeout=TIMEOUT_SECONDS
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    reason = "Apache Spark is not asked: `make test-spark-compare` runs this suite"
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS + 120))
            if not os.environ.get("LAKELET_SPARK_PYTHON"):
                item.add_marker(pytest.mark.skip(reason=reason))
