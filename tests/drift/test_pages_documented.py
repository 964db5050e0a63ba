"""The guide of the pages names every page, twin and change; the tokens are those of the style sheet."""

from __future__ import annotations

import re
from pathlib import Path

from apparel import dashboard
from lakelet.web.actions import ACTIONS
from lakelet.web.views import PAGES

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "pages.md").read_text("utf-8")
TOKENS = (ROOT / "docs" / "design_tokens.md").read_text("utf-8")
STYLES = (ROOT / "src" / "lakelet" / "web" / "static" / "app.css").read_text("utf-8")


def test_every_page_and_its_twin_are_in_the_guide() -> None:
    documented = set(re.findall(r"^\| `(/[^`]+)` \| `([^`]+)\.json`", GUIDE, re.MULTILINE))
    assert documented == {(page.path, page.path.replace(":int", "")) for page in (*PAGES, *dashboard.PAGES)}


def test_every_change_is_in_the_guide() -> None:
    documented = set(re.findall(r"^\| `/actions/([^`]+)`", GUIDE, re.MULTILINE))
    assert documented == set(ACTIONS)


def test_the_colours_of_the_guide_are_those_of_the_pages() -> None:
    colours = re.findall(r"`(#[0-9a-f]{6})`", TOKENS)
    assert len(colours) >= 30
    assert not [colour for colour in colours if colour not in STYLES]


def test_every_named_token_exists() -> None:
    named = re.findall(r"`(--[a-z-]+)`", TOKENS)
    assert not [name for name in named if f"{name}:" not in STYLES]


def test_rules_use_tokens_and_no_colours_of_their_own() -> None:
    rules = STYLES.partition("/* -- ground */")[2]
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b", rules)
