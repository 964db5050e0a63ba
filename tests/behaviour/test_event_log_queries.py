"""The example queries of Databricks' page on the event log work as they are written there.

Source: https://docs.databricks.com/aws/en/ldp/monitor-event-logs
"""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
import threading
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner
from tests.behaviour.conftest import Project

from lakelet import __version__
from lakelet.cli import cli

TABLES = """
@dp.table(name="orders")
@dp.expect("small", "amount < 100")
@dp.expect_or_drop("positive", "amount > 0")
def orders():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

@dp.materialized_view
def totals():
    return spark.read.table("orders").groupBy("customer").agg(F.sum("amount").alias("total"))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, engine: Any) -> Any:
    """A pipeline after two good updates and one that failed; the queries do not change it."""
    project: Any = Project(tmp_path_factory.mktemp("shop"), engine)
    project.write(TABLES)
    for rows in ([("ann", 10), ("bob", 250), ("cyd", -5)], [("dan", 1)]):
        customers, amounts = zip(*rows, strict=True)
        project.land("orders", pa.table({"customer": list(customers), "amount": pa.array(amounts, pa.int64())}))
        project.last = project.ok()
    project.write(
        "@dp.materialized_view\ndef bad():\n    return spark.sql(\"SELECT raise_error('boom') AS x\")\n", file="z.py"
    )
    project.failed = project.run()
    (project.root / "pipeline" / "z.py").unlink()
    return project


def query(shop: Any, sql: str) -> list[Any]:
    return list(shop.pipeline().query(sql).to_pylist())


def test_the_latest_update(shop: Any) -> None:
    sql = "SELECT origin.update_id AS id FROM event_log_raw WHERE event_type = 'create_update' ORDER BY timestamp DESC LIMIT 1"
    assert query(shop, sql) == [{"id": shop.failed.update_id}]


def test_data_quality(shop: Any) -> None:
    update_id = shop.last.update_id
    found = query(
        shop,
        f"""
        SELECT
          row_expectations.dataset as dataset,
          row_expectations.name as expectation,
          SUM(row_expectations.passed_records) as passing_records,
          SUM(row_expectations.failed_records) as failing_records
        FROM (
          SELECT explode(from_json(details:flow_progress:data_quality:expectations,
            "array<struct<name: string, dataset: string, passed_records: int, failed_records: int>>")) row_expectations
          FROM event_log_raw
          WHERE event_type = 'flow_progress' AND origin.update_id = '{update_id}'
        )
        GROUP BY row_expectations.dataset, row_expectations.name
        ORDER BY 2
        """,
    )
    assert [tuple(row.values()) for row in found] == [("orders", "positive", 1, 0), ("orders", "small", 1, 0)]
    everything = query(
        shop,
        """SELECT row_expectations.dataset, row_expectations.name,
       SUM(row_expectations.passed_records) passing_records, SUM(row_expectations.failed_records) failing_records
FROM (SELECT explode(from_json(details:flow_progress:data_quality:expectations,
        "array<struct<name: string, dataset: string, passed_records: int, failed_records: int>>")) row_expectations
      FROM event_log_raw WHERE event_type='flow_progress')
GROUP BY 1,2""",
    )
    assert {row["name"]: (row["passing_records"], row["failing_records"]) for row in everything} == {
        "small": (3, 1),
        "positive": (3, 1),
    }


def test_lineage(shop: Any) -> None:
    found = query(
        shop,
        "SELECT details:flow_definition.output_dataset, details:flow_definition.input_datasets, "
        "details:flow_definition.flow_type, details:flow_definition.schema, details:flow_definition.comment "
        f"FROM event_log_raw WHERE event_type = 'flow_definition' AND origin.update_id = '{shop.last.update_id}' "
        "ORDER BY timestamp",
    )
    assert [(row["output_dataset"], json.loads(row["input_datasets"]), row["flow_type"]) for row in found] == [
        ("orders", ["delta:/Volumes/main/raw/landing/orders"], "APPEND"),
        ("totals", ["orders"], "MATERIALIZED_VIEW"),
    ]
    assert [column["name"] for column in json.loads(found[1]["schema"])] == ["customer", "total"]


def test_status(shop: Any) -> None:
    found = query(
        shop,
        "SELECT timestamp, details:update_progress:state FROM event_log_raw WHERE event_type='update_progress' ORDER BY 1",
    )
    assert [row["state"] for row in found if row["state"] in ("COMPLETED", "FAILED")] == [
        "COMPLETED",
        "COMPLETED",
        "FAILED",
    ]
    assert found[0]["state"] == "INITIALIZING"


def test_errors(shop: Any) -> None:
    found = query(shop, "SELECT timestamp, message, error FROM event_log_raw WHERE level='ERROR' ORDER BY timestamp")
    assert found and all(row["message"] for row in found)
    sql = "SELECT error:exceptions[0].message, error:exceptions[0].cause FROM event_log_raw WHERE error IS NOT NULL"
    causes = query(shop, sql)
    assert any("QUERY_FAILED" in row["message"] and "boom" in row["cause"] for row in causes)


def test_throughput(shop: Any) -> None:
    found = query(
        shop,
        "SELECT origin.flow_name, details:flow_progress:metrics:num_output_rows::long, "
        "details:flow_progress:metrics:backlog_bytes::long FROM event_log_raw WHERE event_type='flow_progress'",
    )
    assert set(found[0]) == {"flow_name", "num_output_rows", "backlog_bytes"}
    assert sum(row["num_output_rows"] or 0 for row in found if row["flow_name"] == "orders") == 3


def test_the_technique_of_materialized_views(shop: Any) -> None:
    found = query(
        shop,
        "SELECT timestamp, message FROM event_log_raw WHERE event_type = 'planning_information' AND origin.flow_name = 'totals' "
        "ORDER BY timestamp",
    )
    assert "COMPLETE_RECOMPUTE" in found[0]["message"]


def test_the_runtime_and_who_started_it(shop: Any) -> None:
    [newest] = query(
        shop,
        "SELECT details:create_update:cause, details:create_update.config.full_refresh FROM event_log_raw "
        "WHERE event_type = 'create_update' ORDER BY timestamp DESC LIMIT 1",
    )
    assert newest == {"cause": "USER_ACTION", "full_refresh": "false"}
    version = query(
        shop, "SELECT details:runtime_details:dbr_version FROM event_log_raw WHERE event_type = 'runtime_details'"
    )
    assert len(version) == 3 and all(row["dbr_version"].startswith("lakelet ") for row in version)


VERBATIM = {
    "latest update": """
-- latest update
SELECT origin.update_id AS id FROM event_log_raw WHERE event_type='create_update' ORDER BY timestamp DESC LIMIT 1;
""",
    "data quality": """
-- data quality
SELECT row_expectations.dataset, row_expectations.name,
       SUM(row_expectations.passed_records) passing_records, SUM(row_expectations.failed_records) failing_records
FROM (SELECT explode(from_json(details:flow_progress:data_quality:expectations,
        "array<struct<name: string, dataset: string, passed_records: int, failed_records: int>>")) row_expectations
      FROM event_log_raw WHERE event_type='flow_progress' AND origin.update_id = '<id>')
GROUP BY 1,2;
""",
    "lineage": """
-- lineage
SELECT details:flow_definition.output_dataset, details:flow_definition.input_datasets, details:flow_definition.flow_type
FROM event_log_raw WHERE event_type='flow_definition';
""",
    "status": """
-- status / errors
SELECT timestamp, details:update_progress:state FROM event_log_raw WHERE event_type='update_progress';
""",
    "errors": """SELECT timestamp, message, error FROM event_log_raw WHERE level='ERROR';
""",
    "throughput": """
-- backlog / throughput
SELECT origin.flow_name, details:flow_progress:metrics:num_output_rows::long, details:flow_progress:metrics:backlog_bytes::long
FROM event_log_raw WHERE event_type='flow_progress';
""",
    "user actions": """
-- user actions
SELECT timestamp, details:user_action:action, details:user_action:user_name FROM event_log_raw
WHERE event_type='user_action' ORDER BY timestamp;
""",
    "Auto Loader": """
-- Auto Loader listing times
SELECT timestamp, details:operation_progress:duration_ms::long FROM event_log_raw WHERE event_type='operation_progress';
""",
    "planning": """
-- how materialized views were brought up to date
SELECT timestamp, origin.flow_name, message FROM event_log_raw WHERE event_type='planning_information';
""",
    "runtime": """
-- DBR version
SELECT details:runtime_details:dbr_version FROM event_log_raw WHERE event_type='runtime_details';
""",
}
"""As they are copied: with their comments, and the semicolon at the end."""


def asked(shop: Any, sql: str, *options: str) -> list[dict[str, Any]]:
    """Return the rows that the command prints as JSON."""
    result = CliRunner().invoke(cli, ["query", sql, "--spec", str(shop.root), "--json", *options], prog_name="lakelet")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def expected(name: str, shop: Any) -> list[dict[str, Any]]:
    """Return what a query tells of the two good updates and the failed one; columns that differ from run to run left out."""
    match name:
        case "latest update":
            return [{"id": shop.failed.update_id}]
        case "data quality":
            counts = {"dataset": "orders", "passing_records": 1, "failing_records": 0}
            return [{**counts, "name": "positive"}, {**counts, "name": "small"}]
        case "lineage":
            orders = {"output_dataset": "orders", "flow_type": "APPEND"}
            totals = {"output_dataset": "totals", "flow_type": "MATERIALIZED_VIEW"}
            bad = {"output_dataset": "bad", "flow_type": "MATERIALIZED_VIEW"}
            return [bad, *[orders] * 3, *[totals] * 3]
        case "status":
            states = ["INITIALIZING", "RUNNING", "SETTING_UP_TABLES"] * 3 + ["COMPLETED"] * 2 + ["FAILED"]
            return [{"state": state} for state in sorted(states)]
        case "user actions":
            return [{"action": "START", "user_name": getpass.getuser()}] * 3
        case "Auto Loader":
            return []
        case "runtime":
            return [{"dbr_version": f"lakelet {__version__}"}] * 3
        case _:
            raise KeyError(name)


@pytest.mark.parametrize("name", VERBATIM)
def test_the_command_line_takes_them_as_they_are_written(shop: Any, name: str) -> None:
    found = asked(shop, VERBATIM[name].strip().replace("<id>", shop.last.update_id))
    if name == "errors":
        assert found and all(row["message"] and row["timestamp"] for row in found)
        assert "boom" in str(found)
    elif name == "throughput":
        assert {tuple(row) for row in found} == {("flow_name", "num_output_rows", "backlog_bytes")}
        assert sum(row["num_output_rows"] or 0 for row in found if row["flow_name"] == "orders") == 3
    elif name == "planning":
        assert {row["flow_name"] for row in found} == {"totals", "bad"}
    else:
        varying = {"timestamp", "input_datasets"}
        told = [{key: value for key, value in row.items() if key not in varying} for row in found]
        assert sorted(told, key=_by_values) == sorted(expected(name, shop), key=_by_values)


def _by_values(row: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((key, str(value)) for key, value in row.items())


def test_an_update_that_is_not_there_has_no_rows(shop: Any) -> None:
    assert asked(shop, VERBATIM["data quality"]) == []


@pytest.mark.parametrize("start", ["-- a comment\n", "--a comment\n", "\n  -- one\n-- two = 2\n", "/* a comment */ "])
def test_a_query_may_begin_with_a_comment(shop: Any, start: str) -> None:
    assert asked(shop, f"{start}SELECT count(*) AS n FROM totals; -- done") == [{"n": 3}]


def test_an_option_that_is_not_there_is_still_refused(shop: Any) -> None:
    result = CliRunner().invoke(cli, ["query", "SELECT 1", "--spec", str(shop.root), "--fromat", "csv"])
    assert result.exit_code == 2 and "--fromat" in result.output


def test_the_installed_command_takes_one_with_its_comment(shop: Any) -> None:
    """In a process of its own, as a shell passes it on."""
    arguments = ["query", VERBATIM["latest update"].strip(), "--spec", str(shop.root), "--format", "csv"]
    done = subprocess.run(
        [sys.executable, "-c", "from lakelet.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["id", shop.failed.update_id]


def test_what_a_user_does_is_told(project: Any) -> None:
    project.write(TABLES)
    project.land("orders", pa.table({"customer": ["ann"], "amount": pa.array([1], pa.int64())}))
    project.ok()
    stop = threading.Event()
    stop.set()
    project.run(stop=stop)
    project.pipeline().reset("orders")
    actions = query(
        project,
        "SELECT details:user_action:action, details:user_action:user_name FROM event_log_raw "
        "WHERE event_type='user_action' ORDER BY timestamp",
    )
    assert [row["action"] for row in actions] == ["START", "START", "STOP", "RESET"]
    assert {row["user_name"] for row in actions} == {getpass.getuser()}
