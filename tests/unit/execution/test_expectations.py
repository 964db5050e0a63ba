"""Rules over rows: counted before any drop, NULL fails, and a fail rule stops the writer."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakelet.errors import ExpectationViolation, Origin
from lakelet.execution.expectations import VIOLATION, DroppedRows, Quality, enforce, marked
from lakelet.graph.elements import Action, Dataset, DatasetKind, Expectation
from lakelet.names import NameContext
from lakelet.plan import relation as plan


def orders(**rules: Action) -> Dataset:
    """Return a table with one rule a name."""
    return Dataset(
        name=NameContext().resolve("orders"),
        kind=DatasetKind.STREAMING_TABLE,
        expectations=tuple(
            Expectation(name=name, condition=f"{name} > 0", action=action, origin=Origin(file="p.py", line=3))
            for name, action in rules.items()
        ),
    )


def enforced(dataset: Dataset, *batches: list[tuple[int, list[bool]]], quality: Quality | None = None) -> list[int]:
    """Return the ids that remain; a row is its id and, per rule, whether it violates it."""
    schema = pa.schema(
        [("id", pa.int64()), *((f"{VIOLATION}{n}", pa.bool_()) for n in range(len(dataset.expectations)))]
    )
    made = [
        pa.record_batch(
            [pa.array(column) for column in zip(*((i, *marks) for i, marks in rows), strict=True)], schema=schema
        )
        if rows
        else pa.RecordBatch.from_pylist([], schema=schema)
        for rows in batches
    ]
    reader = pa.RecordBatchReader.from_batches(schema, iter(made))
    checked = enforce(reader, dataset, "orders", quality or Quality())
    assert checked.schema.names == ["id"]
    return checked.read_all()["id"].to_pylist()  # type: ignore[no-any-return]


def counts(quality: Quality) -> dict[str, tuple[int, int]]:
    assert quality.result is not None
    return {rule.name: (rule.passed_records, rule.failed_records) for rule in quality.result.expectations}


def test_every_rule_sees_every_row() -> None:
    quality = Quality()
    dataset = orders(a=Action.WARN, b=Action.DROP, c=Action.DROP)
    kept = enforced(
        dataset,
        [(1, [False, False, False]), (2, [True, True, False])],
        [],
        [(3, [True, False, False]), (4, [False, True, True])],
        quality=quality,
    )
    assert kept == [1, 3]
    assert counts(quality) == {"a": (2, 2), "b": (2, 2), "c": (3, 1)}
    assert quality.result is not None
    assert (quality.result.dropped_records, quality.num_rows) == (2, 4)


def test_no_rows_are_no_violations() -> None:
    quality = Quality()
    assert enforced(orders(a=Action.FAIL), [], quality=quality) == []
    assert counts(quality) == {"a": (0, 0)}


def test_without_rules_there_are_no_counts() -> None:
    quality = Quality()
    assert enforced(orders(), [(1, [])], quality=quality) == [1]
    assert (quality.result, quality.num_rows) == (None, 1)


def test_a_violated_fail_rule_raises_after_all_rows_and_names_every_rule() -> None:
    quality = Quality()
    dataset = orders(a=Action.FAIL, b=Action.DROP, c=Action.FAIL, d=Action.FAIL)
    rows = [(n, [n == 3, n == 3, n < 7, False]) for n in range(9)]
    with pytest.raises(ExpectationViolation) as raised:
        enforced(dataset, rows[:4], rows[4:], quality=quality)
    error = raised.value
    assert error.condition == "EXPECTATION_VIOLATION.VERBOSITY_ALL"
    assert error.message == "Flow 'orders' failed to meet the expectation. Violated expectations: 'a, c'."
    assert "`a` (a > 0): 1 row; `c` (c > 0): 7 rows" in (error.cause or "")
    assert (error.cause or "").count("example: ") == 5
    assert 'example: {"id": 3}' in (error.cause or "")  # a drop rule must not hide the row from the fail rule
    assert error.origin is not None
    assert (error.origin.file, error.origin.dataset) == ("p.py", "orders")
    assert quality.result is None


def test_dropped_rows_are_handed_over_with_the_rules_that_dropped_them() -> None:
    gone: list[DroppedRows] = []
    dataset = orders(a=Action.WARN, b=Action.DROP, c=Action.DROP)
    enforced(dataset, [(1, [True, False, False]), (2, [True, True, True])], quality=Quality(on_dropped=gone.append))
    assert [(item.rows.to_pylist(), item.rules) for item in gone] == [([{"id": 2}], (("b", "c"),))]


def test_the_query_marks_violations_and_null_is_one() -> None:
    rows = plan.local(pa.table({"a": [1]}))
    result = marked(rows, orders(a=Action.WARN).expectations)
    [column] = result.with_columns.aliases
    assert list(column.name) == [f"{VIOLATION}0"]
    assert column.expr.unresolved_function.function_name == "not"
    assert marked(rows, ()) is rows


@given(marks=st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30), cut=st.integers(0, 30))
def test_passed_and_failed_are_the_input_however_it_is_split(marks: list[tuple[bool, bool]], cut: int) -> None:
    rows: list[Any] = [(n, list(mark)) for n, mark in enumerate(marks)]
    whole, parts = Quality(), Quality()
    dataset = orders(a=Action.WARN, b=Action.DROP)
    kept = enforced(dataset, rows, quality=whole)
    assert enforced(dataset, rows[:cut], rows[cut:], quality=parts) == kept
    assert counts(whole) == counts(parts)
    assert all(passed + failed == len(rows) for passed, failed in counts(whole).values())
    assert whole.result is not None
    assert len(kept) + whole.result.dropped_records == len(rows)
