"""The servers of the embedded engine: one inside of this process, or one in a process of its own, which can be replaced.

The process of a server lives as long as its parent: it ends when its standard input does, so not even `kill -9` of the parent
leaves it behind. It is in a session of its own; Ctrl-C in a terminal is for the parent alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Protocol

from lakelet.processes import resident_bytes

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lakelet.engine.sail_server import serve; serve()"
)


class Server(Protocol):
    """A running server of the embedded engine."""

    url: str

    def has_ended(self) -> bool:
        """Return whether it has ended by itself, or was killed."""
        ...

    def resident_bytes(self) -> int | None:
        """Return the memory of its process, None if that is not its alone."""
        ...

    def stop(self) -> None: ...


class ServerInside:
    """A server inside of this process: up at once, and what it keeps, this process keeps."""

    def __init__(self) -> None:
        from pysail.spark import SparkConnectServer

        _set_environment()
        self._server = SparkConnectServer("127.0.0.1", 0)
        self._server.start(background=True)
        host, port = self._server.listening_address
        self.url = f"sc://{host}:{port}"

    def has_ended(self) -> bool:
        return False

    def resident_bytes(self) -> int | None:
        return None

    def stop(self) -> None:
        self._server.stop()


class ServerProcess:
    """A server in a process of its own; it finds the modules that this process finds.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self) -> None:
        _set_environment()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as announcement:
            port = announcement.readline().strip()
        if not port:
            self.stop()
            raise OSError(f"the engine's process ended before it listened, with exit code {self._process.returncode}")
        self.url = f"sc://127.0.0.1:{int(port)}"

    @property
    def pid(self) -> int:
        return self._process.pid

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def how_it_ended(self) -> str:
        """Return the end of its process in words."""
        code = self._process.poll()
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"

    def resident_bytes(self) -> int | None:
        return resident_bytes(self.pid)

    def stop(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()


def serve() -> None:
    """Serve until standard input ends: the program of a `ServerProcess`."""
    announcement = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what user code prints is no answer of ours
    server = ServerInside()
    with announcement:
        announcement.write(server.url.rpartition(":")[2] + "\n")
    sys.stdin.buffer.read()
    os._exit(0)


def _set_environment() -> None:
    os.environ.setdefault("RUST_LOG", "off")
    os.environ.setdefault("SAIL_SPARK__SESSION_TIMEOUT_SECS", str(10 * 365 * 24 * 3600))
