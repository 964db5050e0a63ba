"""Tests of pipeline files: give rows to its inputs, run a dataset, look at rows, dropped rows and rules.

    from lakelet.testing import PipelineTest

    with PipelineTest("spark-pipeline.yml") as test:
        test.given("bronze.orders", [{"id": 1, "amount": 5}, {"id": 2, "amount": -5}])
        result = test.run("silver.orders")
        assert result.select("id") == [{"id": 1}]
        assert result.rules["positive_amount"].failed == 1

What goes wrong in production is told in the same way: `test.feed(name, [rows, rows, ABORT(), rows])`, and `crash_at(point)`.

Under pytest, the fixture `pipeline_test` makes one and closes it. Importing this package imports no engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lakelet.errors import ExpectationViolation, LakeletError
    from lakelet.testing.crash import CRASH_POINTS, Crash, crash_at
    from lakelet.testing.feed import ABORT, EOF, PAUSE
    from lakelet.testing.pipeline import PipelineTest
    from lakelet.testing.result import DatasetRows, Dropped, RuleCount, RunResult

__all__ = [
    "ABORT",
    "CRASH_POINTS",
    "EOF",
    "PAUSE",
    "Crash",
    "DatasetRows",
    "Dropped",
    "ExpectationViolation",
    "LakeletError",
    "PipelineTest",
    "RuleCount",
    "RunResult",
    "crash_at",
]

_HOMES = {
    "ABORT": "lakelet.testing.feed",
    "CRASH_POINTS": "lakelet.testing.crash",
    "Crash": "lakelet.testing.crash",
    "EOF": "lakelet.testing.feed",
    "PAUSE": "lakelet.testing.feed",
    "crash_at": "lakelet.testing.crash",
    "DatasetRows": "lakelet.testing.result",
    "Dropped": "lakelet.testing.result",
    "ExpectationViolation": "lakelet.errors",
    "LakeletError": "lakelet.errors",
    "PipelineTest": "lakelet.testing.pipeline",
    "RuleCount": "lakelet.testing.result",
    "RunResult": "lakelet.testing.result",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'lakelet.testing' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
