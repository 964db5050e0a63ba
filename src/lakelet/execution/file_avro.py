"""Avro files as Arrow: columns and types as Spark's Avro module gives them.

Source: https://spark.apache.org/docs/latest/sql-data-sources-avro.html#supported-types-for-avro---spark-sql-conversion
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from lakelet.errors import SourceError

_TYPES = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
    "string": pa.string(),
    "enum": pa.string(),
}
_LOGICAL = {
    "date": pa.date32(),
    "timestamp-millis": pa.timestamp("us", "UTC"),
    "timestamp-micros": pa.timestamp("us", "UTC"),
    "local-timestamp-millis": pa.timestamp("us"),
    "local-timestamp-micros": pa.timestamp("us"),
    "uuid": pa.string(),
}
_CODECS = ("null", "deflate", "snappy", "bzip2", "xz")
_WIDER = ({"int", "long"}, pa.int64()), ({"float", "double"}, pa.float64())
"""Unions of two numbers are the wider one."""


def avro_schema(path: Path) -> pa.Schema:
    """Return the columns of a file.

    Raises:
        OSError: it is no Avro file, or not whole.
        SourceError: `UNSUPPORTED_AVRO_TYPE`.
    """
    library = _library()
    with _whole(), path.open("rb") as file:
        reader = library.reader(file)
        schema, codec = reader.writer_schema, reader.codec
    if codec not in _CODECS:
        raise SourceError(
            "UNSUPPORTED_AVRO_CODEC",
            f"`{path}` is packed with `{codec}`",
            hint=f"write the files with one of {', '.join(_CODECS)}",
        )
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise _unsupported("its top level", "is no record")
    return pa.schema(_fields(schema, {}))


def avro_batches(path: Path, rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a file, so many at a time.

    Raises:
        OSError: it is no Avro file, or not whole.
        SourceError: `UNSUPPORTED_AVRO_TYPE`.
    """
    schema = avro_schema(path)
    with _whole(), path.open("rb") as file:
        reader = _library().reader(file)
        while part := list(islice(reader, rows)):
            yield pa.RecordBatch.from_pylist(part, schema)


def _library() -> Any:
    """Return fastavro; loaded when an Avro file is read, since this code goes to machines that may not have it.

    Without cramjam it would take files that are packed with snappy for torn ones.
    """
    import cramjam  # noqa: F401
    import fastavro

    # A UUID is a text; fastavro would make an object of it, which Arrow has no column for.
    fastavro.read.LOGICAL_READERS["string-uuid"] = lambda data, *_: data
    return fastavro


def _fields(record: Mapping[str, Any], known: dict[str, pa.DataType]) -> list[pa.Field]:
    return [pa.field(item["name"], _type(item["type"], item["name"], known)) for item in record["fields"]]


def _type(schema: Any, field: str, known: dict[str, pa.DataType]) -> pa.DataType:
    """Return the type of a field.

    Args:
        known: named types that were defined before.
    """
    if isinstance(schema, list):
        return _union(schema, field, known)
    if isinstance(schema, str):
        if schema in known:
            return known[schema]
        if schema not in _TYPES:
            raise _unsupported(f"field `{field}`", f"contains itself, or a type `{schema}` that is not defined")
        return _TYPES[schema]
    kind, logical = schema["type"], schema.get("logicalType")
    found: pa.DataType
    if logical == "decimal":
        found = pa.decimal128(schema["precision"], schema.get("scale", 0))
    elif logical in _LOGICAL:
        found = _LOGICAL[logical]
    elif logical in ("time-millis", "time-micros", "duration"):
        raise _unsupported(f"field `{field}`", f"is of type `{logical}`")
    elif kind in ("record", "error"):
        found = pa.struct(_fields(schema, known))
    elif kind == "array":
        found = pa.list_(_type(schema["items"], field, known))
    elif kind == "map":
        found = pa.map_(pa.string(), _type(schema["values"], field, known))
    else:
        return _type(kind, field, known) if kind not in _TYPES else _named(schema, _TYPES[kind], known)
    return _named(schema, found, known)


def _named(schema: Mapping[str, Any], found: pa.DataType, known: dict[str, pa.DataType]) -> pa.DataType:
    if "name" in schema:
        known[schema["name"]] = found
    return found


def _union(branches: list[Any], field: str, known: dict[str, pa.DataType]) -> pa.DataType:
    others = [branch for branch in branches if branch != "null"]
    if len(others) == 1:
        return _type(others[0], field, known)
    names = {branch if isinstance(branch, str) else "" for branch in others}
    for numbers, wider in _WIDER:
        if names == numbers:
            return wider
    raise _unsupported(f"field `{field}`", "is a union of several types")


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    """Say in one way that a file is no Avro file, or ends too early."""
    from fastavro.schema import SchemaParseException

    try:
        yield
    except (ValueError, KeyError, IndexError, TypeError, struct.error, SchemaParseException) as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _unsupported(what: str, why: str) -> SourceError:
    return SourceError(
        "UNSUPPORTED_AVRO_TYPE",
        f"{what} of an Avro file {why}",
        hint="write it as a number, a text or a record, or write the files as Parquet",
    )
