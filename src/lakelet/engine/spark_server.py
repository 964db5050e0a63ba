"""A Spark Connect server with Delta Lake on this machine, for development: `lakelet spark up | down | status`.

Apache Spark comes from the Python package registry into an environment of its own, Delta Lake from Maven's, both into a cache
folder; neither is a dependency of lakelet. The server listens on the loopback interface only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from lakelet.errors import LakeletError
from lakelet.processes import is_alive

SPARK_VERSION = "4.2.0"
DELTA_VERSION = "4.4.0"
"""The newest Delta Lake, and the Spark that it is built for."""
DEFAULT_PORT = 15002
QUIET_SECONDS = 180
"""A start that for so long writes nothing, neither into its log nor what it downloads, is given up."""
_DELTA = f"io.delta:delta-spark_2.13:{DELTA_VERSION}"
_WORKER_PACKAGES = ("pandas", "pyarrow", "grpcio", "grpcio-status", "googleapis-common-protos", "zstandard")
"""What Python functions of a query need on the server."""

_started: list[subprocess.Popen[bytes]] = []
"""The server outlives this process; a `Popen` that goes before it would warn of that."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that `up` has started."""

    pid: int
    port: int
    log: str

    @property
    def url(self) -> str:
        return f"sc://127.0.0.1:{self.port}"


def cache_folder() -> Path:
    """Return where Spark is kept: `LAKELET_CACHE`, else the user's cache folder."""
    base = (
        os.environ.get("LAKELET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lakelet"
    )
    return Path(base) / f"spark-{SPARK_VERSION}-delta-{DELTA_VERSION}"


def up(*, port: int = DEFAULT_PORT, memory: str = "2g", say: Say) -> RunningServer:
    """Install Spark if it is not there, start the server, and wait until it listens; one that runs is left as it is.

    Raises:
        LakeletError: `SPARK_SERVER_NEEDS_JAVA`, `SPARK_SERVER_NOT_INSTALLED`, `SPARK_SERVER_NOT_STARTED`.
    """
    running = status()
    if running is not None:
        return running
    java = _java()
    folder = cache_folder()
    python = _installed(folder, say)
    log = folder / "server.log"
    say(f"starting Apache Spark {SPARK_VERSION} with Delta Lake {DELTA_VERSION} on port {port}; its log is {log}")
    with log.open("w") as output:
        process = subprocess.Popen(
            _command(folder, python, port, memory),
            cwd=folder,
            env={**os.environ, "JAVA_HOME": str(java), "PYSPARK_PYTHON": str(python), "SPARK_HOME": str(_home(folder))},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(process)
    server = RunningServer(pid=process.pid, port=port, log=str(log))
    _wait_until_it_listens(process, server, folder)
    (folder / "server.json").write_text(json.dumps(asdict(server)))
    return server


def down() -> RunningServer | None:
    """Stop the server; returns which, None if none runs."""
    server = status()
    if server is not None:
        _end(server.pid)
        (cache_folder() / "server.json").unlink(missing_ok=True)
    return server


def status() -> RunningServer | None:
    """Return the server that runs, None if there is none."""
    path = cache_folder() / "server.json"
    try:
        server = RunningServer(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    return server if is_alive(server.pid) and _listens(server.port) else None


# -- installing ---------------------------------------------------------------------------------------------------


def _installed(folder: Path, say: Say) -> Path:
    """Return the Python of the server's environment, made if it is not there."""
    python = folder / "venv" / "bin" / "python"
    if (folder / "installed").exists():
        return python
    say(f"installing Apache Spark {SPARK_VERSION} into {folder}: about 450 MB, once")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    steps = (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "-q", f"pyspark=={SPARK_VERSION}", *_WORKER_PACKAGES],
    )
    for step in steps:
        result = subprocess.run(step, capture_output=True, text=True, check=False)
        if result.returncode:
            raise LakeletError(
                "SPARK_SERVER_NOT_INSTALLED",
                f"Apache Spark {SPARK_VERSION} could not be installed",
                cause="\n".join((result.stderr or result.stdout).strip().splitlines()[-5:]),
                hint="check that this machine reaches the Python package registry, then run `lakelet spark up` again",
            )
    (folder / "installed").touch()
    return python


def _java() -> Path:
    """Return the home of Java 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    said = ""
    if program and Path(program).exists():
        said = subprocess.run([program, "-version"], capture_output=True, text=True, check=False).stderr
        found = re.search(r'version "(\d+)', said)
        if found and int(found[1]) >= 17:
            return Path(program).resolve().parents[1]
    raise LakeletError(
        "SPARK_SERVER_NEEDS_JAVA",
        "Apache Spark needs Java 17 or newer",
        cause=f"`{program}` is {said.splitlines()[0]}" if said else "there is no `java` on the PATH and no JAVA_HOME",
        hint="install a Java runtime, for example OpenJDK 17, or set JAVA_HOME",
    )


# -- the process --------------------------------------------------------------------------------------------------


def _home(folder: Path) -> Path:
    (home,) = (folder / "venv" / "lib").glob("python*/site-packages/pyspark")
    return home


def _command(folder: Path, python: Path, port: int, memory: str) -> list[str]:
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.jars.ivy": str(folder / "ivy"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
    }
    jars = sorted((folder / "jars").glob("*.jar"))
    delta = ["--jars", ",".join(map(str, jars))] if jars else ["--packages", _DELTA]
    options = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    return [
        str(_home(folder) / "bin" / "spark-submit"),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
        *("--master", "local[*]", "--driver-memory", memory, *delta, *options),
        "spark-internal",
    ]


def _wait_until_it_listens(process: subprocess.Popen[bytes], server: RunningServer, folder: Path) -> None:
    """Return when the server answers; while it downloads, or a slow machine starts it, it may take its time."""
    written, deadline = -1, 0.0
    while not _listens(server.port):
        if process.poll() is not None:
            raise _not_started(server, "it ended")
        if (now_written := _written(folder)) != written:
            written, deadline = now_written, time.monotonic() + QUIET_SECONDS
        elif time.monotonic() > deadline:
            failure = _not_started(server, f"for {QUIET_SECONDS} seconds it has written nothing")
            _end(process.pid)
            raise failure
        time.sleep(0.2)


def _written(folder: Path) -> int:
    """Return the bytes of the log and of what was downloaded so far."""
    files = (folder / "server.log", *(folder / "ivy").rglob("*"))
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):  # a download that was just renamed
            total += file.stat().st_size
    return total


def _not_started(server: RunningServer, why: str) -> LakeletError:
    log, port = server.log, server.port
    text = Path(log).read_text(errors="replace")
    lines = [line for line in text.splitlines() if not line.startswith("\tat ")]
    return LakeletError(
        "SPARK_SERVER_NOT_STARTED",
        f"the Spark server on port {port} did not start: {why}",
        cause="\n".join(lines[-8:]),
        hint=f"read {log}; another port is chosen with `lakelet spark up --port`",
    )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _end(pid: int) -> None:
    """End the server and what it started; at first kindly."""
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not is_alive(pid):
                return
            time.sleep(0.1)
