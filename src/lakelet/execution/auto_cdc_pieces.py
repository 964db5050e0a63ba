"""AUTO CDC, bounded memory: the events of a batch of any size in pieces, each with all of the batch's events of its keys.

A batch that fits in one piece stays in memory. A larger one goes to temporary files, one per range of the first key column;
a range that turns out too large is cut again.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.storage.file_index import between, split_points

PIECE_ROWS = 2_000_000
PIECE_BYTES = 256 << 20
GATHERED_ROWS = 65_536
"""Rows that are cut at a time: the engine's batches are too small to be worth the calls."""
FANOUT = 16
"""Files that a batch is cut into at a time."""

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Events whose first key column is at least `low` and less than `high`; None is no bound."""

    low: pa.Scalar | None
    high: pa.Scalar | None
    events: pa.Table


class Pieces:
    """The events of a batch, cut by `column`. Reads all of `reader` at once; a context, since it may use files."""

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        *,
        column: str,
        low: pa.Scalar | None = None,
        high: pa.Scalar | None = None,
    ) -> None:
        self._schema, self._column, self._low, self._high = reader.schema, column, low, high
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._points: list[pa.Scalar] = []
        self._head: list[pa.RecordBatch] = []
        size = rows = 0
        limit = 1
        for batch in reader:
            self._head.append(batch)
            size, rows = size + batch.nbytes, rows + batch.num_rows
            if rows > limit * PIECE_ROWS or size > limit * PIECE_BYTES:
                limit *= 2  # keys that cannot be cut stay in one piece
                self._points = split_points(self._table(self._head).column(column)[::16], FANOUT)
                if self._points:
                    break
        if self._points:
            self._folder = tempfile.TemporaryDirectory(prefix="lakelet-cdc-")
            self._write(itertools.chain(self._head, reader))
            self._head = []

    def __enter__(self) -> Pieces:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces in the order of their keys; only the first may have no events, if the batch has none."""
        if self._folder is None:
            yield Piece(low=self._low, high=self._high, events=self._table(self._head))
            return
        edges = [self._low, *self._points, self._high]
        for at, (low, high) in enumerate(itertools.pairwise(edges)):
            with (
                pa.OSFile(str(self._file(at))) as file,
                pa.ipc.open_stream(file) as reader,
                Pieces(reader, column=self._column, low=low, high=high) as part,
            ):
                yield from part

    def cut(self, points: list[pa.Scalar]) -> Iterator[Piece]:
        """Yield pieces that are cut at `points` as well; they may have no events, but cover every key."""
        for piece in self:
            low, high = (None if edge is None else edge.as_py() for edge in (piece.low, piece.high))
            inner = [point for point in points if low is None or point.as_py() > low]
            inner = [point for point in inner if high is None or point.as_py() < high]
            for first, last in itertools.pairwise([piece.low, *inner, piece.high]):
                yield Piece(low=first, high=last, events=between(piece.events, self._column, first, last))

    def _write(self, batches: Iterator[pa.RecordBatch]) -> None:
        files = [pa.OSFile(str(self._file(at)), "wb") for at in range(len(self._points) + 1)]
        writers = [pa.ipc.new_stream(file, self._schema, options=_COMPRESSED) for file in files]
        for some in _gathered(batches):
            rows = self._table(some).combine_chunks()
            ranges = np.zeros(rows.num_rows, np.int64)
            for point in self._points:
                ranges += pc.greater_equal(rows.column(self._column), point).to_numpy()
            order = np.argsort(ranges, kind="stable")
            rows = rows.take(pa.array(order))
            edges = np.searchsorted(ranges[order], np.arange(len(writers) + 1))
            for writer, (start, end) in zip(writers, itertools.pairwise(edges.tolist()), strict=True):
                if end > start:
                    writer.write_table(rows.slice(start, end - start))
        for writer, file in zip(writers, files, strict=True):
            writer.close()
            file.close()

    def _file(self, at: int) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / f"{at}.arrow"

    def _table(self, batches: list[pa.RecordBatch]) -> pa.Table:
        return pa.Table.from_batches(batches, schema=self._schema)


class Spool:
    """Rows in a temporary file, written as they come and read later; a context."""

    def __init__(self, schema: pa.Schema) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lakelet-cdc-")
        self._file = str(Path(self._folder.name) / "rows.arrow")
        self._sink = pa.OSFile(self._file, "wb")
        self._writer = pa.ipc.new_stream(self._sink, schema, options=_COMPRESSED)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()
        self._folder.cleanup()

    def write(self, rows: pa.Table) -> None:
        self._writer.write_table(rows, max_chunksize=GATHERED_ROWS)

    def reader(self) -> pa.RecordBatchReader:
        """Return all rows; nothing can be written any more."""
        self._close()
        return pa.ipc.open_stream(pa.OSFile(self._file))

    def _close(self) -> None:
        if not self._sink.closed:
            self._writer.close()
            self._sink.close()


def _gathered(batches: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield batches together, `GATHERED_ROWS` rows or a little more at a time."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if sum(part.num_rows for part in some) >= GATHERED_ROWS:
            yield some
            some = []
    if some:
        yield some
