"""The flagship behind its pages in a process of its own, and a browser; run by `make test-browser`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

IS_WANTED = os.environ.get("LAKELET_BROWSER_TESTS") == "1"
if not IS_WANTED:
    collect_ignore_glob = ["test_*.py"]

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
COMMANDS = "import sys; from apparel.cli import cli; cli(sys.argv[1:], prog_name='apparel')"
WAIT_MS = 60_000
GONE = ("ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_INCOMPLETE_CHUNKED")
"""What a page says of a server that is started anew."""


def chromium() -> str:
    """Return the browser of the system, or fail with what to install."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.fail("no chromium: on Debian `apt-get install chromium`, or set CHROMIUM to its path")
    return found


@dataclass(slots=True)
class Flagship:
    """`apparel dashboard` over a storage folder."""

    storage: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None
    log: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def apparel(self, *arguments: str) -> None:
        """Run another command of the retailer to its end."""
        command = [sys.executable, "-c", COMMANDS, *arguments, "--storage", str(self.storage)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)

    def start(self) -> None:
        """Start the server; a second start takes the same port."""
        command = [sys.executable, "-c", COMMANDS, "dashboard", "--json", "--storage", str(self.storage)]
        self.process = subprocess.Popen([*command, "--port", str(self.port)], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = self.process.stdout.readline()
            assert line, "the server ended"
            text += line
        self.port = int(json.loads(text)["url"].rstrip("/").rpartition(":")[2])

    def kill(self) -> None:
        """End the server without a word."""
        assert self.process is not None
        self.process.kill()
        self._wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self._wait()

    def _wait(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.wait(90)
        self.process.stdout.close()


@pytest.fixture(scope="session")
def flagship(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flagship]:
    """The server, over a storage that has had one update."""
    flagship = Flagship(tmp_path_factory.mktemp("apparel"))
    flagship.apparel("generate", "--batches", "2", "--interval", "0", "--seed", "7")
    flagship.start()
    yield flagship
    flagship.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def problems() -> list[str]:
    """What the page's console complained about; a test that uses `page` fails if there is any."""
    return []


@pytest.fixture
def page(flagship: Flagship, browser: Any, problems: list[str]) -> Iterator[Any]:
    """A page of a fresh browser profile."""
    context = browser.new_context(base_url=flagship.url, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(WAIT_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    real = [text for text in problems if not any(name in text for name in GONE)]
    assert not real, real


def wait_for(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    """Return the first true value of `condition`."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < deadline:
        if value := condition():
            return value
        pause.wait(0.05)
    raise AssertionError("it did not happen in time")
