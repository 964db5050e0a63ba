"""Object stores on this machine, for tests: S3 for every run, Azure's and Google's for `make test-object-stores`.

A run of the suites is for one of them: S3, or the one that `LAKELET_TEST_STORE` names. That one is served by
`python -m tests.object_stores`, which says in the environment where it is.
"""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

CHOSEN_STORE = os.environ.get("LAKELET_TEST_STORE", "s3")
TITLES = {"azure": "Azure", "gcs": "Google Cloud Storage"}
"""Of the stores other than S3."""
START_SECONDS = 60


class ObjectStore(Protocol):
    """A store that listens on this machine; the environment says where."""

    def address(self, name: str) -> str:
        """Return the address of a bucket, which need not be there."""
        ...

    def make(self, name: str) -> None:
        """Make a bucket."""
        ...


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables of the environment for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def wait_for(address: str) -> None:
    """Return when a server answers, whatever it says."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(address).close()
            return
        except urllib.error.HTTPError:
            return
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.05)  # another process: nothing tells us when it listens
