"""Ctrl-C and SIGTERM while the engine works: what is under way ends, the tables stay whole, the next run goes on."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

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

ENDLESS = """
from pyspark import pipelines as dp

@dp.table
def numbers():
    return spark.readStream.format("delta").load("source")

@dp.materialized_view
def slow():
    rows = int(spark.conf.get("rows"))
    return spark.read.table("numbers").crossJoin(spark.range(rows)).selectExpr("max(sha2(cast(id AS string), 256)) AS top")

@dp.materialized_view
def after():
    return spark.read.table("slow")
"""
"""With many `rows`, `slow` takes days."""


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


@pytest.mark.parametrize("mode", ["once", "continuous"])
def test_a_query_that_takes_too_long_is_given_up_and_the_next_run_has_it(tmp_path: Path, mode: str) -> None:
    (tmp_path / "transformations").mkdir()
    (tmp_path / "spark-pipeline.yml").write_text(SPEC, "utf-8")
    (tmp_path / "transformations" / "slow.py").write_text(ENDLESS, "utf-8")
    write_deltalake(str(tmp_path / "source"), pa.table({"n": [1, 2]}))
    command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--spec", str(tmp_path), "--json"]
    command += ["--conf", "rows=1000000000000", "--conf", "lakelet.stop.timeout=100 milliseconds"]
    if mode == "continuous":
        command.append("--continuous")
    source = Path(__file__).resolve().parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for line in process.stdout:
        if "COMPLETE_RECOMPUTE" in line:
            break
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, rest + errors
    assert "are given up; the next update runs them again" in rest
    assert '"status":"FAILED"' not in rest
    assert '"status":"STOPPED"' in rest
    with Pipeline(tmp_path, configuration={"rows": "10"}) as pipeline:
        assert pipeline.run().exit_code == 0
        assert pipeline.table("numbers").num_rows == 2
        assert pipeline.table("after").to_pylist() == [{"top": max(hashed(n) for n in range(10))}]


def hashed(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()
