from pathlib import Path

import pytest

from lakelet.errors import SpecError
from lakelet.spec import PipelineSpec, find_spec, load_spec

MINIMAL = "name: shop\nstorage: store\n"


@pytest.fixture(autouse=True)
def no_storage_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAKELET_STORAGE", raising=False)


def loaded(folder: Path, text: str = MINIMAL, **options: str) -> PipelineSpec:
    (folder / "spark-pipeline.yml").write_text(text)
    return load_spec(folder, **options)


def refused(folder: Path, text: str) -> SpecError:
    with pytest.raises(SpecError) as caught:
        loaded(folder, text)
    assert caught.value.exit_code == 2
    return caught.value


def test_a_minimal_spec_has_sparks_defaults(tmp_path: Path) -> None:
    spec = loaded(tmp_path)
    assert (spec.name, spec.catalog, spec.database) == ("shop", "spark_catalog", "default")
    assert spec.storage == tmp_path / "store"
    assert (spec.root, spec.file) == (tmp_path, tmp_path / "spark-pipeline.yml")
    assert dict(spec.configuration) == dict(spec.settings) == {}
    assert spec.libraries == ()


def test_every_field_of_apache_is_read(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        """
name: shop
storage: file:///data/with%20space
catalog: main
database: retail
configuration:
  spark.sql.shuffle.partitions: "4"
  my.key: "yes"
libraries:
  - glob: {include: transformations/**}
  - glob:
      include: extra/one.py
""",
    )
    assert spec.storage == Path("/data/with space")
    assert (spec.catalog, spec.database) == ("main", "retail")
    assert spec.configuration == {"spark.sql.shuffle.partitions": "4", "my.key": "yes"}
    assert spec.libraries == ("transformations/**", "extra/one.py")


def test_schema_is_another_name_of_database_which_wins(tmp_path: Path) -> None:
    assert loaded(tmp_path, MINIMAL + "schema: a").database == "a"
    assert loaded(tmp_path, MINIMAL + "schema: a\ndatabase: b").database == "b"


def test_the_argument_wins_over_the_variable_which_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LAKELET_STORAGE", "from_variable")
    assert loaded(tmp_path).storage == tmp_path / "from_variable"
    assert loaded(tmp_path, storage="from_argument").storage == tmp_path / "from_argument"


def test_the_spec_is_found_in_the_working_directory_or_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "spark-pipeline.yaml").write_text(MINIMAL)
    monkeypatch.chdir(deep)
    assert find_spec() == tmp_path / "spark-pipeline.yaml"


def test_no_spec_says_where_it_looked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        find_spec()
    assert caught.value.condition == "PIPELINE_SPEC_FILE_NOT_FOUND"
    assert str(tmp_path) in caught.value.message


def test_two_specs_in_one_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "spark-pipeline.yaml").write_text(MINIMAL)
    assert refused(tmp_path, MINIMAL).condition == "MULTIPLE_PIPELINE_SPEC_FILES_FOUND"


def test_a_spec_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "nope.yml")
    assert caught.value.condition == "PIPELINE_SPEC_FILE_DOES_NOT_EXIST"


@pytest.mark.parametrize(
    ("text", "condition", "line"),
    [
        ("storage: s\n", "PIPELINE_SPEC_MISSING_REQUIRED_FIELD", 1),
        ("name: n\n", "PIPELINE_SPEC_MISSING_REQUIRED_FIELD", 1),
        (MINIMAL + "librarys: []\n", "PIPELINE_SPEC_UNEXPECTED_FIELD", 3),
        (MINIMAL + "name: again\n", "PIPELINE_SPEC_DUPLICATE_KEY", 3),
        (MINIMAL + "configuration: {a: '1', a: '2'}\n", "PIPELINE_SPEC_DUPLICATE_KEY", 3),
        (MINIMAL + "configuration: [a]\n", "PIPELINE_SPEC_FIELD_NOT_DICT", 3),
        (MINIMAL + "configuration:\n  a: 4\n", "PIPELINE_SPEC_DICT_VALUE_NOT_STRING", 4),
        (MINIMAL + "configuration:\n  a: true\n", "PIPELINE_SPEC_DICT_VALUE_NOT_STRING", 4),
        (MINIMAL + "configuration:\n  4: a\n", "PIPELINE_SPEC_DICT_KEY_NOT_STRING", 4),
        (MINIMAL + "catalog: 7\n", "PIPELINE_SPEC_FIELD_NOT_STRING", 3),
        (MINIMAL + "libraries: [a]\n", "PIPELINE_SPEC_INVALID_LIBRARY", 3),
        (MINIMAL + "libraries: [{glob: {include: 't/**/*.py'}}]\n", "PIPELINE_SPEC_INVALID_GLOB_PATTERN", 3),
        (MINIMAL + "libraries: [{glob: {include: '*.py'}}]\n", "PIPELINE_SPEC_INVALID_GLOB_PATTERN", 3),
        ("name: shop\nstorage: hdfs://name/x\n", "PIPELINE_STORAGE_ROOT_INVALID", 2),
        ("name: shop\nstorage: dbfs:/x\n", "PIPELINE_STORAGE_ROOT_INVALID", 2),
        ("name: shop\nstorage: file://host/x\n", "PIPELINE_STORAGE_ROOT_INVALID", 2),
        ("name: [\n", "PIPELINE_SPEC_INVALID_YAML", 2),
        ("- a\n", "PIPELINE_SPEC_FIELD_NOT_DICT", 1),
        ("", "PIPELINE_SPEC_FIELD_NOT_DICT", 1),
        (MINIMAL + "configuration:\n  lakelet.engin: sail\n", "PIPELINE_SETTING_UNKNOWN", 4),
        (MINIMAL + "configuration:\n  lakelet.timezone: Mars\n", "PIPELINE_SETTING_INVALID", 4),
        (MINIMAL + "configuration:\n  lakelet.cdc.ties: maybe\n", "PIPELINE_SETTING_INVALID", 4),
        (MINIMAL + "configuration:\n  lakelet.engine: duckdb\n", "PIPELINE_SETTING_INVALID", 4),
    ],
)
def test_a_wrong_spec_is_refused_with_condition_and_line(tmp_path: Path, text: str, condition: str, line: int) -> None:
    error = refused(tmp_path, text)
    assert error.condition == condition
    assert error.origin is not None
    assert (error.origin.file, error.origin.line) == ("spark-pipeline.yml", line)


def test_an_unknown_field_suggests_the_nearest(tmp_path: Path) -> None:
    assert refused(tmp_path, MINIMAL + "librarys: []").hint == "did you mean `libraries`?"


def test_an_unknown_setting_suggests_the_nearest(tmp_path: Path) -> None:
    error = refused(tmp_path, MINIMAL + "configuration: {lakelet.time.zone: UTC}")
    assert error.hint == "did you mean `lakelet.timezone`?"


def test_our_settings_are_kept_apart_from_what_the_pipeline_sees(tmp_path: Path) -> None:
    spec = loaded(
        tmp_path,
        MINIMAL
        + """
configuration:
  my.key: "1"
  lakelet.tables.prod.ref.rates: ref/rates
  lakelet.source.folders: lib, shared
  lakelet.maintenance.interval: 500 milliseconds
  pipelines.trigger.interval: 1 minute 30 seconds
""",
    )
    assert dict(spec.configuration) == {"my.key": "1", "pipelines.trigger.interval": "1 minute 30 seconds"}
    assert spec.external_tables == {"prod.ref.rates": "ref/rates"}
    assert spec.source_folders == (tmp_path / "lib", tmp_path / "shared")
    assert spec.setting("lakelet.maintenance.interval") == 0.5
    assert spec.setting("pipelines.trigger.interval") == 90
    assert spec.setting("lakelet.timezone") == "UTC"
    assert spec.setting("lakelet.maxBytesPerTrigger") is None


@pytest.mark.parametrize("text", ["soon", "10", "-1 second", "0 seconds", "10 fortnights", "1 minute or so", ""])
def test_an_interval_that_is_no_time_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    error = refused(tmp_path, MINIMAL + f'configuration:\n  pipelines.trigger.interval: "{text}"\n')
    assert error.condition == "PIPELINE_SETTING_INVALID"
    assert "10 seconds" in (error.cause or "")
    assert error.origin is not None and error.origin.line is not None
