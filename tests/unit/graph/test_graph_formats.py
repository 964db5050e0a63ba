"""The graph as text, as a Mermaid flowchart and as JSON."""

from __future__ import annotations

import pytest

from lakelet.errors import Origin
from lakelet.graph.dataflow_graph import DataflowGraph, Input, ResolvedFlow
from lakelet.graph.elements import Action, AutoCdcFlow, Dataset, DatasetKind, Expectation, Flow
from lakelet.graph.formats import as_json, as_mermaid, as_text, external_inputs, summary
from lakelet.names import NameContext

NAMES = NameContext()


def dataset(name: str, kind: DatasetKind, *rules: str) -> Dataset:
    return Dataset(
        name=NAMES.resolve(name),
        kind=kind,
        comment=f"about {name}",
        origin=Origin(file="t.py", line=4),
        expectations=tuple(Expectation(name=rule, condition=f"{rule} > 0", action=Action.DROP) for rule in rules),
    )


def reads(name: str, *, streaming: bool) -> Input:
    return Input(dataset=NAMES.resolve(name), label=name, streaming=streaming)


def query(target: str, *inputs: Input) -> ResolvedFlow:
    flow = Flow(name=target, target=NAMES.resolve(target), query=lambda: None)
    return ResolvedFlow(flow=flow, relation=None, inputs=inputs, streaming=any(item.streaming for item in inputs))


@pytest.fixture
def graph() -> DataflowGraph:
    datasets = (
        dataset("bronze.sales", DatasetKind.STREAMING_TABLE),
        dataset("silver.clean", DatasetKind.TEMPORARY_VIEW, "id", "amount"),
        dataset("silver.customers", DatasetKind.STREAMING_TABLE),
        dataset("daily", DatasetKind.MATERIALIZED_VIEW),
    )
    cdc = AutoCdcFlow(
        name="silver.customers",
        target=NAMES.resolve("silver.customers"),
        source="silver.clean",
        keys=("id",),
        sequence_by="at",
    )
    flows = (
        query("bronze.sales", Input(dataset=None, label='landing."sales"', streaming=True)),
        query("silver.clean", reads("bronze.sales", streaming=True)),
        ResolvedFlow(flow=cdc, relation=None, inputs=(reads("silver.clean", streaming=True),), streaming=True),
        query("daily", reads("silver.customers", streaming=False), reads("bronze.sales", streaming=False)),
    )
    return DataflowGraph(names=NAMES, datasets={d.name.key: d for d in datasets}, flows=flows)


def test_text_has_a_line_for_each_dataset_with_what_it_reads(graph: DataflowGraph) -> None:
    assert as_text(graph).splitlines() == [
        "bronze",
        '  sales      streaming table    ⇐ landing."sales"',
        "",
        "silver",
        "  clean      temporary view     ⇐ bronze.sales  (2 expectations)",
        "  customers  streaming table    ⇐ silver.clean  (AUTO CDC)",
        "daily        materialized view  ← silver.customers, bronze.sales",
    ]


def test_mermaid_has_a_subgraph_for_each_schema_and_no_loose_quotes(graph: DataflowGraph) -> None:
    assert as_mermaid(graph).splitlines() == [
        "flowchart LR",
        '    x0[("landing.#quot;sales#quot;")]',
        '    subgraph s0["bronze"]',
        '        d0[["sales"]]',
        "    end",
        '    subgraph s1["silver"]',
        '        d1(["clean"])',
        '        d2[["customers"]]',
        "    end",
        '    d3["daily"]',
        "    x0 --> d0",
        "    d0 --> d1",
        "    d1 --> d2",
        "    d2 -.-> d3",
        "    d0 -.-> d3",
    ]


def test_json_has_datasets_in_order_and_every_edge(graph: DataflowGraph) -> None:
    result = as_json(graph)
    assert [item["name"] for item in result["datasets"]] == [
        "bronze.sales",
        "silver.clean",
        "silver.customers",
        "daily",
    ]
    assert result["datasets"][1] == {
        "name": "silver.clean",
        "qualified_name": "spark_catalog.silver.clean",
        "kind": "VIEW",
        "comment": "about silver.clean",
        "private": False,
        "file": "t.py",
        "line": 4,
        "flows": [
            {
                "name": "silver.clean",
                "type": "QUERY",
                "streaming": True,
                "once": False,
                "implicit": True,
                "inputs": ["bronze.sales"],
            }
        ],
        "inputs": ["bronze.sales"],
        "expectations": [
            {"name": "id", "condition": "id > 0", "action": "DROP"},
            {"name": "amount", "condition": "amount > 0", "action": "DROP"},
        ],
    }
    assert result["edges"][0] == {
        "from": 'landing."sales"',
        "to": "bronze.sales",
        "flow": "bronze.sales",
        "streaming": True,
        "external": True,
    }
    assert len(result["edges"]) == 5
    assert result["datasets"][2]["flows"][0]["type"] == "AUTO_CDC"


def test_the_summary_counts_kinds_and_rules(graph: DataflowGraph) -> None:
    assert summary(graph) == "2 streaming tables, 1 temporary view, 1 materialized view, 2 expectations"
    assert external_inputs(graph) == ['landing."sales"']
