"""Doors for other tools: the tables of a pipeline, read-only, over Spark Connect and Arrow Flight SQL."""

from __future__ import annotations

import lakelet.plan  # noqa: F401 - first: it lets pyspark be imported under `python -c`
from lakelet.doors.access import Certificate
from lakelet.doors.server import Doors, open_doors

__all__ = ["Certificate", "Doors", "open_doors"]
