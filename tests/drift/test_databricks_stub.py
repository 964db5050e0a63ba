"""The flagship's files load against the stub that Databricks publishes of its own decorators.

The stub depends on a client that clashes with ours, so it lies in a folder of its own, used by a process of its own.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lakelet.pipelines import dlt

STUBS = Path(sys.prefix) / "stubs"
LOADER = Path(__file__).with_name("load_with_stub.py")
FILES = sorted((Path(__file__).parents[2] / "src" / "apparel" / "pipeline" / "transformations").glob("*.py"))


def load(file: Path) -> subprocess.CompletedProcess[str]:
    if not (STUBS / "dlt" / "api.py").exists():
        pytest.fail("the stub of databricks-dlt is not installed: run `make setup`")
    command = [sys.executable, str(LOADER), str(STUBS), str(file)]
    environment = {**os.environ, "SPARK_REMOTE": "sc://pipeline.invalid", "SPARK_CONNECT_MODE_ENABLED": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_flagship_has_files() -> None:
    assert len(FILES) >= 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_databricks_stub_accepts_a_file_of_the_flagship(file: Path) -> None:
    done = load(file)
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout.splitlines()[-1])
    assert calls, "the file declared nothing"


@pytest.mark.parametrize("name", ["apply_changes", "apply_changes_from_snapshot"])
def test_positional_arguments_are_in_the_order_of_the_stub(name: str) -> None:
    if not (STUBS / "dlt" / "api.py").exists():
        pytest.fail("the stub of databricks-dlt is not installed: run `make setup`")
    tree = ast.parse((STUBS / "dlt" / "api.py").read_text("utf-8"))
    theirs = next(node.args.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    ours = list(inspect.signature(getattr(dlt, name)).parameters)
    assert ours[: len(theirs)] == [argument.arg for argument in theirs]


@pytest.mark.parametrize("call", ["dp.table(colour='x')", "dp.create_streaming_table()", "dp.apply_changes(1)"])
def test_the_stub_refuses_what_it_does_not_know(tmp_path: Path, call: str) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(f"from pyspark import pipelines as dp\n{call}\n")
    done = load(file)
    assert done.returncode != 0
    assert "TypeError" in done.stderr or "AttributeError" in done.stderr
