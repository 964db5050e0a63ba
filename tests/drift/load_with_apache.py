"""Run pipeline files with Apache's own `pyspark.pipelines` and print what its registry was given, as JSON.

What Apache lacks and the files use (see `lakelet check --target spark`) is taken out: rules change nothing, and keywords
that Apache does not have are left aside. A script: `python load_with_apache.py <pipeline file>...`.
"""

from __future__ import annotations

import inspect
import json
import runpy
import sys
import types
from pathlib import Path
from typing import Any
from unittest import mock

import pyspark
import pyspark.pipelines as apache
from pyspark.pipelines.graph_element_registry import GraphElementRegistry, graph_element_registration_context

LACKING = ("expect", "expect_or_drop", "expect_or_fail", "expect_all", "expect_all_or_drop", "expect_all_or_fail")
LACKING_KEYWORDS = {"ignore_null_updates", "track_history_column_list"}
"""The second came with Spark 4.3, and SCD type 2 with it: an older release is told type 1."""


class Recording(GraphElementRegistry):
    def __init__(self) -> None:
        self.outputs: dict[str, str] = {}
        self.flows: dict[str, str] = {}

    def register_output(self, output: Any) -> None:
        self.outputs[output.name] = type(output).__name__

    def register_flow(self, flow: Any) -> None:
        self.flows[flow.name] = flow.target

    def register_auto_cdc_flow(self, flow: Any) -> None:
        self.flows[flow.name or flow.target] = flow.target

    def register_sql(self, sql_text: str, file_path: Path) -> None:
        raise AssertionError("no file of the flagship is SQL")


def without_lacking(function: Any) -> Any:
    known = set(inspect.signature(function).parameters)

    def call(*args: Any, **kwargs: Any) -> Any:
        unknown = set(kwargs) - known
        assert unknown <= LACKING_KEYWORDS, unknown
        if "track_history_column_list" in unknown:
            kwargs = {**kwargs, "stored_as_scd_type": 1}
        return function(*args, **{key: value for key, value in kwargs.items() if key in known})

    return call


def main(*files: str) -> None:
    dp: Any = types.ModuleType("pyspark.pipelines")
    for name in apache.__all__:
        setattr(dp, name, without_lacking(getattr(apache, name)))
    for name in LACKING:
        assert not hasattr(apache, name), f"Apache has {name} now"
        setattr(dp, name, lambda *args, **kwargs: lambda function: function)
    sys.modules["pyspark.pipelines"] = pyspark.pipelines = dp
    registry = Recording()
    with graph_element_registration_context(registry):
        for file in files:
            runpy.run_path(file, init_globals={"spark": mock.MagicMock()})
    sys.stdout.write(json.dumps({"outputs": registry.outputs, "flows": registry.flows}) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
