"""The declarative API for event hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from lakelet.errors import DefinitionError
from lakelet.events.hooks import EventHook
from lakelet.pipelines import parameters as check
from lakelet.pipelines.parameters import declarative
from lakelet.pipelines.registry import active_registry

F = TypeVar("F", bound=Callable[..., Any])


@declarative
def on_event_hook(user_event_hook_fn: Any = None, max_allowable_consecutive_failures: int | None = None) -> Any:
    """Declare a function `f(event: dict)` that is called with the events of an update, beside it.

    Args:
        max_allowable_consecutive_failures: the hook is disabled after that many failures in a row; None for never.
    """
    registry = active_registry("on_event_hook")
    limit = max_allowable_consecutive_failures
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise DefinitionError(
            "INVALID_PARAMETER_VALUE",
            f"`max_allowable_consecutive_failures` is {limit!r}",
            hint="give a whole number from 0 on, or leave it out for no limit",
        )

    def declare(function: F) -> F:
        if not callable(function):
            raise check.not_expected_type("on_event_hook", "a function", function)
        name = getattr(function, "__name__", type(function).__name__)
        registry.add_hook(EventHook(name=name, function=function, max_failures=limit))
        return function

    return declare if user_event_hook_fn is None else declare(user_event_hook_fn)
