"""Rules over the last updates, as pages show them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from lakelet.web.site import Site

ACTION_LABELS = {"ALLOW": "warn", "DROP": "drop", "FAIL": "fail"}
_EXAMPLE = re.compile(r"^example: (.*)$", re.MULTILINE)
_VIOLATED = re.compile(r"Violated expectations: '([^']+)'")


def rules_of(
    declared: Iterable[Mapping[str, Any]], counted: Iterable[Mapping[str, Any]], *, dataset: str
) -> list[dict[str, Any]]:
    """Return each rule of a dataset: as declared, in the newest update that counted it, and in those before.

    Args:
        counted: from the index, oldest first.
    """
    rules = {
        rule["name"]: {
            **_rule(dataset, rule["name"], rule["action"], rule["condition"]),
            "query": rule["query"],
            "query_note": rule["query_note"],
        }
        for rule in declared
    }
    for row in counted:
        if row["dataset"] == dataset:
            rule = rules.setdefault(row["name"], _rule(dataset, row["name"], row["action"], None))
            point = {name: row[name] for name in ("update_id", "last_at", "passed", "failed")}
            rule["trend"].append(point)
    for rule in rules.values():
        for name in ("passed", "failed"):
            rule[name] = rule["trend"][-1][name] if rule["trend"] else None
            rule[f"all_{name}"] = sum(point[name] for point in rule["trend"])
        seen = rule["all_passed"] + rule["all_failed"]
        rule["share_failed"] = rule["all_failed"] / seen if seen else None
    return list(rules.values())


def _rule(dataset: str, name: str, action: str, condition: str | None) -> dict[str, Any]:
    return {
        "dataset": dataset,
        "name": name,
        "action": action,
        "action_label": ACTION_LABELS.get(action, action.lower()),
        "condition": condition,
        "trend": [],
        "query": None,
        "query_note": None,
    }


def violations(site: Site, update_id: str | None, dataset: str) -> list[dict[str, Any]]:
    """Return the rows, as JSON text, that stopped a dataset in an update: what its fail rules reported."""
    found = []
    for event in site.index.errors(update_id) if update_id else ():
        if event["origin"].get("dataset_name") != dataset:
            continue
        for exception in (event["error"] or {}).get("exceptions", ()):
            rules = _VIOLATED.search(exception["message"] or "")
            examples = _EXAMPLE.findall(exception.get("cause") or "")
            if rules:
                found.append({"rules": rules[1], "examples": examples, "at": event["timestamp"]})
    return found
