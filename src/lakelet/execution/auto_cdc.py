"""AUTO CDC: keep a table as the current rows (SCD type 1) or the history (type 2) of a stream of changes.

The history of a key is a pure function of its valid events; neither their order of arrival, nor how they were cut into
batches, nor replays change it. Two tables make that so:

    auxiliary   the events that a late one may need. It commits first, and its receipt decides what is a replay.
    target      derived from the auxiliary table for the keys of a batch; rows that differ are written in one commit.

Both lie in small files in the order of their keys, so the cost of a batch follows its keys and not the tables. A crash
between the two commits leaves the target behind; the replay finds the batch's keys in the auxiliary table and derives them
again. The rules are in docs/concepts/auto_cdc.md.
"""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DataType, StructType

from lakelet.errors import CdcError, DefinitionError
from lakelet.execution.arrow_values import before as before_limit
from lakelet.execution.auto_cdc_batch import (
    CdcResult,
    CdcTie,
    Step,
    Ties,
    marked,
    sequence_of,
    spelled,
    upserts_and_deletes,
    without_forgotten,
)
from lakelet.execution.auto_cdc_events import Events, auxiliary_schema, event_relation
from lakelet.execution.auto_cdc_history import Shape, history_of, latest_truncate, unique
from lakelet.execution.auto_cdc_pieces import PIECE_ROWS, Pieces, Spool
from lakelet.execution.auto_cdc_schema import (
    APP_ID,
    BATCH_ID,
    END_AT,
    KEPT,
    METADATA_PROPERTY,
    NEW,
    PREFIX,
    SEQUENCE,
    START_AT,
    TRUNCATE,
    CdcMetadata,
    keeps_values,
    metadata_of,
    sequence_type_of,
    target_schema,
    tracked_names,
)
from lakelet.faults import reach
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table, TableDefinition, TableStore
from lakelet.storage.schema import compare, conform, nullable

if TYPE_CHECKING:
    from lakelet.engine.base import Engine
    from lakelet.graph.elements import AutoCdcFlow

__all__ = ["AutoCdc", "CdcResult", "CdcTie", "sequence_type_of", "target_schema"]

RECENT_EVENTS = 8192
"""Events that are put among the others of their keys together: a file that is rewritten takes in several at once."""

_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By target: flows that share one take turns, since each derives rows from what the others stored."""


class AutoCdc:
    """Applies the batches of one AUTO CDC flow.

    Several flows may share a target and its auxiliary table; each has an application id of its own in its receipts.

    Args:
        source_schema: columns of the relations that `apply` gets.
        sequence_type: type of the flow's `sequence_by`, from `sequence_type_of`.
        target, auxiliary: locations of the two tables; those that do not exist are created.
        definition: what a missing target is created with, and the schema that it has after a full refresh; None for
            the columns of `target_schema`.
        fail_on_ties: refuse a batch in which, or with which, a key has different events with one sequence value.
        remember_all: another flow of the target may keep values of earlier events, so none may be forgotten.
        now: clock of the batch.
        forget_deletes_after: age from which deletes are not remembered; None: they are for good.

    Raises:
        DefinitionError: the flow does not fit the source's columns.
    """

    def __init__(
        self,
        flow: AutoCdcFlow,
        *,
        source_schema: StructType,
        sequence_type: DataType,
        engine: Engine,
        store: TableStore,
        target: str,
        auxiliary: str,
        definition: TableDefinition | None = None,
        fail_on_ties: bool = False,
        remember_all: bool = False,
        now: datetime | None = None,
        forget_deletes_after: timedelta | None = None,
    ) -> None:
        self._flow = flow
        self._fail_on_ties = fail_on_ties
        self._remember_all = remember_all or keeps_values(flow)
        self._now = now
        self._forget_before = None if now is None or forget_deletes_after is None else now - forget_deletes_after
        self._source = source_schema
        self._engine = engine
        self._store = store
        self._target_location = target
        self._auxiliary_location = auxiliary
        columns = nullable(to_arrow_schema(target_schema(flow, source_schema, sequence_type), timezone="UTC"))
        self._definition = definition or TableDefinition(schema=columns)
        self._metadata = metadata_of(flow, source_schema, sequence_type)
        self._check_interval_columns()

    def apply(self, changes: Relation, receipt: Receipt, *, restart: bool = False) -> CdcResult:
        """Apply one micro-batch. Idempotent: a batch whose receipt is stored is derived again, not evaluated again.

        Args:
            changes: an ordinary batch relation, one change per row; evaluated at most once.
            receipt: identifies the batch; both commits carry it.
            restart: the first batch of a full refresh; both tables are replaced, each in one commit. Of several flows
                with one target only the first to run restarts it.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.*` for rows without a key or sequence, `AUTOCDC_TIE` if ties are refused
                (nothing is written in both cases),
                `AUTOCDC_INVALID_STATE.*` where the auxiliary table is another flow's history.
        """
        with _turns[self._target_location]:
            auxiliary = self._store.open(self._auxiliary_location)
            target = self._store.open(self._target_location)
            if auxiliary is not None and auxiliary.batch_id(receipt.app_id) >= receipt.batch_id:
                return self._replay(auxiliary, target, receipt, restart=restart)
            if restart or auxiliary is None:
                return self._start(auxiliary, target, changes, receipt, restart=restart)
            is_due = auxiliary.recent_rows().num_rows >= RECENT_EVENTS
            result = self._continue(auxiliary, target, changes, receipt)
            if is_due:
                self._settle(auxiliary, receipt)
            return result

    def check(self, changes: Relation) -> None:
        """Evaluate change rows as `apply` does, and write nothing.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.*`.
        """
        spelling = {name.lower(): name for name in self._definition.schema.names}
        reader = self._engine.stream(event_relation(self._flow, self._source, changes, spelling))
        events = self._events(reader, auxiliary_schema(reader.schema), Receipt(app_id="", batch_id=0))
        for _ in events.reader():
            pass

    # -- the ways of a batch ------------------------------------------------------------------------------------------

    def _start(
        self, auxiliary: Table | None, target: Table | None, changes: Relation, receipt: Receipt, *, restart: bool
    ) -> CdcResult:
        """The first batch: write both tables whole, as streams."""
        if not restart and target is not None:
            self._refuse_rows_without_history(target)
        spelling = {name.lower(): name for name in self._definition.schema.names}
        reader = self._engine.stream(event_relation(self._flow, self._source, changes, spelling))
        schema = auxiliary_schema(reader.schema)
        ties = Ties()
        events = self._events(reader, schema, receipt)
        nothing = history_of(marked(schema.empty_table(), new=True), self._shape(schema))
        with Pieces(events.reader(), column=self._keys(schema)[0]) as pieces, Spool(nothing.rows.schema) as shown:
            if auxiliary is None:
                properties = {METADATA_PROPERTY: self._metadata.to_json()}
                definition = TableDefinition(schema=schema, properties=properties)
                auxiliary = self._store.create(self._auxiliary_location, definition)
            else:
                auxiliary.set_properties({METADATA_PROPERTY: self._metadata.to_json()})
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
            found = history_of(marked(piece.events, new=True), self._shape(schema), truncated_at=sequence_of(truncate))
            ties.add(found.ties)
            shown.write(found.rows)
            yield from found.events.to_batches()
        self._refuse_ties(ties)

    def _continue(self, auxiliary: Table, target: Table | None, changes: Relation, receipt: Receipt) -> CdcResult:
        """An ordinary batch: what it changes, for its keys."""
        self._check_drift(auxiliary)
        spelling = {name.lower(): name for name in auxiliary.schema.names}
        reader = self._engine.stream(event_relation(self._flow, self._source, changes, spelling))
        self._evolve(auxiliary, auxiliary_schema(reader.schema))
        is_behind = target is None
        target = self._open_target(auxiliary, target)
        events = self._events(reader, auxiliary.schema, receipt)
        keys = self._keys(auxiliary.schema)
        with Pieces(events.reader(), column=keys[0]) as pieces:
            before = self._truncate(auxiliary)
            truncate = _latest(before, events.truncate)
            is_truncating = not truncate.equals(before)
            step = Step(self._shape(auxiliary.schema), auxiliary, target, truncate, forget_before=self._forget_before)
            if is_truncating:
                step.remember(truncate)
            everything = is_behind or is_truncating
            points = auxiliary.split_points(keys[0], rows=PIECE_ROWS) if everything else []
            for piece in pieces.cut(points):
                step.apply(piece, everything=everything)
            self._refuse_ties(step.ties)
            step.commit_events(receipt)
            reach("cdc.auxiliary_committed")
            return step.commit_rows(receipt, num_input_rows=events.rows)

    def _settle(self, auxiliary: Table, receipt: Receipt) -> None:
        """Put the events that came last among the others of their keys, and drop what is not needed any more.

        Args:
            receipt: of the batch, which has one already: by it the commit is known as one of ours if the update dies here.
        """
        shape = self._shape(auxiliary.schema)
        truncate = self._truncate(auxiliary)
        change = auxiliary.change(keys=shape.keys, identity=(*shape.keys, SEQUENCE))
        keys = unique(auxiliary.recent_rows().select(shape.keys))
        for start in range(0, keys.num_rows, RECENT_EVENTS):
            some = keys.slice(start, RECENT_EVENTS)
            events = without_forgotten(upserts_and_deletes(auxiliary.rows_of(some)), shape, self._forget_before)
            found = history_of(marked(events, new=False), shape, truncated_at=sequence_of(truncate))
            change.replace(some, found.events.drop_columns([NEW]))
        if truncate.num_rows:
            change.replace(truncate.select(shape.keys), truncate)
        change.commit(receipt)
        reach("cdc.settled")
        auxiliary.remove_old_files()

    def _replay(self, auxiliary: Table, target: Table | None, receipt: Receipt, *, restart: bool) -> CdcResult:
        """A batch whose events are stored: derive its keys again, from the events that it added."""
        recorded = pa.table({APP_ID: [receipt.app_id], BATCH_ID: pa.array([receipt.batch_id], pa.int64())})
        keys = self._keys(auxiliary.schema)
        optional = [name for name in (TRUNCATE,) if name in auxiliary.schema.names]
        added = auxiliary.rows_of(recorded, columns=(*keys, *optional))
        if restart and (target is None or target.batch_id(receipt.app_id) < receipt.batch_id):
            ties = Ties()
            rows = self._all_rows(auxiliary, ties)
            return self._rebuild(target, rows, receipt, num_input_rows=added.num_rows, replace=True, ties=ties)
        self._check_drift(auxiliary)
        everything = target is None or (bool(optional) and bool(pc.any(added.column(TRUNCATE)).as_py()))
        target = self._open_target(auxiliary, target)
        step = Step(self._shape(auxiliary.schema), auxiliary, target, self._truncate(auxiliary))
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
            target = self._store.create(self._target_location, self._definition)
        if replace:
            written = target.replace(_conformed(rows, self._definition.schema), receipt=receipt, clustered=True)
        else:
            self._evolve(target, nullable(rows.schema))
            written = target.append(rows, receipt=receipt, clustered=True)
        reach("cdc.target_committed")
        return CdcResult(num_upserted_rows=written, num_input_rows=num_input_rows, **ties.summary())

    def _all_rows(self, auxiliary: Table, ties: Ties) -> pa.RecordBatchReader:
        """Return the rows of the target, in the order of their keys, as they follow from all events."""
        shape = self._shape(auxiliary.schema)
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

    # -- steps --------------------------------------------------------------------------------------------------------

    def _events(self, reader: pa.RecordBatchReader, schema: pa.Schema, receipt: Receipt) -> Events:
        return Events(reader, flow=self._flow, schema=schema, keys=self._keys(schema), receipt=receipt, now=self._now)

    def _truncate(self, auxiliary: Table) -> pa.Table:
        """Return the truncate that the auxiliary table remembers; no rows if there is none. It has no keys."""
        if TRUNCATE not in auxiliary.schema.names:
            return auxiliary.schema.empty_table()
        keys = self._keys(auxiliary.schema)
        found = auxiliary.rows_of(pa.table({key: pa.nulls(1, auxiliary.schema.field(key).type) for key in keys}))
        return latest_truncate(found)

    def _open_target(self, auxiliary: Table, target: Table | None) -> Table:
        """Return the target with every column of the events, created if it is missing."""
        if target is None:
            target = self._store.create(self._target_location, self._definition)
        payload = [field for field in auxiliary.schema if not field.name.startswith(PREFIX)]
        self._evolve(target, pa.schema(payload))
        return target

    def _evolve(self, table: Table, wanted: pa.Schema) -> None:
        """Add the columns that a table lacks, in a commit of its own: adding them again changes nothing."""
        change = compare(table.schema, wanted)
        if change.conflicts:
            raise self._invalid_state(
                "COLUMN_TYPE_DRIFT", f"the type of a column changed: {'; '.join(change.conflicts)}"
            )
        if change.evolves:
            added = [nullable(wanted).field(name) for name in change.added]
            table.append(pa.schema([*table.schema, *added]).empty_table(), evolve=True)

    def _shape(self, schema: pa.Schema) -> Shape:
        """Return what an auxiliary table of this schema has: the columns of all its flows, also those that this source lacks."""
        columns = tuple(name for name in schema.names if not name.startswith(PREFIX))
        return Shape(
            keys=self._keys(schema),
            columns=columns,
            scd_type=self._flow.scd_type,
            tracked=tracked_names(self._flow, columns),
            remembers_all=self._remember_all or self._flow.scd_type == 2 or KEPT in schema.names,
        )

    def _keys(self, schema: pa.Schema) -> tuple[str, ...]:
        return spelled(self._flow.keys, schema)

    # -- checks -------------------------------------------------------------------------------------------------------

    def _check_interval_columns(self) -> None:
        missing = [name for name in (START_AT, END_AT) if name not in self._definition.schema.names]
        if self._flow.scd_type == 2 and missing:
            raise DefinitionError(
                "AUTOCDC_TARGET_SCHEMA_LACKS_INTERVAL",
                f"the schema of the target of flow `{self._flow.name}` has no column {' and no '.join(missing)}",
                origin=self._flow.origin,
                cause="an SCD type 2 target shows from which sequence value to which a row was valid",
                hint=f"add `{START_AT}` and `{END_AT}` with the type {self._metadata.sequence_type}",
            )

    def _check_drift(self, auxiliary: Table) -> None:
        """Raise if the stored events were recorded under other rules than the flow's."""
        try:
            stored = CdcMetadata.from_json(auxiliary.properties[METADATA_PROPERTY])
        except (KeyError, TypeError, ValueError) as error:
            raise self._invalid_state(
                "AUXILIARY_TABLE_INVALID", f"`{self._auxiliary_location}` is no auxiliary table of AUTO CDC"
            ) from error
        now = self._metadata
        checks = [
            ("KEY_SCHEMA_DRIFT", "the keys", stored.keys, now.keys),
            ("SCD_TYPE_DRIFT", "`stored_as_scd_type`", stored.scd_type, now.scd_type),
            ("SEQUENCING_TYPE_DRIFT", "the type of `sequence_by`", stored.sequence_type, now.sequence_type),
            ("TRACK_HISTORY_DRIFT", "the tracked columns", stored.track_history, now.track_history),
            ("TRACK_HISTORY_DRIFT", "the untracked columns", stored.track_history_except, now.track_history_except),
        ]
        for condition, what, before, after in checks:
            if before != after:
                raise self._invalid_state(condition, f"{what} changed from {_shown(before)} to {_shown(after)}")

    def _refuse_ties(self, ties: Ties) -> None:
        """Raise if the events of a batch, together with those that are remembered, have ties; nothing is committed yet."""
        found = ties.summary()
        if self._fail_on_ties and found["num_ties"]:
            examples = "; ".join(f"{dict(tie.key)} at {tie.sequence}" for tie in found["ties"])
            raise CdcError(
                "AUTOCDC_TIE",
                f"{found['num_ties']} keys of flow `{self._flow.name}` have different events with one sequence value",
                origin=self._flow.origin,
                cause=f"`lakelet.cdc.ties` is `fail`; for example {examples}",
                hint="add a tie-break to the sequence, as in `struct(changed_at, id)`, or set `lakelet.cdc.ties: warn`",
            )

    def _refuse_rows_without_history(self, target: Table) -> None:
        if target.size().rows:
            raise self._invalid_state(
                "AUXILIARY_TABLE_MISSING",
                f"the target has rows, but there is no auxiliary table at `{self._auxiliary_location}`",
            )

    def _invalid_state(self, condition: str, cause: str) -> CdcError:
        return CdcError(
            f"AUTOCDC_INVALID_STATE.{condition}",
            f"flow `{self._flow.name}` cannot continue the history of `{self._flow.target}`",
            origin=self._flow.origin,
            cause=cause,
            hint=f"undo the change, or rebuild the table with `lakelet run --full-refresh {self._flow.target.name}`",
        )


def _latest(before: pa.Table, new: pa.Table) -> pa.Table:
    """Return the later of two truncates; the one that is remembered stays if they are equal."""
    if not before.num_rows or not new.num_rows:
        return before if before.num_rows else new
    is_later = before_limit(before.column(SEQUENCE), new.column(SEQUENCE)[0])[0]
    return new if is_later else before


def _conformed(rows: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """Return rows with the declared columns and types, and after them the columns that the declaration lacks."""
    declared = {name.lower() for name in schema.names}
    more = [field for field in nullable(rows.schema) if field.name.lower() not in declared]
    wanted = pa.schema([*nullable(schema), *more])
    return pa.RecordBatchReader.from_batches(wanted, (conform(batch, wanted) for batch in rows))


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(" ".join(item) if isinstance(item, tuple) else item for item in value) or "none"
    return "none" if value is None else str(value)
