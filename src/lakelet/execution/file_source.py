"""New files of a folder as a stream: every file once, whatever happens in between.

An offset {"sequence", "schema"} means: every file with a smaller number has been read, the last ones with that version of the
columns. Files are noted before a batch that reads them is planned, and the batch's columns before its intent, so an intent
is enough to read exactly the same rows again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.pandas.types import from_arrow_schema

from lakelet.engine.paths import readable_path
from lakelet.errors import SourceError
from lakelet.execution.file_cluster import FileCluster
from lakelet.execution.file_columns import FileColumns
from lakelet.execution.file_discovery import FileLog, FoundFile, Lister
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_parsing import FileParser
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.slices import INLINE_BYTES
from lakelet.execution.sources import Backlog, Offset, Slice
from lakelet.faults import reach
from lakelet.places import remove_folder
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation

MOST_FILES = 100_000
"""Of a micro-batch, unless the stream says otherwise: a cluster gets their names in the plan."""
MOST_WEIGHED = 10_000
"""Of a longer backlog only the number of files is told."""


@dataclass(slots=True, kw_only=True)
class FileSource:
    """The files that arrive at a path.

    Attributes:
        folder: beside the checkpoint, for the list of files and the rows of a batch under way.
        max_bytes: default size of a micro-batch on disk; a single larger file is still one batch.
        metadata: rows have the hidden column of the file's path, size and time.
        on_lacking: is told of a Python module without which a cluster cannot parse the files, so that they are parsed here.
        on_new_columns: is told the names of columns that files have brought.
    """

    read: FileRead
    schemas: FileSchemas
    cluster: FileCluster
    folder: Path
    max_bytes: int
    metadata: bool = False
    on_lacking: Callable[[FileRead, str], None] | None = None
    on_new_columns: Callable[[FileRead, Sequence[str]], None] | None = None
    _log: FileLog | None = None
    _lister: Lister | None = None
    _planned: tuple[Offset, Offset, Relation] | None = field(default=None, repr=False)

    def head(self) -> int:
        """Look for new files and note them; returns the number that the next one gets."""
        log = self.log
        self._lister = self._lister or Lister(self.read)
        found = self._lister.new_files(log.known)
        if log.is_new and not self.read.flag("includeexistingfiles", True):
            log.begin_at(len(found))
        if found:
            log.append(found)
            reach("files.discovered")
        self._lister.noted()
        return len(log)

    @property
    def log(self) -> FileLog:
        if self._log is None:
            catalog = self.schemas.catalog
            self._log = FileLog(self.folder, relative=catalog.relative, absolute=catalog.absolute)
        return self._log

    def plan(self, after: Offset | None, until: int) -> Slice:
        start = self.log.start if after is None else int(after["sequence"])
        if start > len(self.log):
            raise SourceError(
                "SOURCE_LOG_MISSING",
                f"the flow has read {start} files of `{self.read.label}`, and the list of files has {len(self.log)}",
                cause=f"the folder `{self.folder}` was removed or replaced",
                hint="restore it, or start the flow anew with `lakelet run --full-refresh <dataset>`",
            )
        files = self._within_limits(self.log.files(start, max(start, until)))
        end_number = start + len(files)
        columns = self.schemas.noted(self.read)
        begin: Offset = {"sequence": start, "schema": columns.version}
        if files:
            columns, rows = self._planned_rows(files, columns)
            end: Offset = {"sequence": end_number, "schema": columns.version}
            self._planned = (begin, end, rows)
            reach("files.planned")
        else:
            end = {"sequence": end_number, "schema": columns.version}
            self._planned = None
            shutil.rmtree(self.folder / "staged", ignore_errors=True)
        is_empty = not files and not (after is None and not self.read.flag("includeexistingfiles", True))
        size = sum(file.size_bytes for file in files)
        return Slice(start=begin, end=end, num_files=len(files), num_bytes=size, is_empty=is_empty)

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        if self._planned is not None and self._planned[:2] == (start, end):
            return self._planned[2]
        first = self.log.start if start is None else int(start["sequence"])
        files = self.log.files(first, int(end["sequence"]))
        return self._rows(
            files, FileParser(self.read, self.schemas.version(self.read, int(end["schema"])), self.metadata)
        )

    def backlog(self, after: Offset, until: int) -> Backlog | None:
        start = int(after["sequence"])
        waiting = max(0, until - start)
        is_little = waiting <= MOST_WEIGHED
        size = sum(file.size_bytes for file in self.log.files(start, until)) if waiting and is_little else 0
        return Backlog(num_files=waiting, num_bytes=size if is_little else None)

    def _within_limits(self, files: Sequence[FoundFile]) -> list[FoundFile]:
        max_bytes, max_files = self.read.max_bytes(self.max_bytes), self.read.max_files or MOST_FILES
        taken: list[FoundFile] = []
        size = 0
        for file in files:
            if taken and (size + file.size_bytes > max_bytes or len(taken) >= max_files):
                break
            taken.append(file)
            size += file.size_bytes
        return taken

    def _planned_rows(self, files: Sequence[FoundFile], columns: FileColumns) -> tuple[FileColumns, Relation]:
        """Return the rows of a batch, and the columns that they have: more than before where the files bring new ones."""
        while True:
            parser = FileParser(self.read, columns, self.metadata)
            rows = self._rows(files, parser)
            if not parser.unknown or self.read.evolution in ("none", "rescue"):
                return columns, rows
            if self.read.evolution == "failOnNewColumns":
                names = ", ".join(f"`{name}`" for name in sorted(parser.unknown))
                raise SourceError(
                    "UNKNOWN_FIELD_EXCEPTION.NEW_FIELDS_IN_FILE",
                    f"files of `{self.read.label}` have new fields: {names}",
                    cause="the evolution mode is `failOnNewColumns`",
                    hint="declare them in the schema or in `cloudFiles.schemaHints`, or take the files away",
                )
            before = columns.version
            columns = self.schemas.evolved(self.read, parser.unknown)
            if columns.version == before:
                return columns, rows
            if self.on_new_columns is not None:
                self.on_new_columns(self.read, sorted(parser.unknown))

    def _rows(self, files: Sequence[FoundFile], parser: FileParser) -> Relation:
        folder = self.folder / "staged"
        was_lacking = self.read.format in self.cluster.lacking
        rows = self.cluster.rows(files, parser, folder)
        if rows is not None:
            return rows
        if not was_lacking and self.read.format in self.cluster.lacking and self.on_lacking is not None:
            self.on_lacking(self.read, self.cluster.lacking[self.read.format])
        return rows_here(files, parser, folder)


def rows_here(files: Sequence[FoundFile], parser: FileParser, folder: Path) -> Relation:
    """Parse files in this process; returns their rows inside the plan if they are few, else in a file in `folder`."""
    tables = (table for file in files for table in parser.tables(file))
    schema = parser.schema
    pieces: list[pa.Table] = []
    size = 0
    for table in tables:
        pieces.append(table)
        size += table.nbytes
        if size > INLINE_BYTES:
            break
    else:
        return plan.local(pa.concat_tables(pieces) if pieces else schema.empty_table())
    if folder.exists():
        remove_folder(folder)
    folder.mkdir(parents=True)
    with pq.ParquetWriter(folder / "rows.parquet", schema, compression="lz4") as writer:
        while pieces:
            writer.write_table(pieces.pop(0))
        for table in tables:
            writer.write_table(table)
    return plan.parquet([readable_path(str(folder)) + "/rows.parquet"], from_arrow_schema(schema))
