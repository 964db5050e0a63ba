"""A Delta table's log as input: which data files each commit added.

Only `add` actions with `dataChange` are new rows; a `remove` with `dataChange` is a change of existing rows; compaction is
neither. Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from lakelet.errors import SourceError, StorageError
from lakelet.storage.delta_rs import storage_errors
from lakelet.storage.schema import nullable


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """One data file of a table; partition values are strings as the log has them, None for NULL."""

    path: str
    size_bytes: int
    num_records: int | None
    modified_at_ms: int
    partition_values: dict[str, str | None] = field(default_factory=dict)
    has_deletion_vector: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One version of a table as a reader of new rows sees it.

    Attributes:
        app_ids: whose receipts it carries.
        operation: what its writer says that it did, empty if it says nothing.
    """

    version: int
    added: tuple[DataFile, ...]
    removes_rows: bool
    changes_metadata: bool
    app_ids: tuple[str, ...] = ()
    operation: str = ""


def log_folder(location: str) -> Path:
    return Path(location) / "_delta_log"


def has_version(location: str, version: int) -> bool:
    """Return whether the log has a commit file of this version; costs one file-system call."""
    return (log_folder(location) / f"{version:020d}.json").exists()


def commit_file(location: str, version: int) -> tuple[int, int] | None:
    """Return what identifies the file of a commit, None if there is none: another table at this place has another file."""
    try:
        found = (log_folder(location) / f"{version:020d}.json").stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns)


def latest_version(location: str, *, known: int = -1) -> int | None:
    """Return the newest version, None where there is no table; cheap when `known` is near it."""
    version = known
    if known >= 0 and has_version(location, known):
        while has_version(location, version + 1):
            version += 1
        return version
    folder = log_folder(location)
    if not folder.is_dir():
        return None
    versions = [int(entry.name[:20]) for entry in folder.iterdir() if entry.name[:20].isdigit()]
    return max(versions) if versions else None


def checkpointed_version(location: str) -> int:
    """Return the version of the log's last checkpoint, -1 if there is none."""
    try:
        text = (log_folder(location) / "_last_checkpoint").read_text("utf-8")
    except FileNotFoundError:
        return -1
    return int(json.loads(text)["version"])


def read_commit(location: str, version: int) -> Commit | None:
    """Return one commit, or None if its log file is gone (cleaned up) or not written yet."""
    try:
        text = (log_folder(location) / f"{version:020d}.json").read_text("utf-8")
    except FileNotFoundError:
        return None
    added: list[DataFile] = []
    app_ids: list[str] = []
    removes_rows = changes_metadata = False
    operation = ""
    for line in text.splitlines():
        if not line.strip():
            continue
        try:
            action: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise StorageError(
                "TABLE_IO_FAILED",
                f"version {version} of the table at `{location}` cannot be read",
                cause=f"its file in the log is not whole: {error}",
                hint="restore the file from a copy; if the table is one of the pipeline's own, `lakelet reset <dataset>` "
                "starts it anew",
            ) from error
        if "add" in action and action["add"].get("dataChange", True):
            added.append(_data_file(location, action["add"]))
        elif "remove" in action and action["remove"].get("dataChange", True):
            removes_rows = True
        elif "metaData" in action or "protocol" in action:
            changes_metadata = True
        elif "txn" in action:
            app_ids.append(str(action["txn"].get("appId")))
        elif "commitInfo" in action:
            operation = str(action["commitInfo"].get("operation", ""))
    return Commit(
        version=version,
        added=tuple(added),
        removes_rows=removes_rows,
        changes_metadata=changes_metadata,
        app_ids=tuple(app_ids),
        operation=operation,
    )


def changes_rows(location: str, *, after: int, until: int) -> bool:
    """Return whether the rows at two versions may differ; a compaction in between does not count.

    A log that no longer has the commits in between counts as a change, and so does one that goes backwards.
    """
    if until < after:
        return True
    for version in range(after + 1, until + 1):
        commit = read_commit(location, version)
        if commit is None or commit.added or commit.removes_rows or commit.changes_metadata:
            return True
    return False


def _data_file(location: str, add: dict[str, Any]) -> DataFile:
    stats = json.loads(add["stats"]) if add.get("stats") else {}
    path = unquote(add["path"])
    return DataFile(
        path=path if path.startswith("/") else str(Path(location) / path),
        size_bytes=int(add.get("size") or 0),
        num_records=stats.get("numRecords"),
        modified_at_ms=int(add.get("modificationTime") or 0),
        # An empty string stands for NULL, whatever the column's type.
        partition_values={key: value or None for key, value in (add.get("partitionValues") or {}).items()},
        has_deletion_vector=add.get("deletionVector") is not None,
    )


def snapshot_files(location: str, version: int) -> tuple[DataFile, ...]:
    """Return the data files of a whole version, oldest first."""
    with storage_errors(location):
        table = DeltaTable(location, version=version)
        if "deletionVectors" in (table.protocol().reader_features or ()):
            # The list of files does not say which of them have one.
            raise _with_deletion_vectors(location, "the table's protocol has the feature `deletionVectors`")
        actions = pa.table(table.get_add_actions(flatten=False))
    files = []
    for row in actions.to_pylist():
        partition = row.get("partition") or row.get("partition_values") or {}
        modified = row["modification_time"]
        files.append(
            DataFile(
                path=str(Path(location) / unquote(row["path"])),
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


def snapshot_columns(location: str, version: int) -> tuple[pa.Schema, tuple[str, ...]]:
    """Return the columns and the partition columns that a table had at a version."""
    with storage_errors(location):
        table = DeltaTable(location, version=version)
        return nullable(pa.schema(table.schema().to_arrow())), tuple(table.metadata().partition_columns)


def _partition_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def refuse_deletion_vectors(location: str, files: tuple[DataFile, ...]) -> None:
    """Raise if a file's rows are not all alive: the data file alone would give deleted rows back."""
    for file in files:
        if file.has_deletion_vector:
            raise _with_deletion_vectors(location, f"rows of `{file.path}` are marked as deleted outside of the file")


def _with_deletion_vectors(location: str, cause: str) -> SourceError:
    return SourceError(
        "DELETION_VECTORS_UNSUPPORTED",
        f"the table at `{location}` uses deletion vectors",
        cause=cause,
        hint="rewrite the table without them (`delta.enableDeletionVectors=false` and a purge), then run again",
    )


def refuse_column_mapping(location: str, properties: Mapping[str, str]) -> None:
    """Raise if the columns of the data files have other names than the table's: they would all be read as NULL."""
    mode = properties.get("delta.columnMapping.mode", "none")
    if mode != "none":
        raise SourceError(
            "COLUMN_MAPPING_UNSUPPORTED",
            f"the table at `{location}` uses column mapping",
            cause=f"its property `delta.columnMapping.mode` is `{mode}`, so its files name the columns in another way",
            hint="write a copy of the table without column mapping, and read that",
        )
