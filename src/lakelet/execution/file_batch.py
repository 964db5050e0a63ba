"""Files read as a table by the runtime, where the engine's own reader fails or ignores what is asked."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import deque
from pathlib import Path

import pyarrow as pa

from lakelet.engine.base import EngineCapabilities
from lakelet.execution.file_discovery import Lister
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_parsing import FileParser
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.file_source import rows_of
from lakelet.execution.slices import METADATA_TYPE
from lakelet.plan.metadata import METADATA
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf

_OWN_OPTIONS = {
    "mode", "columnnameofcorruptrecord", "rescueddatacolumn", "pathglobfilter", "modifiedafter", "modifiedbefore",
    "recursivefilelookup", "ignorecorruptfiles", "ignoremissingfiles",
}  # fmt: skip
"""Options that the embedded engine fails on or does not heed."""
_KEPT_FOLDERS = 32
"""Reads whose rows stay on disk: more than flows can be running at once."""
_FOLDERS: deque[Path] = deque()


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


def read_batch(read: FileRead, schemas: FileSchemas, *, metadata: bool) -> Relation:
    """Return the rows of all files that are there now."""
    parser = FileParser(read, schemas.fresh(read), metadata)
    schema = parser.columns.arrow()
    if metadata:
        schema = schema.append(pa.field(METADATA, METADATA_TYPE))
    tables = (table for file in Lister(read).new_files(lambda path: None) for table in parser.tables(file))
    folder = Path(tempfile.mkdtemp(prefix="lakelet-files-"))
    _FOLDERS.append(folder)
    while len(_FOLDERS) > _KEPT_FOLDERS:
        shutil.rmtree(_FOLDERS.popleft(), ignore_errors=True)
    return rows_of(tables, schema, folder / "staged")


@atexit.register
def _remove_folders() -> None:
    for folder in _FOLDERS:
        shutil.rmtree(folder, ignore_errors=True)
