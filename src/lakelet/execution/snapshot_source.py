"""Sources of snapshots: a table or view, read whole, or a function that hands out one snapshot after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import BooleanType, StructField, StructType

from lakelet.errors import CdcError, DefinitionError
from lakelet.execution.auto_cdc_schema import END_AT, PREFIX, START_AT, target_schema
from lakelet.execution.checkpoint import Batch, Checkpoint, read_generation
from lakelet.execution.snapshot_versions import SnapshotVersion, check_order, version_of
from lakelet.graph.elements import AutoCdcFlow, Dataset, SnapshotCdcFlow
from lakelet.pipelines.phase import Phase, phase
from lakelet.pipelines.session import relation_of
from lakelet.pipelines.user_errors import query_function_failed
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.sources import is_streaming

if TYPE_CHECKING:
    from lakelet.execution.resolution import Resolver

GONE = PREFIX + "gone"
"""Column of change rows made from snapshots: the key is in the target and not in the snapshot."""
SOURCE = "snapshot"
"""Name of the one source in a batch's intent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One snapshot to compare with the target.

    Attributes:
        rows: its query, as the user wrote it.
        version: None for one that is taken now.
    """

    rows: Relation
    version: SnapshotVersion | None = None


def label_of(flow: SnapshotCdcFlow) -> str:
    """Return what to call the source in messages."""
    if isinstance(flow.source, str):
        return flow.source
    return str(getattr(flow.source, "__name__", "the snapshot function"))


def next_snapshot(
    resolver: Resolver, flow: SnapshotCdcFlow, latest: SnapshotVersion | None, *, time_zone: str
) -> Snapshot | None:
    """Return the snapshot that comes after version `latest`, None if there is none yet.

    A function may read tables outside of the pipeline to find out which snapshot is next.

    Raises:
        LakeletError: what the user's function raised; `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.*` for what it returned.
    """
    if isinstance(flow.source, str):
        return Snapshot(rows=plan.named(flow.source))
    from pyspark.sql.connect.dataframe import DataFrame

    try:
        with phase(Phase.LOAD):
            found = flow.source(None if latest is None else latest.value)
    except Exception as error:
        raise query_function_failed(error, name=flow.name, origin=flow.origin, root=resolver.catalog.root) from error
    if found is None:
        return None
    if not isinstance(found, tuple) or len(found) != 2 or not (found[0] is None or isinstance(found[0], DataFrame)):
        raise DefinitionError(
            "QUERY_FUNCTION_RETURNED_NO_DATAFRAME",
            f"the snapshot function of `{flow.name}` returned {found!r:.80}",
            origin=flow.origin,
            hint="return (DataFrame, version), or None if there is no further snapshot",
        )
    if found[0] is None:
        return None
    rows = resolver.prepared(relation_of(found[0]))
    if is_streaming(rows):
        raise DefinitionError(
            "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_SNAPSHOT",
            f"the snapshot function of `{flow.name}` returned a stream",
            origin=flow.origin,
            cause="a snapshot is all rows at one moment",
            hint="read it with `spark.read` instead of `spark.readStream`",
        )
    version = version_of(found[1], flow, time_zone=time_zone)
    check_order(version, latest, flow)
    return Snapshot(rows=rows, version=version)


def latest_version(batch: Batch | None) -> SnapshotVersion | None:
    """Return the version of the snapshot that a batch took."""
    return None if batch is None else SnapshotVersion.from_json(batch.sources[SOURCE]["version"])


def first_snapshot_missing(flow: SnapshotCdcFlow) -> CdcError:
    return CdcError(
        "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.FIRST_SNAPSHOT_EMPTY",
        f"the snapshot function of `{flow.name}` returned no snapshot when it was first asked",
        origin=flow.origin,
        cause="it gets None at first; without a snapshot the target has no columns",
        hint="return the oldest snapshot there is when the argument is None",
    )


def change_flow(flow: SnapshotCdcFlow, version: SnapshotVersion) -> AutoCdcFlow:
    """Return the flow that applies the changes found in one snapshot: its version is the sequence of all of them."""
    return AutoCdcFlow(
        name=flow.name,
        target=flow.target,
        source=label_of(flow),
        keys=flow.keys,
        sequence_by=version.sql,
        origin=flow.origin,
        scd_type=flow.scd_type,
        apply_as_deletes=f"`{GONE}`",
        except_column_list=(GONE,),
        track_history_column_list=flow.track_history_column_list,
        track_history_except_column_list=flow.track_history_except_column_list,
    )


def change_columns(columns: StructType) -> StructType:
    """Return the columns of change rows: those of the snapshot, and whether the key is gone."""
    return StructType([*columns.fields, StructField(GONE, BooleanType(), False)])


def planned_relation(resolver: Resolver, flow: SnapshotCdcFlow, dataset: Dataset) -> Relation:
    """Return the query of the snapshot that an update would take now; where there is none, one without rows.

    Raises:
        CdcError: `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.FIRST_SNAPSHOT_EMPTY`.
    """
    if isinstance(flow.source, str):
        return plan.named(flow.source)
    snapshot = _planned(resolver, flow)
    if snapshot is not None:
        return snapshot.rows
    known = _known_columns(resolver, flow, dataset)
    return plan.empty(StructType([field for field in known if field.name not in (START_AT, END_AT)]))


def snapshot_target(resolver: Resolver, flow: SnapshotCdcFlow, dataset: Dataset) -> StructType:
    """Return the columns of the target; where a function has no further snapshot, those that it has or declares.

    Raises:
        CdcError: `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.FIRST_SNAPSHOT_EMPTY`.
        DefinitionError: the flow does not fit the columns of the snapshot.
    """
    if isinstance(flow.source, str):
        return _target_columns(flow, resolver.analyze(plan.named(flow.source), flow.origin), _NOW)
    snapshot = _planned(resolver, flow)
    if snapshot is None or snapshot.version is None:
        return _known_columns(resolver, flow, dataset)
    return _target_columns(flow, resolver.analyze(snapshot.rows, flow.origin), snapshot.version)


def _planned(resolver: Resolver, flow: SnapshotCdcFlow) -> Snapshot | None:
    folder = resolver.catalog.checkpoint(flow.target)
    latest = None
    if folder.is_dir():
        latest = latest_version(Checkpoint(folder, flow.name, read_generation(folder)).committed())
    return next_snapshot(resolver, flow, latest, time_zone=resolver.time_zone)


def _known_columns(resolver: Resolver, flow: SnapshotCdcFlow, dataset: Dataset) -> StructType:
    stored = resolver.store.open(resolver.catalog.location(flow.target))
    if stored is not None:
        return from_arrow_schema(stored.schema)
    if dataset.schema is not None:
        return resolver.schema(dataset.name)
    raise first_snapshot_missing(flow)


_NOW = SnapshotVersion(kind="datetime", value=None)
"""Stands for the time at which a snapshot of a table will be taken; only its type is asked."""


def _target_columns(flow: SnapshotCdcFlow, columns: StructType, version: SnapshotVersion) -> StructType:
    declared = AutoCdcFlow(
        name=flow.name,
        target=flow.target,
        source=label_of(flow),
        keys=flow.keys,
        sequence_by="",
        origin=flow.origin,
        scd_type=flow.scd_type,
        track_history_column_list=flow.track_history_column_list,
        track_history_except_column_list=flow.track_history_except_column_list,
    )
    return target_schema(declared, columns, version.type)
