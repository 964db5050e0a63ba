"""What the Delta tables of a pipeline hold: columns, rows to look at, versions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from lakelet.storage.delta_log import read_commit
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.terminal.rows import to_json

SAMPLE_ROWS = 20
VERSIONS = 25
SHOWN_CHARACTERS = 300


def describe(store: DeltaRsStore, location: str) -> dict[str, Any] | None:
    """Return the columns, the size and the last versions of a table; None where there is none."""
    table = store.open(location)
    if table is None:
        return None
    size = table.size()
    return {
        "version": table.version,
        "rows": size.rows,
        "bytes": size.bytes,
        "files": size.files,
        "partition_columns": list(table.partition_cols),
        "properties": dict(table.properties),
        "columns": _columns(table.delta),
        "history": _history(table.delta, location),
    }


def _columns(table: DeltaTable) -> list[dict[str, Any]]:
    return [
        {
            "name": field.name,
            "type": _type(field.type),
            "comment": (field.metadata or {}).get("comment"),
            "nullable": field.nullable,
        }
        for field in table.schema().fields
    ]


def _type(kind: Any) -> str:
    text = getattr(kind, "type", None)
    return text if isinstance(text, str) and text not in ("struct", "array", "map") else str(kind)


def _history(table: DeltaTable, location: str) -> list[dict[str, Any]]:
    entries = []
    for entry in table.history(VERSIONS):
        metrics = entry.get("operationMetrics") or {}
        version = entry.get("version")
        commit = read_commit(location, version) if version is not None else None
        entries.append(
            {
                "version": version,
                "at": datetime.fromtimestamp(entry["timestamp"] / 1000, UTC).isoformat(timespec="milliseconds"),
                "operation": entry.get("operation", ""),
                "added_files": len(commit.added) if commit else None,
                "added_bytes": sum(file.size_bytes for file in commit.added) if commit else None,
                "added_rows": sum(file.num_records or 0 for file in commit.added) if commit else None,
                "metrics": {key: value for key, value in metrics.items() if value not in (0, "0", None)},
            }
        )
    return entries


def sample(store: DeltaRsStore, location: str, *, rows: int = SAMPLE_ROWS) -> dict[str, Any]:
    """Return some rows of a table: those of its newest files."""
    table = store.open(location)
    if table is None:
        return {"columns": [], "rows": []}
    try:
        found = table.delta.to_pyarrow_dataset().head(rows)
    except (DeltaError, pa.ArrowException, OSError) as error:
        return {"columns": [], "rows": [], "problem": str(error)}
    return shown(found)


def shown(rows: pa.Table, *, limit: int | None = None) -> dict[str, Any]:
    """Return rows for people: text as it is, everything else as JSON writes it; long values are cut."""
    cut = rows if limit is None else rows.slice(0, limit)
    return {
        "columns": [
            {"name": field.name, "type": str(field.type), "numeric": _is_number(field.type)} for field in rows.schema
        ],
        "rows": [
            list(row)
            for batch in cut.to_batches()
            for row in zip(*([_cell(v) for v in column.to_pylist(maps_as_pydicts="lossy")] for column in batch.columns),
                           strict=True)
        ],
    }  # fmt: skip


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> Any:
    match value:
        case None | bool() | int():
            return value
        case str():
            text = value
        case datetime():
            text = value.isoformat(sep=" ")
        case float():
            return value if value == value and abs(value) != float("inf") else str(value)
        case _:
            text = to_json(value).strip('"')
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def named(rows: pa.Table) -> list[Mapping[str, Any]]:
    """Return rows as JSON-ready values by column."""
    data = shown(rows)
    names = [column["name"] for column in data["columns"]]
    return [dict(zip(names, row, strict=True)) for row in data["rows"]]
