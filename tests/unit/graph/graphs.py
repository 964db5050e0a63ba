"""Graphs for tests, written as what reads what."""

from __future__ import annotations

from typing import Any

from lakelet.errors import Origin
from lakelet.graph.dataflow_graph import DataflowGraph, Input, ResolvedFlow
from lakelet.graph.elements import AutoCdcFlow, Dataset, DatasetKind, Flow
from lakelet.names import NameContext

NAMES = NameContext()
KINDS = {
    "streaming": DatasetKind.STREAMING_TABLE,
    "view": DatasetKind.MATERIALIZED_VIEW,
    "temporary": DatasetKind.TEMPORARY_VIEW,
    "sink": DatasetKind.SINK,
}


def dataset(name: str, kind: str = "streaming", **fields: Any) -> Dataset:
    return Dataset(name=NAMES.resolve(name), kind=KINDS[kind], **{"origin": Origin(file="p.py", line=1), **fields})


def flow(name: str, target: str, *reads: str, once: bool = False, cdc: dict[str, Any] | None = None) -> ResolvedFlow:
    """Return a flow; `~x` is a streaming read of x, and a name with a slash lies outside of the pipeline."""
    inputs = tuple(
        Input(
            dataset=None if "/" in read else NAMES.resolve(read.lstrip("~")),
            label=read.lstrip("~"),
            streaming=read.startswith("~"),
        )
        for read in reads
    )
    origin = Origin(file="p.py", line=2)
    declared: Any
    if cdc is not None:
        declared = AutoCdcFlow(
            name=name,
            target=NAMES.resolve(target),
            source="x",
            origin=origin,
            **{"keys": ("id",), "sequence_by": "at", **cdc},
        )
    else:
        declared = Flow(name=name, target=NAMES.resolve(target), query=lambda: None, origin=origin, once=once)
    return ResolvedFlow(flow=declared, relation=None, inputs=inputs, streaming=any(i.streaming for i in inputs))


def graph(*items: Dataset | ResolvedFlow) -> DataflowGraph:
    """Return the graph of datasets and flows."""
    datasets = {item.name.key: item for item in items if isinstance(item, Dataset)}
    return DataflowGraph(
        names=NAMES, datasets=datasets, flows=tuple(item for item in items if isinstance(item, ResolvedFlow))
    )


def chain(**reads: str) -> DataflowGraph:
    """Return a graph of streaming tables and materialized views: `b="~a"` streams a, `c="a, b"` reads both."""
    items: list[Dataset | ResolvedFlow] = []
    for name, text in reads.items():
        sources = [part.strip() for part in text.split(",") if part.strip()]
        items.append(dataset(name, "streaming" if any(s.startswith("~") for s in sources) else "view"))
        items.append(flow(name, name, *sources))
    return graph(*items)
