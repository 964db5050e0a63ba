"""`lakelet spark up | status | down` with the real server, beside the one of this run: same downloads, another port."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.local_spark import killable_server
from tests.remote_kit import free_port

from lakelet.engine.connect import ConnectEngine
from lakelet.engine.spark_install import cache_folder
from lakelet.plan import relation as plan
from lakelet.processes import is_alive

pytestmark = [pytest.mark.feature("A server on this machine: up, status, down"), pytest.mark.timeout(600)]


@pytest.fixture
def lakelet(tmp_path: Path, engine: ConnectEngine) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The command line, with a cache of its own that has the downloads of this run's."""
    if not engine.capabilities.cluster_writes:
        pytest.skip("needs a server of `lakelet spark up`")
    killable_server()
    there = cache_folder()
    folder = tmp_path / there.name
    folder.mkdir()
    for name in ("venv", "ivy"):
        (folder / name).symlink_to(there / name)
    (folder / "installed").touch()
    environment = {
        **os.environ,
        "LAKELET_CACHE": str(tmp_path),
        "SPARK_CONNECT_AUTHENTICATE_TOKEN": "of another server",
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("lakelet")), "spark", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)

    yield run
    run("down")


def test_up_status_and_down(lakelet: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    port = free_port()
    up = lakelet("up", "--port", str(port), "--memory", "600m", "--json")
    assert up.returncode == 0, up.stderr
    told = json.loads(up.stdout)
    assert json.loads(lakelet("status", "--json").stdout) == told
    assert lakelet("up").stdout.startswith(f"Apache Spark answers at sc://127.0.0.1:{port}\n")
    engine = ConnectEngine(told["url"])
    assert engine.capabilities.cluster_writes
    assert engine.collect(plan.sql("SELECT 6 * 7 AS n"))["n"].to_pylist() == [42]
    engine.close()
    assert listeners(told["pid"]) <= {"127.0.0.1"}
    assert lakelet("down").stdout == f"stopped the server at {told['url']}\n"
    assert lakelet("status").stdout == "no server runs\n"
    assert not is_alive(told["pid"])


def listeners(pid: int) -> set[str]:
    """Return the addresses that a process listens at, as far as this machine tells."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        target = str(link.readlink()) if link.is_symlink() else ""
        if target.startswith("socket:["):
            sockets.add(target[8:-1])
    found = set()
    for name in ("tcp", "tcp6"):
        table = Path(f"/proc/{pid}/net/{name}")
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                digits = fields[1].partition(":")[0][-8:]
                found.add(".".join(str(int(digits[at : at + 2], 16)) for at in (6, 4, 2, 0)))
    return found
