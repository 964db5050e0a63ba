"""A storage root on disk, a landing zone in memory, and one fixed moment."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable

from apparel.generator.landing import DeltaLanding, Landing, LandingChangedError, StreamState, landing_folder
from apparel.generator.model import DIMENSIONS, Stream
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class MemoryLanding:
    """Keeps every commit, in order."""

    def __init__(self) -> None:
        self.commits: list[tuple[Stream, pa.Table]] = []

    def rows(self, stream: Stream) -> pa.Table:
        tables = [rows for name, rows in self.commits if name is stream]
        return pa.concat_tables([stream.schema.empty_table(), *tables], promote_options="default")

    def read_state(self, stream: Stream) -> StreamState:
        rows = self.rows(stream)
        keys = rows[stream.key].drop_null()
        return StreamState(
            version=self._version(stream),
            row_count=rows.num_rows,
            max_id=pc.max(keys).as_py() or 0,
            ids=pc.unique(keys).sort().to_numpy() if stream in DIMENSIONS else StreamState().ids,
        )

    def append(self, stream: Stream, rows: pa.RecordBatchReader, *, after: int | None) -> int:
        if self._version(stream) != after:
            raise LandingChangedError(stream)
        self.commits.append((stream, rows.read_all()))
        return self._version(stream) or 0

    def _version(self, stream: Stream) -> int | None:
        return sum(name is stream for name, _ in self.commits) or None


@pytest.fixture
def memory() -> MemoryLanding:
    return MemoryLanding()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def landing(storage: Path) -> DeltaLanding:
    return DeltaLanding(storage)


@pytest.fixture
def read(storage: Path) -> Callable[[Stream], pa.Table]:
    """Reads a landing table from disk, ordered by its key."""

    def rows(stream: Stream) -> pa.Table:
        return DeltaTable(landing_folder(storage) / stream).to_pyarrow_table().sort_by(stream.key)

    return rows


@pytest.fixture
def noon() -> datetime:
    """The moment at which the clock of every generator stands."""
    return NOON


@pytest.fixture
def generator() -> Callable[..., Generator]:
    """Makes a seeded generator from a landing zone and settings."""

    def make(landing: Landing, **settings: Any) -> Generator:
        return Generator(GeneratorSettings(**{"seed": 7, **settings}), landing, clock=lambda: NOON)

    return make
