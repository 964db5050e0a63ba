"""AUTO CDC: keep a table as the current rows (SCD type 1) or the history (type 2) of a stream of changes.

The history of a key is a pure function of its valid events; neither their order of arrival, nor how they were cut into
batches, nor replays change it. Two tables make that so:

    auxiliary   every valid event, append-only. It commits first, and its receipt decides what is a replay.
    target      derived from the auxiliary table for the keys of a batch; rows that differ are written in one commit.

A crash between the two commits leaves the target behind; the replay finds the batch's keys in the auxiliary table and
derives them again. The rules are in docs/concepts/auto_cdc.md.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import DataType, StructType

from lakelet.errors import CdcError, DefinitionError
from lakelet.execution.auto_cdc_events import EXAMPLES, Events, auxiliary_schema, event_relation
from lakelet.execution.auto_cdc_schema import (
    APP_ID,
    BATCH_ID,
    END_AT,
    KEPT,
    METADATA_PROPERTY,
    PREFIX,
    SEQUENCE,
    START_AT,
    STORED_AT,
    TRUNCATE,
    CdcMetadata,
    metadata_of,
    sequence_type_of,
    target_schema,
    tracked_names,
)
from lakelet.execution.auto_cdc_sql import (
    NEW,
    OPERATION,
    ROW,
    TIED,
    Batch,
    LocalBatch,
    RecordedBatch,
    Shape,
    difference_query,
    target_query,
    tie_query,
)
from lakelet.execution.auto_cdc_tombstones import forgettable
from lakelet.execution.faults import reach
from lakelet.names import quote
from lakelet.plan import relation
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table, TableDefinition, TableStore
from lakelet.storage.schema import compare, conform, nullable

if TYPE_CHECKING:
    from lakelet.engine.base import Engine
    from lakelet.graph.elements import AutoCdcFlow

__all__ = ["AutoCdc", "CdcResult", "CdcTie", "sequence_type_of", "target_schema"]

LOCAL_ROWS = 20_000
"""A batch of at most so many events is sent along with the query; a larger one is stored first and read from there."""
COMPACTION_INTERVAL = 10
"""Commits after which the small files of the auxiliary table are put together: a query opens every file."""
COMPACTED_BYTES = 8 << 20
"""Files of this size are left alone, so that the cost of putting the others together does not grow with the table."""

_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By target: flows that share one take turns, since each derives rows from what the others stored."""


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
        now: datetime | None = None,
        forget_deletes_after: timedelta | None = None,
    ) -> None:
        self._flow = flow
        self._fail_on_ties = fail_on_ties
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
            if auxiliary is not None and self._forget_before is not None and not restart:
                self._forget_deletes(auxiliary, self._forget_before)
            if self._fail_on_ties:
                self._refuse_ties(None if restart else auxiliary, changes)
            if restart or auxiliary is None:
                result = self._start(auxiliary, target, changes, receipt, restart=restart)
            else:
                result = self._continue(auxiliary, target, changes, receipt)
            if auxiliary is not None and auxiliary.version % COMPACTION_INTERVAL == 0:
                auxiliary.compact(file_size_bytes=COMPACTED_BYTES)
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

    def maintain(self) -> None:
        """Put the small files of both tables together; changes no row."""
        with _turns[self._target_location]:
            for location in (self._auxiliary_location, self._target_location):
                table = self._store.open(location)
                if table is not None:
                    table.compact()

    def _forget_deletes(self, auxiliary: Table, before: datetime) -> None:
        """Remove the events that need not be remembered, in a commit of its own; none, no commit."""
        rows = auxiliary.rows()
        if STORED_AT not in rows.column_names:
            return
        keys = self._keys(rows.schema)
        forgotten = forgettable(rows, keys=keys, scd_type=self._flow.scd_type, before=before)
        if pc.any(forgotten).as_py():
            auxiliary.replace(rows.filter(pc.invert(forgotten)))

    # -- the ways of a batch ------------------------------------------------------------------------------------------

    def _start(
        self, auxiliary: Table | None, target: Table | None, changes: Relation, receipt: Receipt, *, restart: bool
    ) -> CdcResult:
        """The first batch: store its events, then write the whole target as a stream."""
        if not restart and target is not None:
            self._refuse_rows_without_history(target)
        spelling = {name.lower(): name for name in self._definition.schema.names}
        reader = self._engine.stream(event_relation(self._flow, self._source, changes, spelling))
        schema = auxiliary_schema(reader.schema)
        if auxiliary is None:
            properties = {METADATA_PROPERTY: self._metadata.to_json()}
            auxiliary = self._store.create(
                self._auxiliary_location, TableDefinition(schema=schema, properties=properties)
            )
        else:
            auxiliary.set_properties({METADATA_PROPERTY: self._metadata.to_json()})
        events = self._events(reader, schema, receipt)
        auxiliary.replace(events.reader(), receipt=receipt)
        reach("cdc.auxiliary_committed")
        return self._rebuild(auxiliary, target, receipt, num_input_rows=events.rows, replace=restart)

    def _continue(self, auxiliary: Table, target: Table | None, changes: Relation, receipt: Receipt) -> CdcResult:
        """An ordinary batch: what it changes, for its keys."""
        self._check_drift(auxiliary)
        spelling = {name.lower(): name for name in auxiliary.schema.names}
        reader = self._engine.stream(event_relation(self._flow, self._source, changes, spelling))
        self._evolve(auxiliary, auxiliary_schema(reader.schema))
        events = self._events(reader, auxiliary.schema, receipt)
        local = events.buffer(LOCAL_ROWS)
        if local is None:
            auxiliary.append(events.reader(), receipt=receipt)
            reach("cdc.auxiliary_committed")
            return self._recorded(
                auxiliary, target, receipt, num_input_rows=events.rows, is_truncating=events.has_truncates
            )
        everything = target is None or events.has_truncates
        if not events.rows and not everything:
            auxiliary.append(local, receipt=receipt)
            reach("cdc.auxiliary_committed")
            return CdcResult()
        target = self._open_target(auxiliary, target)
        numbered = local.append_column(ROW, pa.array(range(local.num_rows), pa.int64()))
        found = self._difference(auxiliary, target, LocalBatch(), everything=everything, local=relation.local(numbered))
        if not events.has_truncates:
            new = found.filter(found.column(NEW)).column(ROW).sort()
            local = local.take(new)
        auxiliary.append(local, receipt=receipt)
        reach("cdc.auxiliary_committed")
        return self._write(target, found, receipt, num_input_rows=events.rows)

    def _replay(self, auxiliary: Table, target: Table | None, receipt: Receipt, *, restart: bool) -> CdcResult:
        """A batch whose events are stored: derive its keys again, from the events that it added."""
        counts = relation.sql(
            f"SELECT count(*) AS n, {_any_truncate(auxiliary)} AS truncates FROM history WHERE {_recorded_by(receipt)}",
            {"history": _read(auxiliary)},
        )
        (row,) = self._engine.collect(counts).to_pylist()
        if restart and (target is None or target.batch_id(receipt.app_id) < receipt.batch_id):
            return self._rebuild(auxiliary, target, receipt, num_input_rows=row["n"], replace=True)
        self._check_drift(auxiliary)
        return self._recorded(auxiliary, target, receipt, num_input_rows=row["n"], is_truncating=bool(row["truncates"]))

    def _recorded(
        self,
        auxiliary: Table,
        target: Table | None,
        receipt: Receipt,
        *,
        num_input_rows: int,
        is_truncating: bool,
    ) -> CdcResult:
        """Bring the target up to date for the keys of the events that carry the receipt."""
        everything = target is None or is_truncating
        target = self._open_target(auxiliary, target)
        found = self._difference(auxiliary, target, RecordedBatch(receipt=receipt), everything=everything)
        return self._write(target, found, receipt, num_input_rows=num_input_rows)

    def _rebuild(
        self, auxiliary: Table, target: Table | None, receipt: Receipt, *, num_input_rows: int, replace: bool
    ) -> CdcResult:
        """Write every row of the target, derived from all events, in one commit."""
        if target is None:
            target = self._store.create(self._target_location, self._definition)
        shape = self._shape(auxiliary.schema)
        rows = self._engine.stream(relation.sql(target_query(shape), {"history": _read(auxiliary)}))
        if replace:
            written = target.replace(_conformed(rows, self._definition.schema), receipt=receipt)
        else:
            self._evolve(target, nullable(rows.schema))
            written = target.append(rows, receipt=receipt)
        reach("cdc.target_committed")
        ties = self._engine.collect(relation.sql(tie_query(shape), {"history": _read(auxiliary)}))
        return CdcResult(num_upserted_rows=written, num_input_rows=num_input_rows, **self._summary(self._tied(ties)))

    # -- steps --------------------------------------------------------------------------------------------------------

    def _events(self, reader: pa.RecordBatchReader, schema: pa.Schema, receipt: Receipt) -> Events:
        return Events(reader, flow=self._flow, schema=schema, keys=self._keys(schema), receipt=receipt, now=self._now)

    def _difference(
        self, auxiliary: Table, target: Table, batch: Batch, *, everything: bool, local: Relation | None = None
    ) -> pa.Table:
        """Return what `difference_query` finds."""
        query = difference_query(
            self._shape(auxiliary.schema), batch, everything=everything, target=_types(target.schema)
        )
        tables = {"history": _read(auxiliary), "stored": _read(target)}
        if local is not None:
            tables["batch"] = local
        return self._engine.collect(relation.sql(query, tables))

    def _write(self, target: Table, found: pa.Table, receipt: Receipt, *, num_input_rows: int) -> CdcResult:
        """Merge the rows with an operation into the target; none, no commit."""
        changes = found.filter(pc.is_valid(found.column(OPERATION)))
        if changes.num_rows:
            spelling = {name.lower(): name for name in target.schema.names}
            columns = {spelling[name.lower()]: name for name in changes.column_names if name.lower() in spelling}
            rows = changes.select(list(columns.values())).rename_columns(list(columns))
            schema = pa.schema([target.schema.field(name) for name in columns])
            batches = [conform(batch, schema) for batch in rows.to_batches()]
            table = pa.Table.from_batches(batches, schema=schema)
            identity = self._keys(target.schema) + ((START_AT,) if self._flow.scd_type == 2 else ())
            operations = changes.column(OPERATION).cast(pa.string())
            target.merge(table.append_column(OPERATION, operations), keys=identity, receipt=receipt)
            reach("cdc.target_committed")
        deleted = pc.sum(pc.equal(changes.column(OPERATION), "D")).as_py() or 0
        return CdcResult(
            num_upserted_rows=changes.num_rows - deleted,
            num_deleted_rows=deleted,
            num_input_rows=num_input_rows,
            **self._summary(self._tied(found.filter(found.column(TIED)), among=found.filter(found.column(NEW)))),
        )

    def _tied(self, events: pa.Table, *, among: pa.Table | None = None) -> dict[str, CdcTie]:
        """Return the keys and sequences of `events`, those of `among` only; however many events each of them has."""
        keys = self._keys(events.schema)
        ties: dict[str, CdcTie] = {}
        for row in events.select([*keys, SEQUENCE]).to_pylist():
            tie = CdcTie(key={key: row[key] for key in keys}, sequence=row[SEQUENCE])
            ties.setdefault(repr(tie), tie)
        if not ties or among is None:
            return ties
        new = self._tied(among)
        return {text: tie for text, tie in ties.items() if text in new}

    @staticmethod
    def _summary(ties: Mapping[str, CdcTie]) -> dict[str, Any]:
        return {"num_ties": len(ties), "ties": tuple(ties[text] for text in sorted(ties)[:EXAMPLES])}

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
        columns = _types(pa.schema([field for field in schema if not field.name.startswith(PREFIX)]))
        return Shape(
            keys=self._keys(schema),
            columns=columns,
            sequence_type=_types(schema)[SEQUENCE].dataType,
            scd_type=self._flow.scd_type,
            tracked=tracked_names(self._flow, columns.names),
            has_truncates=TRUNCATE in schema.names,
            has_kept=KEPT in schema.names,
        )

    def _keys(self, schema: pa.Schema) -> tuple[str, ...]:
        """Return the keys as `schema` spells them."""
        spelling = {name.lower(): name for name in schema.names}
        return tuple(spelling[key.lower()] for key in self._flow.keys)

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

    def _refuse_ties(self, auxiliary: Table | None, changes: Relation) -> None:
        """Raise if the events of a batch, together with those that are stored, have ties; evaluates `changes` once more."""
        spelling = {name.lower(): name for name in (auxiliary or self._definition).schema.names}
        events = event_relation(self._flow, self._source, changes, spelling)
        columns = self._engine.schema(events)
        stored = auxiliary_schema(to_arrow_schema(columns, timezone="UTC"))
        everything = [relation.local(stored.empty_table()), events, *([_read(auxiliary)] if auxiliary else [])]
        history = relation.union(everything, by_name=True)
        found = self._engine.collect(relation.sql(tie_query(self._shape(stored)), {"history": history}))
        ties = self._summary(self._tied(found))
        if ties["num_ties"]:
            examples = "; ".join(f"{dict(tie.key)} at {tie.sequence}" for tie in ties["ties"])
            raise CdcError(
                "AUTOCDC_TIE",
                f"{ties['num_ties']} keys of flow `{self._flow.name}` have different events with one sequence value",
                origin=self._flow.origin,
                cause=f"`lakelet.cdc.ties` is `fail`; for example {examples}",
                hint="add a tie-break to the sequence, as in `struct(changed_at, id)`, or set `lakelet.cdc.ties: warn`",
            )

    def _refuse_rows_without_history(self, target: Table) -> None:
        some = relation.limited(_read(target), 1)
        if self._engine.collect(some).num_rows:
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


def _read(table: Table) -> Relation:
    return relation.delta(table.location, table.version)


def _types(schema: pa.Schema) -> StructType:
    return from_arrow_schema(schema, prefer_timestamp_ntz=True)


def _conformed(rows: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """Return rows with the declared columns and types, and after them the columns that the declaration lacks."""
    declared = {name.lower() for name in schema.names}
    more = [field for field in nullable(rows.schema) if field.name.lower() not in declared]
    wanted = pa.schema([*nullable(schema), *more])
    return pa.RecordBatchReader.from_batches(wanted, (conform(batch, wanted) for batch in rows))


def _recorded_by(receipt: Receipt) -> str:
    app_id = receipt.app_id.replace("\\", "\\\\").replace("'", "\\'")
    return f"{quote(APP_ID)} = '{app_id}' AND {quote(BATCH_ID)} = {receipt.batch_id}"


def _any_truncate(auxiliary: Table) -> str:
    return f"max({quote(TRUNCATE)})" if TRUNCATE in auxiliary.schema.names else "false"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(" ".join(item) if isinstance(item, tuple) else item for item in value) or "none"
    return "none" if value is None else str(value)
