"""OpenLineage: what an update did as runs, delivered beside it and never in its way."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from tests.behaviour.openlineage_events import FACETS, check

from lakelet.errors import SpecError
from lakelet.events import lineage
from lakelet.events.lineage import LineageEvents
from lakelet.events.log import EventBus
from lakelet.events.openlineage import LineageRuns
from lakelet.names import NameContext

TABLES = """
@dp.table(comment="Orders as they came")
@dp.expect("small", "amount < 100")
def orders():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

@dp.temporary_view
@dp.expect_or_drop("positive", "amount > 0")
def good_orders():
    return spark.readStream.table("orders")

@dp.table(name="silver.paid")
def paid():
    return spark.readStream.table("good_orders")

@dp.materialized_view
def totals():
    return spark.read.table("silver.paid").groupBy("customer").agg(F.sum("amount").alias("total"))
"""
FILE = {"lakelet.openlineage.file": "lineage/events.jsonl", "lakelet.openlineage.namespace": "shop-test"}


def land(project: Any, *rows: tuple[str, int]) -> None:
    customers, amounts = zip(*rows, strict=True)
    project.land("orders", pa.table({"customer": list(customers), "amount": pa.array(amounts, pa.int64())}))


def read(project: Any) -> list[dict[str, Any]]:
    lines = (project.root / "lineage" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    for event in events:
        check(event)
    return events


def by_job(events: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(event["job"]["name"], []).append(event)
    return found


def test_an_update_and_each_flow_is_a_run_with_what_it_read_wrote_and_checked(project: Any) -> None:
    project.write(TABLES)
    land(project, ("ann", 10), ("bob", 250), ("cyd", -5))
    result = project.ok(configuration=FILE)
    jobs = by_job(read(project))
    assert {name: [event["eventType"] for event in events] for name, events in jobs.items()} == {
        "shop": ["START", "COMPLETE"],
        "shop.orders": ["START", "COMPLETE"],
        "shop.orders.expectations": ["START", "COMPLETE"],
        "shop.silver.paid": ["START", "COMPLETE"],
        "shop.silver.paid.expectations": ["START", "COMPLETE"],
        "shop.totals": ["START", "COMPLETE"],
    }
    assert {event["job"]["namespace"] for events in jobs.values() for event in events} == {"shop-test"}
    assert [event["run"]["runId"] for event in jobs["shop"]] == [result.update_id] * 2
    paid = jobs["shop.silver.paid"][1]
    parent = paid["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == parent["root"]["run"]["runId"] == result.update_id
    assert [(item["namespace"], item["name"]) for item in paid["inputs"]] == [
        ("shop-test", "spark_catalog.default.orders")  # not the view between them
    ]
    [output] = paid["outputs"]
    assert (output["namespace"], output["name"]) == ("shop-test", "spark_catalog.silver.paid")
    assert [(column["name"], column["type"]) for column in output["facets"]["schema"]["fields"]] == [
        ("customer", "string"),
        ("amount", "bigint"),
    ]
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 2
    [source] = jobs["shop.orders"][1]["inputs"]
    assert (source["namespace"], source["name"]) == ("file", "/Volumes/main/raw/landing/orders")
    [checked] = jobs["shop.silver.paid.expectations"][1]["inputs"]
    [rule] = checked["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert (checked["name"], rule["name"], rule["success"], rule["content"]) == (
        "spark_catalog.silver.paid",
        "positive",
        False,
        "amount > 0",
    )
    assert rule["params"] == {"action": "DROP", "passed_records": 2, "failed_records": 1}


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within an event, but for what may be anything: the parameters of an assertion."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if key != "params":
            yield from places(item, (*path, key))


def at(event: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        event = event[key]
    return event


def changed(event: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(event))
    at(copy, path[:-1])[path[-1]] = value
    return copy


def fails(event: dict[str, Any]) -> bool:
    try:
        check(event)
    except ValueError:
        return True
    return False


def test_an_event_with_any_one_value_broken_fails_the_check(project: Any) -> None:
    """The check itself: each value of every kind of event is replaced, made null, misspelled; each must be noticed."""
    project.write(TABLES)
    land(project, ("ann", 10), ("bob", 250), ("cyd", -5))
    project.ok(configuration=FILE)
    project.write(TABLES.replace('@dp.expect("small", "amount < 100")', '@dp.expect_or_fail("small", "amount < 100")'))
    land(project, ("bob", 250))
    assert project.run(configuration=FILE).exit_code == 1
    events = read(project)
    used = {key for event in events for path in places(event) for key in path if key in FACETS}
    assert used == FACETS.keys()
    missed = []
    for event in events:
        for path in places(event):
            broken = {"another type": [1.5], "null": None, "a field too many": {"no_such_field": 1}}
            if isinstance(at(event, path), dict):
                broken["a field too many"] = {**at(event, path), "no_such_field": 1}
            missed += [(what, path) for what, value in broken.items() if not fails(changed(event, path, value))]
    assert missed == []


FORBIDDEN: list[tuple[tuple[Any, ...], Any]] = [
    (("eventType",), "DONE"),
    (("eventTime",), "2025-01-01T00:00:00"),
    (("eventTime",), "yesterday"),
    (("producer",), "lakelet"),
    (("schemaURL",), "https://openlineage.io/spec/1-0-0/OpenLineage.json#/$defs/RunEvent"),
    (("run", "runId"), "1"),
    (("run", "facets", "parent", "run", "runId"), "1"),
    (("run", "facets", "parent", "root"), {"run": {}}),
    (("run", "facets", "parent", "job"), {"namespace": "shop"}),
    (("job", "facets", "jobType", "_schemaURL"), "https://openlineage.io/spec/facets/1-0-0/JobTypeJobFacet.json"),
    (("job", "facets", "jobType", "_producer"), "lakelet"),
    (("outputs", 0), {"namespace": "shop"}),
    (("outputs", 0, "facets", "schema", "fields", 0, "ordinal_position"), "1"),
    (("outputs", 0, "facets", "schema", "fields", 0, "ordinal_position"), 0),
    (("outputs", 0, "facets", "schema", "fields", 0), {"type": "string"}),
    (("outputs", 0, "outputFacets", "outputStatistics", "rowCount"), "2"),
    (("outputs", 0, "outputFacets", "outputStatistics", "rowCount"), True),
    (("outputs", 0, "outputFacets", "outputStatistics", "rowCount"), 2.0),
]
"""Values of the right type that do not fit all the same, and objects without what they must have."""


def test_what_the_schemas_forbid_fails_the_check(project: Any) -> None:
    project.write(TABLES)
    land(project, ("ann", 10))
    project.ok(configuration=FILE)
    event = by_job(read(project))["shop.orders"][-1]
    assert [(path, value) for path, value in FORBIDDEN if not fails(changed(event, path, value))] == []
    counts = event["outputs"][0]["outputFacets"]["outputStatistics"]
    with pytest.raises(ValueError, match="no DatasetFacet"):  # a facet in the place of another kind
        check(changed(event, ("outputs", 0, "facets"), {"outputStatistics": counts}))


def test_a_failed_flow_is_a_failed_run_and_what_it_stopped_is_aborted(project: Any) -> None:
    project.write(TABLES.replace('@dp.expect("small", "amount < 100")', '@dp.expect_or_fail("small", "amount < 100")'))
    land(project, ("bob", 250))
    assert project.run(configuration=FILE).exit_code == 1
    ends = {name: events[-1] for name, events in by_job(read(project)).items()}
    assert {name: event["eventType"] for name, event in ends.items()} == {
        "shop": "FAIL",
        "shop.orders": "FAIL",
        "shop.silver.paid": "ABORT",
        "shop.totals": "ABORT",
    }
    assert "small" in ends["shop.orders"]["run"]["facets"]["errorMessage"]["message"]


def test_a_definition_that_does_not_load_is_a_failed_run(project: Any) -> None:
    project.write("@dp.materialized_view\ndef broken():\n    return spark.read.table('nothing')\n")
    assert project.run(configuration=FILE).exit_code != 0
    start, end = read(project)
    assert (start["eventType"], end["eventType"]) == ("START", "FAIL")
    assert "nothing" in end["run"]["facets"]["errorMessage"]["message"]


@contextmanager
def server(*, status: int) -> Iterator[tuple[str, list[tuple[dict[str, str], dict[str, Any]]]]]:
    received: list[tuple[dict[str, str], dict[str, Any]]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append(({"path": self.path, "key": self.headers.get("authorization", "")}, body))
            self.send_response(status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http_server.server_port}", received
        finally:
            http_server.shutdown()
            thread.join()


def test_a_server_gets_the_events_with_the_key_of_the_environment(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "key-of-the-server")
    project.write("@dp.materialized_view\ndef numbers():\n    return spark.range(3)\n")
    with server(status=201) as (url, received):
        project.ok(configuration={"lakelet.openlineage.url": url})
    for _, body in received:
        check(body)
    assert [body["eventType"] for _, body in received] == ["START", "START", "COMPLETE", "COMPLETE"]
    assert {(head["path"], head["key"]) for head, _ in received} == {("/api/v1/lineage", "Bearer key-of-the-server")}
    assert not [event for event in project.events if "key-of-the-server" in event.to_json()]


@pytest.mark.parametrize("status", [None, 403, 500])
def test_a_receiver_that_fails_costs_one_warning(project: Any, status: int | None) -> None:
    project.write(TABLES)
    land(project, ("ann", 10))
    with server(status=status or 201) as (url, received):
        if status is None:
            project.root.joinpath("taken").write_text("a file, not a folder")
            configuration = {"lakelet.openlineage.file": "taken/events.jsonl"}
        else:
            configuration = {"lakelet.openlineage.url": url}
        project.ok(configuration=configuration)
    warnings = [event.message for event in project.events if event.event_type == "warning"]
    assert len(warnings) == 1 and "OpenLineage" in warnings[0]
    assert len(received) <= 2 * lineage.MOST_FAILURES  # a try and another one each


def lineage_of(bus: EventBus, transport: Any) -> LineageEvents:
    runs = LineageRuns(namespace="shop", names=NameContext(), version="1")
    events = LineageEvents(bus, runs, [transport])
    bus.subscribe(events)
    return events


class Stuck:
    """A receiver that answers when it is let go."""

    def __init__(self) -> None:
        self.is_called = threading.Event()
        self.let_go = threading.Event()

    def emit(self, event: Any) -> None:
        self.is_called.set()
        self.let_go.wait()


def test_a_slow_receiver_neither_fills_the_memory_nor_holds_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MOST_WAITING", 5)
    bus = EventBus("id", "name", str(UUID(int=1)))
    seen: list[Any] = []
    bus.subscribe(seen.append)
    stuck = Stuck()
    events = lineage_of(bus, stuck)
    bus.publish("create_update", "begins")
    assert stuck.is_called.wait(60)
    for number in range(20):
        bus.publish("flow_definition", str(number), flow=str(number), dataset="d")
    events.close(timeout_seconds=0)
    assert sum(event.event_type == "warning" for event in seen) == 1
    stuck.let_go.set()


def test_an_event_that_cannot_be_told_costs_a_warning_and_nothing_else() -> None:
    bus = EventBus("id", "name", str(UUID(int=1)))
    seen: list[Any] = []
    told: list[Any] = []
    bus.subscribe(seen.append)

    class Receiver:
        def emit(self, event: Any) -> None:
            told.append(event)

    events = lineage_of(bus, Receiver())
    bus.publish("flow_definition", "without a flow")
    bus.publish("create_update", "begins")
    events.close()
    assert sorted(event.event_type for event in seen) == ["create_update", "flow_definition", "warning"]
    assert [run.eventType.value for run in told] == ["START"]


def test_flows_that_go_on_say_so_once_a_minute_and_end_with_their_update() -> None:
    runs = LineageRuns(namespace="shop", names=NameContext(), version="1")
    told: list[tuple[str, str]] = []

    def apply(second: int, kind: str, **details: Any) -> None:
        origin = {"update_id": str(UUID(int=1)), "pipeline_name": "shop"}
        if kind == "flow_progress":
            origin |= {"flow_name": "orders", "dataset_name": "orders"}
        event = {
            "event_type": kind,
            "timestamp": f"2025-01-01T00:{second // 60:02}:{second % 60:02}+00:00",
            "message": "",
            "level": "INFO",
            "origin": origin,
            "details": {kind: details},
        }
        told.extend((run.job.name, run.eventType.value) for run in runs.apply(event))

    apply(0, "create_update", config={"continuous": True})
    for second in range(1, 180, 5):
        apply(second, "flow_progress", status="RUNNING", metrics={"num_output_rows": 1})
    apply(180, "flow_progress", status="FAILED", retry={"attempt": 1})
    apply(181, "update_progress", state="CANCELED")
    flow = [state for job, state in told if job == "shop.orders"]
    assert flow == ["START", "RUNNING", "RUNNING", "ABORT"]
    assert [state for job, state in told if job == "shop"] == ["START", "ABORT"]


@pytest.mark.parametrize("address", ["localhost:5000", "ftp://host", "http://", "http://user:pass@host"])
def test_an_address_that_is_none_or_has_a_password_is_refused(project: Any, address: str) -> None:
    with pytest.raises(SpecError, match="PIPELINE_SETTING_INVALID"):
        project.pipeline(configuration={"lakelet.openlineage.url": address})
