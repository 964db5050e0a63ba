"""AUTO CDC, its input: change rows as events, checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.connect import proto
from pyspark.sql.types import DataType, StructType

from lakelet.errors import CdcError
from lakelet.execution.auto_cdc_history import latest_truncate
from lakelet.execution.auto_cdc_schema import (
    APP_ID,
    BATCH_ID,
    DELETE,
    KEPT,
    SEQUENCE,
    STORED_AT,
    TRUNCATE,
    null_keeping_names,
    selected_fields,
)
from lakelet.names import quote
from lakelet.plan import relation
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt
from lakelet.storage.schema import conform, nullable

if TYPE_CHECKING:
    from lakelet.graph.elements import AutoCdcFlow

EXAMPLES = 5


def event_relation(flow: AutoCdcFlow, source: StructType, changes: Relation, spelling: dict[str, str]) -> Relation:
    """Return one event per change row, 1:1.

    Columns: the sequence, whether it is a delete, whether it is a truncate and which NULLs keep a value (both only if
    the flow has such), then the target's columns. Of a delete only the keys are left, of a truncate only the sequence,
    so that two of them with the same sequence are equal. A NULL delete or truncate condition is an upsert.

    Args:
        spelling: folded column names to the spelling that the stored tables have.
    """
    conditions = {SEQUENCE: relation.expression_of(flow.sequence_by)}
    conditions[DELETE] = relation.is_true(_expression_or_false(flow.apply_as_deletes))
    conditions[TRUNCATE] = relation.is_true(_expression_or_false(flow.apply_as_truncates))
    fields = selected_fields(flow, source)
    keys = {key.lower() for key in flow.keys}
    is_truncate, is_upsert = quote(TRUNCATE), f"NOT {quote(TRUNCATE)} AND NOT {quote(DELETE)}"
    outputs = [quote(SEQUENCE), f"{quote(DELETE)} AND NOT {is_truncate} AS {quote(DELETE)}"]
    if flow.apply_as_truncates is not None:
        outputs.append(is_truncate)
    keeping = null_keeping_names(flow, [field.name for field in fields])
    if keeping:
        kept = [
            f"CASE WHEN {_left_out(flow, field.name) or f'{value} IS NULL'} THEN {literal(path)} END"
            for field in fields
            if field.name in keeping
            for path, value in kept_paths(field.name, field.dataType)
        ]
        outputs.append(f"CASE WHEN {is_upsert} THEN array_compact(array({', '.join(kept)})) END AS {quote(KEPT)}")
    for field in fields:
        name, alias = quote(field.name), quote(spelling.get(field.name.lower(), field.name))
        condition = f"NOT {is_truncate}" if field.name.lower() in keys else is_upsert
        left_out = _left_out(flow, field.name) if field.name in keeping else None
        if left_out:
            condition += f" AND NOT {left_out}"
        outputs.append(f"CASE WHEN {condition} THEN {name} END AS {alias}")
    return relation.sql(
        f"SELECT {', '.join(outputs)} FROM changes", {"changes": relation.with_columns(changes, conditions)}
    )


def kept_paths(name: str, kind: DataType) -> Iterator[tuple[str, str]]:
    """Yield (path, expression) of everything in a column whose NULL keeps the value before."""
    yield from _kept_paths(quote(name), quote(name), kind)


def _kept_paths(path: str, value: str, kind: DataType) -> Iterator[tuple[str, str]]:
    yield path, value
    for field in kind if isinstance(kind, StructType) else ():
        # Under a NULL struct Sail 0.7.2 shows arbitrary values.
        inner = f"(CASE WHEN {value} IS NOT NULL THEN {value}.{quote(field.name)} END)"
        yield from _kept_paths(f"{path}.{quote(field.name)}", inner, field.dataType)


def _left_out(flow: AutoCdcFlow, column: str) -> str | None:
    """Return the condition under which an event does not set `column`, never NULL; None without `columns_to_update`."""
    if flow.columns_to_update is None:
        return None
    listed = quote(flow.columns_to_update)
    return (
        f"({listed} IS NOT NULL AND NOT "
        f"coalesce(array_contains(transform({listed}, c -> lower(c)), {literal(column.lower())}), false))"
    )


def outside(flow: AutoCdcFlow, changes: Relation) -> Relation:
    """Return the change rows that do not satisfy the flow's `where`."""
    return relation.filtered(changes, relation.call("not", relation.is_true(relation.expression_of(flow.where))))


def where_violated(flow: AutoCdcFlow, count: int, examples: pa.Table) -> CdcError:
    """Return the error for change rows that do not satisfy the flow's `where`."""
    rows = "\n".join(str(row)[:300] for row in examples.to_pylist())
    return CdcError(
        "AUTOCDC_WHERE_VIOLATED",
        f"{count} change rows of flow `{flow.name}` do not satisfy `where`; nothing of the batch was written",
        origin=flow.origin,
        cause=f"`where` is a promise about every change row, it filters none: {flow.where}\nfor example:\n{rows}",
        hint=f"filter the rows in a view, and use the view instead of `{flow.source}`, or remove `where`",
    )


def applicable(flow: AutoCdcFlow, changes: Relation) -> Relation:
    """Return the change rows that have keys and a sequence and satisfy `where`; a truncate needs no keys."""
    if flow.where is not None:
        changes = relation.filtered(changes, relation.is_true(relation.expression_of(flow.where)))
    names = {f"__lakelet_cdc_has_{number}": key for number, key in enumerate(flow.keys)}
    columns = {name: relation.call("isnotnull", _column(key)) for name, key in names.items()}
    columns["__lakelet_cdc_has_sequence"] = relation.call("isnotnull", relation.expression_of(flow.sequence_by))
    columns["__lakelet_cdc_truncates"] = relation.is_true(_expression_or_false(flow.apply_as_truncates))
    has_keys = " AND ".join(names)
    marked = relation.with_columns(changes, columns)
    kept = relation.filtered(
        marked, relation.expression(f"__lakelet_cdc_has_sequence AND (__lakelet_cdc_truncates OR ({has_keys}))")
    )
    result = relation.new()
    result.drop.input.CopyFrom(kept)
    result.drop.column_names.extend(columns)
    return result


def _column(name: str) -> proto.Expression:
    return relation.expression(quote(name))


def _expression_or_false(condition: Any) -> proto.Expression:
    return relation.expression_of("false" if condition is None else condition)


def literal(value: str) -> str:
    """Return a string as SQL text."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Events:
    """The events of one micro-batch on their way to the auxiliary table; iterating reads, checks and conforms them.

    Attributes:
        rows: how many there are.
        truncate: the truncate with the highest sequence, as an event; no rows if there is none.

    Args:
        schema: of the auxiliary table.
        keys: as that schema spells them.
        now: clock of the batch.
    """

    def __init__(
        self,
        reader: pa.RecordBatchReader,
        *,
        flow: AutoCdcFlow,
        schema: pa.Schema,
        keys: tuple[str, ...],
        receipt: Receipt,
        now: datetime | None = None,
    ) -> None:
        self._reader = reader
        self._flow = flow
        self._schema = schema
        self._keys = keys
        self._stamps = {
            APP_ID: pa.scalar(receipt.app_id),
            BATCH_ID: pa.scalar(receipt.batch_id),
            STORED_AT: pa.scalar(now, pa.timestamp("us", "UTC")),
        }
        self.rows = 0
        self.truncate = schema.empty_table()

    def reader(self) -> pa.RecordBatchReader:
        """Return the upserts and deletes, as a stream; after it `rows` and `truncate` are known."""
        return pa.RecordBatchReader.from_batches(self._schema, self._checked())

    def _checked(self) -> Iterator[pa.RecordBatch]:
        """Yield the events; after the first invalid one nothing more, and at the end the error.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.NULL_KEY` or `.NULL_SEQUENCE`.
        """
        null_keys, null_sequences = _Invalid(), _Invalid()
        for batch in self._reader:
            if not batch.num_rows:
                continue
            self.rows += batch.num_rows
            null_sequences.find(batch, _is_null(batch.column(SEQUENCE)))
            key_is_null = _any_null(batch, self._keys)
            if TRUNCATE in batch.schema.names:
                key_is_null = pc.and_(key_is_null, pc.invert(batch.column(TRUNCATE)))
            null_keys.find(batch, key_is_null)
            if not null_keys.count and not null_sequences.count:
                yield self._without_truncates(self._stamped(batch))
        if null_keys.count:
            raise null_key(self._flow, self._keys, null_keys.count, null_keys.examples)
        if null_sequences.count:
            raise null_sequence(self._flow, null_sequences.count, null_sequences.examples)

    def _without_truncates(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if TRUNCATE not in batch.schema.names:
            return batch
        is_truncate = pc.fill_null(batch.column(TRUNCATE), False)
        truncates = pa.Table.from_batches([batch.filter(is_truncate)])
        self.truncate = latest_truncate(pa.concat_tables([self.truncate, truncates]))
        return batch.filter(pc.invert(is_truncate))

    def _stamped(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        stamped = [*batch.columns, *(pa.repeat(value, batch.num_rows) for value in self._stamps.values())]
        names = [*batch.schema.names, *self._stamps]
        return conform(pa.RecordBatch.from_arrays(stamped, names=names), self._schema)


def null_key(flow: AutoCdcFlow, keys: tuple[str, ...], count: int, examples: list[str]) -> CdcError:
    """Return the error for change rows without a key."""
    return _invalid(flow, "NULL_KEY", f"a NULL in the key {', '.join(f'`{key}`' for key in keys)}", count, examples)


def null_sequence(flow: AutoCdcFlow, count: int, examples: list[str]) -> CdcError:
    """Return the error for change rows without a sequence."""
    return _invalid(flow, "NULL_SEQUENCE", "a NULL as `sequence_by`", count, examples)


def _invalid(flow: AutoCdcFlow, kind: str, what: str, count: int, examples: list[str]) -> CdcError:
    rows = "\n".join(examples)
    return CdcError(
        f"AUTOCDC_MICROBATCH_VALIDATION.{kind}",
        f"{count} change rows of flow `{flow.name}` have {what}; nothing of the batch was written",
        origin=flow.origin,
        cause=f"without it a change belongs to no row and has no place in its history\nfor example:\n{rows}",
        hint=f"drop such rows before the flow, for example with `expect_or_drop` on `{flow.source}`",
    )


def shown_changes(events: pa.Table | pa.RecordBatch) -> list[str]:
    """Return the first events as text, without what only we have added to them."""
    hidden = (DELETE, TRUNCATE, KEPT, APP_ID, BATCH_ID, STORED_AT)
    return [
        str({"sequence" if name == SEQUENCE else name: row[name] for name in row if name not in hidden})[:300]
        for row in events.slice(0, EXAMPLES).to_pylist()
    ]


class _Invalid:
    """How many rows are invalid, and the first few of them as text."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def find(self, batch: pa.RecordBatch, mask: pa.Array) -> None:
        found = pc.sum(mask).as_py() or 0
        self.count += found
        if found and len(self.examples) < EXAMPLES:
            self.examples += shown_changes(batch.filter(mask))[: EXAMPLES - len(self.examples)]


def _any_null(batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.Array:
    mask = pc.is_null(batch.column(names[0]))
    for name in names[1:]:
        mask = pc.or_(mask, pc.is_null(batch.column(name)))
    return mask


def _is_null(sequence: pa.Array) -> pa.Array:
    """Return where a sequence is NULL; a struct is when all its fields are."""
    mask = pc.is_null(sequence)
    if pa.types.is_struct(sequence.type):
        fields = [_is_null(sequence.field(index)) for index in range(sequence.type.num_fields)]
        every = fields[0]
        for field in fields[1:]:
            every = pc.and_(every, field)
        mask = pc.or_(mask, every)
    return mask


def auxiliary_schema(events: pa.Schema) -> pa.Schema:
    """Return the columns of the auxiliary table: those of the events, and the receipt and clock of the batch that added them."""
    stamps = [
        pa.field(APP_ID, pa.string()),
        pa.field(BATCH_ID, pa.int64()),
        pa.field(STORED_AT, pa.timestamp("us", "UTC")),
    ]
    return nullable(pa.schema([*events, *stamps]))
