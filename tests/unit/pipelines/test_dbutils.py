from pathlib import Path

import pytest

from lakelet.errors import DefinitionError
from lakelet.pipelines.dbutils import DBUtils


@pytest.fixture
def dbutils(tmp_path: Path) -> DBUtils:
    return DBUtils(storage=tmp_path / "store", configuration={"region": "north"})


@pytest.mark.parametrize("prefix", ["", "dbfs:", "dbfs://", "file:"])
def test_volumes_lie_below_the_storage(dbutils: DBUtils, tmp_path: Path, prefix: str) -> None:
    assert dbutils.fs.mkdirs(f"{prefix}/Volumes/a/b/c")
    assert (tmp_path / "store/Volumes/a/b/c").is_dir()
    assert dbutils.fs.exists("/Volumes/a/b/c")


def test_ls_lists_names_sizes_and_marks_folders(dbutils: DBUtils, tmp_path: Path) -> None:
    dbutils.fs.mkdirs("/Volumes/a/sub")
    (tmp_path / "store/Volumes/a/x.json").write_text("{}")
    entries = dbutils.fs.ls("/Volumes/a/")
    assert [(entry.name, entry.path, entry.size, entry.isDir()) for entry in entries] == [
        ("sub/", "/Volumes/a/sub/", 0, True),
        ("x.json", "/Volumes/a/x.json", 2, False),
    ]
    assert dbutils.fs.ls("/Volumes/a/x.json")[0].name == "x.json"


def test_ls_of_a_missing_folder_names_it(dbutils: DBUtils) -> None:
    with pytest.raises(FileNotFoundError, match="/Volumes/none"):
        dbutils.fs.ls("/Volumes/none")


def test_rm_removes_files_and_only_asked_for_folders(dbutils: DBUtils, tmp_path: Path) -> None:
    dbutils.fs.put("/Volumes/a/b/x.txt", "hello")
    assert dbutils.fs.head("/Volumes/a/b/x.txt") == "hello"
    with pytest.raises(OSError, match="recurse=True"):
        dbutils.fs.rm("/Volumes/a")
    assert dbutils.fs.rm("/Volumes/a", recurse=True)
    assert not (tmp_path / "store/Volumes/a").exists()
    assert dbutils.fs.rm("/Volumes/a") is False


def test_nothing_outside_of_the_storage_is_changed(dbutils: DBUtils, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_text("keep")
    (tmp_path / "store/Volumes").mkdir(parents=True)
    (tmp_path / "store/Volumes/link").symlink_to(outside)
    paths = (
        str(outside),
        "/Volumes/../../outside",
        "/Volumes/link/x",
        str(tmp_path / "store"),
        "/Volumes/..",
        "/",
    )
    for path in paths:
        with pytest.raises(DefinitionError) as caught:
            dbutils.fs.rm(path, recurse=True)
        assert caught.value.condition == "PATH_OUTSIDE_STORAGE"
    assert (outside / "x").read_text() == "keep"


def test_removing_a_link_leaves_what_it_points_to(dbutils: DBUtils, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "store/Volumes").mkdir(parents=True)
    (tmp_path / "store/Volumes/link").symlink_to(outside)
    assert dbutils.fs.rm("/Volumes/link", recurse=True)
    assert outside.is_dir()


def test_other_schemes_are_refused(dbutils: DBUtils) -> None:
    with pytest.raises(DefinitionError) as caught:
        dbutils.fs.ls("s3://bucket/x")
    assert caught.value.condition == "UNSUPPORTED_FEATURE"


def test_a_secret_comes_from_the_environment(dbutils: DBUtils, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAKELET_SECRET_MY_SCOPE_API_KEY", "s3cret")
    assert dbutils.secrets.get(scope="my-scope", key="api.key") == "s3cret"


def test_a_missing_secret_names_its_variable(dbutils: DBUtils) -> None:
    with pytest.raises(DefinitionError) as caught:
        dbutils.secrets.get("my-scope", "nope")
    assert "LAKELET_SECRET_MY_SCOPE_NOPE" in (caught.value.hint or "")


def test_a_widget_comes_from_the_configuration_then_from_its_default(dbutils: DBUtils) -> None:
    dbutils.widgets.text("region", "default")
    dbutils.widgets.dropdown("size", "small", ["small", "large"])
    assert dbutils.widgets.get("region") == "north"
    assert dbutils.widgets.get("size") == "small"
    assert dbutils.widgets.getArgument("other", "fallback") == "fallback"


def test_a_missing_widget_says_where_to_add_it(dbutils: DBUtils) -> None:
    with pytest.raises(DefinitionError) as caught:
        dbutils.widgets.get("currency")
    assert caught.value.hint == "add `currency` to `configuration` in `spark-pipeline.yml`"


def test_notebooks_do_not_run(dbutils: DBUtils) -> None:
    for call in (lambda: dbutils.notebook.run("x", 60), lambda: dbutils.notebook.exit("done")):
        with pytest.raises(DefinitionError) as caught:
            call()
        assert caught.value.condition == "UNSUPPORTED_FEATURE"
