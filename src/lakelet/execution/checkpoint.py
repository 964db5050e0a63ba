"""What a flow has read and committed: small JSON files that a person can read and repair.

    <dataset>/generation.json          {"format": 1, "generation": g}: a full refresh moves every flow of the dataset to g + 1
    <dataset>/<flow>/resets.json       how often the flow's own checkpoint was reset in a generation: its epoch is then g.r, not g
    <dataset>/<flow>/<g>/offsets/<n>   the intent of batch n: exactly which input it reads, and its clock
    <dataset>/<flow>/<g>/commits/<n>   batch n is in the table
    <dataset>/definition.json          where the table is; comment, properties and partitions that it was given last
    <dataset>/<flow>/<g>/query.json    a digest of the query, to notice that it has changed
    <dataset>/<flow>/<g>/finished.json   a `once` flow has read what there was
    <dataset>/<flow>/<g>/auto_cdc.json   of an AUTO CDC flow: how it treats NULLs, for a warning when that changes
    <dataset>/<flow>/<g>/state.json    what an operator with state is: another one cannot go on with its rows
    <dataset>/<flow>/<g>/state/<name>  the rows that it remembers, Delta tables
    <dataset>/<flow>/<g>/staged        where a cluster computes: the rows that the operator reads in the batch under way
    <dataset>/<flow>/<g>/staged.json   of which batch and query these rows are
    <dataset>/<flow>/<g>/sink.json     of a flow into a sink: what it is called there
    <dataset>/<flow>/<g>/sink_batch.json   of a flow into files: those of the last batch, and where they were written aside
    <dataset>/<flow>/<g>/sources/<s>   of a stream of files: which it has found
    <dataset>/view.json                of a materialized view: what its rows were computed from
    <dataset>/view_intent.json         of a materialized view: what the refresh under way, or the last one, reads
    <dataset>/view_state               of a materialized view: partial values of its groups, a Delta table

An intent without a commit is an unfinished batch: it is replayed as recorded, never planned anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from lakelet.errors import StorageError
from lakelet.faults import reach
from lakelet.places import ObjectPath, Place, remove_folder
from lakelet.storage.catalog import Catalog

STAGED = "staged"
"""Folder beside a checkpoint for files that a batch needs only while it runs."""
FORMAT = 1
KEEP_BATCHES = 20
"""How many finished batches stay on disk where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The intent of one micro-batch.

    Attributes:
        at: stands in for `current_timestamp()` in the query, so that a replay computes the same rows.
        sources: per source id, the offsets between which it reads: {"start": …, "end": …}.
        tables: per source id that is a table, its location, written as in `versions`.
        versions: per location (relative to the storage folder if it is below it), the version at which a table beside the
            stream is read.
        state: of an operator with state: its watermark, and the versions of its tables before this batch.
    """

    id: int
    at: datetime
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "batch_id": self.id,
            "at": self.at.isoformat(),
            "sources": {key: dict(value) for key, value in self.sources.items()},
            **({"tables": dict(self.tables)} if self.tables else {}),
            "versions": dict(self.versions),
            **({"state": dict(self.state)} if self.state else {}),
        }


class Checkpoint:
    """The batches of one flow in one epoch: since the last full refresh of its dataset, or the last reset of its checkpoint.

    Args:
        folder: of the dataset.
        flow: name of the flow.
        keep: how many finished batches stay on disk, for people to look at.
    """

    def __init__(self, folder: Place, flow: str, generation: int, *, keep: int = KEEP_BATCHES) -> None:
        own = folder / file_name(flow)
        self.epoch = current_epoch(own, generation)
        self.folder = own / self.epoch
        self.generation = generation
        self._offsets = self.folder / "offsets"
        self._commits = self.folder / "commits"
        self._offsets.mkdir(parents=True, exist_ok=True)
        self._commits.mkdir(parents=True, exist_ok=True)
        intents, commits = _numbers(self._offsets), _numbers(self._commits)
        self._last_intent = max(intents, default=-1)
        self._last_commit = _last_whole(self._commits, commits)
        self._oldest = min(intents + commits, default=0)
        self._keep = keep

    @classmethod
    def existing(cls, folder: Place, flow: str) -> Checkpoint | None:
        """Return the checkpoint of the newest generation, None where the flow has none; writes nothing."""
        generation = read_generation(folder)
        own = folder / file_name(flow)
        if not (own / current_epoch(own, generation) / "commits").is_dir():
            return None
        return cls(folder, flow, generation)

    @property
    def committed_id(self) -> int:
        """The last finished batch, -1 for none."""
        return self._last_commit

    @property
    def next_id(self) -> int:
        return self._last_commit + 1

    @property
    def is_finished(self) -> bool:
        """Whether a `once` flow has read what there was."""
        return (self.folder / "finished.json").is_file()

    def finish(self) -> None:
        """Record that a `once` flow has read what there was."""
        write_json(self.folder / "finished.json", {"format": FORMAT})

    def committed(self) -> Batch | None:
        """Return the last finished batch; the next plan starts at its ends."""
        return None if self._last_commit < 0 else self._read(self._last_commit)

    def details(self) -> dict[str, Any]:
        """Return what the note of the last finished batch says beside that it is done."""
        return {} if self._last_commit < 0 else read_json(self._commits / str(self._last_commit))

    def amend(self, details: Mapping[str, Any]) -> None:
        """Change what the note of the last finished batch says."""
        write_json(self._commits / str(self._last_commit), {**self.details(), **details})

    def unfinished(self) -> Batch | None:
        """Return the batch that was begun and not finished, None if there is none."""
        return self._read(self._last_intent) if self._last_intent > self._last_commit else None

    def source_folder(self, source: str) -> Place:
        """Return where a source keeps what it needs beside the offsets, in this generation."""
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        return self.folder / "sources" / f"{file_name(source)[-60:].replace('%2f', '-')}-{digest}"

    def write_offsets(self, batch: Batch) -> None:
        """Record the intent, before anything is read."""
        write_json(self._offsets / str(batch.id), batch.to_json())
        self._last_intent = batch.id

    def write_commit(self, batch: Batch, details: Mapping[str, Any] | None = None, *, durable: bool = True) -> None:
        """Record that the batch is in the table, and forget batches long done.

        Args:
            durable: wait until the disk has it; not needed where the receipt of the batch tells the same.
        """
        write_json(self._commits / str(batch.id), {"format": FORMAT, **(details or {})}, durable=durable)
        self._last_commit = batch.id
        while self._oldest <= batch.id - self._keep:
            (self._offsets / str(self._oldest)).unlink(missing_ok=True)
            reach("checkpoint.intent_forgotten")
            (self._commits / str(self._oldest)).unlink(missing_ok=True)
            self._oldest += 1

    def _read(self, number: int) -> Batch:
        return _read_batch(self._offsets / str(number))


def _read_batch(path: Place) -> Batch:
    data = read_json(path)
    return Batch(
        id=int(data["batch_id"]),
        at=datetime.fromisoformat(data["at"]),
        sources=data["sources"],
        tables=data.get("tables", {}),
        versions=data["versions"],
        state=data.get("state", {}),
    )


def checkpoint_folders(catalog: Catalog) -> list[Place]:
    """Return the folders of all datasets that have run in a storage folder, those that are no longer declared among them."""
    found = (catalog.storage / "_checkpoints").glob("*/*/*")
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))


def batches_in_use(folder: Place, generation: int) -> Iterator[tuple[Place, Batch | None, Batch | None]]:
    """Yield the flows that have a checkpoint in a dataset's folder: their own one, last finished batch, batch under way."""
    for flow in _flow_folders(folder):
        path = flow / current_epoch(flow, generation) / "offsets"
        if not path.is_dir():
            continue
        commits = path.with_name("commits")
        intent, commit = _last_number(path), _last_whole(commits, _numbers(commits))
        committed = None if commit < 0 else _read_batch(path / str(commit))
        yield path.parent, committed, _read_batch(path / str(intent)) if intent > commit else None


def read_generation(folder: Place) -> int:
    """Return the checkpoint generation of a dataset; 0 until its first full refresh."""
    path = folder / "generation.json"
    return int(read_json(path)["generation"]) if path.is_file() else 0


def start_generation(folder: Place) -> int:
    """Begin a full refresh: from here on every flow of the dataset starts from nothing. Returns the new generation."""
    generation = read_generation(folder) + 1
    write_json(folder / "generation.json", {"format": FORMAT, "generation": generation})
    return generation


def current_epoch(flow: Place, generation: int) -> str:
    """Return the name of a flow's folder, and the last part of the id of its receipts: `g`, after r resets `g.r`."""
    resets = _resets(flow, generation)
    return f"{generation}.{resets}" if resets else str(generation)


def epochs(folder: Place, flow: str, generation: int) -> tuple[str, ...]:
    """Return every epoch that a flow of a dataset has had in a generation, the current one last."""
    resets = _resets(folder / file_name(flow), generation)
    return (str(generation), *(f"{generation}.{number}" for number in range(1, resets + 1)))


def _resets(flow: Place, generation: int) -> int:
    path = flow / "resets.json"
    if not path.is_file():
        return 0
    found = read_json(path)
    return int(found["resets"]) if found["generation"] == generation else 0


def start_epoch(folder: Place, flow: str, generation: int) -> str:
    """Reset the checkpoint of one flow: from here on it starts from nothing, and its table keeps its rows.

    Returns the new epoch. One file is written, so it has happened or it has not.
    """
    own = folder / file_name(flow)
    write_json(
        own / "resets.json",
        {"format": FORMAT, "generation": generation, "resets": _resets(own, generation) + 1},
    )
    drop_old_epochs(folder, generation)
    return current_epoch(own, generation)


def drop_old_epochs(folder: Place, generation: int) -> None:
    """Remove what the flows of a dataset noted in generations and epochs that are over."""
    for flow in _flow_folders(folder):
        now = current_epoch(flow, generation)
        for old in flow.iterdir():
            if old.is_dir() and old.name != now:
                remove_folder(old)


def _flow_folders(folder: Place) -> list[Place]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def write_json(path: Place, value: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write a file that is either whole or not there, whatever happens in between.

    Args:
        durable: without it, it may also be empty after a loss of power.
    """
    try:
        if isinstance(path, ObjectPath):
            path.write_bytes(json.dumps(value).encode())
            return
        temporary = path.with_name(f".{path.name}.tmp")
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(value))
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StorageError(
            "CHECKPOINT_NOT_WRITABLE",
            f"the checkpoint file `{path}` cannot be written",
            cause=str(error),
            hint="free some space or mend the folder's permissions, then run the update again",
        ) from error


def read_json(path: Place) -> dict[str, Any]:
    """Read a checkpoint file.

    Raises:
        StorageError: `CHECKPOINT_CORRUPT` for a file that is not ours or not whole, `CHECKPOINT_TOO_NEW` for a later format.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        written = data["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            "CHECKPOINT_CORRUPT",
            f"the checkpoint file `{path}` cannot be read",
            cause=f"{type(error).__name__}: {error}",
            hint="restore the file, or start the dataset anew with `lakelet reset <dataset>`",
        ) from error
    if not isinstance(written, int) or written > FORMAT:
        raise StorageError(
            "CHECKPOINT_TOO_NEW",
            f"the checkpoint file `{path}` was written by a newer lakelet (format {written})",
            hint="run the update with the newer version",
        )
    return dict(data)


def read_derived(path: Place) -> dict[str, Any]:
    """Read a file that only says what else could be found out again; one that is missing or not whole says nothing.

    Raises:
        StorageError: `CHECKPOINT_TOO_NEW`.
    """
    try:
        return read_json(path) if path.is_file() else {}
    except StorageError as error:
        if error.condition != "CHECKPOINT_CORRUPT":
            raise
        return {}


def _numbers(folder: Place) -> list[int]:
    if not folder.is_dir():  # of a flow that is just making its folders, or was killed there
        return []
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()]


def _last_number(folder: Place) -> int:
    return max(_numbers(folder), default=-1)


def _last_whole(folder: Place, numbers: list[int]) -> int:
    """Return the last number whose file is not empty: an empty one is a note that a loss of power has cut off."""
    for number in sorted(numbers, reverse=True):
        if (folder / str(number)).stat().st_size:
            return number
    return -1


def file_name(flow: str) -> str:
    """Return the name of a flow as the name of its folder."""
    return "".join(char if char.isalnum() or char in "-_." else f"~{ord(char):02x}" for char in flow)


def flow_name(folder: str) -> str:
    """Return the flow whose folder has this name; characters beyond the Latin ones that are no letters stay encoded."""
    return re.sub(r"~([2-7][0-9a-f])", lambda found: chr(int(found[1], 16)), folder)
