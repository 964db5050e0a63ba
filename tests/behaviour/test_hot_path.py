"""What a warm micro-batch does not do: import, list folders, open tables, count in a pass of its own, wait in line."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

PIPELINE = Path(__file__).parents[2] / "src" / "apparel" / "pipeline"
LISTINGS = ("os.listdir", "os.scandir")


class Audit:
    """Counts what the interpreter tells its audit hooks of, which nothing can take out again."""

    def __init__(self) -> None:
        self.is_on = False
        self.seen: Counter[tuple[str, str]] = Counter()
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.is_on and (event == "import" or event in LISTINGS):
            self.seen[event, str(arguments[0])] += 1

    def listings(self, *, below: Path) -> Counter[str]:
        found = {name: n for (event, name), n in self.seen.items() if event in LISTINGS and name.startswith(str(below))}
        return Counter(found)

    def imports(self) -> list[str]:
        return [name for event, name in self.seen if event == "import"]


AUDIT = Audit()


@pytest.fixture
def audit() -> Iterator[Audit]:
    yield AUDIT
    AUDIT.is_on = False


def test_a_warm_update_imports_nothing_opens_no_table_and_lists_no_log(
    audit: Audit, engine: SailEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    make = deltalake.DeltaTable.__init__

    def counted(self: Any, table_uri: Any, *args: Any, **kwargs: Any) -> None:
        if audit.is_on:
            opened.append(str(table_uri))
        make(self, table_uri, *args, **kwargs)

    monkeypatch.setattr(deltalake.DeltaTable, "__init__", counted)
    generator = Generator(GeneratorSettings(seed=1), DeltaLanding(tmp_path))
    with Pipeline(PIPELINE, storage=tmp_path, engine=engine) as pipeline:
        for number in range(5):
            generator.write_batch()
            audit.seen.clear()
            audit.is_on = number == 4
            result = pipeline.run()
            audit.is_on = False
            assert result.exit_code == 0, [error.render() for error in result.errors]
    assert sum(flow.batches for flow in result.flows) >= 12  # every flow had something to do
    assert audit.imports() == []
    assert opened == []
    listed = audit.listings(below=tmp_path)
    assert [name for name in listed if "_delta_log" in name or "/tables/" in name] == []
    assert max(listed.values(), default=0) == 1  # of a flow's checkpoint, once, when the update begins


def test_further_micro_batches_list_nothing(audit: Audit, project: Any) -> None:
    project.write(
        """
        @dp.table
        @dp.expect("positive", "v > 0")
        def copies():
            return spark.readStream.format("delta").option("maxFilesPerTrigger", 1).load("/Volumes/main/raw/landing/orders")
        """
    )
    listed = []
    for num_batches in (1, 1, 6):
        for number in range(num_batches):
            project.land("orders", pa.table({"v": [number]}))
        audit.seen.clear()
        audit.is_on = True
        result = project.ok()
        audit.is_on = False
        assert [flow.batches for flow in result.flows] == [num_batches]
        listed.append(sum(audit.listings(below=project.root / "data").values()))
    assert listed[2] == listed[1]


def test_rules_are_counted_in_the_pass_that_writes(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    for name in ("collect", "stream", "observed"):
        real = getattr(type(project.engine), name)

        def counted(self: Any, *args: Any, real: Any = real, name: str = name, **kwargs: Any) -> Any:
            asked.append(name)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(type(project.engine), name, counted)
    counts = []
    rules = '@dp.expect("a", "v > 1")\n@dp.expect_or_drop("b", "v < 90")\n@dp.expect_all({"c": "v IS NOT NULL", "d": "v <> 7"})\n'
    for decorators in ("", rules):
        folder = "with" if decorators else "without"
        project.write(
            f"@dp.table(name='{folder}')\n{decorators}def t():\n"
            f"    return spark.readStream.format('delta').load('/Volumes/main/raw/landing/{folder}')\n",
            file=f"{folder}.py",
        )
        project.land(folder, pa.table({"v": list(range(100))}))
        asked.clear()
        project.ok()
        counts.append(Counter(asked))
        (project.root / "pipeline" / f"{folder}.py").unlink()
    assert counts[0] == counts[1]
    assert counts[0].total() > 0


def test_flows_that_do_not_depend_on_each_other_run_side_by_side(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two queries waits until the other one has begun, too."""
    met = threading.Barrier(2, timeout=30)
    asked: list[int] = []
    real = type(project.engine).stream

    def together(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(met.wait())
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(project.engine), "stream", together)
    project.write(
        "".join(
            f"@dp.table\ndef {name}():\n    return spark.readStream.format('delta').load('/Volumes/main/raw/landing/{name}')\n"
            for name in ("one", "two")
        )
    )
    for name in ("one", "two"):
        project.land(name, pa.table({"v": [1]}))
    project.ok()
    assert sorted(asked) == [0, 1]
    monkeypatch.undo()
    assert project.rows("one", "v") == project.rows("two", "v") == [1]


def test_further_micro_batches_ask_for_no_columns(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the engine tells of a query is known from one micro-batch to the next."""
    asked: list[str] = []
    real = type(project.engine).schema

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append("schema")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(type(project.engine), "schema", counted)
    project.write(
        """
        @dp.table
        @dp.expect("positive", "v > 0")
        def copies():
            rows = spark.readStream.format("delta").option("maxFilesPerTrigger", 1).load("/Volumes/main/raw/landing/orders")
            return rows.withColumn("w", F.col("v") * 2)
        """
    )
    counts = []
    for num_batches in (1, 1, 6):
        for number in range(num_batches):
            project.land("orders", pa.table({"v": [number]}))
        asked.clear()
        result = project.ok()
        assert [flow.batches for flow in result.flows] == [num_batches]
        counts.append(len(asked))
    assert counts[2] == counts[1]
