"""Settings that must not be seen: which they are, and text without their values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"
_WORDS = re.compile(
    r"password|passwd|pwd|passphrase|secret|token|credential|(?:api|access|account|private|shared|encryption)[._-]?key"
    r"|(?<![a-z])sas(?![a-z])|(?:^|[._-])key$",
    re.IGNORECASE,
)
_NAMES_OF_COLUMNS = re.compile(r"(?:primary|foreign|partition|sort|join|merge|business)[._-]?key$", re.IGNORECASE)
SHORTEST = 4
"""Values with fewer characters are masked in their own place only: they would be found in every other text."""


def is_secret(key: str) -> bool:
    """Tell by its name whether the value of a setting must not be seen."""
    return _WORDS.search(key) is not None and _NAMES_OF_COLUMNS.search(key) is None


def masked(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings with the values of the secret ones masked."""
    return {key: MASK if is_secret(key) and value else value for key, value in settings.items()}


def shown(settings: Mapping[str, str]) -> dict[str, str]:
    """Return settings as anybody may see them: a secret value is masked also where another setting repeats it."""
    secrets = secret_values(settings)
    return {key: scrubbed(value, secrets) for key, value in masked(settings).items()}


def secret_values(settings: Mapping[str, str]) -> frozenset[str]:
    """Return the values that must not be in any text."""
    return frozenset(value for key, value in settings.items() if is_secret(key) and len(value) >= SHORTEST)


def scrubbed(value: Any, secrets: frozenset[str]) -> Any:
    """Return JSON-ready values with every occurrence of a secret in a text masked."""
    if not secrets:
        return value
    match value:
        case str():
            for secret in secrets:
                value = value.replace(secret, MASK)
            return value
        case Mapping():
            return {scrubbed(key, secrets): scrubbed(item, secrets) for key, item in value.items()}
        case list() | tuple():
            return [scrubbed(item, secrets) for item in value]
        case _:
            return value
