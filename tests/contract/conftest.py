"""Every suite of this folder runs on each engine, and on the store that goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.engine.connect import ConnectEngine
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_spark import DeltaSparkStore


@pytest.fixture
def store(engine: ConnectEngine) -> DeltaRsStore:
    return DeltaSparkStore(engine) if engine.capabilities.cluster_writes else DeltaRsStore()


@pytest.fixture
def location(tmp_path: Path) -> str:
    """A folder for a table, which does not exist yet."""
    return str(tmp_path / "table")
