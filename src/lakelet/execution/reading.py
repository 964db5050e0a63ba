"""Reading a pipeline's tables from outside of an update."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from lakelet.errors import DefinitionError, Origin, SourceError
from lakelet.execution.binding import Binder
from lakelet.execution.diagnosis import missing_table
from lakelet.execution.resolution import Resolver
from lakelet.plan import relation as plan
from lakelet.plan.clock import with_clock
from lakelet.plan.normalize import normalize
from lakelet.plan.relation import Relation
from lakelet.plan.sources import leaves
from lakelet.storage.base import TableStore
from lakelet.storage.delta_log import latest_version

EVENT_LOG_NAMES = ("event_log", "event_log_raw")
"""Databricks' example queries read a view of the event log by the second name."""


def run_query(resolver: Resolver, sql: str, *, event_log: str) -> pa.Table:
    """Return the result of a read-only query over the newest committed versions.

    Raises:
        DefinitionError: `NOT_A_QUERY` for anything that is not a SELECT.
    """
    return resolver.engine.collect(bound_query(resolver, sql, event_log=event_log))


def bound_query(resolver: Resolver, sql: str, *, event_log: str) -> Relation:
    """Return a query over the newest committed versions, for an engine to run.

    Raises:
        DefinitionError: `NOT_A_QUERY` for anything that is not a SELECT.
    """
    from lakelet.plan.sql import is_query

    if not is_query(sql):
        raise DefinitionError(
            "NOT_A_QUERY",
            "only a query can be run here",
            cause=sql.strip()[:200],
            hint="write one SELECT; only the pipeline writes its tables",
        )
    return bound_relation(resolver, normalize(plan.sql(sql)), event_log=event_log)


def bound_relation(resolver: Resolver, relation: Relation, *, event_log: str) -> Relation:
    """Return a normalized tree over the newest committed versions, for an engine to run."""
    own = {resolver.names.resolve(name).key: event_log for name in EVENT_LOG_NAMES}
    resolver.external = {**resolver.external, **own}
    binder = Binder(resolver)
    inputs = binder.inputs(relation, Origin())
    versions = {}
    for location, label in inputs.locations.items():
        version = latest_version(location)
        if version is None:
            raise _not_there(label, location, is_own=location.startswith(str(resolver.catalog.storage / "tables")))
        versions[location] = version
    if inputs.streams:
        streams = ", ".join(f"`{name}`" for name in inputs.streams)
        views = ", ".join(f"`{leaf.label}`" for leaf in leaves(relation) if not leaf.streaming) or "the query"
        raise DefinitionError(
            "QUERY_OVER_STREAM",
            f"{views} reads a stream of {streams}, and a query needs stored rows",
            hint=f"read {streams} itself, or a table that is made from the view",
        )
    resolver.analyze(relation, Origin())
    bound = binder.bind(relation, Origin(), slices={}, versions=versions)
    return with_clock(bound.rows, datetime.now(UTC), time_zone=resolver.time_zone)


def _not_there(label: str, location: str, *, is_own: bool) -> SourceError:
    """Return the error for a table that cannot be read yet."""
    if not is_own and label not in EVENT_LOG_NAMES:
        return missing_table(label, location)
    return SourceError(
        "DATASET_NOT_MATERIALIZED",
        f"`{label}` has no rows yet",
        cause="no update of this pipeline has written it",
        hint="run `lakelet run` first",
    )


def read_table(store: TableStore, location: str, label: str) -> pa.Table:
    """Return all rows of a stored table."""
    table = store.open(location)
    if table is None:
        raise _not_there(label, location, is_own=True)
    return table.rows()
