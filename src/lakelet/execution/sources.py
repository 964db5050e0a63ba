"""Streaming sources: which input is new, and its rows.

A source plans slices between two offsets. Offsets are JSON; the same two offsets give the same rows at any later time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from lakelet.errors import SourceError, did_you_mean
from lakelet.execution.diagnosis import missing_table
from lakelet.execution.slices import INLINE_BYTES, MAX_FILES_BY_ENGINE, file_rows
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import TableStore
from lakelet.storage.data_files import DataFile
from lakelet.storage.delta_log import (
    Commit,
    commit_file,
    latest_version,
    read_commit,
    refuse_column_mapping,
    refuse_deletion_vectors,
    snapshot_files,
)

Offset = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one micro-batch reads of one source.

    Attributes:
        is_empty: nothing new between the offsets.
        skipped_commits: versions left out on the user's word (`skipChangeCommits`).
    """

    start: Offset | None
    end: Offset
    num_files: int = 0
    num_bytes: int = 0
    is_empty: bool = False
    skipped_commits: tuple[int, ...] = ()


class StreamSource(Protocol):
    """One streaming input of a flow."""

    def head(self) -> Any:
        """Return how far the source reaches now; compared with `==`, and handed to `plan` as the end."""
        ...

    def plan(self, after: Offset | None, until: Any) -> Slice:
        """Return what comes after `after` (None: from the start), not beyond `until`, within the rate limits."""
        ...

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        """Return exactly the rows between two planned offsets."""
        ...


_DELTA_OPTIONS = {
    name.lower(): name
    for name in (
        "maxFilesPerTrigger", "maxBytesPerTrigger", "startingVersion", "skipChangeCommits", "ignoreDeletes",
        "ignoreChanges", "failOnDataLoss",
    )
}  # fmt: skip
_REFUSED_OPTIONS = {
    "startingTimestamp": "use `startingVersion`",
    "readChangeFeed": "read the table's rows instead",
    "readChangeData": "read the table's rows instead",
    "withEventTimeOrder": "leave it out: rows come in the order of commits",
    "excludeRegex": "filter in the query",
    "schemaTrackingLocation": "leave it out: column mapping is not supported",
}


def check_options(label: str, options: Mapping[str, str]) -> None:
    """Check the options of a streaming read of a Delta table.

    Args:
        options: keys in lower case.

    Raises:
        SourceError: `UNSUPPORTED_OPTION`, `UNKNOWN_OPTION`, `INVALID_OPTION`.
    """
    refused = {name.lower(): (name, hint) for name, hint in _REFUSED_OPTIONS.items()}
    for key, text in options.items():
        if key in refused:
            name, hint = refused[key]
            raise SourceError(
                "UNSUPPORTED_OPTION", f"the option `{name}` of a stream of `{label}` is not supported", hint=hint
            )
        if key not in _DELTA_OPTIONS and key != "path":
            near = did_you_mean(key, _DELTA_OPTIONS)
            raise SourceError(
                "UNKNOWN_OPTION",
                f"`{key}` is no option of a streaming read of a Delta table",
                cause=f"the options are {', '.join(_DELTA_OPTIONS.values())}",
                hint=f"did you mean `{_DELTA_OPTIONS[near]}`?" if near else "remove it",
            )
        problem = _value_problem(key, text.strip())
        if problem:
            raise SourceError("INVALID_OPTION", f"`{_DELTA_OPTIONS[key]}` of `{label}` is `{text}`", hint=problem)


def _value_problem(key: str, text: str) -> str | None:
    """Return how to write the value of an option that is wrong, None if it is right."""
    if key == "startingversion" and text != "latest" and not text.isdigit():
        return 'give a version number, or "latest"'
    if key == "maxfilespertrigger" and (not text.isdigit() or int(text) == 0):
        return "give a positive number, for example 100"
    if key == "maxbytespertrigger" and not parse_bytes(text):
        return "give a size, for example 64m"
    if key in ("skipchangecommits", "ignoredeletes", "ignorechanges") and text.lower() not in ("true", "false"):
        return 'give "true" or "false"'
    return None


@dataclass(slots=True)
class DeltaSource:
    """The new rows of an append-only Delta table.

    The first batches read the snapshot at the version at which the stream starts, later ones the files that each commit adds.
    An offset {"version", "index", "snapshot", "table"} means: everything before file `index` of that version of the table
    with this id has been read.

    Attributes:
        location: folder of the table.
        label: what the user calls it.
        options: reader options, keys in lower case.
        max_bytes: default size of a micro-batch on disk; a single larger file is still one batch.
    """

    location: str
    label: str
    store: TableStore
    options: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = 64 * 2**20
    _known: int = -1
    _schema: pa.Schema | None = None
    _schema_version: int = -1
    _commit_file: tuple[int, int] | None = None
    _partition_cols: tuple[str, ...] = ()
    _table_id: str | None = None

    def __post_init__(self) -> None:
        check_options(self.label, self.options)

    def head(self) -> int | None:
        version = latest_version(self.location, known=self._known)
        if version is not None:
            self._known = version
        return version

    def plan(self, after: Offset | None, until: int | None) -> Slice:
        if until is None:
            raise missing_table(self.label, self.location)
        start = self._start(until) if after is None else after
        version, index, snapshot = int(start["version"]), int(start["index"]), bool(start["snapshot"])
        if until < version - 1:
            raise self._replaced(f"it is at version {until}, and this flow has read up to {version - 1}")
        if until >= version:
            self.schema(until)
            if start.get("table") not in (None, self._table_id):
                raise self._replaced("it has another id in its log")
        taken: list[DataFile] = []
        skipped: list[int] = []
        size = 0
        max_files = self._number("maxfilespertrigger", 1000)
        max_bytes = self._number("maxbytespertrigger", self.max_bytes)
        while version <= until:
            files, was_skipped = self._files(version, snapshot)
            if was_skipped:
                skipped.append(version)
            for position in range(index, len(files)):
                file = files[position]
                too_many = len(taken) >= max_files or (size > INLINE_BYTES and len(taken) >= MAX_FILES_BY_ENGINE)
                if taken and (too_many or size + file.size_bytes > max_bytes):
                    end = self._offset(version, position, snapshot=snapshot)
                    return Slice(
                        start=start, end=end, num_files=len(taken), num_bytes=size, skipped_commits=tuple(skipped)
                    )
                taken.append(file)
                size += file.size_bytes
            version, index, snapshot = version + 1, 0, False
        end = self._offset(version)
        return Slice(
            start=start,
            end=end,
            num_files=len(taken),
            num_bytes=size,
            # "latest" is a place in the log; it must be noted, or the next update would look for it anew.
            is_empty=not taken
            and not skipped
            and not (after is None and self.options.get("startingversion") == "latest"),
            skipped_commits=tuple(skipped),
        )

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        files: list[DataFile] = []
        if start is not None:
            version, index, snapshot = int(start["version"]), int(start["index"]), bool(start["snapshot"])
            stop = (int(end["version"]), int(end["index"]))
            while (version, index) < stop:
                of_version, _ = self._files(version, snapshot)
                last = stop[1] if version == stop[0] else len(of_version)
                files.extend(of_version[index:last])
                version, index, snapshot = version + 1, 0, False
        refuse_deletion_vectors(self.location, tuple(files))
        schema, partition_cols = self.schema(int(end["version"]) - (0 if int(end["index"]) else 1))
        return file_rows(files, schema, partition_cols=partition_cols, metadata=metadata)

    def schema(self, version: int) -> tuple[pa.Schema, tuple[str, ...]]:
        """Return columns and partition columns of the table, at least as new as `version`."""
        if self._schema is not None and self._schema_version < version and self._is_unchanged(version):
            self._schema_version = version
            self._commit_file = commit_file(self.location, version)
        if self._schema is None or self._schema_version < version:
            table = self.store.open(self.location)
            if table is None:
                raise missing_table(self.label, self.location)
            refuse_column_mapping(self.location, table.properties)
            self._schema, self._partition_cols, self._schema_version = table.schema, table.partition_cols, table.version
            self._table_id = table.id
            self._commit_file = commit_file(self.location, table.version)
        return self._schema, self._partition_cols

    def _is_unchanged(self, version: int) -> bool:
        """Return whether it is still the same table, and no commit up to `version` changes its columns or properties."""
        if self._commit_file is None or self._commit_file != commit_file(self.location, self._schema_version):
            return False
        commits = (read_commit(self.location, number) for number in range(self._schema_version + 1, version + 1))
        return all(commit is not None and not commit.changes_metadata for commit in commits)

    def backlog(self, after: Offset | None) -> tuple[int, int]:
        """Return (files, bytes) not yet read, as far as the log tells cheaply."""
        until = self.head()
        if until is None or after is None:
            return (0, 0)
        files = size = 0
        for version in range(int(after["version"]), until + 1):
            added, _ = self._files(version, False)
            files += len(added)
            size += sum(file.size_bytes for file in added)
        return files, size

    def _replaced(self, cause: str) -> SourceError:
        return SourceError(
            "SOURCE_TABLE_REPLACED",
            f"`{self.label}` is not the table that this flow has read so far",
            cause=f"the table at `{self.location}` was restored or written anew: {cause}",
            hint="restore the table, or start the flow anew with `lakelet run --full-refresh <dataset>`",
        )

    def _offset(self, version: int, index: int = 0, *, snapshot: bool = False) -> Offset:
        return {"version": version, "index": index, "snapshot": snapshot, "table": self._table_id}

    def _start(self, until: int) -> Offset:
        text = self.options.get("startingversion")
        if text is None:
            return self._offset(until, snapshot=True)
        if text == "latest":
            return self._offset(until + 1)
        if int(text) > until + 1:
            raise SourceError(
                "DELTA_VERSION_NOT_FOUND",
                f"`startingVersion` is {text}, and the newest version of `{self.label}` is {until}",
                hint='give a version that exists, or "latest" for what comes from now on',
            )
        return self._offset(int(text))

    def _files(self, version: int, snapshot: bool) -> tuple[tuple[DataFile, ...], bool]:
        """Return the new data files of a version, and whether its commit was skipped because it changes rows."""
        if snapshot:
            return snapshot_files(self.location, version), False
        commit = read_commit(self.location, version)
        if commit is None:
            raise SourceError(
                "SOURCE_LOG_MISSING",
                f"version {version} of `{self.label}` is no longer in the table's log",
                cause=f"the log at `{self.location}` was cleaned up, or the table was replaced, before this flow had read it",
                hint="start the flow anew with `lakelet run --full-refresh <dataset>`",
            )
        if not commit.removes_rows:
            return commit.added, False
        return self._changed(commit)

    def _changed(self, commit: Commit) -> tuple[tuple[DataFile, ...], bool]:
        if self._flag("skipchangecommits"):
            return (), True
        if self._flag("ignorechanges"):
            return commit.added, False
        if self._flag("ignoredeletes") and not commit.added:
            return (), False
        raise SourceError(
            "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
            f"version {commit.version} of `{self.label}` updates or deletes rows, and a stream needs an append-only table",
            cause="rows that a flow has already handled once would have to be handled again",
            hint='read it with `.option("skipChangeCommits", "true")` to leave such commits out, read it as a table, or '
            "refresh this dataset from the start with `lakelet run --full-refresh <dataset>`",
        )

    def _flag(self, key: str) -> bool:
        return self.options.get(key, "false").strip().lower() == "true"

    def _number(self, key: str, default: int) -> int:
        text = self.options.get(key)
        if text is None:
            return default
        value = parse_bytes(text) if key == "maxbytespertrigger" else int(text)
        return value or default


_UNITS = {"b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30, "": 1}


def parse_bytes(text: str) -> int | None:
    """Return the number of bytes that `10g`, `64 MB` or `1024` means, None if it means nothing."""
    stripped = text.strip().lower()
    digits = stripped.rstrip("bkmgt ").strip()
    unit = stripped[len(digits) :].strip()
    return int(digits) * _UNITS[unit] if digits.isdigit() and unit in _UNITS else None


@dataclass(slots=True)
class RateSource:
    """`spark.readStream.format("rate")`: `rowsPerSecond` rows (timestamp, value) for each second since the stream began."""

    options: Mapping[str, str] = field(default_factory=dict)
    clock: Any = lambda: datetime.now(UTC)

    def head(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def plan(self, after: Offset | None, until: int) -> Slice:
        began = until - 1000 if after is None else int(after["began_ms"])
        start = {"began_ms": began, "value": 0} if after is None else after
        value = max(int(start["value"]), (until - began) * self._rate // 1000)
        end = {"began_ms": began, "value": value}
        return Slice(start=start, end=end, is_empty=value <= int(start["value"]))

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        first = int(start["value"]) if start else 0
        values = range(first, int(end["value"]))
        began = int(end["began_ms"])
        return plan.local(
            pa.table(
                {
                    "timestamp": pa.array(
                        [(began + v * 1000 // self._rate) * 1000 for v in values], pa.timestamp("us", "UTC")
                    ),
                    "value": pa.array(values, pa.int64()),
                }
            )
        )

    @property
    def _rate(self) -> int:
        return max(1, int(self.options.get("rowspersecond", "1")))


RATE_SCHEMA = pa.schema([("timestamp", pa.timestamp("us", "UTC")), ("value", pa.int64())])
