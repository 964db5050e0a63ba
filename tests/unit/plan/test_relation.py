"""Relations as data: walked, copied and substituted, never changed."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pyspark.sql.connect import proto

from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation


def read(name: str) -> Relation:
    return plan.named(name)


def names(relation: Relation) -> list[str]:
    """Return the tables that a tree reads, in order."""
    found = [node.read.named_table.unparsed_identifier for node in plan.relations(relation)]
    return [name for name in found if name]


def attribute(name: str, plan_id: int | None = None) -> proto.Expression:
    expression = proto.Expression()
    expression.unresolved_attribute.unparsed_identifier = name
    if plan_id is not None:
        expression.unresolved_attribute.plan_id = plan_id
    return expression


def test_every_relation_has_a_plan_id_of_its_own() -> None:
    made = [plan.new(), read("a"), plan.local(pa.table({"x": [1]})), plan.alias(read("a"), "b"), plan.sql("SELECT 1")]
    ids = [relation.common.plan_id for relation in made]
    assert len(set(ids)) == len(ids)
    assert min(ids) >= 1_000_000_000


def test_local_rows_travel_as_arrow() -> None:
    relation = plan.local(pa.table({"x": [1, 2]}))
    assert pa.ipc.open_stream(relation.local_relation.data).read_all().to_pydict() == {"x": [1, 2]}


def test_a_local_relation_without_rows_is_its_schema() -> None:
    relation = plan.local(pa.schema([("x", pa.int64())]).empty_table())
    assert not relation.local_relation.HasField("data")
    assert '"name":"x"' in relation.local_relation.schema


def test_a_pinned_table_names_its_version() -> None:
    source = plan.delta("/data/t", 7).read.data_source
    assert (source.format, list(source.paths), dict(source.options)) == ("delta", ["/data/t"], {"versionAsOf": "7"})


def test_relations_come_parents_first_and_left_before_right() -> None:
    tree = plan.union([read("a"), plan.filtered(read("b"), plan.expression("x")), read("c")])
    assert names(tree) == ["a", "b", "c"]
    assert [node.WhichOneof("rel_type") for node in plan.relations(tree)] == [
        "set_op", "set_op", "read", "filter", "read", "read"
    ]  # fmt: skip


def test_relations_inside_of_sub_queries_are_found() -> None:
    tree = plan.filtered(read("a"), attribute("x"))
    tree.filter.condition.subquery_expression.plan_id = 1
    holder = plan.new()
    holder.with_relations.root.CopyFrom(tree)
    holder.with_relations.references.add().CopyFrom(read("b"))
    assert names(holder) == ["a", "b"]
    assert [child.WhichOneof("rel_type") for child in plan.children(holder)] == ["filter", "read"]


def test_own_messages_stop_at_the_input() -> None:
    tree = plan.filtered(plan.filtered(read("a"), attribute("inner")), attribute("outer"))
    found = [m.unparsed_identifier for m in plan.own_messages(tree) if m.DESCRIPTOR.name == "UnresolvedAttribute"]  # type: ignore[attr-defined]
    assert found == ["outer"]


def test_substitution_changes_a_copy_and_does_not_look_into_what_it_put_in() -> None:
    tree = plan.union([read("a"), read("b")])
    before = tree.SerializeToString(deterministic=True)

    def instead(node: Relation) -> Relation | None:
        name = node.read.named_table.unparsed_identifier
        return plan.union([read("a"), read("c")]) if name == "a" else None

    assert names(plan.substitute(tree, instead)) == ["a", "c", "b"]
    assert tree.SerializeToString(deterministic=True) == before


def test_the_top_of_a_tree_may_be_substituted() -> None:
    assert names(plan.substitute(read("a"), lambda node: read("z"))) == ["z"]


def test_fresh_plan_ids_keep_references_together() -> None:
    source = read("a")
    tree = plan.filtered(source, attribute("x", source.common.plan_id))
    fresh = plan.with_fresh_plan_ids(tree)
    assert fresh.filter.input.common.plan_id not in (source.common.plan_id, tree.common.plan_id)
    assert fresh.filter.condition.unresolved_attribute.plan_id == fresh.filter.input.common.plan_id
    assert tree.filter.condition.unresolved_attribute.plan_id == source.common.plan_id


def test_a_reference_to_a_frame_outside_of_the_tree_is_kept() -> None:
    tree = plan.filtered(read("a"), attribute("x", 42))
    assert plan.with_fresh_plan_ids(tree).filter.condition.unresolved_attribute.plan_id == 42


def test_null_is_not_true() -> None:
    condition = plan.is_not_true(plan.expression("x + y > 0"))
    assert condition.unresolved_function.function_name == "not"
    inner = condition.unresolved_function.arguments[0].unresolved_function
    assert inner.function_name == "coalesce"
    assert inner.arguments[0].expression_string.expression == "x + y > 0"
    assert inner.arguments[1].literal.boolean is False


def test_a_union_of_one_is_that_one() -> None:
    only = read("a")
    assert plan.union([only]) == only


def test_the_users_line_is_the_one_nearest_to_the_top() -> None:
    inner, outer = read("a"), plan.filtered(read("a"), attribute("x"))
    for relation, line in ((inner, 3), (outer, 9)):
        relation.common.origin.python_origin.call_site = f"/p/bronze.py:{line}"
    outer.filter.input.CopyFrom(inner)
    origin = plan.call_site(outer)
    assert origin is not None
    assert (origin.file, origin.line) == ("/p/bronze.py", 9)
    assert plan.call_site(read("a")) is None


@pytest.mark.parametrize("count", [1, 5])
def test_aggregated_has_one_measure_a_name(count: int) -> None:
    measures = {f"m{n}": plan.expression("count(*)") for n in range(count)}
    tree = plan.aggregated(read("a"), measures)
    assert [list(e.alias.name) for e in tree.aggregate.aggregate_expressions] == [[name] for name in measures]


def test_a_query_that_observes_nothing_is_the_one_below() -> None:
    measures = {"n": plan.expression("count(*)")}
    inner = plan.sql("SELECT 1 AS id")
    outer = plan.filtered(plan.observed(plan.observed(inner, "a", measures), "b", measures), plan.expression("id > 0"))
    assert plan.unobserved(outer).filter.input == inner
