"""Reads of datasets by name, as in `dp.read("x")`: the same as `spark.read.table("x")`."""

from __future__ import annotations

from typing import Any

from lakelet.pipelines import parameters as check


def read(name: str) -> Any:
    """Return the dataset's rows as a batch DataFrame: `spark.read.table(name)`."""
    return _session().read.table(check.text("name", name))


def read_stream(name: str) -> Any:
    """Return the dataset's rows as a stream: `spark.readStream.table(name)`."""
    return _session().readStream.table(check.text("name", name))


def _session() -> Any:
    from pyspark.sql import SparkSession

    return SparkSession.active()
