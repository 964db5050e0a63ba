"""Clauses that the embedded engine lacks, in terms of what it has."""

from __future__ import annotations

import pytest

from lakelet.plan.sql_engine import for_engine


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT a, count(*), b + 1 FROM t GROUP BY ALL", "SELECT a, count(*), b + 1 FROM t GROUP BY 1, 3"),
        ("SELECT sum(a) FROM t GROUP BY ALL HAVING sum(a) > 1", "SELECT sum(a) FROM t  HAVING sum(a) > 1"),
        ("SELECT (SELECT max(b) FROM u) m FROM t GROUP BY ALL",
         "SELECT (SELECT max(b) FROM u) m FROM t GROUP BY 1"),
        ("SELECT a, b * 2 FROM t ORDER BY ALL DESC NULLS LAST LIMIT 3",
         "SELECT a, b * 2 FROM t ORDER BY 1 DESC NULLS LAST, 2 DESC NULLS LAST LIMIT 3"),
        ("SELECT a, sum(b) FROM t GROUP BY ALL ORDER BY ALL",
         "SELECT a, sum(b) FROM t GROUP BY 1 ORDER BY 1, 2"),
        ("SELECT * FROM (SELECT a, min(b) FROM t GROUP BY ALL) WHERE a > 1",
         "SELECT * FROM (SELECT a, min(b) FROM t GROUP BY 1) WHERE a > 1"),
        ("SELECT a, rank() OVER (ORDER BY b) AS r FROM t QUALIFY r = 1 ORDER BY a",
         "SELECT * FROM (SELECT a, rank() OVER (ORDER BY b) AS r FROM t ) AS lk_qualified WHERE r = 1"
         " ORDER BY a"),
        ("SELECT *, t.b, a + 1 AS c FROM t WHERE x QUALIFY rank() OVER (ORDER BY b) = 1",
         "SELECT lk_row.* FROM (SELECT struct(*, t.b, a + 1 AS c) AS lk_row,"
         " (rank() OVER (ORDER BY b) = 1) AS lk_keep FROM t WHERE x ) AS lk_qualified WHERE lk_keep"),
    ],
)  # fmt: skip
def test_a_clause_is_rewritten_by_position(sql: str, result: str) -> None:
    assert for_engine(sql) == result


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT *, count(*) FROM t GROUP BY ALL",
        "SELECT t.* FROM t ORDER BY ALL",
        "SELECT a, sum(b) OVER (ORDER BY c) FROM t GROUP BY ALL",
        "SELECT a + 1 FROM t QUALIFY rank() OVER (ORDER BY b) = 1",
        "SELECT DISTINCT a FROM t QUALIFY rank() OVER (ORDER BY b) = 1",
        "SELECT 'GROUP BY ALL' FROM t GROUP BY a, b",
        "SELECT a FROM t GROUP BY all.a",
    ],
)
def test_what_cannot_be_rewritten_exactly_stays(sql: str) -> None:
    assert for_engine(sql) == sql
