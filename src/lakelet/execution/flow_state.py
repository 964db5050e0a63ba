"""How far a flow of a continuous update is: what it has read, up to which epoch, and what it has to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lakelet.events.model import FlowStatus
from lakelet.execution.context import HeadKey
from lakelet.execution.heads import reads_whole_tables
from lakelet.execution.pace import Pace
from lakelet.execution.update import Key
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset

MAX_MARKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A version of a table: every row that landed up to epoch `done` is in it, and none from after epoch `newest`."""

    done: int
    newest: int
    version: int


class Marks:
    """The marks of one table, the newest last; of many some are forgotten."""

    def __init__(self) -> None:
        self._marks: list[Mark] = []

    @property
    def version(self) -> int:
        """The version of the newest mark, -1 before the first one."""
        return self._marks[-1].version if self._marks else -1

    def newest(self, *, before: int | None) -> Mark | None:
        """Return the last mark without a row from after an epoch."""
        return next((mark for mark in reversed(self._marks) if before is None or mark.newest <= before), None)

    def note(self, mark: Mark) -> None:
        marks = self._marks
        if marks and (marks[-1].done, marks[-1].newest) == (mark.done, mark.newest):
            marks[-1] = mark
        else:
            marks.append(mark)
        if len(marks) > MAX_MARKS:
            del marks[1:-1:2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a flow has to do: read up to these heads and versions, by which it gets to an epoch."""

    done: int
    newest: int
    heads: Mapping[HeadKey, Any]
    versions: Mapping[str, int | None]


@dataclass(slots=True, kw_only=True)
class FlowState:
    """One flow and how far it is.

    Attributes:
        outside: keys of its heads from outside of the update.
        streams: source id to key of the dataset that it reads as a stream.
        tables: location to key of the dataset that it reads as a table.
        looks: only running it tells whether what it reads has changed: files, or what a snapshot function returns.
        seen: heads and versions that it had read up to when it last succeeded.
        is_paused: something that it reads fails.
    """

    flow: ResolvedFlow
    dataset: Dataset
    pace: Pace
    outside: tuple[HeadKey, ...]
    streams: Mapping[str, Key]
    tables: Mapping[str, Key]
    looks: bool
    done: int = 0
    newest: int = 0
    seen: tuple[Mapping[HeadKey, Any], Mapping[str, int | None]] | None = None
    is_paused: bool = False
    is_announced: bool = False
    batches: int = 0
    status: FlowStatus = FlowStatus.QUEUED

    @property
    def reads_whole_tables(self) -> bool:
        return reads_whole_tables(self.flow, self.dataset)

    @property
    def upstream(self) -> set[Key]:
        return {*self.streams.values(), *self.tables.values()}
