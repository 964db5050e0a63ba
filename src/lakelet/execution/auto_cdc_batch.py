"""One batch of AUTO CDC on its way into the auxiliary table and the target, and what it did there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.arrow_values import sorted_by
from lakelet.execution.auto_cdc_events import EXAMPLES
from lakelet.execution.auto_cdc_history import History, Shape, all_same, difference, history_of, unique
from lakelet.execution.auto_cdc_pieces import Piece
from lakelet.execution.auto_cdc_schema import APP_ID, BATCH_ID, DELETE, END_AT, NEW, SEQUENCE, START_AT, TRUNCATE
from lakelet.execution.auto_cdc_tombstones import forgettable
from lakelet.faults import reach
from lakelet.storage.base import Receipt, Table
from lakelet.storage.file_index import matching
from lakelet.storage.schema import conform


@dataclass(frozen=True, slots=True, kw_only=True)
class CdcTie:
    """Two or more different events with the same key and sequence."""

    key: Mapping[str, Any]
    sequence: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class CdcResult:
    """What one batch did to the target.

    Attributes:
        num_upserted_rows: rows of the target inserted or updated.
        num_deleted_rows: rows of the target removed.
        num_input_rows: change rows of the batch; of a replay, those that the batch had added.
        num_ties: ties that an event of the batch takes part in.
        ties: up to five of them.
    """

    num_upserted_rows: int = 0
    num_deleted_rows: int = 0
    num_input_rows: int = 0
    num_ties: int = 0
    ties: tuple[CdcTie, ...] = ()


class Step:
    """One batch on its way into both tables; piece by piece, then two commits."""

    def __init__(
        self,
        shape: Shape,
        auxiliary: Table,
        target: Table,
        truncate: pa.Table,
        *,
        forget_before: datetime | None = None,
    ) -> None:
        self._forget_before = forget_before
        self._auxiliary, self._target = auxiliary, target
        self._shape = shape
        self._truncated_at = sequence_of(truncate)
        self._keys = spelled(shape.keys, target.schema)
        self._identity = self._keys + ((START_AT,) if self._shape.scd_type == 2 else ())
        self._events = auxiliary.change(keys=self._shape.keys, identity=(*self._shape.keys, SEQUENCE))
        self._rows = target.change(keys=self._keys, identity=self._identity)
        self._num_upserted = self._num_deleted = 0
        self.ties = Ties()

    def remember(self, events: pa.Table) -> None:
        self._events.add(events)

    def apply(self, piece: Piece, *, everything: bool) -> None:
        """Add the events of a piece to those that are remembered, and bring the rows of their keys up to date.

        Args:
            everything: look at every key of the piece's range, not only at those with events.
        """
        names, new = list(self._shape.keys), piece.events
        settled = self._target.schema.empty_table()
        if everything:
            stored = upserts_and_deletes(self._auxiliary.rows_between(names[0], piece.low, piece.high))
            rows = self._target.rows_between(self._keys[0], piece.low, piece.high)
        else:
            keys = unique(new.select(names))
            if not keys.num_rows:
                return
            rows = self._target.rows_of(keys.rename_columns(list(self._keys)))
            in_order = self._in_order(keys, new)
            stored = self._auxiliary.rows_of(keys.filter(pa.array(~in_order)))
            shown, settled = self._shown(rows, keys.filter(pa.array(in_order)))
            stored = pa.concat_tables([stored, shown])
        remembered = without_forgotten(stored, self._shape, self._forget_before)
        found = self._history(pa.concat_tables([marked(remembered, new=False), marked(new, new=True)]))
        if remembered.num_rows < stored.num_rows:
            keys = unique(pa.concat_tables([stored.select(names), new.select(names)]))
            self._events.replace(keys, found.events.drop_columns([NEW]))
        else:
            self.remember(found.events.filter(found.events.column(NEW)).drop_columns([NEW]))
        self._compare(rows, found.rows, settled)

    def _in_order(self, keys: pa.Table, new: pa.Table) -> np.ndarray:
        """Return for which keys all new events come after all that are remembered; False where that is not certain."""
        if self._truncated_at is not None or self._forget_before is not None or not self._shows_events:
            return np.zeros(keys.num_rows, bool)
        first = new.take(pa.array(sorted_by(*(new.column(name) for name in (*keys.column_names, SEQUENCE)))))
        first = first.filter(pa.array(~all_same(first, tuple(keys.column_names))))
        return self._auxiliary.surely_before(keys, SEQUENCE, first.column(SEQUENCE))

    @property
    def _shows_events(self) -> bool:
        """Whether a row of the target has the columns of an event as they are."""
        have = {field.name.lower(): field.type for field in self._target.schema}
        events = self._auxiliary.schema
        same = all(have.get(name.lower()) == events.field(name).type for name in self._shape.columns)
        return same and (self._shape.scd_type == 1 or have.get(START_AT.lower()) == events.field(SEQUENCE).type)

    def _shown(self, rows: pa.Table, keys: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the rows of some keys that hold, as the events which they show, and the rows that hold no more.

        What comes later in order needs none of the events before: a row has the values of the last one.
        """
        of_keys = matching(rows, keys.rename_columns(list(self._keys)))
        holds = of_keys
        if self._shape.scd_type == 2:
            holds = of_keys & rows.column(END_AT).is_null().to_numpy()
        shown, schema = rows.filter(pa.array(holds)), self._auxiliary.schema
        spelling = {name.lower(): name for name in shown.column_names}
        values = {name: shown.column(spelling[name.lower()]) for name in self._shape.columns}
        values[DELETE] = pa.chunked_array([pa.repeat(False, shown.num_rows)])
        if self._shape.scd_type == 2:
            values[SEQUENCE] = shown.column(START_AT)
        columns = [values.get(field.name, pa.nulls(shown.num_rows, field.type)) for field in schema]
        return pa.table(columns, schema=schema), rows.filter(pa.array(of_keys & ~holds))

    def derive(self, keys: pa.Table, receipt: Receipt) -> None:
        """Bring the rows of some keys up to date with the events that are remembered; those of the receipt are new."""
        stored = self._auxiliary.rows_of(keys)
        mine = [pc.equal(stored.column(APP_ID), receipt.app_id), pc.equal(stored.column(BATCH_ID), receipt.batch_id)]
        found = self._history(stored.append_column(NEW, pc.and_(*mine)))
        self._compare(self._target.rows_of(keys.rename_columns(list(self._keys))), found.rows)

    def commit_events(self, receipt: Receipt) -> None:
        self._events.commit(receipt)

    def commit_rows(self, receipt: Receipt, *, num_input_rows: int) -> CdcResult:
        """Write the rows that differ; none, no commit."""
        if self._num_upserted or self._num_deleted:
            self._rows.commit(receipt)
            reach("cdc.target_committed")
        return CdcResult(
            num_upserted_rows=self._num_upserted,
            num_deleted_rows=self._num_deleted,
            num_input_rows=num_input_rows,
            **self.ties.summary(),
        )

    def _history(self, events: pa.Table) -> History:
        found = history_of(events, self._shape, truncated_at=self._truncated_at)
        self.ties.add(found.ties)
        return found

    def _compare(self, stored: pa.Table, wanted: pa.Table, settled: pa.Table | None = None) -> None:
        """Note where the rows of some keys differ from those that they must have: `wanted` and `settled`."""
        schema = self._target.schema
        conformed = [conform(batch, schema) for batch in wanted.to_batches()]
        rows = pa.Table.from_batches(conformed, schema=schema)
        if settled is not None:
            rows = pa.concat_tables([rows, settled])
        found = difference(stored, rows, keys=self._keys, identity=self._identity)
        if found.keys.num_rows:
            self._rows.replace(found.keys, found.rows, changes=found.changes)
        self._num_upserted += found.num_upserted
        self._num_deleted += found.num_deleted


class Ties:
    """How many ties there are, and the first few of them."""

    def __init__(self) -> None:
        self._count = 0
        self._examples: dict[str, CdcTie] = {}

    def add(self, found: pa.Table, count: int | None = None) -> None:
        """Count ties: keys and sequence, one row each.

        Args:
            count: how many there are, where `found` are only some of them.
        """
        self._count += found.num_rows if count is None else count
        for row in found.slice(0, EXAMPLES).to_pylist() if len(self._examples) < EXAMPLES else ():
            tie = CdcTie(sequence=row.pop(SEQUENCE), key=row)
            self._examples[repr(tie)] = tie

    def summary(self) -> dict[str, Any]:
        first = sorted(self._examples)[:EXAMPLES]
        return {"num_ties": self._count, "ties": tuple(self._examples[text] for text in first)}


def marked(events: pa.Table, *, new: bool) -> pa.Table:
    return events.append_column(NEW, pa.repeat(new, events.num_rows))


def without_forgotten(events: pa.Table, shape: Shape, before: datetime | None) -> pa.Table:
    """Return the events of some keys without those that are old enough to be forgotten."""
    if before is None:
        return events
    forgotten = forgettable(events, keys=shape.keys, scd_type=shape.scd_type, before=before)
    return events.filter(pa.array(~forgotten)) if forgotten.any() else events


def upserts_and_deletes(events: pa.Table) -> pa.Table:
    if TRUNCATE not in events.column_names:
        return events
    return events.filter(pc.invert(pc.fill_null(events.column(TRUNCATE), False)))


def sequence_of(truncate: pa.Table) -> pa.Scalar | None:
    return truncate.column(SEQUENCE)[0] if truncate.num_rows else None


def spelled(keys: Sequence[str], schema: pa.Schema) -> tuple[str, ...]:
    """Return the keys as `schema` spells them."""
    spelling = {name.lower(): name for name in schema.names}
    return tuple(spelling[key.lower()] for key in keys)
