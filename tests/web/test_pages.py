"""Every page and its JSON twin: the same data, shown for people and given to programs."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from starlette.testclient import TestClient
from tests.web.web_kit import post, text_of, wait_for

PATHS = ("/pipeline", "/updates", "/quality", "/events", "/sql", "/datasets/bronze.orders", "/datasets/good_orders")


@pytest.mark.parametrize("path", PATHS)
def test_every_page_has_a_twin_with_its_data(client: TestClient, path: str) -> None:
    page, twin = client.get(path), client.get(f"{path}.json")
    assert (page.status_code, twin.status_code) == (200, 200)
    assert page.headers["content-type"].startswith("text/html")
    assert f'href="{path}.json"' in page.text
    assert isinstance(twin.json(), dict)


@pytest.mark.parametrize("path", PATHS)
def test_every_page_opens_before_the_first_update(shop: Any, path: str) -> None:
    client = shop.client()
    assert client.get(path).status_code == 200
    assert client.get(f"{path}.json").status_code == 200


def test_the_pipeline_page_shows_what_the_newest_update_did(client: TestClient) -> None:
    data = client.get("/pipeline.json").json()
    assert [item["name"] for item in data["datasets"]] == ["bronze.orders", "good_orders", "silver.paid", "gold.totals"]
    assert data["update"]["state"] == "COMPLETED"
    orders, view, paid, totals = (data["update"]["datasets"][item["name"]] for item in data["datasets"])
    assert (orders["status"], orders["input"], orders["written"], orders["failed"]) == ("COMPLETED", 3, 3, {"small": 1})
    assert view["failed"] == {"positive": 1}
    assert (paid["written"], paid["dropped"]) == (2, 1)
    assert totals["technique"] == "COMPLETE_RECOMPUTE"
    edges = {(edge["from"], edge["to"]): edge["streaming"] for edge in data["edges"] if not edge["external"]}
    assert edges == {
        ("bronze.orders", "good_orders"): True,
        ("good_orders", "silver.paid"): True,
        ("silver.paid", "gold.totals"): False,
    }


def test_a_view_stands_in_the_layer_of_what_reads_it(client: TestClient) -> None:
    layers = {item["name"]: item["layer"] for item in client.get("/pipeline.json").json()["datasets"]}
    assert layers == {
        "bronze.orders": "bronze",
        "good_orders": "silver",
        "silver.paid": "silver",
        "gold.totals": "gold",
    }


def test_a_dataset_shows_rows_rules_flows_versions_and_code(client: TestClient) -> None:
    data = client.get("/datasets/bronze.orders.json").json()
    assert [column["name"] for column in data["columns"]] == ["id", "customer", "amount"]
    assert sorted(row[0] for row in data["sample"]["rows"]) == [1, 2, 3]
    rules = {rule["name"]: (rule["action_label"], rule["passed"], rule["failed"]) for rule in data["rules"]}
    assert rules == {"has_id": ("fail", 3, 0), "small": ("warn", 2, 1)}
    [flow] = data["flows"]
    assert (flow["batch_id"], flow["unfinished"], len(flow["offsets"])) == (0, None, 1)
    assert (data["table"]["rows"], data["table"]["version"]) == (3, 1)
    assert [entry["added_rows"] for entry in data["table"]["history"]] == [3, 0]
    assert data["dataset"]["readers"] == ["good_orders"]
    assert "expect_or_fail" in data["source"]["text"]
    assert data["batches"][0]["input"] == 3


def test_the_rows_that_fail_a_warning_are_one_click_away(client: TestClient) -> None:
    [rule] = [rule for rule in client.get("/datasets/bronze.orders.json").json()["rules"] if rule["query"]]
    found = client.get("/sql.json", params={"query": rule["query"]}).json()
    assert [row[2] for row in found["rows"]] == [250]


def test_names_are_found_whatever_their_case_and_by_their_last_part(client: TestClient) -> None:
    for name in ("BRONZE.Orders", "orders", "spark_catalog.bronze.orders"):
        assert client.get(f"/datasets/{name}.json").json()["dataset"]["name"] == "bronze.orders"


def test_an_update_shows_its_flows_rules_and_errors(shop: Any) -> None:
    first = shop.run()
    shop.land((None, "dan", 7))
    result = shop.run()
    client = shop.client()
    listing = client.get("/updates.json").json()
    assert [update["state"] for update in listing["updates"]] == ["FAILED", "COMPLETED"]
    flows = client.get(f"/updates/{first.update_id}.json").json()["flows"]
    assert [flow["technique"] for flow in flows if flow["technique"]] == ["COMPLETE_RECOMPUTE"]
    data = client.get(f"/updates/{result.update_id[:8]}.json").json()
    assert {flow["flow"]: flow["status"] for flow in data["flows"]} == {
        "bronze.orders": "FAILED",
        "silver.paid": "SKIPPED",
        "gold.totals": "SKIPPED",
    }
    error = data["errors"][0]
    assert error["condition"] == "EXPECTATION_VIOLATION.VERBOSITY_ALL"
    assert "transformations/tables.py:" in error["place"]
    assert "lakelet repair bronze.orders" in error["hint"]
    shown = text_of(client.get(f"/updates/{result.update_id}").text)
    assert "What to do: nothing of this batch was written" in shown


def test_a_dataset_shows_the_rows_that_stopped_it(shop: Any) -> None:
    shop.land((None, "dan", 7))
    shop.run()
    data = shop.client().get("/datasets/bronze.orders.json").json()
    [violation] = data["violations"]
    assert violation["rules"] == "has_id"
    assert json.loads(violation["examples"][0]) == {"id": None, "customer": "dan", "amount": 7}
    assert data["flows"][0]["unfinished"] == 0


def test_quality_has_the_worst_rule_first(client: TestClient) -> None:
    data = client.get("/quality.json").json()
    names = [(rule["dataset"], rule["name"], rule["all_failed"]) for rule in data["rules"]]
    assert names == [("bronze.orders", "small", 1), ("good_orders", "positive", 1), ("bronze.orders", "has_id", 0)]


def test_the_trend_of_a_rule_has_a_point_for_each_update(shop: Any) -> None:
    shop.run()
    shop.land((4, "ann", 300), (5, "ann", 400))
    shop.run()
    rules = shop.client().get("/quality.json").json()["rules"]
    assert [p["failed"] for rule in rules if rule["name"] == "small" for p in rule["trend"]] == [1, 2]


def test_events_are_filtered_and_paged(client: TestClient) -> None:
    everything = client.get("/events.json").json()["events"]
    assert everything == sorted(everything, key=lambda event: -event["sequence"])
    of_orders = client.get("/events.json", params={"dataset": "bronze.orders", "level": "info"}).json()["events"]
    assert {event["dataset"] for event in of_orders} == {"bronze.orders"}
    assert "METRICS" not in {event["level"] for event in of_orders}
    found = client.get("/events.json", params={"q": "GOLD.totals"}).json()["events"]
    assert found and all("gold.totals" in (event["message"] + event["dataset"]) for event in found)
    middle = everything[3]["sequence"]
    assert client.get("/events.json", params={"before": middle}).json()["events"][0] == everything[4]
    whole = client.get(f"/events/{middle}.json").json()["event"]
    assert whole["id"] == everything[3]["id"]
    assert client.get(f"/events/{middle}").status_code == 200


def test_the_form_of_the_events_has_the_filters_that_are_set(client: TestClient) -> None:
    """Sent as it is shown, it asks for the same events again."""
    update = client.get("/events.json").json()["events"][0]["update_id"]
    for filters in ({}, {"q": "orders", "update": update}):
        page = client.get("/events", params=filters).text
        for name in ("q", "update"):
            assert re.search(rf'<input[^>]* name="{name}" value="{filters.get(name, "")}"', page), name


def test_what_does_not_exist_is_404_on_both_sides(client: TestClient) -> None:
    for path in ("/datasets/nothing", "/updates/ffffffff", "/events/12", "/events?update=zzz", "/nowhere"):
        plain, _, query = path.partition("?")
        assert client.get(path).status_code == 404
        twin = client.get(f"{plain}.json{'?' + query if query else ''}")
        assert twin.status_code == 404
        assert twin.json()["status"] == 404


def test_a_query_runs_over_tables_and_the_event_log(client: TestClient) -> None:
    query = "SELECT customer, total FROM gold.totals ORDER BY total"
    data = client.get("/sql.json", params={"query": query}).json()
    assert (data["rows"], data["has_more"], data["errors"]) == ([["ann", 10], ["bob", 250]], False, [])
    log = client.get("/sql.json", params={"query": "SELECT event_type FROM event_log", "limit": "2"}).json()
    assert (len(log["rows"]), log["has_more"]) == (2, True)
    page = client.get("/sql", params={"query": query}).text
    assert "bob" in page and "SELECT customer" in page


def test_the_result_of_a_query_can_be_downloaded(client: TestClient) -> None:
    params = {"query": "SELECT customer, total FROM gold.totals ORDER BY total", "format": "csv"}
    answer = client.get("/sql/download", params=params)
    assert answer.text == "customer,total\nann,10\nbob,250\n"
    assert answer.headers["content-disposition"] == 'attachment; filename="query.csv"'
    parquet = client.get("/sql/download", params={**params, "format": "parquet"})
    assert pq.read_table(io.BytesIO(parquet.content)).column("total").to_pylist() == [10, 250]


def test_files_that_do_not_load_are_shown_with_their_place_and_history(shop: Any) -> None:
    shop.run()
    shop.write("from pyspark import pipelines as dp\n@dp.table\ndef broken(:\n")
    client = shop.client()
    data = client.get("/pipeline.json").json()
    [error] = data["errors"]
    assert (error["condition"], error["line"]) == ("PIPELINE_FILE_SYNTAX_ERROR", 3)
    assert data["update"]["state"] == "COMPLETED"
    assert "transformations/tables.py:3" in client.get("/pipeline").text
    assert client.get("/updates.json").json()["count"] == 1


def test_start_runs_an_update_with_the_files_as_they_are_now(shop: Any) -> None:
    with shop.client() as client:
        assert client.get("/pipeline.json").json()["update"]["state"] is None
        shop.write(TWO)
        answer = post(client, "/actions/start")
        assert (answer.status_code, answer.headers["location"]) == (303, "/pipeline")
        wait_for(lambda: client.get("/pipeline.json").json()["update"]["state"] == "COMPLETED")
        assert [item["name"] for item in client.get("/pipeline.json").json()["datasets"]] == ["two"]


TWO = """
from pyspark import pipelines as dp

@dp.materialized_view
def two():
    return spark.range(2)
"""


def test_a_continuous_update_is_stopped_and_shows_new_rows_before(shop: Any) -> None:
    with shop.client() as client:
        assert post(client, "/actions/start.json", continuous="1").json() == {"started": True}
        wait_for(lambda: state(client, "gold.totals").get("status") == "COMPLETED")
        assert client.get("/pipeline.json").json()["update"]["runner"]["can_stop"]
        again = post(client, "/actions/start.json")
        assert (again.status_code, again.json()["errors"][0]["condition"]) == (409, "PIPELINE_LOCKED")
        shop.land((4, "ann", 5))
        wait_for(lambda: state(client, "bronze.orders").get("input") == 4)
        assert post(client, "/actions/stop.json").json() == {"stopping": True}
        wait_for(lambda: client.get("/pipeline.json").json()["update"]["state"] == "CANCELED")


def state(client: TestClient, name: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/pipeline.json").json()["update"]["datasets"].get(name) or {}
    return found


def test_a_full_refresh_asks_first(shop: Any) -> None:
    shop.run()
    table = str(shop.root / "data" / "tables" / "spark_catalog" / "bronze" / "orders")
    before = DeltaTable(table).version()
    with shop.client() as client:
        asked = post(client, "/actions/start", full_refresh="bronze.orders")
        assert asked.status_code == 200
        assert "Rebuild these datasets?" in asked.text and "bronze.orders" in asked.text
        everything = post(client, "/actions/start.json", full_refresh_all="1").json()
        assert (everything["confirm"], everything["datasets"]) == (
            True,
            ["bronze.orders", "gold.totals", "silver.paid"],
        )
        assert client.get("/updates.json").json()["count"] == 1
        assert DeltaTable(table).version() == before
        assert post(client, "/actions/start", full_refresh="bronze.orders", confirmed="yes").status_code == 303
        wait_for(lambda: client.get("/updates.json").json()["count"] == 2)
        wait_for(lambda: client.get("/pipeline.json").json()["update"]["state"] in ("COMPLETED", "FAILED"))
        assert DeltaTable(table).version() > before


def test_selected_datasets_are_refreshed_and_unknown_ones_refused(shop: Any) -> None:
    with shop.client() as client:
        wrong = post(client, "/actions/start.json", refresh="nothing")
        assert (wrong.status_code, wrong.json()["errors"][0]["condition"]) == (409, "UNKNOWN_DATASET")
        post(client, "/actions/start", refresh="bronze.orders")
        wait_for(lambda: client.get("/pipeline.json").json()["update"]["state"] == "COMPLETED")
        assert state(client, "bronze.orders")["status"] == "COMPLETED"
        assert state(client, "gold.totals").get("status") in (None, "EXCLUDED")


def test_a_dry_run_reads_the_files_and_no_data(shop: Any) -> None:
    client = shop.client()
    assert post(client, "/actions/dry-run.json").json()["valid"]
    shop.write("from pyspark import pipelines as dp\ndp.table(name='')(1)\n")
    data = post(client, "/actions/dry-run.json").json()
    assert (data["valid"], data["errors"][0]["file"]) == (False, "transformations/tables.py")
    assert client.get("/updates.json").json()["count"] == 0


def test_an_update_of_another_process_is_shown_and_cannot_be_started_twice(shop: Any) -> None:
    shop.run()
    lock = shop.root / "data" / "_lock"
    lock.write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "pipeline": "shop", "started_at": "2026-01-01T00:00:00+00:00"})
    )
    client = shop.client()
    runner = client.get("/pipeline.json").json()["update"]["runner"]
    assert (runner["owner"]["host"], runner["can_start"], runner["can_stop"]) == ("elsewhere", False, False)
    assert "Process 1 on elsewhere" in client.get("/pipeline").text
    assert post(client, "/actions/start.json").status_code == 409


def test_an_update_whose_process_died_is_interrupted(shop: Any) -> None:
    result = shop.run()
    lines = shop.root / "data" / "system" / "updates" / f"{result.update_id}.jsonl"
    kept = [line for line in lines.read_text().splitlines() if '"state":"COMPLETED"' not in line]
    import shutil

    shutil.rmtree(shop.root / "data" / "system" / "events")
    lines.write_text("\n".join([*kept[:-2], kept[-2][: len(kept[-2]) // 2]]))
    client = shop.client()
    assert client.get("/pipeline.json").json()["update"]["state"] == "INTERRUPTED"
    assert client.get("/updates.json").json()["updates"][0]["state"] == "INTERRUPTED"
