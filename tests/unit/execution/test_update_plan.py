"""What a selection means: what runs, what is left out, what starts anew."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.graph.graphs import dataset, flow, graph

from lakelet.errors import GraphError, LakeletError, SpecError
from lakelet.execution.update import RefreshSelection, plan_update

GRAPH = graph(
    dataset("gold", "view"), flow("gold", "gold", "silver"),
    dataset("silver"), flow("silver", "silver", "~cleaned"),
    dataset("cleaned", "temporary"), flow("cleaned", "cleaned", "~bronze"),
    dataset("bronze", table_properties={"pipelines.reset.allowed": "false"}), flow("bronze", "bronze", "~/landing"),
)  # fmt: skip


def planned(**selection: Any) -> tuple[list[str], list[str], set[str]]:
    """Return the names that run, that are left out, and that start anew."""
    plan = plan_update(GRAPH, RefreshSelection(**selection))
    return (
        [d.name.name for d in plan.datasets],
        [d.name.name for d in plan.excluded],
        {key[2] for key in plan.restarted},
    )


def test_without_a_selection_every_table_runs_in_order() -> None:
    assert planned() == (["bronze", "silver", "gold"], [], set())


def test_a_selection_is_not_extended_to_what_the_tables_read() -> None:
    assert planned(refresh=("gold",)) == (["gold"], ["bronze", "silver"], set())


def test_both_lists_run_and_one_of_them_starts_anew() -> None:
    assert planned(refresh=("bronze",), full_refresh=("silver",)) == (["bronze", "silver"], ["gold"], {"silver"})


def test_a_full_refresh_of_all_leaves_out_what_must_not_be_reset() -> None:
    assert planned(full_refresh_all=True) == (["bronze", "silver", "gold"], [], {"silver", "gold"})


@pytest.mark.parametrize(
    ("selection", "condition"),
    [
        ({"full_refresh": ("bronze",)}, "FULL_REFRESH_NOT_ALLOWED"),
        ({"refresh": ("cleaned",)}, "DATASET_NOT_STORED"),
        ({"refresh": ("golden",)}, "UNKNOWN_DATASET"),
    ],
)
def test_what_cannot_be_is_refused(selection: dict[str, Any], condition: str) -> None:
    with pytest.raises(GraphError) as raised:
        planned(**selection)
    assert raised.value.condition == condition
    assert raised.value.hint


def test_all_wrong_names_are_reported_at_once() -> None:
    with pytest.raises(LakeletError) as raised:
        planned(refresh=("golden", "cleaned"))
    assert "UNKNOWN_DATASET" in raised.value.render()
    assert "DATASET_NOT_STORED" in raised.value.render()


def test_all_and_a_list_contradict_each_other() -> None:
    with pytest.raises(SpecError, match="CONFLICTING_PIPELINE_REFRESH_OPTIONS"):
        RefreshSelection(full_refresh_all=True, refresh=("gold",))


def test_a_dataset_in_both_lists_is_refused_by_name() -> None:
    with pytest.raises(SpecError) as raised:
        planned(refresh=("bronze", "silver"), full_refresh=("silver", "gold"))
    assert raised.value.condition == "CONFLICTING_PIPELINE_REFRESH_OPTIONS"
    assert "name `silver`" in raised.value.message
