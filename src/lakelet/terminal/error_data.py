"""Errors as JSON-ready values."""

from __future__ import annotations

from typing import Any

from lakelet.errors import DefinitionErrors, LakeletError


def errors_as_data(error: LakeletError) -> list[dict[str, Any]]:
    """Return an error, or each of several, with its condition, place, cause and hint."""
    return [
        {
            "condition": part.condition,
            "message": part.message,
            "file": part.origin.file if part.origin else None,
            "line": part.origin.line if part.origin else None,
            "dataset": part.origin.dataset if part.origin else None,
            "flow": part.origin.flow if part.origin else None,
            "cause": part.cause,
            "hint": part.hint,
        }
        for part in (error.errors if isinstance(error, DefinitionErrors) else (error,))
    ]
