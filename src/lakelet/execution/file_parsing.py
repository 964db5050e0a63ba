"""Files as Arrow rows with agreed columns; what does not fit is rescued, kept as corrupt, dropped or fails, as asked.

One row a record. A record keeps what fits: a value that does not is NULL, and goes with its name into the rescued data
column, a JSON object with the file's path. Without that column the record's text goes into the corrupt record column.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
from pyspark.sql.types import DataType, NullType, StringType

from lakelet.errors import SourceError
from lakelet.execution.file_avro import avro_batches
from lakelet.execution.file_columns import (
    FileColumns,
    beyond,
    date_formats,
    field_typer,
    partition_values,
    typed_columns,
)
from lakelet.execution.file_discovery import FoundFile
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_records import Field, Record, csv_records, json_records, open_text
from lakelet.execution.file_types import Convert, PartialValue, Real, converter, json_text, merged
from lakelet.execution.slices import METADATA_TYPE, with_metadata
from lakelet.plan.metadata import METADATA
from lakelet.storage.data_files import DataFile

CHUNK_ROWS = 20_000
_TEXT = StringType()
_TORN = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException, UnicodeError)
"""What a file that is not whole, or not of its format, raises."""


@dataclass(slots=True)
class FileParser:
    """Reads files with the columns of one version.

    Attributes:
        metadata: rows have the hidden column with their file's path, size and time.
        unknown: fields of the files that are no columns, with their types.
    """

    read: FileRead
    columns: FileColumns
    metadata: bool = False
    unknown: dict[str, DataType] = field(default_factory=dict)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the rows, the hidden one among them."""
        schema = self.columns.arrow()
        return schema.append(pa.field(METADATA, METADATA_TYPE)) if self.metadata else schema

    def tables(self, file: FoundFile) -> Iterator[pa.Table]:
        """Yield the rows of a file in pieces.

        Raises:
            SourceError: `FAILED_READ_FILE.FILE_NOT_EXIST`, `FAILED_READ_FILE.NO_HINT`, `MALFORMED_RECORD_IN_PARSING`.
        """
        with file_errors(file, self.read):
            for table in self._tables(file):
                yield with_metadata(table, as_data_file(file)) if self.metadata else table

    def _tables(self, file: FoundFile) -> Iterator[pa.Table]:
        values = partition_values(self.read.path, file.path)
        match self.read.format:
            case "json" | "csv":
                yield from self._of_records(file, values)
            case "parquet" | "orc" | "avro":
                yield from self._of_columns(file, values)
            case "text":
                yield from self._of_lines(file, values)
            case _:
                content = Path(file.path).read_bytes()
                at = datetime.fromtimestamp(file.modified_at_ms / 1000, UTC)
                row = {"path": f"file://{quote(file.path, safe='/=:@,+')}", "modificationTime": at,
                       "length": file.size_bytes, "content": content}  # fmt: skip
                yield self._table({name: [value] for name, value in row.items()}, 1, values)

    # -- records --------------------------------------------------------------------------------------------------

    def _of_records(self, file: FoundFile, values: Mapping[str, str | None]) -> Iterator[pa.Table]:
        formats = date_formats(self.read)
        is_csv = self.read.format == "csv"
        data = self.columns.data(self.read)
        converters = [
            (
                item.name,
                _TEXT if isinstance(item.dataType, StringType) else item.dataType,
                converter(item.dataType, formats, from_text=is_csv),
            )
            for item in data
        ]
        rescued, corrupt = self.columns.rescued, self.read.corrupt_column
        has_corrupt = corrupt in self.columns.columns.names
        path = json.dumps(f"file://{quote(file.path, safe='/=:@,+')}", ensure_ascii=False)
        lists: dict[str, list[Any]] = {}
        count = number = 0

        def begin() -> dict[str, list[Any]]:
            return {name: [] for name in (*(name for name, _, _ in converters), rescued, corrupt) if name}

        lists = begin()
        for record in records(file.path, self.read, self.positional()):
            number += 1
            row, misfits = self._row(record, converters)
            is_bad = record.is_broken or (rescued is None and (bool(misfits) or record.is_ragged))
            if is_bad and self.read.mode == "FAILFAST":
                raise _malformed(file, number, record)
            if is_bad and self.read.mode == "DROPMALFORMED":
                continue
            for name, value in row.items():
                lists[name].append(value)
            lists[corrupt].append((record.text or _as_text(record)) if is_bad else None)
            if rescued:
                if record.is_broken and not has_corrupt:
                    misfits = {corrupt: json.dumps(record.text, ensure_ascii=False)}
                parts = [f"{json.dumps(name, ensure_ascii=False)}:{text}" for name, text in misfits.items()]
                lists[rescued].append("{" + ",".join([*parts, f'"_file_path":{path}']) + "}" if parts else None)
            count += 1
            if count >= CHUNK_ROWS:
                yield self._table(lists, count, values)
                lists, count = begin(), 0
        if count:
            yield self._table(lists, count, values)

    def positional(self) -> Sequence[str]:
        """Return the names that CSV values have by their position: those of a declared schema, in Spark's own sources."""
        by_position = self.read.format == "csv" and self.read.schema
        if by_position and not (
            self.read.flag("header") and (self.read.auto_loader or not self.read.flag("enforceschema", True))
        ):
            return [item.name for item in self.columns.data(self.read)]
        return ()

    def _row(
        self, record: Record, converters: Sequence[tuple[str, DataType, Convert]]
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a record's values by column, and the JSON text of what fits no column."""
        fields = record.fields
        row: dict[str, Any] = {}
        misfits: dict[str, str] = {}
        for name, kind, convert in converters:
            item = fields.get(name)
            if item is None or item[0] is None:
                row[name] = None
                continue
            try:
                row[name] = convert(item[0]) if kind is not _TEXT else _string(item)
            except (ValueError, TypeError, OverflowError) as error:
                # Where the rest of it can be rescued, a struct is whole or absent, so that nothing is in both places.
                row[name] = error.value if isinstance(error, PartialValue) and not self.columns.rescued else None
                misfits[name] = _json_of(item)
            else:
                if kind is not _TEXT and isinstance(item[0], dict | list) and self.columns.rescued:
                    left = beyond(item[0], kind)
                    if left is not None:
                        misfits[name] = json_text(left)
        if not fields.keys() <= row.keys():
            self._unknown(record, row, misfits)
        return row, misfits

    def _unknown(self, record: Record, row: Mapping[str, Any], misfits: dict[str, str]) -> None:
        """Note the fields that could become columns: not those that have one in another case, nor values beyond a header."""
        beyond_header = record.is_ragged and self.read.flag("header")
        taken = {name.lower() for name in self.columns.columns.names}
        for name, item in record.fields.items():
            if name in row:
                continue
            if self.columns.rescued and item[0] is not None:
                misfits[name] = _json_of(item)
            if name.lower() not in taken and not (beyond_header and name.startswith("_c")):
                self.unknown[name] = merged(self.unknown.get(name, NullType()), field_typer(self.read)(item))

    def _type(self, name: str) -> DataType:
        return self.columns.columns[name].dataType

    # -- columns --------------------------------------------------------------------------------------------------

    def _of_columns(self, file: FoundFile, values: Mapping[str, str | None]) -> Iterator[pa.Table]:
        stored = typed_columns(file, self.read)
        taken = {name.lower() for name in self.columns.columns.names}
        for item in stored.fields:
            if item.name.lower() not in taken:
                self.unknown[item.name] = merged(self.unknown.get(item.name, NullType()), item.dataType)
        data = self.columns.data(self.read)
        target = {item.name: item for item in self.columns.arrow()}
        for batch in _column_batches(file, self.read):
            columns: dict[str, Any] = {}
            misfits: list[dict[str, Any]] = [{} for _ in range(batch.num_rows)] if self.columns.rescued else []
            names = {name.lower(): name for name in batch.schema.names}
            for item in data:
                name = item.name if item.name in batch.schema.names else names.get(item.name.lower())
                if name is not None:
                    columns[item.name] = self._cast(file, batch.column(name), target[item.name], misfits)
            if self.columns.rescued:
                for name in batch.schema.names:
                    if name.lower() not in {item.name.lower() for item in data}:
                        _rescue(misfits, name, batch.column(name))
                columns[self.columns.rescued] = [
                    json_text({**each, "_file_path": f"file://{quote(file.path, safe='/=:@,+')}"}) if each else None
                    for each in misfits
                ]
            yield self._table(columns, batch.num_rows, values)

    def _cast(self, file: FoundFile, column: pa.Array, target: pa.Field, misfits: list[dict[str, Any]]) -> Any:
        if column.type.equals(target.type):
            return column
        try:
            is_instant = pa.types.is_timestamp(column.type) and pa.types.is_timestamp(target.type)
            return column.cast(target.type, safe=not is_instant)  # nanoseconds are cut off, as Spark does
        except (pa.ArrowException, NotImplementedError) as error:
            if not self.columns.rescued:
                raise SourceError(
                    "FAILED_READ_FILE.PARQUET_COLUMN_DATA_TYPE_MISMATCH",
                    f"the column `{target.name}` of `{file.path}` is {column.type}, and must be {target.type}",
                    cause=str(error),
                    hint='read it with a rescued data column: `.option("rescuedDataColumn", "_rescued_data")`',
                ) from error
        _rescue(misfits, target.name, column)
        return pa.nulls(len(column), target.type)

    # -- lines ----------------------------------------------------------------------------------------------------

    def _of_lines(self, file: FoundFile, values: Mapping[str, str | None]) -> Iterator[pa.Table]:
        name = self.columns.data(self.read)[0].name
        with open_text(file.path, self.read) as stream:
            if self.read.flag("wholetext"):
                yield self._table({name: [stream.read()]}, 1, values)
                return
            lines: list[str] = []
            for line in stream:
                lines.append(line.rstrip("\n"))
                if len(lines) >= CHUNK_ROWS:
                    yield self._table({name: lines}, len(lines), values)
                    lines = []
            if lines:
                yield self._table({name: lines}, len(lines), values)

    def _table(self, columns: Mapping[str, Any], count: int, values: Mapping[str, str | None]) -> pa.Table:
        """Return rows with all columns in their order; partition values are those of the path."""
        arrays = []
        schema = self.columns.arrow()
        for item in schema:
            if item.name in self.columns.partitions:
                arrays.append(pa.repeat(pa.scalar(self._partition(item.name, values), item.type), count))
            elif item.name in columns:
                given = columns[item.name]
                arrays.append(pa.array(given, item.type) if isinstance(given, list) else given)
            else:
                arrays.append(pa.nulls(count, item.type))
        return pa.table(arrays, schema=schema)

    def _partition(self, name: str, values: Mapping[str, str | None]) -> Any:
        text = {key.lower(): value for key, value in values.items()}.get(name.lower())
        if text is None:
            return None
        try:
            return converter(self._type(name), {}, from_text=True)(text)
        except ValueError:
            return None


@contextlib.contextmanager
def file_errors(file: FoundFile, read: FileRead) -> Iterator[None]:
    """Translate what reading a file raises, unless the user told us to do without such files."""
    try:
        yield
    except FileNotFoundError as error:
        if not read.flag("ignoremissingfiles"):
            raise missing_file(file) from error
    except _TORN as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's own: the file may be whole
            raise _unreadable(file, error) from error
        if not read.flag("ignorecorruptfiles"):
            raise _torn(file, read, error) from error


def records(path: str, read: FileRead, names: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the records of a JSON or CSV file."""
    return csv_records(path, read, names) if read.format == "csv" else json_records(path, read)


def _column_batches(file: FoundFile, read: FileRead) -> Iterator[pa.RecordBatch]:
    if read.format == "parquet":
        with pq.ParquetFile(file.path) as source:
            yield from source.iter_batches(batch_size=CHUNK_ROWS * 4)
        return
    if read.format == "avro":
        yield from avro_batches(Path(file.path), CHUNK_ROWS)
        return
    source = pyarrow.orc.ORCFile(file.path)
    for stripe in range(source.nstripes):
        yield source.read_stripe(stripe)


def as_data_file(file: FoundFile) -> DataFile:
    return DataFile(path=file.path, size_bytes=file.size_bytes, num_records=None, modified_at_ms=file.modified_at_ms)


def _string(item: Field) -> str:
    value, text = item
    return text if text is not None else str(value)


def _json_of(item: Field) -> str:
    value, text = item
    return text if text is not None else json.dumps(value, ensure_ascii=False)


def _as_text(record: Record) -> str:
    return "{" + ",".join(f"{json_text(name)}:{_json_of(item)}" for name, item in record.fields.items()) + "}"


def _rescue(misfits: list[dict[str, Any]], name: str, column: pa.Array) -> None:
    for row, value in zip(misfits, column.to_pylist(), strict=True):
        if value is not None:
            row[name] = Real(repr(value)) if isinstance(value, float) and value - value == 0 else value


def missing_file(file: FoundFile) -> SourceError:
    return SourceError(
        "FAILED_READ_FILE.FILE_NOT_EXIST",
        f"the file `{file.path}` is gone",
        cause="it was found, and deleted or moved before this flow had read it",
        hint='put it back, or read with `.option("ignoreMissingFiles", "true")` to do without such files',
    )


def _unreadable(file: FoundFile, error: OSError) -> SourceError:
    return SourceError(
        "FAILED_READ_FILE.NO_HINT",
        f"`{file.path}` cannot be read",
        cause=f"{type(error).__name__}: {error}",
        hint="check the permissions of the file and the disk that it is on; a cluster reads it as the user of its workers",
        retryable=True,
    )


def _torn(file: FoundFile, read: FileRead, error: BaseException) -> SourceError:
    return SourceError(
        "FAILED_READ_FILE.NO_HINT",
        f"`{file.path}` cannot be read as {read.format}",
        cause=f"{type(error).__name__}: {error}",
        hint='replace the file by a whole one, or read with `.option("ignoreCorruptFiles", "true")` to do without it',
    )


def _malformed(file: FoundFile, number: int, record: Record) -> SourceError:
    return SourceError(
        "MALFORMED_RECORD_IN_PARSING",
        f"record {number} of `{file.path}` is malformed, and the mode is FAILFAST",
        cause=(record.text or _as_text(record))[:500],
        hint='mend the file, or read with `.option("mode", "PERMISSIVE")`',
    )
