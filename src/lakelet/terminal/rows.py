"""The rows of a query as a table, CSV or JSON."""

from __future__ import annotations

import base64
import csv
import datetime
import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN_ROWS = 100
"""Rows of the table format where no limit is given."""


def write_json(rows: pa.Table, out: TextIO) -> None:
    """Write a JSON array of objects, one row a line."""
    names = _unique(rows.column_names)
    out.write("[")
    for number, row in enumerate(_rows(rows)):
        out.write(",\n" if number else "\n")
        out.write(to_json(dict(zip(names, row, strict=True))))
    out.write("\n]\n" if rows.num_rows else "]\n")


def write_csv(rows: pa.Table, out: TextIO) -> None:
    """Write a header and one line a row; NULL is an empty field, a nested value is JSON."""
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows.column_names)
    writer.writerows(["" if value is None else _text(value) for value in row] for row in _rows(rows))


def write_table(rows: pa.Table, out: TextIO, *, limit: int | None = None) -> None:
    """Write a table for people; below it how many rows there are, and how many of them are shown."""
    import pyarrow as pa
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = rows.slice(0, SHOWN_ROWS if limit is None else limit)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for field in rows.schema:
        is_number = (
            pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or pa.types.is_decimal(field.type)
        )
        table.add_column(Text(field.name), justify="right" if is_number else "left", overflow="fold")
    for row in _rows(shown):
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(_text(value)) for value in row))
    console = console_for(out)
    console.print(table)
    note = f"{rows.num_rows:,} row" + ("" if rows.num_rows == 1 else "s")
    if shown.num_rows < rows.num_rows:
        note += f", the first {shown.num_rows:,} shown"
    console.print(Text(note, style="dim"))


def console_for(out: TextIO) -> Any:
    """Return a rich console on `out`; lines are not folded where it is not a terminal."""
    from rich.console import Console

    return Console(file=out, width=None if out.isatty() else 10_000, highlight=False)


def _rows(rows: pa.Table) -> Iterator[tuple[Any, ...]]:
    for batch in rows.to_batches():
        yield from zip(*(column.to_pylist(maps_as_pydicts="lossy") for column in batch.columns), strict=True)


def _unique(names: list[str]) -> list[str]:
    """Number the second and later column of one name, since a JSON object has each key once."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return result


def to_json(value: Any) -> str:
    """Return a value as JSON; a decimal keeps all its digits, NaN and infinities are text, as in Spark."""
    match value:
        case dict():
            return "{" + ", ".join(f"{json.dumps(str(key))}: {to_json(item)}" for key, item in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(to_json(item) for item in value) + "]"
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case float() if not math.isfinite(value):
            return json.dumps(str(value))
        case None | bool() | int() | float() | str():
            return json.dumps(value, ensure_ascii=False)
        case datetime.datetime():
            return json.dumps(value.isoformat())
        case _:
            return json.dumps(_text(value), ensure_ascii=False)


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case Decimal():
            return f"{value:f}"
        case datetime.datetime():
            return value.isoformat(sep=" ")
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case dict() | list() | tuple():
            return to_json(value)
        case _:
            return str(value)
