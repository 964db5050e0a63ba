"""Spark Connect servers in processes of their own, and a network between them and us that can stop."""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from lakelet.engine.connect import ConnectEngine, connect

SERVER_BYTES = 8 * 2**30
"""Address space of a server: one that buffers without a bound ends instead of the machine."""


def free_port() -> int:
    """Return a port that no connection gets by itself: one that tries to reach a dead server could take that server's."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def forget_session(engine: ConnectEngine) -> None:
    """Have the server end the session, as it does with one that nobody has used for an hour."""
    other = connect(engine.url, engine.session_id)
    other.release_session()
    other.close()


class SailServer:
    """`sail spark server`; it can be killed and started again at the same address.

    Args:
        mode: `local`, or `local-cluster`: a driver and workers that send each other their rows.
    """

    def __init__(self, mode: str = "local", **settings: str) -> None:
        self.port = free_port()
        self._environment = {**os.environ, "RUST_LOG": "off", "SAIL_MODE": mode, **settings}
        self.start()

    @property
    def url(self) -> str:
        return f"sc://127.0.0.1:{self.port}"

    def start(self) -> None:
        # A shell sets the limit: `preexec_fn` makes a fork of this process, and gRPC's handlers for forks abort it now and
        # then (SIGABRT) while other threads use gRPC, before there is a server.
        limited = f'ulimit -v {SERVER_BYTES // 1024}; exec "$0" "$@"'
        sail = str(Path(sys.executable).with_name("sail"))
        self._process = subprocess.Popen(
            ["sh", "-c", limited, sail, "spark", "server", "--port", str(self.port)], env=self._environment
        )
        waiting = threading.Event()
        while True:
            assert self._process.poll() is None, f"the server ended at once, with {self._process.returncode}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            waiting.wait(0.05)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        self.kill()
        self.start()


class Proxy:
    """Forwards connections to a port, until told not to."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._forwards = threading.Event()
        self._forwards.set()
        self.stopped_with_data = threading.Event()
        """Set when something was sent that did not come through."""
        self._stop_after: int | None = None
        self._is_closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"sc://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """Forward nothing more; connections stay open, as where a cable is pulled."""
        self.stopped_with_data.clear()
        self._forwards.clear()

    def stop_after(self, num_bytes: int) -> None:
        """Stop once so many more bytes have come from the server."""
        self._stop_after = num_bytes

    def go_on(self) -> None:
        self._stop_after = None
        self._forwards.set()

    def close(self) -> None:
        self._is_closed = True
        self._forwards.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._target)) as server:
            selector = selectors.DefaultSelector()
            selector.register(client, selectors.EVENT_READ, server)
            selector.register(server, selectors.EVENT_READ, client)
            while not self._is_closed:
                for key, _ in selector.select(0.5):
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    if key.data is client and self._stop_after is not None:
                        self._stop_after -= len(data)
                        if self._stop_after <= 0:
                            self._stop_after = None
                            self.stop()
                    if not self._forwards.is_set():
                        self.stopped_with_data.set()
                        self._forwards.wait()
                    key.data.sendall(data)


@contextlib.contextmanager
def sail_server(mode: str = "local", **settings: str) -> Iterator[SailServer]:
    server = SailServer(mode, **settings)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
