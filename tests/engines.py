"""The engine that a run of the suites is for, and what the tests of each feature said on it.

`LAKELET_TEST_ENGINE` is `sail` (embedded, the default), `sail-server`, `sail-cluster`, or the address of a Spark Connect server.
A test of a feature that every engine must have is marked `feature("…")`. With `LAKELET_ENGINE_RESULTS=1` a run notes in
`engine_results.json` how many of them passed; `make docs` makes a table of it.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.remote_kit import SailServer

CHOSEN = os.environ.get("LAKELET_TEST_ENGINE", "sail")
RESULTS = Path(__file__).with_name("engine_results.json")
EMBEDDED, SERVER, CLUSTER, SPARK = (
    "Sail, embedded",
    "Sail server",
    "Sail server, cluster mode",
    "Apache Spark 4.2 with Delta Lake 4.4",
)
NAMES = {"sail": EMBEDDED, "sail-server": SERVER, "sail-cluster": CLUSTER}
"""Any other choice is an address, and taken for that of `lakelet spark up`."""


@functools.cache
def address() -> str:
    """Return `sail`, or where the server of this run listens; one of Sail's is started here and ends with the process."""
    if CHOSEN not in ("sail-server", "sail-cluster"):
        return CHOSEN
    server = SailServer("local" if CHOSEN == "sail-server" else "local-cluster")
    atexit.register(server.kill)
    return server.url


class Results:
    """How the marked tests of a run ended."""

    def __init__(self) -> None:
        self._outcomes: dict[str, Counter[str]] = {}

    def note(self, feature: str, outcome: str) -> None:
        self._outcomes.setdefault(feature, Counter())[outcome] += 1

    def write(self) -> None:
        """Note the features of this run, those of other runs are kept."""
        known: dict[str, Any] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        name = NAMES.get(CHOSEN, SPARK)
        said = {feature: dict(sorted(found.items())) for feature, found in self._outcomes.items()}
        known[name] = dict(sorted({**known.get(name, {}), **said}.items()))
        RESULTS.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n", "utf-8")


def read_results() -> Mapping[str, Mapping[str, Mapping[str, int]]]:
    """Return by engine and feature how many tests `passed`, were `skipped`, or `failed`."""
    found: Mapping[str, Mapping[str, Mapping[str, int]]] = json.loads(RESULTS.read_text("utf-8"))
    return found
