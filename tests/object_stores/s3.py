"""S3 by moto's server, which knows conditional writes."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.object_stores import environment, free_port, wait_for


@dataclass(frozen=True)
class S3:
    """A server of its own process.

    Attributes:
        url: where it listens.
    """

    url: str

    def address(self, name: str) -> str:
        return f"s3://{name}"

    def make(self, name: str) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/{name}", method="PUT")).close()


@contextmanager
def s3_server() -> Iterator[S3]:
    """Serve S3 in a process of its own, and say in the environment where it is."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }
    try:
        with environment(settings):
            wait_for(url)
            yield S3(url)
    finally:
        process.terminate()
        process.wait()
