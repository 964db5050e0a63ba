"""The change feed of a Delta table: what each commit inserted, updated and deleted.

A commit that rewrites files to change some of their rows holds the changes in files of their own (`cdc` actions). For
any other commit they follow from the log: rows of added files are inserts, rows of removed files are deletes.
Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md#change-data-files
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lakelet.errors import SourceError
from lakelet.execution.delta_options import DeltaOptions
from lakelet.execution.delta_source import DeltaSource, VersionFiles
from lakelet.execution.diagnosis import missing_table
from lakelet.execution.sources import Slice
from lakelet.plan.relation import Relation
from lakelet.storage.base import TableStore
from lakelet.storage.data_files import DataFile
from lakelet.storage.delta_log import (
    Commit,
    commit_timestamp_ms,
    latest_version,
    properties_at,
    version_from,
    version_until,
)

ENABLED = "delta.enableChangeDataFeed"
CHANGE_COLUMNS = pa.schema(
    [
        ("_change_type", pa.string()),
        ("_commit_version", pa.int64()),
        ("_commit_timestamp", pa.timestamp("us", "UTC")),
    ]
)
"""Columns behind those of the table; `_change_type` is insert, update_preimage, update_postimage or delete."""


def with_change_columns(schema: pa.Schema, *, label: str) -> pa.Schema:
    """Return the columns of a table's change feed.

    Raises:
        SourceError: `COLUMN_ALREADY_EXISTS` where the table has one of the three names itself.
    """
    taken = [name for name in schema.names if name.lower() in CHANGE_COLUMNS.names]
    if taken:
        raise SourceError(
            "COLUMN_ALREADY_EXISTS",
            f"`{label}` has a column `{taken[0]}`, which its change feed has, too",
            hint="rename the column in the table that is read",
        )
    return pa.schema([*schema, *CHANGE_COLUMNS])


def is_enabled(properties: Mapping[str, str]) -> bool:
    return properties.get(ENABLED, "false").lower() == "true"


def refuse_without_change_feed(label: str, properties: Mapping[str, str]) -> None:
    """Raise if a table records no changes.

    Raises:
        SourceError: `DELTA_MISSING_CHANGE_DATA`.
    """
    if not is_enabled(properties):
        raise _missing(label, "its property `delta.enableChangeDataFeed` is not set")


@dataclass(slots=True)
class ChangeFeedSource(DeltaSource):
    """The changes of a Delta table as a stream.

    Without a starting version the snapshot comes first, as inserts of the version at which the stream starts. The rows of
    one commit are read in one micro-batch, so that both images of an update stay together.
    """

    _enabled: dict[int, bool] = field(default_factory=dict)

    def plan(self, after: Any, until: int | None) -> Slice:
        if until is not None and after is None:
            table = self.store.open(self.location)
            if table is not None:
                refuse_without_change_feed(self.label, table.properties)
        return DeltaSource.plan(self, after, until)

    def _columns(self, schema: pa.Schema) -> pa.Schema:
        return with_change_columns(schema, label=self.label)

    def _files(self, version: int, snapshot: bool) -> VersionFiles:
        found = DeltaSource._files(self, version, snapshot)
        if not snapshot:
            return found
        return replace(
            found, files=_marked(found.files, "insert", version, commit_timestamp_ms(self.location, version))
        )

    def _of_commit(self, commit: Commit) -> VersionFiles:
        if not self._is_enabled(commit):
            raise _missing(self.label, f"it recorded no changes at version {commit.version}")
        return VersionFiles(files=files_of_changes(commit), is_whole=True)

    def _is_enabled(self, commit: Commit) -> bool:
        if commit.properties is not None:
            self._enabled[commit.version] = is_enabled(commit.properties)
        elif commit.version not in self._enabled:
            before = self._enabled.get(commit.version - 1)
            if before is None:
                before = is_enabled(properties_at(self.location, commit.version))
            self._enabled[commit.version] = before
        return self._enabled[commit.version]


def files_of_changes(commit: Commit) -> tuple[DataFile, ...]:
    """Return the files with the changes of a commit; what their rows do not say themselves stands beside them."""
    if commit.changes:
        return _marked(commit.changes, None, commit.version, commit.timestamp_ms)
    deletes = _marked(commit.removed, "delete", commit.version, commit.timestamp_ms)
    return deletes + _marked(commit.added, "insert", commit.version, commit.timestamp_ms)


def _marked(files: tuple[DataFile, ...], kind: str | None, version: int, at_ms: int) -> tuple[DataFile, ...]:
    seconds, ms = divmod(at_ms, 1000)
    at = pa.scalar(seconds, pa.timestamp("s")).as_py().isoformat(sep=" ")
    marks: dict[str, str | None] = {"_commit_version": str(version), "_commit_timestamp": f"{at}.{ms:03d}"}
    if kind is not None:
        marks["_change_type"] = kind
    return tuple(replace(file, partition_values={**file.partition_values, **marks}) for file in files)


def changes_between(
    location: str,
    label: str,
    store: TableStore,
    options: Mapping[str, str],
    *,
    newest: int,
    metadata: bool,
    inline: bool = True,
) -> Relation:
    """Return the changes of a table as rows: a read that is no stream.

    Args:
        newest: the version at which the batch reads the table; the changes end there, or before.
        inline: as of a `DeltaSource`.

    Raises:
        SourceError: `DELTA_VERSION_NOT_FOUND`, `DELTA_INVALID_CDC_RANGE`, `DELTA_MISSING_CHANGE_DATA`.
    """
    checked = DeltaOptions(options)
    first, last = _range(location, label, checked, newest)
    if latest_version(location) is None:
        raise missing_table(label, location)
    source = ChangeFeedSource(
        location=location,
        label=label,
        store=store,
        options={"readchangefeed": "true", "startingversion": str(first)},
        inline=inline,
    )
    source.schema(newest)
    start = source.offset(first)
    return source.rows(start, source.offset(last + 1), metadata=metadata)


def _range(location: str, label: str, options: DeltaOptions, newest: int) -> tuple[int, int]:
    since_ms, until_ms = options.time_ms("startingtimestamp"), options.time_ms("endingtimestamp")
    first = (
        int(options.text("startingversion") or 0)
        if since_ms is None
        else version_from(location, since_ms, until=newest, label=label)
    )
    ending = options.text("endingversion")
    last = newest if ending is None else min(int(ending), newest)
    if until_ms is not None:
        last = version_until(location, until_ms, until=newest, label=label)
    if first > newest:
        raise SourceError(
            "DELTA_VERSION_NOT_FOUND",
            f"`startingVersion` is {first}, and the newest version of `{label}` is {newest}",
            hint="give a version that exists",
        )
    if last < first:
        raise SourceError(
            "DELTA_INVALID_CDC_RANGE",
            f"the changes of `{label}` from version {first} to {last} are asked for",
            cause="the end lies before the start",
            hint="give an end that is not before the start",
        )
    return first, last


def _missing(label: str, cause: str) -> SourceError:
    return SourceError(
        "DELTA_MISSING_CHANGE_DATA",
        f"`{label}` has no change feed to read",
        cause=cause,
        hint='set it, for a table of the pipeline with `table_properties={"delta.enableChangeDataFeed": "true"}`, and start '
        "at a version after that",
    )
