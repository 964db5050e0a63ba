"""Who may talk to the page, and what a page may do: the checks before every answer, and the headers on it.

- The Host header must name this server: a foreign name that resolves to this machine (DNS rebinding) is refused.
- What changes something is a POST that carries this server's own Origin: a form on another site is refused.
- Outside of the loopback interface a token is required, once in the address, then in a cookie.
- Pages load nothing from elsewhere and run no inline script or style.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lakelet.addresses import same_token

COOKIE = "lakelet_token"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD"})
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may talk to the server.

    Attributes:
        hosts: names under which the server may be addressed.
        any_address: an IP address as Host is fine too, whatever it is: no foreign name hides behind one.
        token: required if set.
    """

    hosts: Collection[str] = LOOPBACK_NAMES
    any_address: bool = False
    token: str | None = None


class SecurityMiddleware:
    """Checks every request, and adds the headers to every answer."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # there are no web sockets here

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that goes no further; None for one that does."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._knows(host):
            return _no(421, f"this server is not `{host}`: use the address that it printed, or `--allowed-host`")
        method = scope["method"]
        if method not in SAFE_METHODS:
            if method != "POST":
                return _no(405, f"{method} is not used here")
            if headers.get("origin") != f"{scope['scheme']}://{host}":
                return _no(403, "a change must come from this server's own pages (or carry its Origin header)")
        elif is_foreign_load(headers):
            return _no(403, "other sites cannot load from this server")
        return self._challenge(scope, headers)

    def _knows(self, host: str) -> bool:
        name = _without_port(host).lower()
        if name in self._access.hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._access.any_address

    def _challenge(self, scope: Scope, headers: Headers) -> Response | None:
        token = self._access.token
        if token is None:
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and same_token(given, token):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            path = "/" + scope["path"].lstrip("/\\")  # `//host` would be another site
            answer = RedirectResponse(path + (f"?{rest}" if rest else ""), status_code=303)
            answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=scope["scheme"] == "https")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if same_token(_cookie(headers), token) or same_token(bearer, token):
            return None
        return _no(401, "a token is required: open the address that the server printed when it started")


def is_foreign_load(headers: Headers) -> bool:
    """Tell whether another site's page loads from here, other than by a link that a person follows."""
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


def is_own_request(headers: Headers) -> bool:
    """Tell whether a request comes from our own pages, the address bar or a program; not from another site's link."""
    return headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _no(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status_code=status)
