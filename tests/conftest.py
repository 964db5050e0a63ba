"""What every suite shares."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import SailEngine

ADDRESS = os.environ.get("LAKELET_TEST_ENGINE", "sail")
"""The engine of every suite: `sail` for the embedded one, or the address of a Spark Connect server."""


@pytest.fixture(scope="session")
def engine() -> Iterator[ConnectEngine]:
    """One engine for the whole session."""
    engine = SailEngine() if ADDRESS == "sail" else ConnectEngine(ADDRESS)
    yield engine
    engine.close()
