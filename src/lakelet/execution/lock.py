"""One update of a pipeline at a time: a lock file that names its owner.

The operating system drops the lock with the process, so a killed run leaves no lock behind; what it leaves is the file, and
the next run takes it over. A file written on another host is respected, since that host's processes cannot be seen.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lakelet.errors import LockError, StorageError


@contextmanager
def pipeline_lock(path: Path, *, pipeline: str) -> Iterator[None]:
    """Hold the lock of a storage folder.

    Raises:
        LockError: `PIPELINE_LOCKED`, with the owner.
        StorageError: `STORAGE_NOT_WRITABLE`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            "STORAGE_NOT_WRITABLE",
            f"the storage folder `{path.parent}` cannot be written",
            cause=str(error),
            hint="check the path and its permissions, or choose another folder with `--storage`",
        ) from error
    with file:
        owner = _owner(file)
        host = socket.gethostname()
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _locked(owner, path) from error
        if owner and owner.get("host") != host:
            raise _locked(owner, path)
        if not _is_still_there(file, path):
            # Its holder removed the file between our opening and our locking it: who comes next locks a new one.
            raise _locked({}, path)
        file.truncate(0)
        json.dump(
            {"pid": os.getpid(), "host": host, "pipeline": pipeline, "started_at": datetime.now(UTC).isoformat()}, file
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
            path.unlink(missing_ok=True)


def _is_still_there(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(file: Any) -> dict[str, Any]:
    file.seek(0)
    text = file.read()
    try:
        return dict(json.loads(text)) if text.strip() else {}
    except ValueError:
        return {}


def _locked(owner: dict[str, Any], path: Path) -> LockError:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started_at', '?')}"
    return LockError(
        "PIPELINE_LOCKED",
        f"another update runs on `{path.parent}`",
        cause=f"it is held by {who}",
        hint=f"wait for it or stop it; if that host is gone for good, remove `{path}`",
        retryable=True,
    )
