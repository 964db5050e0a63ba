"""Incremental refreshes as a cluster does them, against DuckDB: the same laws, on an embedded engine that plays the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.collected_tables import CollectedStore, PlayedCluster
from tests.property.test_incremental_view_laws import STEPS, VIEWS, View, check_views

from lakelet.engine.sail import SailEngine
from lakelet.execution.group_cluster import GroupsInCluster
from lakelet.storage import delta_spark

FEW = settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


@pytest.fixture
def cluster(engine: SailEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(delta_spark, "DeltaSparkStore", CollectedStore)
    monkeypatch.setattr(GroupsInCluster, "most_appended_files", 2)
    return PlayedCluster(engine)


@FEW
@given(views=st.lists(VIEWS, min_size=1, max_size=3), steps=STEPS, from_stream=st.booleans())
def test_a_view_has_the_rows_of_its_query_whatever_came_before(
    cluster: Any, views: list[View], steps: list[Any], from_stream: bool
) -> None:
    check_views([cluster], views, steps, from_stream)


@FEW
@given(views=st.lists(VIEWS, min_size=1, max_size=3), steps=STEPS, from_stream=st.booleans())
def test_engines_take_turns(
    engine: SailEngine, cluster: Any, views: list[View], steps: list[Any], from_stream: bool
) -> None:
    check_views([engine, cluster], views, steps, from_stream)
