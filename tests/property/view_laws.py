"""What the laws of incremental refreshes share: updates that die, and rows that are compared in any order."""

from __future__ import annotations

import math
from collections.abc import Mapping
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


def same(
    found: list[dict[str, Any]], wanted: list[dict[str, Any]], *, about: Mapping[str, float] | None = None
) -> bool:
    """Return whether both have the same rows, in any order; doubles are the same within 1e-9 of their value.

    Args:
        about: columns of doubles that may also differ by so much: rounded ones, and those that are near to zero.
    """
    about = about or {}

    def equal(name: str, left: Any, right: Any) -> bool:
        if isinstance(left, float) and isinstance(right, (float, Decimal)):
            return math.isclose(left, right, rel_tol=1e-9, abs_tol=about.get(name, 0.0))
        return bool(left == right)

    left = list(wanted)
    for row in found:
        place = next(
            (n for n, o in enumerate(left) if o.keys() == row.keys() and all(equal(k, row[k], o[k]) for k in o)), None
        )
        if place is None:
            return False
        del left[place]
    return not left
