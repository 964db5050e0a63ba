"""The files of sinks: the same values whichever engine writes them, read back.

    instants    UTC with microseconds, `2024-05-01T12:00:00.000000Z`, in CSV with a space for the `T`; without a zone, no `Z`
    JSON        an object a line, as Spark's: no NULL fields, bytes in base64, decimals with all digits, NaN as text
    CSV         NULL is nothing and `""` the empty text; of a single column, whose line would be empty, NULL is `""`, too

What differs nevertheless is in docs/reference/differences.md.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    CalendarIntervalType,
    DataType,
    DayTimeIntervalType,
    MapType,
    StructType,
    YearMonthIntervalType,
)

from lakelet.errors import StorageError
from lakelet.storage.schema import nullable

if TYPE_CHECKING:
    from lakelet.graph.elements import Dataset

_Text = Callable[[Any], str]
_FLOAT = struct.Struct("f")
_QUOTED_UNLESS = frozenset(" :-+.")
"""Characters of numbers and instants: with such a separator they are quoted, as texts always are."""


def check_columns(sink: Dataset, columns: StructType) -> None:
    """Return if files of the sink can have these columns.

    Raises:
        StorageError: `UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE`.
    """
    for column in columns:
        if sink.sink_format == "csv" and isinstance(column.dataType, (StructType, ArrayType, MapType, BinaryType)):
            raise _unsupported(
                sink,
                column.name,
                "CSV has no structs, arrays, maps and bytes",
                "use `to_json` in the query, or a sink of another format",
            )
        if _has_interval(column.dataType):
            cause = "an interval has no type in files that all readers know"
            raise _unsupported(sink, column.name, cause, "cast it to a string in the query")


def _has_interval(kind: DataType) -> bool:
    match kind:
        case StructType():
            return any(_has_interval(field.dataType) for field in kind)
        case ArrayType():
            return _has_interval(kind.elementType)
        case MapType():
            return _has_interval(kind.keyType) or _has_interval(kind.valueType)
        case _:
            return isinstance(kind, (DayTimeIntervalType, YearMonthIntervalType, CalendarIntervalType))


def _unsupported(sink: Dataset, column: str, cause: str, hint: str) -> StorageError:
    return StorageError(
        "UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE",
        f"the column `{column}` cannot be written as {str(sink.sink_format).upper()}",
        origin=sink.origin,
        cause=cause,
        hint=hint,
    )


def write_rows(path: Path, reader: pa.RecordBatchReader, sink: Dataset) -> int:
    """Write rows to one file; returns how many there are.

    Raises:
        OSError: the file cannot be written.
        StorageError: `UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE`, of a date or timestamp that Python does not have.
    """
    columns = nullable(reader.schema)
    rows = (pa.Table.from_batches([batch]).cast(columns) for batch in reader)
    count = 0
    match sink.sink_format:
        case "parquet":
            with pq.ParquetWriter(path, columns) as writer:
                for table in rows:
                    writer.write_table(table)
                    count += table.num_rows
        case "json":
            text = _json_of(pa.struct(list(columns)))
            with path.open("w", encoding="utf-8", newline="") as file:
                for table in rows:
                    file.writelines(text(row) + "\n" for row in _values(table, sink))
                    count += table.num_rows
        case _:
            separator = _separator(sink)
            with path.open("w", encoding="utf-8", newline="") as file:
                if has_header(sink):
                    file.write(separator.join(_quoted(name) for name in columns.names) + "\n")
                for table in rows:
                    file.writelines(f"{line}\n" for line in _csv_lines(table, separator))
                    count += table.num_rows
    return count


def has_header(sink: Dataset) -> bool:
    """Return whether each file begins with the names of its columns."""
    return sink.sink_format == "csv" and sink.sink_options.get("header", "false").lower() == "true"


def has_rows(path: Path, sink: Dataset) -> bool:
    """Return whether a file that an engine has written holds a row; an engine writes one without for an empty result."""
    if sink.sink_format == "parquet":
        return int(pq.read_metadata(path).num_rows) > 0
    with path.open("rb") as file:
        if has_header(sink):
            file.readline()
        return bool(file.read(1))


def spark_options(sink: Dataset, columns: pa.Schema) -> Mapping[str, str]:
    """Return the options with which Apache Spark writes the values that are written here, and reads them back."""
    match sink.sink_format:
        case "parquet":
            return {}
        case "json":
            return {
                "compression": "none",
                "ignoreNullFields": "true",
                "timeZone": "UTC",
                "dateFormat": "yyyy-MM-dd",
                "timestampFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSSXXX",
                "timestampNTZFormat": "yyyy-MM-dd'T'HH:mm:ss.SSSSSS",
            }
        case _:
            return {
                "compression": "none",
                "header": str(has_header(sink)).lower(),
                "sep": _separator(sink),
                "escape": '"',
                "nullValue": '""' if len(columns) == 1 else "",
                "ignoreLeadingWhiteSpace": "false",
                "ignoreTrailingWhiteSpace": "false",
                "timeZone": "UTC",
                "dateFormat": "yyyy-MM-dd",
                "timestampFormat": "yyyy-MM-dd HH:mm:ss.SSSSSSXXX",
                "timestampNTZFormat": "yyyy-MM-dd HH:mm:ss.SSSSSS",
            }


def _separator(sink: Dataset) -> str:
    return sink.sink_options.get("sep", ",").replace("\\t", "\t")


def _values(table: pa.Table, sink: Dataset) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except (OverflowError, ValueError) as error:  # Python has no such dates
        raise StorageError(
            "UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE",
            "a date or timestamp cannot be written as JSON",
            origin=sink.origin,
            cause=f"its year is not between 1 and 9999 ({error})",
            hint="cast it to a string in the query, or use a sink of another format",
        ) from error
    return rows


# -- JSON ---------------------------------------------------------------------------------------------------------


def _json_of(kind: pa.DataType) -> _Text:
    """Return what gives the JSON text of a value of a type."""
    if pa.types.is_struct(kind):
        return _json_object(kind)
    if pa.types.is_map(kind):
        key, value = _json_of(kind.key_type), _json_of(kind.item_type)
        return _or_null(lambda pairs: "{" + ",".join(f"{_as_key(key(k))}:{value(v)}" for k, v in pairs) + "}")
    if pa.types.is_list(kind):
        item = _json_of(kind.value_type)
        return _or_null(lambda items: "[" + ",".join(map(item, items)) + "]")
    if pa.types.is_floating(kind):
        digits = _shortest if pa.types.is_float32(kind) else repr
        return _or_null(lambda number: digits(number) if math.isfinite(number) else _json_no_number(number))
    if pa.types.is_boolean(kind):
        return _or_null(lambda flag: "true" if flag else "false")
    if pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return _or_null(str)
    if pa.types.is_timestamp(kind):
        return _or_null(lambda at: _text(at.isoformat(timespec="microseconds").replace("+00:00", "Z")))
    if pa.types.is_binary(kind):
        return _or_null(lambda data: _text(base64.b64encode(data).decode()))
    return _or_null(lambda value: _text(str(value)))


def _json_object(kind: pa.DataType) -> _Text:
    fields = [(field.name, f"{_text(field.name)}:", _json_of(field.type)) for field in kind]

    def text(row: Mapping[str, Any]) -> str:
        return "{" + ",".join(key + value(row[name]) for name, key, value in fields if row[name] is not None) + "}"

    return _or_null(text)


def _as_key(text: str) -> str:
    return text if text.startswith('"') else _text(text)


def _or_null(text: _Text) -> _Text:
    return lambda value: "null" if value is None else text(value)


def _json_no_number(number: float) -> str:
    return '"NaN"' if math.isnan(number) else '"Infinity"' if number > 0 else '"-Infinity"'


def _shortest(number: float) -> str:
    """Return the digits that tell a FLOAT from others, not all that it has as a DOUBLE."""
    for digits in range(6, 9):
        short = float(f"{number:.{digits}g}")
        if _FLOAT.unpack(_FLOAT.pack(short))[0] == number:
            return repr(short)
    return repr(float(f"{number:.9g}"))  # enough for all of them


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


# -- CSV ----------------------------------------------------------------------------------------------------------


def _csv_lines(rows: pa.Table, separator: str) -> list[str]:
    columns = [_csv_column(column.combine_chunks(), separator) for column in rows.columns]
    empty = '""' if len(columns) == 1 else ""
    lines: list[str] = pc.binary_join_element_wise(
        *(pc.fill_null(column, empty) for column in columns), separator
    ).to_pylist()
    return lines


def _csv_column(column: pa.Array, separator: str) -> pa.Array:
    texts = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        for here, spark in (("nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity")):
            texts = pc.if_else(pc.equal(texts, here), spark, texts)
    if pa.types.is_string(column.type) or any(char.isalnum() or char in _QUOTED_UNLESS for char in separator):
        texts = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return texts


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
