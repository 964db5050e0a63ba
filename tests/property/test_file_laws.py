"""How files arrive, in which order, how often an update runs and where it dies: the rows are those of the files, once each."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

TRANSFORMATIONS = """
from pyspark import pipelines as dp


@dp.table
def files():
    return (
        spark.readStream.format("cloudFiles").option("cloudFiles.format", "json")
        .option("cloudFiles.maxFilesPerTrigger", "2").load("/Volumes/c/s/v/in")
    )
"""
POINTS = [*faults.FILE_POINTS, *faults.POINTS[:4]]


class Death(BaseException):
    """The end of the process."""


@dataclass(frozen=True, slots=True)
class Step:
    """Files that arrive, and where the update that follows dies; no point, no death; `runs` False, no update."""

    files: list[list[dict[str, Any]]]
    point: str | None
    runs: bool


ROW = st.dictionaries(
    st.sampled_from("abcd"), st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none()), max_size=4
)
STEPS = st.lists(
    st.builds(
        Step,
        files=st.lists(st.lists(ROW, max_size=4), max_size=3),
        point=st.one_of(st.none(), st.sampled_from(POINTS)),
        runs=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("files")
    (root / "transformations").mkdir()
    (root / "transformations" / "files.py").write_text(TRANSFORMATIONS)
    (root / "spark-pipeline.yml").write_text(
        "name: files\nstorage: storage\ncatalog: c\ndatabase: s\nlibraries:\n  - glob: {include: transformations/**}\n"
    )
    yield root


def text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)


@settings(
    max_examples=20,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS, times=st.randoms(use_true_random=False))
def test_every_row_of_every_file_is_there_once(
    project: Path, engine: SailEngine, steps: list[Step], times: Any
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        landing = storage / "Volumes/c/s/v/in"
        landing.mkdir(parents=True)
        (landing / "first.json").write_text('{"a": "first"}\n')
        expected: Counter[tuple[str | None, ...]] = Counter({("first", None, None, None): 1})
        for number, step in enumerate(steps):
            for index, rows in enumerate(step.files):
                path = landing / f"{times.randint(0, 999):03}-{number}-{index}.json"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
                os.utime(path, (1_700_000_000 + times.randint(0, 9),) * 2)
                expected.update(tuple(text(row.get(name)) for name in "abcd") for row in rows)
            if step.runs:
                update(project, storage, engine, step.point)
        update(project, storage, engine, None)
        table = DeltaTable(str(storage / "tables/c/s/files")).to_pyarrow_table()
        found = Counter(tuple(row.get(name) for name in "abcd") for row in table.to_pylist())
        assert found == expected


def update(project: Path, storage: Path, engine: SailEngine, point: str | None) -> None:
    def hook(reached: str) -> None:
        if reached == point:
            raise Death(point)

    with faults.installed(hook):
        try:
            result = Pipeline(project, storage=storage, engine=engine).run()
        except Death:
            return
    assert result.exit_code == 0, [error.render() for error in result.errors]
