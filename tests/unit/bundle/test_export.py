"""A bundle that is written for a project fits Databricks' models, and is the same pipeline when it is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.drift.bundle_schema import checked

from lakelet.cli import cli
from lakelet.project import library_files
from lakelet.spec import load_spec

FILE = """\
from pyspark import pipelines as dp


@dp.materialized_view(name="01_gold.numbers")
def numbers():
    return spark.range(3)


@dp.materialized_view
def files():
    return spark.read.format("csv").schema("a INT").load("/Volumes/main/raw/drop/data.csv")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    (folder / "transformations").mkdir(parents=True)
    (folder / "transformations" / "all.py").write_text(FILE)
    (folder / "spark-pipeline.yml").write_text(
        'name: my shop\nstorage: s\nschema: sales\nconfiguration: {rows: "3", lakelet.cdc.ties: fail}\n'
        "libraries: [{glob: {include: transformations/**}}]\n"
    )
    drop = folder / "s" / "Volumes" / "main" / "raw" / "drop"
    drop.mkdir(parents=True)
    (drop / "data.csv").write_text("1\n")
    return folder


def export(project: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["export", "--databricks", "--spec", str(project), *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("place", [".", "../elsewhere/bundle"])
def test_the_bundle_is_the_same_pipeline(project: Path, place: str) -> None:
    output = project / place
    code, told = export(project, "--output", str(output))
    assert code == 0, told
    resources = checked(output / "databricks.yml")
    assert [schema["name"] for schema in resources["schemas"].values()] == ["01_gold"]
    assert resources["volumes"]["main_raw_drop"]["schema_name"] == "raw"
    own, bundle = load_spec(project / "spark-pipeline.yml"), load_spec(output / "databricks.yml")
    assert (bundle.name, bundle.catalog, bundle.database) == ("my shop", "workspace", "sales")
    assert dict(bundle.configuration) == {"rows": "3"}
    assert [file.resolve() for file in library_files(bundle)] == library_files(own)
    assert [folder.resolve() for folder in bundle.source_folders] == [project]


def test_what_is_there_is_kept_unless_forced(project: Path) -> None:
    (project / "databricks.yml").write_text("mine")
    code, told = export(project)
    assert (code, "BUNDLE_EXISTS" in told) == (2, True)
    assert (project / "databricks.yml").read_text() == "mine"
    assert export(project, "--force")[0] == 0
    assert (project / "databricks.yml").read_text().startswith("# Written by")


def test_the_value_of_a_secret_is_not_written(project: Path) -> None:
    spec = project / "spark-pipeline.yml"
    spec.write_text(spec.read_text().replace('rows: "3"', 'rows: "3", shop.api.token: abc123'))
    code, told = export(project)
    assert code == 0, told
    files = [project / "databricks.yml", *(project / "resources").glob("*.yml")]
    assert not [file for file in files if "abc123" in file.read_text()]
    checked(project / "databricks.yml")
    (resource,) = (project / "resources").glob("*.yml")
    assert "shop.api.token: ${var.shop_api_token}" in resource.read_text()
