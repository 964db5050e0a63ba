"""Which files there are, and in which order a stream has found them.

A folder is listed anew only when its modification time says that it has changed. What has been found is kept in a log
beside the checkpoint, one line a file; a file's number is its line, and a stream's offset is the number up to which it has
read. So an intent that names two numbers names exactly the same files for ever.

    <checkpoint>/sources/<source>/start.json        number of the first file to read, if not 0
    <checkpoint>/sources/<source>/files/<n>.jsonl   ["path", bytes, modified ms] of the files from number n on
    <checkpoint>/sources/<source>/files/<n>.parquet the same, full and packed
"""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lakelet.errors import SourceError, StorageError
from lakelet.execution.checkpoint import FORMAT, read_json, write_json
from lakelet.execution.file_options import FileRead

SEGMENT_FILES = 10_000
"""Files in one segment of the log before it is packed."""
_SETTLED_SECONDS = 2.0
"""A folder changed this shortly before it was listed is listed again: its clock may be too coarse to show more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file as it was when it was found."""

    path: str
    size_bytes: int
    modified_at_ms: int


@dataclass(slots=True)
class _Folder:
    """A listing of one folder, whether it may be used again, and whether all of its files are noted."""

    modified_at_ns: int
    is_settled: bool
    files: list[str]
    folders: list[str]
    is_noted: bool = False


@dataclass(slots=True)
class Lister:
    """Finds the files of one read; keeps the listings of folders that have not changed since."""

    read: FileRead
    scan: Callable[[str], Iterator[os.DirEntry[str]]] = os.scandir
    clock: Callable[[], float] = time.time
    _folders: dict[str, _Folder] = field(default_factory=dict)

    def new_files(self, known: Callable[[str], int | None]) -> list[FoundFile]:
        """Return the files that are not known yet, oldest first; hidden ones (`_` and `.`) are none.

        Args:
            known: gives the modification time (ms) with which a path is known, None for one that is new.
        """
        overwrites = self.read.flag("allowoverwrites")
        after, before = self.read.instant("modifiedafter"), self.read.instant("modifiedbefore")
        found = []
        for path in self._paths():
            before_ms = known(path)
            if before_ms is not None and not overwrites:
                continue
            try:
                status = Path(path).stat()
            except FileNotFoundError:  # gone between listing and look: it never was there
                continue
            at_ms = status.st_mtime_ns // 1_000_000
            if before_ms is not None and at_ms <= before_ms:
                continue
            if (after is None or status.st_mtime > after) and (before is None or status.st_mtime < before):
                found.append(FoundFile(path=path, size_bytes=status.st_size, modified_at_ms=at_ms))
        return sorted(found, key=lambda file: (file.modified_at_ms, file.path))

    def noted(self) -> None:
        """Take note that all files found so far are in the log: folders that do not change have nothing new."""
        if not self.read.flag("allowoverwrites"):
            for listing in self._folders.values():
                listing.is_noted = listing.is_settled

    def _paths(self) -> Iterator[str]:
        pattern = self.read.options.get("pathglobfilter")
        matches = re.compile(_glob_pattern(pattern)).fullmatch if pattern else None
        seen: set[str] = set()
        for root in roots(self.read.path):
            every = [root] if Path(root).is_file() else self._below(root)
            for path in every:
                if path not in seen and (matches is None or matches(path.rpartition("/")[2])):
                    seen.add(path)
                    yield path

    def _below(self, root: str) -> Iterator[str]:
        deep = self.read.auto_loader or self.read.flag("recursivefilelookup")
        todo = [root]
        while todo:
            folder = todo.pop()
            listing = self._listing(folder)
            if listing is None:
                continue
            if not listing.is_noted:
                yield from (f"{folder}/{name}" for name in listing.files)
            todo += [f"{folder}/{name}" for name in listing.folders if deep or "=" in name]

    def _listing(self, folder: str) -> _Folder | None:
        try:
            modified_at_ns = Path(folder).stat().st_mtime_ns
            cached = self._folders.get(folder)
            if cached is not None and cached.is_settled and cached.modified_at_ns == modified_at_ns:
                return cached
            files: list[str] = []
            folders: list[str] = []
            with self.scan(folder) as entries:  # type: ignore[attr-defined]
                for entry in entries:
                    if not entry.name.startswith(("_", ".")):
                        (folders if entry.is_dir() else files).append(entry.name)
        except FileNotFoundError:  # removed while we look
            return None
        except OSError as error:
            raise SourceError(
                "PATH_NOT_READABLE",
                f"`{folder}` cannot be listed",
                cause=str(error),
                hint="check the owner and the permissions of the folder",
            ) from error
        is_settled = self.clock() - modified_at_ns / 1e9 > _SETTLED_SECONDS
        self._folders[folder] = _Folder(modified_at_ns, is_settled, sorted(files), sorted(folders))
        return self._folders[folder]


def roots(path: str) -> list[str]:
    """Return what a path with wildcards (`*`, `?`, `[…]`, `{a,b}`) means now."""
    found: dict[str, None] = {}
    for plain in _alternatives(path.rstrip("/") or "/"):
        matches = sorted(glob.glob(plain)) if glob.has_magic(plain) else [plain]
        found.update(dict.fromkeys(match for match in matches if Path(match).exists()))
    return list(found)


def fixed_part(path: str) -> str:
    """Return the folder above the first wildcard, or the path itself."""
    parts = path.rstrip("/").split("/")
    first = next((n for n, part in enumerate(parts) if any(char in part for char in "*?[{")), len(parts))
    return "/".join(parts[:first]) or "/"


def _alternatives(path: str) -> list[str]:
    found = re.search(r"\{([^{}]*)\}", path)
    if found is None:
        return [path]
    return [
        plain
        for choice in found.group(1).split(",")
        for plain in _alternatives(path[: found.start()] + choice + path[found.end() :])
    ]


def _glob_pattern(pattern: str) -> str:
    return "|".join(fnmatch.translate(plain) for plain in _alternatives(pattern))


class FileLog:
    """The files that one stream has found, numbered from 0 in the order in which they were found.

    Args:
        relative, absolute: shorten a path for the log, and back; the storage folder may be moved between two updates.
    """

    def __init__(self, folder: Path, *, relative: Callable[[str], str], absolute: Callable[[str], str]) -> None:
        self._root = folder
        self._folder = folder / "files"
        self._relative, self._absolute = relative, absolute
        self._known: dict[str, int] = {}
        self._first = 0
        self._count = 0
        self._lock = threading.RLock()  # a continuous update notes files while a flow reads the list
        self._load()

    def __len__(self) -> int:
        """Return the number that the next file gets."""
        return self._first + self._count

    def known(self, path: str) -> int | None:
        """Return the modification time (ms) with which a file was found last, None if it was not."""
        return self._known.get(self._relative(path))

    @property
    def is_new(self) -> bool:
        return len(self) == 0 and not (self._root / "start.json").exists()

    @property
    def start(self) -> int:
        """The number of the first file to read."""
        path = self._root / "start.json"
        return int(read_json(path)["sequence"]) if path.exists() else 0

    def begin_at(self, sequence: int) -> None:
        """Leave out the files before a number for good; noted before they are found, so that a crash changes nothing."""
        write_json(self._root / "start.json", {"format": FORMAT, "sequence": sequence})

    def append(self, files: Sequence[FoundFile]) -> None:
        """Note found files; they are on disk when this returns.

        Raises:
            StorageError: `CHECKPOINT_NOT_WRITABLE`.
        """
        with self._lock:
            for start in range(0, len(files), SEGMENT_FILES):
                self._append(files[start : start + SEGMENT_FILES])

    def _append(self, files: Sequence[FoundFile]) -> None:
        try:
            if self._count >= SEGMENT_FILES:
                self._pack()
            self._folder.mkdir(parents=True, exist_ok=True)
            rows = [(self._relative(file.path), file.size_bytes, file.modified_at_ms) for file in files]
            with self._segment(self._first, "jsonl").open("a", encoding="ascii") as out:
                out.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise StorageError(
                "CHECKPOINT_NOT_WRITABLE",
                f"the list of files at `{self._folder}` cannot be written",
                cause=str(error),
                hint="free some space or mend the folder's permissions, then run the update again",
            ) from error
        self._known.update({path: at_ms for path, _, at_ms in rows})
        self._count += len(rows)

    def files(self, start: int, end: int) -> list[FoundFile]:
        """Return the files with numbers from `start` up to, not including, `end`.

        Raises:
            StorageError: `CHECKPOINT_CORRUPT` if the log does not have them.
        """
        with self._lock:
            return self._between(start, end)

    def _between(self, start: int, end: int) -> list[FoundFile]:
        found: list[FoundFile] = []
        firsts = sorted(self._segments())
        for position, first in enumerate(firsts):
            following = firsts[position + 1] if position + 1 < len(firsts) else len(self)
            if first < end and following > start:
                rows = self._rows(first)[max(0, start - first) : end - first]
                found += [
                    FoundFile(path=self._absolute(path), size_bytes=size, modified_at_ms=at_ms)
                    for path, size, at_ms in rows
                ]
        if len(found) != max(0, end - start):
            raise self._corrupt(f"it has {len(found)} of the files {start} to {end}")
        return found

    def _load(self) -> None:
        segments = self._segments()
        for first in sorted(segments):
            if first != self._first + self._count:
                raise self._corrupt(f"the files from number {self._first + self._count} on are missing")
            rows = self._rows(first, mend=True)
            self._known.update({path: at_ms for path, _, at_ms in rows})
            self._first, self._count = first, len(rows)
        if segments and segments[max(segments)].suffix == ".parquet":
            self._first, self._count = self._first + self._count, 0

    def _segments(self) -> dict[int, Path]:
        """Return the files of the log by their first number; a packed one wins over the one that it was made from."""
        if not self._folder.is_dir():
            return {}
        found: dict[int, Path] = {}
        for path in sorted(self._folder.iterdir()):  # .jsonl before .parquet
            if path.suffix in (".jsonl", ".parquet") and path.stem.isdigit():
                found[int(path.stem)] = path
        return found

    def _rows(self, first: int, *, mend: bool = False) -> list[tuple[str, int, int]]:
        path = self._segments()[first]
        try:
            if path.suffix == ".parquet":
                columns = pq.read_table(path).to_pydict()
                return list(zip(columns["path"], columns["bytes"], columns["modified_ms"], strict=True))
            text = path.read_text("ascii")
            whole = text[: text.rfind("\n") + 1]
            if mend and len(whole) < len(text):  # the process died while it wrote; no intent names such a file
                os.truncate(path, len(whole))
            return [(str(name), int(size), int(at_ms)) for name, size, at_ms in map(json.loads, whole.splitlines())]
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise self._corrupt(f"{path.name}: {error}") from error

    def _pack(self) -> None:
        rows = self._rows(self._first)
        packed = self._segment(self._first, "parquet")
        names, sizes, times = zip(*rows, strict=True)
        table = pa.table({"path": pa.array(names, pa.string()), "bytes": sizes, "modified_ms": times})
        temporary = packed.with_name(f".{packed.name}.tmp")
        pq.write_table(table, temporary, compression="zstd")
        temporary.replace(packed)
        self._segment(self._first, "jsonl").unlink()
        self._first, self._count = self._first + self._count, 0

    def _segment(self, first: int, suffix: str) -> Path:
        return self._folder / f"{first:012d}.{suffix}"

    def _corrupt(self, cause: str) -> StorageError:
        return StorageError(
            "CHECKPOINT_CORRUPT",
            f"the list of files at `{self._folder}` cannot be read",
            cause=cause,
            hint="restore the folder, or start the dataset anew with `lakelet reset <dataset>`",
        )
