"""The benchmark counts no time before results agree: what it would notice."""

from __future__ import annotations

import duckdb
import pytest
from benchmarks.peers.contest import compare

GOLD = "gold_product_performance"


def differs(one: str, two: str, *, table: str) -> list[str]:
    with duckdb.connect() as db:
        db.execute(f"CREATE VIEW a_{table} AS SELECT * FROM (VALUES {one}) t(key, amount)")
        db.execute(f"CREATE VIEW b_{table} AS SELECT * FROM (VALUES {two}) t(key, amount)")
        return compare(db, table, "a", "b")


@pytest.mark.parametrize("table", ["bronze_sales", GOLD])
def test_equal_rows_in_any_order_are_equal(table: str) -> None:
    assert differs("(1, 1.5::DOUBLE), (2, NULL)", "(2, NULL), (1, 1.5::DOUBLE)", table=table) == []


@pytest.mark.parametrize("table", ["bronze_sales", GOLD])
@pytest.mark.parametrize(
    "other",
    [
        "(1, 1.5::DOUBLE)",
        "(1, 1.5::DOUBLE), (2, 7.0)",
        "(1, 1.5::DOUBLE), (2, NULL), (2, NULL)",
        "(1, NULL::DOUBLE), (2, NULL)",
    ],
)
def test_a_row_too_few_too_many_or_changed_is_noticed(table: str, other: str) -> None:
    assert differs("(1, 1.5::DOUBLE), (2, NULL)", other, table=table)


def test_rounded_sums_may_differ_by_a_cent_and_no_more() -> None:
    assert differs("(1, 10.00::DOUBLE)", "(1, 10.01::DOUBLE)", table=GOLD) == []
    assert differs("(1, 10.00::DOUBLE)", "(1, 10.02::DOUBLE)", table=GOLD)
