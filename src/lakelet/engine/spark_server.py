"""A Spark Connect server with Delta Lake on this machine, for development: `lakelet spark up | down | status`.

It and the processes that it starts listen on the loopback interface only. What is known of it is noted in the cache folder as
soon as its process is there, so that one whose `up` was killed is found as well.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lakelet.engine.spark_install import (
    DELTA_VERSION,
    SPARK_VERSION,
    Installation,
    Say,
    cache_folder,
    installed,
    java_home,
    opened_cache_folder,
    packages,
)
from lakelet.engine.spark_object_stores import OBJECT_STORES, account_of, endpoint_of, settings_of
from lakelet.errors import LakeletError, SpecError
from lakelet.processes import identity, is_alive

DEFAULT_PORT = 15002
DEFAULT_MEMORY = "2g"
QUIET_SECONDS = 180
"""A start that for so long writes nothing, neither into its log nor what it downloads, is given up."""
LEAST_MEMORY = 512 * 2**20
"""Spark refuses less than 450 MiB."""
_UNITS = {"m": 2**20, "g": 2**30, "t": 2**40}
_NOT_PASSED_ON = (
    "SPARK_CONF_DIR",
    "HADOOP_CONF_DIR",
    "YARN_CONF_DIR",
    "SPARK_REMOTE",
    "SPARK_CONNECT_AUTHENTICATE_TOKEN",
)
"""Variables that say how to reach another cluster; the last one would make this server ask for a token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that `up` has started.

    Attributes:
        identity: tells its process from another one that has got its number since.
        object_store: where it reads and writes too, a key of `OBJECT_STORES`.
        endpoint: of the object store, empty for its provider's own.
        account: whose credentials it has there, empty where the environment did not say.
    """

    pid: int
    port: int
    log: str
    identity: str = ""
    memory: str = DEFAULT_MEMORY
    object_store: str | None = None
    endpoint: str = ""
    account: str = ""

    @property
    def url(self) -> str:
        return f"sc://127.0.0.1:{self.port}"


def up(
    *, port: int | None = None, memory: str | None = None, object_store: str | None = None, say: Say
) -> RunningServer:
    """Install Spark if it is not there, start the server, and wait until it listens; one that runs is left as it is.

    Args:
        port: 15002 if a server does not run yet on another one.
        memory: of the server, as Java writes it.
        object_store: a key of `OBJECT_STORES`, to read and write there too, with the credentials and at the endpoint that the
            environment names.

    Raises:
        SpecError: `SPARK_SERVER_NEEDS_JAVA`, `SPARK_SERVER_MEMORY`, `SPARK_SERVER_PORT_TAKEN`, `SPARK_SERVER_RUNS_OTHERWISE`,
            `SPARK_SERVER_CACHE_NOT_WRITABLE`: nothing was started.
        LakeletError: `SPARK_SERVER_NOT_INSTALLED`, `SPARK_SERVER_NOT_STARTED`.
    """
    _check_memory(DEFAULT_MEMORY if memory is None else memory)
    folder = opened_cache_folder()
    endpoint, account = endpoint_of(object_store), account_of(object_store)
    with _alone(folder, say):
        running = status()
        if running is not None:
            _check_same(
                running, port=port, memory=memory, object_store=object_store, endpoint=endpoint, account=account
            )
            return running
        silent = noted()
        if silent is not None:
            say(f"process {silent.pid} of an earlier start does not answer at {silent.url}: it is ended")
            _end(silent.pid)
        java = java_home()
        wanted = port or DEFAULT_PORT
        _check_port(wanted)
        spark = installed(folder, say)
        say(_starting(folder, wanted, object_store))
        server = RunningServer(
            pid=0,
            port=wanted,
            log=str(folder / "server.log"),
            memory=memory or DEFAULT_MEMORY,
            object_store=object_store,
            endpoint=endpoint,
            account=account,
        )
        return _start(server, spark, java)


def down() -> RunningServer | None:
    """Stop the server, also one that does not answer; returns which, None if none runs."""
    server = noted()
    if server is not None:
        _end(server.pid)
    (cache_folder() / "server.json").unlink(missing_ok=True)
    return server


def status() -> RunningServer | None:
    """Return the server that runs and answers, None if there is none."""
    server = noted()
    return server if server is not None and _listens(server.port) else None


def noted() -> RunningServer | None:
    """Return the server whose process is there, whether it answers or not."""
    try:
        server = RunningServer(**json.loads((cache_folder() / "server.json").read_text("utf-8")))
    except (OSError, ValueError, TypeError):  # none, or a note that was not written to its end
        return None
    is_there = server.pid > 1 and is_alive(server.pid) and identity(server.pid) == server.identity
    return server if is_there else None


# -- what is refused before anything is started -------------------------------------------------------------------


def _check_memory(memory: str) -> None:
    found = re.fullmatch(r"(\d+)([mgt])", memory, re.IGNORECASE)
    cause = None
    if found is None:
        cause = "it is a whole number with `m` for MiB or `g` for GiB"
    else:
        wanted, there = int(found[1]) * _UNITS[found[2].lower()], _memory_bytes()
        if wanted < LEAST_MEMORY:
            cause = "Spark does not start with less than 512m"
        elif there and wanted > there:
            cause = f"this machine has {there / 2**30:.1f}g altogether"
    if cause is not None:
        raise SpecError(
            "SPARK_SERVER_MEMORY",
            f"the server cannot have `{memory}` of memory",
            cause=cause,
            hint="write for example `lakelet spark up --memory 2g`",
        )


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            raise SpecError(
                "SPARK_SERVER_PORT_TAKEN",
                f"the server cannot listen on port {port}",
                cause="another program listens there" if taken else (error.strerror or str(error)),
                hint=f"choose another one: `lakelet spark up --port {DEFAULT_PORT if port < 1024 else port + 1}`",
            ) from error


def _check_same(
    running: RunningServer,
    *,
    port: int | None,
    memory: str | None,
    object_store: str | None,
    endpoint: str,
    account: str,
) -> None:
    """Refuse to take a server for another one that was asked for."""
    have = {
        "on port": running.port,
        "with memory": running.memory,
        "with the object store": running.object_store or "none",
    }
    asked = {"on port": port, "with memory": memory, "with the object store": object_store}
    if object_store and running.object_store:
        own = "of its provider"
        have |= {
            "with the endpoint": running.endpoint or own,
            "with the account": running.account or "of its environment",
        }
        asked |= {"with the endpoint": endpoint or own, "with the account": account or "of its environment"}
    different = [f"{what} {have[what]}, not {value}" for what, value in asked.items() if value and value != have[what]]
    if different:
        raise SpecError(
            "SPARK_SERVER_RUNS_OTHERWISE",
            f"a server runs already, at {running.url}",
            cause=f"it runs {'; '.join(different)}",
            hint=f"use it as it is (`--conf lakelet.engine={running.url}`), or stop it first with `lakelet spark down`",
        )


@contextlib.contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Let one `up` after the other install and start."""
    with (folder / "up.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another `lakelet spark up` is under way: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


# -- the process --------------------------------------------------------------------------------------------------


def _starting(folder: Path, port: int, object_store: str | None) -> str:
    jars = folder / "ivy" / "jars"
    missing = [] if any(jars.glob("io.delta*")) or (folder / "jars").exists() else ["Delta Lake (90 MB)"]
    store = OBJECT_STORES[object_store] if object_store else None
    if store and not (any(jars.glob(f"*{store.jar}*")) or (folder / "jars").exists()):
        missing.append(f"what reads {store.title} ({store.megabytes} MB)")
    fetched = f"; it downloads {' and '.join(missing)}, once" if missing else ""
    return (
        f"starting Apache Spark {SPARK_VERSION} with Delta Lake {DELTA_VERSION} on port {port}{fetched}; "
        f"its log is {folder / 'server.log'}"
    )


def _start(wanted: RunningServer, spark: Installation, java: Path) -> RunningServer:
    environment = {key: value for key, value in os.environ.items() if key not in _NOT_PASSED_ON}
    environment |= {"JAVA_HOME": str(java), "PYSPARK_PYTHON": str(spark.python), "SPARK_HOME": str(spark.home)}
    with Path(wanted.log).open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            _command(wanted, spark),
            cwd=spark.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    note = spark.folder / "server.json"
    try:
        server = RunningServer(**{**asdict(wanted), "pid": process.pid, "identity": identity(process.pid)})
        note.write_text(json.dumps(asdict(server)), "utf-8")
        _wait_until_it_listens(process, server, spark.folder)
    except BaseException:  # Ctrl-C above all: it does not reach the server, which has a session of its own
        _end(process.pid)
        note.unlink(missing_ok=True)
        raise
    finally:
        process.returncode = 0  # the server outlives this process: a `Popen` that goes before it would warn of that
    return server


def _command(server: RunningServer, spark: Installation) -> list[str]:
    folder = spark.folder
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(server.port),
        # Otherwise Spark looks the machine's name up, which without a network may lead nowhere, and listens there.
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.jars.ivy": str(folder / "ivy"),
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.shuffle.partitions": "4",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.ui.enabled": "false",
        **settings_of(server.object_store, server.endpoint),
    }
    options = [part for key, value in settings.items() for part in ("--conf", f"{key}={value}")]
    return [
        str(spark.home / "bin" / "spark-submit"),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
        *("--master", "local[*]", "--driver-memory", server.memory, *packages(folder, server.object_store), *options),
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
    text = Path(server.log).read_text("utf-8", errors="replace")
    lines = [line for line in text.splitlines() if not line.startswith("\tat ")]
    missing = re.findall(r"unresolved dependency: ([^\s#]+)#([^;\s]+);([^:\s]+)|download failed: ([^\s!]+)", text)
    if missing:
        names = dict.fromkeys(":".join(part for part in item if part) for item in missing)
        return LakeletError(
            "SPARK_SERVER_NOT_INSTALLED",
            "what Spark needs beside itself could not be downloaded",
            cause=f"missing: {', '.join(names)}",
            hint="check that this machine reaches Maven's central repository, then run `lakelet spark up` again; the log is "
            f"{server.log}",
        )
    return LakeletError(
        "SPARK_SERVER_NOT_STARTED",
        f"the Spark server on port {server.port} did not start: {why}",
        cause="\n".join(lines[-8:]) or "it wrote nothing into its log",
        hint=f"read {server.log}, then run `lakelet spark up` again",
    )


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _end(pid: int) -> None:
    """End the server and what it started; at first kindly."""
    for number, seconds in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise LakeletError(
                "SPARK_SERVER_OF_ANOTHER_USER",
                f"the server (process {pid}) belongs to another user of this machine, and cannot be stopped by you",
                hint="ask them to run `lakelet spark down`, or use a cache folder of your own: LAKELET_CACHE=<folder>",
            ) from error
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not is_alive(pid):
                return
            time.sleep(0.1)
