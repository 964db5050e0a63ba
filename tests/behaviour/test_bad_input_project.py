"""Bad input: the project file, the files that it names, and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.behaviour.bad_input import FILE, SPEC, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


SPEC_FILE = "spark-pipeline.yml"


def test_no_project_file(project: Project) -> None:
    (project.root / SPEC_FILE).unlink()
    project.refuses("PIPELINE_SPEC_FILE_NOT_FOUND", str(project.root), place=None, hint="lakelet init")
    assert not (project.root / "store").exists()


def test_two_project_files(project: Project) -> None:
    project.write("spark-pipeline.yaml", SPEC)
    both = "`spark-pipeline.yml` and `spark-pipeline.yaml`"
    project.refuses("MULTIPLE_PIPELINE_SPEC_FILES_FOUND", both, place=None, hint="--spec")


def test_a_project_file_that_does_not_exist(project: Project) -> None:
    arguments = ("run", "--spec", "nope.yml")
    project.refuses("PIPELINE_SPEC_FILE_DOES_NOT_EXIST", "nope.yml", place=None, hint="--spec", arguments=arguments)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("librarys: []", "did you mean `libraries`?"),
        ("target: silver", "write `schema`"),
        ("continuous: true", "--continuous"),
        ("colour: red", "the fields are name, storage"),
    ],
)
def test_an_unknown_key(project: Project, line: str, hint: str) -> None:
    project.write(SPEC_FILE, SPEC + line + "\n")
    project.refuses("PIPELINE_SPEC_UNEXPECTED_FIELD", line.partition(":")[0], place=f"{SPEC_FILE}:5", hint=hint)


@pytest.mark.parametrize(
    ("spec", "condition", "place", "hint"),
    [
        ("storage: store\n", "PIPELINE_SPEC_MISSING_REQUIRED_FIELD", f"{SPEC_FILE}:1", "add `name: my_pipeline`"),
        ("name: a\n", "PIPELINE_SPEC_MISSING_REQUIRED_FIELD", f"{SPEC_FILE}:1", "add `storage: pipeline-storage`"),
        ("name: 1\nstorage: s\n", "PIPELINE_SPEC_FIELD_NOT_STRING", f"{SPEC_FILE}:1", 'name: "1"'),
        ("- a\n", "PIPELINE_SPEC_FIELD_NOT_DICT", f"{SPEC_FILE}:1", "name: my_pipeline"),
        ("name: a\n  storage: [b\n", "PIPELINE_SPEC_INVALID_YAML", f"{SPEC_FILE}:2", "indentation"),
        ("name: a\nname: b\nstorage: s\n", "PIPELINE_SPEC_DUPLICATE_KEY", f"{SPEC_FILE}:2", "remove one"),
        ("name: a\nstorage: hdfs://x/y\n", "PIPELINE_STORAGE_ROOT_INVALID", f"{SPEC_FILE}:2", "file:///"),
        (
            SPEC.replace("transformations/**", "'**/*.py'"),
            "PIPELINE_SPEC_INVALID_GLOB_PATTERN",
            f"{SPEC_FILE}:3",
            "/**`",
        ),
        (SPEC.replace("glob: ", "file: "), "PIPELINE_SPEC_INVALID_LIBRARY", f"{SPEC_FILE}:3", "- glob:"),
        (SPEC.replace("transformations", "transforms"), "PIPELINE_LIBRARY_NOT_FOUND", SPEC_FILE, "correct the path"),
        (SPEC + "configuration: [a]\n", "PIPELINE_SPEC_FIELD_NOT_DICT", f"{SPEC_FILE}:5", 'key: "value"'),
        (SPEC + "configuration:\n  a: 1\n", "PIPELINE_SPEC_DICT_VALUE_NOT_STRING", f"{SPEC_FILE}:6", 'a: "1"'),
        (SPEC + "configuration:\n  1: a\n", "PIPELINE_SPEC_DICT_KEY_NOT_STRING", f"{SPEC_FILE}:6", "in quotes"),
        (SPEC + "configuration:\n  lakelet.timezon: UTC\n", "PIPELINE_SETTING_UNKNOWN", f"{SPEC_FILE}:6", "timezone"),
        (SPEC + "configuration:\n  lakelet.timezone: Mars\n", "PIPELINE_SETTING_INVALID", f"{SPEC_FILE}:6", "UTC"),
    ],
)
def test_a_project_file_that_is_wrong(project: Project, spec: str, condition: str, place: str, hint: str) -> None:
    project.write(SPEC_FILE, spec)
    project.refuses(condition, place=place, hint=hint)


def test_a_wrong_setting_on_the_command_line(project: Project) -> None:
    arguments = ("run", "--conf", "lakelet.timezone=Mars/Olympus")
    project.refuses("PIPELINE_SETTING_INVALID", "Mars/Olympus", place=None, hint="UTC", arguments=arguments)


@pytest.mark.parametrize(
    ("file", "text", "cause", "hint"),
    [
        (FILE, "x = 1\n", "1 file was loaded", "@dp.table"),
        (None, "", "there is no file in `transformations/**`", ".py or .sql"),
    ],
)
def test_no_dataset_is_declared(project: Project, file: str | None, text: str, cause: str, hint: str) -> None:
    if file:
        project.write(file, text)
    project.refuses("RUN_EMPTY_PIPELINE", cause, place=SPEC_FILE, hint=hint)


def test_only_views_are_declared(project: Project) -> None:
    project.pipeline("@dp.temporary_view\ndef v():\n    return spark.range(3)\n", orders=False)
    project.refuses("RUN_EMPTY_PIPELINE", "temporary views only", place=SPEC_FILE, hint="@dp.materialized_view")


@pytest.mark.parametrize(("name", "hint"), [("notes.txt", "move it out"), ("shop.ipynb", "export the notebook")])
def test_a_file_of_another_kind(project: Project, name: str, hint: str) -> None:
    project.write(f"transformations/{name}", "{}")
    place = f"transformations/{name}"
    project.refuses("PIPELINE_UNSUPPORTED_DEFINITIONS_FILE_EXTENSION", place=place, hint=hint)


# -- command line


@pytest.mark.parametrize(
    ("arguments", "condition", "says", "hint"),
    [
        (("--refresh", "order"), "UNKNOWN_DATASET", "`--refresh` names it", "did you mean `orders`?"),
        (("--full-refresh", "nothing_like_it"), "UNKNOWN_DATASET", "`--full-refresh` names it", "lakelet graph"),
        (("--refresh", "v"), "DATASET_NOT_STORED", "temporary view", "such as `totals`"),
        (("--refresh", "orders", "--full-refresh-all"), "CONFLICTING_PIPELINE_REFRESH_OPTIONS", "", "give either"),
    ],
)
def test_a_wrong_choice_of_datasets(
    project: Project, arguments: tuple[str, ...], condition: str, says: str, hint: str
) -> None:
    project.pipeline(
        """
        @dp.temporary_view
        def v():
            return spark.read.table("orders")

        @dp.materialized_view
        def totals():
            return spark.read.table("v")
        """
    )
    project.refuses(condition, says, place=None, hint=hint, arguments=("run", *arguments))


def test_all_wrong_names_on_the_command_line_are_reported_at_once(project: Project) -> None:
    project.pipeline("")
    outcome = project.run("run", "--refresh", "ordres,customers", "--full-refresh", "ordres")
    assert outcome.exit_code == 2
    assert outcome.stderr.count("error[UNKNOWN_DATASET]") == 2, outcome.stderr


def test_a_full_refresh_of_a_table_that_forbids_it(project: Project) -> None:
    project.pipeline(
        """
        @dp.table(table_properties={"pipelines.reset.allowed": "false"})  # here
        def kept():
            return spark.readStream.table("orders")
        """
    )
    assert project.run().exit_code == 0
    arguments = ("run", "--full-refresh", "kept")
    project.refuses("FULL_REFRESH_NOT_ALLOWED", "pipelines.reset.allowed", hint="leave", arguments=arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("rnu",), "Did you mean 'run'?"),
        (("run", "--refrsh", "a"), "--refresh"),
        (("graph", "--format", "dot"), "'mermaid'"),
        (("run", "--conf", "a"), "is not KEY=VALUE"),
        (("init",), "--name"),
    ],
)
def test_a_misspelled_command_or_option(project: Project, arguments: tuple[str, ...], text: str) -> None:
    outcome = project.run(*arguments)
    assert outcome.exit_code == 2
    assert text in outcome.stderr


@pytest.mark.parametrize(
    ("sql", "condition", "hint"),
    [
        ("select * from ordres", "TABLE_OR_VIEW_NOT_FOUND", "did you mean `orders`?"),
        ("drop table orders", "NOT_A_QUERY", "write one SELECT"),
        ("selec 1", "NOT_A_QUERY", "write one SELECT"),
    ],
)
def test_a_wrong_query(project: Project, sql: str, condition: str, hint: str) -> None:
    project.pipeline("")
    project.refuses(condition, place=None, hint=hint, arguments=("query", sql))


def test_reading_before_the_first_update(project: Project) -> None:
    project.pipeline("")
    for arguments in (("query", "select * from orders"), ("events",)):
        outcome = project.run(*arguments)
        assert outcome.exit_code == 1
        project.check(outcome, "DATASET_NOT_MATERIALIZED", place=None, hint="lakelet run")


def test_a_query_over_a_column_that_is_not_there(project: Project) -> None:
    project.pipeline("")
    assert project.run().exit_code == 0
    outcome = project.run("query", "select amout from orders")
    assert outcome.exit_code == 1
    project.check(outcome, "UNRESOLVED_COLUMN", "`amout`", place=None, hint="did you mean `amount`?")
