"""Where tables and checkpoints lie: folders of this machine, or keys of an object store behind the same methods.

An object store has no folders, no rename and no append. What is needed of it is that a key is written whole or not at all, that
a key which was written can be read and listed at once, and that a write can ask for the key to be new (`write_new`) or unchanged
(`write_over`). S3, Azure and Google Cloud Storage all promise that. Credentials come from the environment, under the names that
delta-rs and the embedded engine know, too: `AWS_*`, `AZURE_*`, `GOOGLE_*`.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss")
"""How the address of an object store begins."""

_REMOTE = re.compile(rf"({'|'.join(SCHEMES)})://[^/]+", re.IGNORECASE)


def is_remote(text: str) -> bool:
    """Return whether a location is an address in an object store."""
    return _REMOTE.match(text) is not None


def place(text: str) -> Place:
    """Return what a location names: a path of this machine, or a key of an object store."""
    return ObjectPath.of(text) if is_remote(text) else Path(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStatus:
    """What `stat` says of a key, under the names that it has for files.

    Attributes:
        st_ino: tells one content of the key from another.
        e_tag: by which S3 and Azure write on a condition.
        version: by which Google does; a listing does not have it.
    """

    st_size: int
    st_mtime_ns: int
    st_ino: int
    e_tag: str | None
    version: str | None

    @property
    def st_mtime(self) -> float:
        return self.st_mtime_ns / 1e9


@dataclass(frozen=True, slots=True, order=True)
class ObjectPath:
    """A key of an object store, or what would be a folder there: the beginning of keys.

    Attributes:
        root: scheme and bucket.
        key: below it; empty for all of it.
        listed: what a listing has said of the key.

    Every method raises OSError where the store cannot be reached or refuses.
    """

    root: str
    key: PurePosixPath
    listed: ObjectStatus | None = None

    @classmethod
    def of(cls, text: str) -> ObjectPath:
        found = _REMOTE.match(text)
        assert found is not None, text
        return cls(found[0], PurePosixPath(text[found.end() :].strip("/")))

    def __str__(self) -> str:
        return self.root if self._name == "." else f"{self.root}/{self._name}"

    def __truediv__(self, part: str) -> ObjectPath:
        return ObjectPath(self.root, self.key / part)

    def joinpath(self, *parts: str) -> ObjectPath:
        return ObjectPath(self.root, self.key.joinpath(*parts))

    def with_name(self, name: str) -> ObjectPath:
        return ObjectPath(self.root, self.key.with_name(name))

    @property
    def name(self) -> str:
        return self.key.name

    @property
    def stem(self) -> str:
        return self.key.stem

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.root, *self.key.parts)

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.root, self.key.parent)

    @property
    def _name(self) -> str:
        return str(self.key)

    @property
    def _prefix(self) -> str | None:
        return None if self._name == "." else f"{self._name}/"

    def stat(self) -> ObjectStatus:
        """Return size, time and identity of the key; FileNotFoundError if it is not there."""
        if self.listed is not None:
            return self.listed
        if self._prefix is None:
            raise FileNotFoundError(str(self))
        import obstore

        with _os_errors(self):
            return _status(obstore.head(_store(self.root), self._name))

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Return whether there is a key below."""
        import obstore

        with _os_errors(self):
            return any(obstore.list(_store(self.root), prefix=self._prefix, chunk_size=1))

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[ObjectPath]:
        import obstore

        with _os_errors(self):
            found = obstore.list_with_delimiter(_store(self.root), prefix=self._prefix)
        for prefix in found["common_prefixes"]:
            yield ObjectPath(self.root, PurePosixPath(prefix))
        for item in found["objects"]:
            yield ObjectPath(self.root, PurePosixPath(item["path"]), _status(item))

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Yield what matches the pattern; `*` stands for part of one name."""
        first, _, rest = pattern.partition("/")
        for item in self.iterdir():
            if fnmatch.fnmatchcase(item.name, first):
                if not rest:
                    yield item
                elif item.listed is None:
                    yield from item.glob(rest)

    def keys(self) -> list[ObjectPath]:
        """Return every key below, in order."""
        import obstore

        with _os_errors(self):
            found = [item for chunk in obstore.list(_store(self.root), prefix=self._prefix) for item in chunk]
        return sorted(ObjectPath(self.root, PurePosixPath(item["path"]), _status(item)) for item in found)

    def read_bytes(self) -> bytes:
        import obstore

        with _os_errors(self):
            return bytes(obstore.get(_store(self.root), self._name).bytes())

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        self._put(data, "overwrite")

    def write_new(self, data: bytes) -> ObjectStatus:
        """Write the key if it is not there; FileExistsError if it is."""
        self._put(data, "create")
        return self.stat()

    def write_over(self, data: bytes, known: ObjectStatus) -> ObjectStatus:
        """Write the key if it still is what `known` says; FileExistsError if somebody has written it since."""
        told = {"e_tag": known.e_tag, "version": known.version}
        self._put(data, {key: value for key, value in told.items() if value is not None})
        return self.stat()

    def _put(self, data: bytes, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _os_errors(self):
            try:
                obstore.put(_store(self.root), self._name, data, mode=mode)
            except (AlreadyExistsError, PreconditionError) as error:
                raise FileExistsError(str(self)) from error

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Do nothing: a folder is there as soon as something lies in it."""

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        if not missing_ok and not self.is_file():
            raise FileNotFoundError(str(self))
        # Google says of a key that it is not there; S3 does not.
        with contextlib.suppress(FileNotFoundError) if missing_ok else contextlib.nullcontext(), _os_errors(self):
            obstore.delete(_store(self.root), self._name)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Return a file that fetches what is read of it."""
        assert mode == "rb", mode
        return io.BufferedReader(_Fetched(self), buffer_size=256 * 1024)


class _Fetched(io.RawIOBase):
    """A key as a file to read."""

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        self._size = path.stat().st_size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        import obstore

        length = min(len(buffer), self._size - self._at)
        if length <= 0:
            return 0
        with _os_errors(self._path):
            store, key = _store(self._path.root), str(self._path.key)
            buffer[:length] = bytes(obstore.get_range(store, key, start=self._at, length=length))
        self._at += length
        return length


Place = Path | ObjectPath


def open_file(path: str) -> str | IO[bytes]:
    """Return what Parquet's reader takes: the path of a file of this machine as it is."""
    found = place(path)
    return path if isinstance(found, Path) else found.open("rb")


def remove_folder(folder: Place) -> None:
    """Remove a folder: nobody meets half of it, and what a removal that died has left goes with the next one."""
    if isinstance(folder, ObjectPath):
        for key in sorted(folder.keys(), key=_removal_order):
            key.unlink(missing_ok=True)
        return
    if folder.exists():
        folder.rename(folder.with_name(f".{folder.name}.removed-{uuid.uuid4().hex}"))
    for left in folder.parent.glob(f".{folder.name}.removed-*"):
        shutil.rmtree(left)


def sync(path: Path) -> None:
    """Wait until the disk has what a file holds, or which names a folder has; where folders can be waited for."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(file)


def _removal_order(key: ObjectPath) -> tuple[int, tuple[int, ...]]:
    """Return where a key stands among those that go with its folder, which cannot go in one step.

    A log goes first and its newest commit before the older ones, so that a table whose removal dies is whole in an older version;
    the number of a dataset's generation goes last, so that nothing of an older one is taken for the current one.
    """
    turned = tuple(-ord(char) for char in key.name)
    if key.parent.name == "_delta_log":
        return (0, turned)
    return (2 if key.name == "generation.json" else 1, turned)


def _status(found: Any) -> ObjectStatus:
    digest = hashlib.sha256(f"{found['e_tag']} {found['last_modified']}".encode()).hexdigest()
    return ObjectStatus(
        st_size=int(found["size"]),
        st_mtime_ns=int(found["last_modified"].timestamp() * 1e9),
        st_ino=int(digest[:12], 16),
        e_tag=found["e_tag"],
        version=found["version"],
    )


@functools.lru_cache(maxsize=64)
def _store(root: str) -> ObjectStore:
    from obstore.store import from_url

    return from_url(root)


@contextlib.contextmanager
def _os_errors(path: ObjectPath) -> Iterator[None]:
    """Translate what the store raises to what a file system would."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:  # of a key, or of the bucket
        raise FileNotFoundError(f"`{path}`: {str(error).strip().partition(chr(10))[0]}") from error
    except BaseError as error:
        raise OSError(f"`{path}`: {str(error).strip().partition(chr(10))[0]}") from error
