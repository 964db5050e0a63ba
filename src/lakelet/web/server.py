"""Serves the pages of a pipeline until it is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from lakelet.addresses import is_loopback, listener, new_token, shown_host
from lakelet.pipeline import Pipeline
from lakelet.web.app import create_app
from lakelet.web.pages import Page
from lakelet.web.security import LOOPBACK_NAMES, Access
from lakelet.web.site import Site

DEFAULT_PORT = 4040
MOST_CONNECTIONS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the pages are; `url` has the token in it where one is needed."""

    host: str
    port: int
    url: str


def serve(
    pipeline: Pipeline,
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    token: str | None = None,
    allowed_hosts: Collection[str] = (),
    pages: Sequence[Page] = (),
    first: str = "/pipeline",
    ready: Callable[[Address, Site], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM; an update that runs here then ends after its micro-batches.

    Args:
        host: the address to listen at; beyond the loopback interface every reader needs the token.
        port: 0 for any that is free.
        token: instead of a new one; with it the loopback interface asks for it, too.
        allowed_hosts: names under which this machine is reached.
        pages: of another package, after lakelet's own.
        first: the path that `/` leads to.
        ready: called once, when requests are answered.

    Raises:
        SpecError: `ADDRESS_IN_USE`, `ADDRESS_NOT_AVAILABLE`.
    """
    opened = listener(host, port, what="the page")
    port = opened.getsockname()[1]
    is_local = is_loopback(host)
    token = token or (None if is_local else new_token())
    access = Access(
        hosts=LOOPBACK_NAMES
        | {name.lower() for name in (*allowed_hosts, *(() if is_local else (socket.gethostname(),)))},
        any_address=not is_local,
        token=token,
    )
    _ = pipeline.engine  # started in the main thread, where signals are Python's again afterwards
    site = Site(pipeline)
    url = f"http://{shown_host(host)}:{port}/" + (f"?token={token}" if token else "")
    address = Address(host=host, port=port, url=url)
    config = uvicorn.Config(
        create_app(site, pages=pages, access=access, first=first),
        log_level="warning",
        access_log=False,  # an address may have the token in it
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        limit_concurrency=MOST_CONNECTIONS,
    )
    _Server(config, on_stop=site.closing.set, ready=lambda: ready and ready(address, site)).run(sockets=[opened])


class _Server(uvicorn.Server):
    """Says when it answers, and ends endless answers when it is told to stop."""

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None], ready: Callable[[], object]) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._ready = ready

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Have SIGINT and SIGTERM end the server, and nothing more: uvicorn's own way kills the process afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)
