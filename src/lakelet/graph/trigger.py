"""How often a continuous update starts the batches of a flow, as its declaration says."""

from __future__ import annotations

from collections.abc import Iterator

from lakelet.errors import GraphError, LakeletError
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import AnyFlow, Dataset
from lakelet.settings import TRIGGER_INTERVAL, interval_seconds


def declared_interval(flow: AnyFlow, dataset: Dataset) -> str | None:
    """Return `pipelines.trigger.interval` of a flow, else of its table, None where neither sets it."""
    for settings in (flow.spark_conf, dataset.spark_conf, dataset.table_properties):
        if (text := settings.get(TRIGGER_INTERVAL)) is not None:
            return str(text)
    return None


def intervals_are_times(graph: DataflowGraph) -> list[LakeletError]:
    """Every declared interval is a time."""
    return list(_wrong_intervals(graph))


def _wrong_intervals(graph: DataflowGraph) -> Iterator[LakeletError]:
    for flow in graph.flows:
        dataset = graph.dataset(flow.target)
        text = declared_interval(flow.flow, dataset)
        try:
            if text is not None:
                interval_seconds(text)
        except ValueError as error:
            yield GraphError(
                "INVALID_TRIGGER_INTERVAL",
                f"`{TRIGGER_INTERVAL}` of `{graph.display(dataset.name)}` is {text!r}",
                origin=flow.flow.origin,
                cause=str(error),
                hint=f'write `spark_conf={{"{TRIGGER_INTERVAL}": "10 seconds"}}`',
            )
