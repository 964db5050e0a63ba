"""How the materialized views of a pipeline were brought up to date, as the event log tells."""

from __future__ import annotations

from collections.abc import Iterable

from lakelet.events.model import PipelineEvent


def techniques(events: Iterable[PipelineEvent]) -> dict[str, tuple[str, list[str]]]:
    """Return the technique of each view in the last of some updates, and the issues that kept it from a cheaper one."""
    found = {}
    for event in events:
        if event.event_type == "planning_information":
            [chosen] = [item for item in event.details["technique_information"] if item["is_chosen"]]
            issues = [issue["issue_type"] for issue in chosen["incrementalization_issues"]]
            found[event.origin["flow_name"]] = (chosen["maintenance_type"].removeprefix("MAINTENANCE_TYPE_"), issues)
    return found
