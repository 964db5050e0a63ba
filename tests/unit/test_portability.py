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
        ("cdc_delta_target", 24),
        ("event_hooks", 27),
        ("dbutils", 29),
    }
    assert places(project, "databricks") == {("lakelet_setting", 3)}


def test_a_path_of_this_machine_is_not_one_of_databricks(project: Path) -> None:
    data = project / "data.csv"
    data.write_text("1\n")
    (project / "t" / "all.py").write_text(
        "from pyspark import pipelines as dp\n\n\n@dp.materialized_view\ndef rows():\n"
        f"    return spark.read.format('csv').schema('a INT').load('{data}')\n"
    )
    assert [feature for feature, _ in places(project, "databricks")].count("local_path") == 1
    assert places(project, "spark") == set()


HEAD = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"
LINES = """
@dp.table
def lines():
    return spark.readStream.format("rate").load()
"""
CDC = 'dp.create_streaming_table("t")\ndp.create_auto_cdc_flow(target="t", source="lines", keys=["value"], '
CDC += 'sequence_by="timestamp", stored_as_scd_type=1{more})'
ONE_EACH = {
    "databricks_module": ("all.py", "from databricks import pipelines as dp\n" + LINES, 1),
    "notebook": (
        "all.py",
        "# Databricks notebook source\n# MAGIC %sql\n# MAGIC CREATE MATERIALIZED VIEW v AS SELECT 1 AS a\n\n"
        "# COMMAND ----------\n" + HEAD + LINES,
        1,
    ),
    "cloud_files": (
        "all.py",
        HEAD + "@dp.table\ndef t():\n    return spark.readStream.format('cloudFiles').option('cloudFiles.format', 'json')"
        ".schema('a INT').load('/Volumes/main/raw/landing/x')",
        5,
    ),
    "snapshot_cdc": (
        "all.py",
        HEAD + LINES + 'dp.create_streaming_table("t")\n'
        'dp.create_auto_cdc_from_snapshot_flow(target="t", source="lines", keys=["value"], stored_as_scd_type=1)',
        8,
    ),
    "cdc_columns_to_update": ("all.py", HEAD + LINES.replace("load()", 'load().withColumn("set", F.array(F.lit("value")))')
                              + CDC.format(more=', columns_to_update="set"'), 8),
    "cdc_truncates": ("all.py", HEAD + LINES + CDC.format(more=', apply_as_truncates="value < 0"'), 8),
    "cdc_several_flows": (
        "all.py",
        HEAD + LINES + CDC.format(more=', name="a"') + "\n" + CDC.partition("\n")[2].format(more=', name="b"'),
        8,
    ),
    "foreach_batch_sink": (
        "all.py",
        HEAD + LINES + '@dp.foreach_batch_sink(name="s")\ndef s(rows, batch):\n    pass\n'
        '@dp.append_flow(target="s")\ndef f():\n    return spark.readStream.table("lines")',
        7,
    ),
    "update_flow": (
        "all.py",
        HEAD + LINES + 'dp.create_sink("s", "delta", {"path": "/Volumes/main/raw/out/s"})\n'
        '@dp.update_flow(target="s")\ndef f():\n    return spark.readStream.table("lines")',
        8,
    ),
    "refresh_policy": (
        "all.py", HEAD + '@dp.materialized_view(refresh_policy="full")\ndef v():\n    return spark.range(1)', 3
    ),
    "trigger_interval": (
        "all.py",
        HEAD + '@dp.table(table_properties={"pipelines.trigger.interval": "10 seconds"})' + LINES.replace("@dp.table", ""),
        3,
    ),
    "complete_flow": (
        "all.py", HEAD + LINES + '@dp.table\ndef n():\n    return spark.readStream.table("lines").groupBy().count()', 7
    ),
    "lakelet_module": ("all.py", "import lakelet\n" + HEAD + LINES, 1),
}  # fmt: skip


@pytest.mark.parametrize("feature", ONE_EACH)
def test_each_feature_is_found_where_it_is_used(tmp_path: Path, feature: str) -> None:
    name, source, line = ONE_EACH[feature]
    (tmp_path / "spark-pipeline.yml").write_text("name: shop\nstorage: s\nlibraries: [{glob: {include: t/**}}]\n")
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / name).write_text(source + "\n")
    (tmp_path / "s/Volumes/main/raw/landing/x").mkdir(parents=True)
    assert (feature, line) in places(tmp_path, FEATURES[feature].lacking.value)


def test_every_feature_is_found_by_a_test() -> None:
    elsewhere = {
        "expectations", "dlt_module", "dp_read", "view_alias", "dbutils", "volumes", "once", "cdc_ignore_null_updates",
        "cdc_where", "cdc_delta_target", "event_hooks", "path", "private", "cluster_by_auto", "lakelet_setting", "local_path",
    }  # fmt: skip
    assert elsewhere | set(ONE_EACH) == set(FEATURES)


def test_files_that_sql_reads_are_found(tmp_path: Path) -> None:
    (tmp_path / "spark-pipeline.yml").write_text("name: shop\nstorage: s\nlibraries: [{glob: {include: t/**}}]\n")
    (tmp_path / "t").mkdir()
    folder = tmp_path / "s/Volumes/main/raw/landing/x"
    folder.mkdir(parents=True)
    (folder / "a.json").write_text('{"a": 1}\n')
    read = "SELECT a\n  FROM STREAM read_files('/Volumes/main/raw/landing/x', format => 'json', schema => 'a INT')"
    (tmp_path / "t" / "one.sql").write_text(f"-- read_files( in a comment\nCREATE STREAMING TABLE one AS {read};\n")
    (tmp_path / "t" / "two.py").write_text(HEAD + f'@dp.table\ndef two():\n    return spark.sql("""{read}""")\n')
    with Pipeline(tmp_path) as pipeline:
        found = {
            (use.origin.file, use.origin.line) for use in pipeline.missing_on("spark") if use.feature == "cloud_files"
        }
    assert found == {("t/one.sql", 3), ("t/two.py", 6)}


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


def test_apache_spark_lacks_four_features_of_the_flagship(storage: str) -> None:
    code, told = run("--spec", str(FLAGSHIP), "--storage", storage, "--target", "spark")
    assert code == 1
    found = {use["feature"] for use in told["lacking"]}
    assert found == {"expectations", "cdc_ignore_null_updates", "cdc_delta_target", "volumes"}
    assert all(use["file"].startswith("transformations/") and use["line"] for use in told["lacking"])


def test_text_names_the_place_and_what_to_do(project: Path) -> None:
    result = CliRunner().invoke(cli, ["check", "--spec", str(project), "--target", "spark"])
    assert result.exit_code == 1
    assert "t/all.py:1: the module `dlt`; write `from pyspark import pipelines as dp`\n" in result.stdout
    assert result.stdout.endswith("shop: 13 that spark lacks\n")


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
