"""AUTO CDC in a cluster, its queries: what the workers decide a batch from, and what they have decided."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import DataType, IntegerType, StructField, StructType

from lakelet.execution.auto_cdc_schema import PREFIX, TRUNCATE
from lakelet.execution.auto_cdc_worker import EVENT, KIND, NEW_EVENT, REMEMBERED, ROW, SIDE, STORED_EVENT, TARGET_ROW
from lakelet.names import quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a batch is decided from.

    Attributes:
        new: the events of the batch, stamped.
        stored: the events that are remembered; None if the batch begins from nothing.
        shown: the rows of the target; None if all of them are replaced.
        columns: those of the target's rows.
        everything: look at all keys, not only at those of the new events.
        truncate: the last truncate, as an event; no row if there is none.
    """

    new: Relation
    stored: Relation | None
    shown: Relation | None
    events: pa.Schema
    columns: pa.Schema
    everything: bool
    truncate: pa.Table


def by_key(given: Given, event_keys: tuple[str, ...], row_keys: tuple[str, ...]) -> Relation:
    """Return the events and rows that a batch is decided from, each key in one partition, its rows next to each other."""
    types = from_arrow_schema(given.columns)
    events = from_arrow_schema(given.events)
    of_event = [
        f"CAST({quote(key)} AS {types[row_key].dataType.simpleString()})"
        for key, row_key in zip(event_keys, row_keys, strict=True)
    ]
    no_truncates = f" WHERE NOT coalesce({TRUNCATE}, false)" if TRUNCATE in given.events.names else ""
    names = key_columns(row_keys)
    keys = ", ".join(f"{value} AS {name}" for value, name in zip(of_event, names, strict=True))
    of_rows = ", ".join(f"{quote(key)} AS {name}" for key, name in zip(row_keys, names, strict=True))
    of_events = f"{keys}, {_struct(events)} AS {EVENT}, NULL AS {ROW}"
    hit = plan.sql(f"SELECT {keys} FROM added{no_truncates}", {"added": given.new})
    joined = " AND ".join(f"rows.{name} = hit.{name}" for name in names)

    def part(side: int, source: Relation | None, columns: str, condition: str = "") -> list[Relation]:
        if source is None:
            return []
        found = plan.sql(f"SELECT {side} AS {SIDE}, {columns} FROM source{condition}", {"source": source})
        if side == NEW_EVENT or given.everything:
            return [found]
        sources = {"rows": found, "hit": plan.with_fresh_plan_ids(hit)}
        return [plan.sql(f"SELECT rows.* FROM rows LEFT SEMI JOIN hit ON {joined}", sources)]

    columns = [
        StructField(SIDE, IntegerType()),
        *(StructField(n, types[k].dataType) for n, k in zip(names, row_keys, strict=True)),
    ]
    typed = plan.empty(StructType([*columns, StructField(EVENT, events), StructField(ROW, types)]))
    found = [
        typed,
        *part(NEW_EVENT, given.new, of_events, no_truncates),
        *part(STORED_EVENT, given.stored, of_events, no_truncates),
        *part(TARGET_ROW, given.shown, f"{of_rows}, NULL AS {EVENT}, {_struct(types)} AS {ROW}"),
    ]
    return plan.clustered(plan.union(found), names)


def key_columns(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the columns by which the rows of a key are brought together."""
    return tuple(f"{PREFIX}key{number}" for number in range(len(keys)))


def _struct(columns: StructType) -> str:
    return f"struct({', '.join(quote(name) for name in columns.names)})"


def listed(column: str, names: list[str]) -> str:
    """Return the fields of a column of structs as columns."""
    return ", ".join(f"{column}.{quote(name)} AS {quote(name)}" for name in names)


def of_kind(decided: Relation, kind: str, column: str, names: list[str]) -> Relation:
    """Return the decided rows of one kind, with columns of their own."""
    return plan.sql(f"SELECT {listed(column, names)} FROM decided WHERE {KIND} = '{kind}'", {"decided": decided})


def remembered(decided: Relation, schema: pa.Schema, truncate: pa.Table) -> Relation:
    """Return the events to store, and the truncate."""
    events = of_kind(decided, REMEMBERED, EVENT, schema.names)
    return plan.union([events, plan.local(truncate)]) if truncate.num_rows else events


def is_null(value: str, kind: DataType) -> str:
    """Return the condition that a sequence is NULL; a struct is when all its fields are."""
    if not isinstance(kind, StructType):
        return f"{value} IS NULL"
    fields = " AND ".join(is_null(f"{value}.{quote(field.name)}", field.dataType) for field in kind)
    return f"({value} IS NULL OR ({fields}))"
