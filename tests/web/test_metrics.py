"""What Prometheus reads at `/metrics`, through its own parser."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from tests.web.web_kit import Shop

from lakelet.web import metrics as module
from lakelet.web.index import EventIndex
from lakelet.web.metrics import CONTENT_TYPE, OTHER, PipelineMetrics
from lakelet.web.security import Access
from lakelet.web.site import Site

ORDERS = {"dataset": "bronze.orders", "flow": "bronze.orders"}


class Scrape:
    """The samples of one scrape, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))


def scrape(client: TestClient, site: Site) -> Scrape:
    site.watcher.read()
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    return Scrape(answer.text)


def test_counters_add_up_what_updates_of_any_process_do_while_the_server_runs(shop: Shop) -> None:
    shop.run()
    site = shop.site()
    client = shop.client(site=site)
    before = scrape(client, site)
    assert before.value("lakelet_input_rows_total", **ORDERS) is None  # of before the server started
    shop.land((4, "dan", 7), (5, "eve", -1))
    shop.run()
    found = scrape(client, site)
    assert found.value("lakelet_input_rows_total", **ORDERS) == 2
    assert found.value("lakelet_written_rows_total", **ORDERS) == 2
    assert found.value("lakelet_dropped_rows_total", dataset="silver.paid", flow="silver.paid") == 1
    rule = {"dataset": "good_orders", "rule": "positive", "action": "DROP", "flow": "silver.paid"}
    assert found.value("lakelet_expectation_passed_records_total", **rule) == 1
    assert found.value("lakelet_expectation_failed_records_total", **rule) == 1
    assert found.value("lakelet_batch_duration_seconds_count", **ORDERS) == 1
    assert (found.value("lakelet_batch_duration_seconds_sum", **ORDERS) or 0) > 0
    assert found.value("lakelet_updates_total", state="COMPLETED") == 1
    shop.land((6, "fay", 1))
    shop.run()
    assert scrape(client, site).value("lakelet_input_rows_total", **ORDERS) == 3


CHANGES_AND_VISITS = """
from pyspark import pipelines as dp

@dp.temporary_view
def changes():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/changes")

dp.create_streaming_table("customers")
dp.create_auto_cdc_flow(
    target="customers", source="changes", keys=["id"], sequence_by="seq", apply_as_deletes="op = 'D'",
    except_column_list=["op", "seq"]
)

@dp.table
def pages():
    visits = spark.readStream.format("delta").load("/Volumes/main/raw/landing/visits")
    return visits.withWatermark("at", "10 minutes").dropDuplicates(["page", "at"])
"""
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def land(shop: Shop, name: str, columns: dict[str, list[Any]]) -> None:
    folder = shop.root / "data" / "Volumes" / "main" / "raw" / "landing" / name
    write_deltalake(str(folder), pa.table(columns), mode="append")


def change(shop: Shop, *rows: tuple[int, str | None, str, int]) -> None:
    ids, names, operations, numbers = (list(column) for column in zip(*rows, strict=True))
    land(shop, "changes", {"id": ids, "name": names, "op": operations, "seq": numbers})


def visit(shop: Shop, *rows: tuple[str, int]) -> None:
    land(shop, "visits", {"page": [page for page, _ in rows], "at": [NOON + timedelta(minutes=at) for _, at in rows]})


def test_keys_late_rows_and_state_are_counted(shop: Shop) -> None:
    shop.write(CHANGES_AND_VISITS)
    site = shop.site()
    client = shop.client(site=site)
    customers, pages = ({"dataset": name, "flow": name} for name in ("customers", "pages"))

    def counted() -> dict[str, float | None]:
        assert shop.run().exit_code == 0
        found = scrape(client, site)
        return {
            "upserted": found.value("lakelet_upserted_rows_total", **customers),
            "deleted": found.value("lakelet_deleted_rows_total", **customers),
            "changes": found.value("lakelet_input_rows_total", **customers),
            "late": found.value("lakelet_late_rows_total", **pages),
            "remembered": found.value("lakelet_state_rows", **pages),
            "pages": found.value("lakelet_written_rows_total", **pages),
        }

    change(shop, (1, "ann", "U", 1), (2, "bob", "U", 1), (3, "eve", "U", 1))
    visit(shop, ("a", 0), ("a", 0), ("b", 3))
    assert counted() == {"upserted": 3, "deleted": None, "changes": 3, "late": None, "remembered": 2, "pages": 2}
    change(shop, (1, "zoe", "U", 2), (3, None, "D", 2), (4, "kim", "U", 2), (5, "lee", "U", 2))
    visit(shop, ("a", 60))
    assert counted() == {"upserted": 6, "deleted": 1, "changes": 7, "late": None, "remembered": 3, "pages": 3}
    change(shop, (4, None, "D", 3), (5, None, "D", 3))
    visit(
        shop, ("c", 1), ("d", 2), ("e", 55)
    )  # the watermark is at 12:50; what it passed is forgotten some files later
    assert counted() == {"upserted": 6, "deleted": 3, "changes": 9, "late": 2, "remembered": 4, "pages": 4}


def test_gauges_say_how_the_newest_update_stands_also_from_the_event_log(shop: Shop) -> None:
    site = shop.site()
    client = shop.client(site=site)
    never = scrape(client, site)
    assert never.value("lakelet_last_successful_update_timestamp_seconds") == 0
    assert never.value("lakelet_pipeline_info", pipeline="shop") == 1
    started = datetime.now(UTC).timestamp()
    shop.run()
    good = scrape(client, site)
    succeeded = good.value("lakelet_last_successful_update_timestamp_seconds")
    assert succeeded is not None and started <= succeeded <= datetime.now(UTC).timestamp()
    assert good.value("lakelet_update_state", state="COMPLETED") == 1
    shop.land((None, "bad", 1))
    assert shop.run().exit_code == 1
    bad = scrape(client, site)
    assert bad.value("lakelet_update_state", state="FAILED") == 1
    assert bad.value("lakelet_update_state", state="COMPLETED") == 0
    assert bad.value("lakelet_last_successful_update_timestamp_seconds") == succeeded
    assert bad.value("lakelet_flow_failures_total", **ORDERS) == 1
    another = shop.site()
    assert scrape(shop.client(site=another), another).value(
        "lakelet_last_successful_update_timestamp_seconds"
    ) == pytest.approx(succeeded)


def test_metrics_have_the_rules_of_every_page(shop: Shop) -> None:
    guarded = shop.client(access=Access(token="secret-of-the-page", any_address=True))
    assert guarded.get("/metrics").status_code == 401
    assert guarded.get("/metrics", headers={"authorization": "Bearer secret-of-the-page"}).status_code == 200
    client = shop.client()
    assert client.get("/metrics", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/metrics", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}).status_code == 403
    assert client.post("/metrics", headers={"origin": "http://127.0.0.1:4040"}).status_code == 405


def event(number: int, *, dataset: str, rules: tuple[str, ...] = ()) -> dict[str, Any]:
    expectations = [
        {"name": rule, "dataset": dataset, "action": "ALLOW", "passed_records": 1, "failed_records": 2}
        for rule in rules
    ]
    details = {"status": "RUNNING", "metrics": {"num_input_rows": 1}, "data_quality": {"expectations": expectations}}
    return {
        "sequence": {"data_plane_id": {"seq_no": number}},
        "timestamp": "2025-01-01T00:00:00+00:00",
        "event_type": "flow_progress",
        "origin": {"dataset_name": dataset, "flow_name": dataset},
        "details": {"flow_progress": details},
    }


def test_labels_are_bounded_and_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FLOWS", 3)
    monkeypatch.setattr(module, "MOST_RULES", 3)
    index = EventIndex()
    metrics = PipelineMetrics("shop", index, since=datetime.fromtimestamp(0, UTC))
    evil = 'a"} 1\n\\evil{x="'
    metrics.count([event(number, dataset=f"{number}" * 500, rules=(f"r{number}",)) for number in range(1, 9)])
    metrics.restart()
    metrics.count([event(number, dataset=f"{number}" * 500, rules=(f"r{number}",)) for number in range(1, 9)])
    found = Scrape(metrics.text().decode())
    assert found.value("lakelet_input_rows_total", dataset="1" * 200, flow="1" * 200) == 1
    assert found.value("lakelet_input_rows_total", dataset=OTHER, flow=OTHER) == 5
    assert sum(name == "lakelet_expectation_failed_records_total" for name, _ in found.samples) == 4
    metrics.restart()
    metrics.count([event(1, dataset=evil)])
    assert Scrape(metrics.text().decode()).value("lakelet_input_rows_total", dataset=evil, flow=evil) == 1
    index.close()


def test_every_metric_is_in_the_guide() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "monitoring.md").read_text("utf-8")
    documented = set(re.findall(r"^\| `(lakelet_[a-z_]+)`", guide, re.MULTILINE))
    index = EventIndex()
    metrics = PipelineMetrics("shop", index, since=datetime.now(UTC))
    families = text_string_to_metric_families(metrics.text().decode())
    assert documented == {family.name + ("_total" if family.type == "counter" else "") for family in families}
    index.close()
