"""Checks of definitions and graphs: each finds its own mistake, all are reported."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.graph.graphs import NAMES, dataset, flow, graph

from lakelet.errors import LakeletError
from lakelet.graph.elements import Definitions, Flow
from lakelet.graph.validation import check_definitions, check_graph


def conditions(errors: list[LakeletError]) -> list[str]:
    return [error.condition for error in errors]


def declared(*items: Any) -> list[str]:
    datasets = tuple(item for item in items if hasattr(item, "kind"))
    flows = tuple(item.flow for item in items if not hasattr(item, "kind"))
    return conditions(check_definitions(Definitions(datasets, flows), NAMES))


def checked(*items: Any) -> list[str]:
    return conditions(check_graph(graph(*items)))


# -- definitions


def test_a_sound_pipeline_has_no_errors() -> None:
    items = (dataset("a"), flow("a", "a", "~/x"), dataset("b", "view"), flow("b", "b", "a"))
    assert declared(*items) == []
    assert checked(*items) == []


def test_a_dataset_declared_twice_is_reported_once_with_both_places() -> None:
    errors = check_definitions(
        Definitions((dataset("a"), dataset("A")), (flow("a", "a").flow, flow("a", "A").flow)), NAMES
    )
    assert conditions(errors) == ["PIPELINE_DUPLICATE_IDENTIFIERS.OUTPUT"]
    assert "p.py:1" in (errors[0].cause or "")


def test_flows_of_one_name_are_refused() -> None:
    items = (dataset("a"), dataset("b"), flow("f", "a"), flow("f", "b"))
    assert declared(*items) == ["PIPELINE_DUPLICATE_IDENTIFIERS.FLOW"]


def test_a_flow_into_nothing_suggests_a_near_target() -> None:
    errors = check_definitions(
        Definitions((dataset("orders"),), (flow("orders", "orders").flow, flow("g", "order").flow)), NAMES
    )
    assert conditions(errors) == ["PIPELINE_FLOW_TARGET_NOT_FOUND"]
    assert errors[0].hint == "did you mean `orders`?"


def test_a_table_that_no_flow_writes_is_refused() -> None:
    assert declared(dataset("orders")) == ["PIPELINE_DATASET_WITHOUT_FLOW"]


def test_all_mistakes_are_reported_at_once() -> None:
    items = (dataset("a"), flow("a", "a"), dataset("b"), flow("x", "c"))
    assert set(declared(*items)) == {"PIPELINE_DATASET_WITHOUT_FLOW", "PIPELINE_FLOW_TARGET_NOT_FOUND"}


# -- graphs


def test_a_pipeline_without_a_table_is_empty() -> None:
    assert checked() == ["RUN_EMPTY_PIPELINE"]
    assert checked(dataset("v", "temporary"), flow("v", "v", "~/x")) == ["RUN_EMPTY_PIPELINE"]


@pytest.mark.parametrize(
    ("kind", "reads", "once", "condition"),
    [
        ("streaming", "~/x", False, None),
        ("streaming", "/x", True, None),
        ("streaming", "/x", False, "INVALID_FLOW_QUERY_TYPE.BATCH_RELATION_FOR_STREAMING_TABLE"),
        ("streaming", "~/x", True, "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_ONCE_FLOW"),
        ("view", "/x", False, None),
        ("view", "~/x", False, "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_MATERIALIZED_VIEW"),
    ],
)
def test_queries_fit_their_targets(kind: str, reads: str, once: bool, condition: str | None) -> None:
    found = checked(dataset("t", kind), flow("t", "t", reads, once=once))
    assert found == ([condition] if condition else [])


@pytest.mark.parametrize("kind", ["view", "temporary"])
def test_a_view_has_one_query(kind: str) -> None:
    items = (dataset("v", kind), flow("v", "v", "/x"), flow("w", "v", "/x"), dataset("t"), flow("t", "t", "~/x"))
    assert checked(*items) == ["MULTIPLE_QUERIES_FOR_TABLE"]


def test_a_target_of_auto_cdc_takes_auto_cdc_flows_alone_and_alike() -> None:
    cdc = flow("c", "t", "~/x", cdc={})
    assert checked(dataset("t"), cdc, flow("other", "t", "~/x", cdc={})) == []
    assert checked(dataset("t"), cdc, flow("other", "t", "~/x")) == ["AUTOCDC_TARGET_HAS_OTHER_FLOWS"]
    assert checked(dataset("t"), cdc, flow("other", "t", "~/x", cdc={"keys": ("a",)})) == ["AUTOCDC_FLOWS_DIFFER"]


def test_a_stream_reads_what_only_grows() -> None:
    grows = (dataset("t"), flow("t", "t", "~/x"))
    view = (dataset("v", "view"), flow("v", "v", "/x"))
    target = (dataset("c"), flow("c", "c", "~/x", cdc={}))
    reader = dataset("r")
    assert checked(*grows, reader, flow("r", "r", "~t")) == []
    assert checked(*view, reader, flow("r", "r", "~v")) == ["STREAMING_READ_OF_CHANGING_TABLE"]
    assert checked(*target, reader, flow("r", "r", "~c")) == ["STREAMING_READ_OF_CHANGING_TABLE"]
    assert checked(*target, dataset("r", "view"), flow("r", "r", "c")) == []


def test_temporary_views_are_read_as_what_they_are() -> None:
    stream = (dataset("s", "temporary"), flow("s", "s", "~/x"))
    batch = (dataset("b", "temporary"), flow("b", "b", "/x"))
    assert checked(*stream, dataset("r"), flow("r", "r", "~s")) == []
    assert checked(*batch, dataset("r"), flow("r", "r", "~/x", "~b")) == ["INCOMPATIBLE_STREAMING_VIEW_READ"]
    assert checked(*stream, dataset("r", "view"), flow("r", "r", "s")) == ["INCOMPATIBLE_BATCH_VIEW_READ"]


def test_a_table_is_partitioned_or_clustered() -> None:
    both = dataset("t", partition_cols=("a",), cluster_by=("b",))
    assert checked(both, flow("t", "t", "~/x")) == ["SPECIFY_CLUSTER_BY_WITH_PARTITIONED_BY_IS_NOT_ALLOWED"]


def test_flows_are_plain_data() -> None:
    assert isinstance(flow("f", "t").flow, Flow)
