"""When a flow of a continuous update may start."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.errors import FlowError
from lakelet.execution.pace import Pace, interval_of, seconds_between_looks
from lakelet.graph.elements import Dataset, DatasetKind, Flow
from lakelet.names import TableName
from lakelet.spec import load_spec

NAME = TableName("c", "s", "orders")
KEY = "pipelines.trigger.interval"


def interval(
    tmp_path: Path,
    *,
    kind: DatasetKind = DatasetKind.STREAMING_TABLE,
    files: bool = False,
    pipeline: dict[str, str] | None = None,
    table: dict[str, str] | None = None,
    conf: dict[str, str] | None = None,
    flow: dict[str, str] | None = None,
) -> float:
    (tmp_path / "spark-pipeline.yml").write_text("name: shop\nstorage: data\n")
    spec = load_spec(tmp_path).overridden(pipeline or {})
    dataset = Dataset(name=NAME, kind=kind, table_properties=table or {}, spark_conf=conf or {})
    declared = Flow(name="f", target=NAME, query=lambda: None, spark_conf=flow or {})
    return interval_of(spec, declared, dataset, reads_files=files)


@pytest.mark.parametrize(
    ("kind", "files", "seconds"),
    [
        (DatasetKind.STREAMING_TABLE, False, 5),
        (DatasetKind.STREAMING_TABLE, True, 5),
        (DatasetKind.SINK, False, 5),
        (DatasetKind.MATERIALIZED_VIEW, False, 60),
        (DatasetKind.MATERIALIZED_VIEW, True, 600),
    ],
)
def test_the_defaults_are_those_of_databricks(tmp_path: Path, kind: DatasetKind, files: bool, seconds: float) -> None:
    assert interval(tmp_path, kind=kind, files=files) == seconds


def test_the_nearest_declaration_counts(tmp_path: Path) -> None:
    layers = {
        "pipeline": {KEY: "4 seconds"},
        "table": {KEY: "3 seconds"},
        "conf": {KEY: "2 seconds"},
        "flow": {KEY: "1 second"},
    }
    found = []
    while layers:
        found.append(interval(tmp_path, **layers))  # type: ignore[arg-type]
        layers.popitem()
    assert found == [1, 2, 3, 4]


def test_a_flow_starts_at_once_and_then_an_interval_after_its_last_start() -> None:
    pace = Pace(interval_seconds=5)
    assert pace.due_at() == 0
    pace.start(100.0)
    pace.succeed()
    assert pace.due_at() == 105


def test_a_flow_that_fails_waits_twice_as_long_each_time_up_to_a_minute() -> None:
    pace = Pace(interval_seconds=600)
    waits = []
    for _ in range(9):
        pace.start(1000.0)
        waits.append(pace.fail(FlowError("X", "broken"), 1000.0)[0])
        assert pace.due_at() == 1000 + waits[-1]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pace.start(2000.0)
    pace.succeed()
    assert (pace.error, pace.due_at()) == (None, 2600)
    assert pace.fail(FlowError("X", "broken"), 3000.0)[0] == 1


def test_an_error_is_new_once_between_two_successes() -> None:
    pace = Pace(interval_seconds=1)
    texts = ["one", "one", "other", "one", "other"]
    assert [pace.fail(FlowError("X", text), 0.0)[1] for text in texts] == [False, True, False, True, True]
    pace.succeed()
    assert pace.fail(FlowError("X", "one"), 0.0)[1] is False


def test_a_flow_that_waits_can_be_hurried() -> None:
    pace = Pace(interval_seconds=1)
    pace.fail(FlowError("X", "broken"), 50.0)
    pace.hurry()
    assert pace.due_at() == 0


@pytest.mark.parametrize(
    ("cpu", "took", "has_moved", "expected"),
    [
        (0.0001, 0.0001, False, 0.1),  # cheap: ten times a second
        (0.002, 0.002, False, 0.6),  # a third of a percent of a processor
        (0.0001, 0.1, False, 1.0),  # slow storage, or a machine that is busy: no more than a tenth of the time
        (1.0, 1.0, False, 5.0),
        (0.02, 0.3, True, 0.1),  # it read what had come; the next look costs less
    ],
)
def test_looks_that_find_nothing_cost_next_to_nothing(
    cpu: float, took: float, has_moved: bool, expected: float
) -> None:
    assert seconds_between_looks(cpu=cpu, took=took, has_moved=has_moved) == pytest.approx(expected)
