"""Sessions on an endpoint, as far as no endpoint is needed to tell."""

from __future__ import annotations

import threading
from typing import Any

import grpc
import pytest

from lakelet.engine.connect import ConnectEngine, _configured, hadoop_settings
from lakelet.errors import QueryError


class Client:
    """A client that notes what is done with it."""

    def __init__(self, policies: list[str]) -> None:
        self.policies = policies
        self.done: list[str] = []
        self.copies: list[Client] = []

    def get_retry_policies(self) -> list[str]:
        return self.policies

    def set_retry_policies(self, policies: list[str]) -> None:
        self.policies = policies

    def clone(self) -> Client:
        self.copies.append(Client(["for ten minutes"]))
        return self.copies[-1]

    def config(self, operation: Any) -> None:
        self.done += [f"{pair.key}={pair.value}" for pair in operation.set.pairs]

    def release_session(self) -> None:
        self.done.append("released")

    def close(self) -> None:
        self.done.append("closed")

    def _on_exit(self) -> None:
        raise AssertionError("nothing is left to do at exit")


def test_a_copy_of_a_session_is_as_patient_as_its_origin_and_goes_with_its_command() -> None:
    client: Any = Client(["for four seconds"])
    with _configured(client, {"key": "value"}) as copy:
        assert copy.get_retry_policies() == ["for four seconds"]
    (made,) = client.copies
    assert made.done == ["key=value", "released", "closed"]
    with _configured(client, {}) as same:
        assert same is client


def test_settings_of_hadoop_are_for_the_session_under_their_own_names() -> None:
    found = hadoop_settings({"spark.hadoop.fs.s3a.endpoint": "http://h", "spark.sql.shuffle.partitions": "4"})
    assert found == {"fs.s3a.endpoint": "http://h"}


class Away(grpc.RpcError):
    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "nobody answers"


def test_a_setting_that_did_not_arrive_is_sent_again() -> None:
    client: Any = Client([])
    engine = ConnectEngine.__new__(ConnectEngine)
    engine.url, engine._client, engine._settings, engine._lock = "sc://there", client, {}, threading.Lock()
    arrived = client.config

    def away(operation: Any) -> None:
        raise Away

    client.config = away
    with pytest.raises(QueryError):
        engine.configure("key", "value")
    assert engine._settings == {}
    client.config = arrived
    for _ in range(2):
        engine.configure("key", "value")
    assert client.done == ["key=value"]
    assert engine._settings == {"key": "value"}
