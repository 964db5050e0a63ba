"""The server that `make test-spark` has started: found, killed and started again; and what it is writing at the moment."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import ADDRESS

from lakelet.engine import spark_server
from lakelet.engine.spark_server import RunningServer
from lakelet.storage.delta_log import latest_version


def killable_server() -> RunningServer:
    """Return the server of this run, if it is one that may be killed."""
    running = spark_server.status()
    if running is None or running.url != ADDRESS:
        pytest.skip("only a server of `lakelet spark up` is killed")
    return running


def start_again(server: RunningServer) -> None:
    """Start the server as it was, if it does not run."""
    spark_server.up(port=server.port, memory=server.memory, object_store=server.object_store, say=lambda _: None)


def signal_all(server: RunningServer, number: signal.Signals) -> None:
    os.killpg(server.pid, number)


def data_files(table: Path) -> set[Path]:
    """Return what lies in a table's folder, whether the log has it or not."""
    return set(table.rglob("*.parquet"))


class Write:
    """A write into a table that has begun and is not committed.

    Args:
        update: runs in a thread of its own; it must write to the table.
    """

    def __init__(self, table: Path, update: Callable[[], None]) -> None:
        self._table = table
        self._thread = threading.Thread(target=update)
        self._thread.start()
        while (before := latest_version(str(table))) is None:
            self._tick()
        files = data_files(table)
        while not (new := data_files(table) - files):
            self._tick()
        self._new, self._before = new, before

    def _tick(self) -> None:
        assert self._thread.is_alive(), "the update ended before it wrote"
        self._thread.join(0.01)

    def assert_not_committed(self) -> None:
        """Check that there are data files of the write, and that the log does not know of it."""
        assert latest_version(str(self._table)) == self._before, "the write was faster than the test: make it slower"
        assert data_files(self._table) >= self._new

    def wait_for_commit(self) -> None:
        """Return when the log has the write, whoever waits for its answer."""
        waiting = threading.Event()
        while latest_version(str(self._table)) == self._before:
            waiting.wait(0.05)

    def join(self) -> None:
        self._thread.join()
