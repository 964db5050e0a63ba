"""Declarative pipelines, legacy names: what `import dlt` gives inside a pipeline file.

Same registry as `dp`. Where the order of positional arguments differs (`append_flow`, `apply_changes`), this
module has the legacy one. Deprecated aliases leave a note in the event log, once per load.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from lakelet.pipelines import decorators
from lakelet.pipelines.auto_cdc import create_auto_cdc_from_snapshot_flow, declare_auto_cdc
from lakelet.pipelines.decorators import (
    create_streaming_table,
    expect,
    expect_all,
    expect_all_or_drop,
    expect_all_or_fail,
    expect_or_drop,
    expect_or_fail,
    materialized_view,
    table,
    temporary_view,
)
from lakelet.pipelines.hooks import on_event_hook
from lakelet.pipelines.parameters import declarative
from lakelet.pipelines.reads import read, read_stream
from lakelet.pipelines.registry import active_registry
from lakelet.pipelines.sinks import create_sink, foreach_batch_sink, update_flow
from lakelet.pipelines.unsupported import replace_flow

P = ParamSpec("P")
R = TypeVar("R")

view = temporary_view
readStream = read_stream
apply_changes_from_snapshot = create_auto_cdc_from_snapshot_flow


@declarative
def append_flow(
    name: str | None = None,
    target: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    once: bool = False,
) -> Any:
    """`dp.append_flow` with the legacy order of arguments."""
    return decorators.append_flow(**_given(target=target), name=name, once=once, spark_conf=spark_conf, comment=comment)


@declarative
def apply_changes(
    target: str,
    source: str,
    keys: Sequence[Any],
    sequence_by: Any,
    where: Any = None,
    ignore_null_updates: bool | None = None,
    apply_as_deletes: Any = None,
    apply_as_truncates: Any = None,
    column_list: Sequence[Any] | None = None,
    except_column_list: Sequence[Any] | None = None,
    stored_as_scd_type: int | str = "1",
    track_history_column_list: Sequence[Any] | None = None,
    track_history_except_column_list: Sequence[Any] | None = None,
    flow_name: str | None = None,
    once: bool = False,
    ignore_null_updates_column_list: Sequence[Any] | None = None,
    ignore_null_updates_except_column_list: Sequence[Any] | None = None,
    columns_to_update: Any = None,
    name: str | None = None,
    system_sequence_by: Any = None,
    spark_conf: Mapping[str, str] | None = None,
    comment: str | None = None,
) -> None:
    """`dp.create_auto_cdc_flow` with the legacy order of arguments."""
    declare_auto_cdc(
        target=target,
        source=source,
        keys=keys,
        sequence_by=sequence_by,
        where=where,
        ignore_null_updates=ignore_null_updates,
        apply_as_deletes=apply_as_deletes,
        apply_as_truncates=apply_as_truncates,
        column_list=column_list,
        except_column_list=except_column_list,
        stored_as_scd_type=stored_as_scd_type,
        track_history_column_list=track_history_column_list,
        track_history_except_column_list=track_history_except_column_list,
        flow_name=flow_name,
        name=name,
        once=once,
        ignore_null_updates_column_list=ignore_null_updates_column_list,
        ignore_null_updates_except_column_list=ignore_null_updates_except_column_list,
        columns_to_update=columns_to_update,
        system_sequence_by=system_sequence_by,
        spark_conf=spark_conf,
        comment=comment,
    )


create_auto_cdc_flow = apply_changes
"""Its new name; Databricks documents that the two have the same signature."""


def _given(**arguments: Any) -> dict[str, Any]:
    """Return the arguments that are not None, so that the callee says which one is missing."""
    return {name: value for name, value in arguments.items() if value is not None}


def _deprecated(alias: str, function: Callable[P, R]) -> Callable[P, R]:
    """Return `function` under a deprecated name."""

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        active_registry(alias).add_note(f"`dlt.{alias}` is deprecated: write `{function.__name__}`")
        return function(*args, **kwargs)

    call.__name__ = call.__qualname__ = alias
    call.__doc__ = f"Deprecated name of `{function.__name__}`."
    call.__wrapped__ = function  # type: ignore[attr-defined]
    return call


create_table = _deprecated("create_table", table)
create_view = _deprecated("create_view", temporary_view)
create_target_table = _deprecated("create_target_table", create_streaming_table)
create_streaming_live_table = _deprecated("create_streaming_live_table", create_streaming_table)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"`dlt` has no `{name}`", name=name, obj=sys.modules[__name__])


__all__ = [
    "append_flow",
    "apply_changes",
    "apply_changes_from_snapshot",
    "create_auto_cdc_flow",
    "create_auto_cdc_from_snapshot_flow",
    "create_sink",
    "create_streaming_live_table",
    "create_streaming_table",
    "create_table",
    "create_target_table",
    "create_view",
    "expect",
    "expect_all",
    "expect_all_or_drop",
    "expect_all_or_fail",
    "expect_or_drop",
    "expect_or_fail",
    "foreach_batch_sink",
    "materialized_view",
    "on_event_hook",
    "read",
    "readStream",
    "read_stream",
    "replace_flow",
    "table",
    "temporary_view",
    "update_flow",
    "view",
]
