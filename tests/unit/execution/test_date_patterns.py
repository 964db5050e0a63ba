"""Dates and times by a user's pattern."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from lakelet.execution.date_patterns import parser


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("yyyy-MM-dd HH:mm:ss", "2024-02-29 01:02:03", datetime(2024, 2, 29, 1, 2, 3)),
        ("dd/MM/yy'T'HH", "01/02/24T05", datetime(2024, 2, 1, 5)),
        ("d MMM yyyy", "1 May 2024", datetime(2024, 5, 1)),
        ("EEEE, d MMMM yyyy", "Friday, 31 May 2024", datetime(2024, 5, 31)),
        ("yyyy-MM-dd hh:mm a", "2024-01-01 12:05 AM", datetime(2024, 1, 1, 0, 5)),
        ("yyyy-MM-dd HH:mm:ss.SSS", "2024-01-01 00:00:00.250", datetime(2024, 1, 1, 0, 0, 0, 250_000)),
        ("yyyy-MM-dd'T'HH:mm:ssXXX", "2024-01-01T01:00:00+02:00", datetime(2023, 12, 31, 23)),
        ("yyyy-MM-dd HH:mmZ", "2024-01-01 01:00-0130", datetime(2024, 1, 1, 2, 30)),
        ("yyyy-MM-dd[ HH:mm]", "2024-01-01", datetime(2024, 1, 1)),
        ("yyyy.MM", "2024.07", datetime(2024, 7, 1)),
    ],
)
def test_what_fits_is_read(pattern: str, text: str, expected: datetime) -> None:
    parse = parser(pattern)
    assert parse is not None and parse(text) == expected.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("dd/MM/yyyy", "1/2/2024"),
        ("dd/MM/yyyy", "31/02/2024"),
        ("dd/MM/yyyy", "01/02/2024 "),
        ("d MMM yyyy", "1 may 2024"),
        ("yyyy-MM-dd", "24-01-01"),
    ],
)
def test_what_does_not_fit_is_an_error(pattern: str, text: str) -> None:
    parse = parser(pattern)
    assert parse is not None
    with pytest.raises(ValueError, match=r"."):
        parse(text)


@pytest.mark.parametrize("pattern", ["QQQ yyyy", "ww", "yyyyy", "yyyy yyyy", "'open", "VV"])
def test_other_patterns_are_not_supported(pattern: str) -> None:
    assert parser(pattern) is None
