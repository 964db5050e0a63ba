"""A bundle that is written for a project fits Databricks' models, and is the same pipeline when it is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.drift.bundle_schema import checked

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.cli import cli
from lakelet.pipeline import Pipeline
from lakelet.project import library_files
from lakelet.spec import load_spec

FLAGSHIP = Path(__file__).parents[3] / "src" / "apparel" / "pipeline"
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


def test_a_project_of_sql_and_notebooks_runs_from_its_bundle(project: Path) -> None:
    spec = project / "spark-pipeline.yml"
    spec.write_text(spec.read_text().replace("name: my shop", "name: 2nd shop"))
    (project / "transformations" / "more.sql").write_text(
        "CREATE OR REFRESH MATERIALIZED VIEW doubled AS SELECT id * 2 AS id FROM `01_gold`.numbers;\n"
    )
    (project / "transformations" / "cells.py").write_text(
        "# Databricks notebook source\n# MAGIC %md\n# MAGIC Text.\n\n# COMMAND ----------\n\n"
        "from pyspark import pipelines as dp\n\n# COMMAND ----------\n\n"
        "@dp.materialized_view\ndef tripled():\n    return spark.sql('SELECT id * 3 AS id FROM `01_gold`.numbers')\n"
    )
    code, told = export(project, "--output", str(project / "bundle"))
    assert code == 0, told
    resources = checked(project / "bundle" / "databricks.yml")
    assert list(resources["pipelines"]) == ["pipeline_2nd_shop"]
    for bundle in (str(project), str(project / "bundle" / "databricks.yml")):
        arguments = ["run", "--spec", bundle, "--storage", str(project / "s")]
        result = CliRunner().invoke(
            cli, arguments if bundle == str(project) else [*arguments, "--pipeline", "pipeline_2nd_shop"]
        )
        assert result.exit_code == 0, result.output
    with Pipeline(project / "bundle" / "databricks.yml", storage=project / "s") as pipeline:
        assert sorted(pipeline.table("doubled")["id"].to_pylist()) == [0, 2, 4]
        assert sorted(pipeline.table("tripled")["id"].to_pylist()) == [0, 3, 6]


def test_the_flagship_has_a_bundle_that_fits(tmp_path: Path) -> None:
    Generator(GeneratorSettings(seed=1), DeltaLanding(tmp_path / "s")).write_batch()
    code, told = export(FLAGSHIP, "--storage", str(tmp_path / "s"), "--output", str(tmp_path))
    assert code == 0, told
    resources = checked(tmp_path / "databricks.yml")
    assert {schema["name"] for schema in resources["schemas"].values()} >= {"01_bronze", "02_silver", "03_gold"}
