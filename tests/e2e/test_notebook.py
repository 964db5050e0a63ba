"""The notebook of the documentation runs from its first cell to its last, and shows what the tables have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "apparel.ipynb"


def test_every_cell_of_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (notebook["nbformat"], {cell["cell_type"] for cell in notebook["cells"]}) == (4, {"code", "markdown"})
    shown: dict[str, Any] = {"__name__": "__main__"}
    try:
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert not cell["outputs"]  # committed without them
                exec(compile("".join(cell["source"]), cell["id"], "exec"), shown)
    finally:
        if "pipeline" in shown:
            shown["pipeline"].close()
        if "storage" in shown:
            shutil.rmtree(shown["storage"].parent)
    products = shown["products"]
    assert products.num_rows > 0
    assert len(shown["frame"]) == products.num_rows == shown["best"].height
    assert isinstance(shown["best"], pl.DataFrame) and isinstance(shown["counted"], duckdb.DuckDBPyRelation)
    assert shown["counted"].fetchall() == [(products.num_rows,)]
    assert shown["rules"].num_rows > 0
    assert capsys.readouterr().out.count("COMPLETED") > 2
