"""The live page of a pipeline: what it is, what it does now, what it did.

A page is a function that returns JSON-ready values, and a template that shows them; `Page` is also how other packages
add pages of their own:

    from lakelet.web import Page, serve
    serve(Pipeline("shop"), pages=[Page(path="/revenue", title="Revenue", data=revenue, template="revenue.html", ...)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lakelet.plan  # noqa: F401 - before pyspark: it mends an import under `python -c`
from lakelet.web.pages import Page, PageRequest, ViewNotFoundError

if TYPE_CHECKING:
    from lakelet.web.server import Address, serve
    from lakelet.web.site import Site

__all__ = ["Address", "Page", "PageRequest", "Site", "ViewNotFoundError", "serve"]


def __getattr__(name: str) -> Any:
    """Import what needs the web server on first use."""
    import importlib

    homes = {"Address": "lakelet.web.server", "serve": "lakelet.web.server", "Site": "lakelet.web.site"}
    if name not in homes:
        raise AttributeError(f"module 'lakelet.web' has no attribute {name!r}")
    return getattr(importlib.import_module(homes[name]), name)
