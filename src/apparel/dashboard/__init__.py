"""The retailer's dashboard: pages of its own inside lakelet's page frame, made of gold and silver tables only."""

from __future__ import annotations

from pathlib import Path

from apparel.dashboard import history, retail
from lakelet.web import Page

TEMPLATES = Path(__file__).parent / "templates"
FIRST = "/retail"
PAGES = (
    Page(path=FIRST, title="Retail", data=retail.data, template="retail.html", templates=TEMPLATES, key="r"),
    Page(
        path="/retail/history",
        title="History",
        data=history.listing,
        template="histories.html",
        templates=TEMPLATES,
        key="h",
    ),
    Page(
        path="/retail/history/{kind}/{id}",
        title="History",
        data=history.one,
        template="history.html",
        templates=TEMPLATES,
        in_navigation=False,
    ),
)
