"""Which calls of `xxhash64` get one more argument, and that columns keep their names."""

from __future__ import annotations

import pytest
from pyspark.sql.connect import proto

from lakelet.plan import relation as plan
from lakelet.plan.constant_hashes import (
    with_rows_in_hashes,
    with_rows_in_hashes_of_expression,
    with_rows_in_hashes_of_query,
)


def rows(*values: str) -> str:
    column = f"hash({', '.join(f'isnull({value})' for value in values)})"
    return f", nullif({column}, {column})"


def hashed(*names: str) -> proto.Expression:
    return plan.call("xxhash64", *map(plan.attribute, names))


def num_arguments(item: proto.Expression) -> int:
    value = item.alias.expr if item.WhichOneof("expr_type") == "alias" else item
    return len(value.unresolved_function.arguments)


@pytest.mark.parametrize(
    ("sql", "changed"),
    [
        ("SELECT xxhash64(k) AS h FROM t", f"SELECT xxhash64(k{rows('k')}) AS h FROM t"),
        (
            "SELECT a, XXHash64(f(k, 1), v) AS h FROM t",
            f"SELECT a, XXHash64(f(k, 1), v{rows('f(k, 1)', 'v')}) AS h FROM t",
        ),
    ],
)
def test_a_call_with_a_name_in_a_query_gets_an_argument(sql: str, changed: str) -> None:
    assert with_rows_in_hashes_of_query(sql) == changed


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT xxhash64(k) FROM t",
        "SELECT DISTINCT xxhash64(k) FROM t",
        "SELECT xxhash64(k) % 10, v FROM t UNION SELECT 1, 2",
        "SELECT xxhash64(k) AS h FROM t GROUP BY xxhash64(k)",
        "SELECT 'xxhash64(k) AS h' AS v, `xxhash64`, my_xxhash64(k) AS m FROM t",
        "SELECT xxhash64() AS h, xxhash64(*) AS s FROM t",
    ],
)
def test_a_query_in_which_a_name_or_a_match_would_change_stays(sql: str) -> None:
    assert with_rows_in_hashes_of_query(sql) == sql


def test_a_call_in_a_call_gets_its_own() -> None:
    changed = with_rows_in_hashes_of_expression("xxhash64(xxhash64(k), v) % 10")
    assert changed == f"xxhash64(xxhash64(k{rows('k')}), v{rows('v')}) % 10"


def test_columns_of_a_tree_keep_their_names() -> None:
    tree = plan.new()
    tree.project.input.CopyFrom(plan.named("t"))
    named = [plan.aliased(hashed("a", "b"), "h"), plan.expression("xxhash64(a + 1) AS i")]
    nameless = [hashed("a"), plan.call("upper", hashed("a")), plan.expression("xxhash64(a + 1)")]
    tree.project.expressions.extend([*named, *nameless])
    tree = with_rows_in_hashes(tree)
    assert num_arguments(tree.project.expressions[0]) == 3
    assert "nullif" in tree.project.expressions[1].expression_string.expression
    assert list(tree.project.expressions[2:]) == nameless


@pytest.mark.parametrize("has_name", [True, False])
def test_groups_without_a_name_stay_with_what_must_match_them(has_name: bool) -> None:
    tree = plan.new()
    tree.aggregate.input.CopyFrom(plan.named("t"))
    tree.aggregate.grouping_expressions.append(plan.aliased(hashed("k"), "g") if has_name else hashed("k"))
    tree.aggregate.aggregate_expressions.append(plan.aliased(hashed("k"), "h"))
    tree = with_rows_in_hashes(tree)
    assert [num_arguments(item) for item in tree.aggregate.grouping_expressions] == [1 + has_name]
    assert [num_arguments(item) for item in tree.aggregate.aggregate_expressions] == [1 + has_name]


def test_a_condition_gets_an_argument() -> None:
    tree = plan.filtered(plan.named("t"), plan.call(">", hashed("k"), plan.expression("0")))
    tree = with_rows_in_hashes(tree)
    assert len(tree.filter.condition.unresolved_function.arguments[0].unresolved_function.arguments) == 2
