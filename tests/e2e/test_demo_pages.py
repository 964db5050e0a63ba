"""`apparel demo --ui` in a process of its own: its pages answer, tell what happens while it happens, and end when asked."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = "from apparel.cli import main; main()"


class Demo:
    """The command, until it is told to stop."""

    def __init__(self, storage: Path) -> None:
        arguments = ["demo", "--ui", "--port", "0", "--storage", str(storage), "--seed", "1", "--keep-running"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.fullmatch(r"apparel: http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends it\)\n", said)
        assert found is not None, said + self.process.communicate()[1]
        self.port = int(found[1])

    def get(self, path: str) -> tuple[int, str, str | None]:
        """Return status, text, and where the answer leads to."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read().decode(), answer.getheader("location")
        finally:
            connection.close()

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield what a page that is open is told."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/live")
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        try:
            while line := answer.readline().decode():
                if line.startswith("data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    demo = Demo(tmp_path / "storage")
    yield demo
    demo.process.kill()
    demo.process.communicate()


@pytest.mark.timeout(300)
def test_the_pages_show_the_pipeline_at_work_until_ctrl_c(demo: Demo, tmp_path: Path) -> None:
    status, _, location = demo.get("/")
    assert status in (302, 303, 307) and location == "/retail"
    status, page, _ = demo.get("/retail")
    assert status == 200 and "<html" in page and "Retail" in page
    sequences: list[int] = []
    messages = demo.messages()
    for message in messages:
        sequences.append(message["sequence"])
        if message["written"] > 0 and sequences[-1] > sequences[0]:
            break
    messages.close()
    assert sequences == sorted(sequences)
    assert message["state"] == "RUNNING" and message["runner"]["running"]
    assert any(dataset["written"] for dataset in message["datasets"].values())
    update = json.loads(demo.get("/pipeline.json")[1])["update"]
    assert update["written"] >= message["written"]
    demo.process.send_signal(signal.SIGINT)
    _, errors = demo.process.communicate(timeout=120)
    assert (demo.process.returncode, errors) == (0, "")
    assert not (tmp_path / "storage" / "_lock").exists()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", demo.port), timeout=5):
        pass
