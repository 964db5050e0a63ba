"""What the documentation says of each engine is what the marked tests said on it."""

from __future__ import annotations

import re
from pathlib import Path

from scripts.generate_reference import TESTED_ENGINES
from tests import engines
from tests.object_stores import TITLES

TESTS = Path(__file__).parents[1]


def marked() -> set[str]:
    """Return the features that tests are marked with."""
    found: set[str] = set()
    for folder in ("contract", "behaviour", "e2e"):
        for file in (TESTS / folder).glob("test_*.py"):
            found |= set(re.findall(r'pytest\.mark\.feature\("([^"]+)"\)', file.read_text("utf-8")))
    return found


def test_every_feature_was_tested_on_the_embedded_engine_or_needs_another() -> None:
    said = engines.read_results()
    elsewhere = set().union(*(set(features) for name, features in said.items()))
    assert marked() - elsewhere - {name for name in marked() if name.startswith("The flagship")} == set()
    of_stores = {f"{name}: {title}" for name in marked() for title in TITLES.values()}
    unknown = elsewhere - marked() - of_stores
    assert unknown == set(), "features that no test is marked with: remove them from engine_results.json"


def test_no_engine_is_documented_with_a_failing_test() -> None:
    failing = {
        (engine, feature)
        for engine, features in engines.read_results().items()
        for feature, counts in features.items()
        if counts.get("failed")
    }
    assert failing == set()


def test_the_page_names_the_engines_of_the_runs() -> None:
    assert {engines.EMBEDDED, engines.SERVER, engines.CLUSTER, engines.SPARK} == set(TESTED_ENGINES)
    assert set(engines.read_results()) == set(TESTED_ENGINES)
