"""The declarative API for AUTO CDC flows.

Parameters and defaults: https://docs.databricks.com/aws/en/ldp/developer/ldp-python-ref-apply-changes
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lakelet.errors import DefinitionError, Origin
from lakelet.graph.elements import AutoCdcFlow, SnapshotCdcFlow
from lakelet.names import TableName
from lakelet.pipelines import parameters as check
from lakelet.pipelines.parameters import declarative
from lakelet.pipelines.registry import Registry, active_registry


@declarative
def create_auto_cdc_flow(
    target: str,
    source: str,
    keys: Sequence[Any],
    sequence_by: Any,
    apply_as_deletes: Any = None,
    column_list: Sequence[Any] | None = None,
    except_column_list: Sequence[Any] | None = None,
    stored_as_scd_type: int | str = 1,
    name: str | None = None,
    *,
    ignore_null_updates: bool = False,
    apply_as_truncates: Any = None,
    track_history_column_list: Sequence[Any] | None = None,
    track_history_except_column_list: Sequence[Any] | None = None,
    once: bool = False,
    ignore_null_updates_column_list: Sequence[Any] | None = None,
    ignore_null_updates_except_column_list: Sequence[Any] | None = None,
    columns_to_update: Any = None,
    flow_name: str | None = None,
    where: Any = None,
    system_sequence_by: Any = None,
    spark_conf: Mapping[str, str] | None = None,
    comment: str | None = None,
) -> None:
    """Declare a flow that applies change rows to a streaming table.

    For each key the row with the greatest `sequence_by` wins, whatever the order of arrival. The order of the positional
    arguments is Apache Spark's; `dlt.create_auto_cdc_flow` has that of `dlt.apply_changes`.

    Args:
        target: a table declared by `create_streaming_table`; only AUTO CDC flows may write it.
        source: name of the dataset with the change rows.
        keys: columns that identify a row; names or `col(...)`.
        sequence_by: logical order of the changes of a key: name, expression or `struct(...)`.
        name: default: the target's name. `flow_name` is its older spelling.
        ignore_null_updates_column_list, ignore_null_updates_except_column_list: giving one implies
            `ignore_null_updates`.
        columns_to_update: name of a source column of type ARRAY<STRING> with the columns that an event sets, NULLs
            included; the others keep their values. A NULL array: all columns.
        where: a condition that every change row must satisfy; a row that does not fails the batch.
        once: apply what the source has at the first run, and nothing more until a full refresh. The source may be a
            table whose rows change.
        stored_as_scd_type: 1 keeps the latest row of a key; 2 keeps every version, with `__START_AT` and
            `__END_AT`.
    """
    declare_auto_cdc(
        target=target,
        source=source,
        keys=keys,
        sequence_by=sequence_by,
        ignore_null_updates=ignore_null_updates,
        apply_as_deletes=apply_as_deletes,
        apply_as_truncates=apply_as_truncates,
        column_list=column_list,
        except_column_list=except_column_list,
        stored_as_scd_type=stored_as_scd_type,
        track_history_column_list=track_history_column_list,
        track_history_except_column_list=track_history_except_column_list,
        name=name,
        flow_name=flow_name,
        once=once,
        ignore_null_updates_column_list=ignore_null_updates_column_list,
        ignore_null_updates_except_column_list=ignore_null_updates_except_column_list,
        columns_to_update=columns_to_update,
        where=where,
        system_sequence_by=system_sequence_by,
        spark_conf=spark_conf,
        comment=comment,
    )


@declarative
def create_auto_cdc_from_snapshot_flow(
    target: str,
    source: Any = None,
    keys: Sequence[Any] | None = None,
    stored_as_scd_type: int | str = 1,
    snapshot_and_version: Callable[[Any], Any] | None = None,
    track_history_column_list: Sequence[Any] | None = None,
    track_history_except_column_list: Sequence[Any] | None = None,
    *,
    once: bool = False,
    name: str | None = None,
    flow_name: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    comment: str | None = None,
) -> None:
    """Declare a flow that finds changes by comparing snapshots: new keys, rows that differ, keys that are gone.

    Args:
        target: a table declared by `create_streaming_table`; no other flow may write it.
        source: name of a table or view, of which a snapshot is taken at each update; or a function that gets the version
            of the last snapshot, None at first, and returns (DataFrame, version) of the next, or None if there is none.
        keys: columns that identify a row; names or `col(...)`.
        stored_as_scd_type: 1 keeps the latest row of a key; 2 keeps every version, with `__START_AT` and `__END_AT`.
        snapshot_and_version: older name of `source` where that is a function.
        once: take the snapshots that there are at the first run, and no more until a full refresh.
        name: default: the target's name. `flow_name` is its older spelling.
    """
    scd_type = _scd_type(stored_as_scd_type)
    check.not_together(source=source, snapshot_and_version=snapshot_and_version)
    check.not_together(
        track_history_column_list=track_history_column_list,
        track_history_except_column_list=track_history_except_column_list,
    )
    check.not_together(name=name, flow_name=flow_name)
    _check_scd_type_only(scd_type, None, track_history_column_list, track_history_except_column_list)
    if keys is None:
        raise DefinitionError(
            "ARGUMENT_REQUIRED",
            "`create_auto_cdc_from_snapshot_flow` needs the argument `keys`",
            hint="add `keys=[...]`",
        )
    registry = active_registry("create_auto_cdc_from_snapshot_flow")
    resolved, flow, origin = _flow_names(registry, target, name, flow_name)
    taken = source if source is not None else snapshot_and_version
    if not callable(taken):
        taken = check.text("source", taken)
        registry.names.resolve(taken, origin=origin)
    registry.add_flow(
        SnapshotCdcFlow(
            name=flow,
            target=resolved,
            source=taken,
            keys=_keys(keys),
            origin=origin,
            scd_type=scd_type,
            track_history_column_list=check.column_names("track_history_column_list", track_history_column_list),
            track_history_except_column_list=check.column_names(
                "track_history_except_column_list", track_history_except_column_list
            ),
            once=check.flag("once", once),
            spark_conf=check.settings("spark_conf", spark_conf),
            comment=check.optional_text("comment", comment),
        )
    )


def declare_auto_cdc(
    *,
    target: Any,
    source: Any,
    keys: Any,
    sequence_by: Any,
    ignore_null_updates: Any,
    apply_as_deletes: Any,
    apply_as_truncates: Any,
    column_list: Any,
    except_column_list: Any,
    stored_as_scd_type: Any,
    track_history_column_list: Any,
    track_history_except_column_list: Any,
    name: Any,
    flow_name: Any,
    once: Any,
    ignore_null_updates_column_list: Any,
    ignore_null_updates_except_column_list: Any,
    columns_to_update: Any,
    where: Any,
    system_sequence_by: Any = None,
    spark_conf: Any = None,
    comment: Any = None,
) -> None:
    """Check the arguments of an AUTO CDC flow and register it."""
    check.refuse("system_sequence_by", system_sequence_by, hint="bitemporal history needs Databricks; use SCD type 2")
    scd_type = _scd_type(stored_as_scd_type)
    check.not_together(column_list=column_list, except_column_list=except_column_list)
    check.not_together(
        track_history_column_list=track_history_column_list,
        track_history_except_column_list=track_history_except_column_list,
    )
    check.not_together(
        ignore_null_updates_column_list=ignore_null_updates_column_list,
        ignore_null_updates_except_column_list=ignore_null_updates_except_column_list,
    )
    if columns_to_update is not None:
        given = (ignore_null_updates, ignore_null_updates_column_list, ignore_null_updates_except_column_list)
        check.not_together(ignore_null_updates=any(given), columns_to_update=True)
    check.not_together(name=name, flow_name=flow_name)
    _check_scd_type_only(scd_type, apply_as_truncates, track_history_column_list, track_history_except_column_list)
    registry = active_registry("create_auto_cdc_flow")
    resolved, flow, origin = _flow_names(registry, target, name, flow_name)
    registry.names.resolve(check.text("source", source), origin=origin)
    only_nulls_of = check.column_names("ignore_null_updates_column_list", ignore_null_updates_column_list)
    no_nulls_of = check.column_names("ignore_null_updates_except_column_list", ignore_null_updates_except_column_list)
    registry.add_flow(
        AutoCdcFlow(
            name=flow,
            target=resolved,
            source=source,
            keys=_keys(keys),
            sequence_by=check.expression("sequence_by", sequence_by),
            origin=origin,
            scd_type=scd_type,
            apply_as_deletes=_optional_expression("apply_as_deletes", apply_as_deletes),
            apply_as_truncates=_optional_expression("apply_as_truncates", apply_as_truncates),
            column_list=check.column_names("column_list", column_list),
            except_column_list=check.column_names("except_column_list", except_column_list),
            track_history_column_list=check.column_names("track_history_column_list", track_history_column_list),
            track_history_except_column_list=check.column_names(
                "track_history_except_column_list", track_history_except_column_list
            ),
            ignore_null_updates=check.flag("ignore_null_updates", ignore_null_updates)
            or bool(only_nulls_of or no_nulls_of),
            ignore_null_updates_column_list=only_nulls_of,
            ignore_null_updates_except_column_list=no_nulls_of,
            columns_to_update=None
            if columns_to_update is None
            else check.column_name("columns_to_update", columns_to_update),
            where=_optional_expression("where", where),
            once=check.flag("once", once),
            spark_conf=check.settings("spark_conf", spark_conf),
            comment=check.optional_text("comment", comment),
        )
    )


def _flow_names(registry: Registry, target: Any, name: Any, flow_name: Any) -> tuple[TableName, str, Origin]:
    """Return the target, the name of the flow, by default that of its target, and where it is declared."""
    origin = registry.origin()
    resolved = registry.names.resolve(check.text("target", target), origin=origin)
    shown = registry.names.display(resolved)
    flow = check.optional_text("name", name) or check.optional_text("flow_name", flow_name) or shown
    return resolved, flow, replace(origin, dataset=shown, flow=flow)


def _scd_type(value: Any) -> int:
    if str(value) == "bitemporal":
        raise check.unsupported("SCD type `bitemporal` is not supported in this release", hint="use SCD type 2")
    if isinstance(value, bool) or str(value) not in ("1", "2", "None"):
        raise DefinitionError(
            "INVALID_PARAMETER_VALUE",
            f"`stored_as_scd_type` is {value!r}",
            cause="1 keeps the latest row of a key, 2 keeps every version",
            hint="write `stored_as_scd_type=1` or `stored_as_scd_type=2`",
        )
    return 1 if value is None else int(value)


def _check_scd_type_only(scd_type: int, truncates: Any, tracked: Any, untracked: Any) -> None:
    """Refuse parameters that the other SCD type has."""
    if scd_type == 1 and (tracked or untracked):
        raise DefinitionError(
            "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2",
            "the `track_history_*` lists need SCD type 2",
            cause="SCD type 1 keeps no history",
            hint="add `stored_as_scd_type=2`, or remove the list",
        )
    if scd_type == 2 and truncates is not None:
        raise DefinitionError(
            "AUTOCDC_TRUNCATE_REQUIRES_SCD1",
            "`apply_as_truncates` needs SCD type 1",
            cause="SCD type 2 keeps the history that a truncate would remove",
            hint="remove `apply_as_truncates`",
        )


def _keys(keys: Any) -> tuple[str, ...]:
    names = check.column_names("keys", keys)
    if not names:
        raise DefinitionError(
            "AUTOCDC_EMPTY_KEYS", "`keys` is empty", hint="name at least one column that identifies a row"
        )
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise DefinitionError(
            "AUTOCDC_DUPLICATE_KEY", f"`keys` has `{twice[0]}` twice", hint="name each key column once"
        )
    return names


def _optional_expression(name: str, value: Any) -> Any:
    return None if value is None else check.expression(name, value)
