"""What pages may change: start, stop and check the pipeline. Each is a POST; a full refresh asks first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from lakelet.errors import DefinitionError, LakeletError
from lakelet.pipeline import RefreshSelection
from lakelet.terminal.error_data import errors_as_data
from lakelet.web.site import Site

MOST_BYTES = 200_000
MOST_FIELDS = 5_000
Answer = tuple[int, str, dict[str, Any]]
"""Status, template and data; status 303 goes back to the pipeline."""


async def form_of(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form.

    Raises:
        ValueError: it is longer than any form of ours.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise ValueError("the form is too long")
    return parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MOST_FIELDS)


def start(site: Site, form: dict[str, list[str]]) -> Answer:
    """Start an update.

    Fields: `continuous`, `refresh` (repeated), `full_refresh` (repeated), `full_refresh_all`, `confirmed`.
    """
    refresh, full = tuple(form.get("refresh", ())), tuple(form.get("full_refresh", ()))
    is_full = "full_refresh_all" in form
    continuous = "continuous" in form
    for name in (*refresh, *full):
        if site.definition.find(name) is None:
            raise DefinitionError(
                "UNKNOWN_DATASET", f"the pipeline has no dataset `{name}`", hint="choose from the list of datasets"
            )
    if (is_full or full) and "confirmed" not in form:
        names = sorted(site.tables()) if is_full else sorted(full)
        return 200, "confirm.html", {"datasets": names, "all": is_full, "continuous": continuous, "confirm": True}
    selection = RefreshSelection(refresh=() if is_full else refresh, full_refresh=() if is_full else full,
                                 full_refresh_all=is_full)  # fmt: skip
    site.runner.start(selection, continuous=continuous)
    return 303, "", {"started": True}


def stop(site: Site, form: dict[str, list[str]]) -> Answer:
    """Stop the update that this process runs."""
    return 303, "", {"stopping": site.runner.stop()}


def check(site: Site, form: dict[str, list[str]]) -> Answer:
    """Load the pipeline's files and check everything that can be checked without data."""
    definition = site.check()
    data = {"valid": not definition.errors, "errors": list(definition.errors), "summary": definition.summary}
    return 200, "dry_run.html", data


ACTIONS: dict[str, Callable[[Site, dict[str, list[str]]], Answer]] = {"start": start, "stop": stop, "dry-run": check}


async def perform(name: str, site: Site, request: Request, render: Callable[[str, dict[str, Any], int], Response],
                  *, as_json: bool) -> Response:  # fmt: skip
    """Do one of `ACTIONS`, and answer as a page or as JSON."""
    try:
        form = await form_of(request)
    except ValueError as error:
        return PlainTextResponse(f"{error}\n", status_code=413)
    try:
        status, template, data = await run_in_threadpool(ACTIONS[name], site, form)
    except LakeletError as error:
        status, template, data = 409, "refused.html", {"errors": errors_as_data(error), "title": "Not started"}
    if as_json:
        return JSONResponse(site.scrub(data), status_code=200 if status == 303 else status)
    if status == 303:
        return RedirectResponse("/pipeline", status_code=303)
    return render(template, data, status)
