"""A query over stored tables, without any code of the pipeline, and its first rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from lakelet.engine.base import Engine
from lakelet.execution.reading import bound_query
from lakelet.execution.resolution import Resolver
from lakelet.names import NameContext
from lakelet.plan.relation import limited
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_rs import DeltaRsStore

if TYPE_CHECKING:
    from lakelet.plan.relation import Relation


def resolver_of(
    engine: Engine, *, names: NameContext, catalog: Catalog, tables: Mapping[str, str], time_zone: str
) -> Resolver:
    """Return what names mean in a query over stored tables; no code of the pipeline is loaded for it.

    Args:
        tables: display name → location.
    """
    external = {names.resolve(name).key: location for name, location in tables.items()}
    return Resolver(
        names=names, catalog=catalog, engine=engine, store=DeltaRsStore(), external=external, time_zone=time_zone
    )


def query_over_tables(
    engine: Engine,
    sql: str,
    *,
    names: NameContext,
    catalog: Catalog,
    tables: Mapping[str, str],
    event_log: str,
    time_zone: str,
) -> Relation:
    """Return a query over stored tables, for an engine to run.

    Args:
        tables: display name → location.
    """
    resolver = resolver_of(engine, names=names, catalog=catalog, tables=tables, time_zone=time_zone)
    return bound_query(resolver, sql, event_log=event_log)


def collect(engine: Engine, relation: Relation, *, limit: int, max_bytes: int) -> tuple[pa.Table, bool]:
    """Return the first rows, and whether there are more."""
    reader = engine.stream(limited(relation, limit + 1))
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if size > max_bytes:
            break
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return table.slice(0, limit), rows > limit or size > max_bytes
