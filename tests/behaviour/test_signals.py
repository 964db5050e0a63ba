"""Ctrl-C and SIGTERM while the engine works: what is under way ends, the tables stay whole, the next run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lakelet import Pipeline

SPEC = """
name: slow
storage: data
libraries:
  - glob: {include: transformations/**}
"""
DATASETS = """
from pyspark import pipelines as dp

@dp.temporary_view
@dp.expect("hashed", "length(sha2(cast(id AS string), 256)) = 64")
def numbers():
    return spark.range(30000000)

@dp.materialized_view
def slow():
    return spark.read.table("numbers").selectExpr("count(*) AS n")

@dp.materialized_view
def after():
    return spark.read.table("slow")
"""
"""`slow` is two queries: the rule of its view is counted first. An engine that an interrupt stops fails the second."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_query_ends_the_update_and_the_next_run_completes_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    """SIGTERM is what a service manager and a container send; it is handled as Ctrl-C is, with the same exit code."""
    (tmp_path / "transformations").mkdir()
    (tmp_path / "spark-pipeline.yml").write_text(SPEC, "utf-8")
    (tmp_path / "transformations" / "slow.py").write_text(DATASETS, "utf-8")
    command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--spec", str(tmp_path), "--json"]
    source = Path(__file__).resolve().parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if "COMPLETE_RECOMPUTE" in line:
            break
    time.sleep(0.3)  # the query is with the engine now, and takes longer than this
    process.send_signal(number)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, rest + errors
    assert "stopping after" in errors
    assert '"status":"FAILED"' not in rest
    with Pipeline(tmp_path) as pipeline:
        assert pipeline.run().exit_code == 0
        assert pipeline.table("after").to_pylist() == [{"n": 30_000_000}]
