"""Runs the notebook of the documentation from its first cell to its last, and stores what each cell shows.

Run by `make docs`. A test runs the notebook, too, and fails when a stored output is not what a cell shows now.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "notebooks" / "apparel.ipynb"
WIDTHS = {"COLUMNS": "120", "LINES": "40", "POLARS_TABLE_WIDTH": "120"}
"""Of what pandas and Polars show, whatever the terminal's are."""


def run(notebook: Mapping[str, Any]) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Run every code cell in turn.

    Returns:
        By the cell's id what it shows, as the file format of notebooks has it; and the variables at the end.
    """
    shown: dict[str, list[dict[str, Any]]] = {}
    variables: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    try:
        with _widths():
            for number, cell in enumerate(cells, start=1):
                shown[cell["id"]] = _outputs("".join(cell["source"]), cell["id"], number, variables)
    finally:
        if "pipeline" in variables:
            variables["pipeline"].close()
        if "storage" in variables:
            shutil.rmtree(variables["storage"].parent)
    return shown, variables


def _outputs(source: str, name: str, number: int, variables: dict[str, Any]) -> list[dict[str, Any]]:
    """Run one cell; what it prints is one output, and the value of its last expression another."""
    tree = ast.parse(source, name)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, name, "exec"), variables)
        value = None if last is None else eval(compile(last, name, "eval"), variables)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": _lines(printed.getvalue())})
    if value is not None:
        data = {"text/plain": _lines(repr(value))}
        outputs.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return outputs


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


@contextlib.contextmanager
def _widths() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in WIDTHS}
    os.environ.update(WIDTHS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def main() -> None:
    notebook = json.loads(NOTEBOOK.read_text("utf-8"))
    shown, _ = run(notebook)
    for number, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), start=1):
        cell["execution_count"], cell["outputs"] = number, shown[cell["id"]]
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
