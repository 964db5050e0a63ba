"""Which calls of `xxhash64` get one more argument, and that columns keep their names."""

from __future__ import annotations

import pytest

from lakelet.plan import relation as plan
from lakelet.plan.constant_hashes import with_rows_in_hashes, with_rows_in_hashes_of_text


def rows(values: str) -> str:
    return f", nullif(hash({values}), hash({values}))"


@pytest.mark.parametrize(
    ("sql", "changed"),
    [
        ("SELECT xxhash64(k) AS h FROM t", f"SELECT xxhash64(k{rows('k')}) AS h FROM t"),
        ("SELECT a, XXHash64(1, v) h, b FROM t", f"SELECT a, XXHash64(1, v{rows('1, v')}) h, b FROM t"),
        ("SELECT a, coalesce(0, xxhash64(k), 1) FROM t", f"SELECT a, coalesce(0, xxhash64(k{rows('k')}), 1) FROM t"),
        ("xxhash64(xxhash64(k)) % 10", f"xxhash64(xxhash64(k{rows('k')}){rows('xxhash64(k)')}) % 10"),
        ("SELECT 1 FROM t WHERE xxhash64(k) > 0", f"SELECT 1 FROM t WHERE xxhash64(k{rows('k')}) > 0"),
        (
            "SELECT xxhash64(k) AS h FROM t GROUP BY v, xxhash64(k)",
            f"SELECT xxhash64(k{rows('k')}) AS h FROM t GROUP BY v, xxhash64(k{rows('k')})",
        ),
    ],
)
def test_a_call_in_text_gets_an_argument(sql: str, changed: str) -> None:
    assert with_rows_in_hashes_of_text(sql) == changed


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT xxhash64(k) FROM t",
        "SELECT a, xxhash64(k), b FROM (SELECT xxhash64(k), v FROM t)",
        "xxhash64(k)",
        "SELECT 'xxhash64(k) AS h' AS v, `xxhash64`, my_xxhash64(k) AS m FROM t",
        "SELECT xxhash64() AS h, xxhash64(*) AS s FROM t",
    ],
)
def test_a_call_that_names_its_column_stays(sql: str) -> None:
    assert with_rows_in_hashes_of_text(sql) == sql


def test_a_column_of_a_tree_keeps_its_name() -> None:
    tree = plan.new()
    tree.project.input.CopyFrom(plan.named("t"))
    tree.project.expressions.append(plan.call("xxhash64", plan.attribute("a"), plan.attribute("b")))
    tree.project.expressions.append(plan.aliased(plan.call("xxhash64", plan.expression("1"), plan.attribute("a")), "h"))
    with_rows_in_hashes(tree)
    first, second = tree.project.expressions
    assert list(first.alias.name) == ["xxhash64(a, b)"]
    arguments = second.alias.expr.unresolved_function.arguments
    assert [argument.unresolved_function.function_name for argument in arguments] == ["", "", "nullif"]
    assert list(arguments[2].unresolved_function.arguments[0].unresolved_function.arguments) == [plan.attribute("a")]
