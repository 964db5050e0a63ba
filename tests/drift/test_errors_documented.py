"""docs/reference/errors.md has every condition that the product can raise, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tests.drift.conditions import raised_conditions

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def documented() -> list[str]:
    return re.findall(r"^### `([A-Z0-9_.]+)`$", PAGE.read_text("utf-8"), flags=re.MULTILINE)


def test_every_condition_of_the_source_is_documented() -> None:
    known = set(documented())
    ends = {condition.rpartition(".")[2] for condition in known}
    missing = {
        condition: place
        for condition, place in raised_conditions().places.items()
        if condition not in known and condition not in ends
    }
    assert not missing, f"add to docs/reference/errors.md: {missing}"


def test_every_documented_condition_is_raised_somewhere() -> None:
    raised = raised_conditions()
    stale = [condition for condition in documented() if not raised.has(condition)]
    assert not stale, f"remove from docs/reference/errors.md: {stale}"


def test_a_condition_is_documented_once_and_says_something() -> None:
    names = documented()
    assert len(names) == len(set(names))
    sections = re.split(r"^### `[A-Z0-9_.]+`$", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    empty = [name for name, section in zip(names, sections, strict=True) if len(section.strip()) < 20]
    assert not empty


def test_a_condition_whose_end_is_a_variable_is_documented_with_its_ends() -> None:
    for prefix in raised_conditions().prefixes:
        assert any(condition.startswith(prefix) for condition in documented()), prefix
