"""Where things lie in a pipeline's storage folder.

<storage>/tables/<catalog>/<schema>/<name>        a dataset's Delta table
<storage>/_private/<catalog>/<schema>/<name>      a private dataset's: no other pipeline finds it by name
<storage>/Volumes/<catalog>/<schema>/<volume>     files, known to pipeline code as /Volumes/…
<storage>/_auxiliary/<catalog>/<schema>/<name>    what AUTO CDC remembers about a target
<storage>/_checkpoints/<catalog>/<schema>/<name>  what each flow has read and committed
<storage>/system                                  the event log
<storage>/_lock                                   the process that runs an update
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlparse

from lakelet.errors import DefinitionError, SourceError
from lakelet.graph.elements import Dataset
from lakelet.names import TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Maps dataset names and the paths that pipeline code uses to local paths.

    Attributes:
        storage: the pipeline's storage folder, absolute.
        root: the folder of the project file; relative paths start there.
        tables: locations of external tables and of datasets with a `path`, by folded name.
    """

    storage: Path
    root: Path
    tables: Mapping[tuple[str, str, str], str] = field(default_factory=dict)

    def holding(self, datasets: Iterable[Dataset]) -> Self:
        """Return the catalog with the places of datasets that lie elsewhere than their name says: own path, private."""
        own = {dataset.name.key: self.path(dataset.path) for dataset in datasets if dataset.path}
        private = {dataset.name.key: self.private(dataset.name) for dataset in datasets if dataset.private}
        return replace(self, tables={**private, **own})

    def location(self, name: TableName) -> str:
        """Return the folder of a table's data."""
        return self.tables.get(name.key) or str(self._below("tables", name))

    def private(self, name: TableName) -> str:
        """Return the folder of a dataset that only its own pipeline sees."""
        return str(self._below("_private", name))

    def auxiliary(self, name: TableName) -> str:
        return str(self._below("_auxiliary", name))

    def checkpoint(self, name: TableName) -> Path:
        return self._below("_checkpoints", name)

    def _below(self, folder: str, name: TableName) -> Path:
        parts = (name.catalog, name.schema, name.name)
        if any("/" in part or part in (".", "..") for part in parts):
            raise DefinitionError(
                "INVALID_IDENTIFIER",
                f"`{name}` cannot be the name of a table",
                cause="its parts are the names of folders in the storage",
                hint="leave out the slash, or read files by path: `spark.read.format(…).load(path)`",
            )
        return self.storage.joinpath(folder, *parts)

    @property
    def system(self) -> Path:
        return self.storage / "system"

    @property
    def lock(self) -> Path:
        return self.storage / "_lock"

    def relative(self, location: str) -> str:
        """Return a location without the storage folder, which may be moved between two updates."""
        return location.removeprefix(f"{self.storage}/") if location.startswith(f"{self.storage}/") else location

    def absolute(self, text: str) -> str:
        """Return the location that `relative` has shortened."""
        return text if text.startswith("/") else str(self.storage / text)

    def path(self, text: str) -> str:
        """Return the local path that pipeline code means by `text`.

        `/Volumes/…` lies in the storage folder, `dbfs:` and `file:` prefixes are dropped, and a relative path starts at the
        project file.

        Raises:
            SourceError: `UNSUPPORTED_FILE_SYSTEM` for other schemes.
        """
        parsed = urlparse(text)
        if parsed.scheme and parsed.scheme not in ("file", "dbfs"):
            raise SourceError(
                "UNSUPPORTED_FILE_SYSTEM",
                f"`{text}` is not on the local file system",
                cause=f"the embedded engine reads local paths only, not `{parsed.scheme}:`",
                hint="copy the data below the storage folder and read it as /Volumes/<catalog>/<schema>/<volume>/…",
            )
        plain = unquote(parsed.path) if parsed.scheme else text
        if plain == "/Volumes" or plain.startswith("/Volumes/"):
            return str(self.storage) + plain
        path = Path(plain)
        return str(path if path.is_absolute() else self.root / path)


def remove_folder(folder: Path) -> None:
    """Remove a folder in one step: nobody meets half of it, and what a removal that died has left goes with the next one."""
    if folder.exists():
        folder.rename(folder.with_name(f".{folder.name}.removed-{uuid.uuid4().hex}"))
    for left in folder.parent.glob(f".{folder.name}.removed-*"):
        shutil.rmtree(left)
