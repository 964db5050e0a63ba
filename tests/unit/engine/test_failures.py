"""Errors of Apache Spark, in its own words and without what nobody reads."""

from __future__ import annotations

import pytest
from pyspark.errors.exceptions.connect import SparkException

from lakelet.engine.failures import query_error

WRITE_FAILED = """[TASK_WRITE_FAILED] Task failed while writing rows to file:/t. SQLSTATE: 58030

JVM stacktrace:
org.apache.spark.SparkException
	at org.apache.spark.sql.delta.files.DeltaFileFormatWriter$.executeTask(DeltaFileFormatWriter.scala:471)
Caused by: org.apache.spark.SparkRuntimeException: [USER_RAISED_EXCEPTION] LAKELET_RULE_VIOLATED SQLSTATE: P0001
	at org.apache.spark.sql.errors.QueryExecutionErrors$.raiseError(QueryExecutionErrors.scala:2987)"""


def test_a_failed_write_has_the_condition_of_what_failed_it() -> None:
    error = query_error(SparkException(WRITE_FAILED, errorClass="TASK_WRITE_FAILED"), url="sc://h")
    assert (error.condition, error.message) == ("USER_RAISED_EXCEPTION", "LAKELET_RULE_VIOLATED")


@pytest.mark.parametrize(
    ("condition", "retryable"), [("DELTA_CONCURRENT_TRANSACTION", True), ("CAST_INVALID_INPUT", False)]
)
def test_only_a_conflict_of_writers_is_tried_again(condition: str, retryable: bool) -> None:
    error = query_error(SparkException(f"[{condition}] Something. SQLSTATE: 1", errorClass=condition), url="sc://h")
    assert (error.condition, error.message, error.retryable) == (condition, "something", retryable)


def test_a_lost_session_is_named_without_the_token() -> None:
    lost = SparkException("[INVALID_HANDLE.SESSION_NOT_FOUND] gone", errorClass="INVALID_HANDLE.SESSION_NOT_FOUND")
    error = query_error(lost, url="sc://h:1/;token=very-secret")
    assert (error.condition, error.retryable) == ("ENGINE_SESSION_LOST", True)
    assert "very-secret" not in error.render()


REFUSED = """(java.net.ConnectException) getFileStatus on s3://b/_lock: Connect to 127.0.0.1:1 failed: Connection refused

JVM stacktrace:
java.net.ConnectException
	at org.apache.hadoop.fs.s3a.S3AUtils.translateException(S3AUtils.java:213)"""


def test_a_store_that_the_server_does_not_reach_is_not_a_server_that_does_not_answer() -> None:
    error = query_error(SparkException(REFUSED), url="sc://h")
    assert (error.condition, error.retryable) == ("QUERY_FAILED", True)
    assert str(error.cause).endswith("Connection refused")
    assert query_error(SparkException("Socket closed"), url="sc://h").condition == "ENGINE_UNAVAILABLE"
