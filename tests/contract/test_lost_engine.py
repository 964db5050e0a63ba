"""What a remote engine does when its session expires, its server is restarted, or the network stops: nothing silently wrong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pyarrow as pa
import pytest
from pyspark.sql.connect.client import SparkConnectClient
from tests.remote_kit import Proxy, forget_session, proxy_to, sail_server

from lakelet.engine.connect import ConnectEngine
from lakelet.errors import LakeletError, QueryError
from lakelet.plan import relation as plan

pytestmark = pytest.mark.feature("Lost sessions, servers and networks")

ZONE = {"spark.sql.session.timeZone": "America/New_York"}


@pytest.fixture
def remote(remote_address: str) -> Iterator[ConnectEngine]:
    engine = ConnectEngine(remote_address, configuration=ZONE)
    yield engine
    engine.close()


def zone_of(engine: ConnectEngine) -> str:
    return str(engine.collect(plan.sql("SELECT current_timezone() AS zone"))["zone"][0])


def test_a_session_that_expired_is_told_of_and_the_next_call_has_one_with_the_same_settings(
    remote: ConnectEngine,
) -> None:
    before = remote.session_id
    forget_session(remote)
    with pytest.raises(QueryError) as raised:
        zone_of(remote)
    assert (raised.value.condition, raised.value.retryable) == ("ENGINE_SESSION_LOST", True)
    assert remote.session_id != before
    assert zone_of(remote) == "America/New_York"


def test_functions_of_the_user_are_in_the_new_session(remote: ConnectEngine) -> None:
    register(remote, "plus_one")
    forget_session(remote)
    with pytest.raises(QueryError, match="ENGINE_SESSION_LOST"):
        zone_of(remote)
    assert remote.collect(plan.sql("SELECT plus_one(41) AS n"))["n"].to_pylist() == [42]


def register(engine: ConnectEngine, name: str) -> None:
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import LongType

    sent = []

    class Recording(SparkConnectClient):
        def _execute(self, req: object) -> None:
            sent.append(req.plan.command)  # type: ignore[attr-defined]

    client = Recording(connection=engine.url)
    client.register_udf(lambda n: n + 1, LongType(), name)
    client.close()
    engine.command(sent[0])


def test_of_several_calls_that_meet_a_lost_session_one_makes_the_next(remote: ConnectEngine) -> None:
    forget_session(remote)
    opened: list[str] = []
    make = remote._opened

    def counted() -> SparkConnectClient:
        client = make()
        opened.append(client._session_id)
        return client

    remote._opened = counted  # type: ignore[method-assign]
    barrier = threading.Barrier(4)

    def call() -> None:
        barrier.wait()
        with pytest.raises(QueryError, match="ENGINE_SESSION_LOST"):
            zone_of(remote)

    # All four take the client before one of them can renew it: each waits for the others inside its call.
    client = remote._client
    execute = client.to_table

    def together(*args: object) -> object:
        barrier.wait()
        return execute(*args)  # type: ignore[arg-type]

    client.to_table = together  # type: ignore[method-assign, assignment]
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert opened == [remote.session_id]


def test_the_rows_of_a_server_that_was_restarted_are_not_taken_for_those_of_our_session() -> None:
    """Sail makes a session of that name without a word, in UTC: a day would begin at another hour."""

    def answered(query: Callable[[], object]) -> object:
        """Return the answer to a query that is told first that its session is lost, and perhaps that its connection is."""
        conditions = []
        while len(conditions) < 3:
            try:
                found = query()
            except QueryError as error:
                conditions.append(error.condition)
            else:
                break
        assert "ENGINE_SESSION_LOST" in conditions
        assert set(conditions) <= {"ENGINE_SESSION_LOST", "ENGINE_UNAVAILABLE"}
        return found

    with sail_server() as server:
        engine = ConnectEngine(server.url, configuration=ZONE)
        assert zone_of(engine) == "America/New_York"
        server.restart()
        assert answered(lambda: zone_of(engine)) == "America/New_York"
        register(engine, "plus_two")
        server.restart()
        two = plan.sql("SELECT plus_two(1) AS n")
        assert answered(lambda: engine.collect(two)["n"].to_pylist()) == [2]
        engine.close()


def test_a_server_that_dies_while_rows_stream_ends_the_stream_with_an_error() -> None:
    with sail_server() as server:
        engine = ConnectEngine(server.url)
        rows = engine.stream(plan.sql("SELECT id FROM range(0, 50000000, 1, 2000)"))
        rows.read_next_batch()
        server.kill()
        with pytest.raises(QueryError) as raised:
            rows.read_all()
        assert raised.value.condition == "ENGINE_UNAVAILABLE"
        engine.close()


@pytest.fixture
def proxy(remote_address: str) -> Iterator[Proxy]:
    with proxy_to(int(remote_address.partition("/;")[0].rpartition(":")[2])) as proxy:
        yield proxy


@pytest.mark.usefixtures("impatient")
def test_a_network_that_stops_ends_a_call_that_would_wait_for_ever(proxy: Proxy) -> None:
    engine = ConnectEngine(proxy.url)
    proxy.stop()
    with pytest.raises(QueryError) as raised:
        zone_of(engine)
    assert (raised.value.condition, raised.value.retryable) == ("ENGINE_UNAVAILABLE", True)
    proxy.go_on()
    engine.close()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("comes_back", [True, False])
def test_rows_of_a_stream_over_a_network_that_stops_arrive_whole_or_not_at_all(proxy: Proxy, comes_back: bool) -> None:
    engine = ConnectEngine(proxy.url)
    proxy.stop_after(200_000)
    if comes_back:
        threading.Thread(target=lambda: (proxy.stopped_with_data.wait(), proxy.go_on()), daemon=True).start()
    outcome: list[pa.Table | LakeletError] = []
    try:
        outcome.append(engine.stream(plan.sql("SELECT id FROM range(0, 2000000, 1, 50)")).read_all())
    except LakeletError as error:
        outcome.append(error)
    (found,) = outcome
    if isinstance(found, pa.Table):
        assert comes_back
        assert sorted(found["id"].to_pylist()) == list(range(2_000_000))
    else:  # also where the network has come back, if its connection was given up: what Sail goes on with may lack rows
        assert isinstance(found, QueryError)
        assert not (comes_back and engine.capabilities.observed_metrics)
        assert (found.condition, found.retryable) == ("ENGINE_UNAVAILABLE", True)
    proxy.go_on()
    engine.close()
