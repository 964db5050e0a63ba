"""Files read as a table by the runtime, where the engine's own reader fails or ignores what is asked."""

from __future__ import annotations

import atexit
import contextlib
import tempfile
import time
import uuid
from collections import deque
from pathlib import Path

from lakelet.engine.base import EngineCapabilities
from lakelet.execution.file_cluster import FileCluster
from lakelet.execution.file_discovery import Lister
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_parsing import FileParser
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.file_source import rows_here
from lakelet.places import Place, place, remove_folder
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf

_OWN_OPTIONS = {
    "mode", "columnnameofcorruptrecord", "rescueddatacolumn", "pathglobfilter", "modifiedafter", "modifiedbefore",
    "recursivefilelookup", "ignorecorruptfiles", "ignoremissingfiles",
}  # fmt: skip
"""Options that the embedded engine fails on or does not heed."""
_KEPT_FOLDERS = 32
"""Reads whose rows stay on disk: more than flows can be running at once."""
_FOLDERS: deque[str] = deque()
SHARED_FOLDER = "_files"
"""Of the storage: rows of files that a cluster has parsed, for queries that read them as a table."""
_LEFT_SECONDS = 86_400


def needs_own_reader(leaf: Leaf, can: EngineCapabilities) -> bool:
    """Return whether the engine would read these files in another way than Spark or Databricks, or not at all.

    Of Parquet Sail reads whole folders well; it takes values in paths for text, and files of any folder below for data. Spark
    has no reader of Avro unless a library brings it, and no rescued data.
    """
    if can.file_readers:
        return leaf.format == "avro" or "rescueddatacolumn" in leaf.options
    if len(leaf.paths) != 1:
        return False
    if leaf.format == "parquet":
        return bool(_OWN_OPTIONS & leaf.options.keys()) or "{" in leaf.paths[0]
    return leaf.format in ("json", "csv", "orc", "avro", "text", "binaryfile")


def has_folders(path: str) -> bool:
    """Return whether there are folders below a folder, other than hidden ones."""
    folder = Path(path)
    return folder.is_dir() and any(
        entry.is_dir() and not entry.name.startswith(("_", ".")) for entry in folder.iterdir()
    )


def read_batch(read: FileRead, schemas: FileSchemas, cluster: FileCluster, *, metadata: bool) -> Relation:
    """Return the rows of all files that are there now."""
    parser = FileParser(read, schemas.fresh(read), metadata)
    files = Lister(read).new_files(lambda path: None)
    if cluster.is_there:
        rows = cluster.rows(files, parser, place(_kept(_shared_folder(schemas.catalog.storage))))
        if rows is not None:
            return rows
    return rows_here(files, parser, Path(_kept(tempfile.mkdtemp(prefix="lakelet-files-"))) / "staged")


def _shared_folder(storage: Place) -> str:
    """Return a folder that a cluster can write; what a process has left there that died is removed a day later."""
    shared, now = storage / SHARED_FOLDER, int(time.time())
    for left in shared.iterdir() if shared.is_dir() else ():
        began = left.name.partition("-")[0]
        if began.isdigit() and now - int(began) > _LEFT_SECONDS:
            _remove(str(left))
    return str(shared / f"{now}-{uuid.uuid4().hex}")


def _kept(folder: str) -> str:
    """Take note of a folder that is removed when as many others are there as flows can be running, or with this process."""
    _FOLDERS.append(folder)
    while len(_FOLDERS) > _KEPT_FOLDERS:
        _remove(_FOLDERS.popleft())
    return folder


def _remove(folder: str) -> None:
    with contextlib.suppress(OSError):
        remove_folder(place(folder))


@atexit.register
def _remove_folders() -> None:
    for folder in _FOLDERS:
        _remove(folder)
