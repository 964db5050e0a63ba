"""A Delta table's log as input: which data files each commit added.

Only `add` actions with `dataChange` are new rows; a `remove` with `dataChange` is a change of existing rows; compaction is
neither. Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lakelet.errors import SourceError, StorageError
from lakelet.places import Place, is_remote, place
from lakelet.storage.data_files import DataFile, data_files
from lakelet.storage.failures import storage_errors

RECEIPTS = "lakelet/"
"""How the application ids of all receipts begin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One version of a table as a reader of new rows sees it.

    Attributes:
        changes: files that hold the changed rows, where the table records them (`delta.enableChangeDataFeed`).
        timestamp_ms: when the writer says that it committed; else when the log's file was written.
        properties: of the table from this version on, where the commit sets them.
        app_ids: whose receipts it carries.
        operation: what its writer says that it did, empty if it says nothing.
    """

    version: int
    added: tuple[DataFile, ...]
    changes_metadata: bool
    app_ids: tuple[str, ...] = ()
    operation: str = ""
    removed: tuple[DataFile, ...] = ()
    changes: tuple[DataFile, ...] = ()
    timestamp_ms: int = 0
    properties: Mapping[str, str] | None = None

    @property
    def removes_rows(self) -> bool:
        return bool(self.removed)


def log_folder(location: str) -> Place:
    return place(location) / "_delta_log"


_found: dict[str, int] = {}
"""The newest version of each table when it was looked for last: a long log need not be listed again."""


def has_version(location: str, version: int) -> bool:
    """Return whether the log has a commit file of this version; costs one file-system call."""
    return (log_folder(location) / f"{version:020d}.json").is_file()


def has_log(location: str) -> bool:
    """Return whether there is a table, however damaged its log; costs one file-system call for one that was looked at before."""
    known = _found.get(location)
    if known is not None and has_version(location, known):
        return True
    folder = log_folder(location)
    return folder.is_dir() and any(folder.iterdir())


def commit_file(location: str, version: int) -> tuple[int, int] | None:
    """Return what identifies the file of a commit, None if there is none: another table at this place has another file."""
    try:
        found = (log_folder(location) / f"{version:020d}.json").stat()
    except FileNotFoundError:
        return None
    return (found.st_ino, found.st_mtime_ns)


def latest_version(location: str, *, known: int = -1) -> int | None:
    """Return the newest version, None where there is no table; cheap when `known`, or what was found last, is near it."""
    version = max(known, _found.get(location, -1))
    if version >= 0 and has_version(location, version):
        while has_version(location, version + 1):
            version += 1
        _found[location] = version
        return version
    folder = log_folder(location)
    if not folder.is_dir():
        return None
    versions = [int(entry.name[:20]) for entry in folder.iterdir() if entry.name[:20].isdigit()]
    if not versions:
        return None
    _found[location] = max(versions)
    return max(versions)


def checkpointed_version(location: str) -> int:
    """Return the version of the log's last checkpoint, -1 if there is none."""
    try:
        text = (log_folder(location) / "_last_checkpoint").read_text("utf-8")
    except FileNotFoundError:
        return -1
    return int(json.loads(text)["version"])


_OF_WORDS_ONLY = {"UPDATE FIELD METADATA", "UPDATE TABLE METADATA"}
"""Operations of delta-rs that set comments: they write the metadata again, and change neither columns nor rows."""


def read_commit(location: str, version: int) -> Commit | None:
    """Return one commit, or None if its log file is gone (cleaned up) or not written yet."""
    file = log_folder(location) / f"{version:020d}.json"
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        return None
    files: dict[str, list[DataFile]] = {"add": [], "remove": [], "cdc": []}
    app_ids: list[str] = []
    changes_metadata = False
    operation = ""
    timestamp_ms, properties = None, None
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
        [(kind, content), *_] = action.items()
        if kind in files and (kind == "cdc" or content.get("dataChange", True)):
            files[kind].append(_data_file(location, content))
        elif kind in ("metaData", "protocol"):
            changes_metadata = True
            properties = content.get("configuration", properties)
        elif kind == "txn":
            app_ids.append(str(content.get("appId")))
        elif kind == "commitInfo":
            timestamp_ms = content.get("inCommitTimestamp", content.get("timestamp"))
            operation = str(content.get("operation", ""))
    return Commit(
        version=version,
        added=tuple(files["add"]),
        removed=tuple(files["remove"]),
        changes=tuple(files["cdc"]),
        changes_metadata=changes_metadata and operation not in _OF_WORDS_ONLY,
        timestamp_ms=int(file.stat().st_mtime * 1000) if timestamp_ms is None else int(timestamp_ms),
        properties=properties,
        app_ids=tuple(app_ids),
        operation=operation,
    )


def sets_metadata(location: str, version: int) -> bool:
    """Return whether a commit may set the table's columns; one that the log no longer has may. Costs one read of its file."""
    try:
        data = (log_folder(location) / f"{version:020d}.json").read_bytes()
    except FileNotFoundError:
        return True
    return b'"metaData"' in data


def commit_timestamp_ms(location: str, version: int) -> int:
    """Return when a version was committed."""
    commit = read_commit(location, version)
    if commit is not None:
        return commit.timestamp_ms
    with storage_errors(location):  # a log that begins with a checkpoint still knows when it was written
        parts: list[Place] = [*log_folder(location).glob(f"{version:020d}.checkpoint*.parquet")]
        return min((int(path.stat().st_mtime * 1000) for path in parts), default=0)


def properties_at(location: str, version: int) -> dict[str, str]:
    """Return the table properties of a version."""
    with storage_errors(location):
        return {
            key: str(value) for key, value in DeltaTable(location, version=version).metadata().configuration.items()
        }


def _timestamps(location: str, until: int) -> Iterator[tuple[int, int]]:
    """Yield the versions that the log still has, and when each was committed; a clock that goes back does not."""
    latest = 0
    names = sorted(entry.name for entry in log_folder(location).glob("*.json"))
    for name in names:
        if name[:20].isdigit() and int(name[:20]) <= until:
            latest = max(latest + 1, commit_timestamp_ms(location, int(name[:20])))
            yield int(name[:20]), latest


def version_from(location: str, since_ms: int, *, until: int, label: str) -> int:
    """Return the first version that was committed at or after an instant.

    Raises:
        SourceError: `DELTA_TIMESTAMP_GREATER_THAN_COMMIT` if there is none.
    """
    newest = 0
    for version, at_ms in _timestamps(location, until):
        if at_ms >= since_ms:
            return version
        newest = at_ms
    raise SourceError(
        "DELTA_TIMESTAMP_GREATER_THAN_COMMIT",
        f"`{label}` has no commit at or after {_shown(since_ms)}",
        cause=f"its newest version was committed at {_shown(newest)}",
        hint='give an earlier timestamp; of a stream, `startingVersion` "latest" means what comes from now on',
    )


def version_until(location: str, until_ms: int, *, until: int, label: str) -> int:
    """Return the last version that was committed at or before an instant.

    Raises:
        SourceError: `DELTA_TIMESTAMP_EARLIER_THAN_COMMIT` if there is none.
    """
    found = [(version, at_ms) for version, at_ms in _timestamps(location, until)]
    before = [version for version, at_ms in found if at_ms <= until_ms]
    if not before:
        raise SourceError(
            "DELTA_TIMESTAMP_EARLIER_THAN_COMMIT",
            f"`{label}` has no version at or before {_shown(until_ms)}",
            cause=f"the oldest version in its log was committed at {_shown(found[0][1])}" if found else None,
            hint="give a later timestamp",
        )
    return before[-1]


def _shown(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="milliseconds")


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


def commits_of_others(location: str, *, after: int | None) -> list[Commit]:
    """Return the commits after a version that change rows and have no receipt; what the log no longer has is not known."""
    until = None if after is None else latest_version(location, known=after)
    if after is None or until is None:
        return []
    commits = (read_commit(location, version) for version in range(after + 1, until + 1))
    return [
        commit
        for commit in commits
        if commit is not None
        and (commit.added or commit.removes_rows)
        and not any(app_id.startswith(RECEIPTS) for app_id in commit.app_ids)
    ]


def _data_file(location: str, add: dict[str, Any]) -> DataFile:
    stats = json.loads(add["stats"]) if add.get("stats") else {}
    path = unquote(add["path"])
    return DataFile(
        path=path if path.startswith("/") or is_remote(path) else str(place(location) / path),
        size_bytes=int(add.get("size") or 0),
        num_records=stats.get("numRecords"),
        modified_at_ms=int(add.get("modificationTime") or 0),
        # An empty string stands for NULL, whatever the column's type.
        partition_values={key: value or None for key, value in (add.get("partitionValues") or {}).items()},
        has_deletion_vector=add.get("deletionVector") is not None,
    )


def version_gone(location: str, version: int) -> SourceError:
    """Return the error of a version that can no longer be read."""
    return SourceError(
        "DELTA_VERSION_NOT_FOUND",
        f"version {version} of the table at `{location}` is no longer there",
        cause="the part of its log that says which files it had was cleaned up, or the table was deleted",
        hint="read a newer version, or restore the log from a copy",
    )


def snapshot_files(location: str, version: int) -> tuple[DataFile, ...]:
    """Return the data files of a whole version, oldest first."""
    with storage_errors(location):
        try:
            table = DeltaTable(location, version=version)
        except TableNotFoundError as error:
            raise version_gone(location, version) from error
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
