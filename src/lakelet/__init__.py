"""Declarative data pipelines on a laptop: the files that people write for Databricks and Apache Spark, unmodified.

    from lakelet import Pipeline

    with Pipeline("spark-pipeline.yml") as pipeline:
        result = pipeline.run()
        rows = pipeline.table("silver.orders")
"""

from __future__ import annotations

import sys
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


def _import_client_without_a_main_file() -> None:
    """Import the Spark Connect client where `__main__` has no file, as under `python -c`.

    pyspark 4.2 takes such a process for its own doctests, and ends it if it finds no Spark installation.
    """
    main = sys.modules["__main__"]
    if main.__spec__ is None and not hasattr(main, "__file__") and not hasattr(sys, "ps1"):
        main.__file__ = "<string>"
        try:
            import pyspark.sql.connect  # noqa: F401
        finally:
            del main.__file__


_import_client_without_a_main_file()


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import lakelet` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lakelet' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
