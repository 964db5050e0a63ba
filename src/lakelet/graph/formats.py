"""The graph of a pipeline as text for a terminal, as a Mermaid flowchart and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakelet.graph.dataflow_graph import DataflowGraph, Input, ResolvedFlow
from lakelet.graph.elements import Dataset, DatasetKind, Flow
from lakelet.names import TableName


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """One input of one flow; `source` is a dataset's name or the label of something outside of the pipeline."""

    source: str
    target: str
    flow: str
    streaming: bool
    external: bool


def edges(graph: DataflowGraph) -> list[Edge]:
    """Return what each flow reads, in the order of the datasets."""
    return [
        Edge(
            source=_label(graph, item),
            target=graph.display(name),
            flow=flow.name,
            streaming=item.streaming,
            external=_is_external(graph, item),
        )
        for name in graph.order()
        for flow in graph.flows_to(name)
        for item in flow.inputs
    ]


def external_inputs(graph: DataflowGraph) -> list[str]:
    """Return what the pipeline reads from outside of itself."""
    return list(dict.fromkeys(edge.source for edge in edges(graph) if edge.external))


def _is_external(graph: DataflowGraph, item: Input) -> bool:
    return item.dataset is None or item.dataset.key not in graph.datasets


def _label(graph: DataflowGraph, item: Input) -> str:
    if item.dataset is None or item.dataset.key not in graph.datasets:
        return item.label
    return graph.display(graph.dataset(item.dataset).name)


def summary(graph: DataflowGraph) -> str:
    """Return how many datasets of each kind there are, and how many expectations."""
    counts: dict[str, int] = {}
    for dataset in graph.datasets.values():
        counts[dataset.kind.label] = counts.get(dataset.kind.label, 0) + 1
    rules = sum(len(dataset.expectations) for dataset in graph.datasets.values())
    parts = [_counted(count, label) for label, count in counts.items()]
    return ", ".join([*parts, _counted(rules, "expectation")] if rules else parts)


def _counted(count: int, label: str) -> str:
    return f"{count} {label}" + ("" if count == 1 else "s")


# -- text


def as_text(graph: DataflowGraph) -> str:
    """Return one line a dataset: name, kind, what it reads; each after what it reads, by schema.

    `⇐` is a streaming read, `←` a batch read.
    """
    names = graph.order()
    display = {name: graph.display(name) for name in names}
    width = max(len(_short(graph, name)) + 2 * bool(_group(graph, name)) for name in names)
    kind_width = max(len(graph.dataset(name).kind.label) for name in names)
    lines: list[str] = []
    for group, members in _by_group(graph, names).items():
        if group:
            lines += ["", group] if lines else [group]
        for name in members:
            dataset = graph.dataset(name)
            label = f"  {_short(graph, name)}" if group else display[name]
            line = f"{label:<{width}}  {dataset.kind.label:<{kind_width}}  {_reads(graph, name)}"
            lines.append(line.rstrip() + _remarks(graph, dataset))
    return "\n".join(lines)


def _group(graph: DataflowGraph, name: TableName) -> str:
    return graph.display(name).rpartition(".")[0]


def _short(graph: DataflowGraph, name: TableName) -> str:
    return graph.display(name).rpartition(".")[2]


def _by_group(graph: DataflowGraph, names: list[TableName]) -> dict[str, list[TableName]]:
    groups: dict[str, list[TableName]] = {}
    for name in names:
        groups.setdefault(_group(graph, name), []).append(name)
    return groups


def _reads(graph: DataflowGraph, name: TableName) -> str:
    found: dict[str, bool] = {}
    for flow in graph.flows_to(name):
        for item in flow.inputs:
            label = _label(graph, item)
            found[label] = found.get(label, False) or item.streaming
    streams = [label for label, streaming in found.items() if streaming]
    batches = [label for label, streaming in found.items() if not streaming]
    parts = [f"⇐ {', '.join(streams)}"] if streams else []
    return "  ".join([*parts, f"← {', '.join(batches)}"] if batches else parts)


def _remarks(graph: DataflowGraph, dataset: Dataset) -> str:
    flows = graph.flows_to(dataset.name)
    remarks = ["AUTO CDC"] if any(flow.is_cdc for flow in flows) else []
    remarks += [_counted(len(flows), "flow")] if len(flows) > 1 else []
    remarks += [_counted(len(dataset.expectations), "expectation")] if dataset.expectations else []
    remarks += ["private"] if dataset.private else []
    return f"  ({', '.join(remarks)})" if remarks else ""


# -- mermaid

_SHAPES: Mapping[DatasetKind, tuple[str, str]] = {
    DatasetKind.STREAMING_TABLE: ("[[", "]]"),
    DatasetKind.MATERIALIZED_VIEW: ("[", "]"),
    DatasetKind.TEMPORARY_VIEW: ("([", "])"),
    DatasetKind.SINK: ("[/", "/]"),
    DatasetKind.TABLE: ("[", "]"),
}


def as_mermaid(graph: DataflowGraph) -> str:
    """Return a flowchart: a subgraph for each schema, full lines for streaming reads, dotted ones for batch reads."""
    names = graph.order()
    ids = {graph.display(name): f"d{number}" for number, name in enumerate(names)}
    lines = ["flowchart LR"]
    for number, label in enumerate(external_inputs(graph)):
        ids.setdefault(label, f"x{number}")
        lines.append(f"    {ids[label]}[({_quoted(label)})]")
    for number, (group, members) in enumerate(_by_group(graph, names).items()):
        indent = "    "
        if group:
            lines.append(f"    subgraph s{number}[{_quoted(group)}]")
            indent = "        "
        for name in members:
            opening, closing = _SHAPES[graph.dataset(name).kind]
            lines.append(f"{indent}{ids[graph.display(name)]}{opening}{_quoted(_short(graph, name))}{closing}")
        if group:
            lines.append("    end")
    arrows: dict[tuple[str, str], bool] = {}
    for edge in edges(graph):
        ends = (ids[edge.source], ids[edge.target])
        arrows[ends] = arrows.get(ends, False) or edge.streaming
    lines += [
        f"    {source} {'-->' if streaming else '-.->'} {target}" for (source, target), streaming in arrows.items()
    ]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return '"' + text.replace('"', "#quot;") + '"'


# -- JSON


def as_json(graph: DataflowGraph) -> dict[str, Any]:
    """Return datasets, each after those it reads, and edges as JSON-ready values."""
    return {
        "datasets": [_dataset(graph, graph.dataset(name)) for name in graph.order()],
        "edges": [
            {
                "from": edge.source,
                "to": edge.target,
                "flow": edge.flow,
                "streaming": edge.streaming,
                "external": edge.external,
            }
            for edge in edges(graph)
        ],
    }


def _dataset(graph: DataflowGraph, dataset: Dataset) -> dict[str, Any]:
    flows = graph.flows_to(dataset.name)
    return {
        "name": graph.display(dataset.name),
        "qualified_name": str(dataset.name),
        "kind": dataset.kind.value,
        "comment": dataset.comment,
        "private": dataset.private,
        "file": dataset.origin.file,
        "line": dataset.origin.line,
        "flows": [_flow(graph, flow) for flow in flows],
        "inputs": list(dict.fromkeys(_label(graph, item) for flow in flows for item in flow.inputs)),
        "expectations": [
            {"name": rule.name, "condition": rule.text, "action": rule.action.value} for rule in dataset.expectations
        ],
    }


def _flow(graph: DataflowGraph, flow: ResolvedFlow) -> dict[str, Any]:
    return {
        "name": flow.name,
        "type": "AUTO_CDC" if flow.is_cdc else "QUERY",
        "streaming": flow.streaming,
        "once": flow.flow.once,
        "implicit": flow.flow.implicit if isinstance(flow.flow, Flow) else False,
        "inputs": [_label(graph, item) for item in flow.inputs],
    }
