"""Delays of watermarks, and ranges of event time in join conditions."""

from __future__ import annotations

import pytest

from lakelet.plan import relation as plan
from lakelet.plan.event_time import parse_delay
from lakelet.plan.relation import Relation
from lakelet.plan.time_range import bounds

MINUTE = 60_000


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("10 minutes", 10 * MINUTE),
        ("interval 1 hour 30 minutes", 90 * MINUTE),
        ("0 seconds", 0),
        ("1.5 seconds", 1500),
        ("2 weeks", 14 * 24 * 60 * MINUTE),
        ("1 month", 31 * 24 * 60 * MINUTE),
        ("500 milliseconds", 500),
        ("-1 minute", None),
        ("ten minutes", None),
        ("10", None),
        ("", None),
    ],
)
def test_delays(text: str, milliseconds: int | None) -> None:
    assert parse_delay(text) == milliseconds


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("l.id = r.id", (None, None)),
        ("l.id = r.id AND r.at BETWEEN l.at AND l.at + INTERVAL 1 HOUR", (60 * MINUTE, 0)),
        ("r.at >= l.at - interval '5 minutes' AND r.at < l.at + interval 10 minutes", (10 * MINUTE, 5 * MINUTE)),
        ("l.at = r.at", (0, 0)),
        ("(l.at <= r.at)", (None, 0)),
        ("l.at <= r.at OR l.id = 1", (None, None)),
        ("l.at <= r.other", (None, None)),
        ("at <= r.at", (None, None)),
    ],
)
def test_bounds_of_a_join_condition(condition: str, expected: tuple[int | None, int | None]) -> None:
    node = Relation()
    node.join.left.CopyFrom(plan.alias(plan.named("a", streaming=True), "l"))
    node.join.right.CopyFrom(plan.alias(plan.named("b", streaming=True), "r"))
    node.join.join_condition.CopyFrom(plan.expression(condition))
    assert bounds(node, ({"at": False}, {"at": False})) == expected
