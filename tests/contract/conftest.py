"""Every suite of this folder runs on each engine listed here."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.storage.delta_rs import DeltaRsStore


@pytest.fixture
def store() -> DeltaRsStore:
    return DeltaRsStore()


@pytest.fixture
def location(tmp_path: Path) -> str:
    """A folder for a table, which does not exist yet."""
    return str(tmp_path / "table")
