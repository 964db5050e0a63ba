"""`lakelet serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from tests.web.web_kit import Shop

COMMAND = "from lakelet.cli import main; main()"
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "SPARK_CONNECT_MODE_ENABLED"}


class Server:
    """The command, until it is told to stop."""

    def __init__(self, shop: Shop, *options: str) -> None:
        arguments = ["serve", "--spec", str(shop.root), "--port", "0", "--flight-port", "0", "--json", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
        )
        assert self.process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}") and (line := self.process.stdout.readline()):
            text += line
        self.said: dict[str, Any] = json.loads(text)

    def stop(self, number: int = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def ended(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that ends by itself."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    server = Server(shop)
    yield server
    server.process.kill()
    server.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_is_and_ends_when_asked(
    server: Server, new_session: Callable[[str], SparkSession], number: int
) -> None:
    assert server.said["tables"] == ["bronze.orders", "event_log", "gold.totals", "silver.paid"]
    assert server.said["token"] is None
    assert new_session(server.said["spark_connect"]).table("gold.totals").count() == 2
    code, errors = server.stop(number)
    assert (code, errors) == (0, "")


def test_nothing_is_left_behind_when_it_is_killed(server: Server) -> None:
    import psutil

    engines = [psutil.Process(pid) for pid in children_of(server.process.pid)]
    assert engines
    server.process.kill()
    _, alive = psutil.wait_procs(engines, timeout=60)
    assert not alive


@pytest.mark.parametrize("option", ["--port", "--flight-port"])
def test_a_port_may_be_in_use(shop: Shop, option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        arguments = ["serve", "--spec", str(shop.root), "--port", "0", "--flight-port", "0", option, port]
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
        )
    assert done.returncode == 2
    assert f"ADDRESS_IN_USE]: the door cannot be served at 127.0.0.1, port {port}" in done.stderr
    assert f"choose another port with `{option}`" in done.stderr


def test_files_that_do_not_load_are_an_error_at_once(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "spark-pipeline.yml").write_text((shop.root / "spark-pipeline.yml").read_text())
    (tmp_path / "transformations").mkdir()
    (tmp_path / "transformations" / "broken.py").write_text("this is no Python")
    arguments = ["serve", "--spec", str(tmp_path), "--port", "0", "--flight-port", "0"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 2
    assert "transformations/broken.py:1" in done.stderr


def test_a_certificate_and_its_key_belong_together(shop: Shop, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from lakelet.cli import cli

    arguments = ["serve", "--spec", str(shop.root), "--tls-certificate", str(tmp_path / "no.pem")]
    assert "belong together" in CliRunner().invoke(cli, arguments).output
    done = CliRunner().invoke(cli, [*arguments, "--tls-key", str(tmp_path / "no.key")])
    assert (done.exit_code, "TLS_FILE_NOT_READABLE" in done.output + done.stderr) == (2, True)
