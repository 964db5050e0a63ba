"""Streaming sources: which input is new, and its rows.

A source plans slices between two offsets. Offsets are JSON; the same two offsets give the same rows at any later time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import pyarrow as pa

from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation

Offset = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """What a micro-batch leaves out on the user's word.

    Attributes:
        commits: versions that change rows: all of each with `skipChangeCommits`, their removals with `ignoreDeletes` and
            `ignoreChanges`.
        num_added_rows: rows of their new files that are not read.
        num_removed_rows: rows of the files that they take away, as far as these still lie there.
        lost: versions that are no longer in the log (`failOnDataLoss` is false).
    """

    commits: tuple[int, ...] = ()
    num_added_rows: int = 0
    num_removed_rows: int = 0
    lost: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return self.num_added_rows + self.num_removed_rows

    def __str__(self) -> str:
        parts = []
        if self.commits:
            parts.append(
                f"commits {list(self.commits)}, which change rows ({self.num_added_rows} row(s) written, "
                f"{self.num_removed_rows} row(s) removed)"
            )
        if self.lost:
            parts.append(f"commits {self.lost[0]} to {self.lost[-1]}, which are no longer in the table's log")
        return "; ".join(parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "commits": list(self.commits),
            "num_added_rows": self.num_added_rows,
            "num_removed_rows": self.num_removed_rows,
            "lost": list(self.lost),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Skipped:
        return cls(
            commits=tuple(value["commits"]),
            num_added_rows=int(value["num_added_rows"]),
            num_removed_rows=int(value["num_removed_rows"]),
            lost=tuple(value["lost"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """What one micro-batch reads of one source.

    Attributes:
        is_empty: nothing new between the offsets.
        skipped: what was left out on the user's word.
    """

    start: Offset | None
    end: Offset
    num_files: int = 0
    num_bytes: int = 0
    is_empty: bool = False
    skipped: Skipped | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """What a source has and a flow has not read.

    Attributes:
        num_bytes: None where they are not known without more work than is worth it.
    """

    num_files: int = 0
    num_bytes: int | None = 0


class StreamSource(Protocol):
    """One streaming input of a flow."""

    def head(self) -> Any:
        """Return how far the source reaches now; compared with `==`, and handed to `plan` as the end."""
        ...

    def plan(self, after: Offset | None, until: Any) -> Slice:
        """Return what comes after `after` (None: from the start), not beyond `until`, within the rate limits."""
        ...

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        """Return exactly the rows between two planned offsets."""
        ...

    def backlog(self, after: Offset, until: Any) -> Backlog | None:
        """Return what comes after `after`, not beyond `until`; None for a source without files."""
        ...


@dataclass(slots=True)
class RateSource:
    """`spark.readStream.format("rate")`: `rowsPerSecond` rows (timestamp, value) for each second since the stream began."""

    options: Mapping[str, str] = field(default_factory=dict)
    clock: Any = lambda: datetime.now(UTC)

    def head(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def plan(self, after: Offset | None, until: int) -> Slice:
        began = until - 1000 if after is None else int(after["began_ms"])
        start = {"began_ms": began, "value": 0} if after is None else after
        value = max(int(start["value"]), (until - began) * self._rate // 1000)
        end = {"began_ms": began, "value": value}
        return Slice(start=start, end=end, is_empty=value <= int(start["value"]))

    def rows(self, start: Offset | None, end: Offset, *, metadata: bool) -> Relation:
        first = int(start["value"]) if start else 0
        values = range(first, int(end["value"]))
        began = int(end["began_ms"])
        return plan.local(
            pa.table(
                {
                    "timestamp": pa.array(
                        [(began + v * 1000 // self._rate) * 1000 for v in values], pa.timestamp("us", "UTC")
                    ),
                    "value": pa.array(values, pa.int64()),
                }
            )
        )

    def backlog(self, after: Offset, until: Any) -> Backlog | None:
        return None

    @property
    def _rate(self) -> int:
        return max(1, int(self.options.get("rowspersecond", "1")))


RATE_SCHEMA = pa.schema([("timestamp", pa.timestamp("us", "UTC")), ("value", pa.int64())])
