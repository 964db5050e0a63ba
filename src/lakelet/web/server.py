"""Serves the pages of a pipeline until it is told to stop."""

from __future__ import annotations

import errno
import signal
import socket
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn

from lakelet.errors import SpecError
from lakelet.pipeline import Pipeline
from lakelet.web.app import create_app
from lakelet.web.pages import Page
from lakelet.web.security import LOOPBACK_NAMES, Access, is_loopback, new_token
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
        SpecError: `UI_ADDRESS_IN_USE`, `UI_ADDRESS_NOT_AVAILABLE`.
    """
    listener = _listener(host, port)
    port = listener.getsockname()[1]
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
    name = f"[{host}]" if ":" in host else host
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    address = Address(host=host, port=port, url=f"http://{name}:{port}/" + (f"?token={token}" if token else ""))
    config = uvicorn.Config(
        create_app(site, pages=pages, access=access, first=first),
        log_level="warning",
        access_log=False,  # an address may have the token in it
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=2,
        limit_concurrency=MOST_CONNECTIONS,
    )
    _Server(config, on_stop=site.closing.set, ready=lambda: ready and ready(address, site)).run(sockets=[listener])


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


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        is_name = isinstance(error, UnicodeError | socket.gaierror)
        if is_name or (isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL):
            raise SpecError(
                "UI_ADDRESS_NOT_AVAILABLE",
                f"the page cannot be served at {host}: "
                + ("the name cannot be resolved" if is_name else "this machine does not have the address"),
                cause=str(error),
                hint="give an address of this machine with `--host`: 127.0.0.1 for this machine only, 0.0.0.0 for all networks",
            ) from error
        raise SpecError(
            "UI_ADDRESS_IN_USE",
            f"the page cannot be served at {host}, port {port}",
            cause=str(error),
            hint="choose another port with `--port`; 0 takes any that is free",
        ) from error
    listener.listen(128)
    listener.set_inheritable(False)
    return listener
