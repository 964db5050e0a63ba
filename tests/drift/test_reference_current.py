"""The generated reference pages and pictures are what the code says now."""

from __future__ import annotations

import pytest
from scripts.generate_reference import FOLDER, PAGES, PICTURE, picture


@pytest.mark.parametrize("name", sorted(PAGES))
def test_the_page_on_disk_is_current(name: str) -> None:
    current = (FOLDER / name).read_text("utf-8") if (FOLDER / name).exists() else ""
    assert current == PAGES[name](), f"run `make docs`: docs/reference/{name} is out of date"


def test_the_picture_of_the_flagship_is_current() -> None:
    assert PICTURE.read_text("utf-8") == picture(), "run `make docs`: docs/images/apparel.svg is out of date"
