"""What an engine says when it fails, as a `QueryError` in the words of SQL users.

Apache Spark names its conditions itself. For the embedded engine each rule reads one kind of message; a message that no rule
knows is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from lakelet.errors import QueryError

_IDENTIFIER = re.compile(r'Identifier\("((?:[^"\\]|\\.)*)"\)')
_OBJECT_NAME = re.compile(r"ObjectName\(\[.*?\]\)")
_CANCELLED = re.compile(r"operation not found|operation.*(?:cancel|interrupt)", re.IGNORECASE)
_TRANSIENT = re.compile(r"UNAVAILABLE|connection (?:refused|reset)|deadline exceeded", re.IGNORECASE)
_UNREACHABLE = re.compile(
    r"StatusCode\.UNAVAILABLE|failed to connect to all addresses|RETRIES_EXCEEDED|connection (?:refused|reset)|Socket closed",
    re.IGNORECASE,
)
_SERVER_SAYS = re.compile(r"\((?:[\w$]+\.)+[\w$]+\) ")
"""How a Java exception begins that the server has met: another machine than the server did not answer."""
_EXPIRED = re.compile(r"session \S+ is not running")
_STACKTRACE = re.compile(r"\n+\s*JVM stacktrace:")
_CAUSED_BY = re.compile(r"^Caused by: [\w.$]+: \[([\w.]+)\] (.*)$", re.MULTILINE)
_WRAPPERS = frozenset({"TASK_WRITE_FAILED", "STREAM_FAILED"})
"""Conditions of Spark that only say where another one happened."""
_LIBRARY_FRAME = re.compile(r'^\s*File "(?:spark\.py|[^"]*[/\\](?:site-packages|pyspark|lakelet)[/\\][^"]*)", line')
_SQL_TYPES = {
    "Int8": "TINYINT", "Int16": "SMALLINT", "Int32": "INT", "Int64": "BIGINT", "Float32": "FLOAT", "Float64": "DOUBLE",
    "Utf8": "STRING", "Utf8View": "STRING", "LargeUtf8": "STRING", "Boolean": "BOOLEAN", "Date32": "DATE",
}  # fmt: skip


def query_error(error: Exception, *, url: str) -> QueryError:
    """Return the engine's exception as an error of ours; the caller chains the original.

    Args:
        url: address of the engine; a token in it appears nowhere.
    """
    from grpc import StatusCode

    text = str(error).strip()
    condition = _spark_condition(error)
    if _CANCELLED.search(text) or condition == "OPERATION_CANCELED":
        return cancelled(text.splitlines()[0])
    if "StatusCode.UNAUTHENTICATED" in text or getattr(error, "grpc_status_code", None) == StatusCode.UNAUTHENTICATED:
        return QueryError(
            "ENGINE_UNAUTHENTICATED",
            f"the engine at {without_secrets(url)} refuses us: it wants another token, or one at all",
            cause=_first_line(text),
            hint="set the environment variable SPARK_CONNECT_AUTHENTICATE_TOKEN to the token of that server",
        )
    if _UNREACHABLE.search(text) and not _SERVER_SAYS.match(text):
        return unavailable(url, text)
    if condition.startswith(("INVALID_HANDLE.", "INVALID_CURSOR.")) or _EXPIRED.search(text):
        return session_lost(url, text)
    if condition:
        return _spark_error(error, condition, text)
    text = _STACKTRACE.split(text)[0].strip()
    for pattern, explain in _RULES:
        match = pattern.search(text)
        if match is not None:
            return explain(match, _readable(text))
    return QueryError(
        "QUERY_FAILED",
        "the engine could not run the query",
        cause=_readable(text),
        hint="change the part of the query that the cause names",
        retryable=bool(_TRANSIENT.search(text)),
    )


def cancelled(cause: str) -> QueryError:
    return QueryError("OPERATION_CANCELED", "the query was cancelled", cause=cause)


def unavailable(url: str, cause: str) -> QueryError:
    return QueryError(
        "ENGINE_UNAVAILABLE",
        f"the engine at {without_secrets(url)} does not answer",
        cause=_first_line(cause),
        hint="check `lakelet.engine` and that the server runs, then run the update again: nothing is written twice",
        retryable=True,
    )


def session_lost(url: str, cause: str) -> QueryError:
    return QueryError(
        "ENGINE_SESSION_LOST",
        f"the engine at {without_secrets(url)} no longer knows the session of this pipeline",
        cause=_first_line(cause),
        hint="it was restarted, or the session expired: run the update again",
        retryable=True,
    )


def without_secrets(url: str) -> str:
    """Return the address of an endpoint without its parameters, a token among them."""
    return url.partition("/;")[0]


def _first_line(text: str) -> str:
    details = re.search(r'details = "([^"]*)"', text)
    return details[1] if details else text.splitlines()[0] if text else "no reason was given"


def _spark_condition(error: Exception) -> str:
    """Return the condition that Apache Spark gave the error, empty where the engine has no conditions."""
    getter = getattr(error, "getCondition", None)
    condition = getter() if getter is not None else None
    return condition or ""


def _spark_error(error: Any, condition: str, text: str) -> QueryError:
    """Return an error that Spark has named, in Spark's own words."""
    inner = _CAUSED_BY.findall(text)
    if condition in _WRAPPERS and inner:
        condition, text = inner[-1][0], f"[{inner[-1][0]}] {inner[-1][1]}"
    plain = _STACKTRACE.split(text)[0].strip()
    sentence = re.sub(r"\s*SQLSTATE: \w+\s*", " ", plain.removeprefix(f"[{condition}] ")).strip()
    message, _, more = sentence.partition("\n")
    kind = condition.partition(".")[0]
    if kind == "FAILED_EXECUTE_UDF":
        worker = sentence[sentence.find("Traceback") :].splitlines()
        return QueryError(
            "FAILED_EXECUTE_UDF",
            "a Python function failed on a row",
            cause="\n".join(worker) or None,
            hint="let the function handle such a value, for example by returning None",
        )
    result = QueryError(
        kind,
        (message[:1].lower() + message[1:] if message[1:2].islower() else message).rstrip("."),
        cause=more.strip() or None,
        hint="change the part of the query that the message names",
        retryable=kind.startswith("DELTA_CONCURRENT"),
    )
    if kind == "UNRESOLVED_COLUMN":
        parameters = error.getMessageParameters() or {}
        result.column = str(parameters.get("objectName", "")).replace("`", "") or None
    return result


def _readable(text: str) -> str:
    """Return the engine's text with names as users write them, and the types of SQL."""
    named = _OBJECT_NAME.sub(lambda match: f"`{'.'.join(_IDENTIFIER.findall(match[0]))}`", text)
    return re.sub(r"\b(" + "|".join(_SQL_TYPES) + r")\b", lambda match: _SQL_TYPES[match[1]], named)


def _missing_column(match: re.Match[str], text: str) -> QueryError:
    parts = _IDENTIFIER.findall(match["parts"] or "") or [(match["plain"] or match["other"] or "?").strip("`")]
    error = QueryError(
        "UNRESOLVED_COLUMN",
        f"the query names a column `{'.'.join(parts)}` that its input does not have",
        hint="compare the name with the columns of the dataset that the query reads",
    )
    error.column = ".".join(parts)
    return error


def _ambiguous(match: re.Match[str], text: str) -> QueryError:
    name = ".".join(_IDENTIFIER.findall(match["parts"]))
    return QueryError(
        "AMBIGUOUS_REFERENCE",
        f"the column `{name}` is in more than one input of the query",
        hint=f"say which one is meant, as in `orders.{name}`, or join with `on=[...]` so that it is there once",
    )


def _unknown_function(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "UNRESOLVED_ROUTINE",
        f"there is no function `{match['name']}`",
        hint="check its name; a Python function becomes one with `F.udf(function, type)`",
    )


def _syntax(match: re.Match[str], text: str) -> QueryError:
    found, place = match["found"], f" at character {match['at']}" if match["at"] else " there"
    what = "it ends too early" if "end of input" in found else f"`{found}` cannot stand{place}"
    expected = re.split(r", or |, ", match["expected"])
    names = [item.strip().strip("'") for item in expected if item.strip(" '") not in ("", "something else", "any")]
    some = " or ".join(f"`{name}`" if not name.islower() else name for name in names[:3])
    return QueryError(
        "PARSE_SYNTAX_ERROR",
        f"the SQL text is not valid: {what}",
        cause=f"what could follow: {some}{', …' if len(names) > 3 else ''}" if names else None,
        hint="look just before that place: a comma, a bracket, a quote or a keyword is missing or misspelled",
    )


def _cast(match: re.Match[str], text: str) -> QueryError:
    kind = _SQL_TYPES.get(match["type"], match["type"].upper().replace("DECIMAL128", "DECIMAL"))
    return QueryError(
        "CAST_INVALID_INPUT",
        f"the value '{match['value']}' cannot be cast to {kind}",
        cause="the query casts text that is not of that type, or compares it with such a value",
        hint=f"use `try_cast(... AS {kind})`, which gives NULL and lets an expectation count such rows, or correct the "
        "rows at their source",
    )


def _overflow(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "CAST_OVERFLOW",
        f"the value {match['value'] or match['decimal']} is too large for the type that the query casts it to",
        cause=text,
        hint="cast to a wider type, or use `try_cast`, which gives NULL",
    )


def _date(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "CANNOT_PARSE_TIMESTAMP",
        "a text is no date or timestamp of the form that the query expects",
        cause=text,
        hint="use `try_to_timestamp(text, format)` or `try_cast`, which give NULL, or correct the format",
    )


def _division(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "DIVIDE_BY_ZERO",
        "the query divides by zero",
        hint="use `try_divide(a, b)`, which gives NULL, or leave out rows with a zero",
    )


def _user_function(match: re.Match[str], text: str) -> QueryError:
    lines = text[match.end() :].strip().splitlines()
    kept: list[str] = []
    skipping = False
    for line in lines:
        if line.lstrip().startswith("File "):
            skipping = bool(_LIBRARY_FRAME.match(line))
        elif not line.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(line)
    return QueryError(
        "FAILED_EXECUTE_UDF",
        f"a Python function failed on a row: {lines[-1].strip() if lines else 'without a word'}",
        cause="\n".join(kept),
        hint="let the function handle such a value, for example by returning None",
    )


def _column_counts(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "NUM_COLUMNS_MISMATCH",
        f"a union needs as many columns on both sides: the left has {match['left']}, the right {match['right']}",
        hint="select the same columns on both sides, or use `unionByName(other, allowMissingColumns=True)`",
    )


def _lost_version(match: re.Match[str], text: str) -> QueryError:
    return QueryError(
        "DELTA_VERSION_NOT_READABLE",
        "a version of a table could not be read",
        cause=f"{text}\nanother writer has just checkpointed the table's log, and the engine reads older versions no more",
        hint="run the update again: it then reads that version from its data files",
        retryable=True,
    )


_Explain = Callable[[re.Match[str], str], QueryError]
_RULES: tuple[tuple[re.Pattern[str], _Explain], ...] = (
    (re.compile(r"Missing commit file: expected version \d+, found \d+"), _lost_version),
    (re.compile(r"An exception was thrown from the Python worker\.[^\n]*"), _user_function),
    (
        re.compile(
            r"attribute (?:ObjectName\(\[(?P<parts>.*?)\]\)|(?P<plain>\S+)) is missing from the schema"
            r"|(?:cannot resolve (?:attribute|column)[: ]+|Cannot find column )(?P<other>`?[\w.]+`?)"
        ),
        _missing_column,
    ),
    (re.compile(r"ambiguous attribute: ObjectName\(\[(?P<parts>.*?)\]\)"), _ambiguous),
    (re.compile(r"unknown function: (?P<name>\S+)", re.IGNORECASE), _unknown_function),
    (re.compile(r"found (?P<found>.+?)(?: at (?P<at>\d+):\d+)? expected (?P<expected>.+)$", re.DOTALL), _syntax),
    (re.compile(r"Cannot cast (?:string|value) '(?P<value>.*?)' to (?:value of )?(?P<type>\w+)", re.DOTALL), _cast),
    (re.compile(r'The value \'(?P<value>.*?)\' of the type "\w+" cannot be cast to "(?P<type>\w+)"', re.DOTALL), _cast),
    (
        re.compile(r"Can't cast value (?P<value>\S+) to type|(?P<decimal>\S+) is too large to store in a Decimal"),
        _overflow,
    ),
    (re.compile(r"invalid timestamp|datetime field|DateValue|TimestampValue", re.IGNORECASE), _date),
    (re.compile(r"(?:divide|division|remainder|modulo) by zero", re.IGNORECASE), _division),
    (
        re.compile(r"different number of columns: left has (?P<left>\d+) columns whereas right has (?P<right>\d+)"),
        _column_counts,
    ),
)
