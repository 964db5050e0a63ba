"""What a flow has read and committed: small JSON files that a person can read and repair.

    <dataset>/generation.json          {"format": 1, "generation": g}: a full refresh moves every flow of the dataset to g + 1
    <dataset>/<flow>/<g>/offsets/<n>   the intent of batch n: exactly which input it reads, and its clock
    <dataset>/<flow>/<g>/commits/<n>   batch n is in the table
    <dataset>/definition.json          comment, properties and partitions that the table was given last
    <dataset>/<flow>/<g>/state.json    what an operator with state is: another one cannot go on with its rows
    <dataset>/<flow>/<g>/state/<name>  the rows that it remembers, Delta tables
    <dataset>/<flow>/<g>/sources/<s>   of a stream of files: which it has found
    <dataset>/view.json                of a materialized view: what its rows were computed from

An intent without a commit is an unfinished batch: it is replayed as recorded, never planned anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from lakelet.errors import StorageError

FORMAT = 1
KEEP_BATCHES = 20
"""How many finished batches stay on disk, for people to look at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The intent of one micro-batch.

    Attributes:
        at: stands in for `current_timestamp()` in the query, so that a replay computes the same rows.
        sources: per source id, the offsets between which it reads: {"start": …, "end": …}.
        versions: per location (relative to the storage folder if it is below it), the version at which a table beside the
            stream is read.
        state: of an operator with state: its watermark, and the versions of its tables before this batch.
    """

    id: int
    at: datetime
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "batch_id": self.id,
            "at": self.at.isoformat(),
            "sources": {key: dict(value) for key, value in self.sources.items()},
            "versions": dict(self.versions),
            **({"state": dict(self.state)} if self.state else {}),
        }


class Checkpoint:
    """The batches of one flow in one generation.

    Args:
        folder: of the dataset.
        flow: name of the flow.
    """

    def __init__(self, folder: Path, flow: str, generation: int) -> None:
        self.folder = folder / _file_name(flow) / str(generation)
        self.generation = generation
        self._offsets = self.folder / "offsets"
        self._commits = self.folder / "commits"
        self._offsets.mkdir(parents=True, exist_ok=True)
        self._commits.mkdir(parents=True, exist_ok=True)
        self._last_intent = _last_number(self._offsets)
        self._last_commit = _last_number(self._commits)

    @classmethod
    def existing(cls, folder: Path, flow: str) -> Checkpoint | None:
        """Return the checkpoint of the newest generation, None where the flow has none; writes nothing."""
        generation = read_generation(folder)
        if not (folder / _file_name(flow) / str(generation) / "commits").is_dir():
            return None
        return cls(folder, flow, generation)

    @property
    def committed_id(self) -> int:
        """The last finished batch, -1 for none."""
        return self._last_commit

    @property
    def next_id(self) -> int:
        return self._last_commit + 1

    def committed(self) -> Batch | None:
        """Return the last finished batch; the next plan starts at its ends."""
        return None if self._last_commit < 0 else self._read(self._last_commit)

    def details(self) -> dict[str, Any]:
        """Return what the note of the last finished batch says beside that it is done."""
        return {} if self._last_commit < 0 else read_json(self._commits / str(self._last_commit))

    def unfinished(self) -> Batch | None:
        """Return the batch that was begun and not finished, None if there is none."""
        return self._read(self._last_intent) if self._last_intent > self._last_commit else None

    def source_folder(self, source: str) -> Path:
        """Return where a source keeps what it needs beside the offsets, in this generation."""
        digest = hashlib.sha256(source.encode()).hexdigest()[:12]
        return self.folder / "sources" / f"{_file_name(source)[-60:].replace('%2f', '-')}-{digest}"

    def write_offsets(self, batch: Batch) -> None:
        """Record the intent, before anything is read."""
        write_json(self._offsets / str(batch.id), batch.to_json())
        self._last_intent = batch.id

    def write_commit(self, batch: Batch, details: Mapping[str, Any] | None = None) -> None:
        """Record that the batch is in the table, and forget batches long done."""
        write_json(self._commits / str(batch.id), {"format": FORMAT, **(details or {})})
        self._last_commit = batch.id
        old = batch.id - KEEP_BATCHES
        if old >= 0:
            (self._offsets / str(old)).unlink(missing_ok=True)
            (self._commits / str(old)).unlink(missing_ok=True)

    def _read(self, number: int) -> Batch:
        data = read_json(self._offsets / str(number))
        return Batch(
            id=int(data["batch_id"]),
            at=datetime.fromisoformat(data["at"]),
            sources=data["sources"],
            versions=data["versions"],
            state=data.get("state", {}),
        )


def read_generation(folder: Path) -> int:
    """Return the checkpoint generation of a dataset; 0 until its first full refresh."""
    path = folder / "generation.json"
    return int(read_json(path)["generation"]) if path.exists() else 0


def start_generation(folder: Path) -> int:
    """Begin a full refresh: from here on every flow of the dataset starts from nothing. Returns the new generation."""
    generation = read_generation(folder) + 1
    write_json(folder / "generation.json", {"format": FORMAT, "generation": generation})
    return generation


def drop_old_generations(folder: Path, generation: int) -> None:
    """Remove what flows noted in generations before the one that has just been refreshed."""
    if not folder.is_dir():
        return
    for flow in folder.iterdir():
        if flow.is_dir():
            for old in flow.iterdir():
                if old.name.isdigit() and int(old.name) < generation:
                    shutil.rmtree(old)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file that is either whole or not there, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file)
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


def read_json(path: Path) -> dict[str, Any]:
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
            hint="restore the file, or refresh the dataset from the start with `lakelet run --full-refresh <dataset>`",
        ) from error
    if not isinstance(written, int) or written > FORMAT:
        raise StorageError(
            "CHECKPOINT_TOO_NEW",
            f"the checkpoint file `{path}` was written by a newer lakelet (format {written})",
            hint="run the update with the newer version",
        )
    return dict(data)


def _last_number(folder: Path) -> int:
    return max((int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()), default=-1)


def _file_name(flow: str) -> str:
    return "".join(char if char.isalnum() or char in "-_." else f"~{ord(char):02x}" for char in flow)
