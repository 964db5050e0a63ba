"""What every suite shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lakelet.engine.sail import SailEngine


@pytest.fixture(scope="session")
def engine() -> Iterator[SailEngine]:
    """One embedded engine for the whole session."""
    engine = SailEngine()
    yield engine
    engine.close()
