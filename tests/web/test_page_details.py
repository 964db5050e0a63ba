"""What the pages tell of event time, AUTO CDC, durations and places, as data and as people see it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from starlette.testclient import TestClient
from tests.web.web_kit import Shop, post, text_of

from lakelet.web import filters

START = datetime(2026, 5, 1, 12, tzinfo=UTC)
TABLES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table(name="bronze.changes")
@dp.expect("named", "name IS NOT NULL")
def changes():
    stream = spark.readStream.format("delta").load("/Volumes/main/raw/landing/changes")
    return stream.select(F.col("id").alias("id", metadata={"comment": "who it is"}), "name", "op", "seq")

dp.create_streaming_table("silver.customers", comment="Customers as they are now")
dp.create_auto_cdc_flow(
    target="silver.customers", source="bronze.changes", keys=["id"], sequence_by="seq", apply_as_deletes="op = 'D'",
    except_column_list=["op", "seq"],
)

@dp.table(name="silver.visits")
def visits():
    stream = spark.readStream.format("delta").load("/Volumes/main/raw/landing/visits").withWatermark("at", "10 minutes")
    return stream.groupBy(F.window("at", "30 minutes"), "page").agg(F.count("*").alias("n")).drop("window")
"""


def land(shop: Shop, name: str, table: pa.Table) -> None:
    folder = shop.root / "data" / "Volumes" / "main" / "raw" / "landing" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_deltalake(str(folder), table, mode="append")


def land_changes(shop: Shop, *rows: tuple[int, str | None, str, int]) -> None:
    """Append changes: id, name, op, seq."""
    names, types = ("id", "name", "op", "seq"), (pa.int64(), pa.string(), pa.string(), pa.int64())
    columns = zip(*rows, strict=True)
    table = {name: pa.array(values, kind) for name, values, kind in zip(names, columns, types, strict=True)}
    land(shop, "changes", pa.table(table))


def land_visits(shop: Shop, *rows: tuple[str, int]) -> None:
    """Append visits: page, minute."""
    times = pa.array([START + timedelta(minutes=minute) for _, minute in rows], pa.timestamp("us", "UTC"))
    land(shop, "visits", pa.table({"page": [page for page, _ in rows], "at": times}))


@pytest.fixture
def details(shop: Shop) -> TestClient:
    """The pages after two updates; the second has an upsert, a delete, a failed rule and a late row."""
    shop.write(TABLES)
    land_changes(shop, (1, "ann", "U", 1), (2, "bob", "U", 2))
    land_visits(shop, ("a", 0), ("a", 15), ("b", 3))
    assert shop.run().exit_code == 0
    land_changes(shop, (1, None, "D", 3), (3, "cyd", "U", 4))
    land_visits(shop, ("a", 200))
    assert shop.run().exit_code == 0
    land_visits(shop, ("a", 1))
    assert shop.run().exit_code == 0
    return shop.client()


def dataset(client: TestClient, name: str) -> tuple[dict[str, Any], str]:
    data: dict[str, Any] = client.get(f"/datasets/{name}.json").json()
    return data, client.get(f"/datasets/{name}").text


def test_a_flow_shows_its_watermark_its_state_and_its_late_rows(details: TestClient) -> None:
    data, page = dataset(details, "silver.visits")
    [flow] = data["flows"]
    assert (flow["watermark"], flow["late_rows"]) == ("2026-05-01T15:10:00.000+00:00", 1)
    assert flow["state_rows"] >= 1
    assert "2026-05-01T15:10:00.000+00:00" in text_of(page)
    assert '<td class="number">1</td><td class="number">' in page


def test_micro_batches_show_how_long_they_took(details: TestClient) -> None:
    data, page = dataset(details, "bronze.changes")
    durations = [batch["duration_ms"] for batch in data["batches"]]
    assert len(durations) == 2 and all(duration > 0 for duration in durations)
    for duration in durations:
        assert f'<td class="number">{filters.milliseconds(duration)}</td>' in page


def test_columns_show_their_comments(details: TestClient) -> None:
    data, page = dataset(details, "bronze.changes")
    comments = {column["name"]: column["comment"] for column in data["columns"]}
    assert comments == {"id": "who it is", "name": None, "op": None, "seq": None}
    assert "<td>who it is</td>" in page


def test_a_rule_shows_its_share(details: TestClient) -> None:
    data, page = dataset(details, "bronze.changes")
    [rule] = data["rules"]
    assert (rule["passed"], rule["failed"], rule["share_failed"]) == (1, 1, 0.25)
    assert '<td class="number">50 %</td>' in page


def test_versions_show_their_rows_files_and_bytes(details: TestClient) -> None:
    data, page = dataset(details, "bronze.changes")
    last = data["table"]["history"][0]
    assert (last["added_rows"], last["added_files"]) == (2, 1)
    assert last["added_bytes"] > 100
    assert sum(entry["added_bytes"] for entry in data["table"]["history"]) == data["table"]["bytes"]
    assert filters.size(last["added_bytes"]) in page


def test_a_dataset_links_what_it_reads_and_what_reads_it(details: TestClient) -> None:
    data, page = dataset(details, "bronze.changes")
    assert data["dataset"]["inputs"] == ["delta:/Volumes/main/raw/landing/changes"]
    assert data["dataset"]["readers"] == ["silver.customers"]
    assert '<a class="mono" href="/datasets/silver.customers">' in page
    data, page = dataset(details, "silver.customers")
    assert (data["dataset"]["inputs"], data["dataset"]["readers"]) == (["bronze.changes"], [])
    assert '<a class="mono" href="/datasets/bronze.changes">' in page
    assert "nothing in this pipeline" in page


def test_the_source_is_shown_at_its_line(details: TestClient) -> None:
    lines = TABLES.splitlines()
    for name, text in (("bronze.changes", "bronze.changes"), ("silver.customers", "create_streaming_table")):
        data, page = dataset(details, name)
        source = data["source"]
        assert source["file"] == "transformations/tables.py"
        assert text in lines[source["line"] - 1]
        assert source["text"].splitlines()[source["line"] - source["first_line"]] == lines[source["line"] - 1]
        assert f"transformations/tables.py:{source['line']}" in text_of(page)
        assert 'class="hll"' in page


def test_the_pipeline_page_shows_upserts_deletes_and_time(details: TestClient, shop: Shop) -> None:
    land_changes(shop, (2, None, "D", 5), (4, "dan", "U", 6), (5, "eve", "U", 7))
    assert shop.run().exit_code == 0
    client = shop.client()
    update = client.get("/pipeline.json").json()["update"]
    customers = update["datasets"]["silver.customers"]
    assert (customers["upserted"], customers["deleted"]) == (2, 1)
    assert 0 < customers["seconds"] <= update["seconds"] + 0.1
    assert update["datasets"]["bronze.changes"]["upserted"] is None
    row = client.get("/pipeline").text.partition('<tr data-name="silver.customers">')[2].partition("</tr>")[0]
    assert 'data-field="upserted">2<' in row and 'data-field="deleted">1<' in row
    assert f'data-field="seconds">{filters.seconds(customers["seconds"])}<' in row
    page = text_of(client.get("/datasets/silver.customers").text)
    assert "Upserted 2" in page and "Deleted 1" in page


def test_the_flows_of_an_update_lie_where_they_ran(details: TestClient) -> None:
    update_id = details.get("/updates.json").json()["updates"][1]["update_id"]
    data = details.get(f"/updates/{update_id}.json").json()
    flows = {flow["dataset"]: flow for flow in data["flows"]}
    assert set(flows) == {"bronze.changes", "silver.customers", "silver.visits"}
    whole = data["update"]["seconds"]
    for flow in flows.values():
        assert 0 <= flow["offset"] <= 1000
        assert flow["length"] >= 4 and flow["offset"] + flow["length"] <= 1004
        assert flow["length"] == pytest.approx(1000 * flow["seconds"] / whole, abs=4)
    changes, customers = flows["bronze.changes"], flows["silver.customers"]
    assert customers["offset"] >= changes["offset"] + changes["length"] - 4
    page = details.get(f"/updates/{update_id}").text
    assert f'x="{min(customers["offset"], 996)}" y="2" width="{customers["length"]}"' in page


def test_a_dry_run_is_a_page_too(shop: Shop) -> None:
    client = shop.client()
    valid = post(client, "/actions/dry-run")
    assert (valid.status_code, valid.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "shop is valid: 2 streaming tables, 1 temporary view, 1 materialized view, 3 expectations." in text_of(
        valid.text
    )
    shop.write("from pyspark import pipelines as dp\n@dp.table\ndef broken(:\n")
    wrong = text_of(post(client, "/actions/dry-run").text)
    assert "PIPELINE_FILE_SYNTAX_ERROR" in wrong and "transformations/tables.py:3" in wrong


def test_what_is_refused_is_a_page_that_says_what_to_do(client: TestClient) -> None:
    answer = post(client, "/actions/start", refresh="nothing")
    assert (answer.status_code, answer.headers["content-type"]) == (409, "text/html; charset=utf-8")
    shown = text_of(answer.text)
    assert "Not started" in shown and "UNKNOWN_DATASET" in shown
    assert "What to do: choose from the list of datasets" in shown
    assert 'href="/pipeline">Back to the pipeline' in answer.text


def test_a_dataset_shows_the_comments_that_its_schema_declares_before_and_after_an_update(shop: Any) -> None:
    shop.write(
        """
        from pyspark import pipelines as dp

        @dp.materialized_view(name="gold.numbers", schema="id BIGINT COMMENT 'counted from nought'")
        def numbers():
            return spark.range(3)
        """
    )
    for _ in range(2):
        client = shop.client()
        [column] = client.get("/datasets/gold.numbers.json").json()["columns"]
        assert (column["name"], column["comment"]) == ("id", "counted from nought")
        assert "counted from nought" in client.get("/datasets/gold.numbers").text
        assert shop.run().exit_code == 0
