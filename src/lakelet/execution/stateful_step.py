"""What an operator with state is handed for one micro-batch, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from lakelet.engine.base import Engine
from lakelet.execution.state import StateTables
from lakelet.execution.stateful_part import StatefulPart
from lakelet.execution.watermark import Thresholds, micros
from lakelet.plan.relation import Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One batch of an operator.

    Attributes:
        rows: what its inputs give in this batch.
        tables: what it remembers from before.
    """

    part: StatefulPart
    rows: tuple[pa.Table, ...]
    thresholds: Thresholds
    tables: StateTables
    engine: Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """What an operator makes of a batch.

    Attributes:
        rows: what it gives to the query above it.
        num_late_rows: rows that came too late and were left out.
        state: by table, rows to remember; where a cluster computes, their query.
    """

    rows: Relation
    num_late_rows: int = 0
    state: Mapping[str, pa.Table | Relation] = field(default_factory=dict)


def late_mask(times: pa.ChunkedArray, thresholds: Thresholds) -> pa.ChunkedArray | None:
    """Return which rows are late; None if no row can be. A row without an event time is never late."""
    if thresholds.late is None:
        return None
    return pc.fill_null(pc.less_equal(micros(times), thresholds.late), False)
