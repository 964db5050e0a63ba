"""The values of settings."""

from __future__ import annotations

import pytest

from lakelet.settings import SETTINGS, interval_seconds, size_bytes


def test_every_default_of_a_setting_is_valid_and_documented() -> None:
    for setting in SETTINGS.values():
        assert setting.doc.endswith(".")
        if setting.default is not None:
            setting.parse(setting.default)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1 second", 1), ("10 seconds", 10), ("2 minutes", 120), ("1 minute 30 seconds", 90), ("0.5 hours", 1800)],
)
def test_an_interval_is_a_sum_of_numbers_and_units(text: str, seconds: float) -> None:
    assert interval_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "ten seconds", "10 parsecs", "0 seconds", "10 seconds ago"])
def test_anything_else_is_no_interval(text: str) -> None:
    with pytest.raises(ValueError, match="interval"):
        interval_seconds(text)


@pytest.mark.parametrize(("text", "size"), [("10", 10), ("1k", 1024), ("512m", 512 * 1024**2), ("1 GB", 1024**3)])
def test_a_size_may_have_a_unit(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "m", "-1", "0", "1x", "1.5g"])
def test_anything_else_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        size_bytes(text)
