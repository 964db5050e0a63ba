"""What every suite shares."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from tests.engines import Results, address
from tests.object_stores import CHOSEN_STORE, TITLES, ObjectStore
from tests.object_stores.azure import Azure
from tests.object_stores.gcs import Gcs
from tests.object_stores.s3 import S3, s3_server
from tests.remote_kit import sail_server

from lakelet.engine import connect
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import SailEngine

ADDRESS = address()
"""The engine of every suite: `sail` for the embedded one, or the address of a Spark Connect server."""


@pytest.fixture(scope="session")
def engine() -> Iterator[ConnectEngine]:
    """One engine for the whole session."""
    engine = SailEngine() if ADDRESS == "sail" else ConnectEngine(ADDRESS)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def object_store() -> Iterator[ObjectStore]:
    """The object store of this run; the environment says where it is."""
    if CHOSEN_STORE != "s3":
        yield {"azure": Azure, "gcs": Gcs}[CHOSEN_STORE]()
        return
    with s3_server() as store:
        yield store


@pytest.fixture
def s3(object_store: ObjectStore) -> S3:
    """S3, for what is about no other store."""
    if not isinstance(object_store, S3):
        pytest.skip("about S3")
    return object_store


@pytest.fixture
def bucket(object_store: ObjectStore) -> str:
    """The address of an empty bucket."""
    name = f"lake-{uuid.uuid4().hex[:12]}"
    object_store.make(name)
    return object_store.address(name)


@pytest.fixture(scope="session")
def remote_address() -> Iterator[str]:
    """The server of this run; with the embedded engine, a Sail server of its own."""
    if ADDRESS != "sail":
        yield ADDRESS
    else:
        with sail_server() as server:
            yield server.url


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that does not answer is given up after two seconds."""
    times = ("keepalive_time_ms", "keepalive_timeout_ms", "http2.ping_timeout_ms", "min_reconnect_backoff_ms")
    options = {**dict(connect.CHANNEL_OPTIONS), **{f"grpc.{name}": 1000 for name in times}}
    monkeypatch.setattr(connect, "CHANNEL_OPTIONS", list(options.items()))


def of_store(feature: str) -> str:
    """Return the name of a feature in a run for another object store than S3."""
    return f"{feature}: {TITLES[CHOSEN_STORE]}" if CHOSEN_STORE in TITLES else feature


_results = Results()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Note how a test of a feature ended: what its fixtures skip or break counts, too."""
    report = yield
    mark = item.get_closest_marker("feature")
    if mark is not None and (report.when == "call" or (report.when == "setup" and report.outcome != "passed")):
        _results.note(of_store(mark.args[0]), report.outcome)
    return report


def pytest_sessionfinish() -> None:
    if os.environ.get("LAKELET_ENGINE_RESULTS"):
        _results.write()
