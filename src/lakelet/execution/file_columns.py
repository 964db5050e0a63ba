"""The columns of a stream of files, and where each comes from: the files, their paths, the reader itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import DataType, NullType, StringType, StructField, StructType

from lakelet.errors import SourceError
from lakelet.execution.date_patterns import Parse, parser
from lakelet.execution.file_avro import avro_schema
from lakelet.execution.file_discovery import FoundFile, fixed_part
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_records import Field
from lakelet.execution.file_types import json_type, text_type
from lakelet.storage.schema import nullable

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
BINARY_COLUMNS = "path STRING, modificationTime TIMESTAMP, length BIGINT, content BINARY"
_TEXT = StringType()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileColumns:
    """The columns of a stream of files, in order.

    Attributes:
        version: counts the changes; -1 while nothing has been read with them.
        partitions: those of `columns` that come from paths.
        rescued: the name of the rescued data column, None for none.
    """

    version: int
    columns: StructType
    partitions: tuple[str, ...] = ()
    rescued: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "columns": self.columns.jsonValue(),
            "partition_columns": list(self.partitions),
            "rescued_column": self.rescued,
        }

    @classmethod
    def from_json(cls, version: int, data: Mapping[str, Any]) -> FileColumns:
        return cls(
            version=version,
            columns=StructType.fromJson(data["columns"]),
            partitions=tuple(data["partition_columns"]),
            rescued=data["rescued_column"],
        )

    def arrow(self) -> pa.Schema:
        return nullable(to_arrow_schema(self.columns, timezone="UTC"))

    def data(self, read: FileRead) -> list[StructField]:
        """Return the columns that come from inside of the files."""
        others = {*self.partitions, self.rescued, read.corrupt_column if read.format in ("json", "csv") else None}
        return [item for item in self.columns.fields if item.name not in others]


def field_typer(read: FileRead) -> Callable[[Field], DataType]:
    """Return what gives the type that a field's value means for its column."""
    primitives = not read.flag("primitivesasstring")
    decimals, timestamps = read.flag("prefersdecimal"), read.flag("infertimestamp")
    infers, is_csv = read.infers_types, read.format == "csv"

    def kind(item: Field) -> DataType:
        value = item[0]
        if value is None:
            return NullType()
        if not infers or (not primitives and not isinstance(value, dict | list)):
            return _TEXT
        if is_csv:
            return text_type(str(value))
        return json_type(value, decimals=decimals, timestamps=timestamps, primitives=primitives)

    return kind


def date_formats(read: FileRead) -> dict[str, Parse]:
    """Return what reads the user's patterns of dates and timestamps.

    Raises:
        SourceError: `UNSUPPORTED_OPTION`.
    """
    found = {}
    for name, key in (("date", "dateformat"), ("timestamp", "timestampformat")):
        pattern = read.text(key)
        if pattern:
            parse = parser(pattern)
            if parse is None:
                raise SourceError(
                    "UNSUPPORTED_OPTION",
                    f"the pattern `{pattern}` of `{key}` is not supported",
                    hint="use y, M, d, E, H, h, a, m, s, S, X, Z and quoted text, or read the column as text and parse that",
                )
            found[name] = parse
    return found


def partition_values(root: str, path: str) -> dict[str, str | None]:
    """Return the `name=value` folders of a path below its root; None for NULL."""
    folders = path.removeprefix(fixed_part(root)).strip("/").split("/")[:-1]
    values: dict[str, str | None] = {}
    for folder in folders:
        name, equals, text = folder.partition("=")
        if equals and name:
            values[unquote(name)] = None if text == NULL_PARTITION else unquote(text)
    return values


def typed_columns(file: FoundFile, read: FileRead) -> StructType:
    """Return the columns that a Parquet, Avro or ORC file says it has."""
    match read.format:
        case "parquet":
            schema = pq.read_schema(file.path)
        case "avro":
            schema = avro_schema(Path(file.path))
        case _:
            schema = pyarrow.orc.ORCFile(file.path).schema
    return from_arrow_schema(pa.schema([pa.field(item.name, _signed(item.type)) for item in nullable(schema)]))


_SIGNED = {pa.uint8(): pa.int16(), pa.uint16(): pa.int32(), pa.uint32(): pa.int64(), pa.uint64(): pa.decimal128(20, 0),
           pa.float16(): pa.float32()}  # fmt: skip


def _signed(kind: pa.DataType) -> pa.DataType:
    return _SIGNED.get(kind, kind)


def beyond(value: Any, kind: DataType) -> Any:
    """Return the part of a nested value that its type has no field for, None if all of it fits."""
    if isinstance(value, dict) and isinstance(kind, StructType):
        left = {}
        for name, item in value.items():
            inner = beyond(item, kind[name].dataType) if name in kind.names else item
            if inner is not None:
                left[name] = inner
        return left or None
    element = getattr(kind, "elementType", None)
    if isinstance(value, list) and element is not None and any(beyond(item, element) is not None for item in value):
        return value
    return None
