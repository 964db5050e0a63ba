"""What an engine says when it fails, as a `QueryError`."""

from __future__ import annotations

import re

from lakelet.errors import QueryError

_MISSING_COLUMN = re.compile(
    r"attribute (?:ObjectName\(\[(?P<parts>.*?)\]\)|(?P<plain>\S+)) is missing from the schema"
    r"|cannot resolve (?:attribute|column)[: ]+`?(?P<other>[\w.]+)`?"
)
_IDENTIFIER = re.compile(r'Identifier\("((?:[^"\\]|\\.)*)"\)')
_CANCELLED = re.compile(r"operation not found|operation.*(?:cancel|interrupt)", re.IGNORECASE)
_TRANSIENT = re.compile(r"UNAVAILABLE|connection (?:refused|reset)|deadline exceeded", re.IGNORECASE)


def query_error(error: Exception) -> QueryError:
    """Return the engine's exception as an error of ours; the caller chains the original."""
    text = str(error).strip()
    if _CANCELLED.search(text):
        return QueryError("OPERATION_CANCELED", "the query was cancelled", cause=text)
    missing = _MISSING_COLUMN.search(text)
    if missing:
        parts = _IDENTIFIER.findall(missing["parts"] or "") or [missing["plain"] or missing["other"] or "?"]
        return QueryError(
            "UNRESOLVED_COLUMN",
            f"the query names a column `{'.'.join(parts)}` that its input does not have",
            cause=text,
            hint="compare the name with the columns of the dataset that the query reads",
        )
    return QueryError("QUERY_FAILED", "the engine could not run the query", cause=text, retryable=bool(_TRANSIENT.search(text)))
