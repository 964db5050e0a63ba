import pytest

from lakelet.pipelines.sql_text import non_query_keyword


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "  -- note\n/* more */ select 1;",
        "(SELECT 1) UNION ALL (SELECT 2)",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "WITH insert_me AS (SELECT 'INSERT') TABLE insert_me",
        "FROM orders SELECT id",
        "VALUES (1), (2)",
        "TABLE orders",
        "SELECT ';'",
    ],
)
def test_a_query_is_a_query(text: str) -> None:
    assert non_query_keyword(text) is None


@pytest.mark.parametrize(
    ("text", "keyword"),
    [
        ("CREATE TABLE t (a INT)", "CREATE"),
        ("insert into t select 1", "INSERT"),
        ("SET a = b", "SET"),
        ("USE shop", "USE"),
        ("DROP TABLE t", "DROP"),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", "INSERT"),
        ("FROM a INSERT INTO t SELECT *", "INSERT"),
        ("SELECT 1; DROP TABLE t", "several statements"),
        ("  -- only a comment", "an empty text"),
    ],
)
def test_anything_else_names_its_keyword(text: str, keyword: str) -> None:
    assert non_query_keyword(text) == keyword
