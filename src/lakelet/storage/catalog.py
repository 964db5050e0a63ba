"""Where things lie in a pipeline's storage folder.

<storage>/tables/<catalog>/<schema>/<name>        a dataset's Delta table
<storage>/_private/<catalog>/<schema>/<name>      a private dataset's: no other pipeline finds it by name
<storage>/Volumes/<catalog>/<schema>/<volume>     files, known to pipeline code as /Volumes/…
<storage>/_auxiliary/<catalog>/<schema>/<name>    what AUTO CDC remembers about a target
<storage>/_checkpoints/<catalog>/<schema>/<name>  what each flow has read and committed
<storage>/_files                                  rows of files that a cluster has parsed for queries under way
<storage>/system                                  the event log
<storage>/_lock                                   the process that runs an update
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlparse

from lakelet.errors import DefinitionError, SourceError
from lakelet.graph.elements import Dataset
from lakelet.names import TableName
from lakelet.places import SCHEMES, ObjectPath, Place, is_remote


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Maps dataset names and the paths that pipeline code uses to places.

    Attributes:
        storage: the pipeline's storage folder, absolute; or where it begins in an object store.
        root: the folder of the project file; relative paths start there.
        tables: locations of external tables and of datasets with a `path`, by folded name.
    """

    storage: Place
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

    def checkpoint(self, name: TableName) -> Place:
        return self._below("_checkpoints", name)

    def _below(self, folder: str, name: TableName) -> Place:
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
    def system(self) -> Place:
        return self.storage / "system"

    @property
    def journal(self) -> Path:
        """The folder of the events as they happen, line by line; beside the project where the storage cannot append to a file."""
        if isinstance(self.storage, ObjectPath):
            return self.root / ".lakelet" / hashlib.sha256(str(self.storage).encode()).hexdigest()[:12] / "updates"
        return self.storage / "system" / "updates"

    @property
    def lock(self) -> Place:
        return self.storage / "_lock"

    def relative(self, location: str) -> str:
        """Return a location without the storage folder, which may be moved between two updates."""
        return location.removeprefix(f"{self.storage}/") if location.startswith(f"{self.storage}/") else location

    def absolute(self, text: str) -> str:
        """Return the location that `relative` has shortened."""
        return text if text.startswith("/") or is_remote(text) else str(self.storage / text)

    def path(self, text: str) -> str:
        """Return the place that pipeline code means by `text`.

        `/Volumes/…` lies in the storage, addresses in object stores stand for themselves, `dbfs:` and `file:` prefixes are
        dropped, and a relative path starts at the project file.

        Raises:
            SourceError: `UNSUPPORTED_FILE_SYSTEM` for other schemes.
        """
        if is_remote(text):
            return str(ObjectPath.of(text))
        parsed = urlparse(text)
        if parsed.scheme and parsed.scheme not in ("file", "dbfs"):
            raise SourceError(
                "UNSUPPORTED_FILE_SYSTEM",
                f"`{text}` is on a file system that is not known",
                cause=f"known are local paths and addresses that begin with {', '.join(f'`{name}://`' for name in SCHEMES)}",
                hint="copy the data below the storage folder and read it as /Volumes/<catalog>/<schema>/<volume>/…",
            )
        plain = unquote(parsed.path) if parsed.scheme else text
        if plain == "/Volumes" or plain.startswith("/Volumes/"):
            return str(self.storage) + plain
        path = Path(plain)
        return str(path if path.is_absolute() else self.root / path)
