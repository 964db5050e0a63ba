"""The pytest plugin, in a pytest of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import lakelet

SOURCES = str(Path(lakelet.__file__).parents[1])
PIPELINE = """
from pyspark import pipelines as dp
@dp.materialized_view
def doubled():
    return spark.read.table("numbers").selectExpr("n * 2 AS n")
"""
TEST = """
def test_doubled(pipeline_test):
    test = pipeline_test()
    test.given("numbers", [{"n": 4}])
    assert test.run("doubled").rows == [{"n": 8}]
"""
SPEC = "name: numbers\nstorage: out\nlibraries:\n  - glob: {include: pipeline.py}\n"


def run(code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": SOURCES, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


PYTEST = "import pytest, sys; sys.exit(pytest.main(['-q', '-p', 'lakelet.testing.plugin', *sys.argv[1:]]))"


def project(folder: Path) -> Path:
    pipeline = folder / "pipelines"
    pipeline.mkdir()
    (pipeline / "spark-pipeline.yml").write_text(SPEC)
    (pipeline / "pipeline.py").write_text(PIPELINE)
    (folder / "test_numbers.py").write_text(TEST)
    return folder


def test_loading_the_plugin_imports_nothing_heavy(tmp_path: Path) -> None:
    heavy = "['pyspark', 'pyarrow', 'deltalake', 'pysail', 'sqlglot', 'pandas', 'grpc', 'numpy']"
    code = f"import sys, lakelet.testing.plugin, lakelet.testing; print([m for m in {heavy} if m in sys.modules])"
    assert run(code, folder=tmp_path).stdout.strip() == "[]"


def test_the_setting_names_the_pipeline_of_the_fixture(tmp_path: Path) -> None:
    (project(tmp_path) / "pytest.ini").write_text("[pytest]\nlakelet_spec = pipelines\n")
    result = run(PYTEST, folder=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_option_names_the_pipeline_of_the_fixture(tmp_path: Path) -> None:
    result = run(PYTEST, "--lakelet-spec", "pipelines/spark-pipeline.yml", folder=project(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_either_it_is_the_one_above_the_test(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "test_numbers.py").rename(tmp_path / "pipelines" / "test_numbers.py")
    assert run(PYTEST, "-W", "error", folder=tmp_path).returncode == 0
