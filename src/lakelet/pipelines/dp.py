"""Declarative pipelines, current names: what `from pyspark import pipelines as dp` gives there."""

from __future__ import annotations

import sys
from typing import Any

from lakelet.pipelines.auto_cdc import create_auto_cdc_flow, create_auto_cdc_from_snapshot_flow
from lakelet.pipelines.decorators import (
    append_flow,
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
from lakelet.pipelines.reads import read, read_stream
from lakelet.pipelines.sinks import create_sink, foreach_batch_sink, update_flow
from lakelet.pipelines.unsupported import replace_flow

view = temporary_view
apply_changes = create_auto_cdc_flow
apply_changes_from_snapshot = create_auto_cdc_from_snapshot_flow
readStream = read_stream


def __getattr__(name: str) -> Any:
    raise AttributeError(f"`dp` has no `{name}`", name=name, obj=sys.modules[__name__])


__all__ = [
    "append_flow",
    "apply_changes",
    "apply_changes_from_snapshot",
    "create_auto_cdc_flow",
    "create_auto_cdc_from_snapshot_flow",
    "create_sink",
    "create_streaming_table",
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
