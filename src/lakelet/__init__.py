"""Declarative data pipelines on a laptop: the files that people write for Databricks and Apache Spark, unmodified.

from lakelet import Pipeline

with Pipeline("spark-pipeline.yml") as pipeline:
    result = pipeline.run()
    rows = pipeline.table("silver.orders")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakelet.errors import LakeletError
    from lakelet.pipeline import FlowOutcome, Pipeline, RefreshSelection, UpdateResult

__all__ = ["FlowOutcome", "LakeletError", "Pipeline", "RefreshSelection", "UpdateResult", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "FlowOutcome": "lakelet.pipeline",
    "LakeletError": "lakelet.errors",
    "Pipeline": "lakelet.pipeline",
    "RefreshSelection": "lakelet.pipeline",
    "UpdateResult": "lakelet.pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import lakelet` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lakelet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
