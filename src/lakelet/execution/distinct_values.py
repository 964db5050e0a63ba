"""What each `count(DISTINCT …)` of a view has seen: which values of a slice are new, and how those of a whole table are taken up.

A value in a group is two hashes of both: the first is its slot, the second tells it from others in that slot. A file of the
state is looked up by what is remembered of it: the upper half of each slot, in order. A value whose upper half is not among
them is new, and no row is read for it.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakelet.execution.partial_values import identities
from lakelet.execution.view_state import VALUE, ViewState, opened, slot_bounds
from lakelet.plan.group_query import COUNTS, ID, SLOT
from lakelet.storage.data_files import DataFile
from lakelet.storage.failures import storage_errors

LOOKED_UP_AT_ONCE = 200_000
"""So many values are looked up among those that are kept, of which as large a share may be read."""
REMEMBERED_BYTES = 128 << 20
"""Memory for slots of files; one that alone needs more is read anew for each look."""
BUCKET_ROWS = 1 << 20
"""So many values are put in order at once, and more where the buckets would be too many."""
MOST_BUCKETS = 64
"""Of one column: each may be an open file."""
SPOOLED_BYTES = 64 << 20
"""What all buckets together hold in memory before they go to files."""
BLOCK_ROWS = 1 << 17


def new_values(
    partial: pa.Table, name: str, found: pa.Table | None, state: ViewState
) -> tuple[pa.Table, pa.Table]:  # fmt: skip
    """Replace the values of a `count(DISTINCT …)` by the number of those that are new.

    Args:
        partial: partial values of the groups; column `name` has a list of digests.
        found: values that are new for another reason.

    Returns:
        The partial values, and all new values that the state must remember.
    """
    lists = partial.column(name).combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    owners = partial.select(list(ID)).take(parents)
    values = _values(owners, pc.list_flatten(lists))
    is_new = np.ones(len(parents), dtype=bool)
    if found is not None and found.num_rows and values.num_rows:
        among = pc.is_in(identities(values, VALUE), value_set=identities(found, VALUE))
        is_new &= ~among.to_numpy(zero_copy_only=False)
    for part in _parts(values.column(SLOT).to_numpy()):
        is_new[part] &= ~_known(values.take(part), state.files(name))
    counts = np.bincount(parents[is_new], minlength=partial.num_rows).astype(np.int64)
    new = values.filter(pa.array(is_new))
    everything = new if found is None else pa.concat_tables([found, new])
    return partial.set_column(partial.schema.get_field_index(name), name, pa.array(counts)), everything


def _values(owners: pa.Table, digests: pa.StructArray) -> pa.Table:
    """Return the values of groups: the hashes of each owner with those of the digest beside it."""
    pairs = zip(owners.itercolumns(), digests.flatten(), strict=True)
    return pa.table([owner.to_numpy() ^ digest.to_numpy() for owner, digest in pairs], names=list(VALUE))


def _parts(slots: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the places of the values whose slots lie close together, so many that what is known of those fits into memory."""
    number = -(-len(slots) // LOOKED_UP_AT_ONCE)
    part = _bucket(slots, max(1, number))
    for at in range(number):
        yield np.flatnonzero(part == at)


def _bucket(slots: np.ndarray, number: int) -> np.ndarray:
    """Return for each slot which of so many equal ranges it lies in, in the order of slots."""
    return np.clip(((slots / 2.0**64 + 0.5) * number).astype(np.int64), 0, number - 1)


# -- values that are known ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slots:
    """What is remembered of a file of values.

    Attributes:
        upper: the upper half of each slot, in order; None of a file that is too large.
        low, high: the least and the greatest slot of each row group.
    """

    metadata: pq.FileMetaData
    upper: np.ndarray | None
    low: np.ndarray
    high: np.ndarray

    def may_have(self, slots: np.ndarray) -> np.ndarray:
        if self.upper is None:
            return np.ones(len(slots), dtype=bool)
        wanted = _upper(slots)
        at = np.searchsorted(self.upper, wanted)
        found: np.ndarray = self.upper[np.minimum(at, len(self.upper) - 1)] == wanted
        return found

    def row_groups(self, slots: np.ndarray) -> list[int]:
        """Return the row groups that may have one of these slots, which are in order."""
        has = np.searchsorted(slots, self.low, "left") < np.searchsorted(slots, self.high, "right")
        return np.flatnonzero(has).tolist()


def _upper(slots: np.ndarray) -> np.ndarray:
    return ((slots >> 32) + 2**31).astype(np.uint32)


def _known(values: pa.Table, files: Sequence[DataFile]) -> np.ndarray:
    """Return which values are in one of the files."""
    result = np.zeros(values.num_rows, dtype=bool)
    slots = values.column(SLOT).to_numpy()
    for file in files:
        known = _remembered.of(file)
        candidates = np.flatnonzero(known.may_have(slots))
        groups = known.row_groups(np.sort(slots[candidates]))
        if not groups:
            continue
        with opened(file, known.metadata) as data:
            rows = data.read_row_groups(groups, columns=list(VALUE))
        found = pc.is_in(identities(values.take(candidates), VALUE), value_set=identities(rows, VALUE))
        result[candidates] |= found.to_numpy(zero_copy_only=False)
    return result


class _Remembered:
    """The slots of files, those that were looked up last. A file never changes."""

    def __init__(self) -> None:
        self._slots: OrderedDict[str, _Slots] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def of(self, file: DataFile) -> _Slots:
        with self._lock:
            found = self._slots.get(file.path)
            if found is not None:
                self._slots.move_to_end(file.path)
                return found
        found = _slots_of(file)
        with self._lock:
            if file.path not in self._slots:
                self._slots[file.path] = found
                self._size += _size(found)
            while self._size > REMEMBERED_BYTES:
                self._size -= _size(self._slots.popitem(last=False)[1])
        return found

    def forget(self, files: Sequence[DataFile]) -> None:
        with self._lock:
            for file in files:
                found = self._slots.pop(file.path, None)
                self._size -= 0 if found is None else _size(found)


_remembered = _Remembered()


def forget(files: Sequence[DataFile]) -> None:
    """Let go of what is remembered of files that their state no longer has."""
    _remembered.forget(files)


def _size(slots: _Slots) -> int:
    return int(slots.metadata.serialized_size) + (0 if slots.upper is None else slots.upper.nbytes)


def _slots_of(file: DataFile) -> _Slots:
    upper = None
    with opened(file) as data:
        metadata = data.metadata
        if 0 < 4 * metadata.num_rows <= REMEMBERED_BYTES:
            upper = np.sort(_upper(data.read(columns=[SLOT]).column(SLOT).to_numpy()))
    bounds = [slot_bounds(metadata, number) for number in range(metadata.num_row_groups)]
    low, high = np.array(bounds, dtype=np.int64).reshape(-1, 2).T
    return _Slots(metadata=metadata, upper=upper, low=low, high=high)


# -- values of a whole table ----------------------------------------------------------------------------------------


class AllValues:
    """The values of a whole table on their way into the state: in buckets by slot, on disk where they are many.

    Args:
        names: of the columns that count distinct values.
        groups: the groups that the values belong to.
        num_rows: about how many values of one column will come, repetitions included.
    """

    def __init__(self, names: Sequence[str], groups: pa.Table, num_rows: int) -> None:
        self._owners = identities(groups)
        number = min(MOST_BUCKETS, max(1, -(-num_rows // BUCKET_ROWS)))
        spooled = max(1, SPOOLED_BYTES // (number * max(1, len(names))))
        self._files = contextlib.ExitStack()
        self._buckets: dict[str, list[IO[bytes]]] = {
            name: [self._files.enter_context(_spooled(spooled)) for _ in range(number)] for name in names
        }
        self.counts = {name: np.zeros(groups.num_rows, dtype=np.int64) for name in names}
        """How many values of each group there are; whole once `distinct` has ended."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._files.close()

    def add(self, reader: pa.RecordBatchReader) -> None:
        """Take up the rows of a query for digests."""
        waiting: list[pa.RecordBatch] = []
        for batch in reader:
            waiting.append(batch)
            if sum(part.num_rows for part in waiting) >= BLOCK_ROWS:
                self._add(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            self._add(pa.Table.from_batches(waiting))

    def _add(self, rows: pa.Table) -> None:
        places = pc.index_in(identities(rows), value_set=self._owners)
        assert places.null_count == 0, "a value of a group that the aggregation does not have"
        for name, files in self._buckets.items():
            is_value = rows.column(name + COUNTS)
            values = _values(
                rows.select(list(ID)).filter(is_value), rows.column(name).filter(is_value).combine_chunks()
            )
            columns = [*values.itercolumns(), places.filter(is_value.combine_chunks()).cast(pa.int64())]
            entries = np.column_stack([column.to_numpy() for column in columns])
            bucket = _bucket(entries[:, 0], len(files))
            with storage_errors(tempfile.gettempdir()):
                for number, file in enumerate(files):
                    file.write(entries[bucket == number].tobytes())

    def distinct(self) -> Iterator[tuple[str, pa.Table]]:
        """Yield the values of each column once, in the order of their slots, and count them."""
        for name, files in self._buckets.items():
            for file in files:
                file.seek(0)
                entries = _first_of_each(np.frombuffer(file.read(), dtype=np.int64).reshape(-1, 3))
                self.counts[name] += np.bincount(entries[:, 2], minlength=len(self._owners))
                yield name, pa.table([entries[:, 0], entries[:, 1]], names=list(VALUE))


def _spooled(num_bytes: int) -> contextlib.AbstractContextManager[IO[bytes]]:
    return tempfile.SpooledTemporaryFile(num_bytes)


def _first_of_each(entries: np.ndarray) -> np.ndarray:
    """Return entries in the order of their slots, those with the same two hashes once."""
    entries = entries[np.argsort(entries[:, 0])]
    same_slot = entries[1:, 0] == entries[:-1, 0]
    same = same_slot & (entries[1:, 1] == entries[:-1, 1])
    if (same_slot != same).any():  # two values have one slot: repetitions may not be neighbours
        entries = entries[np.lexsort((entries[:, 1], entries[:, 0]))]
        same = (entries[1:, :2] == entries[:-1, :2]).all(axis=1)
    return entries[np.concatenate([[True], ~same])] if len(entries) else entries
