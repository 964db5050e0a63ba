"""`make test-object-stores`: the tests of object stores on Azure's and Google's, embedded, on a Sail server and on Apache Spark.

Needs npm, Go, openssl and Java 17; the emulators are installed once, into a folder of the project.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.object_stores import TITLES, environment
from tests.object_stores.azure import azure_server
from tests.object_stores.gcs import gcs_server

PROGRAMS = Path(__file__).parents[2] / ".object-stores"
AZURITE = "azurite@3.35.0"
FAKE_GCS = "github.com/fsouza/fake-gcs-server@v1.56.1"
SERVERS = {"azure": azure_server, "gcs": gcs_server}
PORT = 15002
LAKELET = str(Path(sys.executable).parent / "lakelet")
CONTRACT = ("tests/contract/test_places.py",)
EMBEDDED = ("tests/e2e/test_object_store.py",)
ELSEWHERE = ("tests/behaviour/test_engines_on_object_stores.py",)


def install() -> None:
    PROGRAMS.mkdir(exist_ok=True)
    if not (PROGRAMS / "node_modules" / "azurite").exists():
        subprocess.run(["npm", "install", "--silent", "--no-save", "--prefix", str(PROGRAMS), AZURITE], check=True)
    if not (PROGRAMS / "fake-gcs-server").exists():
        subprocess.run(["go", "install", FAKE_GCS], env={**os.environ, "GOBIN": str(PROGRAMS)}, check=True)


def tests(*files: str, engine: str = "sail") -> int:
    with environment({"LAKELET_TEST_ENGINE": engine}):
        return subprocess.run([sys.executable, "-m", "pytest", *files, "--timeout", "900"]).returncode


@contextmanager
def spark(store: str) -> Iterator[None]:
    subprocess.run([LAKELET, "spark", "up", "--port", str(PORT), "--object-store", store], check=True)
    try:
        yield
    finally:
        subprocess.run([LAKELET, "spark", "down"], check=True)


def run(store: str) -> bool:
    with spark(store):
        pass  # what it downloads does not come through the proxy of Google's store
    with SERVERS[store](PROGRAMS), environment({"LAKELET_TEST_STORE": store}):
        print(f"\n== {TITLES[store]}: embedded, and a Sail server", flush=True)
        codes = [tests(*CONTRACT, *EMBEDDED), tests(*ELSEWHERE, engine="sail-server")]
        print(f"\n== {TITLES[store]}: Apache Spark", flush=True)
        with spark(store):
            codes.append(tests(*ELSEWHERE, engine=f"sc://127.0.0.1:{PORT}"))
    return not any(codes)


def refuse_to_end_a_server() -> None:
    said = subprocess.run([LAKELET, "spark", "status", "--json"], capture_output=True, text=True, check=False).stdout
    if (json.loads(said or "{}") or {}).get("url"):
        sys.exit("a server of `lakelet spark up` runs, which these tests would use and end: `lakelet spark down` first")


if __name__ == "__main__":
    refuse_to_end_a_server()
    install()
    results = [run(store) for store in sys.argv[1:] or SERVERS]
    sys.exit(0 if all(results) else 1)
