"""A Delta table's log as input: which data files each commit added.

Only `add` actions with `dataChange` are new rows; a `remove` with `dataChange` is a change of existing rows; compaction is
neither. Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable

from lakelet.errors import SourceError
from lakelet.storage.data_files import DataFile, data_files
from lakelet.storage.delta_rs import storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One version of a table as a reader of new rows sees it."""

    version: int
    added: tuple[DataFile, ...]
    removes_rows: bool
    changes_metadata: bool


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


def read_commit(location: str, version: int) -> Commit | None:
    """Return one commit, or None if its log file is gone (cleaned up) or not written yet."""
    try:
        text = (log_folder(location) / f"{version:020d}.json").read_text("utf-8")
    except FileNotFoundError:
        return None
    added: list[DataFile] = []
    removes_rows = changes_metadata = False
    for line in text.splitlines():
        if not line.strip():
            continue
        action: dict[str, Any] = json.loads(line)
        if "add" in action and action["add"].get("dataChange", True):
            added.append(_data_file(location, action["add"]))
        elif "remove" in action and action["remove"].get("dataChange", True):
            removes_rows = True
        elif "metaData" in action or "protocol" in action:
            changes_metadata = True
    return Commit(version=version, added=tuple(added), removes_rows=removes_rows, changes_metadata=changes_metadata)


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


def appended_files(location: str, *, after: int, until: int) -> tuple[DataFile, ...] | None:
    """Return the data files that a table gained between two versions, None if more happened to its rows than appends.

    A log that no longer has the commits in between counts as more, and so does one that goes backwards.
    """
    if until < after:
        return None
    found: list[DataFile] = []
    for version in range(after + 1, until + 1):
        commit = read_commit(location, version)
        if commit is None or commit.removes_rows or commit.changes_metadata:
            return None
        found += commit.added
    return tuple(found)


def row_changes(location: str, *, after: int, until: int) -> int | None:
    """Return how many commits between two versions changed rows or columns, None where the log does not tell."""
    commits = [read_commit(location, version) for version in range(after + 1, until + 1)]
    if until < after or None in commits:
        return None
    return sum(bool(c and (c.added or c.removes_rows or c.changes_metadata)) for c in commits)


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
        return data_files(table, location)


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
