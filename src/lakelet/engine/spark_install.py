"""What the local Spark server consists of: Java, which must be there, and Apache Spark, which is downloaded into a cache folder.

Spark comes from the Python package registry into an environment of its own; Delta Lake, and what reads an object store, come from
Maven's when the server starts. None of it is a dependency of lakelet.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lakelet.engine.spark_object_stores import OBJECT_STORES
from lakelet.errors import LakeletError, SpecError

SPARK_VERSION = "4.2.0"
DELTA_VERSION = "4.4.0"
"""The newest Delta Lake, and the Spark that it is built for."""
OLDEST_JAVA = 17
NEEDED_BYTES = 1_500_000_000
"""Of the disk: what is downloaded, unpacked, and the download beside it."""

_WORKER_PACKAGES = (
    "pandas",
    "pyarrow",
    "grpcio",
    "grpcio-status",
    "googleapis-common-protos",
    "zstandard",
    "fastavro",
    "cramjam",
)
"""What Python functions of a query need on the server."""
_DELTA = f"io.delta:delta-spark_2.13:{DELTA_VERSION}"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A Spark that can be started.

    Attributes:
        folder: of the cache.
        python: of the server's environment.
        home: what Spark calls SPARK_HOME.
    """

    folder: Path
    python: Path
    home: Path


def cache_folder() -> Path:
    """Return where Spark is kept: `LAKELET_CACHE`, else the user's cache folder."""
    base = (
        os.environ.get("LAKELET_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lakelet"
    )
    return Path(base).absolute() / f"spark-{SPARK_VERSION}-delta-{DELTA_VERSION}"


def opened_cache_folder() -> Path:
    """Return the cache folder, made if it is not there.

    Raises:
        SpecError: `SPARK_SERVER_CACHE_NOT_WRITABLE`.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"`{folder}` belongs to somebody else")
    except OSError as error:
        raise SpecError(
            "SPARK_SERVER_CACHE_NOT_WRITABLE",
            f"nothing can be written into `{folder}`, where Spark is kept",
            cause=str(error),
            hint="name another folder in the environment variable LAKELET_CACHE",
        ) from error
    return folder


def installed(folder: Path, say: Say) -> Installation:
    """Return what is installed; what is not there, or only half, is installed (anew).

    Raises:
        LakeletError: `SPARK_SERVER_NOT_INSTALLED`.
    """
    mark = folder / "installed"
    if mark.exists():
        found = _found(folder)
        if found is not None:
            return found
        say(f"parts of Apache Spark are missing in {folder}: it is installed again")
        mark.unlink()
    free = shutil.disk_usage(folder).free
    if free < NEEDED_BYTES:
        raise _not_installed(
            f"{free / 1e9:.1f} GB are free where {folder} lies, and {NEEDED_BYTES / 1e9:.1f} are needed",
            hint="free some space, or name a folder on another disk in the environment variable LAKELET_CACHE",
        )
    say(f"installing Apache Spark {SPARK_VERSION} into {folder}: about 450 MB, once")
    python = folder / "venv" / "bin" / "python"
    shutil.rmtree(folder / "venv", ignore_errors=True)
    for step in (
        [sys.executable, "-m", "venv", str(folder / "venv")],
        [str(python), "-m", "pip", "install", "-q", f"pyspark=={SPARK_VERSION}", *_WORKER_PACKAGES],
    ):
        result = subprocess.run(step, capture_output=True, text=True, check=False)
        if result.returncode:
            said = (result.stderr or result.stdout).strip()
            full = "No space left" in said
            raise _not_installed(
                "\n".join(said.splitlines()[-5:]),
                hint="free some space, then run `lakelet spark up` again"
                if full
                else "check that this machine reaches the Python package registry, then run `lakelet spark up` again",
            )
    found = _found(folder)
    if found is None:
        raise _not_installed(
            f"the installer was content, but there is no Spark below `{folder / 'venv'}`",
            hint="check the settings of pip on this machine (`pip config list`), then run `lakelet spark up` again",
        )
    mark.touch()
    return found


def _found(folder: Path) -> Installation | None:
    """Return the installation if its parts are there."""
    python = folder / "venv" / "bin" / "python"
    homes = list((folder / "venv" / "lib").glob("python*/site-packages/pyspark"))
    if len(homes) != 1 or not python.exists() or not (homes[0] / "bin" / "spark-submit").exists():
        return None
    return Installation(folder=folder, python=python, home=homes[0])


def _not_installed(cause: str, *, hint: str) -> LakeletError:
    return LakeletError(
        "SPARK_SERVER_NOT_INSTALLED", f"Apache Spark {SPARK_VERSION} could not be installed", cause=cause, hint=hint
    )


def packages(folder: Path, object_store: str | None) -> list[str]:
    """Return the options of `spark-submit` that bring Delta Lake, and what reads the object store.

    Jars that lie in `jars` below the folder are taken as they are, for machines that reach no Maven repository.
    """
    jars = sorted((folder / "jars").glob("*.jar"))
    if jars:
        return ["--jars", ",".join(map(str, jars))]
    store = OBJECT_STORES[object_store] if object_store else None
    without = ["--exclude-packages", ",".join(store.without)] if store and store.without else []
    return ["--packages", ",".join((_DELTA, *(store.packages if store else ()))), *without]


# -- Java ---------------------------------------------------------------------------------------------------------


def java_home() -> Path:
    """Return the home of Java 17 or newer.

    Raises:
        SpecError: `SPARK_SERVER_NEEDS_JAVA`.
    """
    home = os.environ.get("JAVA_HOME")
    program = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if program is None:
        raise _no_java("there is no `java` on the PATH and no JAVA_HOME")
    try:
        said = subprocess.run(
            [program, "-XshowSettings:properties", "-version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        where = f"JAVA_HOME is `{home}`, but" if home else "on the PATH,"
        why = "there is no such program" if isinstance(error, FileNotFoundError) else str(error)
        raise _no_java(f"{where} `{program}` cannot be run: {why}") from error
    version = re.search(r'^.* version "(\d+)[^"]*".*$', said.stderr, re.MULTILINE)
    if version is None or int(version[1]) < OLDEST_JAVA:
        named = version[0] if version else f"none: it says `{(said.stderr.strip() or 'nothing').splitlines()[0]}`"
        raise _no_java(f"`{program}`{' (from JAVA_HOME)' if home else ''} is {named}")
    # Where version managers put a script of that name on the PATH, only Java itself knows its home.
    told = re.search(r"^\s*java\.home = (.+)$", said.stderr, re.MULTILINE)
    return Path(told[1].strip()) if told else Path(program).resolve().parents[1]


def _no_java(cause: str) -> SpecError:
    return SpecError(
        "SPARK_SERVER_NEEDS_JAVA",
        f"Apache Spark needs Java {OLDEST_JAVA} or newer",
        cause=cause,
        hint="install a Java runtime, for example OpenJDK 17, or let JAVA_HOME name the folder of one",
    )
