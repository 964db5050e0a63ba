"""AUTO CDC in this process: the engine evaluates the changes, and the rows of their keys are read and written here.

Both tables lie in small files in the order of their keys, so the cost of a batch follows its keys and not the tables.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.auto_cdc_batch import (
    CdcResult,
    Step,
    Ties,
    marked,
    sequence_of,
    upserts_and_deletes,
    without_forgotten,
)
from lakelet.execution.auto_cdc_events import Events, auxiliary_schema
from lakelet.execution.auto_cdc_history import history_of, later_truncate, latest_truncate, unique
from lakelet.execution.auto_cdc_pieces import PIECE_ROWS, Pieces, Spool
from lakelet.execution.auto_cdc_schema import APP_ID, BATCH_ID, NEW, SEQUENCE, TRUNCATE
from lakelet.execution.auto_cdc_tables import CdcTables
from lakelet.faults import reach
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.schema import conform, nullable

RECENT_EVENTS = 8192
"""Events that are put among the others of their keys together: a file that is rewritten takes in several at once."""


class InProcess:
    """The way of the batches of one flow through this process."""

    def __init__(self, tables: CdcTables) -> None:
        self._tables = tables

    def start(
        self, auxiliary: Table | None, target: Table | None, changes: Relation, receipt: Receipt, *, restart: bool
    ) -> CdcResult:
        """The first batch: write both tables whole, as streams."""
        reader = self._tables.engine.stream(self._tables.events(changes, self._tables.definition.schema.names))
        schema = auxiliary_schema(reader.schema)
        ties = Ties()
        events = self.events(reader, schema, receipt)
        nothing = history_of(marked(schema.empty_table(), new=True), self._tables.shape(schema))
        with (
            Pieces(events.reader(), column=self._tables.keys(schema)[0]) as pieces,
            Spool(nothing.rows.schema) as shown,
        ):
            auxiliary = self._tables.start_auxiliary(auxiliary, schema)
            remembered = self._remembered(pieces, events.truncate, schema, ties, shown)
            rows = pa.RecordBatchReader.from_batches(schema, remembered)
            auxiliary.replace(rows, receipt=receipt, clustered=True)
            reach("cdc.auxiliary_committed")
            return self._rebuild(
                target, shown.reader(), receipt, num_input_rows=events.rows, replace=restart, ties=ties
            )

    def _remembered(
        self, pieces: Pieces, truncate: pa.Table, schema: pa.Schema, ties: Ties, shown: Spool
    ) -> Iterator[pa.RecordBatch]:
        """Yield what the auxiliary table has after the first batch, in the order of its keys.

        Args:
            shown: gets the rows that the target has then.
        """
        yield from truncate.to_batches()
        for piece in pieces:
            found = history_of(
                marked(piece.events, new=True), self._tables.shape(schema), truncated_at=sequence_of(truncate)
            )
            ties.add(found.ties)
            shown.write(found.rows)
            yield from found.events.to_batches()
        self._tables.refuse_ties(ties)

    def go_on(self, auxiliary: Table, target: Table | None, changes: Relation, receipt: Receipt) -> CdcResult:
        """An ordinary batch: what it changes, for its keys."""
        reader = self._tables.engine.stream(self._tables.events(changes, auxiliary.schema.names))
        self._tables.evolve(auxiliary, auxiliary_schema(reader.schema))
        is_behind = target is None
        target = self._tables.open_target(auxiliary, target)
        events = self.events(reader, auxiliary.schema, receipt)
        keys = self._tables.keys(auxiliary.schema)
        with Pieces(events.reader(), column=keys[0]) as pieces:
            before = self._truncate(auxiliary)
            truncate = later_truncate(before, events.truncate)
            is_truncating = not truncate.equals(before)
            step = Step(
                self._tables.shape(auxiliary.schema),
                auxiliary,
                target,
                truncate,
                forget_before=self._tables.forget_before,
            )
            if is_truncating:
                step.remember(truncate)
            everything = is_behind or is_truncating
            points = auxiliary.split_points(keys[0], rows=PIECE_ROWS) if everything else []
            for piece in pieces.cut(points):
                step.apply(piece, everything=everything)
            self._tables.refuse_ties(step.ties)
            is_due = auxiliary.recent_rows().num_rows >= RECENT_EVENTS
            step.commit_events(receipt)
            reach("cdc.auxiliary_committed")
            result = step.commit_rows(receipt, num_input_rows=events.rows)
        if is_due:
            self._settle(auxiliary, receipt)
        return result

    def _settle(self, auxiliary: Table, receipt: Receipt) -> None:
        """Put the events that came last among the others of their keys, and drop what is not needed any more.

        Args:
            receipt: of the batch, which has one already: by it the commit is known as one of ours if the update dies here.
        """
        shape = self._tables.shape(auxiliary.schema)
        truncate = self._truncate(auxiliary)
        change = auxiliary.change(keys=shape.keys, identity=(*shape.keys, SEQUENCE))
        keys = unique(auxiliary.recent_rows().select(shape.keys))
        for start in range(0, keys.num_rows, RECENT_EVENTS):
            some = keys.slice(start, RECENT_EVENTS)
            events = without_forgotten(upserts_and_deletes(auxiliary.rows_of(some)), shape, self._tables.forget_before)
            found = history_of(marked(events, new=False), shape, truncated_at=sequence_of(truncate))
            change.replace(some, found.events.drop_columns([NEW]))
        if truncate.num_rows:
            change.replace(truncate.select(shape.keys), truncate)
        change.commit(receipt)
        reach("cdc.settled")
        auxiliary.remove_old_files()

    def replay(self, auxiliary: Table, target: Table | None, receipt: Receipt, *, restart: bool) -> CdcResult:
        """A batch whose events are stored: derive its keys again, from the events that it added."""
        recorded = pa.table({APP_ID: [receipt.app_id], BATCH_ID: pa.array([receipt.batch_id], pa.int64())})
        keys = self._tables.keys(auxiliary.schema)
        optional = [name for name in (TRUNCATE,) if name in auxiliary.schema.names]
        added = auxiliary.rows_of(recorded, columns=(*keys, *optional))
        if restart and (target is None or target.batch_id(receipt.app_id) < receipt.batch_id):
            ties = Ties()
            rows = self._all_rows(auxiliary, ties)
            return self._rebuild(target, rows, receipt, num_input_rows=added.num_rows, replace=True, ties=ties)
        self._tables.check_drift(auxiliary)
        everything = target is None or (bool(optional) and bool(pc.any(added.column(TRUNCATE)).as_py()))
        target = self._tables.open_target(auxiliary, target)
        step = Step(self._tables.shape(auxiliary.schema), auxiliary, target, self._truncate(auxiliary))
        empty = auxiliary.schema.empty_table()
        if everything:
            with Pieces(empty.to_reader(), column=keys[0]) as pieces:
                for piece in pieces.cut(auxiliary.split_points(keys[0], rows=PIECE_ROWS)):
                    step.apply(piece, everything=True)
        else:
            affected = unique(added.select(keys))
            for start in range(0, affected.num_rows, PIECE_ROWS):
                step.derive(affected.slice(start, PIECE_ROWS), receipt)
        return step.commit_rows(receipt, num_input_rows=added.num_rows)

    def _rebuild(
        self,
        target: Table | None,
        rows: pa.RecordBatchReader,
        receipt: Receipt,
        *,
        num_input_rows: int,
        replace: bool,
        ties: Ties,
    ) -> CdcResult:
        """Write every row of the target in one commit.

        Args:
            ties: those of the batch, known when the rows are read.
        """
        if target is None:
            target = self._tables.create_target()
        if replace:
            written = target.replace(_conformed(rows, self._tables.definition.schema), receipt=receipt, clustered=True)
        else:
            self._tables.evolve(target, nullable(rows.schema))
            written = target.append(rows, receipt=receipt, clustered=True)
        reach("cdc.target_committed")
        return CdcResult(num_upserted_rows=written, num_input_rows=num_input_rows, **ties.summary())

    def _all_rows(self, auxiliary: Table, ties: Ties) -> pa.RecordBatchReader:
        """Return the rows of the target, in the order of their keys, as they follow from all events."""
        shape = self._tables.shape(auxiliary.schema)
        truncated_at = sequence_of(self._truncate(auxiliary))
        column = shape.keys[0]
        edges = [None, *auxiliary.split_points(column, rows=PIECE_ROWS), None]

        def rows() -> Iterator[pa.RecordBatch]:
            for low, high in itertools.pairwise(edges):
                events = upserts_and_deletes(auxiliary.rows_between(column, low, high))
                found = history_of(marked(events, new=True), shape, truncated_at=truncated_at)
                ties.add(found.ties)
                yield from found.rows.to_batches()

        empty = history_of(marked(auxiliary.schema.empty_table(), new=True), shape)
        return pa.RecordBatchReader.from_batches(empty.rows.schema, rows())

    def events(self, reader: pa.RecordBatchReader, schema: pa.Schema, receipt: Receipt) -> Events:
        keys, now = self._tables.keys(schema), self._tables.now
        return Events(reader, flow=self._tables.flow, schema=schema, keys=keys, receipt=receipt, now=now)

    def _truncate(self, auxiliary: Table) -> pa.Table:
        """Return the truncate that the auxiliary table remembers; no rows if there is none. It has no keys."""
        if TRUNCATE not in auxiliary.schema.names:
            return auxiliary.schema.empty_table()
        keys = self._tables.keys(auxiliary.schema)
        found = auxiliary.rows_of(pa.table({key: pa.nulls(1, auxiliary.schema.field(key).type) for key in keys}))
        return latest_truncate(found)

    def check(self, changes: Relation) -> None:
        """Evaluate change rows, and write nothing."""
        reader = self._tables.engine.stream(self._tables.events(changes, self._tables.definition.schema.names))
        for _ in self.events(reader, auxiliary_schema(reader.schema), Receipt(app_id="", batch_id=0)).reader():
            pass


def _conformed(rows: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """Return rows with the declared columns and types, and after them the columns that the declaration lacks."""
    declared = {name.lower() for name in schema.names}
    more = [field for field in nullable(rows.schema) if field.name.lower() not in declared]
    wanted = pa.schema([*nullable(schema), *more])
    return pa.RecordBatchReader.from_batches(wanted, (conform(batch, wanted) for batch in rows))
