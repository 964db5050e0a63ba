"""`lakelet spark up | down | status` as somebody tired uses it; Java and Spark are small programs of this file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lakelet.cli import cli
from lakelet.engine import spark_install
from lakelet.processes import identity, is_alive

JAVA = """#!/bin/sh
echo '    java.home = {home}' >&2
echo 'openjdk version "{version}" 2025-04-15' >&2
"""
SUBMIT = f"""#!{sys.executable}
import json, os, socket, sys, time
settings = dict(text.split("=", 1) for at, text in enumerate(sys.argv) if sys.argv[at - 1] == "--conf")
with open("started.json", "w") as file:
    json.dump({{"arguments": sys.argv, "environment": dict(os.environ)}}, file)
behaviour = os.environ.get("FAKE_SPARK", "listens")
print(behaviour, flush=True)
if behaviour == "listens":
    listener = socket.create_server(("127.0.0.1", int(settings["spark.connect.grpc.binding.port"])))
if behaviour in ("listens", "is silent"):
    while True:
        time.sleep(60)
"""


class Machine:
    """A machine with a Java on its path and a Spark in its cache."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self._set = monkeypatch.setenv
        self.cache = folder / "cache" / f"spark-{spark_install.SPARK_VERSION}-delta-{spark_install.DELTA_VERSION}"
        stores = [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "AZURITE_", "GOOGLE_"))]
        for name in ("JAVA_HOME", *stores):
            monkeypatch.delenv(name, raising=False)
        self._set("LAKELET_CACHE", str(folder / "cache"))
        self._set("PATH", f"{folder / 'jdk' / 'bin'}:/usr/bin:/bin")
        self.java("17.0.15")
        self.home = self.cache / "venv/lib/python3.11/site-packages/pyspark"
        _program(self.home / "bin" / "spark-submit", SUBMIT)
        _program(self.cache / "venv/bin/python", "#!/bin/sh\n")
        (self.cache / "installed").touch()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]

    def java(self, version: str, *, name: str = "jdk") -> Path:
        home = self.folder / name
        _program(home / "bin" / "java", JAVA.format(home=home, version=version))
        return home

    def spark(self, behaviour: str) -> None:
        self._set("FAKE_SPARK", behaviour)

    def environment(self, **variables: str) -> None:
        for name, value in variables.items():
            self._set(name, value)

    def lakelet(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli, ["spark", *arguments])

    def up(self, *arguments: str) -> Result:
        return self.lakelet("up", "--port", str(self.port), *arguments)

    @property
    def started(self) -> dict[str, Any]:
        """What the last server was started with."""
        found: dict[str, Any] = json.loads((self.cache / "started.json").read_text())
        return found

    @property
    def note(self) -> Path:
        return self.cache / "server.json"


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path, monkeypatch)
    yield machine
    machine.lakelet("down")


def refused(result: Result, condition: str, *parts: str, code: int = 2) -> None:
    assert result.exit_code == code, result.output
    assert f"error[{condition}]" in result.stderr
    assert "hint: " in result.stderr
    for part in parts:
        assert part in result.stderr


def test_up_status_down_and_each_of_them_twice(machine: Machine) -> None:
    assert machine.lakelet("status").stdout == "no server runs\n"
    first = machine.up()
    assert first.exit_code == 0, first.output
    url = f"sc://127.0.0.1:{machine.port}"
    assert first.stdout == f"Apache Spark answers at {url}\n\nnext: lakelet run --conf lakelet.engine={url}\n"
    told = json.loads(machine.lakelet("status", "--json").stdout)
    assert (told["url"], told["memory"], told["object_store"]) == (url, "2g", None)
    again = machine.lakelet("up", "--json")
    assert json.loads(again.stdout) == told
    assert again.stderr == ""
    assert str(told["pid"]) in machine.lakelet("status").stdout
    assert machine.lakelet("down").stdout == f"stopped the server at {url}\n"
    assert not is_running(told["pid"])
    assert machine.lakelet("down").stdout == machine.lakelet("status").stdout == "no server runs\n"


def is_running(pid: int) -> bool:
    return is_alive(pid) and "Z" not in _state(pid)


def _state(pid: int) -> str:
    return subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout


def test_a_port_that_is_taken_is_told_before_anything_is_started(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", machine.port)):
        refused(
            machine.up(), "SPARK_SERVER_PORT_TAKEN", str(machine.port), "another program", f"--port {machine.port + 1}"
        )
    assert not (machine.cache / "started.json").exists()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [(["--port", "1024"], "not 1024"), (["--memory", "3g"], "2g, not 3g"), (["--object-store", "s3"], "none, not s3")],
)
def test_another_server_than_the_one_that_runs_is_not_promised(
    machine: Machine, arguments: list[str], part: str
) -> None:
    assert machine.up().exit_code == 0
    refused(machine.lakelet("up", *arguments), "SPARK_SERVER_RUNS_OTHERWISE", part, "lakelet spark down")


@pytest.mark.parametrize("memory", ["banana", "2", "2.5g", "-1g", "256m", "4000t", "2 g", ""])
def test_memory_that_makes_no_sense(machine: Machine, memory: str) -> None:
    refused(machine.up("--memory", memory), "SPARK_SERVER_MEMORY", f"`{memory}`", "--memory 2g")


# -- Java


def test_no_java(machine: Machine) -> None:
    machine.environment(PATH=str(machine.folder))
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "no `java` on the PATH")


@pytest.mark.parametrize("version", ["11.0.2", "1.8.0_392"])
def test_an_old_java(machine: Machine, version: str) -> None:
    machine.java(version)
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "Java 17 or newer", f'openjdk version "{version}"')


def test_java_home_counts_and_is_named(machine: Machine) -> None:
    old = machine.java("11.0.2", name="old")
    machine.environment(JAVA_HOME=str(old))
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "(from JAVA_HOME)", "11.0.2")
    machine.environment(JAVA_HOME="/nowhere")
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "JAVA_HOME is `/nowhere`", "there is no such program")
    machine.environment(JAVA_HOME="")
    assert machine.up().exit_code == 0


def test_a_java_that_is_none(machine: Machine) -> None:
    _program(machine.folder / "jdk/bin/java", "#!/bin/sh\necho 'No runtime present, requesting install.' >&2; exit 1\n")
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "No runtime present")
    _program(machine.folder / "jdk/bin/java", "neither a script nor a program")
    refused(machine.up(), "SPARK_SERVER_NEEDS_JAVA", "cannot be run")


def test_the_home_of_java_is_where_java_says(machine: Machine) -> None:
    """A version manager puts a script on the PATH; the folder above it is the home of nothing."""
    _program(machine.folder / "shims/java", JAVA.format(home="/opt/jdk 21", version="21"))
    machine.environment(PATH=f"{machine.folder / 'shims'}:/usr/bin:/bin")
    assert machine.up().exit_code == 0
    assert machine.started["environment"]["JAVA_HOME"] == "/opt/jdk 21"


# -- what is noted of the server


def test_a_server_that_was_killed_from_outside_is_gone_and_the_next_one_starts(machine: Machine) -> None:
    machine.up()
    pid = json.loads(machine.note.read_text())["pid"]
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert machine.lakelet("status").stdout == "no server runs\n"
    assert machine.up().exit_code == 0
    assert json.loads(machine.note.read_text())["pid"] != pid


def test_a_process_that_has_got_the_number_of_the_server_is_left_alone(machine: Machine) -> None:
    machine.up()
    noted = json.loads(machine.note.read_text())
    machine.lakelet("down")
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    try:
        machine.note.write_text(json.dumps({**noted, "pid": stranger.pid}))
        with socket.create_server(("127.0.0.1", machine.port)):  # and another program its port
            assert machine.lakelet("status").stdout == machine.lakelet("down").stdout == "no server runs\n"
        assert stranger.poll() is None
    finally:
        stranger.communicate()
    assert not machine.note.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 0, "port": 1, "log": ""}', '{"process": 1}'])
def test_a_note_that_is_torn_is_none(machine: Machine, text: str) -> None:
    machine.note.write_text(text)
    assert machine.lakelet("status").stdout == machine.lakelet("down").stdout == "no server runs\n"
    machine.note.write_text(text)
    assert machine.up().exit_code == 0


def test_a_server_that_does_not_answer_is_told_of_and_ended_by_the_next_start(machine: Machine) -> None:
    """As a start leaves it that was itself killed."""
    silent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True)
    note = {"pid": silent.pid, "port": machine.port, "log": "server.log", "identity": identity(silent.pid)}
    machine.note.write_text(json.dumps(note))
    assert f"process {silent.pid} does not answer" in machine.lakelet("status").stdout
    assert json.loads(machine.lakelet("status", "--json").stdout) is None
    result = machine.up()
    assert result.exit_code == 0
    assert f"process {silent.pid} of an earlier start" in result.stderr
    assert not is_running(silent.pid)
    silent.communicate()


# -- installing


def test_half_an_installation_is_installed_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.home / "bin/spark-submit").unlink()
    steps = []

    def run(step: list[str], **options: Any) -> Any:
        if "-m" not in step:
            return subprocess_run(step, **options)
        steps.append(step[1:3])
        _program(machine.home / "bin" / "spark-submit", SUBMIT)
        _program(machine.cache / "venv/bin/python", "#!/bin/sh\n")
        return SimpleNamespace(returncode=0, stderr="", stdout="")

    subprocess_run = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    result = machine.up()
    assert result.exit_code == 0, result.output
    assert "parts of Apache Spark are missing" in result.stderr
    assert steps == [["-m", "venv"], ["-m", "pip"]]
    assert (machine.cache / "installed").exists()


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution found for pyspark==4.2.0", "Python package registry"),
        ("ERROR: Could not install: [Errno 28] No space left on device", "free some space"),
    ],
)
def test_an_installation_that_fails_says_why_and_is_not_taken_for_one(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, said: str, hint: str
) -> None:
    (machine.cache / "installed").unlink()
    subprocess_run = subprocess.run

    def run(step: list[str], **options: Any) -> Any:
        if "-m" in step:
            return SimpleNamespace(returncode=int("pip" in step), stderr=said, stdout="")
        return subprocess_run(step, **options)

    monkeypatch.setattr(subprocess, "run", run)
    refused(machine.up(), "SPARK_SERVER_NOT_INSTALLED", said.splitlines()[-1], hint, code=1)
    assert not (machine.cache / "installed").exists()
    assert not machine.note.exists()


def test_a_disk_without_space_for_it(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.cache / "installed").unlink()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=200_000_000))
    refused(machine.up(), "SPARK_SERVER_NOT_INSTALLED", "0.2 GB are free", "LAKELET_CACHE", code=1)


def test_a_cache_that_is_no_folder(machine: Machine) -> None:
    (machine.folder / "file").touch()
    machine.environment(LAKELET_CACHE=str(machine.folder / "file"))
    refused(machine.up(), "SPARK_SERVER_CACHE_NOT_WRITABLE", "LAKELET_CACHE")


# -- starting


def test_a_server_that_ends_at_once_is_told_with_the_end_of_its_log(machine: Machine) -> None:
    machine.spark("Exception in thread main: no\n\tat some.Class")
    refused(machine.up(), "SPARK_SERVER_NOT_STARTED", "it ended", "Exception in thread main: no", "server.log", code=1)
    assert not machine.note.exists()
    assert machine.lakelet("status").stdout == "no server runs\n"


def test_jars_that_cannot_be_downloaded_are_named(machine: Machine) -> None:
    machine.spark(
        ":: io.delta#delta-spark_2.13;4.4.0: not found\nunresolved dependency: io.delta#delta-spark_2.13;4.4.0: not found"
    )
    refused(machine.up(), "SPARK_SERVER_NOT_INSTALLED", "io.delta:delta-spark_2.13:4.4.0", "central repository", code=1)


def test_a_server_is_for_this_machine_only_and_knows_no_other_cluster(machine: Machine) -> None:
    machine.environment(SPARK_CONF_DIR="/etc/spark", SPARK_CONNECT_AUTHENTICATE_TOKEN="t0ken", SPARK_HOME="/opt/spark")
    assert machine.up("--memory", "1G").exit_code == 0
    environment, arguments = machine.started["environment"], machine.started["arguments"]
    assert not {"SPARK_CONF_DIR", "SPARK_CONNECT_AUTHENTICATE_TOKEN"} & environment.keys()
    assert environment["SPARK_HOME"] == str(machine.home)
    for name in ("spark.driver.bindAddress", "spark.driver.host", "spark.connect.grpc.binding.address"):
        assert f"{name}=127.0.0.1" in arguments
    assert arguments[arguments.index("--driver-memory") + 1] == "1G"
    assert "hadoop-aws" not in str(arguments)


def test_a_server_with_an_object_store_knows_where_and_does_not_show_the_keys(machine: Machine) -> None:
    machine.environment(
        AWS_ENDPOINT_URL="http://127.0.0.1:9000",
        AWS_REGION="eu-west-1",
        AWS_ACCESS_KEY_ID="the-key",
        AWS_SECRET_ACCESS_KEY="the-secret",
    )
    result = machine.up("--object-store", "s3")
    assert result.exit_code == 0
    assert "what reads S3 (20 MB)" in result.stderr
    arguments = machine.started["arguments"]
    for setting in ("endpoint=http://127.0.0.1:9000", "path.style.access=true", "endpoint.region=eu-west-1"):
        assert f"spark.hadoop.fs.s3a.{setting}" in arguments
    assert "the-" not in str(arguments)
    assert machine.started["environment"]["AWS_SECRET_ACCESS_KEY"] == "the-secret"
    assert "bundle" in arguments[arguments.index("--exclude-packages") + 1]
    assert machine.up("--object-store", "s3").exit_code == 0
    machine.environment(AWS_ENDPOINT_URL="http://127.0.0.1:9001")
    refused(machine.up("--object-store", "s3"), "SPARK_SERVER_RUNS_OTHERWISE", ":9000, not http://127.0.0.1:9001")


def test_a_server_for_azure_names_where_the_key_is(machine: Machine) -> None:
    machine.environment(
        AZURE_STORAGE_ACCOUNT_NAME="shop", AZURE_STORAGE_ACCOUNT_KEY="the-key", AZURE_STORAGE_USE_EMULATOR="true"
    )
    result = machine.up("--object-store", "azure")
    assert "what reads Azure (4 MB)" in result.stderr
    arguments = machine.started["arguments"]
    for setting in (
        "account.key.shop.dfs.core.windows.net=${env.AZURE_STORAGE_ACCOUNT_KEY}",
        "abfs.endpoint=127.0.0.1:10000",
        "always.use.https=false",
    ):
        assert f"spark.hadoop.fs.azure.{setting}" in arguments
    assert "the-key" not in str(arguments)
    assert "hadoop-azure" in arguments[arguments.index("--packages") + 1]
    machine.environment(AZURITE_BLOB_STORAGE_URL="http://127.0.0.1:10001")
    refused(machine.up("--object-store", "azure"), "SPARK_SERVER_RUNS_OTHERWISE", ":10000, not http://127.0.0.1:10001")


def test_a_server_for_google_reads_the_key_where_it_lies(machine: Machine) -> None:
    assert machine.up("--object-store", "gcs").exit_code == 0
    arguments = machine.started["arguments"]
    assert "spark.hadoop.fs.gs.auth.type=APPLICATION_DEFAULT" in arguments
    assert "hadoop-gcp" in arguments[arguments.index("--packages") + 1]
    assert machine.lakelet("down").exit_code == 0
    machine.environment(GOOGLE_SERVICE_ACCOUNT="key.json")
    assert machine.up("--object-store", "gcs").exit_code == 0
    arguments = machine.started["arguments"]
    assert f"spark.hadoop.fs.gs.auth.service.account.json.keyfile={Path('key.json').resolve()}" in arguments
    machine.environment(GOOGLE_SERVICE_ACCOUNT="another.json")
    refused(machine.up("--object-store", "gcs"), "SPARK_SERVER_RUNS_OTHERWISE", "another.json")


def start(machine: Machine) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("lakelet")), "spark", "up", "--port", str(machine.port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)  # another process: nothing tells us


def test_ctrl_c_while_it_starts_ends_the_server_too(machine: Machine) -> None:
    machine.spark("is silent")
    process = start(machine)
    until((machine.cache / "started.json").exists, process)
    pid = json.loads(machine.note.read_text())["pid"]
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert told.endswith("interrupted\n")
    assert not is_running(pid)
    assert not machine.note.exists()


def test_two_that_start_at_the_same_time_have_one_server(machine: Machine) -> None:
    processes = [start(machine), start(machine)]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert sum("starting Apache Spark" in errors for _, errors in told) == 1
