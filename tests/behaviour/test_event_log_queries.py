"""The example queries of Databricks' page on the event log work as they are written there.

Source: https://docs.databricks.com/aws/en/ldp/monitor-event-logs
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

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


@pytest.fixture
def shop(project: Any) -> Any:
    """A pipeline after two good updates and one that failed."""
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


def test_the_command_line_takes_them_too(shop: Any) -> None:
    sql = "SELECT details:update_progress:state FROM event_log_raw WHERE event_type='update_progress' LIMIT 1"
    result = CliRunner().invoke(cli, ["query", sql, "--spec", str(shop.root), "--json"], prog_name="lakelet")
    assert result.exit_code == 0, result.output
    assert '"state"' in result.output
