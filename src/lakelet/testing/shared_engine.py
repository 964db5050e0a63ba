"""The engine of all tests in this process: it takes a second to start, so it starts once."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakelet.engine.base import Engine

_engines: dict[tuple[tuple[str, str], ...], Engine] = {}
_lock = threading.Lock()


def shared_engine(configuration: Mapping[str, str]) -> Engine:
    """Return the engine with these session settings; the first call starts it, the end of the process ends it."""
    key = tuple(sorted(configuration.items()))
    with _lock:
        if key not in _engines:
            from lakelet.engine.sail import SailEngine

            engine = SailEngine(configuration=configuration, is_replaced=False)
            atexit.register(engine.close)
            _engines[key] = engine
        return _engines[key]
