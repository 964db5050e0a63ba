"""The embedded engine: Sail serves Spark Connect from inside this process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.connect import ConnectEngine

CAPABILITIES = EngineCapabilities(
    file_metadata=False,
    join_key_by_frame=False,
    group_by_all=False,
    batch_watermark=False,
    overflow_is_an_error=False,
    scoped_sources=True,
    observed_metrics=False,
    cluster_writes=False,
)


class SailEngine(ConnectEngine):
    """Sail on a free port of the loopback interface; closed with the object.

    Args:
        configuration: session settings, `spark.*` keys.
    """

    def __init__(self, *, configuration: Mapping[str, str] | None = None) -> None:
        os.environ.setdefault("RUST_LOG", "off")
        os.environ.setdefault("SAIL_SPARK__SESSION_TIMEOUT_SECS", str(10 * 365 * 24 * 3600))
        import importlib.metadata

        from pysail.spark import SparkConnectServer

        self.version = f"sail-{importlib.metadata.version('pysail')}"
        self._server = SparkConnectServer("127.0.0.1", 0)
        self._server.start(background=True)
        host, port = self._server.listening_address
        url = f"sc://{host}:{port}"
        super().__init__(url, configuration=configuration, capabilities=CAPABILITIES)
        take_signals_back()

    def close(self) -> None:
        self._client.close()
        self._server.stop()


def take_signals_back() -> None:
    """Give SIGINT and SIGTERM back to Python's own handlers.

    Sail's server listens to SIGINT by itself: it would shut down under the flows that use it, and its way of listening
    keeps Python's main thread asleep. Called once the server answers, since only then it has begun to listen. Outside of
    the main thread nothing can be done, and nothing is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
