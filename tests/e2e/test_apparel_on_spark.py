"""The flagship on Apache Spark with Delta Lake, checked by its oracle; `make test-spark` runs this.

The oracle computes every table and every count of every rule from the landing zone, in DuckDB. The embedded engine is held to
the same oracle, so what agrees with it on both is equal row for row.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ADDRESS
from tests.e2e.test_apparel_oracle import check
from tests.local_spark import killable_server, signal_all, start_again
from tests.reference.apparel_play import ODD_ROWS, ODD_ROWS_LATER, PIPELINE, append_odd_rows, generator

from lakelet.engine.base import Engine
from lakelet.engine.spark_server import RunningServer
from lakelet.events.model import UpdateState
from lakelet.execution.checkpoint import read_generation
from lakelet.pipeline import Pipeline, UpdateResult

pytestmark = [
    pytest.mark.feature("The flagship: every row, every count, and kill -9 of the server"),
    pytest.mark.skipif(ADDRESS == "sail", reason="needs a Spark Connect server; `make test-spark` starts one"),
    pytest.mark.timeout(1200),
]


@pytest.fixture(autouse=True)
def _needs_cluster_writes(engine: Engine) -> None:
    if not engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")


def update(storage: Path, address: str) -> UpdateResult:
    with Pipeline(PIPELINE, storage=storage, configuration={"lakelet.engine": address}) as pipeline:
        return pipeline.run()


def ok(result: UpdateResult) -> None:
    assert result.exit_code == 0, "\n".join(error.render() for error in result.errors)


def test_a_pipeline_goes_from_spark_to_the_embedded_engine_and_back(tmp_path: Path) -> None:
    """Checkpoints, receipts and CDC history go on; every table and every count is right after each update."""
    landing = generator(tmp_path, seed=7)
    landing.write_batch()
    landing.write_batch()
    append_odd_rows(tmp_path, ODD_ROWS)
    for address, late in ((ADDRESS, True), ("sail", False), (ADDRESS, False)):
        ok(update(tmp_path, address))
        check(tmp_path)
        # Nothing has started anew: a full refresh would begin another generation, and count rows of before again.
        assert {read_generation(folder) for folder in tmp_path.glob("_checkpoints/*/*/*")} == {0}
        landing.write_batch()
        if late:
            append_odd_rows(tmp_path, ODD_ROWS_LATER)


@pytest.fixture
def server(engine: Engine) -> Iterator[RunningServer]:
    """The server of this machine, which `make test-spark` has started; it runs again afterwards."""
    running = killable_server()
    yield running
    start_again(running)


@pytest.mark.parametrize("commits", [1, 6])
def test_a_server_that_dies_during_an_update_loses_and_doubles_nothing(
    tmp_path: Path, server: RunningServer, commits: int
) -> None:
    """The server is killed, with what it was writing, once so many tables have a commit with rows."""
    landing = generator(tmp_path, seed=11)
    landing.write_batch()
    append_odd_rows(tmp_path, ODD_ROWS)
    results: list[UpdateResult] = []
    thread = threading.Thread(target=lambda: results.append(update(tmp_path, ADDRESS)))
    thread.start()
    while len(list(tmp_path.glob("tables/**/_delta_log/00000000000000000001.json"))) < commits:
        assert thread.is_alive(), "the update ended before the server could be killed"
        thread.join(0.02)
    signal_all(server, signal.SIGKILL)
    thread.join()
    assert results[0].state is UpdateState.FAILED
    conditions = {getattr(error, "condition", "") for error in results[0].errors}
    assert conditions & {"ENGINE_UNAVAILABLE", "ENGINE_SESSION_LOST"}, conditions

    start_again(server)
    ok(update(tmp_path, ADDRESS))
    check(tmp_path)
