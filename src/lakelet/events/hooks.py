"""Functions of the user that are called with the events of an update: beside it, one after another.

Semantics: https://docs.databricks.com/aws/en/ldp/event-hooks. A hook that fails does not stop the update; the event log
says that it failed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import PipelineEvent

CLOSE_SECONDS = 10.0
"""How long the end of an update waits for hooks that have events to see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventHook:
    """One declared hook.

    Attributes:
        function: called with an event in the layout of the event log.
        max_failures: the hook is disabled after that many consecutive failures; None for never.
    """

    name: str
    function: Callable[[dict[str, Any]], Any]
    max_failures: int | None = None


class EventHooks:
    """Hands the events of one update to hooks, in a thread of its own; a subscriber of the bus.

    Events that come before `start` wait for it; without any hook none is kept. Hooks see events of maturity STABLE, and
    none about hooks.
    """

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self._events: queue.SimpleQueue[PipelineEvent | None] = queue.SimpleQueue()
        self._failures: dict[str, int] = {}
        self._hooks: list[EventHook] = []
        self._worker: threading.Thread | None = None
        self._is_needed = True

    def __call__(self, event: PipelineEvent) -> None:
        if self._is_needed and event.maturity_level == "STABLE" and event.event_type != "hook_progress":
            self._events.put(event)

    def start(self, hooks: Sequence[EventHook]) -> None:
        """Begin to call hooks; a no-op without any."""
        self._hooks = list(hooks)
        self._is_needed = bool(hooks)
        if not hooks:
            self._events = queue.SimpleQueue()
        else:
            self._worker = threading.Thread(target=self._run, name="event-hooks", daemon=True)
            self._worker.start()

    def close(self, *, timeout_seconds: float = CLOSE_SECONDS) -> None:
        """Wait until the hooks have seen all events, but not for ever."""
        if self._worker is None:
            return
        self._events.put(None)
        self._worker.join(timeout_seconds)
        if self._worker.is_alive():
            left = self._events.qsize()
            kinds.warning(
                self._bus, f"the event hooks were still busy when the update ended; {left} events were not seen"
            )

    def _run(self) -> None:
        while (event := self._events.get()) is not None:
            details = event.to_dict()
            for hook in tuple(self._hooks):
                self._call(hook, details)

    def _call(self, hook: EventHook, details: Mapping[str, Any]) -> None:
        try:
            hook.function(dict(details))
        except Exception as error:  # a hook's failure is its own; it is in the event log
            failures = self._failures[hook.name] = self._failures.get(hook.name, 0) + 1
            is_over = hook.max_failures is not None and failures >= max(1, hook.max_failures)
            if is_over:
                self._hooks.remove(hook)
            kinds.hook_progress(self._bus, name=hook.name, status="DISABLED" if is_over else "FAILED", error=error)
        else:
            self._failures[hook.name] = 0
