"""Results of a run, without an engine."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest

from lakelet.testing.result import DatasetRows, RuleCount, Rules, RunResult, in_order


def rule(dataset: str, name: str, failed: int = 0) -> RuleCount:
    return RuleCount(dataset=dataset, name=name, action="drop", passed=1, failed=failed)


def test_rows_are_sorted_by_their_columns_with_null_first() -> None:
    rows = [{"a": 2, "b": date(2024, 1, 1)}, {"a": None, "b": None}, {"a": 1, "b": {"x": 1}}, {"a": 1, "b": None}]
    assert [row["a"] for row in in_order(rows)] == [None, 1, 1, 2]


def test_a_rule_that_several_datasets_have_is_that_of_the_one_that_was_run() -> None:
    rules = Rules([rule("s.orders", "has_id", 1), rule("clean", "has_id", 2)], targets=["s.orders"])
    assert rules["has_id"].failed == 1
    assert rules["clean", "has_id"].failed == 2
    assert rules["orders", "has_id"].failed == 1


def test_a_name_that_could_mean_two_rules_is_refused() -> None:
    rules = Rules([rule("a", "has_id"), rule("b", "has_id")], targets=["c"])
    with pytest.raises(KeyError, match="several datasets"):
        rules["has_id"]


def test_rows_of_several_datasets_are_taken_by_name() -> None:
    tables = {name: DatasetRows(name=name, table=pa.table({"n": [1]})) for name in ("s.a", "s.b")}
    result = RunResult(datasets=tables, targets=("s.a", "s.b"), dropped=(), rules=Rules([]))
    assert result["a"].rows == [{"n": 1}]
    with pytest.raises(KeyError, match="several datasets were run"):
        _ = result.rows
    with pytest.raises(KeyError, match="not computed"):
        result["c"]
