"""Writes commits that swap data files into the log of a table.

delta-rs commits such a swap as well, but reads the table's whole list of files anew after each commit, which at ten thousand
files takes ten times as long as everything else. A commit is one file of JSON lines whose name is the version; it is there at
once and whole, or not at all, and only the first writer of a version gets it.
Source: https://github.com/delta-io/delta/blob/master/PROTOCOL.md
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from lakelet.faults import reach
from lakelet.places import ObjectPath, Place
from lakelet.storage.base import Receipt
from lakelet.storage.delta_log import checkpointed_version, log_folder

FILES_PER_COMMIT = 50
"""A checkpoint has all files of a table; on a large table one is worth it only after many commits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedFile:
    """A data file that a commit adds; `stats` as the log has them."""

    path: str
    size_bytes: int
    stats: str

    def to_json(self, now_ms: int) -> dict[str, Any]:
        return {
            "path": self.path,
            "partitionValues": {},
            "size": self.size_bytes,
            "modificationTime": now_ms,
            "dataChange": True,
            "stats": self.stats,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedFile:
    """A data file that a commit removes; `path` as the log has it, percent-encoded."""

    path: str
    size_bytes: int

    def to_json(self, now_ms: int) -> dict[str, Any]:
        return {"path": self.path, "deletionTimestamp": now_ms, "dataChange": True, "size": self.size_bytes}


def write_commit(
    location: str,
    version: int,
    *,
    added: Iterable[AddedFile],
    removed: Iterable[RemovedFile],
    receipt: Receipt | None,
) -> None:
    """Commit a swap of files, and a receipt, as `version`.

    Raises:
        CommitFailedError: the version is there already, by another writer.
    """
    now = int(time.time() * 1000)
    actions: list[dict[str, Any]] = [
        {
            "commitInfo": {
                "timestamp": now,
                "operation": "WRITE",
                "operationParameters": {"mode": "Append", "partitionBy": "[]"},
                "engineInfo": "lakelet",
                "lakeletCommit": str(uuid.uuid4()),
            }
        }
    ]
    if receipt is not None:
        actions.append({"txn": {"appId": receipt.app_id, "version": receipt.batch_id}})
    actions += [{"remove": file.to_json(now)} for file in removed]
    actions += [{"add": file.to_json(now)} for file in added]
    data = "".join(json.dumps(action, separators=(",", ":")) + "\n" for action in actions).encode()
    path = log_folder(location) / f"{version:020d}.json"
    reach("table.files_written")
    try:
        _write_new(path, data)
    except OSError as error:
        # An answer that got lost says nothing about the commit; an attempt that an object store repeats by itself meets its own.
        if _is_there(path, data):
            return
        if isinstance(error, FileExistsError):
            raise CommitFailedError(f"version {version} has been written by somebody else") from error
        raise
    reach("table.committed")


def _is_there(path: Place, data: bytes) -> bool:
    try:
        return path.is_file() and path.read_bytes() == data
    except OSError:  # still unknown: what was raised first says why
        return False


def _write_new(path: Place, data: bytes) -> None:
    """Write a file whole, unless it is there: `FileExistsError`."""
    if isinstance(path, ObjectPath):
        path.write_new(data)
        return
    temporary = path.with_name(f"_commit_{uuid.uuid4()}.json.tmp")
    try:
        temporary.write_bytes(data)
        os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it has done its work, and nobody reads it
            temporary.unlink(missing_ok=True)


def checkpoint(location: str, version: int, *, files: int, interval: int) -> None:
    """Write a checkpoint if so many commits came after the last one that opening the table would suffer."""
    if version - checkpointed_version(location) >= max(interval, files // FILES_PER_COMMIT):
        DeltaTable(location, version=version).create_checkpoint()
