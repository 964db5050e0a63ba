"""Run one pipeline file with `pyspark.pipelines` made of the functions of Databricks' stub; prints the calls as JSON.

A script: `python load_with_stub.py <folder of the stub> <pipeline file>`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import runpy
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import pyspark
import pyspark.pipelines as apache

NAMES: dict[str, tuple[str, dict[str, str]]] = {
    "table": ("table", {"private": "temporary"}),
    "materialized_view": ("table", {"private": "temporary"}),
    "temporary_view": ("view", {}),
    "view": ("view", {}),
    "create_streaming_table": ("create_streaming_table", {}),
    "append_flow": ("append_flow", {}),
    "create_auto_cdc_flow": ("apply_changes", {"name": "flow_name"}),
    "create_auto_cdc_from_snapshot_flow": ("apply_changes_from_snapshot", {}),
    "read": ("read", {}),
    "read_stream": ("read_stream", {}),
    "expect": ("expect", {}),
    "expect_or_drop": ("expect_or_drop", {}),
    "expect_or_fail": ("expect_or_fail", {}),
    "expect_all": ("expect_all", {}),
    "expect_all_or_drop": ("expect_all_or_drop", {}),
    "expect_all_or_fail": ("expect_all_or_fail", {}),
}
"""Current name: the stub's name, and its names of parameters where they differ."""

calls: list[tuple[str, list[str]]] = []


def checked(name: str, theirs: Callable[..., Any], renamed: Mapping[str, str]) -> Callable[..., Any]:
    """Return the stub's function under its current name, its arguments checked against both signatures."""
    own = inspect.signature(getattr(apache, name)) if name in apache.__all__ else None

    def call(*args: Any, **kwargs: Any) -> Any:
        given = {renamed.get(key, key): value for key, value in kwargs.items()}
        inspect.signature(theirs).bind(*args, **given)
        if own is not None:  # keywords that only Databricks has belong to features that Apache lacks
            own.bind(*args, **{key: value for key, value in kwargs.items() if key in own.parameters})
        calls.append((name, sorted(kwargs)))
        return theirs(*args, **given)

    return call


def main(stubs: str, file: str) -> None:
    warnings.simplefilter("ignore")
    sys.path.insert(0, stubs)
    dlt = importlib.import_module("dlt")
    assert str(dlt.__file__).startswith(stubs), dlt.__file__
    importlib.import_module("dlt.api").enable_local_execution()
    dp: Any = types.ModuleType("pyspark.pipelines")
    for name, (stub_name, renamed) in NAMES.items():
        setattr(dp, name, checked(name, getattr(dlt, stub_name), renamed))
    sys.modules["pyspark.pipelines"] = pyspark.pipelines = dp
    runpy.run_path(file, init_globals={"spark": mock.MagicMock(), "dbutils": mock.MagicMock(), "display": print})
    sys.stdout.write(json.dumps(calls) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
