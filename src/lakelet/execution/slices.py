"""Data files of a table as one relation: the rows of a micro-batch, checked to be all there."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql.connect.proto import Expression
from pyspark.sql.pandas.types import from_arrow_schema

from lakelet.engine.paths import literal_path, readable_path
from lakelet.errors import SourceError
from lakelet.places import is_remote, open_file
from lakelet.plan import relation as plan
from lakelet.plan.metadata import METADATA
from lakelet.plan.relation import Relation
from lakelet.storage.data_files import DataFile

INLINE_BYTES = 4 * 2**20
"""Up to this size on disk a slice travels inside the plan; above it the engine reads the files."""
MAX_FILES_BY_ENGINE = 64
"""How many files above that size one slice may have: with file metadata each is a scan of its own."""
MAX_FILES_IN_CLUSTER = 1_000
"""How many files a slice may have that a cluster reads with few scans; the footer of each is looked at here."""

_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")

METADATA_TYPE = pa.struct(
    [
        ("file_path", pa.string()),
        ("file_name", pa.string()),
        ("file_size", pa.int64()),
        ("file_block_start", pa.int64()),
        ("file_block_length", pa.int64()),
        ("file_modification_time", pa.timestamp("us", "UTC")),
    ]
)
"""Columns of `_metadata`; source: https://docs.databricks.com/aws/ingestion/file-metadata-column"""


def file_rows(
    files: Sequence[DataFile],
    schema: pa.Schema,
    *,
    partition_cols: Sequence[str] = (),
    metadata: bool = False,
    inline: bool = True,
) -> Relation:
    """Return the rows of `files` with the columns of `schema`, and the hidden metadata column if asked for.

    Args:
        inline: few rows may be read here and travel inside the plan; a cluster reads them itself.

    Raises:
        SourceError: `DATA_FILE_MISSING`, `DATA_FILE_INCOMPLETE` where the rows are not those that the log promises.
    """
    if not files:
        return plan.local(with_metadata(schema.empty_table(), None) if metadata else schema.empty_table())
    if inline and sum(file.size_bytes for file in files) <= INLINE_BYTES:
        return plan.local(pa.concat_tables([_read(file, schema, partition_cols, metadata) for file in files]))
    for file in files:
        _check_rows(file, _footer(file).num_rows)
    groups: dict[Hashable, list[DataFile]] = {}
    for file in files:
        groups.setdefault(scan_of(file, metadata), []).append(file)
    readable = _readable if inline else literal_path
    scans = [_scan(group, schema, partition_cols, metadata, readable) for group in groups.values()]
    while len(scans) > 1:
        scans = [plan.union(scans[i : i + 2]) for i in range(0, len(scans), 2)]
    return scans[0]


def scan_of(file: DataFile, metadata: bool) -> Hashable:
    """Return what the files have in common that an engine reads in one scan."""
    return file.path if metadata else tuple(sorted(file.partition_values.items(), key=repr))


def _scan(
    files: list[DataFile],
    schema: pa.Schema,
    partition_cols: Sequence[str],
    metadata: bool,
    readable: Callable[[str], str],
) -> Relation:
    beside = {*partition_cols, *files[0].partition_values}
    stored = pa.schema([field for field in schema if field.name not in beside])
    scan = plan.parquet([readable(file.path) for file in files], from_arrow_schema(stored))
    expressions = []
    for field in schema:
        if field.name in stored.names:
            expressions.append(_column(field.name))
        else:
            value = files[0].partition_values.get(field.name)
            expressions.append(_literal(field, value))
    if metadata:
        expressions.append(_metadata_literal(files[0]))
    result = plan.new()
    result.project.input.CopyFrom(scan)
    result.project.expressions.extend(expressions)
    return result


def _readable(path: str) -> str:
    """Return a path to a data file without the characters that an engine takes for a glob."""
    folder, slash, name = path.rpartition("/")
    return readable_path(folder) + slash + name if any(char in folder for char in "*?{}") else path


def _column(name: str) -> Expression:
    result = Expression()
    result.unresolved_attribute.unparsed_identifier = "`" + name.replace("`", "``") + "`"
    return result


def _literal(field: pa.Field, value: str | None) -> Expression:
    text = "NULL" if value is None else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    kind = from_arrow_schema(pa.schema([field])).fields[0].dataType.simpleString()
    if value is not None and kind == "timestamp" and not _ZONE.search(value):
        text = f"'{value}Z'"  # without a zone it is UTC, whatever the session's zone
    return _named(plan.expression(f"CAST({text} AS {kind})"), field.name)


def _metadata_literal(file: DataFile) -> Expression:
    values = _metadata_of(file)
    text = ", ".join(
        f"'{name}', " + (f"'{_escaped(value)}'" if isinstance(value, str) else
                         f"CAST({value} AS BIGINT)" if name != "file_modification_time" else f"timestamp_micros({value})")
        for name, value in values.items()
    )  # fmt: skip
    return _named(plan.expression(f"named_struct({text})"), METADATA)


def _named(value: Expression, name: str) -> Expression:
    result = Expression()
    result.alias.expr.CopyFrom(value)
    result.alias.name.append(name)
    return result


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _metadata_of(file: DataFile) -> dict[str, str | int]:
    return {
        "file_path": ("" if is_remote(file.path) else "file://") + quote(file.path, safe="/=:@,+"),
        "file_name": file.path.rpartition("/")[2],
        "file_size": file.size_bytes,
        "file_block_start": 0,
        "file_block_length": file.size_bytes,
        "file_modification_time": file.modified_at_ms * 1000,
    }


def with_metadata(table: pa.Table, file: DataFile | None) -> pa.Table:
    """Return the rows with the hidden metadata column, the same in every row; no rows, no file."""
    value = None if file is None else pa.scalar(_metadata_of(file), METADATA_TYPE)
    column = pa.repeat(value, table.num_rows) if value is not None else pa.nulls(table.num_rows, METADATA_TYPE)
    return table.append_column(METADATA, column)


def _read(file: DataFile, schema: pa.Schema, partition_cols: Sequence[str], metadata: bool) -> pa.Table:
    try:
        table = pq.ParquetFile(open_file(file.path)).read()
    except FileNotFoundError as error:
        raise _missing(file) from error
    _check_rows(file, table.num_rows)
    columns: list[pa.ChunkedArray | pa.Array] = []
    for field in schema:
        if field.name in partition_cols or field.name in file.partition_values:
            value = file.partition_values.get(field.name)
            columns.append(pa.repeat(_partition_value(value, field.type), table.num_rows))
        elif field.name in table.column_names:
            column = table.column(field.name)
            columns.append(column if column.type.equals(field.type) else pc.cast(column, field.type))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    result = pa.table(columns, schema=schema)
    return with_metadata(result, file) if metadata else result


def _partition_value(text: str | None, kind: pa.DataType) -> pa.Scalar:
    """Return a partition value of the log; a timestamp without a zone is UTC, as the protocol has it."""
    value = pa.scalar(text, pa.string())
    if text is not None and pa.types.is_timestamp(kind) and kind.tz and not _ZONE.search(text):
        return pc.assume_timezone(value.cast(pa.timestamp(kind.unit)), "UTC").cast(kind)
    return value.cast(kind)


def num_rows_of(file: DataFile) -> int | None:
    """Return how many rows a data file has, from the log or from the file; None if neither tells."""
    if file.num_records is not None:
        return file.num_records
    try:
        return int(pq.read_metadata(open_file(file.path)).num_rows)
    except FileNotFoundError:  # vacuumed
        return None


def _footer(file: DataFile) -> pq.FileMetaData:
    try:
        return pq.read_metadata(open_file(file.path))
    except FileNotFoundError as error:
        raise _missing(file) from error


def _missing(file: DataFile) -> SourceError:
    return SourceError(
        "DATA_FILE_MISSING",
        f"the data file `{file.path}` is gone",
        cause="the table's log names it, so somebody vacuumed or deleted it before this flow had read it",
        hint="restore the file, or start the flow anew with `lakelet run --full-refresh <dataset>`",
    )


def _check_rows(file: DataFile, num_rows: int) -> None:
    if file.num_records is not None and num_rows != file.num_records:
        raise SourceError(
            "DATA_FILE_INCOMPLETE",
            f"`{file.path}` has {num_rows} rows where the table's log says {file.num_records}",
            hint="restore the file; nothing of this batch was written",
        )
