"""The web application: routes, and the frame around every page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lakelet.errors import LakeletError
from lakelet.terminal.error_data import errors_as_data
from lakelet.web import actions, filters
from lakelet.web.live import LiveStream
from lakelet.web.pages import Page, PageRequest, ViewNotFoundError
from lakelet.web.security import Access, SecurityMiddleware, is_own_request
from lakelet.web.site import Site
from lakelet.web.views import PAGES
from lakelet.web.views.sql import download

HERE = Path(__file__).parent
Endpoint = Callable[[Request], Any]


class WebApp:
    """Makes the routes of a site's pages.

    Args:
        pages: of other packages, after lakelet's own.
        first: the path that `/` leads to.
    """

    def __init__(self, site: Site, *, pages: Sequence[Page] = (), first: str = "/pipeline") -> None:
        self._site = site
        self._first = first
        self._pages = (*PAGES, *pages)
        folders = list(dict.fromkeys(page.templates for page in self._pages if page.templates is not None))
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader([HERE / "templates", *folders]),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(filters.FILTERS)

    def application(self, access: Access) -> Starlette:
        """Return the application, with its checks around it."""
        routes: list[Route | Mount] = [Route("/", self._to_first)]
        for page in self._pages:
            routes.append(Route(f"{page.path}.json", self._endpoint(page, as_json=True), methods=["GET"]))
            routes.append(Route(page.path, self._endpoint(page, as_json=False), methods=["GET"]))
            if page.static is not None:
                routes.append(Mount(f"/static/{page.static_name}", StaticFiles(directory=page.static)))
        for name in actions.ACTIONS:
            routes.append(Route(f"/actions/{name}.json", self._action(name, as_json=True), methods=["POST"]))
            routes.append(Route(f"/actions/{name}", self._action(name, as_json=False), methods=["POST"]))
        routes.append(Route("/sql/download", download(self._site), methods=["GET"]))
        routes.append(Route("/metrics", self._site.metrics.__call__, methods=["GET"]))
        routes.append(Route("/live", LiveStream(self._site).__call__, methods=["GET"]))
        routes.append(Mount("/static", StaticFiles(directory=HERE / "static")))
        return Starlette(
            routes=routes,
            middleware=[Middleware(SecurityMiddleware, access=access)],
            exception_handlers={HTTPException: self._http_error, Exception: self._failed},
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self._site.start()
        yield
        await run_in_threadpool(self._site.close)

    async def _to_first(self, request: Request) -> Response:
        return RedirectResponse(self._first, status_code=307)

    def _endpoint(self, page: Page, *, as_json: bool) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            asked = PageRequest(
                path=dict(request.path_params),
                query=dict(request.query_params),
                is_own=is_own_request(request.headers),
            )
            try:
                data = self._site.scrub(dict(await run_in_threadpool(page.data, self._site, asked)))
            except ViewNotFoundError as error:
                return self._error(request, 404, str(error))
            except LakeletError as error:
                data = {"errors": errors_as_data(error), "title": page.title}
                if as_json:
                    return _json(self._site.scrub(data), status=400)
                return self._render(request, "refused.html", self._site.scrub(data), status=400)
            if as_json:
                return _json(data)
            html = await run_in_threadpool(self._html, request, page.template, data, page)
            return HTMLResponse(html)

        return endpoint

    def _action(self, name: str, *, as_json: bool) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            def render(template: str, data: dict[str, Any], status: int) -> Response:
                return self._render(request, template, self._site.scrub(data), status=status)

            return await actions.perform(name, self._site, request, render, as_json=as_json)

        return endpoint

    def _render(self, request: Request, template: str, data: dict[str, Any], *, status: int = 200) -> Response:
        return HTMLResponse(self._html(request, template, data, None), status_code=status)

    def _html(self, request: Request, template: str, data: dict[str, Any], page: Page | None) -> str:
        frame = {
            "site_name": self._site.name,
            "navigation": [item for item in self._pages if item.in_navigation],
            "page": page,
            "path": request.url.path,
            "twin": None if page is None else _twin(request),
            "runner": self._site.runner.to_dict(),
            "data": data,
        }
        return self._templates.get_template(template).render({**data, **frame})

    def _error(self, request: Request, status: int, text: str) -> Response:
        if request.url.path.endswith(".json"):
            return _json({"error": text, "status": status}, status=status)
        return self._render(request, "error.html", {"status": status, "text": text}, status=status)

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return self._error(request, error.status_code, error.detail)

    async def _failed(self, request: Request, error: Exception) -> Response:
        return self._error(request, 500, "this page failed; the terminal that runs lakelet shows why")


def _json(data: Any, *, status: int = 200) -> Response:
    text = json.dumps(data, default=str, ensure_ascii=False, indent=1)
    return Response(text, status_code=status, media_type="application/json")


def _twin(request: Request) -> str:
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{request.url.path}.json{query}"


def create_app(
    site: Site, *, pages: Sequence[Page] = (), access: Access | None = None, first: str = "/pipeline"
) -> Starlette:
    """Return the ASGI application of a site."""
    return WebApp(site, pages=pages, first=first).application(access or Access())
