"""Updates on a server elsewhere that forgets the session, dies, or is cut off: tried again or failed clearly, exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from tests.behaviour.conftest import Project
from tests.remote_kit import forget_session, proxy_to, sail_server

from lakelet import faults
from lakelet.engine.connect import ConnectEngine

pytestmark = pytest.mark.feature("Lost sessions, servers and networks")

SHOP = """
    def doubled(n):
        return n * 2

    spark.udf.register("doubled", doubled, "bigint")

    @dp.table
    @dp.expect("positive", "id > 0")
    def orders():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

    @dp.table
    def twice():
        return spark.readStream.table("orders").selectExpr("id", "doubled(id) AS two")

    dp.create_streaming_table("latest")
    dp.create_auto_cdc_flow(target="latest", source="orders", keys=["id"], sequence_by="id")

    @dp.materialized_view
    def total():
        return spark.read.table("twice").agg(F.sum("two").alias("two"))
"""


def shop(root: Path, engine: ConnectEngine) -> Project:
    project = Project(root, engine)  # type: ignore[arg-type]
    project.write(SHOP)
    project.land("orders", pa.table({"id": [1, 2, 3]}))
    return project


def check(project: Project, ids: list[int]) -> None:
    assert project.rows("orders", "id") == ids
    assert project.rows("twice", "id", "two") == [(number, number * 2) for number in ids]
    assert project.rows("latest", "id") == ids
    assert project.rows("total", "two") == [sum(ids) * 2]


def once(point: str, action: Callable[[], None]) -> Callable[[str], None]:
    """Return a hook that acts the first time that a point is passed."""
    passed: list[str] = []

    def hook(reached: str) -> None:
        if reached == point:
            passed.append(reached)
            if len(passed) == 1:
                action()

    return hook


def retried(project: Project) -> list[str]:
    return [event.message for event in project.events if "ENGINE_SESSION_LOST" in event.message]


@pytest.mark.parametrize("point", ["flow.intent_written", "flow.rows_committed", "cdc.auxiliary_committed"])
def test_an_update_whose_session_expires_goes_on_in_another_one(
    tmp_path: Path, remote_address: str, point: str
) -> None:
    engine = ConnectEngine(remote_address)
    project = shop(tmp_path, engine)
    with faults.installed(once(point, lambda: forget_session(engine))):
        project.ok()
    assert retried(project)
    check(project, [1, 2, 3])
    project.land("orders", pa.table({"id": [4]}))
    project.ok()
    assert not retried(project)
    check(project, [1, 2, 3, 4])
    engine.close()


@pytest.mark.parametrize("point", ["flow.intent_written", "view.planned"])
def test_an_update_whose_server_is_restarted_goes_on_with_its_own_settings_and_functions(
    tmp_path: Path, point: str
) -> None:
    with sail_server() as server:
        engine = ConnectEngine(server.url)
        project = shop(tmp_path, engine)
        with faults.installed(once(point, server.restart)):
            project.ok()
        check(project, [1, 2, 3])
        engine.close()


def test_a_pipeline_goes_on_with_another_engine_and_back(
    tmp_path: Path, remote_address: str, engine: ConnectEngine
) -> None:
    """From the engine of this run to one elsewhere and back: every batch is of new rows, and no view is wrong."""
    elsewhere = ConnectEngine(remote_address)
    project = shop(tmp_path, engine)
    ids = [1, 2, 3]
    for chosen in (engine, elsewhere, engine):
        project.engine = chosen  # type: ignore[assignment]
        result = project.ok()
        assert {flow.name: flow.batches for flow in result.flows} == dict.fromkeys(
            ("orders", "twice", "latest", "total"), 1
        )
        check(project, ids)
        assert project.ok().flows[0].batches == 0
        ids.append(ids[-1] + 1)
        project.land("orders", pa.table({"id": ids[-1:]}))
    elsewhere.close()


def test_a_continuous_update_goes_on_after_its_session_was_lost(tmp_path: Path, remote_address: str) -> None:
    engine = ConnectEngine(remote_address)
    project = shop(tmp_path, engine)
    drain = threading.Event()
    forgotten: list[None] = []

    def hear(event: object) -> None:
        project.events.append(event)  # type: ignore[arg-type]
        details = getattr(event, "details", {})
        if "total" in str(getattr(event, "origin", "")) and "COMPLETED" in str(details) and not forgotten:
            forgotten.append(None)
            forget_session(engine)
            project.land("orders", pa.table({"id": [4]}))
            drain.set()

    result = project.pipeline().run(continuous=True, subscribers=[hear], drain=drain)
    assert forgotten
    assert result.exit_code == 0, result.errors
    check(project, [1, 2, 3, 4])
    engine.close()


@pytest.mark.usefixtures("impatient")
def test_an_update_that_is_cut_off_fails_clearly_and_the_next_one_writes_what_is_missing(
    tmp_path: Path, remote_address: str
) -> None:
    with proxy_to(int(remote_address.rpartition(":")[2])) as proxy:
        engine = ConnectEngine(proxy.url)
        project = shop(tmp_path, engine)
        with faults.installed(once("flow.rows_committed", proxy.stop)):
            result = project.run()
        assert result.exit_code == 1
        assert {error.condition for error in result.errors} <= {"ENGINE_UNAVAILABLE", "UPSTREAM_FAILED"}  # type: ignore[attr-defined]
        assert any(error.condition == "ENGINE_UNAVAILABLE" for error in result.errors)  # type: ignore[attr-defined]
        proxy.go_on()
        project.ok()
        check(project, [1, 2, 3])
        engine.close()
