"""One pipeline of a bundle as a project file: what is read, what is ignored, what is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.bundle.pipeline import BundleChoice, load_pipeline
from lakelet.errors import SpecError
from lakelet.spec import PipelineSpec, find_spec, load_spec

SMALL = """\
bundle: {name: shop}
resources:
  pipelines:
    sales:
      name: Sales
      catalog: main
      schema: gold
      libraries:
        - glob: {include: transformations/**}
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAKELET_STORAGE", "DATABRICKS_BUNDLE_TARGET"):
        monkeypatch.delenv(name, raising=False)


def written(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def loaded(folder: Path, text: str = SMALL, **choice: object) -> PipelineSpec:
    written(folder, {"databricks.yml": text})
    return load_spec(folder, choice=BundleChoice(**choice))  # type: ignore[arg-type]


def refused(folder: Path, text: str, **choice: object) -> SpecError:
    with pytest.raises(SpecError) as caught:
        loaded(folder, text, **choice)
    assert caught.value.exit_code == 2
    return caught.value


def test_a_pipeline_of_a_bundle_is_a_project(tmp_path: Path) -> None:
    spec = loaded(tmp_path)
    assert (spec.name, spec.catalog, spec.database) == ("Sales", "main", "gold")
    assert spec.libraries == ("transformations/**",)
    assert (spec.root, spec.file) == (tmp_path, tmp_path / "databricks.yml")
    assert spec.storage == tmp_path / ".lakelet" / "default" / "sales"


def test_the_chosen_storage_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, {"databricks.yml": SMALL})
    monkeypatch.setenv("LAKELET_STORAGE", "/data/variable")
    assert load_spec(tmp_path).storage == Path("/data/variable")
    assert load_spec(tmp_path, storage="/data/option").storage == Path("/data/option")


def test_the_project_file_of_spark_wins_over_a_bundle_beside_it(tmp_path: Path) -> None:
    written(tmp_path, {"databricks.yml": SMALL, "spark-pipeline.yml": "name: own\nstorage: s\n"})
    assert find_spec(tmp_path).name == "spark-pipeline.yml"
    assert load_spec(tmp_path / "databricks.yml").name == "Sales"


def test_options_of_a_bundle_are_refused_for_another_project_file(tmp_path: Path) -> None:
    written(tmp_path, {"spark-pipeline.yml": "name: own\nstorage: s\n"})
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path, choice=BundleChoice(pipeline="sales"))
    assert caught.value.condition == "BUNDLE_CHOICE_WITHOUT_BUNDLE"


def test_paths_are_relative_to_the_file_that_they_stand_in(tmp_path: Path) -> None:
    included = """
resources:
  pipelines:
    sales:
      root_path: ../src
      libraries:
        - notebook: {path: ../src/orders}
        - file: {path: ../src/totals.sql}
        - glob: {include: ../src/more/**}
"""
    written(
        tmp_path,
        {
            "databricks.yml": "bundle: {name: shop}\ninclude: [resources/*.yml]\n",
            "resources/sales.yml": included,
            "src/orders.py": "",
            "src/totals.sql": "",
            "src/more/a.py": "",
        },
    )
    spec = load_spec(tmp_path)
    assert spec.libraries == ("src/orders.py", "src/totals.sql", "src/more/**")
    assert spec.source_folders == (tmp_path / "src",)
    assert spec.name == "sales"


VARIABLES = """\
bundle: {name: shop}
variables:
  catalog: {default: dev_catalog, description: where tables lie}
  schema: {default: "${bundle.name}_${bundle.target}"}
  limits: {type: complex, default: {rows: 10, on: true}}
  secret: {description: has no default}
resources:
  schemas:
    gold: {name: gold_schema, catalog_name: "${var.catalog}"}
  pipelines:
    sales:
      name: sales of ${resources.schemas.gold.name}
      catalog: ${var.catalog}
      schema: ${var.schema}
      configuration:
        rows: ${var.limits.rows}
        on: ${var.limits.on}
        text: up to ${var.limits.rows} rows
        folder: ${workspace.file_path}/data
        lakelet.timezone: Europe/Zurich
      clusters: [{label: default, num_workers: "${var.nothing}"}]
      serverless: true
      continuous: true
targets:
  dev: {default: true, mode: development}
  prod:
    variables: {catalog: prod_catalog}
    resources:
      pipelines:
        sales: {name: sales, configuration: {extra: "1"}}
"""


def test_variables_are_resolved_and_targets_override(tmp_path: Path) -> None:
    dev = loaded(tmp_path, VARIABLES)
    assert (dev.name, dev.catalog, dev.database) == ("sales of gold_schema", "dev_catalog", "shop_dev")
    assert dict(dev.configuration) == {
        "rows": "10",
        "on": "true",
        "text": "up to 10 rows",
        "folder": f"{tmp_path}/data",
    }
    assert dev.time_zone == "Europe/Zurich"
    assert dev.storage == tmp_path / ".lakelet" / "dev" / "sales"
    prod = loaded(tmp_path, VARIABLES, target="prod")
    assert (prod.name, prod.catalog, prod.database) == ("sales", "prod_catalog", "shop_prod")
    assert prod.configuration["extra"] == "1"
    assert prod.configuration["rows"] == "10"


def test_a_given_value_wins_over_the_environment_which_wins_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE_VAR_catalog", "from_environment")
    assert loaded(tmp_path, VARIABLES).catalog == "from_environment"
    assert loaded(tmp_path, VARIABLES, variables={"catalog": "given"}).catalog == "given"
    monkeypatch.setenv("DATABRICKS_BUNDLE_TARGET", "prod")
    assert loaded(tmp_path, VARIABLES).database == "shop_prod"


def test_ignored_fields_are_told(tmp_path: Path) -> None:
    written(tmp_path, {"databricks.yml": VARIABLES})
    assert set(load_pipeline(tmp_path / "databricks.yml").ignored) == {"clusters", "serverless", "continuous"}


def with_line(line: str) -> str:
    return SMALL.replace("      catalog: main\n", f"      {line}\n")


@pytest.mark.parametrize(
    ("text", "condition", "line", "hint"),
    [
        (with_line("catalogue: main"), "PIPELINE_SPEC_UNEXPECTED_FIELD", 6, "catalog"),
        (SMALL.replace("pipelines:", "pipeline:"), "PIPELINE_SPEC_UNEXPECTED_FIELD", 3, "pipelines"),
        (SMALL.replace("resources:", "resource:"), "PIPELINE_SPEC_UNEXPECTED_FIELD", 2, "resources"),
        (with_line("catalog: ${var.cat}"), "BUNDLE_VARIABLE_UNRESOLVED", 6, "write the value"),
        (with_line("catalog: ${resources.pipelines.sales.id}"), "BUNDLE_VARIABLE_UNRESOLVED", 6, "write the value"),
        (with_line("catalog: ${resources.pipelines.sales.catalog}"), "BUNDLE_VARIABLE_UNRESOLVED", 6, "write the"),
        (with_line("ingestion_definition: {objects: []}"), "UNSUPPORTED_FEATURE", 6, "source files"),
        (with_line("catalog: []"), "PIPELINE_SPEC_FIELD_NOT_STRING", 6, "value"),
        (with_line("configuration: {lakelet.timezon: UTC}"), "PIPELINE_SETTING_UNKNOWN", 6, "lakelet.timezone"),
        (SMALL.replace("glob: {include: transformations/**}", "jar: a.jar"), "UNSUPPORTED_FEATURE", 9, "JVM"),
        (SMALL.replace("transformations/**", "a/*.py"), "PIPELINE_SPEC_INVALID_GLOB_PATTERN", 9, "glob"),
        (SMALL.replace("glob: {include: transformations/**}", "glob: x"), "PIPELINE_SPEC_INVALID_LIBRARY", 9, "glob"),
        (SMALL.replace("transformations/**", "/Workspace/x"), "UNSUPPORTED_FEATURE", 9, "relative"),
        (SMALL + "  pipelines: {}\n", "PIPELINE_SPEC_DUPLICATE_KEY", 10, "remove"),
        (SMALL + "targets: {a: {}, b: {}}\n", "BUNDLE_TARGET_NOT_CHOSEN", 10, "--bundle-target"),
        (SMALL + "include: [resources/none.yml]\n", "BUNDLE_INCLUDE_NOT_FOUND", 10, "relative"),
        ("bundle: {name: shop}\n", "BUNDLE_PIPELINE_NOT_FOUND", 1, "add one"),
        ("bundle: [\n", "PIPELINE_SPEC_INVALID_YAML", 2, "YAML"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, condition: str, line: int, hint: str) -> None:
    error = refused(tmp_path, text)
    assert (error.condition, error.origin and error.origin.line) == (condition, line), error.render()
    assert hint in str(error.hint)


def test_variables_that_refer_to_each_other_in_a_circle_are_refused(tmp_path: Path) -> None:
    text = with_line("catalog: ${var.a}") + 'variables: {a: {default: "${var.b}"}, b: {default: "${var.a}"}}\n'
    error = refused(tmp_path, text)
    assert error.condition == "BUNDLE_VARIABLE_UNRESOLVED"
    assert error.cause == "var.a → var.b → var.a"


def test_a_variable_without_a_value_says_how_to_give_one(tmp_path: Path) -> None:
    error = refused(tmp_path, VARIABLES.replace("schema: ${var.schema}", "schema: ${var.secret}"))
    assert error.hint == "give `--var secret=VALUE`, or set the environment variable `BUNDLE_VAR_secret`"


def test_unknown_choices_suggest_near_names(tmp_path: Path) -> None:
    assert refused(tmp_path, VARIABLES, target="prot").hint == "did you mean `prod`?"
    assert refused(tmp_path, VARIABLES, pipeline="sale").hint == "did you mean `sales`?"
    assert refused(tmp_path, VARIABLES, variables={"catalgo": "x"}).hint == "did you mean `catalog`?"


def test_of_several_pipelines_one_is_chosen_by_key_or_name(tmp_path: Path) -> None:
    several = SMALL + "    returns: {name: Returned}\n"
    error = refused(tmp_path, several)
    assert (error.condition, error.hint) == ("BUNDLE_PIPELINE_NOT_CHOSEN", "say which with `--pipeline NAME`")
    assert "returns, sales" in error.message
    assert loaded(tmp_path, several, pipeline="returns").name == "Returned"
    assert loaded(tmp_path, several, pipeline="Returned").storage == tmp_path / ".lakelet" / "default" / "returns"


def test_anchors_and_merged_mappings_are_followed(tmp_path: Path) -> None:
    text = SMALL.replace("bundle:", "variables:\n  base: {default: &base {a: x, b: y}}\nbundle:").replace(
        "catalog: main", "configuration: {<<: *base, b: z}"
    )
    assert dict(loaded(tmp_path, text).configuration) == {"a": "x", "b": "z"}
