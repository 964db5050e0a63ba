"""What a page is: data that is JSON-ready, and a template that shows the same data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakelet.web.site import Site


class ViewNotFoundError(Exception):
    """What a page is asked for does not exist; its text says what, and the answer has status 404."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """What a page is asked for.

    Attributes:
        path: the values of the placeholders of the page's path.
        query: the parameters after `?`; of a repeated one the last.
        is_own: whether the request comes from our own pages or from the address bar, not from another site's link.
    """

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    is_own: bool = True

    def text(self, name: str, default: str = "") -> str:
        return self.query.get(name, default).strip()

    def number(self, name: str, *, default: int, least: int = 0, most: int = 10_000_000) -> int:
        """Return a whole number within bounds; what is not one is the default."""
        text = self.text(name)
        if not (text.isascii() and text.removeprefix("-").isdecimal() and len(text) <= 18):
            return default
        return max(least, min(most, int(text)))


PageData = Callable[["Site", PageRequest], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page, and its JSON twin at the same path with `.json` at its end.

    Attributes:
        path: as Starlette writes it, as in `/stores/{id}`.
        title: the heading, and the name in the navigation.
        data: returns JSON-ready values; called in a thread of its own.
        template: a Jinja template that extends `page.html`; it sees the data as variables.
        templates: the folder of the template, if it is not lakelet's own.
        static: a folder whose files are served below `/static/<name of the folder's parent package>`; see `static_name`.
        static_name: the name under which `static` is served.
        in_navigation: whether the page frame links to it.
        key: the second key of its keyboard shortcut, after `g`.
    """

    path: str
    title: str
    data: PageData
    template: str
    templates: Path | None = None
    static: Path | None = None
    static_name: str = ""
    in_navigation: bool = True
    key: str = ""
