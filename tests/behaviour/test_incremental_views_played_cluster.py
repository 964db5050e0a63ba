"""Incremental refreshes of views as a cluster does them, case by case, on an embedded engine that plays the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from tests.behaviour import test_incremental_views as views
from tests.behaviour.test_incremental_views import FIRST, GROUPED, MORE, expected, view
from tests.collected_tables import CollectedStore, PlayedCluster

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.execution.group_cluster import GroupsInCluster
from lakelet.storage import delta_spark
from lakelet.testing import crash_at


@pytest.fixture
def engine(engine: SailEngine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(delta_spark, "DeltaSparkStore", CollectedStore)
    return PlayedCluster(engine)


@pytest.mark.parametrize("query", GROUPED.values(), ids=GROUPED.keys())
def test_groups_follow_appended_rows(project: Any, query: str) -> None:
    views.test_groups_follow_appended_rows(project, query)


@pytest.mark.parametrize("query", [GROUPED["sum"], GROUPED["distinct"], GROUPED["keys dropped"]])
@pytest.mark.parametrize(
    "point", [point for point in faults.POINTS if point.startswith("view.") and point != "view.tidied"]
)
def test_a_refresh_that_dies_loses_and_doubles_nothing(project: Any, point: str, query: str) -> None:
    views.test_a_refresh_that_dies_loses_and_doubles_nothing(project, point, query)


def test_every_nan_is_one_value(project: Any) -> None:
    views.test_every_nan_is_one_value(project)


def test_declared_columns_may_be_spelled_in_another_way(project: Any) -> None:
    views.test_declared_columns_may_be_spelled_in_another_way(project)


def test_sums_of_decimals_are_exact(project: Any) -> None:
    views.test_sums_of_decimals_are_exact(project)


def test_sums_of_doubles_lose_nothing_to_rounding_between_refreshes(project: Any) -> None:
    views.test_sums_of_doubles_lose_nothing_to_rounding_between_refreshes(project)


def test_a_violated_fail_rule_leaves_the_view_and_what_it_remembers(project: Any) -> None:
    views.test_a_violated_fail_rule_leaves_the_view_and_what_it_remembers(project)


def test_new_rows_that_a_filter_leaves_out_commit_nothing(project: Any) -> None:
    views.test_new_rows_that_a_filter_leaves_out_commit_nothing(project)


def test_small_files_of_the_state_are_put_together(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GroupsInCluster, "most_appended_files", 3)
    project.write(view(GROUPED["distinct"])).land("sales", FIRST)
    project.ok()
    files = []
    for number in range(7):
        project.land("sales", MORE if number % 2 else FIRST)
        if number == 5:
            with crash_at("view.tidied"):
                project.run()
        project.ok()
        files.append(
            len(list((project.root / "data/_checkpoints/spark_catalog/default/v/view_state").rglob("*.parquet")))
        )
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert project.rows("v") == expected(project, GROUPED["distinct"])
    assert max(files) < 14, files
    assert not list((project.root / "data/_checkpoints/spark_catalog/default/v/staged").glob("*"))
