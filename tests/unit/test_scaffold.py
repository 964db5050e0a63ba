"""The project that `lakelet init` writes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lakelet.errors import SpecError
from lakelet.scaffold import write_project
from lakelet.spec import load_spec


def test_the_project_file_is_valid_and_its_storage_relative(tmp_path: Path) -> None:
    write_project(tmp_path / "demo", name="demo")
    spec = load_spec(tmp_path / "demo")
    assert (spec.name, spec.storage) == ("demo", tmp_path / "demo" / "pipeline-storage")
    assert spec.libraries == ("transformations/**",)


@pytest.mark.parametrize("name", ["true", "2026", "1.0", "2026-01-01"])
def test_a_name_that_yaml_would_read_as_something_else_is_quoted(tmp_path: Path, name: str) -> None:
    write_project(tmp_path, name=name)
    assert load_spec(tmp_path).name == name


def test_the_example_is_python_with_a_rule_and_an_auto_cdc_flow(tmp_path: Path) -> None:
    write_project(tmp_path, name="demo")
    source = (tmp_path / "transformations" / "customers.py").read_text()
    ast.parse(source)
    assert "expect_or_drop" in source
    assert "create_auto_cdc_flow" in source


def test_an_existing_project_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "spark-pipeline.yaml").write_text("name: mine\n")
    with pytest.raises(SpecError, match="PROJECT_EXISTS"):
        write_project(tmp_path, name="demo")
    assert [path.name for path in tmp_path.iterdir()] == ["spark-pipeline.yaml"]


@pytest.mark.parametrize("name", ["", "a b", "../up", "a:b"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SpecError, match="PROJECT_NAME_INVALID"):
        write_project(tmp_path, name=name)
