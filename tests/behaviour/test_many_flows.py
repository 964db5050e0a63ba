"""What lakelet does for a flow does not grow with the number of flows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.control_loop import Sources, StandInEngine, StandInStore, measure, report, write_project

from lakelet import Pipeline
from lakelet.execution.continuous import ContinuousUpdate

LINES = 20


@pytest.fixture(scope="module")
def engine() -> Iterator[StandInEngine]:
    engine = StandInEngine()
    yield engine
    engine.close()


def looks(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return how often a continuous update asked what a flow has to do, until all that had landed was through."""
    counted = 0
    ask = ContinuousUpdate._work

    def count(self: ContinuousUpdate, state: Any) -> Any:
        nonlocal counted
        counted += 1
        return ask(self, state)

    monkeypatch.setattr(ContinuousUpdate, "_work", count)
    drain = threading.Event()
    drain.set()
    result = pipeline.run(continuous=True, drain=drain)
    assert result.exit_code == 0, [error.render() for error in result.errors]
    assert sum(flow.batches for flow in result.flows) == 3 * LINES
    return counted


def test_a_flow_is_looked_at_when_something_has_happened_to_it(
    tmp_path: Path, engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, LINES)
    store = StandInStore()
    sources = Sources(tmp_path, LINES, store)
    sources.land()
    pipeline = Pipeline(tmp_path, engine=engine)
    pipeline._store = store  # type: ignore[assignment]
    # All at the start; then each flow after its own end and that of what it reads: 60 flows, not 60 times 60 looks.
    assert looks(pipeline, monkeypatch) <= 6 * 3 * LINES


def test_the_benchmark_of_the_control_loop_counts_every_micro_batch() -> None:
    """Its steps assert how many there are."""
    costs = measure(6, idle_seconds=0)
    assert "6 flows" in report([6], [costs])
