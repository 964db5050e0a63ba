"""What a run of a test gave: rows, rows that were dropped, and how often each rule held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from lakelet.errors import did_you_mean
from lakelet.events.model import PipelineEvent

Row = dict[str, Any]
_ORDERED = (bool, int, float, Decimal, str, bytes, datetime, date, time, timedelta)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleCount:
    """How many rows one rule saw in a run; `passed + failed` is all of them.

    A view that two flows read is counted for each of them, as in the event log.

    Attributes:
        action: what happens to a row that fails: `warn`, `drop` or `fail`.
    """

    dataset: str
    name: str
    action: str
    passed: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """One row that drop rules removed, as it was when the rules saw it.

    Attributes:
        dataset: whose rules.
        flow: that read the row.
        rules: the drop rules that the row violates.
    """

    dataset: str
    flow: str
    row: Row
    rules: tuple[str, ...]

    def __getitem__(self, column: str) -> Any:
        return self.row[column]


class Rules(Mapping[tuple[str, str], RuleCount]):
    """Counts by (dataset, rule), or by the rule's name alone where one dataset has such a rule.

    Where several have it, the name alone means the rule of the dataset that was run.
    """

    def __init__(self, counts: Iterable[RuleCount], *, targets: Iterable[str] = ()) -> None:
        self._counts = {(count.dataset, count.name): count for count in counts}
        self._targets = set(targets)

    def __getitem__(self, key: str | tuple[str, str]) -> RuleCount:
        if isinstance(key, tuple):
            if key in self._counts:
                return self._counts[key]
            return self._one([c for c in self._counts.values() if c.name == key[1] and _last(c.dataset) == key[0]], key)
        found = [count for count in self._counts.values() if count.name == key]
        own = [count for count in found if count.dataset in self._targets]
        return self._one(own if len(own) == 1 else found, key)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __repr__(self) -> str:
        return f"Rules({list(self._counts.values())})"

    def _one(self, found: list[RuleCount], key: Any) -> RuleCount:
        if len(found) == 1:
            return found[0]
        if found:
            raise KeyError(f"several datasets have a rule {key!r}; take one of {[(c.dataset, c.name) for c in found]}")
        near = did_you_mean(key if isinstance(key, str) else key[1], [count.name for count in self._counts.values()])
        raise KeyError(f"no rule {key!r} in this run" + (f"; did you mean {near!r}?" if near else ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetRows:
    """The rows of one dataset after a run; of a streaming view, those of all runs so far."""

    name: str
    table: pa.Table

    @property
    def rows(self) -> list[Row]:
        """The rows in the order of their columns, left to right, NULL first."""
        return in_order(self.table.to_pylist())

    def select(self, *columns: str) -> list[Row]:
        """Return some columns of all rows, in the order of these columns.

        Raises:
            KeyError: there is no such column.
        """
        for name in columns:
            if name not in self.table.column_names:
                near = did_you_mean(name, self.table.column_names)
                known = f"did you mean {near!r}?" if near else f"the columns are {self.table.column_names}"
                raise KeyError(f"`{self.name}` has no column {name!r}; {known}")
        return in_order(self.table.select(list(columns)).to_pylist())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What one `PipelineTest.run` gave.

    `rows`, `table` and `select` are those of the dataset that was run; where several were, take `result["name"]`.

    Attributes:
        datasets: every dataset that was computed, those on the way included.
        targets: the datasets that were asked for.
        dropped: rows that drop rules removed in this run, those of the datasets and views on the way included.
        rules: how often each rule held in this run.
        events: what the event log would have.
    """

    datasets: Mapping[str, DatasetRows]
    targets: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    rules: Rules
    events: tuple[PipelineEvent, ...] = ()

    def __getitem__(self, name: str) -> DatasetRows:
        if name in self.datasets:
            return self.datasets[name]
        found = [rows for key, rows in self.datasets.items() if _last(key) == name]
        if len(found) != 1:
            raise KeyError(f"{name!r} was not computed in this run; computed were {list(self.datasets)}")
        return found[0]

    @property
    def table(self) -> pa.Table:
        """The rows as an Arrow table, in no particular order."""
        return self._target.table

    @property
    def rows(self) -> list[Row]:
        """The rows in the order of their columns, left to right, NULL first."""
        return self._target.rows

    def select(self, *columns: str) -> list[Row]:
        """Return some columns of all rows, in the order of these columns."""
        return self._target.select(*columns)

    @property
    def _target(self) -> DatasetRows:
        if len(self.targets) != 1:
            raise KeyError(f"several datasets were run; take one: `result[name]` with a name of {list(self.targets)}")
        return self.datasets[self.targets[0]]


def in_order(rows: list[Row]) -> list[Row]:
    """Return rows sorted by all of their columns."""
    return sorted(rows, key=lambda row: [_rank(value) for value in row.values()])


def _rank(value: Any) -> tuple[int, Any]:
    if value is None:
        return (0, 0)
    return (1, value if isinstance(value, _ORDERED) else repr(value))


def _last(name: str) -> str:
    return name.rpartition(".")[2]
