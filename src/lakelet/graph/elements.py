"""What a pipeline file declares: datasets, flows, expectations. Frozen data; nothing here runs anything."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lakelet.errors import NOWHERE, Origin
from lakelet.names import TableName

TOMBSTONE_PROPERTY = "pipelines.cdc.tombstoneGCThresholdInSeconds"
"""Table property of an AUTO CDC target: for how long deletes are remembered at least."""


class DatasetKind(enum.Enum):
    """What a dataset is; the values are Databricks' names in the event log."""

    STREAMING_TABLE = "STREAMING_TABLE"
    MATERIALIZED_VIEW = "MATERIALIZED_VIEW"
    TEMPORARY_VIEW = "VIEW"
    SINK = "SINK"
    TABLE = "TABLE"
    """Declared by `@table`: the DataFrame that its function returns decides between the first two."""

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


class Action(enum.Enum):
    """What happens to a row that violates an expectation."""

    WARN = "ALLOW"
    DROP = "DROP"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """A rule over the output rows of a dataset's query. A row passes where the condition is true; NULL fails.

    Attributes:
        condition: SQL text, or a pyspark Column.
    """

    name: str
    condition: Any
    action: Action
    origin: Origin = NOWHERE

    @property
    def text(self) -> str:
        return self.condition if isinstance(self.condition, str) else str(self.condition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """One declared dataset.

    Attributes:
        schema: explicit schema as a DDL string or a pyspark StructType, None where the query decides.
        cluster_by: clustering columns.
        path: storage location given by the user, None for the managed one.
        private: not listed for other readers; lives in the same storage.
        refresh_policy: materialized views: auto, incremental, incremental_strict or full.
        sink_format, sink_options: of a sink.
        sink_function: of a `foreach_batch_sink`, called with each batch and its id.
    """

    name: TableName
    kind: DatasetKind
    origin: Origin = NOWHERE
    comment: str | None = None
    schema: Any = None
    table_properties: Mapping[str, str] = field(default_factory=dict)
    partition_cols: tuple[str, ...] = ()
    cluster_by: tuple[str, ...] = ()
    cluster_by_auto: bool = False
    path: str | None = None
    private: bool = False
    spark_conf: Mapping[str, str] = field(default_factory=dict)
    expectations: tuple[Expectation, ...] = ()
    refresh_policy: str = "auto"
    sink_format: str | None = None
    sink_options: Mapping[str, str] = field(default_factory=dict)
    sink_function: Any = None

    @property
    def is_stored(self) -> bool:
        return self.kind not in (DatasetKind.TEMPORARY_VIEW, DatasetKind.SINK)


def reset_allowed(table_properties: Mapping[str, str]) -> bool:
    """Return whether a table with these properties may lose its rows: `pipelines.reset.allowed` is not false."""
    return str(table_properties.get("pipelines.reset.allowed", "true")).lower() != "false"


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlQuery:
    """The query of a flow that a .sql file declares; `line` is the file's line on which `text` starts."""

    text: str
    origin: Origin = NOWHERE


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One flow: a query whose rows go to a target.

    Attributes:
        query: a function without arguments that returns a DataFrame, or SQL text.
        once: runs a single time, with a batch query.
        implicit: declared by the dataset's own decorator, so it has the dataset's name.
        update_mode: output mode `update`, for sinks only.
    """

    name: str
    target: TableName
    query: Callable[[], Any] | SqlQuery
    origin: Origin = NOWHERE
    once: bool = False
    implicit: bool = True
    update_mode: bool = False
    comment: str | None = None
    spark_conf: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoCdcFlow:
    """One AUTO CDC flow: change rows of `source` applied to `target` in the order of `sequence_by`.

    Attributes:
        sequence_by, apply_as_deletes, apply_as_truncates: SQL text or a pyspark Column.
        scd_type: 1 or 2.
        column_list, except_column_list: which source columns the target has; at most one is set.
        track_history_column_list, track_history_except_column_list: SCD 2: which changes open a new version.
        ignore_null_updates: a NULL of an upsert keeps the value; restricted by the two lists that follow it.
        columns_to_update: name of a source column of type ARRAY<STRING>: the columns that an event sets.
        where: SQL text or a pyspark Column that every change row must satisfy.
        once: applies what is there at its first run, and nothing more until a full refresh.
    """

    name: str
    target: TableName
    source: str
    keys: tuple[str, ...]
    sequence_by: Any
    origin: Origin = NOWHERE
    scd_type: int = 1
    apply_as_deletes: Any = None
    apply_as_truncates: Any = None
    column_list: tuple[str, ...] | None = None
    except_column_list: tuple[str, ...] | None = None
    track_history_column_list: tuple[str, ...] | None = None
    track_history_except_column_list: tuple[str, ...] | None = None
    ignore_null_updates: bool = False
    ignore_null_updates_column_list: tuple[str, ...] | None = None
    ignore_null_updates_except_column_list: tuple[str, ...] | None = None
    columns_to_update: str | None = None
    where: Any = None
    once: bool = False
    comment: str | None = None
    spark_conf: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotCdcFlow:
    """One AUTO CDC flow from snapshots: each snapshot of the source is compared with the rows that `target` has.

    Attributes:
        source: name of a table or view that is read at each update, or a function: it gets the version of the last
            snapshot, None at first, and returns the next snapshot as (DataFrame, version), or None if there is none.
        scd_type: 1 or 2.
        track_history_column_list, track_history_except_column_list: SCD 2: which changes open a new version.
        once: takes one snapshot, or with a function those there are, and nothing more until a full refresh.
    """

    name: str
    target: TableName
    source: str | Callable[[Any], Any]
    keys: tuple[str, ...]
    origin: Origin = NOWHERE
    scd_type: int = 1
    track_history_column_list: tuple[str, ...] | None = None
    track_history_except_column_list: tuple[str, ...] | None = None
    once: bool = False
    comment: str | None = None
    spark_conf: Mapping[str, str] = field(default_factory=dict)


AnyFlow = Flow | AutoCdcFlow | SnapshotCdcFlow


@dataclass(frozen=True, slots=True)
class Definitions:
    """Everything that the files of a project declare, in the order of declaration."""

    datasets: tuple[Dataset, ...]
    flows: tuple[AnyFlow, ...]
