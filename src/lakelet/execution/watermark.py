"""The watermark of a flow: how far event time has come, less the delay that the user grants.

A watermark follows Spark's rules. It is computed from the micro-batches before the one at hand, never goes back, and has
whole milliseconds. A batch knows two values: `now`, by which state is closed and evicted, and `late`, which was `now` in
the batch before, by which rows are too late; so a row is never late for a batch that could still have used it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakelet.plan.event_time import Watermark


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The watermark of one micro-batch in microseconds since 1970; None as long as a stream has had no row.

    Attributes:
        late: rows with an event time at or before it come too late.
        now: what ends at or before it is closed by this batch.
    """

    late: int | None = None
    now: int | None = None

    @property
    def advances(self) -> bool:
        """Whether this batch may close what the batch before it could not."""
        return self.now is not None and (self.late is None or self.now > self.late)

    def to_json(self) -> dict[str, Any]:
        return {"late": self.late, "now": self.now}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Thresholds:
        return cls(late=data.get("late"), now=data.get("now"))


def next_thresholds(before: Thresholds, watermarks: Mapping[str, int | None], *, streams: int) -> Thresholds:
    """Return the thresholds of the batch that follows one with `before`.

    Args:
        watermarks: by number, the watermark of each stream as the batches until then have left it.
        streams: how many streams have a watermark; the slowest counts.
    """
    known = [value for value in (watermarks.get(str(number)) for number in range(streams)) if value is not None]
    now = min(known) if streams and len(known) == streams else None
    if before.now is not None and (now is None or now < before.now):
        now = before.now
    return Thresholds(late=before.now, now=now)


def advanced(
    watermarks: Mapping[str, int | None], declared: Sequence[Watermark], latest: Sequence[int | None]
) -> dict[str, int | None]:
    """Return the watermark of each stream after a batch whose latest event times are `latest`."""
    result: dict[str, int | None] = {}
    for number, (watermark, time) in enumerate(zip(declared, latest, strict=True)):
        before = watermarks.get(str(number))
        reached = None if time is None else time // 1000 * 1000 - watermark.delay_ms * 1000
        result[str(number)] = max((value for value in (before, reached) if value is not None), default=None)
    return result


def micros(column: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray | pa.Array:
    """Return instants as microseconds since 1970; of windows, their ends. A timestamp without a zone counts as UTC."""
    kind = column.type
    if pa.types.is_struct(kind):
        return micros(pc.struct_field(column, 1))
    return column.cast(pa.timestamp("us", kind.tz)).cast(pa.int64())


def latest(column: pa.ChunkedArray) -> int | None:
    """Return the latest instant of a column in microseconds, None if it has none."""
    value = pc.max(micros(column)).as_py()
    return None if value is None else int(value)


def shown(micros: int | None) -> str | None:
    """Return an instant as the event log shows it."""
    if micros is None:
        return None
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)).isoformat(timespec="milliseconds")
