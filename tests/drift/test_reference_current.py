"""The generated reference pages and pictures are what the code says now."""

from __future__ import annotations

import pytest
from scripts.generate_reference import FOLDER, PAGES, PICTURE, picture


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_on_disk_is_current(name: str) -> None:
    current = (FOLDER / name).read_text("utf-8") if (FOLDER / name).exists() else ""
    assert current == PAGES[name](), f"run `make docs`: docs/reference/{name} is out of date"


def test_the_commands_of_a_group_have_sections_of_their_own() -> None:
    headings = [line for line in PAGES["cli.md"]().splitlines() if line.startswith("### ")]
    assert headings == [f"### `lakelet spark {name}`" for name in ("down", "status", "up")]


def test_the_picture_of_the_flagship_is_current() -> None:
    assert PICTURE.read_text("utf-8") == picture(), "run `make docs`: docs/images/apparel.svg is out of date"
