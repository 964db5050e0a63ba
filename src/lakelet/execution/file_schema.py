"""The columns of a stream of files: inferred once, kept with versions, changed only by the rules of its evolution mode.

    <storage>/_schemas/<source>/<version>.json     {"format": 1, "columns": …, "partition_columns": …, "rescued_column": …}

One stream has one schema, whichever flows read it. Resolving a pipeline infers without writing; the first batch writes.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pyspark.sql.types import DataType, NullType, StringType, StructField, StructType

from lakelet.engine.base import Engine
from lakelet.errors import QueryError, SourceError
from lakelet.execution.checkpoint import FORMAT, read_json, write_json
from lakelet.execution.diagnosis import near_paths, volume_hint
from lakelet.execution.file_columns import BINARY_COLUMNS, FileColumns, field_typer, partition_values, typed_columns
from lakelet.execution.file_discovery import FoundFile, Lister, roots
from lakelet.execution.file_options import TYPED, FileRead
from lakelet.execution.file_parsing import file_errors, records
from lakelet.execution.file_types import merged, merged_columns, settled, text_type
from lakelet.places import Place, remove_folder
from lakelet.plan.ddl import parse_columns
from lakelet.storage.catalog import Catalog

SAMPLE_FILES = 1000
SAMPLE_BYTES = 32 * 2**20
"""How much is looked at to infer columns; what comes later is up to the evolution mode."""
_RATE_OPTIONS = {
    "maxfilespertrigger", "maxbytespertrigger", "includeexistingfiles", "schemaevolutionmode", "allowoverwrites",
    "ignorecorruptfiles", "ignoremissingfiles", "validateoptions", "mode", "modifiedafter", "modifiedbefore",
    "pathglobfilter", "schemalocation", "backfillinterval", "usenotifications", "useincrementallisting",
}  # fmt: skip
"""Options that do not say what the columns are: to change them keeps the schema."""


@dataclass(slots=True)
class FileSchemas:
    """The columns of every stream of files of a pipeline."""

    catalog: Catalog
    engine: Engine
    _known: dict[str, FileColumns] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def current(self, read: FileRead) -> FileColumns:
        """Return the newest columns; inferred from the files that there are if nothing has been read yet.

        Raises:
            SourceError: `PATH_NOT_FOUND`, `CF_EMPTY_DIR_FOR_SCHEMA_INFERENCE`, `INVALID_SCHEMA`.
        """
        with self._lock:
            key = self.key(read)
            if key not in self._known:
                versions = self._versions(key)
                self._known[key] = self.version(read, max(versions)) if versions else self._initial(read)
            return self._known[key]

    def fresh(self, read: FileRead) -> FileColumns:
        """Return the columns of the files that there are now, of a read as a table."""
        with self._lock:
            self._known[self.key(read)] = columns = self._initial(read)
            return columns

    def version(self, read: FileRead, version: int) -> FileColumns:
        """Return the columns with which a batch was planned."""
        path = self._folder(self.key(read)) / f"{version}.json"
        return FileColumns.from_json(version, read_json(path))

    def noted(self, read: FileRead) -> FileColumns:
        """Return the newest columns, written down."""
        with self._lock:
            columns = self.current(read)
            return columns if columns.version >= 0 else self._write(read, replace(columns, version=0))

    def evolved(self, read: FileRead, added: Mapping[str, DataType]) -> FileColumns:
        """Add columns at the end, as a new version."""
        with self._lock:
            columns = self.noted(read)
            taken = {name.lower() for name in columns.columns.names}
            fields = [*columns.columns.fields]
            for name in sorted(added):
                if name.lower() not in taken:
                    taken.add(name.lower())
                    fields.append(StructField(name, settled(added[name]), True))
            if len(fields) == len(columns.columns.fields):
                return columns
            changed = replace(columns, version=columns.version + 1, columns=StructType(fields))
            return self._write(read, changed)

    def forget(self, reads: Iterable[FileRead]) -> None:
        """Begin anew: the columns are inferred again from the files that there are; without any they stay as they are."""
        with self._lock:
            for read in reads:
                if not Lister(read).new_files(lambda path: None):
                    continue
                key = self.key(read)
                self._known.pop(key, None)
                remove_folder(self._folder(key))

    def key(self, read: FileRead) -> str:
        """Return the name of the folder in which the columns of a read are kept."""
        options = {key: value for key, value in read.options.items() if key not in _RATE_OPTIONS}
        path = self.catalog.relative(read.path)
        parts = [
            read.format,
            path,
            read.auto_loader,
            read.streaming,
            read.schema,
            read.rescued_column,
            sorted(options.items()),
        ]
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]
        return f"{re.sub(r'[^A-Za-z0-9]+', '-', path)[-60:].strip('-')}-{digest}"

    def _folder(self, key: str) -> Place:
        return self.catalog.storage / "_schemas" / key

    def _versions(self, key: str) -> list[int]:
        folder = self._folder(key)
        return [int(path.stem) for path in folder.glob("*.json") if path.stem.isdigit()] if folder.is_dir() else []

    def _write(self, read: FileRead, columns: FileColumns) -> FileColumns:
        key = self.key(read)
        write_json(self._folder(key) / f"{columns.version}.json", {"format": FORMAT, **columns.to_json()})
        self._known[key] = columns
        return columns

    # -- the first columns ----------------------------------------------------------------------------------------

    def _initial(self, read: FileRead) -> FileColumns:
        if not roots(read.path):
            raise SourceError(
                "PATH_NOT_FOUND",
                f"there is nothing at `{read.label}`",
                cause=f"`{read.path}` does not exist",
                hint=volume_hint(read.label)
                or near_paths(read.path)
                or (
                    "make the folder before the first update"
                    if read.streaming
                    else "check the path, or put the files there before the update"
                ),
            )
        files = Lister(read).new_files(lambda path: None)
        data = self._declared(read.schema, read) if read.schema else self._inferred(read, files)
        partitions = _partitions(read, files)
        fields = [item for item in data.fields if read.schema or item.name not in partitions]
        names = {item.name.lower() for item in fields}
        fields += [StructField(name, kind, True) for name, kind in partitions.items() if name.lower() not in names]
        columns = self._hinted(StructType(fields), read)
        rescued = read.rescued_column
        if rescued and rescued not in columns.names:
            columns = StructType([*columns.fields, StructField(rescued, StringType(), True)])
        found = {name.lower() for name in partitions}
        in_order = tuple(item.name for item in columns.fields if item.name.lower() in found)
        return FileColumns(version=-1, columns=columns, partitions=in_order, rescued=rescued)

    def _inferred(self, read: FileRead, files: list[FoundFile]) -> StructType:
        if read.format == "text":
            return StructType([StructField("value", StringType(), True)])
        if read.format == "binaryFile":
            return parse_columns(BINARY_COLUMNS, self.engine)
        if not files and not read.text("schemahints"):
            raise _nothing_to_infer(read)
        return inferred(read, files)

    def _hinted(self, columns: StructType, read: FileRead) -> StructType:
        text = read.text("schemahints")
        if not text.strip():
            return columns
        hints = self._declared(text, read)
        dotted = next((name for name in hints.names if "." in name), None)
        if dotted:
            raise _wrong_hint(
                read, text, f"`{dotted}` is a field of a column", "write the whole column: `name STRUCT<…>`"
            )
        by_name = {item.name.lower(): item for item in hints.fields}
        fields = [by_name.pop(item.name.lower(), item) for item in columns.fields]
        return StructType([*fields, *by_name.values()])

    def _declared(self, text: str, read: FileRead) -> StructType:
        if text.lstrip().startswith("{"):
            return StructType.fromJson(json.loads(text))
        try:
            return parse_columns(text, self.engine)
        except QueryError as error:
            raise _wrong_hint(read, text, error.message, 'write columns as "id BIGINT, at TIMESTAMP"') from error


def inferred(read: FileRead, files: Iterable[FoundFile]) -> StructType:
    """Return the columns that a sample of files has: JSON sorted by name, others in the order of the files."""
    columns = StructType([])
    size = 0
    for number, file in enumerate(files):
        if number >= SAMPLE_FILES or size > SAMPLE_BYTES:
            break
        size += file.size_bytes
        columns = merged_columns(columns, _columns_of(file, read))
    fields = sorted(columns.fields, key=lambda item: item.name) if read.format == "json" else columns.fields
    seen: set[str] = set()
    kept = []
    for item in fields:
        if item.name.lower() not in seen:  # another case of a name that is there is no column of its own
            seen.add(item.name.lower())
            kept.append(StructField(item.name, settled(item.dataType), True))
    return StructType(kept)


def _columns_of(file: FoundFile, read: FileRead) -> StructType:
    """Return the columns of one file, None of them settled."""
    with file_errors(file, read):
        if read.format in TYPED:
            return typed_columns(file, read)
        types: dict[str, DataType] = {}
        kind_of = field_typer(read)
        has_header = read.flag("header")
        for record in records(file.path, read):
            for name, item in record.fields.items():
                if isinstance(types.get(name), StringType):
                    continue  # text holds everything
                if not (record.is_ragged and has_header and name.startswith("_c")):
                    types[name] = merged(types.get(name, NullType()), kind_of(item))
        return StructType([StructField(name, kind, True) for name, kind in types.items()])
    return StructType([])


def _partitions(read: FileRead, files: list[FoundFile]) -> dict[str, DataType]:
    """Return the columns that paths give; text unless types are inferred."""
    wanted = read.partition_columns
    if wanted == ():
        return {}
    types: dict[str, DataType] = {name: NullType() for name in wanted or ()}
    infers = not read.auto_loader or read.flag("infercolumntypes")
    for file in files:
        for name, text in partition_values(read.path, file.path).items():
            if wanted is None or name in wanted:
                kind = StringType() if not infers else NullType() if text is None else text_type(text)
                types[name] = merged(types.get(name, NullType()), kind)
    return {name: settled(kind) for name, kind in types.items()}


def _nothing_to_infer(read: FileRead) -> SourceError:
    return SourceError(
        "CF_EMPTY_DIR_FOR_SCHEMA_INFERENCE",
        f"the columns of `{read.label}` cannot be inferred, because there is no file yet",
        cause=f"`{read.path}` has no file that the stream would read",
        hint='put the first file there, or declare columns: `.schema("id BIGINT, …")` or `cloudFiles.schemaHints`',
    )


def _wrong_hint(read: FileRead, text: str, cause: str, hint: str) -> SourceError:
    return SourceError(
        "INVALID_SCHEMA",
        f"the columns declared for the files at `{read.label}` cannot be read: {text}",
        cause=cause,
        hint=hint,
    )
