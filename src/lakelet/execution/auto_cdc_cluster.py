"""AUTO CDC in a cluster: changes are staged, decided by the rule in the workers, and committed, and no row comes here.

    staged      the events of the batch, evaluated once and checked, in files that only this batch uses
    decided     what follows from them, from the events that are remembered and from the rows of their keys; likewise
    auxiliary   gets the events to remember, by an append; its receipt decides what is a replay
    target      gets the rows that differ, by a MERGE

The tables are read for the keys of the batch, by a join in the cluster, so a batch costs what a MERGE into a table of that
size costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import StringType, StructField, StructType

from lakelet.execution.auto_cdc_batch import CdcResult, Ties, sequence_of, spelled
from lakelet.execution.auto_cdc_events import (
    EXAMPLES,
    auxiliary_schema,
    literal,
    null_key,
    null_sequence,
    shown_changes,
)
from lakelet.execution.auto_cdc_history import later_truncate
from lakelet.execution.auto_cdc_relations import Given, by_key, is_null, key_columns, listed, of_kind, remembered
from lakelet.execution.auto_cdc_schema import (
    APP_ID,
    BATCH_ID,
    PREFIX,
    SEQUENCE,
    STORED_AT,
    TRUNCATE,
)
from lakelet.execution.auto_cdc_tables import CdcTables
from lakelet.execution.auto_cdc_worker import (
    DELETED,
    EVENT,
    FORGOTTEN,
    KIND,
    ROW,
    TIE,
    UPSERT,
    Decision,
)
from lakelet.faults import reach
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.arrow_functions import mapped
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.delta_spark import DeltaSparkTable, stage, staging
from lakelet.storage.schema import nullable

SETTLED_PROPERTY = "lakelet.cdc.settled_rows"
"""Of the auxiliary table: how many rows it had when what is not needed any more was dropped for the last time."""
SETTLED_ROWS = 8192
"""What may be added to twice as many rows before that is done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Staged:
    """Rows that the cluster has written for this batch, and what it has counted on the way."""

    rows: Relation
    counts: Mapping[str, int]


class InCluster:
    """The way of the batches of one flow through a cluster that writes the tables itself."""

    def __init__(self, tables: CdcTables) -> None:
        self._tables = tables
        self._engine = tables.engine

    # -- the ways of a batch ------------------------------------------------------------------------------------------

    def start(
        self, auxiliary: Table | None, target: Table | None, changes: Relation, receipt: Receipt, *, restart: bool
    ) -> CdcResult:
        """The first batch: both tables are replaced."""
        tables = self._tables
        events = tables.events(changes, tables.definition.schema.names)
        schema = self._columns(events)
        with staging(self._tables.store, self._tables.staging) as folder:
            staged = self._staged_events(folder, events, schema, receipt)
            truncate = self._truncates(staged.rows, schema)
            columns = self._rows_schema(schema, target, restart=restart)
            given = Given(
                new=staged.rows,
                stored=None,
                shown=None,
                events=schema,
                columns=columns,
                everything=True,
                truncate=truncate,
            )
            decided, ties = self._decided(folder, given)
            started = cast("DeltaSparkTable", tables.start_auxiliary(auxiliary, schema))
            kept = remembered(decided.rows, schema, truncate)
            started.replace_query(self._engine, kept, schema, schema, receipt=receipt, partition_cols=())
            reach("cdc.auxiliary_committed")
            started.set_properties({SETTLED_PROPERTY: str(started.size().rows)})
            opened = cast("DeltaSparkTable", tables.create_target() if target is None else target)
            if not restart:
                tables.evolve(opened, _payload(schema))
            return self._committed_rows(
                opened, decided, ties, receipt, columns, num_input_rows=staged.counts["total"], replaces=restart
            )

    def go_on(self, auxiliary: Table, target: Table | None, changes: Relation, receipt: Receipt) -> CdcResult:
        """An ordinary batch: what it changes, for its keys."""
        tables = self._tables
        events = tables.events(changes, auxiliary.schema.names)
        tables.evolve(auxiliary, self._columns(events))
        is_behind = target is None
        target = tables.open_target(auxiliary, target)
        schema = auxiliary.schema
        with staging(self._tables.store, self._tables.staging) as folder:
            staged = self._staged_events(folder, events, schema, receipt)
            before = self._truncates(_version(auxiliary), schema)
            truncate = later_truncate(before, self._truncates(staged.rows, schema))
            is_truncating = not truncate.equals(before)
            given = Given(
                new=staged.rows,
                stored=_version(auxiliary),
                shown=_version(target),
                events=schema,
                columns=target.schema,
                everything=is_behind or is_truncating,
                truncate=truncate,
            )
            decided, ties = self._decided(folder, given)
            added = truncate if is_truncating else truncate.slice(0, 0)
            self._commit_events(cast("DeltaSparkTable", auxiliary), decided, added, receipt)
            reach("cdc.auxiliary_committed")
            result = self._committed_rows(
                cast("DeltaSparkTable", target),
                decided,
                ties,
                receipt,
                target.schema,
                num_input_rows=staged.counts["total"],
            )
        self._settle(cast("DeltaSparkTable", auxiliary), truncate, receipt)
        return result

    def replay(self, auxiliary: Table, target: Table | None, receipt: Receipt, *, restart: bool) -> CdcResult:
        """A batch whose events are stored: derive its keys again, from the events that it added."""
        tables, schema = self._tables, auxiliary.schema
        is_anew = restart and (target is None or target.batch_id(receipt.app_id) < receipt.batch_id)
        if not is_anew:
            tables.check_drift(auxiliary)
        is_behind = target is None
        columns = self._rows_schema(schema, target, restart=is_anew)
        target = tables.create_target() if target is None else target
        if not is_anew:
            tables.evolve(target, _payload(schema))
            columns = target.schema
        mine = f"{APP_ID} <=> {literal(receipt.app_id)} AND {BATCH_ID} <=> {receipt.batch_id}"
        events = _version(auxiliary)
        new = plan.filtered(events, plan.expression(mine))
        added = self._truncates(new, schema)
        given = Given(
            new=new,
            stored=plan.filtered(events, plan.expression(f"NOT ({mine})")),
            shown=None if is_anew else _version(target),
            events=schema,
            columns=columns,
            everything=is_anew or is_behind or bool(added.num_rows),
            truncate=self._truncates(events, schema),
        )
        with staging(self._tables.store, self._tables.staging) as folder:
            decided, ties = self._decided(folder, given, forgets=False)
            counted = self._engine.collect(plan.aggregated(new, {"n": plan.expression("count(*)")}))
            return self._committed_rows(
                cast("DeltaSparkTable", target),
                decided,
                ties,
                receipt,
                columns,
                num_input_rows=counted.column("n")[0].as_py(),
                replaces=is_anew,
            )

    def check(self, changes: Relation) -> None:
        """Evaluate change rows, and write nothing."""
        events = self._tables.events(changes, self._tables.definition.schema.names)
        schema = self._columns(events)
        counts = self._engine.collect(plan.aggregated(events, self._problems(schema))).to_pylist()[0]
        self._refuse(counts, events, schema)

    # -- steps --------------------------------------------------------------------------------------------------------

    def _stage(
        self, location: str, rows: Relation, columns: pa.Schema, measures: dict[str, proto.Expression]
    ) -> _Staged:
        """Write the rows of a query, once, and count some of them on the way."""
        incoming = to_arrow_schema(self._engine.schema(rows), timezone="UTC")
        written, counts = stage(self._engine, location, rows, incoming, columns, measures)
        return _Staged(rows=written, counts=counts)

    def _columns(self, events: Relation) -> pa.Schema:
        """Return the columns of the auxiliary table for these events."""
        return auxiliary_schema(to_arrow_schema(self._engine.schema(events), timezone="UTC"))

    def _staged_events(self, folder: str, events: Relation, schema: pa.Schema, receipt: Receipt) -> _Staged:
        """Write the events of a batch, checked and stamped.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.*`.
        """
        now = self._tables.now
        instant = (
            "CAST(NULL AS TIMESTAMP)"
            if now is None
            else f"timestamp_micros({pa.scalar(now, pa.timestamp('us', 'UTC')).value})"
        )
        stamps = {APP_ID: literal(receipt.app_id), BATCH_ID: f"CAST({receipt.batch_id} AS BIGINT)", STORED_AT: instant}
        stamped = plan.with_columns(events, {name: plan.expression(text) for name, text in stamps.items()})
        staged = self._stage(f"{folder}/events", stamped, schema, self._problems(schema))
        self._refuse(staged.counts, staged.rows, schema)
        return staged

    def _problems(self, schema: pa.Schema) -> dict[str, proto.Expression]:
        """Return what is counted of events: all, and those without a key or sequence."""
        conditions = self._conditions(schema)
        measures = {name: plan.expression(f"count_if({text})") for name, text in conditions.items()}
        return {"total": plan.expression("count(*)"), **measures}

    def _conditions(self, schema: pa.Schema) -> dict[str, str]:
        keys = " OR ".join(f"{quote(key)} IS NULL" for key in self._tables.keys(schema))
        if TRUNCATE in schema.names:
            keys = f"({keys}) AND NOT coalesce({TRUNCATE}, false)"
        sequence = from_arrow_schema(schema)[SEQUENCE].dataType
        return {"null_keys": keys, "null_sequences": is_null(SEQUENCE, sequence)}

    def _refuse(self, counts: Mapping[str, int], events: Relation, schema: pa.Schema) -> None:
        """Raise if events have no key or no sequence."""
        flow, keys = self._tables.flow, self._tables.keys(schema)
        for name, condition in self._conditions(schema).items():
            if not counts[name]:
                continue
            found = plan.limited(plan.filtered(events, plan.expression(condition)), EXAMPLES)
            examples = shown_changes(self._engine.collect(found))
            if name == "null_keys":
                raise null_key(flow, keys, counts[name], examples)
            raise null_sequence(flow, counts[name], examples)

    def _truncates(self, events: Relation, schema: pa.Schema) -> pa.Table:
        """Return the last truncate among some events, as an event; no row if there is none."""
        if TRUNCATE not in schema.names:
            return schema.empty_table()
        last = f"SELECT * FROM events WHERE {TRUNCATE} ORDER BY {SEQUENCE} DESC LIMIT 1"
        return self._engine.collect(plan.sql(last, {"events": events})).select(schema.names).cast(schema)

    def _rows_schema(self, schema: pa.Schema, target: Table | None, *, restart: bool) -> pa.Schema:
        """Return the columns that the target has with this batch, those that an event adds at the end."""
        declared = self._tables.definition.schema if target is None or restart else target.schema
        self._tables.refuse_conflicts(declared, _payload(schema))
        have = {name.lower() for name in declared.names}
        return pa.schema([*nullable(declared), *(f for f in _payload(schema) if f.name.lower() not in have)])

    def _decided(self, folder: str, given: Given, *, forgets: bool = True) -> tuple[_Staged, Ties]:
        """Have the workers apply the rule, and write what follows from it.

        Raises:
            CdcError: `AUTOCDC_TIE`.
        """
        row_keys = spelled(self._tables.flow.keys, given.columns)
        rows = by_key(given, self._tables.keys(given.events), row_keys)
        shape = self._tables.shape(given.events)
        decision = Decision(
            shape=shape,
            keys=key_columns(row_keys),
            row_keys=row_keys,
            identity=self._tables.identity(given.columns),
            truncated_at=sequence_of(given.truncate),
            forget_before=self._tables.forget_before if forgets else None,
        )
        kinds = {name: plan.expression(f"count_if({KIND} = '{name}')") for name in (FORGOTTEN, TIE, UPSERT, DELETED)}
        columns = pa.schema(
            [
                (KIND, pa.string()),
                (EVENT, pa.struct(list(given.events))),
                (ROW, pa.struct(list(given.columns))),
            ]
        )
        decided = self._stage(f"{folder}/decided", self._mapped(rows, decision), nullable(columns), kinds)
        ties = Ties()
        if decided.counts[TIE]:
            names = [*shape.keys, SEQUENCE]
            found = plan.limited(of_kind(decided.rows, TIE, EVENT, names), EXAMPLES)
            ties.add(self._engine.collect(found), decided.counts[TIE])
        self._tables.refuse_ties(ties)
        return decided, ties

    def _mapped(self, rows: Relation, decision: Decision) -> Relation:
        given = self._engine.schema(rows)
        kinds = [StructField(KIND, StringType()), given[EVENT], given[ROW]]
        return mapped(rows, given.names, decision, StructType(kinds))

    def _commit_events(
        self, auxiliary: DeltaSparkTable, decided: _Staged, truncate: pa.Table, receipt: Receipt
    ) -> None:
        """Store the events to remember; those of keys that are forgotten go in the same commit."""
        schema = auxiliary.schema
        added = remembered(decided.rows, schema, truncate)
        if not decided.counts[FORGOTTEN]:
            auxiliary.append_query(self._engine, added, schema, receipt=receipt)
            return
        marked = [
            plan.with_columns(rows, {"__op": plan.expression(f"'{mark}'")})
            for rows, mark in (
                (added, "I"),
                (of_kind(decided.rows, FORGOTTEN, EVENT, schema.names), "D"),
            )
        ]
        keys = self._tables.keys(schema)
        auxiliary.replace_keys_query(plan.union(marked), [*schema.names, "__op"], keys=keys, receipt=receipt)

    def _committed_rows(
        self,
        target: DeltaSparkTable,
        decided: _Staged,
        ties: Ties,
        receipt: Receipt,
        columns: pa.Schema,
        *,
        num_input_rows: int,
        replaces: bool = False,
    ) -> CdcResult:
        """Write the rows that differ; none, no commit."""
        counts, names = decided.counts, columns.names
        upserted = of_kind(decided.rows, UPSERT, ROW, names)
        if replaces:
            target.replace_query(self._engine, upserted, columns, columns, receipt=receipt, partition_cols=None)
        elif counts[UPSERT] or counts[DELETED]:
            identity = self._tables.identity(columns)
            if target.files():
                kinds = f"{KIND} IN ('{UPSERT}', '{DELETED}')"
                changed = plan.sql(
                    f"SELECT {listed(ROW, names)}, {KIND} AS __op FROM decided WHERE {kinds}",
                    {"decided": decided.rows},
                )
                target.merge_query(changed, [*names, "__op"], keys=identity, receipt=receipt)
            else:
                target.append_query(self._engine, upserted, columns, receipt=receipt)
        reach("cdc.target_committed")
        return CdcResult(
            num_upserted_rows=counts[UPSERT],
            num_deleted_rows=counts[DELETED],
            num_input_rows=num_input_rows,
            **ties.summary(),
        )

    def _settle(self, auxiliary: DeltaSparkTable, truncate: pa.Table, receipt: Receipt) -> None:
        """Drop the events that are not needed any more, once there may be as many as are needed.

        Type 1 needs the last event of each key only. The receipt has a name of its own, since Delta's writer leaves out a
        commit whose receipt is there; by it the commit is known as one of ours.
        """
        shape = self._tables.shape(auxiliary.schema)
        if shape.remembers_all:
            return
        rows = auxiliary.size().rows
        if rows < 2 * int(auxiliary.properties.get(SETTLED_PROPERTY, 0)) + SETTLED_ROWS:
            return
        schema = auxiliary.schema
        events = Given(
            new=_version(auxiliary),
            stored=None,
            shown=None,
            events=schema,
            columns=pa.schema([schema.field(key) for key in shape.keys]),
            everything=True,
            truncate=truncate,
        )
        decision = Decision(
            shape=shape,
            keys=key_columns(shape.keys),
            row_keys=shape.keys,
            identity=shape.keys,
            truncated_at=sequence_of(truncate),
            settles=True,
        )
        settled = self._mapped(by_key(events, shape.keys, shape.keys), decision)
        own = Receipt(app_id=f"{receipt.app_id}/settled", batch_id=receipt.batch_id)
        kept = remembered(settled, schema, truncate)
        auxiliary.replace_query(self._engine, kept, schema, schema, receipt=own, partition_cols=())
        reach("cdc.settled")
        auxiliary.set_properties({SETTLED_PROPERTY: str(auxiliary.size().rows)})
        auxiliary.remove_old_files()


def _version(table: Table) -> Relation:
    return plan.delta(table.location, table.version)


def _payload(schema: pa.Schema) -> pa.Schema:
    """Return the columns of the target among those of the auxiliary table."""
    return pa.schema([field for field in schema if not field.name.startswith(PREFIX)])
