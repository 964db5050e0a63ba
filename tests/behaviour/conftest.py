"""Small pipelines, written to a temporary folder and run on the session's engine."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from tests.techniques import techniques

from lakelet.engine.sail import SailEngine
from lakelet.events.model import PipelineEvent
from lakelet.pipeline import Pipeline, UpdateResult
from lakelet.storage.delta_log import latest_version

SPEC = (
    "name: shop\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
    "configuration:\n  lakelet.views.recomputeRows: '0'\n"  # small as they are, views follow what is added
)
IMPORTS = "import dlt\nfrom pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"


class Project:
    """A pipeline project in a folder of its own; every `run` is an update in a fresh Pipeline, as a new process has it."""

    def __init__(self, root: Path, engine: SailEngine) -> None:
        self.root = root
        self.engine = engine
        self.events: list[PipelineEvent] = []
        self.clock: Callable[[], Any] | None = None
        (root / "pipeline").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC)

    def write(self, source: str, *, file: str = "tables.py") -> Project:
        """Write a pipeline file; `dp`, `dlt` and `F` are imported."""
        text = textwrap.dedent(source)
        (self.root / "pipeline" / file).write_text(IMPORTS + text if file.endswith(".py") else text)
        return self

    def land(self, name: str, rows: pa.Table, **options: Any) -> None:
        """Append rows to the landing table `/Volumes/main/raw/landing/<name>`."""
        folder = self.root / "data" / "Volumes" / "main" / "raw" / "landing" / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(folder), rows, **{"mode": "append", **options})

    def pipeline(self, **options: Any) -> Pipeline:
        if self.clock is not None:
            options["clock"] = self.clock
        return Pipeline(self.root, engine=self.engine, **options)

    def run(self, **options: Any) -> UpdateResult:
        self.events = []
        configuration = options.pop("configuration", None)
        return self.pipeline(configuration=configuration).run(subscribers=[self.events.append], **options)

    def ok(self, **options: Any) -> UpdateResult:
        """Run an update that must succeed."""
        result = self.run(**options)
        assert result.exit_code == 0, "\n".join(error.render() for error in result.errors)
        return result

    def rows(self, dataset: str, *columns: str) -> list[Any]:
        """Return a table's rows, sorted: bare values of one column, tuples of several, dicts of all."""
        table = self.pipeline().table(dataset)
        if not columns:
            return sorted(table.to_pylist(), key=lambda row: [str(value) for value in row.values()])
        values = [table.column(name).to_pylist() for name in columns]
        return sorted(values[0] if len(values) == 1 else zip(*values, strict=True), key=str)

    def folder(self, dataset: str) -> Path:
        return self.root / "data" / "tables" / "spark_catalog" / "default" / dataset

    def version(self, dataset: str) -> int | None:
        return latest_version(str(self.folder(dataset)))

    def status(self, result: UpdateResult) -> dict[str, str]:
        return {flow.name: flow.status.value for flow in result.flows}

    def techniques(self) -> dict[str, tuple[str, list[str]]]:
        """Return how each materialized view was brought up to date in the last update, and why."""
        return techniques(self.events)


@pytest.fixture
def new_project(tmp_path: Path, engine: SailEngine) -> Callable[[], Project]:
    """Return a maker of projects, for a test that needs many."""
    numbers = itertools.count()

    def make() -> Project:
        root = tmp_path / f"project{next(numbers)}"
        root.mkdir()
        return Project(root, engine)

    return make


@pytest.fixture
def project(tmp_path: Path, engine: SailEngine) -> Iterator[Project]:
    yield Project(tmp_path, engine)
