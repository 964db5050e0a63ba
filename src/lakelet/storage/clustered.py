"""Delta tables whose rows lie in small files in the order of their keys, so that a change rewrites only the files it hits.

The files are the leaves of a search tree whose inner nodes are the statistics in the table's log: a key is looked for in the
files whose minimum and maximum enclose it, a new key goes to the file with the greatest minimum below it, and a file that
has grown too large is split. A table that was laid out differently is right at once and becomes clustered where it is changed.
Every file is plain Parquet and every commit plain Delta; docs/adr/0015 has the measurements behind `LEAF_ROWS`.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable

from lakelet.places import Place, open_file, place
from lakelet.storage.base import Receipt
from lakelet.storage.file_index import (
    RECENT,
    Statistics,
    between,
    bounded_columns,
    enclosing,
    floors,
    index_column,
    index_schema,
    matching,
    overlapping,
    split_points,
    statistics,
    statistics_json,
    surpassing,
)
from lakelet.storage.log_writer import AddedFile, RemovedFile, write_commit
from lakelet.storage.schema import conform

LEAF_ROWS = 2048
"""Rows of a file after a split; a file is split when it has twice as many."""
RECENT_FILES = 8
"""So many files of rows that came last are put together into one: most changes then write only their own rows."""
SMALL_BYTES = 4 << 20
"""A file up to this size is read with one call of the file system, not one for every page."""
REMEMBERED_BYTES = 128 << 20
"""Memory for rows of files that were read or written last. A file never changes, and what is changed is looked up first."""
INDEX_CHUNKS = 16
"""Every change adds some to the list of files; more of them slow down each look at it."""
SAMPLED = 64
"""One row in so many is looked at to find out how keys are distributed."""
WORKERS = 4
"""Threads that read and write files at the same time: both leave the interpreter for most of their time."""

_PLAIN_FEATURES = {"appendOnly", "invariants", "timestampNtz"}


_REQUIRED = re.compile(r'"(nullable|containsNull|valueContainsNull)"\s*:\s*false')


def is_clusterable(delta: DeltaTable) -> bool:
    """Return whether files of the table may be swapped without more: no partitions, no change feed, no further features, and
    nothing that must not be NULL."""
    metadata, protocol = delta.metadata(), delta.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
    if metadata.partition_columns or metadata.configuration.get("delta.enableChangeDataFeed") == "true":
        return False
    if _REQUIRED.search(delta.schema().to_json()):
        return False
    return protocol.min_writer_version <= 2 or (protocol.min_writer_version == 7 and features <= _PLAIN_FEATURES)


class _Remembered:
    """Rows of data files, those that were used last."""

    def __init__(self) -> None:
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, path: str, schema: pa.Schema) -> pa.Table | None:
        """Return a file's rows, if they are known with these columns."""
        with self._lock:
            found = self._tables.get(path)
            if found is None or not found.schema.equals(schema):
                return None
            self._tables.move_to_end(path)
            return found

    def put(self, path: str, rows: pa.Table) -> None:
        if rows.num_rows > 4 * LEAF_ROWS:
            return
        with self._lock:
            before = self._tables.pop(path, None)
            self._size += rows.nbytes - (0 if before is None else before.nbytes)
            self._tables[path] = rows
            while self._size > REMEMBERED_BYTES:
                self._size -= self._tables.popitem(last=False)[1].nbytes

    def forget(self, path: str) -> None:
        """Let go of the rows of a file that the table does not have any more: a table of many changes has few of its files."""
        with self._lock:
            gone = self._tables.pop(path, None)
            self._size -= 0 if gone is None else gone.nbytes


_remembered = _Remembered()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaf:
    """The rows of one file that a change has read, and which of them go."""

    rows: pa.Table
    gone: np.ndarray


class Files:
    """The data files of one version of a table.

    Attributes:
        index: one row per file: path, size_bytes, num_records, and `min.c`, `max.c`, `null_count.c` for each column `c`
            that files are chosen by. NULL where the log does not say.
    """

    def __init__(self, delta: DeltaTable, location: str, schema: pa.Schema) -> None:
        self._location = place(location)
        self.schema = schema
        actions = pa.table(delta.get_add_actions(flatten=True))
        columns = {}
        for field in index_schema(schema):
            known = field.name in actions.column_names
            bounds = actions.column(field.name) if known else pa.nulls(actions.num_rows)
            columns[field.name] = index_column(bounds, field.type)
        self.index = pa.table(columns, schema=index_schema(schema))

    def changed(self, index: pa.Table) -> Files:
        """Return these files with another index."""
        result = copy.copy(self)
        result.index = index.combine_chunks() if index.column(0).num_chunks > INDEX_CHUNKS else index
        return result

    def rows_of(self, keys: pa.Table, columns: tuple[str, ...] | None = None) -> pa.Table:
        """Return the rows that have the values of one row of `keys` in its columns; NULL equals NULL."""
        names = self.schema.names if columns is None else list(columns)
        read = self.load(enclosing(self.index, keys), None if columns is None else [*keys.column_names, *columns])
        found = [rows.filter(pa.array(matching(rows, keys))).select(names) for rows in read]
        return pa.concat_tables([self.schema.empty_table().select(names), *found])

    def rows_between(self, column: str, low: pa.Scalar | None, high: pa.Scalar | None) -> pa.Table:
        """Return the rows with `low <= column < high`; None is no bound, and without any NULLs are in."""
        read = self.load(overlapping(self.index, column, low, high))
        return pa.concat_tables([self.schema.empty_table(), *(between(rows, column, low, high) for rows in read)])

    def surely_before(self, keys: pa.Table, column: str, values: pa.ChunkedArray) -> np.ndarray:
        """Return for which keys all rows have less in `column` than the value given; reads nothing but recent rows."""
        leaves = self.index.filter(pc.invert(pc.starts_with(self.index.column("path"), RECENT)))
        found = surpassing(leaves, keys, column, values)
        for rows in self.load(self.recent):
            found &= ~matching(keys, rows.select(keys.column_names))
        return found

    def split_points(self, column: str, rows: int) -> list[pa.Scalar]:
        """Return values of `column` that cut the table into pieces of about so many rows each."""
        total = pc.sum(self.index.column("num_records")).as_py() or 0
        if total <= rows:
            return []
        parts = [rows.column(column)[::SAMPLED] for rows in self.load(range(self.index.num_rows), [column])]
        sample = pa.chunked_array([chunk for part in parts for chunk in part.chunks], self.schema.field(column).type)
        return split_points(sample, -(-total // rows))

    def load(self, positions: Iterable[int], columns: list[str] | None = None) -> list[pa.Table]:
        """Return the rows of several files."""
        wanted = list(positions)
        known = {position: self._known(position, columns) for position in wanted}
        missing = [position for position in wanted if known[position] is None]
        known.update(zip(missing, _in_parallel(lambda position: self.read(position, columns), missing), strict=True))
        return [rows for position in wanted if (rows := known[position]) is not None]

    def read(self, position: int, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of a file with the columns and types of the table."""
        known = self._known(position, columns)
        if known is not None:
            return known
        path = self._path(position)
        wanted = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        small = (self.index.column("size_bytes")[position].as_py() or SMALL_BYTES) < SMALL_BYTES
        file = pq.ParquetFile(
            pa.BufferReader(place(path).read_bytes()) if small else open_file(path), pre_buffer=not small
        )
        present = set(file.schema_arrow.names)
        table = file.read([name for name in wanted.names if name in present], use_threads=False)
        if not table.schema.equals(wanted):
            table = pa.Table.from_batches([conform(batch, wanted) for batch in table.to_batches()], schema=wanted)
        if columns is None:
            _remembered.put(path, table)
        return table

    def _known(self, position: int, columns: list[str] | None) -> pa.Table | None:
        found = _remembered.get(self._path(position), self.schema)
        return found if found is None or columns is None else found.select(columns)

    def _path(self, position: int) -> str:
        return str(self._location / unquote(self.index.column("path")[position].as_py()))

    def removed(self) -> list[RemovedFile]:
        """Return what takes all files out of the table."""
        files = self.index.select(["path", "size_bytes"]).to_pylist()
        return [RemovedFile(path=file["path"], size_bytes=file["size_bytes"]) for file in files]

    @property
    def recent(self) -> list[int]:
        """The files with the rows that came last."""
        return list(np.flatnonzero(pc.starts_with(self.index.column("path"), RECENT).to_numpy()).tolist())


class Change:
    """Rows of a table that are replaced key by key; nothing of it is visible before `commit`.

    Args:
        keys: the columns that the files are clustered by.
    """

    def __init__(self, location: str, files: Files, *, keys: tuple[str, ...]) -> None:
        self._location = place(location)
        self._keys = keys
        self._files = files
        self._removed: list[RemovedFile] = []
        self._added: dict[str, AddedFile] = {}

    def replace(self, keys: pa.Table, rows: pa.Table) -> None:
        """Let `rows` be the rows that have `keys` from now on.

        Args:
            keys: values of the key columns.
            rows: all of them have keys in `keys`.
        """
        files = self._files

        def rewritten(position: int) -> list[tuple[AddedFile, dict[str, Any]]]:
            read = hit.get(position)
            stay = files.read(position) if read is None else read.rows.filter(pa.array(~read.gone))
            return self._write(pa.concat_tables([stay, rows.filter(pa.array(homes == position))]))

        homes = floors(files.index, rows.select(self._keys))
        positions = enclosing(files.index, keys)
        hit = {}
        for position, found in zip(positions, files.load(positions), strict=True):
            hit[position] = _Leaf(rows=found, gone=matching(found, keys))
        touched = sorted({at for at, leaf in hit.items() if leaf.gone.any()} | set(homes.tolist()) - {-1})
        added = [part for parts in _in_parallel(rewritten, touched) for part in parts]
        if homes.size and homes[0] == -1:
            added += self._write(rows)
        self._take_out(touched)
        self._put_in(added)

    def add(self, rows: pa.Table) -> None:
        """Add rows to those that came last, which have a few files of their own until they are replaced elsewhere."""
        if not rows.num_rows:
            return
        recent = self._files.recent
        if len(recent) >= RECENT_FILES:
            rows = pa.concat_tables([*(self._files.read(position) for position in recent), rows])
            self._take_out(recent)
        self._put_in([self._write_file(self._sorted(rows), prefix=RECENT)])

    def commit(self, version: int, receipt: Receipt | None) -> Files:
        """Swap the files in one commit, as the version after `version`, and return those that the table has now.

        Raises:
            CommitFailedError: a writer came in between.
        """
        write_commit(
            str(self._location), version + 1, added=self._added.values(), removed=self._removed, receipt=receipt
        )
        for file in self._removed:
            _remembered.forget(str(self._location / unquote(file.path)))
        return self._files

    def _write(self, rows: pa.Table) -> list[tuple[AddedFile, dict[str, Any]]]:
        """Write rows in the order of their keys, as one file or several."""
        if not rows.num_rows:
            return []
        rows = self._sorted(rows)
        pieces = 1 if rows.num_rows <= 2 * LEAF_ROWS else -(-rows.num_rows // LEAF_ROWS)
        size = -(-rows.num_rows // pieces)
        return [self._write_file(rows.slice(start, size)) for start in range(0, rows.num_rows, size)]

    def _sorted(self, rows: pa.Table) -> pa.Table:
        return rows.take(pc.sort_indices(rows, [(key, "ascending") for key in self._keys])).combine_chunks()

    def _write_file(self, rows: pa.Table, *, prefix: str = "part-00000-") -> tuple[AddedFile, dict[str, Any]]:
        action, found = write_file(self._location, rows, prefix=prefix)
        _remembered.put(str(self._location / action.path), rows)
        row = {"path": action.path, "size_bytes": action.size_bytes, "num_records": rows.num_rows}
        for column, (low, high, nulls) in found.items():
            row.update({f"min.{column}": low, f"max.{column}": high, f"null_count.{column}": nulls})
        return action, {name: row.get(name) for name in self._files.index.column_names}

    def _put_in(self, added: list[tuple[AddedFile, dict[str, Any]]]) -> None:
        self._added.update({action.path: action for action, _ in added})
        new = pa.Table.from_pylist([row for _, row in added], schema=self._files.index.schema)
        self._files = self._files.changed(pa.concat_tables([self._files.index, new]))

    def _take_out(self, positions: list[int]) -> None:
        """Remove files from the table; one that this change has written itself was never in it."""
        gone = np.zeros(self._files.index.num_rows, bool)
        gone[positions] = True
        for row in self._files.index.select(["path", "size_bytes"]).filter(pa.array(gone)).to_pylist():
            if self._added.pop(row["path"], None) is not None:
                (self._location / row["path"]).unlink()
                _remembered.forget(str(self._location / row["path"]))
            else:
                self._removed.append(RemovedFile(path=row["path"], size_bytes=row["size_bytes"]))
        self._files = self._files.changed(self._files.index.filter(pa.array(~gone)))


def write_file(folder: Place, rows: pa.Table, *, prefix: str = "part-00000-") -> tuple[AddedFile, Statistics]:
    """Write rows, in the order that they have, as a file that no commit has yet."""
    name = f"{prefix}{uuid.uuid4()}-c000.snappy.parquet"  # as Spark and delta-rs call theirs
    written: list[pq.FileMetaData] = []
    content = pa.BufferOutputStream()  # one call of the file system, not one for every page
    pq.write_table(
        rows,
        content,
        compression="snappy",
        use_dictionary=False,
        store_schema=False,
        write_statistics=bounded_columns(rows),
        metadata_collector=written,
    )
    data = content.getvalue().to_pybytes()
    try:
        (folder / name).write_bytes(data)
    except OSError:  # on a full disk, what is there of it would keep others from saying so
        (folder / name).unlink(missing_ok=True)
        raise
    found = statistics(rows, written[0])
    stats = json.dumps(statistics_json(found, rows.num_rows), allow_nan=False)
    return AddedFile(path=name, size_bytes=len(data), stats=stats), found


def leaf_sized(rows: pa.RecordBatchReader) -> tuple[pa.RecordBatchReader, int]:
    """Return the same rows, a leaf's at a time, and the size in bytes at which delta-rs shall end a file.

    delta-rs looks at the size every 1,024 rows and gives batches to several writers by turns, so a file must end with its
    batch: one that takes rows of the next one as well would enclose the keys of other files.
    """
    batches = (leaf.to_batches()[0] for leaf in leaves(rows))
    first = next(batches, None)
    if first is None:
        return rows.schema.empty_table().to_reader(), LEAF_ROWS
    sample = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_batches([first]), sample, compression="none")
    size = sample.getvalue().size * LEAF_ROWS // first.num_rows
    return pa.RecordBatchReader.from_batches(rows.schema, itertools.chain([first], batches)), max(1, int(size * 0.8))


def leaves(rows: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield all rows, `LEAF_ROWS` at a time but for the last, each in one piece of memory."""
    rest: pa.Table | None = None
    for batch in rows:
        table = pa.Table.from_batches([batch])
        rest = table if rest is None else pa.concat_tables([rest, table])
        full = rest.num_rows // LEAF_ROWS * LEAF_ROWS
        yield from (rest.slice(start, LEAF_ROWS).combine_chunks() for start in range(0, full, LEAF_ROWS))
        rest = rest.slice(full)
    if rest is not None and rest.num_rows:
        yield rest.combine_chunks()


def _in_parallel(function: Callable[[int], Any], items: Iterable[int]) -> list[Any]:
    """Return the results of a function over items, with threads where there are several."""
    several = list(items)
    if len(several) < 2:
        return [function(item) for item in several]
    with ThreadPoolExecutor(min(WORKERS, len(several))) as pool:
        return list(pool.map(function, several))
