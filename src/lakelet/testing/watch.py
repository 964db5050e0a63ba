"""What happens in a run of a test: events, and the rows that rules drop."""

from __future__ import annotations

from lakelet.events.model import PipelineEvent
from lakelet.execution.expectations import DroppedRows
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import Action
from lakelet.testing.result import Dropped, RuleCount, in_order

_ACTIONS = {Action.WARN: "warn", Action.DROP: "drop", Action.FAIL: "fail"}


class Watch:
    """What happens in a run."""

    def __init__(self) -> None:
        self.events: list[PipelineEvent] = []
        self._dropped: list[Dropped] = []

    def add_dropped(self, flow: str, found: DroppedRows) -> None:
        rows = zip(found.rows.to_pylist(), found.rules, strict=True)
        self._dropped += [Dropped(dataset=found.dataset, flow=flow, row=row, rules=rules) for row, rules in rows]

    def dropped(self) -> tuple[Dropped, ...]:
        """Return the dropped rows by dataset and flow, and in the order of their columns."""
        groups: dict[tuple[str, str], list[Dropped]] = {}
        for item in self._dropped:
            groups.setdefault((item.dataset, item.flow), []).append(item)
        result: list[Dropped] = []
        for _, items in sorted(groups.items()):
            numbered = in_order([{**item.row, "__lakelet_number": number} for number, item in enumerate(items)])
            result += [items[row["__lakelet_number"]] for row in numbered]
        return tuple(result)

    def counts(self, graph: DataflowGraph) -> list[RuleCount]:
        """Return the counts of every rule of a graph, 0 where no row came."""
        passed: dict[tuple[str, str], int] = {}
        failed: dict[tuple[str, str], int] = {}
        for event in self.events:
            if event.event_type == "flow_progress":
                for found in event.details.get("data_quality", {}).get("expectations", ()):
                    key = (found["dataset"], found["name"])
                    passed[key] = passed.get(key, 0) + found["passed_records"]
                    failed[key] = failed.get(key, 0) + found["failed_records"]
        result = []
        for dataset in graph.datasets.values():
            display = graph.display(dataset.name)
            for rule in dataset.expectations:
                key = (display, rule.name)
                result.append(
                    RuleCount(
                        dataset=display,
                        name=rule.name,
                        action=_ACTIONS[rule.action],
                        passed=passed.get(key, 0),
                        failed=failed.get(key, 0),
                    )
                )
        return result
