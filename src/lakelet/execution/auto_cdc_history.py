"""AUTO CDC, the rule: from the events of some keys to what is remembered of them and to the rows that their target shows.

A pure function over Arrow columns, the same for thirty events and for a million. The events are sorted by key and sequence
once; after that everything is a comparison of each event with the one before it. `tests/reference/scd.py` says the same in
plain Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakelet.execution.arrow_values import before as is_before
from lakelet.execution.arrow_values import comparable, same_as_before, sorted_by
from lakelet.execution.auto_cdc_schema import DELETE, END_AT, KEPT, NEW, SEQUENCE, START_AT
from lakelet.names import quote


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the rule knows about the columns.

    Attributes:
        columns: the target's columns but for the interval, keys included, as the auxiliary table spells them.
        tracked: columns whose change opens a new version (SCD 2).
        remembers_all: a late event may need any event before it, not only the last one.
    """

    keys: tuple[str, ...]
    columns: tuple[str, ...]
    scd_type: int
    tracked: tuple[str, ...]
    remembers_all: bool

    @property
    def values(self) -> list[str]:
        """The columns that are not keys."""
        return [name for name in self.columns if name not in self.keys]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """What the events of some keys come to.

    Attributes:
        events: those to remember, in the order of keys and sequence, `NEW` included.
        rows: those that the target shows, in the same order: the target's columns with the events' types.
        ties: keys and sequence of different events that share them, one row for each; only where one of them is new.
    """

    events: pa.Table
    rows: pa.Table
    ties: pa.Table


def history_of(events: pa.Table, shape: Shape, *, truncated_at: pa.Scalar | None = None) -> History:
    """Apply the rule to all events of some keys.

    Args:
        events: upserts and deletes; the column `NEW` says which of them the batch has brought. Those that came earlier
            stand first: of equal events the first one is remembered.
        truncated_at: the sequence of the last truncate; events before it are gone (SCD 1).
    """
    if truncated_at is not None:
        events = events.filter(pa.array(~is_before(events.column(SEQUENCE), truncated_at)))
    events = _taken(events, sorted_by(*(events.column(name) for name in (*shape.keys, SEQUENCE))))
    same_key = all_same(events, shape.keys)
    same_place = same_key & same_as_before(events.column(SEQUENCE))
    picked, distinct, ties = _decided(events, shape, same_place)
    counting = events if picked.all() else events.filter(pa.array(picked))
    of_same_key = same_key if picked.all() else all_same(counting, shape.keys)
    shown = _filled(counting, shape, of_same_key) if KEPT in events.column_names else counting
    rows = _runs(shown, shape, of_same_key) if shape.scd_type == 2 else _latest(shown, shape, of_same_key)
    remembered = distinct if shape.remembers_all else distinct & last_places(same_key, same_place)
    kept = events if remembered.all() else events.filter(pa.array(remembered))
    return History(events=kept, rows=rows, ties=events.select([*shape.keys, SEQUENCE]).take(ties))


def latest_truncate(truncates: pa.Table) -> pa.Table:
    """Return the truncate with the highest sequence, the only one that matters; no rows, none."""
    return _taken(truncates, sorted_by(truncates.column(SEQUENCE))[-1:])


def later_truncate(before: pa.Table, new: pa.Table) -> pa.Table:
    """Return the later of two truncates; the one that is remembered stays if they are equal."""
    if not before.num_rows or not new.num_rows:
        return before if before.num_rows else new
    is_later = is_before(before.column(SEQUENCE), new.column(SEQUENCE)[0])[0]
    return new if is_later else before


# -- one event per key and sequence -------------------------------------------------------------------------------


def _decided(events: pa.Table, shape: Shape, same_place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which events count, which differ from all before them at their place, and one event of each new tie."""
    picked = ~same_place
    distinct = picked.copy()
    if picked.all():
        return picked, distinct, np.empty(0, np.int64)
    optional = [KEPT] if KEPT in events.column_names else []
    differs = same_place & ~all_same(events, (DELETE, *shape.values, *optional))
    if not differs.any():
        return picked, distinct, np.empty(0, np.int64)
    place = np.cumsum(picked) - 1
    rows = np.flatnonzero(np.isin(place, place[differs]))
    ranks = list(_preferences(events.take(pa.array(rows)), shape))
    is_new = events.column(NEW).to_numpy()
    ties = []
    for members in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(place[rows])) + 1):
        first = {ranks[at]: rows[at] for at in reversed(members)}
        picked[rows[members]] = distinct[rows[members]] = False
        picked[first[max(first)]] = True
        distinct[list(first.values())] = True
        if any(is_new[at] for at in first.values()) and len(first) > 1:
            ties.append(rows[members[0]])
    return picked, distinct, np.array(ties, np.int64)


def _preferences(events: pa.Table, shape: Shape) -> Iterator[tuple[object, ...]]:
    """Yield for each event a value that is greater the more it counts, and equal for equal events."""
    names = sorted(shape.values, key=str.lower)
    types = {name: events.schema.field(name).type for name in names}
    columns = [DELETE, *names, *([KEPT] if KEPT in events.column_names else [])]
    for row in events.select(columns).to_pylist():
        wins = row[DELETE] if shape.scd_type == 2 else not row[DELETE]
        yield (wins, *(comparable(row[name], types[name]) for name in names), ",".join(row.get(KEPT) or ()))


# -- ignored NULLs ------------------------------------------------------------------------------------------------


def _filled(events: pa.Table, shape: Shape, same_key: np.ndarray) -> pa.Table:
    """Return the events with ignored NULLs replaced by the value before, within a life: a delete starts one."""
    deleted = events.column(DELETE).to_numpy()
    kept = events.column(KEPT).combine_chunks()
    paths, parents = kept.flatten(), pc.list_parent_indices(kept).to_numpy()
    starts = ~same_key | deleted

    def carried(column: pa.Array, path: str) -> pa.Array:
        sets = ~deleted
        sets[parents[pc.equal(paths, path).to_numpy(zero_copy_only=False)]] = False
        at = np.maximum.accumulate(np.where(sets | starts, np.arange(len(sets)), 0))
        last = pa.array(at, mask=~sets[at])
        if not pa.types.is_struct(column.type):
            return column.take(last)
        fields = [
            carried(value, f"{path}.{quote(field.name)}")
            for field, value in zip(column.type, column.flatten(), strict=True)
        ]
        missing = pc.invert(pc.fill_null(column.is_valid().take(last), False))
        return pa.StructArray.from_arrays(fields, fields=list(column.type), mask=missing)

    for name in shape.values if events.num_rows else []:
        filled = carried(events.column(name).combine_chunks(), quote(name))
        events = events.set_column(events.column_names.index(name), events.schema.field(name), filled)
    return events


# -- rows of the target -------------------------------------------------------------------------------------------


def _latest(events: pa.Table, shape: Shape, same_key: np.ndarray) -> pa.Table:
    """SCD type 1: a key's last event, unless it is a delete."""
    shown = _is_last(same_key) & ~events.column(DELETE).to_numpy()
    return events.select(shape.columns).filter(pa.array(shown))


def _runs(events: pa.Table, shape: Shape, same_key: np.ndarray) -> pa.Table:
    """SCD type 2: one row per run of upserts that are equal in the tracked columns, with the values of its last event."""
    deleted = events.column(DELETE).to_numpy()
    sequence = events.column(SEQUENCE)
    after_upsert = same_key & ~deleted
    after_upsert[1:] &= ~deleted[:-1]
    continues = after_upsert & all_same(events, shape.tracked)
    places = np.arange(len(continues))
    heads = np.maximum.accumulate(np.where(continues, 0, places)) if len(places) else places
    tails = np.flatnonzero(~deleted & ~np.append(continues[1:], False))
    following = pa.array(tails + 1, mask=_is_last(same_key)[tails])
    rows = _taken(events.select(shape.columns), tails)
    rows = rows.append_column(pa.field(START_AT, sequence.type), sequence.take(pa.array(heads[tails])))
    return rows.append_column(pa.field(END_AT, sequence.type), sequence.take(following))


def last_places(same_key: np.ndarray, same_place: np.ndarray) -> np.ndarray:
    """Return which events have the last sequence of their key: what SCD type 1 remembers, however a tie of them ends."""
    place = np.cumsum(~same_place) - 1
    last = place[_is_last(same_key)]
    return np.asarray(np.isin(place, last))


# -- rows that differ ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Where the rows that a target has are not those that it must show.

    Attributes:
        keys: of which a row differs.
        rows: all rows that these keys must have.
        changes: the rows that differ, with `__op`: "U" is a row to insert or update, "D" one to delete.
    """

    keys: pa.Table
    rows: pa.Table
    changes: pa.Table
    num_upserted: int
    num_deleted: int


def difference(stored: pa.Table, wanted: pa.Table, *, keys: tuple[str, ...], identity: tuple[str, ...]) -> Difference:
    """Compare the rows of some keys, each found by its identity; both tables have the same columns."""
    both = pa.concat_tables([stored, wanted])
    order = sorted_by(*(both.column(name) for name in identity))
    both, is_wanted = _taken(both, order), order >= stored.num_rows
    pair = all_same(both, identity)
    others = tuple(name for name in both.column_names if name not in identity)
    unchanged = pair & all_same(both, others)
    upserted = is_wanted & ~unchanged
    deleted = ~is_wanted & ~np.append(pair[1:], False)
    differs = by_key(upserted | deleted, all_same(both, keys))
    changed = pa.array(upserted | deleted)
    operations = pc.if_else(pa.array(upserted), "U", "D")
    return Difference(
        keys=unique(both.select(keys).filter(changed)),
        changes=both.append_column("__op", operations).filter(changed),
        rows=both.filter(pa.array(differs & is_wanted)),
        num_upserted=int(upserted.sum()),
        num_deleted=int(deleted.sum()),
    )


def unique(keys: pa.Table) -> pa.Table:
    """Return the different rows of a table, in their order."""
    ordered = _taken(keys, sorted_by(*keys.columns))
    return ordered.filter(pa.array(~all_same(ordered, tuple(keys.column_names))))


def by_key(marked: np.ndarray, same_key: np.ndarray) -> np.ndarray:
    """Return which rows belong to a key that has a marked one."""
    of_key = np.cumsum(~same_key) - 1
    found = np.zeros(int(of_key[-1]) + 1 if len(of_key) else 0, bool)
    found[of_key[marked]] = True
    return np.asarray(found[of_key])


def _is_last(same_key: np.ndarray) -> np.ndarray:
    return ~np.append(same_key[1:], False) if len(same_key) else same_key


def all_same(rows: pa.Table, names: tuple[str, ...]) -> np.ndarray:
    """Return which rows equal the one before in all these columns."""
    same = np.ones(rows.num_rows, bool)
    same[:1] = False
    for name in names:
        same &= same_as_before(rows.column(name))
    return same


def _taken(rows: pa.Table, positions: np.ndarray) -> pa.Table:
    return rows.take(pa.array(positions, pa.int64()))
