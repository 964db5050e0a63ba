"""Errors of ours as Spark Connect clients know them: with Spark's class of exception, the condition, and the hint."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from lakelet.errors import DefinitionError, GraphError, LakeletError
from lakelet.secrets import scrubbed

MOST_CHARACTERS = 1500
"""Of a message: it travels in a header."""
_CLASSES = {
    "PARSE_SYNTAX_ERROR": "org.apache.spark.sql.catalyst.parser.ParseException",
    "SQL_NOT_ALLOWED": "java.lang.UnsupportedOperationException",
    "UNSUPPORTED_FEATURE": "java.lang.UnsupportedOperationException",
    "SQL_CONF_NOT_FOUND": "org.apache.spark.SparkNoSuchElementException",
    "UNRESOLVED_COLUMN": "org.apache.spark.sql.AnalysisException",
}


def text_of(error: LakeletError, *, secrets: frozenset[str]) -> str:
    """Return an error as one text: condition, message, cause and hint; none of the secrets is in it."""
    lines = [str(error), error.cause and f"cause: {error.cause}", error.hint and f"hint: {error.hint}"]
    return str(scrubbed("\n".join(line for line in lines if line), secrets))


def refuse(context: grpc.ServicerContext, error: LakeletError, *, secrets: frozenset[str]) -> NoReturn:
    """End a call with an error."""
    known = _CLASSES.get(error.condition.partition(".")[0])
    kind = known or (
        "org.apache.spark.sql.AnalysisException"
        if isinstance(error, DefinitionError | GraphError)
        else "org.apache.spark.SparkException"
    )
    text = text_of(error, secrets=secrets)[:MOST_CHARACTERS]
    info = error_details_pb2.ErrorInfo(reason=kind, domain="org.apache.spark")
    info.metadata["errorClass"] = error.condition
    info.metadata["classes"] = json.dumps([kind])
    _end(context, text, info)


def fail(context: grpc.ServicerContext) -> NoReturn:
    """End a call with a bug of ours, of which nothing is told but that it is one."""
    _end(context, "[INTERNAL_ERROR] a bug in lakelet: its server printed what happened", None)


def _end(context: grpc.ServicerContext, text: str, info: Any) -> NoReturn:
    status = status_pb2.Status(code=code_pb2.INTERNAL, message=text)
    if info is not None:
        detail = any_pb2.Any()
        detail.Pack(info)
        status.details.append(detail)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")
