"""The rows below an operator with state, where a cluster computes: written once, before anything is derived from them.

Two things come of a batch's rows, what the operator gives and what it remembers, and both must come of the same rows in the
same order. So they are written to files beside the checkpoint, and only counts come here. Nothing is ever written into a
folder twice: a job that goes on after its client died cannot add to what others read.

    <checkpoint>/staged/<attempt>/<input>   Parquet files: the rows that are not late, their order, when the watermark ends them
    <checkpoint>/staged.json                of which batch and query the rows of an attempt are, and how many
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import (
    LongType,
    StructField,
    StructType,
    TimestampNTZType,
    TimestampType,
)

from lakelet.engine.base import Engine
from lakelet.execution.checkpoint import FORMAT, STAGED, Checkpoint, read_derived, write_json
from lakelet.execution.state import ENDS_AT
from lakelet.execution.watermark import Thresholds
from lakelet.names import quote
from lakelet.places import Place, remove_folder
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.delta_spark import stage, staged_files, write_files
from lakelet.storage.schema import nullable

PLACE = "__lakelet_place"
"""Column of staged rows: their order. The upper bits number the pieces that a cluster wrote, the lower ones the rows of each."""
_PIECE_BITS = 33
_LATE = "lakelet_late"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What event time means for the rows of an input.

    Attributes:
        column: the event time, or the window; None where there is none.
        ends_after_ms: a row is ended by the watermark so long after its event time; None for never.
    """

    column: str | None = None
    ends_after_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What an operator reads, to be staged."""

    rows: Relation
    columns: StructType
    timing: Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedRows:
    """Rows that lie in files.

    Attributes:
        columns: of the query; the files have `ENDS_AT` and `PLACE` beside them.
        num_input: rows of the query; those that are late are not in the files.
        num_open: rows in the files that the watermark of this batch does not end.
    """

    path: str
    columns: StructType
    num_input: int
    num_late: int
    num_open: int

    @property
    def column_names(self) -> list[str]:
        return list(self.columns.names)

    @property
    def num_rows(self) -> int:
        """Rows in the files."""
        return self.num_input - self.num_late

    def read(self) -> Relation:
        """Return the rows of the files, with `ENDS_AT` and `PLACE`."""
        return staged_files(self.path, with_marks(self.columns))

    def numbered(self, name: str, first: int) -> Relation:
        """Return the rows with a column of whole numbers without a gap from `first` on, in their order; without `PLACE`."""
        columns = ", ".join(f"staged.{quote(column)}" for column in (*self.column_names, ENDS_AT))
        piece = f"shiftright({PLACE}, {_PIECE_BITS})"
        inside = f"({PLACE} & {(1 << _PIECE_BITS) - 1}L)"
        query = f"""
            SELECT {columns}, {first}L + pieces.before + {inside} AS {name}
            FROM staged JOIN (
                SELECT piece, sum(num_rows) OVER (ORDER BY piece) - num_rows AS before
                FROM (SELECT {piece} AS piece, count(*) AS num_rows FROM staged GROUP BY {piece})
            ) AS pieces ON {piece} = pieces.piece
        """
        return plan.sql(query, {"staged": self.read()})


@dataclass(slots=True, kw_only=True)
class Staging:
    """The files of one attempt at a batch.

    Attributes:
        query: a digest of what is below the operator.
        is_begun: some of what the batch remembers is committed, and the rest must come of the same rows.
    """

    checkpoint: Checkpoint
    engine: Engine
    batch_id: int
    query: str
    is_begun: bool
    thresholds: Thresholds
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)

    def inputs(self, queries: Mapping[str, Input], *, keep: bool) -> tuple[StagedRows, ...]:
        """Return the rows of an operator's inputs: those of an attempt that was cut off, if it had them all, else new ones.

        Rows that were remembered came of that attempt, and what the operator gives must come of the same. A query that was
        changed since then is run, if nothing is remembered yet.

        Args:
            keep: an attempt after this one may use them.
        """
        known = read_derived(_note(self.checkpoint))
        self._forget_others(known.get("attempt"))
        if known.get("batch_id") == self.batch_id and (self.is_begun or known.get("query") == self.query):
            folder = _folder(self.checkpoint) / str(known["attempt"])
            return tuple(
                StagedRows(path=str(folder / name), columns=_storable(query.columns), **known["inputs"][name])
                for name, query in queries.items()
            )
        staged = {name: self._staged(name, query) for name, query in queries.items()}
        if keep:
            counts = {
                name: {"num_input": rows.num_input, "num_late": rows.num_late, "num_open": rows.num_open}
                for name, rows in staged.items()
            }
            note = {"batch_id": self.batch_id, "query": self.query, "attempt": self.attempt, "inputs": counts}
            write_json(_note(self.checkpoint), {"format": FORMAT, **note})
        return tuple(staged.values())

    def _forget_others(self, kept: str | None) -> None:
        """Remove what attempts that failed have left, but for the one whose rows are noted."""
        folder = _folder(self.checkpoint)
        for attempt in folder.iterdir() if folder.is_dir() else ():
            if attempt.name != kept:
                remove_folder(attempt)

    def write(self, name: str, rows: Relation) -> tuple[str, dict[str, Any]]:
        """Write rows to files of this attempt; returns their folder, and what the query observes."""
        path = str(self._path(name))
        return path, write_files(self.engine, path, rows)

    def _path(self, name: str) -> Place:
        return _folder(self.checkpoint) / self.attempt / name

    def _staged(self, name: str, query: Input) -> StagedRows:
        rows, columns, timing = query.rows, query.columns, query.timing
        late, ends = "false", "CAST(NULL AS TIMESTAMP)"
        if timing.column is not None:
            at = micros(timing.column, columns)
            if self.thresholds.late is not None:
                late = f"coalesce({at} <= {self.thresholds.late}L, false)"
            if timing.ends_after_ms is not None:
                ends = f"timestamp_micros({at} + {timing.ends_after_ms * 1000}L)"
        passed = {"num_late": plan.expression(f"count_if({late})")}
        kept = plan.filtered(plan.observed(rows, _LATE, passed), plan.expression(f"NOT {late}"))
        marks = {ENDS_AT: plan.expression(ends), PLACE: plan.expression("monotonically_increasing_id()")}
        incoming, marked = to_arrow_schema(with_marks(columns), timezone="UTC"), plan.with_columns(kept, marks)
        is_open = "true"
        if self.thresholds.now is not None:
            is_open = f"NOT coalesce(unix_micros({ENDS_AT}) <= {self.thresholds.now}L, false)"
        measures = {"num_rows": plan.expression("count(*)"), "num_open": plan.expression(f"count_if({is_open})")}
        path = str(self._path(name))
        _, counts = stage(self.engine, path, marked, incoming, nullable(incoming), measures)
        if "num_late" not in counts:  # such rows are in no file
            counts |= self.engine.collect(plan.aggregated(rows, passed)).to_pylist()[0]
        num_late, num_rows = counts["num_late"], counts["num_rows"]
        return StagedRows(
            path=path,
            columns=_storable(columns),
            num_input=num_rows + num_late,
            num_late=num_late,
            num_open=counts["num_open"],
        )


def forget_staged(checkpoint: Checkpoint) -> None:
    """Remove the rows of all attempts; only after the batch's note."""
    _note(checkpoint).unlink(missing_ok=True)
    if _folder(checkpoint).is_dir():
        remove_folder(_folder(checkpoint))


def staged_batch(checkpoint: Checkpoint) -> int | None:
    """Return of which batch rows are staged and noted, None for none."""
    found: int | None = read_derived(_note(checkpoint)).get("batch_id")
    return found


def with_marks(columns: StructType) -> StructType:
    """Return the columns of staged files."""
    return StructType([*columns.fields, StructField(ENDS_AT, TimestampType()), StructField(PLACE, LongType())])


def micros(column: str, columns: StructType) -> str:
    """Return SQL text: an instant as microseconds since 1970; of a window, its end. A timestamp without a zone counts as UTC."""
    kind, text = columns[column].dataType, quote(column)
    if isinstance(kind, StructType):
        end = kind.fields[1]
        kind, text = end.dataType, f"{text}.{quote(end.name)}"
    if isinstance(kind, TimestampNTZType):
        text = f"CAST(concat(CAST({text} AS STRING), 'Z') AS TIMESTAMP)"
    return f"unix_micros({text})"


def _storable(columns: StructType) -> StructType:
    """Return columns that files can have: what has no type is a string, as in a table."""
    return from_arrow_schema(nullable(to_arrow_schema(columns, timezone="UTC")))


def _folder(checkpoint: Checkpoint) -> Place:
    return checkpoint.folder / STAGED


def _note(checkpoint: Checkpoint) -> Place:
    return checkpoint.folder / "staged.json"
