"""A text that is sent as a tree means what the engine's own parser makes of it."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyspark.sql.connect import proto

from lakelet.engine.sail import SailEngine
from lakelet.plan import relation as plan
from lakelet.plan.simple_text import simple_expression

pytestmark = pytest.mark.feature("SQL text")

ROWS = pa.table(
    {
        "a": pa.array([1, None, 7, 12345678901], pa.int64()),
        "odd name": ["x", None, "7", ""],
        "d": [0.5, 7.0, None, -1.0],
    }
)
SIMPLE = [
    "true", "False", "7", "0L", "123456789", "a", " a ", "A", "`a`", "`odd name`", "d", "a IS NULL", "a is  not null",
    "`odd name` IS NOT NULL", "a > 1", "a>=7", "a = 7", "a == 7", "d < 7", "d <= 7",
]  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    engine = SailEngine()
    yield engine
    engine.close()


def as_text(text: str) -> proto.Expression:
    result = proto.Expression()
    result.expression_string.expression = text
    return result


@pytest.mark.parametrize("text", SIMPLE)
def test_a_tree_gives_the_values_and_the_type_of_its_text(engine: SailEngine, text: str) -> None:
    tree = simple_expression(text)
    assert tree is not None
    found = engine.collect(plan.with_columns(plan.local(ROWS), {"tree": tree, "text": as_text(text)}))
    assert found.column("tree").type == found.column("text").type
    assert found.column("tree").to_pylist() == found.column("text").to_pylist()


@pytest.mark.parametrize("text", ["count(*)", "COUNT( 1 )"])
def test_a_count_counts_all_rows(engine: SailEngine, text: str) -> None:
    tree = simple_expression(text)
    assert tree is not None
    found = engine.collect(plan.aggregated(plan.local(ROWS), {"tree": tree, "text": as_text(text)}))
    assert found.to_pylist() == [{"tree": 4, "text": 4}]


@pytest.mark.parametrize(
    "text",
    ["", "null", "NULL IS NULL", "current_date", "current_timestamp", "user", "a > 1 AND a < 3", "a > -1", "1.5", "1e3",
     "9999999999", "'x'", "a.b", "a > b", "count(a)", "not a", "a != 7", "now", "a -- comment", "``", "1L > a"],
)  # fmt: skip
def test_any_other_text_stays_text(text: str) -> None:
    assert simple_expression(text) is None
