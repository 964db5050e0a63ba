"""How the local Spark server is waited for: as long as it makes progress, and no longer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lakelet.engine import spark_server
from lakelet.engine.spark_server import RunningServer
from lakelet.errors import LakeletError


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += 30


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(spark_server, "time", clock)
    return clock


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    yield process
    process.communicate()


def server(folder: Path) -> RunningServer:
    log = folder / "server.log"
    log.write_text("resolving dependencies\n\tat some.Class\n")
    return RunningServer(pid=1, port=1, log=str(log))


def test_a_slow_start_is_waited_for_while_it_downloads(
    tmp_path: Path, clock: Clock, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = server(tmp_path)
    jar = tmp_path / "ivy" / "jars" / "delta.jar"
    jar.parent.mkdir(parents=True)

    def listens(port: int) -> bool:
        jar.write_bytes(b"x" * int(clock.now + 1))
        return clock.now > 20 * spark_server.QUIET_SECONDS

    monkeypatch.setattr(spark_server, "_listens", listens)
    spark_server._wait_until_it_listens(process, running, tmp_path)
    assert clock.now > 20 * spark_server.QUIET_SECONDS


def test_a_start_without_progress_is_given_up_and_told_with_its_log(
    tmp_path: Path, clock: Clock, process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(spark_server, "_listens", lambda port: False)
    monkeypatch.setattr(spark_server, "_end", ended.append)
    with pytest.raises(LakeletError) as raised:
        spark_server._wait_until_it_listens(process, server(tmp_path), tmp_path)
    assert raised.value.condition == "SPARK_SERVER_NOT_STARTED"
    assert raised.value.message.endswith("for 180 seconds it has written nothing")
    assert raised.value.cause == "resolving dependencies"
    assert ended == [process.pid]
    assert clock.now < 2 * spark_server.QUIET_SECONDS


def test_a_start_that_ends_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    ended.wait()
    monkeypatch.setattr(spark_server, "_listens", lambda port: False)
    with pytest.raises(LakeletError, match="it ended"):
        spark_server._wait_until_it_listens(ended, server(tmp_path), tmp_path)
