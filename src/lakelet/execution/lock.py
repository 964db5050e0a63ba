"""One update of a pipeline at a time: a lock file that names its owner.

The operating system drops the lock with the process, so a killed run leaves no lock behind; what it leaves is the file, and
the next run takes it over. A file written on another host is respected, since that host's processes cannot be seen.

In an object store the lock is a key that is written only if it is not there. Nobody drops it with the process, so the next run on
the same host looks whether its owner still lives, and takes the key over on the condition that it is still that owner's. Should
two updates run after all, because somebody removed the key of a live one, the tables still refuse the second commit of a batch.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lakelet.errors import LockError, StorageError
from lakelet.places import ObjectPath, ObjectStatus, Place
from lakelet.processes import is_alive


@contextmanager
def pipeline_lock(path: Place, *, pipeline: str) -> Iterator[None]:
    """Hold the lock of a storage folder, or of a place in an object store.

    Raises:
        LockError: `PIPELINE_LOCKED`, with the owner.
        StorageError: `STORAGE_NOT_WRITABLE`.
    """
    if isinstance(path, ObjectPath):
        with _key_lock(path, pipeline=pipeline):
            yield
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise _not_writable(path, error) from error
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
        try:
            file.truncate(0)
            os.write(file.fileno(), json.dumps(_self(pipeline)).encode())  # nothing is left for the end to write
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            yield
        finally:
            file.truncate(0)
            path.unlink(missing_ok=True)


@contextmanager
def _key_lock(path: ObjectPath, *, pipeline: str) -> Iterator[None]:
    content = json.dumps({**_self(pipeline), "token": uuid.uuid4().hex}).encode()
    try:
        try:
            held = path.write_new(content)
        except FileExistsError:
            held = _taken_over(path, content)
    except OSError as error:
        raise _not_writable(path, error) from error
    try:
        yield
    finally:
        with suppress(OSError):  # the next run on this host takes a key over that its owner could not remove
            if path.stat().e_tag == held.e_tag:
                path.unlink(missing_ok=True)


def _taken_over(path: ObjectPath, content: bytes) -> ObjectStatus:
    """Write our key over that of a process of this host which is gone."""
    try:
        known = path.stat()
        owner = _parsed(path.read_text("utf-8"))
    except FileNotFoundError as error:  # removed in between: who comes next finds it free
        raise _locked({}, path) from error
    if owner.get("host") != socket.gethostname() or is_alive(int(owner.get("pid", 0))):
        raise _locked(owner, path)
    try:
        return path.write_over(content, known)
    except FileExistsError as error:
        raise _locked(owner, path) from error


def _self(pipeline: str) -> dict[str, Any]:
    """Return what a lock says of its owner."""
    started_at = datetime.now(UTC).isoformat()
    return {"pid": os.getpid(), "host": socket.gethostname(), "pipeline": pipeline, "started_at": started_at}


def _not_writable(path: Place, error: OSError) -> StorageError:
    if error.errno == errno.ENOSPC:
        return StorageError(
            "DISK_FULL",
            f"no space left in the storage folder `{path.parent}`",
            cause=str(error),
            hint="free some space and run the update again; nothing was begun",
        )
    return StorageError(
        "STORAGE_NOT_WRITABLE",
        f"the storage `{path.parent}` cannot be written"
        if isinstance(path, ObjectPath)
        else f"the storage folder `{path.parent}` cannot be written",
        cause=str(error),
        hint="check the bucket, the credentials in the environment and what they allow"
        if isinstance(path, ObjectPath)
        else "check the path and its permissions, or choose another folder with `--storage`",
    )


def _is_still_there(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _owner(file: Any) -> dict[str, Any]:
    file.seek(0)
    return _parsed(file.read())


def _parsed(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text)) if text.strip() else {}
    except ValueError:
        return {}


def _locked(owner: dict[str, Any], path: Place) -> LockError:
    who = f"process {owner.get('pid', '?')} on {owner.get('host', '?')}, since {owner.get('started_at', '?')}"
    return LockError(
        "PIPELINE_LOCKED",
        f"another update runs on `{path.parent}`",
        cause=f"it is held by {who}",
        hint=f"wait for it or stop it; if that host is gone for good, remove `{path}`",
        retryable=True,
    )
