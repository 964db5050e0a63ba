"""What this process knows of the tables that it changes file by file, so that it need not read their logs at each batch.

Opening a table reads the names and statistics of all its files. A process that has made the last commit knows them already;
it looks whether the log has a later commit, which costs two calls of the file system however large the table is.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from lakelet.storage.base import Receipt
from lakelet.storage.clustered import Files
from lakelet.storage.delta_log import commit_file, has_version

REMEMBERED_TABLES = 64
"""The list of a table with ten thousand files takes some 5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownTable:
    """One version of a table, all that a change needs.

    Attributes:
        commit: what identifies the file of the version's commit, since another table at this place has another one; None if
            the log has only a checkpoint of the version.
        files: None as long as nobody has asked for them.
        batch_ids: by application id, as far as somebody has asked for them.
    """

    version: int
    commit: tuple[int, int] | None
    id: str
    schema: pa.Schema
    properties: Mapping[str, str]
    files: Files | None
    batch_ids: dict[str, int]

    def after(self, location: str, files: Files | None, receipt: Receipt | None) -> KnownTable:
        """Return the table with one more commit, which this process has just made."""
        version = self.version + 1
        batch_ids = self.batch_ids if receipt is None else {**self.batch_ids, receipt.app_id: receipt.batch_id}
        return replace(
            self, version=version, commit=commit_file(location, version), files=files, batch_ids=dict(batch_ids)
        )


_known: OrderedDict[str, KnownTable] = OrderedDict()
_lock = threading.Lock()


def remember(location: str, table: KnownTable) -> None:
    if table.commit is None:
        return
    with _lock:
        _known[location] = table
        _known.move_to_end(location)
        while len(_known) > REMEMBERED_TABLES:
            _known.popitem(last=False)


def newest(location: str) -> KnownTable | None:
    """Return the newest version of a table if this process knows it."""
    with _lock:
        found = _known.get(location)
    if found is None:
        return None
    if commit_file(location, found.version) == found.commit and not has_version(location, found.version + 1):
        return found
    with _lock:
        if _known.get(location) is found:
            del _known[location]
    return None


def schema_of(location: str, version: int, commit: tuple[int, int] | None) -> pa.Schema | None:
    """Return the columns of a version of a table if this process knows them; costs nothing.

    Args:
        commit: what identifies the file of the version's commit.
    """
    with _lock:
        found = _known.get(location)
    return found.schema if found is not None and (found.version, found.commit) == (version, commit) else None


def forget() -> None:
    """Know nothing, as a new process does."""
    with _lock:
        _known.clear()
