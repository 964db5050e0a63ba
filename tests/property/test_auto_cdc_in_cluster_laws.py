"""AUTO CDC as a cluster does it, against its specification: the same laws, on an embedded engine that plays the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.collected_tables import PlayedCluster
from tests.property import test_auto_cdc_laws as laws
from tests.property.test_auto_cdc_laws import BOUNDED, Delivery, deliveries

from lakelet.engine.sail import SailEngine
from lakelet.execution import auto_cdc_cluster, auto_cdc_worker

FEW = settings(BOUNDED, max_examples=3)
scd_types = st.sampled_from([1, 2])


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few dozen rows are then cut between keys, and the auxiliary table is settled again and again."""
    monkeypatch.setattr(auto_cdc_worker, "WHOLE_ROWS", 7)
    monkeypatch.setattr(auto_cdc_cluster, "SETTLED_ROWS", 20)


@pytest.fixture
def cluster(engine: SailEngine) -> Any:
    return PlayedCluster(engine)


def law(test: Any) -> Any:
    """Return the body of a law, without the examples that it is tried with elsewhere."""
    return test.hypothesis.inner_test


@FEW
@given(delivery=deliveries(truncates=True))
def test_scd1_is_the_latest_event_of_each_key(cluster: Any, delivery: Delivery) -> None:
    law(laws.test_scd1_is_the_latest_event_of_each_key)(cluster, delivery)


@FEW
@given(delivery=deliveries())
def test_scd2_is_the_runs_of_each_key(cluster: Any, delivery: Delivery) -> None:
    law(laws.test_scd2_is_the_runs_of_each_key)(cluster, delivery)


@FEW
@given(delivery=deliveries())
def test_scd2_with_untracked_columns_and_a_struct_sequence(cluster: Any, delivery: Delivery) -> None:
    law(laws.test_scd2_with_untracked_columns_and_a_struct_sequence)(cluster, delivery)


@FEW
@given(delivery=deliveries(truncates=True))
def test_scd1_with_ignored_nulls(cluster: Any, delivery: Delivery) -> None:
    law(laws.test_scd1_with_ignored_nulls)(cluster, delivery)


@FEW
@given(delivery=deliveries(), scd_type=scd_types)
def test_a_full_refresh_gives_the_same_table_and_reports_every_tie(
    cluster: Any, delivery: Delivery, scd_type: int
) -> None:
    law(laws.test_a_full_refresh_gives_the_same_table_and_reports_every_tie)(cluster, delivery, scd_type)


@FEW
@given(delivery=deliveries(), data=st.data(), scd_type=scd_types)
def test_flows_of_one_target_whose_batches_come_in_any_order(
    cluster: Any, delivery: Delivery, data: st.DataObject, scd_type: int
) -> None:
    law(laws.test_flows_of_one_target_whose_batches_come_in_any_order)(cluster, delivery, data, scd_type)


@FEW
@given(delivery=deliveries(), scd_type=scd_types)
def test_ignored_nulls_in_the_fields_of_a_struct(cluster: Any, delivery: Delivery, scd_type: int) -> None:
    law(laws.test_ignored_nulls_in_the_fields_of_a_struct)(cluster, delivery, scd_type)


@FEW
@given(delivery=deliveries(), data=st.data(), scd_type=scd_types)
def test_events_that_set_some_columns(cluster: Any, delivery: Delivery, data: st.DataObject, scd_type: int) -> None:
    law(laws.test_events_that_set_some_columns)(cluster, delivery, data, scd_type)


@FEW
@given(delivery=deliveries(), data=st.data(), scd_type=scd_types)
def test_deletes_that_are_forgotten(cluster: Any, delivery: Delivery, data: st.DataObject, scd_type: int) -> None:
    law(laws.test_deletes_that_are_forgotten)(cluster, delivery, data, scd_type)
