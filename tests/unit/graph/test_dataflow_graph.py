"""Edges, order and names of a resolved graph."""

from __future__ import annotations

import sys

import pytest
from tests.unit.graph.graphs import NAMES, chain, dataset, flow, graph

from lakelet.errors import GraphError


def order(*args: object, **reads: str) -> list[str]:
    return [name.name for name in chain(**reads).order()]


def test_datasets_come_after_what_they_read() -> None:
    assert order(gold="silver, stores", silver="~bronze", bronze="~/landing", stores="~/stores") == [
        "bronze", "silver", "stores", "gold"
    ]  # fmt: skip


def test_independent_datasets_keep_the_order_of_declaration() -> None:
    assert order(z="~/a", b="~/a", m="~/a") == ["z", "b", "m"]


def test_a_cycle_is_shown_as_a_path() -> None:
    with pytest.raises(GraphError) as raised:
        chain(a="c", b="a", c="b", d="c").order()
    assert raised.value.condition == "PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED"
    assert "a → c → b → a" in raised.value.message


def test_a_dataset_that_reads_itself_is_a_cycle() -> None:
    with pytest.raises(GraphError, match="a → a"):
        chain(a="a").order()


def test_names_are_the_same_in_upper_and_lower_case() -> None:
    built = graph(
        dataset("Orders"), flow("f", "ORDERS", "~/landing"), dataset("copies"), flow("g", "copies", "~orders")
    )
    assert [name.name for name in built.upstream(NAMES.resolve("copies"))] == ["Orders"]
    assert [name.name for name in built.downstream(NAMES.resolve("ORDERS"))] == ["copies"]
    assert [item.name for item in built.flows_to(NAMES.resolve("orders"))] == ["f"]


def test_tables_are_seen_through_views() -> None:
    built = graph(
        dataset("a"), flow("a", "a", "~/landing"),
        dataset("v1", "temporary"), flow("v1", "v1", "~a"),
        dataset("v2", "temporary"), flow("v2", "v2", "~v1"),
        dataset("b"), flow("b", "b", "~v2", "~v1"),
    )  # fmt: skip
    assert built.stored_upstream(NAMES.resolve("b")) == {NAMES.resolve("a").key}
    assert [d.name.name for d in built.stored()] == ["a", "b"]


def test_a_dataset_is_found_by_its_last_part_where_that_is_unique() -> None:
    built = graph(dataset("01_bronze.sales"), dataset("02_silver.sales"), dataset("02_silver.stores"))
    assert str(built.find("stores").name) == "spark_catalog.02_silver.stores"
    assert str(built.find("02_silver.sales").name) == "spark_catalog.02_silver.sales"
    with pytest.raises(GraphError, match="UNKNOWN_DATASET"):
        built.find("sales")


def test_a_near_name_is_suggested() -> None:
    with pytest.raises(GraphError) as raised:
        graph(dataset("customers")).find("customer")
    assert raised.value.hint == "did you mean `customers`?"


def test_a_chain_may_be_longer_than_the_interpreter_s_stack() -> None:
    length = 3 * sys.getrecursionlimit()
    reads = {f"t{number}": f"t{number + 1}" for number in range(length)}
    built = chain(**reads, **{f"t{length}": "/landing"})
    assert [name.name for name in built.order()] == [f"t{number}" for number in range(length, -1, -1)]
    assert [name.name for name in built.downstream(NAMES.resolve("t7"))] == ["t6"]
