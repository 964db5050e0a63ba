"""Azure's storage by Azurite, Microsoft's emulator: its interface of blobs, which has conditional writes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from tests.object_stores import environment, free_port, wait_for

ACCOUNT = "devstoreaccount1"
KEY = base64.b64encode(b"lakelet's tests, and nobody else").decode()


class Azure:
    """The emulator that the environment names."""

    @property
    def url(self) -> str:
        return os.environ["AZURITE_BLOB_STORAGE_URL"]

    def address(self, name: str) -> str:
        return f"abfs://{name}@{ACCOUNT}.dfs.core.windows.net"

    def make(self, name: str) -> None:
        headers = {
            "x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"),
            "x-ms-version": "2021-08-06",
        }
        told = "".join(f"{key}:{value}\n" for key, value in sorted(headers.items()))
        signed = "PUT" + "\n" * 12 + f"{told}/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
        signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), signed.encode(), hashlib.sha256)).decode()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
        url = f"{self.url}/{ACCOUNT}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


@contextmanager
def azure_server(programs: Path) -> Iterator[None]:
    """Serve Azure's storage from memory, and say in the environment where it is."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    azurite = programs / "node_modules" / ".bin" / "azurite-blob"
    command = [str(azurite), "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck", "--silent"]
    accounts = {"AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}"}
    process = subprocess.Popen(
        [*command, "--blobHost", "127.0.0.1", "--blobPort", str(port)],
        env={**os.environ, **accounts},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    settings = {
        "AZURITE_BLOB_STORAGE_URL": url,
        "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
        "AZURE_STORAGE_ACCOUNT_KEY": KEY,
        "AZURE_STORAGE_USE_EMULATOR": "true",
    }
    try:
        with environment(settings):
            wait_for(url)
            yield
    finally:
        process.terminate()
        process.wait()
