"""lakelet's own pages, in the order of the navigation."""

from __future__ import annotations

from lakelet.web.pages import Page
from lakelet.web.views import dataset, events, pipeline, quality, sql, updates

PAGES = (
    Page(path="/pipeline", title="Pipeline", data=pipeline.data, template="pipeline.html", key="p"),
    Page(path="/updates", title="Updates", data=updates.listing, template="updates.html", key="u"),
    Page(path="/quality", title="Quality", data=quality.data, template="quality.html", key="q"),
    Page(path="/events", title="Events", data=events.listing, template="events.html", key="e"),
    Page(path="/sql", title="SQL", data=sql.data, template="sql.html", key="s"),
    Page(path="/datasets/{name}", title="Dataset", data=dataset.data, template="dataset.html", in_navigation=False),
    Page(path="/updates/{update}", title="Update", data=updates.one, template="update.html", in_navigation=False),
    Page(path="/events/{sequence:int}", title="Event", data=events.one, template="event.html", in_navigation=False),
)
