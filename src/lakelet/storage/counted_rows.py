"""Rows on their way to a table, counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa

from lakelet.storage.schema import conform


class CountedRows:
    """Rows on their way to a writer: cast to the table's types, counted, and their failure remembered.

    An exception that a Python reader raises reaches the caller of delta-rs only as text; this keeps the exception.
    """

    def __init__(self, rows: pa.Table | pa.RecordBatchReader, schema: pa.Schema) -> None:
        self._batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
        self._schema = schema
        self.rows = 0
        self.failure: BaseException | None = None

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema, self._iterate())

    def _iterate(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                if batch.num_rows:
                    self.rows += batch.num_rows
                    yield conform(batch, self._schema)
        except BaseException as error:
            self.failure = error
            raise


def begun(reader: pa.RecordBatchReader, most_rows: int) -> tuple[pa.RecordBatchReader, bool]:
    """Read up to about so many rows ahead; returns all rows, and whether those were all."""
    read: list[pa.RecordBatch] = []
    rows = 0
    is_whole = True
    for batch in reader:
        read.append(batch)
        rows += batch.num_rows
        if rows > most_rows:
            is_whole = False
            break
    return pa.RecordBatchReader.from_batches(reader.schema, itertools.chain(read, reader)), is_whole
