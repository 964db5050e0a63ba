"""The flagship's bundle is one that Databricks accepts, and describes the same pipeline as its project file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tests.drift.bundle_schema import checked

from apparel.operations import CATALOG, SCHEMAS
from lakelet.project import library_files
from lakelet.spec import load_spec

FOLDER = Path(__file__).parents[2] / "src" / "apparel" / "pipeline"
BUNDLE = FOLDER / "databricks.yml"


def test_its_resources_fit_the_models_of_databricks() -> None:
    resources = checked(BUNDLE)
    assert {kind: len(found) for kind, found in resources.items()} == {
        "schemas": 4,
        "volumes": 1,
        "pipelines": 1,
        "jobs": 3,
        "catalogs": 1,
    }
    assert resources["pipelines"]["apparel"]["serverless"] is True


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("root_path:", "rootpath:"),
        ("notebook_path:", "notebook:"),
        ("volume_type: MANAGED", "volume_type: OURS"),
        ("serverless: true", "serverless: often"),
        ("  volumes:", "  volume:"),
        ("sync:", "synch:"),
        ("  paths:", "  path:"),
        ("skip_name_prefix_for_schema", "no_name_prefix_for_schema"),
        ("    default: true", "    is_default: true"),
        ('    default: "20"', '    value: "20"'),
    ],
)
def test_the_check_finds_what_is_wrong(tmp_path: Path, before: str, after: str) -> None:
    text = BUNDLE.read_text("utf-8")
    assert before in text
    wrong = tmp_path / "databricks.yml"
    wrong.write_text(text.replace(before, after, 1))
    with pytest.raises((KeyError, ValueError, TypeError)):
        checked(wrong)


def test_both_project_files_name_the_same_pipeline() -> None:
    own, bundle = load_spec(FOLDER / "spark-pipeline.yml"), load_spec(BUNDLE)
    assert (own.name, own.catalog) == (bundle.name, bundle.catalog) == ("apparel", CATALOG)
    assert library_files(own) == library_files(bundle)


def test_its_schemas_and_volume_are_those_that_the_command_line_sets_up() -> None:
    resources = yaml.safe_load(BUNDLE.read_text("utf-8"))["resources"]
    names = [schema["name"] for schema in resources["schemas"].values()]
    assert names == ["00_landing", *SCHEMAS]
    assert resources["volumes"]["streaming"]["name"] == "streaming"


def test_every_notebook_and_synced_folder_is_there() -> None:
    document = yaml.safe_load(BUNDLE.read_text("utf-8"))
    tasks = [task for job in document["resources"]["jobs"].values() for task in job["tasks"]]
    notebooks = [FOLDER / task["notebook_task"]["notebook_path"] for task in tasks if "notebook_task" in task]
    assert len(notebooks) == 3
    assert all(notebook.is_file() for notebook in notebooks)
    assert all((FOLDER / path).is_dir() for path in document["sync"]["paths"])
