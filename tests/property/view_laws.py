"""What the laws of incremental refreshes share: updates that die, and rows that are compared in any order."""

from __future__ import annotations

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

from tests.property.deaths import dying

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

SPEC = (
    "name: laws\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
    "configuration:\n  lakelet.views.recomputeRows: '0'\n"
)
HEAD = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"
POINTS = [point for point in faults.POINTS if point.startswith("view.")]


def run(root: Path, engine: SailEngine, point: str | None, after: int) -> None:
    """Run an update that dies at a point, if one is named."""
    if point is not None:
        with dying(point, after):
            Pipeline(root, engine=engine).run()


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Return whether both have the same rows, in any order; the last digits of doubles may differ."""

    def equal(left: Any, right: Any) -> bool:
        if isinstance(left, float) and isinstance(right, (float, Decimal)):
            is_rounded = all(math.isclose(value, round(value, 3), abs_tol=1e-12) for value in (left, right))
            return math.isclose(left, right, rel_tol=1e-9, abs_tol=1.5e-3 if is_rounded else 1e-7)
        return bool(left == right)

    left = [list(row.values()) for row in wanted]
    for row in found:
        values = list(row.values())
        place = next((n for n, o in enumerate(left) if len(o) == len(values) and all(map(equal, values, o))), None)
        if place is None:
            return False
        del left[place]
    return not left
