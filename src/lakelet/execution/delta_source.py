"""A Delta table as a stream: the rows of each commit, once."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from lakelet.errors import SourceError
from lakelet.execution.delta_options import DeltaOptions, check_options
from lakelet.execution.diagnosis import missing_table
from lakelet.execution.slices import (
    INLINE_BYTES,
    MAX_FILES_BY_ENGINE,
    MAX_FILES_IN_CLUSTER,
    file_rows,
    num_rows_of,
    scan_of,
)
from lakelet.execution.sources import Backlog, Offset, Skipped, Slice
from lakelet.places import place
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
    version_from,
    version_until,
)

MOST_COMMITS = 1_000
"""A longer backlog is not weighed: that would read all its commits for a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """What a stream reads of one version.

    Attributes:
        is_whole: the files belong together and are read in one micro-batch.
    """

    files: tuple[DataFile, ...] = ()
    is_whole: bool = False
    skipped: Skipped = field(default_factory=Skipped)


@dataclass(slots=True)
class DeltaSource:
    """The new rows of an append-only Delta table.

    The first batches read the snapshot at the version at which the stream starts, later ones the files that each commit adds.
    An offset {"version", "index", "snapshot", "table", "commit"} means: everything before file `index` of that version of
    the table with this id has been read. `commit` identifies the file of the commit before it: as long as it is there, the
    table is the same, and need not be opened to find that nothing is new.

    Attributes:
        location: folder of the table.
        label: what the user calls it.
        options: reader options, keys in lower case.
        max_bytes: default size of a micro-batch on disk; a single larger file is still one batch.
        metadata: rows are asked for with the hidden column of the file's path, size and time.
        inline: few rows may travel inside the plan; a cluster reads all of them itself.
        on_new_columns: called when the table has got other columns since it was last read.
    """

    location: str
    label: str
    store: TableStore
    options: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = 64 * 2**20
    metadata: bool = False
    inline: bool = True
    on_new_columns: Callable[[], None] | None = None
    _checked: DeltaOptions = field(default_factory=DeltaOptions)
    _known: int = -1
    _schema: pa.Schema | None = None
    _schema_version: int = -1
    _commit_file: tuple[int, int] | None = None
    _partition_cols: tuple[str, ...] = ()
    _table_id: str | None = None
    _sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self.label, self.options, streaming=True)
        self._checked = DeltaOptions(self.options)

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
        is_known = start.get("commit") == self._commit(version - 1)
        if not is_known:
            self._schema = None
        if until >= version or not is_known:
            self.schema(until)
            if start.get("table") not in (None, self._table_id):
                raise self._replaced("it has another id in its log")
        taken: list[DataFile] = []
        scans: set[Hashable] = set()
        skipped = Skipped()
        size = 0
        while version <= until:
            found = self._files(version, snapshot)
            skipped = _both(skipped, found.skipped)
            for position in range(index, len(found.files)):
                file = found.files[position]
                may_end = taken and (position == 0 or not found.is_whole)
                if may_end and self._is_full(
                    len(taken), len(scans), size, found.files[position:] if found.is_whole else [file]
                ):
                    end = self.offset(version, position, snapshot=snapshot)
                    return Slice(start=start, end=end, num_files=len(taken), num_bytes=size, skipped=_any(skipped))
                taken.append(file)
                scans.add(scan_of(file, self.metadata))
                size += file.size_bytes
            version, index, snapshot = version + 1, 0, False
        return Slice(
            start=start,
            end=self.offset(version),
            num_files=len(taken),
            num_bytes=size,
            # "latest" is a place in the log; it must be noted, or the next update would look for it anew.
            is_empty=not taken
            and _any(skipped) is None
            and not (after is None and self.options.get("startingversion") == "latest"),
            skipped=_any(skipped),
        )

    def _is_full(self, num_files: int, num_scans: int, size: int, following: Sequence[DataFile]) -> bool:
        """Return whether a micro-batch of so many files, scans and bytes has no room for these."""
        if self.inline:
            by_engine = size > INLINE_BYTES and num_files >= MAX_FILES_BY_ENGINE
        else:
            by_engine = num_files >= MAX_FILES_IN_CLUSTER or num_scans >= MAX_FILES_BY_ENGINE
        too_large = size + sum(file.size_bytes for file in following) > self._checked.max_bytes(self.max_bytes)
        return num_files >= self._checked.max_files or by_engine or too_large

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        files: list[DataFile] = []
        if start is not None:
            version, index, snapshot = int(start["version"]), int(start["index"]), bool(start["snapshot"])
            stop = (int(end["version"]), int(end["index"]))
            while (version, index) < stop:
                of_version = self._files(version, snapshot).files
                last = stop[1] if version == stop[0] else len(of_version)
                files.extend(of_version[index:last])
                version, index, snapshot = version + 1, 0, False
        refuse_deletion_vectors(self.location, tuple(files))
        schema, partition_cols = self.schema(int(end["version"]) - (0 if int(end["index"]) else 1))
        return file_rows(
            files, self._columns(schema), partition_cols=partition_cols, metadata=metadata, inline=self.inline
        )

    def _columns(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of the stream, given those of the table."""
        return schema

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
            known = self._schema
            self._schema, self._partition_cols, self._schema_version = table.schema, table.partition_cols, table.version
            if known is not None and known != table.schema and self.on_new_columns is not None:
                self.on_new_columns()
            self._table_id = table.id
            self._commit_file = commit_file(self.location, table.version)
        return self._schema, self._partition_cols

    def _is_unchanged(self, version: int) -> bool:
        """Return whether it is still the same table, and no commit up to `version` changes its columns or properties."""
        if self._commit_file is None or self._commit_file != commit_file(self.location, self._schema_version):
            return False
        commits = (read_commit(self.location, number) for number in range(self._schema_version + 1, version + 1))
        return all(commit is not None and not commit.changes_metadata for commit in commits)

    def backlog(self, after: Offset, until: int | None) -> Backlog | None:
        version, index, snapshot = int(after["version"]), int(after["index"]), bool(after["snapshot"])
        if until is None or version > until:
            return Backlog()
        if until - version > MOST_COMMITS and len(self._sizes) < until - version:
            return None
        try:
            rest = self._files(version, snapshot).files[index:]
            sizes = [self._size(other) for other in range(version + 1, until + 1)]
        except (SourceError, OSError):  # whoever reads it says why it cannot be read
            return None
        self._sizes = {other: size for other, size in self._sizes.items() if other > version}
        return Backlog(
            num_files=len(rest) + sum(files for files, _ in sizes),
            num_bytes=sum(file.size_bytes for file in rest) + sum(size for _, size in sizes),
        )

    def _size(self, version: int) -> tuple[int, int]:
        """Return the number of files that a version has for the stream, and their bytes."""
        found = self._sizes.get(version)
        if found is None:
            files = self._files(version, False).files
            found = self._sizes[version] = (len(files), sum(file.size_bytes for file in files))
        return found

    def _replaced(self, cause: str) -> SourceError:
        return SourceError(
            "SOURCE_TABLE_REPLACED",
            f"`{self.label}` is not the table that this flow has read so far",
            cause=f"the table at `{self.location}` was restored or written anew: {cause}",
            hint="restore the table, rebuild the dataset with `lakelet run --full-refresh <dataset>`, or keep its rows and "
            "append what the table has now with `lakelet run --reset-checkpoint <flow>`",
        )

    def offset(self, version: int, index: int = 0, *, snapshot: bool = False) -> Offset:
        """Return the place before file `index` of a version."""
        return {
            "version": version,
            "index": index,
            "snapshot": snapshot,
            "table": self._table_id,
            "commit": self._commit(version - 1),
        }

    def _commit(self, version: int) -> list[int] | None:
        found = commit_file(self.location, version)
        return None if found is None else list(found)

    def _start(self, until: int) -> Offset:
        since_ms = self._checked.time_ms("startingtimestamp")
        if since_ms is not None:
            return self.offset(version_from(self.location, since_ms, until=until, label=self.label))
        text = self._checked.text("startingversion")
        if text is None:
            return self.offset(until, snapshot=True)
        if text == "latest":
            return self.offset(until + 1)
        if int(text) > until + 1:
            raise SourceError(
                "DELTA_VERSION_NOT_FOUND",
                f"`startingVersion` is {text}, and the newest version of `{self.label}` is {until}",
                hint='give a version that exists, or "latest" for what comes from now on',
            )
        return self.offset(int(text))

    def _files(self, version: int, snapshot: bool) -> VersionFiles:
        """Return what the stream reads of a version."""
        if snapshot:
            # In the order of event time, or all at once: then no row of the snapshot is late for the others.
            whole = self._checked.flag("witheventtimeorder")
            return VersionFiles(files=self._included(snapshot_files(self.location, version)), is_whole=whole)
        commit = read_commit(self.location, version)
        if commit is None:
            if not self._checked.flag("failondataloss", default=True):
                return VersionFiles(skipped=Skipped(lost=(version,)))
            raise SourceError(
                "SOURCE_LOG_MISSING",
                f"version {version} of `{self.label}` is no longer in the table's log",
                cause=f"the log at `{self.location}` was cleaned up, or the table was replaced, before this flow had read it",
                hint="start the flow anew with `lakelet run --full-refresh <dataset>`, or go on without it: "
                '`.option("failOnDataLoss", "false")`',
            )
        found = self._of_commit(commit)
        return replace(found, files=self._included(found.files))

    def _included(self, files: tuple[DataFile, ...]) -> tuple[DataFile, ...]:
        """Return the files whose path below the table `excludeRegex` does not find."""
        pattern = self._checked.text("excluderegex")
        if pattern is None:
            return files
        found = re.compile(pattern)
        return tuple(file for file in files if not found.search(file.path.removeprefix(f"{place(self.location)}/")))

    def _of_commit(self, commit: Commit) -> VersionFiles:
        if not commit.removed:
            return VersionFiles(files=commit.added)
        removed = sum(num_rows_of(file) or 0 for file in commit.removed)
        left_out = Skipped(commits=(commit.version,), num_removed_rows=removed)
        if self._checked.flag("skipchangecommits"):
            added = sum(num_rows_of(file) or 0 for file in commit.added)
            return VersionFiles(skipped=replace(left_out, num_added_rows=added))
        if self._checked.flag("ignorechanges") or (self._checked.flag("ignoredeletes") and not commit.added):
            return VersionFiles(files=commit.added, skipped=left_out)
        raise SourceError(
            "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
            f"version {commit.version} of `{self.label}` updates or deletes rows, and a stream needs an append-only table",
            cause="rows that a flow has already handled once would have to be handled again",
            hint='read it with `.option("skipChangeCommits", "true")` to leave such commits out, read its change feed with '
            '`.option("readChangeFeed", "true")`, read it as a table, or refresh this dataset from the start with '
            "`lakelet run --full-refresh <dataset>`",
        )


def version_as_of(location: str, label: str, options: Mapping[str, str], *, newest: int) -> int:
    """Return the version at which a table is read: `versionAsOf`, `timestampAsOf`, or the newest.

    Raises:
        SourceError: `DELTA_VERSION_NOT_FOUND`, `DELTA_TIMESTAMP_EARLIER_THAN_COMMIT`.
    """
    checked = DeltaOptions(options)
    as_of_ms = checked.time_ms("timestampasof")
    if as_of_ms is not None:
        return version_until(location, as_of_ms, until=newest, label=label)
    text = checked.text("versionasof")
    if text is not None and int(text) > newest:
        raise SourceError(
            "DELTA_VERSION_NOT_FOUND",
            f"`versionAsOf` is {text}, and the newest version of `{label}` is {newest}",
            hint="give a version that exists",
        )
    return newest if text is None else int(text)


def _both(one: Skipped, other: Skipped) -> Skipped:
    return Skipped(
        commits=one.commits + other.commits,
        num_added_rows=one.num_added_rows + other.num_added_rows,
        num_removed_rows=one.num_removed_rows + other.num_removed_rows,
        lost=one.lost + other.lost,
    )


def _any(skipped: Skipped) -> Skipped | None:
    return skipped if skipped.commits or skipped.lost else None
