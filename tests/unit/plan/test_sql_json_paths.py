"""`column:path` becomes `get_json_object`; everything else stays as it is."""

from __future__ import annotations

import pytest

from lakelet.plan.sql_json_paths import with_json_paths


@pytest.mark.parametrize(
    ("written", "column"),
    [
        ("d:a", "get_json_object(d, '$.a') AS `a`"),
        ("d:a:b.c", "get_json_object(d, '$.a.b.c') AS `c`"),
        ("t.d:a[0].b[1]", "get_json_object(t.d, '$.a[0].b[1]') AS `b`"),
        ("d:`a b`", "get_json_object(d, '$[\\'a b\\']') AS `a b`"),
        ("d:['a'].b", "get_json_object(d, '$[\\'a\\'].b') AS `b`"),
        ("`d e`:a", "get_json_object(`d e`, '$.a') AS `a`"),
        ("d[0]:a", "get_json_object(d[0], '$.a') AS `a`"),
        ("d:a::long", "get_json_object(d, '$.a')::long AS `a`"),
        ("d:a::decimal(10, 2)", "get_json_object(d, '$.a')::decimal(10, 2) AS `a`"),
        ("d:a AS x", "get_json_object(d, '$.a') AS x"),
        ("d:a x", "get_json_object(d, '$.a') x"),
        ("upper(d:a)", "upper(get_json_object(d, '$.a'))"),
        ("f(1, d:a, 2)", "f(1, get_json_object(d, '$.a'), 2)"),
        ("d:a || d:b", "get_json_object(d, '$.a') || get_json_object(d, '$.b')"),
    ],
)
def test_a_path_is_read_from_the_column_and_names_a_whole_column(written: str, column: str) -> None:
    assert with_json_paths(f"SELECT {written} FROM t") == f"SELECT {column} FROM t"
    assert with_json_paths(f"SELECT 1, {written}, 2 FROM t") == f"SELECT 1, {column}, 2 FROM t"


def test_paths_stand_wherever_an_expression_does() -> None:
    written = "SELECT x FROM (SELECT d:a FROM t WHERE d:b = 'c:d') WHERE x > 1 ORDER BY d:e, d:f"
    assert with_json_paths(written) == (
        "SELECT x FROM (SELECT get_json_object(d, '$.a') AS `a` FROM t WHERE get_json_object(d, '$.b') = 'c:d')"
        " WHERE x > 1 ORDER BY get_json_object(d, '$.e'), get_json_object(d, '$.f')"
    )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "SELECT 'a:b', \"c:d\", `e:f` FROM t -- g:h",
        "SELECT a::long FROM t WHERE b = :b AND c IN (:c,:d)",
        "SELECT CAST(a AS STRUCT<b:INT, c:ARRAY<STRUCT<d:STRING>>>) FROM t",
        "SELECT a FROM t WHERE a IN(:b) OR:c LIMIT:n",
    ],
)
def test_strings_parameters_casts_and_types_stay(sql: str) -> None:
    assert with_json_paths(sql) == sql
