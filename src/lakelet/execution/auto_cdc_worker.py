"""AUTO CDC, the decision in the workers of a cluster: the rule, applied to the keys of one partition.

This code travels to machines that have pyarrow and numpy, but no lakelet. The rule itself is that of `auto_cdc_history`, the
same as in this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.auto_cdc_batch import marked
from lakelet.execution.auto_cdc_history import Shape, all_same, difference, history_of, unique
from lakelet.execution.auto_cdc_schema import NEW, STORED_AT
from lakelet.execution.auto_cdc_tombstones import forgettable
from lakelet.storage.schema import conform

SIDE, EVENT, ROW = "side", "event", "row"
"""Columns of what the workers get, after those of the keys: whose row it is, and it itself as a struct."""
STORED_EVENT, NEW_EVENT, TARGET_ROW = 0, 1, 2

KIND = "kind"
"""Column of what they give, before `event` and `row`."""
REMEMBERED, FORGOTTEN, TIE, UPSERT, DELETED = "event", "forgotten", "tie", "U", "D"

WHOLE_ROWS = 100_000
"""The rule is applied to so many rows at a time, or to those of one key, if they are more."""

_INSTANT = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Decides a batch, called with the batches of one partition: all rows of its keys, next to each other.

    Attributes:
        keys: columns by which the partition is sorted.
        row_keys: the keys as the target spells them.
        identity: the columns that identify a row of the target.
        truncated_at: the sequence of the last truncate; None if there is none.
        forget_before: deletes stored before it are not remembered.
        settles: give all events that must be remembered, and nothing else.
    """

    shape: Shape
    keys: tuple[str, ...]
    row_keys: tuple[str, ...]
    identity: tuple[str, ...]
    truncated_at: pa.Scalar | None = None
    forget_before: datetime | None = None
    settles: bool = False

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for rows in whole_keys(batches, self.keys, WHOLE_ROWS):
            yield from self._decided(rows)

    def _decided(self, rows: pa.Table) -> Iterator[pa.RecordBatch]:
        side = rows.column(SIDE)
        stored, new, shown = (
            _fields(rows.filter(pc.equal(side, number)), EVENT if number != TARGET_ROW else ROW)
            for number in (STORED_EVENT, NEW_EVENT, TARGET_ROW)
        )
        events_type, rows_type = (rows.schema.field(name).type for name in (EVENT, ROW))
        stored, forgotten = self._without_forgotten(stored)
        events = pa.concat_tables([marked(stored, new=False), marked(new, new=True)])
        found = history_of(events, self.shape, truncated_at=self.truncated_at)
        if self.settles:
            parts = [(REMEMBERED, EVENT, found.events)]
        else:
            new_events = found.events.filter(found.events.column(NEW))
            parts = [(REMEMBERED, EVENT, new_events), (FORGOTTEN, EVENT, forgotten), (TIE, EVENT, found.ties)]
            wanted = pa.Table.from_batches(
                [conform(batch, shown.schema) for batch in found.rows.to_batches()], shown.schema
            )
            changes = difference(shown, wanted, keys=self.row_keys, identity=self.identity).changes
            parts += [(kind, ROW, changes.filter(pc.equal(changes.column("__op"), kind))) for kind in (UPSERT, DELETED)]
        for kind, column, found_rows in parts:
            if found_rows.num_rows:
                yield _output(kind, column, found_rows, events_type, rows_type)

    def _without_forgotten(self, stored: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the events that are remembered, and the keys of those that are old enough to be forgotten."""
        keys = list(self.shape.keys)
        if self.forget_before is None:
            return stored, stored.select(keys).slice(0, 0)
        position = stored.schema.get_field_index(STORED_AT)
        in_utc = stored.set_column(position, STORED_AT, stored.column(STORED_AT).cast(_INSTANT))
        gone = forgettable(in_utc, keys=self.shape.keys, scd_type=self.shape.scd_type, before=self.forget_before)
        return stored.filter(pa.array(~gone)), unique(stored.filter(pa.array(gone)).select(keys))


def whole_keys(batches: Iterator[pa.RecordBatch], keys: tuple[str, ...], rows: int) -> Iterator[pa.Table]:
    """Yield the batches as tables of about so many rows, cut where the key changes only."""
    waiting: list[pa.RecordBatch] = []
    count, limit = 0, rows
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count < limit:
            continue
        table = pa.Table.from_batches(waiting)
        cut = int(np.flatnonzero(~all_same(table, keys))[-1])
        if cut:
            yield table.slice(0, cut)
        waiting = table.slice(cut).to_batches()
        count -= cut
        limit = max(rows, 2 * count)  # a key with so many rows is not looked at again for each batch
    if count:
        yield pa.Table.from_batches(waiting)


def _fields(rows: pa.Table, column: str) -> pa.Table:
    """Return the fields of a column of structs as a table."""
    structs = rows.column(column).combine_chunks()
    kind = rows.schema.field(column).type
    return pa.table([*structs.flatten()], schema=pa.schema(list(kind)))


def _output(kind: str, column: str, rows: pa.Table, events: pa.DataType, target: pa.DataType) -> pa.RecordBatch:
    """Return rows as structs in their column; a field that they lack is NULL."""
    filled = {
        name: _structs(rows, of) if name == column else pa.nulls(rows.num_rows, of)
        for name, of in ((EVENT, events), (ROW, target))
    }
    return pa.RecordBatch.from_arrays([pa.repeat(kind, rows.num_rows), *filled.values()], names=[KIND, *filled])


def _structs(rows: pa.Table, kind: pa.StructType) -> pa.Array:
    have = set(rows.column_names)
    columns = [
        rows.column(field.name).combine_chunks() if field.name in have else pa.nulls(rows.num_rows, field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(columns, fields=list(kind))
