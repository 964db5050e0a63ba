"""Loading needs a session only as a value here: no file reads anything, so no engine runs."""

import subprocess
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Any

import pytest

from lakelet.errors import DefinitionError, DefinitionErrors, LakeletError, SpecError
from lakelet.graph.elements import Definitions, Flow
from lakelet.names import NameContext
from lakelet.pipelines.registry import Registry
from lakelet.project import load_project
from lakelet.spec import load_spec

SPEC = "name: shop\nstorage: store\nlibraries: [{glob: {include: transformations/**}}]\n"
ONE_TABLE = "from pyspark import pipelines as dp\n@dp.table\ndef t():\n    return 7\n"


def load(root: Path, files: dict[str, str], *, spec: str = SPEC, registry: Registry | None = None) -> Definitions:
    (root / "spark-pipeline.yml").write_text(spec)
    (root / "transformations").mkdir(exist_ok=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_project(load_spec(root), registry or Registry(NameContext()), None)


def failure(root: Path, files: dict[str, str], **options: Any) -> LakeletError:
    with pytest.raises(LakeletError) as caught:
        load(root, files, **options)
    return caught.value


def results(definitions: Definitions) -> dict[str, Any]:
    """Call every query function."""
    return {flow.name: flow.query() for flow in definitions.flows if isinstance(flow, Flow) and callable(flow.query)}


def test_files_are_loaded_and_their_lines_are_relative_to_the_spec(tmp_path: Path) -> None:
    definitions = load(tmp_path, {"transformations/bronze/orders.py": ONE_TABLE})
    (dataset,) = definitions.datasets
    assert (dataset.origin.file, dataset.origin.line) == ("transformations/bronze/orders.py", 2)
    assert results(definitions) == {"t": 7}


def test_globals_are_injected_and_the_module_has_the_files_name(tmp_path: Path) -> None:
    text = ONE_TABLE + "seen = (spark, dbutils.fs, display(1), __name__, __file__)\n"
    text += "assert __name__ == 'orders', __name__\n"
    text += "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    x: 'int'\n"
    load(tmp_path, {"transformations/orders.py": text})


def test_sibling_modules_are_importable_from_the_folder_the_root_and_listed_folders(tmp_path: Path) -> None:
    spec = SPEC + "configuration: {lakelet.source.folders: lib}\n"
    text = "from here import A\nfrom top import B\nfrom listed import C\nfrom package.inner import D\n"
    text += ONE_TABLE.replace("return 7", "return (A, B, C, D)")
    files = {
        "transformations/bronze.py": text,
        "transformations/here.py": "A = 1\n",
        "top.py": "B = 2\n",
        "lib/listed.py": "C = 3\n",
        "lib/package/__init__.py": "",
        "lib/package/inner.py": "D = 4\n",
    }
    assert results(load(tmp_path, files, spec=spec)) == {"t": (1, 2, 3, 4)}


def test_lazy_imports_inside_a_query_function_work(tmp_path: Path) -> None:
    body = "import dlt\n    from late import X\n    import late\n    return (dlt.__name__, X, late.X)"
    files = {
        "transformations/bronze.py": ONE_TABLE.replace("return 7", body),
        "late.py": "X = 5\n",
    }
    assert results(load(tmp_path, files)) == {"t": ("lakelet.pipelines.dlt", 5, 5)}
    assert "late" not in sys.modules


def test_nothing_leaks_and_a_second_load_sees_edited_files(tmp_path: Path) -> None:
    path, modules, finders = list(sys.path), set(sys.modules), list(sys.meta_path)
    table = "from variables import X\n" + ONE_TABLE.replace("return 7", "return X")
    files = {"transformations/bronze.py": table, "transformations/variables.py": "X = 1\n"}
    first = load(tmp_path, files)
    second = load(tmp_path, {"transformations/variables.py": "X = 2\n"})
    assert (results(first), results(second)) == ({"t": 1}, {"t": 2})
    assert (sys.path, sys.meta_path) == (path, finders)
    left = {name for name in set(sys.modules) - modules if name.partition(".")[0] in ("bronze", "variables")}
    assert left == set()
    assert not list(tmp_path.rglob("__pycache__"))


def test_a_module_of_that_name_elsewhere_in_the_process_is_neither_used_nor_lost(tmp_path: Path) -> None:
    import types

    other = types.ModuleType("variables")
    sys.modules["variables"] = other
    try:
        table = "from variables import X\n" + ONE_TABLE.replace("return 7", "return X")
        definitions = load(tmp_path, {"transformations/b.py": table, "variables.py": "X = 3\n"})
        assert results(definitions) == {"t": 3}
        assert sys.modules["variables"] is other
    finally:
        del sys.modules["variables"]


def test_modules_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    def table(name: str) -> str:
        return "from variables import X\n" + ONE_TABLE.replace("def t()", f"def {name}()").replace("7", "X")

    files = {
        "transformations/bronze/a.py": table("a"),
        "transformations/bronze/variables.py": "X = 'bronze'\n",
        "transformations/silver/b.py": table("b"),
        "transformations/silver/variables.py": "X = 'silver'\n",
    }
    assert results(load(tmp_path, files)) == {"a": "bronze", "b": "silver"}


def test_a_pipeline_file_that_another_one_imports_is_run_once(tmp_path: Path) -> None:
    importing = "from z_late import t as other, spark\nfrom a_early import X\n"
    importing += ONE_TABLE.replace("def t()", "def m()").replace("7", "(other(), X)")
    files = {
        "transformations/a_early.py": "X = 1\n" + ONE_TABLE.replace("def t()", "def e()"),
        "transformations/middle.py": importing,
        "transformations/z_late.py": ONE_TABLE,
    }
    definitions = load(tmp_path, files)
    assert sorted(dataset.name.name for dataset in definitions.datasets) == ["e", "m", "t"]
    assert results(definitions)["m"] == (7, 1)


def test_a_file_named_as_a_standard_module_does_not_replace_it(tmp_path: Path) -> None:
    import calendar

    load(tmp_path, {"transformations/calendar.py": ONE_TABLE})
    assert sys.modules["calendar"] is calendar


def test_two_files_of_one_name_in_two_folders_both_load(tmp_path: Path) -> None:
    files = {
        "transformations/a/orders.py": ONE_TABLE,
        "transformations/b/orders.py": ONE_TABLE.replace("def t()", "def u()").replace("7", "8"),
    }
    assert results(load(tmp_path, files)) == {"t": 7, "u": 8}


def test_a_folder_called_dlt_beside_the_pipeline_does_not_win(tmp_path: Path) -> None:
    text = "import dlt\n@dlt.table\ndef t():\n    return 7\n"
    files = {"transformations/a.py": text, "dlt/__init__.py": "wrong = 1\n", "transformations/sub/dlt.py": "x = 1\n"}
    assert results(load(tmp_path, files)) == {"t": 7}


def test_functions_of_sibling_modules_travel_by_value(tmp_path: Path) -> None:
    from pyspark import cloudpickle

    text = "from pyspark import cloudpickle\nimport helper\nblob = cloudpickle.dumps(helper.double)\n"
    text += ONE_TABLE.replace("return 7", "return (blob, cloudpickle.dumps(lambda: helper.double(2)))")
    files = {"transformations/a.py": text, "helper.py": "FACTOR = 2\ndef double(x):\n    return x * FACTOR\n"}
    registered = set(cloudpickle.list_registry_pickle_by_value())
    definitions = load(tmp_path, files)
    blob, lazy = results(definitions)["t"]
    assert "helper" not in sys.modules
    assert cloudpickle.loads(blob)(4) == 8
    assert cloudpickle.loads(lazy)() == 4
    assert set(cloudpickle.list_registry_pickle_by_value()) == registered


def test_what_travels_needs_no_lakelet_where_it_arrives(tmp_path: Path) -> None:
    helper = """
        from pyspark import pipelines as dp
        import dlt
        FACTOR = 2
        def double(x):
            return x * FACTOR
    """
    text = "from pyspark import cloudpickle\nimport helper\n"
    text += ONE_TABLE.replace("return 7", "return cloudpickle.dumps(lambda: helper.double(2) + helper.FACTOR)")
    (blob,) = results(load(tmp_path, {"transformations/a.py": text, "helper.py": textwrap.dedent(helper)})).values()
    code = "import sys, pickle; sys.modules['lakelet'] = None; print(pickle.load(sys.stdin.buffer)())"
    done = subprocess.run([sys.executable, "-c", code], input=blob, capture_output=True, check=False)
    assert done.stdout == b"6\n", done.stderr.decode()


def test_an_exception_in_a_file_has_line_and_their_traceback(tmp_path: Path) -> None:
    text = "def parse(x):\n    return int(x)\n\nparse('seven')\n"
    error = failure(tmp_path, {"transformations/a.py": text})
    assert error.condition == "PIPELINE_FILE_FAILED"
    assert str(error.origin) == "transformations/a.py:2"
    assert "ValueError" in error.message
    assert error.cause is not None
    assert "transformations/a.py:4" in error.cause
    assert "lakelet" not in error.cause
    assert isinstance(error.__cause__, ValueError)
    assert traceback.extract_tb(error.__cause__.__traceback__)[0].name == "<module>"


def test_a_syntax_error_has_its_line(tmp_path: Path) -> None:
    error = failure(tmp_path, {"transformations/a.py": "x = 1\ndef (:\n"})
    assert error.condition == "PIPELINE_FILE_SYNTAX_ERROR"
    assert str(error.origin) == "transformations/a.py:2"
    assert "def (:" in (error.cause or "")


def test_a_syntax_error_in_an_imported_module_names_that_module(tmp_path: Path) -> None:
    error = failure(tmp_path, {"transformations/a.py": "import helper\n", "helper.py": "x = (\n"})
    assert error.condition == "PIPELINE_FILE_SYNTAX_ERROR"
    assert str(error.origin) == "helper.py:1"


def test_a_missing_module_is_the_users_error(tmp_path: Path) -> None:
    error = failure(tmp_path, {"transformations/a.py": "\nimport not_there_at_all\n"})
    assert error.condition == "PIPELINE_FILE_FAILED"
    assert str(error.origin) == "transformations/a.py:2"
    assert "not_there_at_all" in error.message


def test_a_file_that_exits_is_an_error(tmp_path: Path) -> None:
    assert failure(tmp_path, {"transformations/a.py": "raise SystemExit(0)\n"}).condition == "PIPELINE_FILE_FAILED"


def test_all_errors_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    two = "from pyspark import pipelines as dp\n@dp.table(nam='x')\ndef a(): ...\n@dp.table(commnt='x')\ndef b(): ...\n"
    error = failure(tmp_path, {"transformations/a.py": two, "transformations/b.py": "1 / 0\n"})
    assert isinstance(error, DefinitionErrors)
    assert [each.condition for each in error.errors] == [
        "UNKNOWN_PARAMETER",
        "UNKNOWN_PARAMETER",
        "PIPELINE_FILE_FAILED",
    ]
    assert [str(each.origin) for each in error.errors] == [
        "transformations/a.py:2",
        "transformations/a.py:4",
        "transformations/b.py:1",
    ]


def test_the_failure_of_an_imported_file_is_reported_once(tmp_path: Path) -> None:
    files = {"transformations/a.py": "import z\n", "transformations/z.py": "1 / 0\n"}
    error = failure(tmp_path, files)
    assert error.condition == "PIPELINE_FILE_FAILED"
    assert str(error.origin) == "transformations/z.py:1"


def test_what_a_query_function_raises_has_the_users_line(tmp_path: Path) -> None:
    definitions = load(tmp_path, {"transformations/a.py": ONE_TABLE.replace("return 7", "return {}['x']")})
    with pytest.raises(DefinitionError) as caught:
        results(definitions)
    error = caught.value
    assert error.condition == "QUERY_FUNCTION_FAILED"
    assert str(error.origin) == "transformations/a.py:4, dataset `t`"
    assert isinstance(error.__cause__, KeyError)


def test_a_declaration_inside_a_query_function_is_refused(tmp_path: Path) -> None:
    body = "dp.create_streaming_table('x')"
    definitions = load(tmp_path, {"transformations/a.py": ONE_TABLE.replace("return 7", body)})
    with pytest.raises(DefinitionError) as caught:
        results(definitions)
    assert caught.value.condition == "GRAPH_ELEMENT_DEFINED_OUTSIDE_OF_DECLARATIVE_PIPELINE"
    assert str(caught.value.origin) == "transformations/a.py:4, dataset `t`"


def test_a_notebook_runs_another_in_its_own_namespace(tmp_path: Path) -> None:
    notebook = "# Databricks notebook source\n# MAGIC %run ../common/setup\n\n# COMMAND ----------\n\n"
    notebook += ONE_TABLE.replace("return 7", "return SHARED")
    setup = "# Databricks notebook source\nSHARED = 9\n# COMMAND ----------\n# MAGIC %md\n# MAGIC note\n"
    files = {"transformations/a.py": notebook, "common/setup.py": setup}
    definitions = load(tmp_path, files)
    assert results(definitions) == {"t": 9}
    assert definitions.datasets[0].origin.line == 7


def test_notebooks_that_run_each_other_are_refused(tmp_path: Path) -> None:
    head = "# Databricks notebook source\n# MAGIC %run "
    error = failure(tmp_path, {"transformations/a.py": head + "./b\n", "transformations/b.py": head + "./a\n"})
    assert error.condition == "NOTEBOOK_CYCLE"


@pytest.mark.parametrize(
    ("line", "condition"), [("./nope", "NOTEBOOK_NOT_FOUND"), ('./a $day="1"', "UNSUPPORTED_FEATURE")]
)
def test_a_wrong_run_line_is_refused(tmp_path: Path, line: str, condition: str) -> None:
    error = failure(tmp_path, {"transformations/a.py": f"# Databricks notebook source\n# MAGIC %run {line}\n"})
    assert error.condition == condition
    assert str(error.origin) == "transformations/a.py:2"


def test_a_future_import_holds_in_later_cells(tmp_path: Path) -> None:
    notebook = "# Databricks notebook source\nfrom __future__ import annotations\n# COMMAND ----------\n"
    notebook += "%run ./other\ndef f(x: NotThere): ...\n" + ONE_TABLE
    load(tmp_path, {"transformations/a.py": notebook, "transformations/other.py": "y = 1\n"})


def test_no_dataset_at_all_is_an_error(tmp_path: Path) -> None:
    assert failure(tmp_path, {"transformations/a.py": "x = 1\n"}).condition == "RUN_EMPTY_PIPELINE"
    assert failure(tmp_path, {}, spec="name: n\nstorage: s\n").condition == "RUN_EMPTY_PIPELINE"


@pytest.mark.parametrize("name", ["notes.txt", "notebook.ipynb", "job.scala"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    error = failure(tmp_path, {f"transformations/{name}": ""})
    assert error.condition == "PIPELINE_UNSUPPORTED_DEFINITIONS_FILE_EXTENSION"
    assert f"transformations/{name}" in str(error.origin)


def test_hidden_files_and_bytecode_are_left_out(tmp_path: Path) -> None:
    files = {
        "transformations/a.py": ONE_TABLE,
        "transformations/__pycache__/a.pyc": "",
        "transformations/.DS_Store": "",
        "transformations/.ipynb_checkpoints/a.ipynb": "",
    }
    assert results(load(tmp_path, files)) == {"t": 7}


def test_a_library_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    for pattern in ("nope/**", "nope.py"):
        with pytest.raises(SpecError) as caught:
            load(tmp_path, {}, spec=f"name: n\nstorage: s\nlibraries: [{{glob: {{include: '{pattern}'}}}}]\n")
        assert caught.value.condition == "PIPELINE_LIBRARY_NOT_FOUND"


def test_a_file_named_twice_is_loaded_once(tmp_path: Path) -> None:
    globs = ("transformations/**", "transformations/a.py")
    spec = "name: n\nstorage: s\nlibraries:\n" + "".join(f"- glob: {{include: {glob}}}\n" for glob in globs)
    assert len(load(tmp_path, {"transformations/a.py": ONE_TABLE}, spec=spec).datasets) == 1
