import ast

import pytest

from lakelet.errors import DefinitionError
from lakelet.pipelines.notebook import PythonPart, RunPart, SqlPart, parts_of

NOTEBOOK = """# Databricks notebook source
# MAGIC %md
# MAGIC # Title
# COMMAND ----------

# DBTITLE 1,Setup
# MAGIC %run ./setup

# COMMAND ----------

# MAGIC %pip install faker

# COMMAND ----------

first = 1

# COMMAND ----------

# MAGIC %sql
# MAGIC CREATE MATERIALIZED VIEW v
# MAGIC AS SELECT 1

# COMMAND ----------

# MAGIC %python
# MAGIC second = 2

# COMMAND ----------

%pip install other
!ls
third = 3
"""


def line_of(text: str) -> int:
    """Return the number of the notebook's line that has a text."""
    (number,) = (number for number, line in enumerate(NOTEBOOK.splitlines(), start=1) if text in line)
    return number


def assigned_lines(text: str) -> dict[str, int]:
    """Return the line of each assignment of a Python text."""
    return {
        node.targets[0].id: node.lineno  # type: ignore[attr-defined]
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }


def test_a_notebook_keeps_the_line_numbers_of_every_cell() -> None:
    parts = parts_of(NOTEBOOK, file="n.py")
    lines: dict[str, int] = {}
    for part in parts:
        if isinstance(part, PythonPart):
            lines |= assigned_lines(part.text)
    assert lines == {name: line_of(f"{name} = ") for name in ("first", "second", "third")}


def test_a_sql_cell_keeps_its_line_number() -> None:
    (sql,) = (part for part in parts_of(NOTEBOOK, file="n.py") if isinstance(part, SqlPart))
    assert sql.text.splitlines()[line_of("CREATE") - 1] == "CREATE MATERIALIZED VIEW v"


def test_a_run_line_names_the_other_notebook() -> None:
    (run,) = (part for part in parts_of(NOTEBOOK, file="n.py") if isinstance(part, RunPart))
    assert run == RunPart("./setup", 7)


def test_a_plain_file_is_one_part_as_it_stands() -> None:
    source = 'text = """\n%pip install x\n"""\n'
    assert parts_of(source, file="f.py") == [PythonPart(source)]


def test_a_plain_file_with_a_magic_loses_only_that_line() -> None:
    (part,) = parts_of("%pip install x\na = 1\n", file="f.py")
    assert isinstance(part, PythonPart)
    assert assigned_lines(part.text) == {"a": 2}


def test_python_around_a_run_line_is_two_parts() -> None:
    first, run, last = parts_of("a = 1\n%run ./other\nb = 2\n", file="f.py")
    assert run == RunPart("./other", 2)
    assert isinstance(first, PythonPart)
    assert isinstance(last, PythonPart)
    assert assigned_lines(first.text) | assigned_lines(last.text) == {"a": 1, "b": 3}


@pytest.mark.parametrize("language", ["scala", "r"])
def test_a_cell_in_another_language_is_refused_with_its_line(language: str) -> None:
    source = f"# Databricks notebook source\n# COMMAND ----------\n# MAGIC %{language}\n# MAGIC val x = 1\n"
    with pytest.raises(DefinitionError) as caught:
        parts_of(source, file="n.py")
    assert caught.value.condition == "UNSUPPORTED_FEATURE"
    assert caught.value.origin is not None
    assert caught.value.origin.line == 3
