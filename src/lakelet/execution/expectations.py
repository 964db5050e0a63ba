"""Expectations: every rule sees the same rows, the output of its dataset's query before any row is dropped.

A row passes where the condition is true; NULL fails. A violated fail rule wins over drop and aborts the write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql.connect import proto

from lakelet.engine.base import Engine
from lakelet.errors import ExpectationViolation
from lakelet.events.model import DataQuality, ExpectationResult
from lakelet.execution.binding import ViewRows
from lakelet.graph.elements import Action, Dataset, Expectation
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation

VIOLATION = "__lakelet_violates_"
MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRows:
    """Rows that drop rules of one dataset removed.

    Attributes:
        rules: per row, the names of the drop rules that it violates.
    """

    dataset: str
    rows: pa.Table
    rules: tuple[tuple[str, ...], ...]


class Quality:
    """Counts of the rules that the rows of one micro-batch met; `result` is complete once all rows have been read.

    Args:
        on_dropped: is handed the rows that drop rules remove; without it they are only counted.
    """

    def __init__(self, *, on_dropped: Callable[[DroppedRows], None] | None = None) -> None:
        self.on_dropped = on_dropped
        self.num_rows = 0
        self._dropped = 0
        self._results: list[ExpectationResult] = []

    @property
    def result(self) -> DataQuality | None:
        if not self._results:
            return None
        return DataQuality(dropped_records=self._dropped, expectations=tuple(self._results))

    def add(self, dataset: str, rules: Sequence[Expectation], total: int, failed: Sequence[int], dropped: int) -> None:
        self._dropped += dropped
        self._results += [
            ExpectationResult(
                name=rule.name,
                dataset=dataset,
                action=rule.action.value,
                passed_records=total - count,
                failed_records=count,
            )
            for rule, count in zip(rules, failed, strict=True)
        ]


def check_view(item: ViewRows, display: str, engine: Engine, quality: Quality) -> None:
    """Count the rules of a view over its own rows.

    Raises:
        ExpectationViolation: a fail rule is violated.
    """
    count_rules(item.rows, item.view, display, engine, quality)


def count_rules(rows: Relation, dataset: Dataset, display: str, engine: Engine, quality: Quality) -> tuple[int, int]:
    """Count the rules of a dataset over its rows, in a query of its own; returns how many rows there are and are dropped.

    Raises:
        ExpectationViolation: a fail rule is violated.
    """
    rules = dataset.expectations
    measures = {"total": plan.expression("count(*)")}
    for number, rule in enumerate(rules):
        measures[f"failed{number}"] = plan.call("count_if", plan.is_not_true(plan.expression_of(rule.condition)))
    drops = [plan.is_not_true(plan.expression_of(rule.condition)) for rule in rules if rule.action is Action.DROP]
    if drops:
        measures["dropped"] = plan.call("count_if", any_of(drops))
    row = engine.collect(plan.aggregated(rows, measures)).to_pylist()[0]
    failed = [row[f"failed{number}"] for number in range(len(rules))]
    violated = [
        (rule, count) for rule, count in zip(rules, failed, strict=True) if count and rule.action is Action.FAIL
    ]
    if violated:
        broken = any_of([plan.is_not_true(plan.expression_of(rule.condition)) for rule, _ in violated])
        examples = engine.collect(plan.limited(plan.filtered(rows, broken), MAX_EXAMPLES)).to_pylist()
        raise violation(dataset, display, violated, examples)
    if quality.on_dropped is not None and row.get("dropped", 0):
        gone = engine.collect(plan.filtered(marked(rows, rules), any_of(drops)))
        marks = [gone.column(f"{VIOLATION}{number}") for number in range(len(rules))]
        names = [name for name in gone.column_names if not name.startswith(VIOLATION)]
        quality.on_dropped(_dropped(display, rules, gone.select(names), marks))
    if rules:
        quality.add(display, rules, row["total"], failed, row.get("dropped", 0))
    return row["total"], row.get("dropped", 0)


def marked(rows: Relation, rules: Sequence[Expectation]) -> Relation:
    """Return the rows with one boolean column a rule: whether the row violates it."""
    if not rules:
        return rows
    columns = {f"{VIOLATION}{n}": plan.is_not_true(plan.expression_of(rule.condition)) for n, rule in enumerate(rules)}
    return plan.with_columns(rows, columns)


def enforce(reader: pa.RecordBatchReader, dataset: Dataset, display: str, quality: Quality) -> pa.RecordBatchReader:
    """Return the rows to write: counted, violations of drop rules removed, marks taken off.

    The reader raises `ExpectationViolation` at its end if a fail rule was violated, so a writer aborts before it commits.
    """
    rules = dataset.expectations
    names = [field.name for field in reader.schema if not field.name.startswith(VIOLATION)]
    schema = pa.schema([reader.schema.field(name) for name in names])

    def batches() -> Iterator[pa.RecordBatch]:
        failed = [0] * len(rules)
        total = dropped = 0
        examples: list[dict[str, object]] = []
        for batch in reader:
            total += batch.num_rows
            quality.num_rows = total
            kept = batch.select(names)
            if rules and batch.num_rows:
                marks = [batch.column(f"{VIOLATION}{n}") for n in range(len(rules))]
                for number, mark in enumerate(marks):
                    failed[number] += pc.sum(mark).as_py() or 0
                broken = _any([mark for mark, rule in zip(marks, rules, strict=True) if rule.action is Action.FAIL])
                if broken is not None and len(examples) < MAX_EXAMPLES:
                    examples += kept.filter(broken).slice(0, MAX_EXAMPLES - len(examples)).to_pylist()
                gone = _any([mark for mark, rule in zip(marks, rules, strict=True) if rule.action is Action.DROP])
                if gone is not None:
                    dropped += pc.sum(gone).as_py() or 0
                    if quality.on_dropped is not None and pc.any(gone).as_py():
                        lost = pa.Table.from_batches([kept.filter(gone)])
                        quality.on_dropped(_dropped(display, rules, lost, [mark.filter(gone) for mark in marks]))
                    kept = kept.filter(pc.invert(gone))
            yield kept
        violated = [
            (rule, count) for rule, count in zip(rules, failed, strict=True) if count and rule.action is Action.FAIL
        ]
        if violated:
            raise violation(dataset, display, violated, examples)
        if rules:
            quality.add(display, rules, total, failed, dropped)

    return pa.RecordBatchReader.from_batches(schema, batches())


def violation(
    dataset: Dataset, display: str, violated: Sequence[tuple[Expectation, int]], examples: Sequence[dict[str, object]]
) -> ExpectationViolation:
    """Return the error for violated fail rules, with their counts and example rows."""
    names = ", ".join(rule.name for rule, _ in violated)
    counts = "; ".join(
        f"`{rule.name}` ({rule.text}): {count} row{'s' if count != 1 else ''}" for rule, count in violated
    )
    rows = [json.dumps(row, default=str, ensure_ascii=False) for row in examples]
    cause = "\n".join([counts, *(f"example: {row}" for row in rows)])
    return ExpectationViolation(
        "EXPECTATION_VIOLATION.VERBOSITY_ALL",
        f"Flow '{display}' failed to meet the expectation. Violated expectations: '{names}'.",
        origin=replace(violated[0][0].origin, dataset=display),
        cause=cause,
        hint=f"nothing of this batch was written, and it is tried again as it is: finish it without these rows with "
        f"`lakelet repair {display} --drop-rows`, or loosen the rule; rows mended at their source need "
        f"`lakelet run --full-refresh {display}`",
    )


def _dropped(dataset: str, rules: Sequence[Expectation], rows: pa.Table, marks: Sequence[pa.Array]) -> DroppedRows:
    """Return dropped rows with the rules that dropped them; `marks` has per rule whether each row violates it."""
    columns = [
        (rule.name, mark.to_pylist()) for rule, mark in zip(rules, marks, strict=True) if rule.action is Action.DROP
    ]
    violated = tuple(tuple(name for name, mark in columns if mark[row]) for row in range(rows.num_rows))
    return DroppedRows(dataset=dataset, rows=rows, rules=violated)


def any_of(conditions: Sequence[proto.Expression]) -> proto.Expression:
    """Return the disjunction of conditions that are never NULL."""
    result = conditions[0]
    for condition in conditions[1:]:
        result = plan.call("or", result, condition)
    return result


def _any(marks: Sequence[pa.Array]) -> pa.Array | None:
    if not marks:
        return None
    result = marks[0]
    for mark in marks[1:]:
        result = pc.or_(result, mark)
    return result
