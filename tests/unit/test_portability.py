"""What a pipeline uses that Databricks or Apache Spark lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.cli import cli
from lakelet.pipeline import Pipeline
from lakelet.portability import FEATURES, Target

FLAGSHIP = Path(__file__).parents[2] / "src" / "apparel" / "pipeline"
FILE = """\
import dlt
from pyspark.sql import functions as F

dlt.create_streaming_table("raw", path="/tmp/somewhere", cluster_by_auto=True)


@dlt.append_flow(target="raw", once=True)
def first():
    return spark.createDataFrame([(1, "a")], "id INT, name STRING")


@dlt.table(private=True)
@dlt.expect_or_drop("has_id", "id IS NOT NULL")
def clean():
    return dlt.read_stream("raw")


@dlt.view
def seen():
    return spark.read.table("clean")


dlt.create_streaming_table("now")
dlt.apply_changes(target="now", source="clean", keys=["id"], sequence_by="id", ignore_null_updates=True, where="id > 0")


@dlt.on_event_hook
def told(event):
    dbutils.fs.ls("/")
"""


def places(folder: Path, target: str) -> set[tuple[str, int | None]]:
    with Pipeline(folder) as pipeline:
        return {(use.feature, use.origin.line) for use in pipeline.missing_on(target)}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "spark-pipeline.yml").write_text(
        "name: shop\nstorage: s\nconfiguration: {lakelet.cdc.ties: fail}\nlibraries: [{glob: {include: t/**}}]\n"
    )
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "all.py").write_text(FILE)
    return tmp_path


def test_each_use_is_found_at_its_line(project: Path) -> None:
    assert places(project, "spark") == {
        ("dlt_module", 1),
        ("path", 4),
        ("cluster_by_auto", 4),
        ("once", 7),
        ("private", 12),
        ("expectations", 13),
        ("dp_read", 15),
        ("view_alias", 18),
        ("cdc_ignore_null_updates", 24),
        ("cdc_where", 24),
        ("event_hooks", 27),
        ("dbutils", 29),
    }
    assert places(project, "databricks") == {("lakelet_setting", None)}


def test_a_path_of_this_machine_is_not_one_of_databricks(project: Path) -> None:
    data = project / "data.csv"
    data.write_text("1\n")
    (project / "t" / "all.py").write_text(
        "from pyspark import pipelines as dp\n\n\n@dp.materialized_view\ndef rows():\n"
        f"    return spark.read.format('csv').schema('a INT').load('{data}')\n"
    )
    assert [feature for feature, _ in places(project, "databricks")].count("local_path") == 1
    assert places(project, "spark") == set()


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    result = CliRunner().invoke(cli, ["check", "--json", *arguments])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Storage of the flagship with one batch in its landing zone, whose columns the check needs."""
    folder = tmp_path_factory.mktemp("storage")
    Generator(GeneratorSettings(seed=1), DeltaLanding(folder)).write_batch()
    return str(folder)


def test_the_flagship_is_portable_to_databricks(storage: str) -> None:
    code, told = run("--spec", str(FLAGSHIP), "--storage", storage, "--target", "databricks")
    assert (code, told) == (0, {"target": "databricks", "portable": True, "lacking": []})


def test_apache_spark_lacks_three_features_of_the_flagship(storage: str) -> None:
    code, told = run("--spec", str(FLAGSHIP), "--storage", storage, "--target", "spark")
    assert code == 1
    assert {use["feature"] for use in told["lacking"]} == {"expectations", "cdc_ignore_null_updates", "volumes"}
    assert all(use["file"].startswith("transformations/") and use["line"] for use in told["lacking"])


def test_text_names_the_place_and_what_to_do(project: Path) -> None:
    result = CliRunner().invoke(cli, ["check", "--spec", str(project), "--target", "spark"])
    assert result.exit_code == 1
    assert "t/all.py:1: the module `dlt`; write `from pyspark import pipelines as dp`\n" in result.stdout
    assert result.stdout.endswith("shop: 12 that spark lacks\n")


@pytest.mark.parametrize(
    "name", ["ignore_null_updates", "once", "refresh_policy", "private", "path", "cluster_by_auto"]
)
def test_apaches_own_functions_lack_what_the_table_says(name: str) -> None:
    import inspect

    import pyspark.pipelines as apache

    parameters = {key for function in apache.__all__ for key in inspect.signature(getattr(apache, function)).parameters}
    assert name not in parameters


def test_every_feature_says_what_to_do() -> None:
    assert all(feature.text and feature.instead and feature.lacking in Target for feature in FEATURES.values())
