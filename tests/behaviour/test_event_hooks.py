"""Event hooks: called beside the update with what the event log gets, and never in its way."""

from __future__ import annotations

import json
import threading
from typing import Any

from lakelet.events.hooks import EventHook, EventHooks
from lakelet.events.log import EventBus

TABLE = """
@dp.materialized_view
def numbers():
    return spark.range(3)
"""


def events(project: Any, kind: str) -> list[Any]:
    return [event for event in project.events if event.event_type == kind]


def test_a_hook_sees_every_stable_event_of_an_update(project: Any) -> None:
    seen = project.root / "seen.jsonl"
    project.write(
        TABLE
        + f"""
import json, pathlib

@dp.on_event_hook
def note(event):
    with pathlib.Path({str(seen)!r}).open("a") as file:
        file.write(json.dumps(event, default=str) + "\\n")
"""
    )
    project.ok()
    found = [json.loads(line) for line in seen.read_text().splitlines()]
    stable = [
        event for event in project.events if event.maturity_level == "STABLE" and event.event_type != "hook_progress"
    ]
    assert [event["id"] for event in found] == [event.id for event in stable]
    assert found[-1]["message"].endswith("is COMPLETED.")
    assert set(found[0]) >= {"event_type", "origin", "details", "level", "timestamp"}


def test_a_hook_that_fails_too_often_is_disabled_and_the_event_log_says_so(project: Any) -> None:
    project.write(
        TABLE
        + "\n@dp.on_event_hook(max_allowable_consecutive_failures=3)\ndef broken(event):\n    raise ValueError('no')\n"
    )
    project.ok()
    found = events(project, "hook_progress")
    assert [event.details["status"] for event in found] == ["FAILED", "FAILED", "DISABLED"]
    assert found[0].details["name"] == "broken"
    assert str(found[0].error) == "no"


def test_a_success_in_between_begins_the_count_anew() -> None:
    bus = EventBus("id", "name", "update")
    calls: list[int] = []

    def hook(event: dict[str, Any]) -> None:
        calls.append(len(calls))
        if len(calls) % 2:
            raise ValueError(event)

    hooks = EventHooks(bus)
    bus.subscribe(hooks)
    hooks.start([EventHook(name="hook", function=hook, max_failures=2)])
    for number in range(6):
        bus.publish("user_action", str(number))
    hooks.close()
    assert len(calls) == 6


def test_the_end_of_an_update_does_not_wait_for_ever() -> None:
    bus = EventBus("id", "name", "update")
    seen: list[Any] = []
    bus.subscribe(seen.append)
    go_on = threading.Event()
    hooks = EventHooks(bus)
    bus.subscribe(hooks)
    hooks.start([EventHook(name="slow", function=lambda event: go_on.wait())])
    bus.publish("user_action", "one")
    hooks.close(timeout_seconds=0.05)
    go_on.set()
    assert any("still busy" in event.message for event in seen)


def test_a_wrong_number_of_failures(project: Any) -> None:
    project.write(TABLE + "\n@dp.on_event_hook(max_allowable_consecutive_failures=-1)\ndef hook(event): ...\n")
    assert project.run().errors[0].condition == "INVALID_PARAMETER_VALUE"
