"""A cluster that writes to an object store is asked whether it sees what this process sees, and told what it lacks."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lakelet.errors import QueryError
from lakelet.execution.reach import check_reach
from lakelet.places import place


class Endpoint:
    """An engine that answers every question alike."""

    url = "sc://cluster:15002/;token=secret"

    def __init__(self, answer: QueryError | None = None, *, writes: bool = True) -> None:
        self.capabilities = SimpleNamespace(cluster_writes=writes)
        self.answer = answer
        self.asked: list[str] = []

    def schema(self, relation: Any) -> None:
        self.asked.extend(relation.read.data_source.paths)
        if self.answer is not None:
            raise self.answer


LOCK = place("s3://lake/shop/_lock")


def test_the_engine_is_asked_for_the_lock() -> None:
    engine = Endpoint()
    check_reach(engine, LOCK)  # type: ignore[arg-type]
    assert engine.asked == ["s3://lake/shop/_lock"]


@pytest.mark.parametrize(("lock", "writes"), [("/data/_lock", True), ("s3://lake/_lock", False)])
def test_folders_and_engines_that_write_nothing_are_not_asked(lock: str, writes: bool) -> None:
    engine = Endpoint(QueryError("PATH_NOT_FOUND", "path does not exist"), writes=writes)
    check_reach(engine, place(lock))  # type: ignore[arg-type]
    assert engine.asked == []


@pytest.mark.parametrize(
    ("condition", "cause", "hint"),
    [
        ("QUERY_FAILED", 'No FileSystem for scheme "s3"', "spark.hadoop.fs.s3.impl"),
        ("QUERY_FAILED", "java.lang.ClassNotFoundException: S3AFileSystem not found", "--object-store s3"),
        ("PATH_NOT_FOUND", None, "another store"),
        ("QUERY_FAILED", "403 Forbidden", "spark.hadoop.fs.s3a.*"),
    ],
)
def test_what_the_cluster_lacks_is_told_with_what_helps(condition: str, cause: str | None, hint: str) -> None:
    with pytest.raises(QueryError) as raised:
        check_reach(Endpoint(QueryError(condition, "it failed", cause=cause)), LOCK)  # type: ignore[arg-type]
    error = raised.value
    assert error.condition == "STORAGE_OUT_OF_REACH"
    assert "`s3://lake/shop`" in error.message
    assert "secret" not in error.render()
    assert (cause or condition) in str(error.cause)
    assert hint in str(error.hint)


@pytest.mark.parametrize(
    ("address", "cause", "hint"),
    [
        ("az://lake/_lock", 'No FileSystem for scheme "az"', "abfss://container@account"),
        ("abfss://lake@a.dfs.core.windows.net/_lock", "ClassNotFoundException: AzureBlob", "hadoop-azure"),
        ("gs://lake/_lock", "ClassNotFoundException: GoogleHadoopFileSystem", "--object-store gcs"),
        ("gs://lake/_lock", "401 Unauthorized", "spark.hadoop.fs.gs.*"),
    ],
)
def test_each_store_has_its_own_remedy(address: str, cause: str, hint: str) -> None:
    with pytest.raises(QueryError) as raised:
        check_reach(Endpoint(QueryError("QUERY_FAILED", "it failed", cause=cause)), place(address))  # type: ignore[arg-type]
    assert hint in str(raised.value.hint)


def test_an_endpoint_that_does_not_answer_says_so_itself() -> None:
    away = QueryError("ENGINE_UNAVAILABLE", "it does not answer", retryable=True)
    with pytest.raises(QueryError) as raised:
        check_reach(Endpoint(away), LOCK)  # type: ignore[arg-type]
    assert raised.value is away
