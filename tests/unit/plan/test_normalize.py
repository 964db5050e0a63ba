"""What is rewritten before an engine sees a tree; whether the rows are right is `contract/test_plans_on_engine.py`'s."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from pyspark.sql.connect import proto

from lakelet.engine.base import EngineCapabilities
from lakelet.plan import relation as plan
from lakelet.plan.clock import is_volatile, with_clock
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.metadata import METADATA, reads_metadata
from lakelet.plan.normalize import normalize, runnable, without_watermarks
from lakelet.plan.relation import Relation

AT = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def read(name: str = "a") -> Relation:
    return plan.named(name)


def attribute(name: str, frame: Relation | None = None) -> proto.Expression:
    expression = proto.Expression()
    expression.unresolved_attribute.unparsed_identifier = name
    if frame is not None:
        expression.unresolved_attribute.plan_id = frame.common.plan_id
    return expression


def project(source: Relation, *columns: proto.Expression) -> Relation:
    relation = plan.new()
    relation.project.input.CopyFrom(source)
    relation.project.expressions.extend(columns)
    return relation


def join(left: Relation, right: Relation, *keys: str, how: Any = proto.Join.JOIN_TYPE_INNER) -> Relation:
    relation = plan.new()
    relation.join.left.CopyFrom(left)
    relation.join.right.CopyFrom(right)
    relation.join.using_columns.extend(keys)
    relation.join.join_type = how
    return relation


def selected(relation: Relation) -> list[str]:
    """Return the columns of a project, hidden aliases opened."""
    return [
        (e.alias.expr if e.HasField("alias") else e).unresolved_attribute.unparsed_identifier
        for e in relation.project.expressions
    ]


def test_normalising_changes_a_copy() -> None:
    tree = project(read(), attribute("_metadata.file_name"))
    before = tree.SerializeToString(deterministic=True)
    normalize(tree)
    assert tree.SerializeToString(deterministic=True) == before


# -- file metadata


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("_metadata.file_path", f"{METADATA}.file_path"),
        ("`_metadata`.file_path", f"{METADATA}.file_path"),
        ("_metadata", METADATA),
        ("x._metadata.file_name", f"x.{METADATA}.file_name"),
        ("my_metadata.file_path", "my_metadata.file_path"),
        ("_metadata_of.file", "_metadata_of.file"),
        ("item.price", "item.price"),
    ],
)
def test_metadata_is_read_from_the_hidden_column(written: str, means: str) -> None:
    normal = normalize(project(read(), attribute(written)))
    assert selected(normal) == [means]
    assert reads_metadata(normal) == (METADATA in means)


def test_metadata_alone_keeps_its_name() -> None:
    [column] = normalize(project(read(), attribute("_metadata"))).project.expressions
    assert list(column.alias.name) == ["_metadata"]


def test_a_column_that_the_user_named_metadata_wins() -> None:
    tree = project(project(read(), attribute("_metadata")), attribute("_metadata.file_name"))
    assert selected(normalize(tree)) == ["_metadata.file_name"]


def test_input_file_name_is_the_path_also_in_text() -> None:
    text = normalize(project(read(), plan.expression("upper(input_file_name()) = _metadata.file_name")))
    [column] = text.project.expressions
    assert column.expression_string.expression == f"upper({METADATA}.file_path) = {METADATA}.file_name"
    called = normalize(project(read(), plan.call("input_file_name")))
    assert selected(called) == [f"{METADATA}.file_path"]


def test_the_result_of_a_filter_on_metadata_does_not_show_it() -> None:
    normal = normalize(plan.filtered(read(), plan.expression("_metadata.file_size > 0")))
    assert normal.WhichOneof("rel_type") == "drop"
    assert list(normal.drop.column_names) == [METADATA]


# -- keys of USING joins


def test_one_join_is_left_to_the_engine() -> None:
    a, b = read("a"), read("b")
    normal = normalize(project(join(a, b, "k"), attribute("k", b)))
    assert normal.project.expressions[0].unresolved_attribute.plan_id == b.common.plan_id


def test_a_key_whose_side_every_join_shows_is_the_joins() -> None:
    a, b, c = read("a"), read("b"), read("c")
    inner = join(a, b, "k", how=proto.Join.JOIN_TYPE_LEFT_OUTER)
    normal = normalize(project(join(inner, c, "c"), attribute("k", a)))
    assert normal.project.expressions[0].unresolved_attribute.plan_id == inner.common.plan_id


def test_a_key_whose_side_a_join_hides_is_copied_under_its_own_name() -> None:
    a, b, c = read("a"), read("b"), read("c")
    inner = join(a, b, "k", how=proto.Join.JOIN_TYPE_LEFT_OUTER)
    normal = normalize(project(join(inner, c, "c"), attribute("k", b)))
    [column] = normal.project.expressions
    assert list(column.alias.name) == ["k"]
    assert column.alias.expr.unresolved_attribute.unparsed_identifier.startswith(METADATA)
    assert normal.project.input.join.left.join.right.WhichOneof("rel_type") == "with_columns"


def test_a_join_that_hides_a_key_counts_also_below_one_that_shows_it() -> None:
    """`a.join(b, "k", "right").join(d, "k")`: the outer join shows b's key, not a's; `a.k` once gave it."""
    a, b, d = read("a"), read("b"), read("d")
    inner = join(a, b, "k", how=proto.Join.JOIN_TYPE_RIGHT_OUTER)
    normal = normalize(project(join(inner, d, "k"), attribute("k", a)))
    copied = normal.project.input.join.left.join.left
    assert copied.WhichOneof("rel_type") == "with_columns"
    assert copied.with_columns.aliases[0].expr.unresolved_attribute.plan_id == a.common.plan_id


def test_columns_that_are_no_keys_and_trees_without_using_are_left_alone() -> None:
    a, b, c = read("a"), read("b"), read("c")
    tree = project(join(join(a, b, "k"), c, "c"), attribute("v", a), attribute("x.y"))
    assert normalize(tree) == tree
    bare = project(join(a, b), attribute("k", a))
    assert normalize(bare) == bare


def test_a_star_of_a_frame_is_written_out() -> None:
    a, b = read("a"), read("b")
    star = proto.Expression()
    star.unresolved_star.plan_id = a.common.plan_id
    normal = normalize(project(join(a, b), star, attribute("z")), columns_of=lambda part: ["k", "a b"])
    assert selected(normal) == ["`k`", "`a b`", "z"]
    assert normal.project.expressions[1].unresolved_attribute.plan_id == a.common.plan_id


# -- what an engine lacks


def watermarked(source: Relation) -> Relation:
    relation = plan.new()
    relation.with_watermark.input.CopyFrom(source)
    relation.with_watermark.event_time, relation.with_watermark.delay_threshold = "at", "1 hour"
    return relation


def test_references_to_a_watermark_go_to_what_it_stood_on() -> None:
    source = read()
    once = watermarked(source)
    twice = watermarked(once)
    bare = without_watermarks(project(twice, attribute("x", twice), attribute("y", once)))
    assert bare.project.input.WhichOneof("rel_type") == "read"
    assert {e.unresolved_attribute.plan_id for e in bare.project.expressions} == {source.common.plan_id}


@pytest.mark.parametrize("can", [True, False])
def test_only_what_the_engine_cannot_do_is_taken_out(can: bool) -> None:
    capabilities = EngineCapabilities(**{field.name: can for field in dataclasses.fields(EngineCapabilities)})
    tree = watermarked(plan.sql("SELECT a, count(*) FROM t GROUP BY ALL"))
    result = runnable(tree, capabilities)
    assert (result.WhichOneof("rel_type") == "with_watermark") is can
    [query] = [node.sql.query for node in plan.relations(result) if node.HasField("sql")]
    assert ("GROUP BY ALL" in query) is can


# -- clock


def test_the_clock_becomes_a_literal_that_keeps_the_columns_name() -> None:
    tree = project(read(), *(plan.call(name) for name in ("current_timestamp", "current_date", "unix_timestamp")))
    moment, day, seconds = with_clock(tree, AT).project.expressions
    assert list(moment.alias.name) == ["current_timestamp()"]
    assert moment.alias.expr.literal.timestamp == 1704164645678901
    assert day.alias.expr.literal.date == 19724
    assert seconds.alias.expr.literal.long == 1704164645


def test_the_day_is_the_zones() -> None:
    tree = project(read(), plan.call("current_date"))
    [day] = with_clock(tree, AT, time_zone="America/New_York").project.expressions
    assert day.alias.expr.literal.date == 19723


def test_functions_of_a_given_time_are_no_clock() -> None:
    tree = project(read(), plan.call("unix_timestamp", attribute("at")), attribute("current_date"))
    assert with_clock(tree, AT) == tree


# -- volatile queries and fingerprints


@pytest.mark.parametrize(
    ("text", "volatile"),
    [
        ("current_timestamp()", True),
        ("CURRENT_DATE", True),
        ("now ( )", True),
        ("id + rand()", True),
        ("uuid()", True),
        ("operand(id)", False),
        ("unknown(id)", False),
        ("date_add(day, 1)", False),
    ],
)
def test_text_is_volatile_where_it_asks_for_time_or_chance(text: str, volatile: bool) -> None:
    assert is_volatile(project(read(), plan.expression(text))) is volatile
    assert is_volatile(plan.sql(f"SELECT {text} FROM t")) is volatile


def test_a_function_that_is_not_deterministic_makes_its_query_volatile() -> None:
    call = proto.Expression()
    call.common_inline_user_defined_function.function_name = "f"
    call.common_inline_user_defined_function.deterministic = True
    assert not is_volatile(project(read(), call))
    call.common_inline_user_defined_function.deterministic = False
    assert is_volatile(project(read(), call))


def test_the_same_query_has_the_same_fingerprint_wherever_it_stands() -> None:
    def query(line: int) -> Relation:
        source = read()
        tree = plan.filtered(source, attribute("x", source))
        tree.common.origin.python_origin.call_site = f"/p.py:{line}"
        return tree

    assert fingerprint(query(1)) == fingerprint(query(2))
    assert fingerprint(query(1)) != fingerprint(plan.filtered(read(), attribute("y")))


def test_the_name_that_the_client_gives_a_frame_in_sql_does_not_count() -> None:
    def query(name: str) -> Relation:
        return plan.sql(f"SELECT * FROM {name}", {name: read()})

    assert fingerprint(query("_pyspark_connect_temp_view_0a1b")) == fingerprint(
        query("_pyspark_connect_temp_view_ffee")
    )
    assert fingerprint(query("x")) != fingerprint(query("y"))
