"""Resetting the retailer's storage: first a plan that says what would go, then the deed.

Refuses folders that are not apparel storage, and storage on which a pipeline runs an update.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import uuid
from dataclasses import dataclass
from pathlib import Path

from apparel.generator.landing import landing_error, landing_folder
from apparel.generator.model import Stream
from lakelet.errors import LockError, SpecError
from lakelet.execution.lock import pipeline_lock
from lakelet.processes import is_alive

_STATE_FOLDERS = ("_auxiliary", "_checkpoints", "system")
_OUR_FOLDERS = {"Volumes", "tables", *_STATE_FOLDERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Doomed:
    """A folder that a reset empties, and what is in it."""

    path: Path
    files: int
    size_bytes: int


def plan_reset(storage: Path, *, tables: bool = False, landing: bool = False) -> tuple[Doomed, ...]:
    """Return the folders that a reset empties; refuse storage that is not ours or is in use.

    Args:
        storage: the storage root.
        tables: the pipeline's tables, checkpoints, auxiliary tables and event log.
        landing: the four landing streams.

    Raises:
        SpecError: APPAREL_STORAGE_UNKNOWN if the folder does not look like apparel storage.
        LockError: PIPELINE_LOCKED if a pipeline runs an update there.
    """
    _require_apparel_storage(storage)
    holder = lock_holder(storage)
    if holder is not None:
        raise LockError(
            "PIPELINE_LOCKED",
            f"a pipeline runs an update on `{storage}`",
            cause=f"`{storage / '_lock'}` is held by {holder}",
            hint="wait for the update or stop it; if that process is long gone, delete the lock file",
            retryable=True,
        )
    folders: list[Path] = []
    if landing:
        # Sales first: if a reset dies, no sale is left whose dimensions are gone.
        folders += [landing_folder(storage) / stream for stream in reversed(Stream)]
    if tables:
        folders += sorted(path for path in (storage / "tables" / "apparel_store").glob("*") if path.is_dir())
        folders += [storage / name for name in _STATE_FOLDERS]
    return tuple(_weigh(folder) for folder in folders if folder.is_dir() and any(folder.iterdir()))


def reset(storage: Path, plan: tuple[Doomed, ...]) -> None:
    """Empty the folders of a plan.

    Each is first moved aside in one step, so that no reader meets half a table; what an earlier reset that
    was killed has moved aside is deleted as well. State folders vanish, the others stay as empty folders.

    No update can start meanwhile: the reset holds the pipeline's lock.

    Raises:
        LockError: PIPELINE_LOCKED if a pipeline has started an update since the plan was made.
        LakeletError: LANDING_PERMISSION_DENIED, LANDING_WRITE_FAILED, STORAGE_NOT_WRITABLE.
    """
    trash = storage / "_trash"
    with pipeline_lock(storage / "_lock", pipeline="apparel reset"):
        try:
            trash.mkdir(exist_ok=True)
            for doomed in plan:
                doomed.path.rename(trash / uuid.uuid4().hex)
                if doomed.path.parent != storage:
                    doomed.path.mkdir()
            shutil.rmtree(trash)
        except OSError as error:
            raise landing_error(error, storage, "write") from error


def _require_apparel_storage(storage: Path) -> None:
    entries = {entry.name for entry in storage.iterdir()} if storage.is_dir() else set()
    foreign = sorted(name for name in entries - _OUR_FOLDERS if not name.startswith(("_", ".")))
    has_ours = landing_folder(storage).is_dir() or (storage / "tables" / "apparel_store").is_dir()
    if has_ours and not foreign:
        return
    if not storage.is_dir():
        cause = "there is no such folder"
    elif foreign:
        cause = f"it holds {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}"
    else:
        cause = "it holds neither tables/apparel_store nor Volumes/apparel_store"
    raise SpecError(
        "APPAREL_STORAGE_UNKNOWN",
        f"`{storage}` does not look like apparel storage, nothing was removed",
        cause=cause,
        hint="name the right folder with --storage or LAKELET_STORAGE",
    )


def _weigh(folder: Path) -> Doomed:
    sizes = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                sizes.append(Path(place, name).lstat().st_size)
    return Doomed(path=folder, files=len(sizes), size_bytes=sum(sizes))


def lock_holder(storage: Path) -> str | None:
    """Return who holds the pipeline's lock, or None.

    What a killed update leaves is a file that nobody holds any more: empty, or with a dead process of this host.
    Content that cannot be understood counts as held.
    """
    try:
        with (storage / "_lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            text = file.read()
        if not text:
            return None
        owner = json.loads(text)
        pid, host = int(owner["pid"]), str(owner["host"])
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return "a running process"
    except (OSError, ValueError, KeyError, TypeError):
        return "an unknown process"
    if host == socket.gethostname() and not is_alive(pid):
        return None
    return f"process {pid} on {host}"
