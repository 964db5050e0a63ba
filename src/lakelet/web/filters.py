"""How values look on pages: the same words and units as on the terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from lakelet.web.source import highlighted

DASH = "–"


def number(value: Any) -> str:
    """Return a count with separators; a dash for what was not counted."""
    if value is None or value == "":
        return DASH
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def size(value: int | None) -> str:
    """Return bytes in the unit that reads best."""
    if value is None:
        return DASH
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:,.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:,.1f} {unit}"
        amount /= 1000
    return DASH


def seconds(value: float | None) -> str:
    """Return a duration."""
    if value is None:
        return DASH
    if value < 1:
        return f"{value * 1000:,.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(int(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def milliseconds(value: float | None) -> str:
    return seconds(None if value is None else value / 1000)


def percent(part: float | None, whole: float | None) -> str:
    """Return a share; small ones keep a digit that is not zero."""
    if not whole or part is None:
        return DASH
    share = 100 * part / whole
    return f"{share:.0f} %" if share in (0.0, 100.0) or share >= 10 else f"{share:.2g} %"


def moment(value: str | None, *, short: bool = False) -> Markup:
    """Return a time as `<time>`, UTC, to the second; the page's script adds how long ago that is."""
    if not value:
        return Markup(DASH)
    at = datetime.fromisoformat(value).astimezone(UTC)
    text = at.strftime("%H:%M:%S" if short else "%Y-%m-%d %H:%M:%S")
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(timespec="milliseconds"), text)


def label(value: str | None) -> str:
    """Return a constant such as COMPLETE_RECOMPUTE as words."""
    return "" if value is None else value.lower().replace("_", " ")


def code(value: str, *, language: str = "python", first_line: int = 1, line: int | None = None) -> Markup:
    return Markup(highlighted(value, language=language, first_line=first_line, line=line))


def data_block(value: Any) -> Markup:
    """Return JSON that may stand inside a `<script type="application/json">`."""
    text = json.dumps(value, default=str, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def dataset_path(name: str) -> str:
    return f"/datasets/{quote(name, safe='')}"


def with_query(path: str, **values: Any) -> str:
    """Return a path with those parameters that have a value."""
    present = {name: value for name, value in values.items() if value not in (None, "")}
    return f"{path}?{urlencode(present)}" if present else path


FILTERS: dict[str, Callable[..., Any]] = {
    "code": code,
    "data_block": data_block,
    "dataset_path": dataset_path,
    "label": label,
    "milliseconds": milliseconds,
    "moment": moment,
    "number": number,
    "percent": percent,
    "seconds": seconds,
    "size": size,
    "with_query": with_query,
}
