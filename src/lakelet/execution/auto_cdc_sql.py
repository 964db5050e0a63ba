"""AUTO CDC, its queries: from the events of some keys to the rows that their target must show.

Plain Spark SQL over up to three tables:

    history   the auxiliary table: every valid event that came before
    batch     the events of one micro-batch
    stored    the target

Each stage below is one common table expression; its comment states its grain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_never

from pyspark.sql.types import ArrayType, BinaryType, DataType, MapType, StructType, VariantType

from lakelet.execution.auto_cdc_schema import (
    APP_ID,
    BATCH_ID,
    DELETE,
    END_AT,
    KEPT,
    PREFIX,
    SEQUENCE,
    START_AT,
    TRUNCATE,
)
from lakelet.names import quote
from lakelet.storage.base import Receipt

OPERATION = "__op"
ROW = PREFIX + "row"
NEW = PREFIX + "new"
TIED = PREFIX + "tied"
_SHOWN = PREFIX + "shown"
_START = PREFIX + "start"
_END = PREFIX + "end"
_IN_BATCH = PREFIX + "in_batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBatch:
    """The batch is a table of its own, `batch`, with a row number; the history does not have it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedBatch:
    """The batch is part of the history: the rows with this receipt."""

    receipt: Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeHistory:
    """There is no batch: everything is derived."""


Batch = LocalBatch | RecordedBatch | WholeHistory


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the queries know about the tables.

    Attributes:
        columns: the target's columns but for the interval, keys included, as the history has them.
        tracked: columns whose change opens a new version (SCD 2).
        has_truncates, has_kept: whether the history has the optional columns.
    """

    keys: tuple[str, ...]
    columns: StructType
    sequence_type: DataType
    scd_type: int
    tracked: tuple[str, ...]
    has_truncates: bool
    has_kept: bool

    @property
    def values(self) -> list[str]:
        """The columns that are not keys."""
        return [name for name in self.columns.names if name not in self.keys]

    @property
    def control(self) -> list[str]:
        """The columns of an event besides the target's."""
        optional = [(self.has_truncates, TRUNCATE), (self.has_kept, KEPT)]
        return [SEQUENCE, DELETE, *(name for present, name in optional if present)]


def difference_query(shape: Shape, batch: Batch, *, everything: bool, target: StructType) -> str:
    """Return the query for what a batch changes.

    Args:
        batch: where its events are.
        everything: look at all keys instead of the batch's: it has a truncate, or the target is behind.
        target: the columns of `stored`.

    Returns:
        SQL whose rows have the target's columns and `__op` (U, D or NULL), the event's sequence, `__lakelet_row` and
        two flags: the event is of the batch and new; the event differs from one of its key and sequence that counts
        more. At most one row with an `__op` per row of the target, and one per event of the keys with a flag.
    """
    whole = everything or isinstance(batch, WholeHistory)
    names = _names(shape.keys)
    limited = "" if whole else f" LEFT SEMI JOIN affected a ON {_equal('t', 'a', shape.keys)}"
    stages = _stages(shape, batch, everything=whole)
    # One row per row of the target, for the keys to look at.
    stages.append(f"current AS (SELECT t.*, 1 AS {_q(_SHOWN)} FROM stored t{limited})")
    same_row = [_equal("d", "t", shape.keys), f"d.{_q(_SHOWN)} = t.{_q(_SHOWN)}"]
    interval: list[tuple[str, str]] = []
    if shape.scd_type == 2:
        stored = {field.name: field.dataType for field in target}
        start = _cast(f"d.{_q(_START)}", shape.sequence_type, stored[START_AT])
        end = _cast(f"d.{_q(_END)}", shape.sequence_type, stored[END_AT])
        same_row.append(f"{start} <=> t.{_q(START_AT)}")
        interval = [(START_AT, f"coalesce({start}, t.{_q(START_AT)})"), (END_AT, end)]
    shown, differing = _compared(shape, target)
    outputs = [f"coalesce(d.{name}, t.{name}) AS {name}" for name in names]
    outputs += [f"{value} AS {_q(name)}" for name, value in (*shown, *interval)]
    if interval:
        differing.append(f"{interval[1][1]} <=> t.{_q(END_AT)}")
    same = " AND ".join(differing) or "true"
    operation = (
        f"CASE WHEN d.{_q(_SHOWN)} IS NULL THEN CASE WHEN t.{_q(_SHOWN)} = 1 THEN 'D' END"
        f" WHEN t.{_q(_SHOWN)} IS NULL OR NOT ({same}) THEN 'U' END"
    )
    outputs += [f"{operation} AS {OPERATION}", f"d.{_q(SEQUENCE)}", f"d.{_q(ROW)}", f"d.{_q(NEW)}", f"d.{_q(TIED)}"]
    # One row per event, with the stored row that it must become, and one per stored row that no event explains.
    joined = f"derived d FULL OUTER JOIN current t ON {' AND '.join(same_row)}"
    stages.append(f"compared AS (SELECT {', '.join(outputs)} FROM {joined})")
    return f"WITH {_join(stages)}\nSELECT * FROM compared WHERE {OPERATION} IS NOT NULL OR {_q(NEW)} OR {_q(TIED)}"


def target_query(shape: Shape) -> str:
    """Return the query for all rows of the target, from the whole history."""
    columns = _names(shape.columns.names)
    if shape.scd_type == 2:
        columns += [f"{_q(_START)} AS {_q(START_AT)}", f"{_q(_END)} AS {_q(END_AT)}"]
    stages = _stages(shape, WholeHistory(), everything=True)
    return f"WITH {_join(stages)}\nSELECT {', '.join(columns)} FROM derived WHERE {_q(_SHOWN)} = 1"


def tie_query(shape: Shape) -> str:
    """Return the query for all ties: keys and sequence, one row per event that differs from one that counts more."""
    stages = _stages(shape, WholeHistory(), everything=True)
    columns = ", ".join(_names((*shape.keys, SEQUENCE)))
    return f"WITH {_join(stages)}\nSELECT {columns} FROM derived WHERE {_q(TIED)}"


# -- stages -------------------------------------------------------------------------------------------------------


def _stages(shape: Shape, batch: Batch, *, everything: bool) -> list[str]:
    """Return the stages up to `derived`. Few window expressions: the planner of the embedded engine pays for each."""
    keys = ", ".join(_names(shape.keys))
    order = ", ".join(_ascending(_q(SEQUENCE), shape.sequence_type))
    preference = ", ".join(_preference(shape))
    arrival = f"{_q(_IN_BATCH)} ASC, {_q(ROW)} ASC NULLS FIRST"
    identity = [SEQUENCE, DELETE, *shape.values, *([KEPT] if shape.has_kept else [])]
    kinds = {field.name: field.dataType for field in shape.columns}
    same = [_same(f"former.{_q(name)}", _q(name), kinds.get(name)) for name in identity]
    same[0] = f"(former IS NOT NULL AND {same[0]})"
    stages = [
        *_event_stages(shape, batch, everything=everything),
        # One row per event, with the one before it: by sequence, then what counts more, then what came first.
        f"sorted AS (SELECT *, lag(struct({', '.join(_names(identity))})) OVER "
        f"(PARTITION BY {keys} ORDER BY {order}, {preference}, {arrival}) AS former FROM events)",
        # One row per event. `pick`: it counts for its key and sequence. Tied: it differs from one that counts more.
        # New: from the batch, and no equal one came before.
        f"flagged AS (SELECT *, NOT ({same[0]}) AS pick, {same[0]} AND NOT ({' AND '.join(same)}) AS {_q(TIED)}, "
        f"{_q(_IN_BATCH)} AND NOT ({' AND '.join(same)}) AS {_q(NEW)} FROM sorted)",
    ]
    window = f"(PARTITION BY {keys}, pick ORDER BY {order})"
    events = "flagged"
    if shape.has_kept:
        stages += _filled(shape, keys, order)
        events = "filled"
    stages += _runs(shape, events, window) if shape.scd_type == 2 else _latest(events, window)
    return stages


def _event_stages(shape: Shape, batch: Batch, *, everything: bool) -> Iterator[str]:
    """Yield `affected`, `truncated` and `events`: one row per valid upsert or delete of the keys to look at."""
    columns = ", ".join(f"e.{name}" for name in _names((*shape.columns.names, *shape.control)))
    keys = ", ".join(_names(shape.keys))
    rows = f"SELECT {columns}"
    valid = f"NOT coalesce(e.{_q(TRUNCATE)}, false)" if shape.has_truncates else "true"
    limited = "" if everything else f" LEFT SEMI JOIN affected a ON {_equal('e', 'a', shape.keys)}"
    no_row = f"CAST(NULL AS BIGINT) AS {_q(ROW)}"
    match batch:
        case LocalBatch():
            changed = "batch e"
            source = (
                f"{rows}, false AS {_q(_IN_BATCH)}, {no_row} FROM history e{limited} WHERE {valid} UNION ALL "
                f"{rows}, true AS {_q(_IN_BATCH)}, e.{_q(ROW)} FROM batch e WHERE {valid}"
            )
        case RecordedBatch(receipt=receipt):
            app_id = receipt.app_id.replace("\\", "\\\\").replace("'", "\\'")
            recorded = f"(e.{_q(APP_ID)} = '{app_id}' AND e.{_q(BATCH_ID)} = {receipt.batch_id})"
            changed = f"(SELECT * FROM history e WHERE {recorded}) e"
            source = f"{rows}, {recorded} AS {_q(_IN_BATCH)}, {no_row} FROM history e{limited} WHERE {valid}"
        case WholeHistory():
            changed = "history e"
            source = f"{rows}, false AS {_q(_IN_BATCH)}, {no_row} FROM history e WHERE {valid}"
        case _:
            assert_never(batch)
    if not everything:
        # At least one row per key.
        yield f"affected AS (SELECT {keys} FROM {changed} WHERE {valid})"
    if not shape.has_truncates:
        yield f"events AS ({source})"
        return
    truncates = f"SELECT {_q(SEQUENCE)} FROM history WHERE {_q(TRUNCATE)}"
    if isinstance(batch, LocalBatch):
        truncates += f" UNION ALL SELECT {_q(SEQUENCE)} FROM batch WHERE {_q(TRUNCATE)}"
    latest = ", ".join(_descending(_q(SEQUENCE), shape.sequence_type))
    # No row, or one: the latest truncate. Earlier ones remove nothing that it does not remove.
    yield f"truncated AS (SELECT {_q(SEQUENCE)} AS at FROM ({truncates}) ORDER BY {latest} LIMIT 1)"
    before = _precedes(f"e.{_q(SEQUENCE)}", "t.at", shape.sequence_type)
    yield (
        f"events AS (SELECT e.* FROM ({source}) e LEFT JOIN (SELECT at, 1 AS found FROM truncated) t ON true "
        f"WHERE t.found IS NULL OR NOT ({before}))"
    )


def _filled(shape: Shape, keys: str, order: str) -> Iterator[str]:
    """Yield stages that retain every event 1:1, with ignored NULLs replaced by the value before, within a life."""
    running = f"ORDER BY {order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW"
    # A delete starts a life: values before it are gone.
    yield (
        f"lives AS (SELECT *, sum(CASE WHEN {_q(DELETE)} THEN 1 ELSE 0 END) "
        f"OVER (PARTITION BY {keys}, pick {running}) AS life FROM flagged)"
    )
    over = f"OVER (PARTITION BY {keys}, pick, life {running})"
    kinds = {field.name: field.dataType for field in shape.columns}
    values = [f"{_carried(_q(name), _q(name), kinds[name], over)} AS {_q(name)}" for name in shape.values]
    others = _names((*shape.keys, *shape.control, ROW, NEW, TIED))
    yield f"filled AS (SELECT {', '.join([*others, 'pick', *values])} FROM lives)"


def _carried(path: str, value: str, kind: DataType, over: str) -> str:
    """Return the value of the latest event that sets `path`; the fields of a struct are set one by one."""
    sets = f"NOT {_q(DELETE)} AND NOT coalesce(array_contains({_q(KEPT)}, {_text(path)}), false)"
    if not isinstance(kind, StructType):
        return f"(last_value(CASE WHEN {sets} THEN array({value}) END, true) {over})[0]"
    present = f"last_value(CASE WHEN {sets} THEN {value} IS NOT NULL END, true) {over}"
    fields = ", ".join(
        f"{_text(field.name)}, " + _carried(f"{path}.{_q(field.name)}", _field(value, field.name), field.dataType, over)
        for field in kind
    )
    return f"CASE WHEN {present} THEN named_struct({fields}) END"


def kept_paths(name: str, kind: DataType) -> Iterator[tuple[str, str]]:
    """Yield (path, expression) of everything in a column whose NULL keeps the value before."""
    yield from _kept_paths(_q(name), _q(name), kind)


def _kept_paths(path: str, value: str, kind: DataType) -> Iterator[tuple[str, str]]:
    yield path, value
    if isinstance(kind, StructType):
        for field in kind:
            yield from _kept_paths(f"{path}.{_q(field.name)}", _field(value, field.name), field.dataType)


def _runs(shape: Shape, events: str, window: str) -> Iterator[str]:
    """Yield the stages of SCD type 2; they retain every event 1:1, the tail of a run is the row to show."""
    kinds = {field.name: field.dataType for field in shape.columns}
    before = ", ".join(_names((DELETE, *shape.tracked)))
    same = [
        "before IS NOT NULL",
        f"NOT before.{_q(DELETE)}",
        *(_same(f"before.{_q(n)}", _q(n), kinds[n]) for n in shape.tracked),
    ]
    yield f"preceded AS (SELECT *, lag(struct({before})) OVER {window} AS before FROM {events})"
    # `head`: an upsert that opens a version. A run lasts from a head to the event before the next head or delete.
    yield (
        f"headed AS (SELECT *, NOT {_q(DELETE)} AND NOT coalesce({' AND '.join(same)}, false) AS head FROM preceded)"
    )
    running = f"{window[:-1]} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)"
    yield (
        f"followed AS (SELECT *, last_value(CASE WHEN head THEN {_q(SEQUENCE)} END, true) OVER {running} "
        f"AS {_q(_START)}, lead(struct(head OR {_q(DELETE)} AS ends, {_q(SEQUENCE)})) OVER {window} AS following "
        f"FROM headed)"
    )
    is_tail = f"pick AND NOT {_q(DELETE)} AND (following IS NULL OR following.ends)"
    yield (
        f"derived AS (SELECT *, CASE WHEN {is_tail} THEN 1 END AS {_q(_SHOWN)}, "
        f"{_field('following', SEQUENCE)} AS {_q(_END)} FROM followed)"
    )


def _latest(events: str, window: str) -> Iterator[str]:
    """Yield the stage of SCD type 1; it retains every event 1:1, a key's last event is the row to show."""
    is_last = f"pick AND NOT {_q(DELETE)} AND lead({_q(DELETE)}) OVER {window} IS NULL"
    yield f"derived AS (SELECT *, CASE WHEN {is_last} THEN 1 END AS {_q(_SHOWN)} FROM {events})"


def _compared(shape: Shape, target: StructType) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the target's value columns as the events have them, and their comparisons with the stored ones."""
    stored = {field.name: field.dataType for field in target}
    kinds = {field.name: field.dataType for field in shape.columns}
    shown = [(name, _cast(f"d.{_q(name)}", kinds[name], stored[name])) for name in shape.values]
    same = [_same(value, f"t.{_q(name)}", stored[name]) for name, value in shown]
    return shown, same


# -- expressions --------------------------------------------------------------------------------------------------


def comparable(value: str, kind: DataType) -> str:
    """Return an expression that `<=>` can compare: of a map its sorted entries, of a nested one its text."""
    if isinstance(kind, MapType) and not _holds_map(kind.keyType) and not _holds_map(kind.valueType):
        return f"array_sort(map_entries({value}))"
    return f"to_json({value})" if _holds_map(kind) else value


def _same(left: str, right: str, kind: DataType | None) -> str:
    """Return whether two values are equal, NULL being equal to NULL."""
    if kind is None:
        return f"{left} <=> {right}"
    return f"{comparable(left, kind)} <=> {comparable(right, kind)}"


def _holds_map(kind: DataType) -> bool:
    if isinstance(kind, StructType):
        return any(_holds_map(field.dataType) for field in kind)
    if isinstance(kind, ArrayType):
        return _holds_map(kind.elementType)
    return isinstance(kind, MapType | VariantType)


def _leaves(value: str, kind: DataType) -> Iterator[str]:
    """Yield expressions that order as `value` does, one after the other; Sail cannot sort by a struct."""
    if isinstance(kind, StructType):
        yield f"({value} IS NOT NULL)"
        for field in kind:
            yield from _leaves(_field(value, field.name), field.dataType)
    elif isinstance(kind, MapType | VariantType) or (
        isinstance(kind, ArrayType) and isinstance(kind.elementType, StructType | ArrayType | MapType | VariantType)
    ):
        yield f"to_json({value})"
    elif isinstance(kind, BinaryType):
        yield f"hex({value})"  # the embedded engine has no window ordered by a binary column
    else:
        yield value


def _ascending(value: str, kind: DataType) -> list[str]:
    return [f"{leaf} ASC NULLS FIRST" for leaf in _leaves(value, kind)]


def _descending(value: str, kind: DataType) -> list[str]:
    return [f"{leaf} DESC NULLS LAST" for leaf in _leaves(value, kind)]


def _precedes(left: str, right: str, kind: DataType) -> str:
    """Return `left < right`, field by field, NULL first; never NULL."""
    pairs = list(zip(_leaves(left, kind), _leaves(right, kind), strict=True))
    result = "false"
    for one, other in reversed(pairs):
        less = f"coalesce({one} < {other}, {one} IS NULL AND {other} IS NOT NULL)"
        result = f"({less} OR ({one} <=> {other} AND {result}))"
    return result


def _preference(shape: Shape) -> Iterator[str]:
    """Yield the order among events of one key and sequence, the one that counts first; arrival plays no part in it."""
    yield f"{_q(DELETE)} {'DESC' if shape.scd_type == 2 else 'ASC'}"
    kinds = {field.name: field.dataType for field in shape.columns}
    for name in sorted(shape.values, key=str.lower):
        yield from _descending(_q(name), kinds[name])
    if shape.has_kept:
        yield f"concat_ws(',', {_q(KEPT)}) DESC NULLS LAST"


def _field(value: str, name: str) -> str:
    """Return a field of a struct, NULL where the struct is: under a NULL struct Sail 0.7.2 shows arbitrary values."""
    return f"(CASE WHEN {value} IS NOT NULL THEN {value}.{_q(name)} END)"


def _cast(value: str, have: DataType, want: DataType) -> str:
    return value if have == want else f"CAST({value} AS {want.simpleString()})"


def _equal(left: str, right: str, names: tuple[str, ...]) -> str:
    return " AND ".join(f"{left}.{name} = {right}.{name}" for name in _names(names))


def _names(names: tuple[str, ...] | list[str]) -> list[str]:
    return [_q(name) for name in names]


def _q(name: str) -> str:
    return quote(name)


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _join(stages: list[str]) -> str:
    return ",\n".join(stages)
