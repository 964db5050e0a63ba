"""A bus whose clock and ids are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from lakelet.events.log import EventBus

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def new_bus() -> Callable[..., EventBus]:
    """Return a maker of buses; each clock starts at noon and advances a second an event."""

    def make(update_id: str = "u1") -> EventBus:
        seconds, ids = itertools.count(), itertools.count(1)
        return EventBus(
            "p1",
            "shop",
            update_id,
            clock=lambda: NOON + timedelta(seconds=next(seconds)),
            new_id=lambda: f"{update_id}-{next(ids)}",
        )

    return make


@pytest.fixture
def bus(new_bus: Callable[..., EventBus]) -> EventBus:
    return new_bus()
