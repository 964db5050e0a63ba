"""The notebook of the documentation runs from its first cell to its last, and shows what the tables have."""

from __future__ import annotations

import json
import re
from typing import Any

import duckdb
import polars as pl
from scripts.run_notebook import NOTEBOOK, run


def text_of(output: dict[str, Any]) -> str:
    return "".join(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])


def test_every_cell_of_the_notebook_shows_what_is_stored_in_it() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], {cell["cell_type"] for cell in notebook["cells"]}) == (4, {"code", "markdown"})
    shown, variables = run(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    stored = {cell["id"]: cell["outputs"] for cell in cells}
    assert shown == stored, "run `make docs`: the outputs of docs/notebooks/apparel.ipynb are out of date"
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))

    products, rules = variables["products"], variables["rules"]
    assert products.num_rows > 0 and rules.num_rows > 0
    assert len(variables["frame"]) == products.num_rows == variables["best"].height
    assert isinstance(variables["best"], pl.DataFrame) and isinstance(variables["counted"], duckdb.DuckDBPyRelation)
    assert variables["counted"].fetchall() == [(products.num_rows,)]
    texts = [text_of(output) for cell in cells for output in cell["outputs"]]
    assert sum(text.count("COMPLETED") for text in texts) > 2
    assert f"{products.num_rows} products" in "".join(texts)
    assert str(rules["passed"][0].as_py()) in "".join(texts)


def test_nothing_of_the_machine_is_stored_in_it() -> None:
    outputs = [cell["outputs"] for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if "outputs" in cell]
    assert any(outputs)
    assert not re.search(r"/tmp|/home|/root|/Users|Traceback", json.dumps(outputs))
