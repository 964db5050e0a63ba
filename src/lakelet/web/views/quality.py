"""Every rule of the pipeline, the worst first, with its trend."""

from __future__ import annotations

from typing import Any

from lakelet.web.pages import PageRequest
from lakelet.web.site import Site
from lakelet.web.views.rules import rules_of

UPDATES = 30


def data(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return the rules over the last updates that counted any, by the share of rows that fail them."""
    definition = site.definition
    counted = site.index.rules(updates=UPDATES)
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for row in counted:
        by_dataset.setdefault(row["dataset"], []).append(row)
    declared = {name: item["expectations"] for name, item in definition.datasets.items()}
    rules = [
        rule
        for dataset in dict.fromkeys([*declared, *by_dataset])
        for rule in rules_of(declared.get(dataset, ()), by_dataset.get(dataset, ()), dataset=dataset)
    ]
    for rule in rules:
        rule["declared"] = rule["condition"] is not None
    rules.sort(key=lambda rule: (-(rule["share_failed"] or 0), -rule["all_failed"], rule["dataset"], rule["name"]))
    return {
        "rules": rules,
        "updates": len({row["update_id"] for row in counted}),
        "passed": sum(rule["all_passed"] for rule in rules),
        "failed": sum(rule["all_failed"] for rule in rules),
        "broken": sum(1 for rule in rules if rule["all_failed"]),
    }
