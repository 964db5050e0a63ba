"""Streams pass through row by row; what needs earlier rows is refused at the user's line."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pyspark.sql.connect import proto

from lakelet.errors import GraphError, Origin
from lakelet.plan import relation as plan
from lakelet.plan.normalize import normalize
from lakelet.plan.operators import refuse_stateful
from lakelet.plan.relation import Relation

WHERE = Origin(file="flow.py", line=1, dataset="orders")
Join = proto.Join


def stream() -> Relation:
    return plan.named("orders", streaming=True)


def table() -> Relation:
    return plan.named("stores")


def join(left: Relation, right: Relation, how: str) -> Relation:
    relation = plan.new()
    relation.join.left.CopyFrom(left)
    relation.join.right.CopyFrom(right)
    relation.join.join_type = Join.JoinType.Value(f"JOIN_TYPE_{how}")
    return relation


def aggregated(source: Relation) -> Relation:
    return plan.aggregated(source, {"n": plan.expression("count(*)")})


def distinct(source: Relation) -> Relation:
    relation = plan.new()
    relation.deduplicate.input.CopyFrom(source)
    return relation


def sorted_(source: Relation) -> Relation:
    relation = plan.new()
    relation.sort.input.CopyFrom(source)
    return relation


def with_column(text: str) -> Callable[[Relation], Relation]:
    return lambda source: plan.with_columns(source, {"x": plan.expression(text)})


WITH_STATE = [pytest.param(aggregated, id="aggregate"), pytest.param(distinct, id="distinct")]
STATEFUL = [
    pytest.param(sorted_, id="sort"),
    pytest.param(lambda source: plan.limited(source, 5), id="limit"),
    pytest.param(with_column("sum(amount) OVER (PARTITION BY id)"), id="window in text"),
    pytest.param(with_column("max(amount)"), id="aggregate in text"),
]


@pytest.mark.parametrize("operator", STATEFUL)
def test_what_needs_earlier_rows_is_refused_over_a_stream_only(operator: Callable[[Relation], Relation]) -> None:
    refuse_stateful(operator(table()), WHERE)
    with pytest.raises(GraphError) as raised:
        refuse_stateful(operator(stream()), WHERE)
    assert raised.value.condition == "UNSUPPORTED_STREAMING_OPERATOR"
    assert raised.value.hint
    with pytest.raises(GraphError):
        refuse_stateful(
            plan.filtered(operator(plan.filtered(stream(), plan.expression("x"))), plan.expression("y")), WHERE
        )


@pytest.mark.parametrize("operator", WITH_STATE)
def test_operators_that_the_runtime_keeps_state_for_are_let_through(operator: Callable[[Relation], Relation]) -> None:
    refuse_stateful(operator(stream()), WHERE)
    refuse_stateful(join(stream(), stream(), "INNER"), WHERE)


@pytest.mark.parametrize("operator", [*STATEFUL, *WITH_STATE])
def test_the_table_beside_a_stream_may_be_anything(operator: Callable[[Relation], Relation]) -> None:
    refuse_stateful(join(stream(), operator(table()), "INNER"), WHERE)


@pytest.mark.parametrize(
    ("left", "how", "right", "fine"),
    [
        (stream, "INNER", table, True),
        (table, "INNER", stream, True),
        (stream, "LEFT_OUTER", table, True),
        (table, "RIGHT_OUTER", stream, True),
        (stream, "LEFT_SEMI", table, True),
        (stream, "LEFT_ANTI", table, True),
        (stream, "CROSS", table, True),
        (table, "LEFT_OUTER", stream, False),
        (stream, "RIGHT_OUTER", table, False),
        (stream, "FULL_OUTER", table, False),
        (table, "LEFT_SEMI", stream, False),
        (table, "LEFT_ANTI", stream, False),
        (table, "FULL_OUTER", table, True),
    ],
)
def test_joins_that_keep_rows_of_the_table_or_have_two_streams_are_refused(
    left: Callable[[], Relation], how: str, right: Callable[[], Relation], fine: bool
) -> None:
    tree = join(left(), right(), how)
    if fine:
        refuse_stateful(tree, WHERE)
    else:
        with pytest.raises(GraphError, match="UNSUPPORTED_STREAMING_OPERATOR"):
            refuse_stateful(tree, WHERE)


@pytest.mark.parametrize(
    ("kind", "every", "fine"),
    [("UNION", True, True), ("UNION", False, False), ("INTERSECT", True, False), ("EXCEPT", True, False)],
)
def test_union_all_is_the_only_set_operation(kind: str, every: bool, fine: bool) -> None:
    tree = plan.union([stream(), stream()])
    tree.set_op.set_op_type = proto.SetOperation.SetOpType.Value(f"SET_OP_TYPE_{kind}")
    tree.set_op.is_all = every
    if fine:
        refuse_stateful(tree, WHERE)
    else:
        with pytest.raises(GraphError):
            refuse_stateful(tree, WHERE)


@pytest.mark.parametrize(
    ("query", "fine"),
    [
        ("SELECT id, upper(name) FROM STREAM(orders) WHERE id > 1", True),
        ("SELECT * FROM STREAM(orders) o LEFT JOIN (SELECT k, max(v) FROM stores GROUP BY k) s ON o.k = s.k", True),
        ("SELECT count(*) FROM STREAM(orders)", True),
        ("SELECT id FROM STREAM(orders) GROUP BY id", True),
        ("SELECT id FROM STREAM(orders) GROUP BY ROLLUP (id)", False),
        ("SELECT DISTINCT id FROM STREAM(orders)", True),
        ("SELECT DISTINCT id, rank() OVER (ORDER BY id) FROM STREAM(orders)", False),
        ("SELECT DISTINCT id FROM STREAM(orders) WHERE id IN (SELECT id FROM x)", False),
        ("SELECT id FROM STREAM(orders) ORDER BY id LIMIT 3", False),
        ("SELECT id FROM STREAM(a) JOIN STREAM(b) USING (id)", True),
        ("SELECT a.id FROM STREAM(a), STREAM(b)", False),
        ("WITH x AS (SELECT * FROM STREAM(orders)) SELECT sum(id) FROM x", False),
    ],
)
def test_sql_text_over_a_stream_is_looked_through(query: str, fine: bool) -> None:
    tree = normalize(plan.sql(query))
    if fine:
        refuse_stateful(tree, WHERE)
    else:
        with pytest.raises(GraphError):
            refuse_stateful(tree, WHERE)


def test_the_error_stands_at_the_operators_line() -> None:
    tree = sorted_(stream())
    tree.common.origin.python_origin.call_site = "/p/silver.py:41"
    with pytest.raises(GraphError) as raised:
        refuse_stateful(plan.filtered(tree, plan.expression("n > 1")), WHERE)
    origin = raised.value.origin
    assert origin is not None
    assert (origin.file, origin.line, origin.dataset) == ("/p/silver.py", 41, "orders")
