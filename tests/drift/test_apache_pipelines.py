"""The flagship's files load with Apache's own decorators, and its registry gets the datasets that ours gets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.drift.test_databricks_stub import FILES

LOADER = Path(__file__).with_name("load_with_apache.py")


def test_apaches_registry_gets_every_dataset_and_flow() -> None:
    environment = {**os.environ, "SPARK_REMOTE": "sc://pipeline.invalid", "SPARK_CONNECT_MODE_ENABLED": "1"}
    command = [sys.executable, str(LOADER), *map(str, FILES)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    kinds = list(told["outputs"].values())
    assert (kinds.count("StreamingTable"), kinds.count("MaterializedView"), kinds.count("TemporaryView")) == (10, 3, 7)
    assert set(told["flows"].values()) == set(told["outputs"])


def test_the_files_import_nothing_but_spark() -> None:
    for file in FILES:
        imported = re.findall(r"^(?:from|import) (\w+)", file.read_text("utf-8"), flags=re.MULTILINE)
        assert set(imported) == {"pyspark"}, file.name
