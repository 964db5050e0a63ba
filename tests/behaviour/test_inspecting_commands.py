"""`lakelet state` and `lakelet explain`, as commands."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from lakelet.cli import cli

TABLES = """
    @dp.table
    def first_orders():
        rows = spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")
        return rows.withColumn("at", F.timestamp_seconds("v")).withWatermark("at", "1 hour").dropDuplicates(["v", "at"])

    @dp.table
    def copies():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.materialized_view
    def totals():
        return spark.read.table("copies").groupBy("v").count()
"""


@pytest.fixture
def shop(project: Any) -> Any:
    project.write(TABLES).land("orders", pa.table({"v": [1, 1, 2]}))
    project.ok()
    project.land("orders", pa.table({"v": [3]}))
    return project


def command(project: Any, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--spec", str(project.root)], prog_name="lakelet")


def test_state_tells_what_a_flow_remembers(shop: Any) -> None:
    done = command(shop, "state", "first_orders")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert "first_orders: " in lines[0]
    assert "2 rows, " in lines[1]
    assert "watermark " in lines[2]
    [report] = json.loads(command(shop, "state", "first_orders", "--json").stdout)
    assert report["rows"] == 2


def test_state_of_a_flow_without_any(shop: Any) -> None:
    assert command(shop, "state", "copies").stdout == "copies remembers nothing\n"
    assert json.loads(command(shop, "state", "copies", "--json").stdout) == []


def test_explain_tells_what_the_next_update_does(shop: Any) -> None:
    shop.ok()  # the views of before are kept, and follow what is added from now on
    shop.land("orders", pa.table({"v": [4]}))
    done = command(shop, "explain", "totals")
    assert done.exit_code == 0, done.output
    assert "NO_OP" in done.stdout or "GROUP_AGGREGATE" in done.stdout
    told = json.loads(command(shop, "explain", "totals", "--json").stdout)
    assert told["technique"] in done.stdout


@pytest.mark.parametrize("name", ["state", "explain"])
def test_an_unknown_name_is_told_with_the_nearest(shop: Any, name: str) -> None:
    done = command(shop, name, "totls" if name == "explain" else "copis")
    assert done.exit_code == 2
    assert "UNKNOWN_DATASET" in done.stderr
    assert "did you mean" in done.stderr


def test_explain_of_a_table_that_is_no_view(shop: Any) -> None:
    done = command(shop, "explain", "copies")
    assert (done.exit_code, "NOT_A_MATERIALIZED_VIEW" in done.stderr) == (2, True)
