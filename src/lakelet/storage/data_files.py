"""The data files of one version of a Delta table."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from lakelet.places import place


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file of a table; partition values are strings as the log has them, None for NULL."""

    path: str
    size_bytes: int
    num_records: int | None
    modified_at_ms: int
    partition_values: dict[str, str | None] = field(default_factory=dict)
    has_deletion_vector: bool = False


def data_files(table: DeltaTable, location: str) -> tuple[DataFile, ...]:
    """Return the data files of an open table, oldest first; deletion vectors are not told."""
    actions = pa.table(table.get_add_actions(flatten=False))
    files, folder = [], place(location)
    for row in actions.to_pylist():
        partition = row.get("partition") or row.get("partition_values") or {}
        modified = row["modification_time"]
        files.append(
            DataFile(
                path=str(folder / unquote(row["path"])),
                size_bytes=int(row["size_bytes"]),
                num_records=row.get("num_records"),
                modified_at_ms=modified if isinstance(modified, int) else int(modified.timestamp() * 1000),
                partition_values={
                    key: None if value is None else _partition_text(value) for key, value in partition.items()
                },
            )
        )
    files.sort(key=lambda file: (file.modified_at_ms, file.path))
    return tuple(files)


def _partition_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
