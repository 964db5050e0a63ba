import functools
import inspect
from collections.abc import Iterator

import pytest

from lakelet.errors import DefinitionError
from lakelet.graph.elements import Action, Dataset, DatasetKind, Flow
from lakelet.names import NameContext
from lakelet.pipelines import dlt, dp
from lakelet.pipelines.registry import Registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(NameContext(catalog="main", schema="shop"))
    with registry.activate():
        yield registry


def only_dataset(registry: Registry) -> Dataset:
    (dataset,) = registry.definitions().datasets
    return dataset


def refused(call: object, *args: object, **kwargs: object) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        call(*args, **kwargs)  # type: ignore[operator]
    return caught.value


def test_a_bare_decorator_takes_the_name_of_the_function_and_returns_it(registry: Registry) -> None:
    def orders() -> int:
        return 7

    assert dp.table(orders) is orders
    dataset, flow = only_dataset(registry), registry.definitions().flows[0]
    assert (str(dataset.name), dataset.kind) == ("main.shop.orders", DatasetKind.TABLE)
    assert isinstance(flow, Flow)
    assert (flow.name, flow.target, flow.implicit) == ("orders", dataset.name, True)
    assert flow.query is orders


def test_a_called_decorator_keeps_its_options(registry: Registry) -> None:
    @dp.materialized_view(
        name="gold.sales",
        comment="by day",
        spark_conf={"a": 1, "b": True},
        table_properties={"quality": "gold"},
        cluster_by=["day"],
        schema="day DATE",
        path="/x",
        private=True,
        refresh_policy="full",
    )
    def function() -> None: ...

    dataset = only_dataset(registry)
    assert str(dataset.name) == "main.gold.sales"
    assert dataset.kind is DatasetKind.MATERIALIZED_VIEW
    assert dataset.comment == "by day"
    assert dataset.spark_conf == {"a": "1", "b": "true"}
    assert dataset.table_properties == {"quality": "gold"}
    assert dataset.cluster_by == ("day",)
    assert (dataset.schema, dataset.path, dataset.private) == ("day DATE", "/x", True)
    assert dataset.refresh_policy == "full"


def test_the_origin_is_the_line_of_the_decorator(registry: Registry) -> None:
    line = inspect.currentframe().f_lineno + 2  # type: ignore[union-attr]

    @dp.temporary_view
    def orders() -> None: ...

    dataset = only_dataset(registry)
    assert dataset.origin.file == __file__
    assert dataset.origin.line == line
    assert registry.definitions().flows[0].origin.flow == "orders"


def test_a_loop_declares_one_dataset_for_each_turn(registry: Registry) -> None:
    for region in ("north", "south"):

        @dp.table(name=f"orders_{region}")
        def orders(region: str = region) -> str:
            return region

    assert [dataset.name.name for dataset in registry.definitions().datasets] == ["orders_north", "orders_south"]
    flows = registry.definitions().flows
    assert [flow.query() for flow in flows if isinstance(flow, Flow)] == ["north", "south"]  # type: ignore[operator]


@pytest.mark.parametrize("temporary", ["private", "temporary"])
def test_a_table_is_private_by_its_new_or_its_old_parameter(registry: Registry, temporary: str) -> None:
    dp.table(**{temporary: True})(lambda_named("t"))
    assert only_dataset(registry).private


def lambda_named(name: str):  # type: ignore[no-untyped-def]
    def function() -> None: ...

    function.__name__ = name
    return function


def test_an_unknown_keyword_names_itself_and_the_nearest_valid_one(registry: Registry) -> None:
    error = refused(dp.table, table_propertys={})
    assert error.condition == "UNKNOWN_PARAMETER"
    assert "`table_propertys`" in error.message
    assert error.hint == "did you mean `table_properties`?"
    assert error.origin is not None
    assert error.origin.file == __file__


@pytest.mark.parametrize(
    ("arguments", "condition"),
    [
        ({"name": 7}, "NOT_EXPECTED_TYPE"),
        ({"name": " "}, "INVALID_PARAMETER_VALUE"),
        ({"partition_cols": "day"}, "NOT_EXPECTED_TYPE"),
        ({"partition_cols": [1]}, "NOT_EXPECTED_TYPE"),
        ({"table_properties": ["a"]}, "NOT_EXPECTED_TYPE"),
        ({"table_properties": {"a": None}}, "NOT_EXPECTED_TYPE"),
        ({"table_properties": {1: "a"}}, "NOT_EXPECTED_TYPE"),
        ({"comment": 1}, "NOT_EXPECTED_TYPE"),
        ({"private": "yes"}, "NOT_EXPECTED_TYPE"),
        ({"schema": ["a"]}, "NOT_EXPECTED_TYPE"),
        ({"cluster_by": ["a"], "partition_cols": ["b"]}, "SPECIFY_CLUSTER_BY_WITH_PARTITIONED_BY_IS_NOT_ALLOWED"),
        ({"format": "parquet"}, "UNSUPPORTED_FEATURE"),
        ({"row_filter": "ROW FILTER f ON (a)"}, "UNSUPPORTED_FEATURE"),
        ({"replace_where": "a = 1"}, "UNSUPPORTED_FEATURE"),
        ({"replace_using": ["a"]}, "UNSUPPORTED_FEATURE"),
    ],
)
def test_a_wrong_argument_is_refused_with_the_condition_that_spark_has(
    registry: Registry, arguments: dict[str, object], condition: str
) -> None:
    assert refused(dp.table, **arguments).condition == condition


def test_a_name_with_four_parts_is_refused(registry: Registry) -> None:
    assert refused(dp.table(name="a.b.c.d"), lambda_named("t")).condition == "INVALID_IDENTIFIER"


def test_a_name_given_as_the_function_is_refused_with_the_right_spelling(registry: Registry) -> None:
    error = refused(dp.table, "orders")
    assert error.condition == "DECORATOR_ARGUMENT_NOT_CALLABLE"
    assert error.hint == 'write `@table(name="orders")`'


def test_a_query_function_with_a_required_argument_is_refused(registry: Registry) -> None:
    def orders(region: str) -> None: ...

    error = refused(dp.table, orders)
    assert error.condition == "QUERY_FUNCTION_NEEDS_ARGUMENT"
    assert "region=region" in (error.hint or "")


def test_a_lambda_needs_a_name(registry: Registry) -> None:
    assert refused(dp.table, lambda: None).condition == "ARGUMENT_REQUIRED"
    dp.table(name="t")(lambda: None)
    assert only_dataset(registry).name.name == "t"


def test_an_unknown_refresh_policy_is_refused(registry: Registry) -> None:
    error = refused(dp.materialized_view, refresh_policy="incrementl")
    assert error.hint == "did you mean `incremental`?"


def test_a_streaming_table_without_a_query_has_the_rules_of_its_parameters(registry: Registry) -> None:
    assert (
        dp.create_streaming_table(
            "orders",
            expect_all={"a": "x > 1"},
            expect_all_or_drop={"b": "x > 2"},
            expect_all_or_fail={"c": "x > 3"},
        )
        is None
    )
    dataset = only_dataset(registry)
    assert dataset.kind is DatasetKind.STREAMING_TABLE
    assert [(rule.name, rule.action) for rule in dataset.expectations] == [
        ("a", Action.WARN),
        ("b", Action.DROP),
        ("c", Action.FAIL),
    ]
    assert registry.definitions().flows == ()


def test_rules_below_and_above_the_dataset_decorator_belong_to_the_dataset_in_source_order(
    registry: Registry,
) -> None:
    @dp.expect("first", "a > 1")
    @dp.table
    @dp.expect_or_drop("second", "a > 2")
    @dp.expect_all_or_fail({"third": "a > 3", "fourth": "a > 4"})
    def orders() -> None: ...

    dataset = only_dataset(registry)
    assert [rule.name for rule in dataset.expectations] == ["first", "second", "third", "fourth"]
    assert dataset.expectations[1].action is Action.DROP
    assert dataset.expectations[1].origin.dataset == "orders"


def test_rules_survive_a_decorator_of_the_user_between_them_and_the_dataset(registry: Registry) -> None:
    def timed(function):  # type: ignore[no-untyped-def]
        @functools.wraps(function)
        def wrapper():  # type: ignore[no-untyped-def]
            return function()

        return wrapper

    @dp.table
    @timed
    @dp.expect("rule", "a > 1")
    def orders() -> None: ...

    assert [rule.name for rule in only_dataset(registry).expectations] == ["rule"]


def test_rules_on_a_flow_are_refused_because_they_belong_to_its_target(registry: Registry) -> None:
    @dp.append_flow(target="orders")
    @dp.expect("rule", "a > 1")
    def flow() -> None: ...

    error = refused(registry.definitions)
    assert error.condition == "EXPECTATION_WITHOUT_DATASET"
    assert "create_streaming_table" in (error.hint or "")


def test_two_rules_with_one_name_are_refused(registry: Registry) -> None:
    @dp.table
    @dp.expect("rule", "a > 1")
    @dp.expect("rule", "a > 2")
    def orders() -> None: ...

    assert refused(registry.definitions).condition == "DUPLICATE_EXPECTATION"


@pytest.mark.parametrize("rule", [7, None, ""])
def test_a_rule_that_is_neither_sql_nor_a_column_is_refused(registry: Registry, rule: object) -> None:
    assert refused(dp.expect, "rule", rule).condition in ("NOT_EXPECTED_TYPE", "INVALID_PARAMETER_VALUE")


def test_rules_that_are_no_dict_are_refused(registry: Registry) -> None:
    assert refused(dp.expect_all, ["a > 1"]).condition == "NOT_EXPECTED_TYPE"


def test_a_rule_may_be_a_column(registry: Registry) -> None:
    from pyspark.sql import functions as F

    @dp.table
    @dp.expect("rule", F.col("a") > 1)
    def orders() -> None: ...

    assert "a" in only_dataset(registry).expectations[0].text


def test_an_append_flow_knows_its_target_and_is_not_implicit(registry: Registry) -> None:
    @dp.append_flow(target="orders", name="backfill", once=True, spark_conf={"a": "b"}, comment="old rows")
    def flow() -> None: ...

    (declared,) = registry.definitions().flows
    assert isinstance(declared, Flow)
    assert (declared.name, str(declared.target), declared.once) == ("backfill", "main.shop.orders", True)
    assert (declared.implicit, declared.comment) == (False, "old rows")


def test_an_append_flow_without_a_target_is_refused(registry: Registry) -> None:
    assert refused(dp.append_flow).condition == "ARGUMENT_REQUIRED"
    assert refused(dp.append_flow, lambda_named("f")).condition == "ARGUMENT_REQUIRED"
    assert refused(dlt.append_flow, name="f").condition == "ARGUMENT_REQUIRED"


@pytest.mark.parametrize(
    "call",
    [
        lambda: dp.create_sink("s", "kafka", {}),
        lambda: dp.replace_flow(target="t"),
    ],
)
def test_what_is_not_implemented_is_refused_with_line_and_hint(registry: Registry, call) -> None:  # type: ignore[no-untyped-def]
    error = refused(call)
    assert error.condition == "UNSUPPORTED_FEATURE"
    assert error.origin is not None
    assert error.origin.line
    assert error.hint


@pytest.mark.parametrize("alias", ["create_table", "create_view", "create_target_table", "create_streaming_live_table"])
def test_a_deprecated_alias_works_and_leaves_one_note(registry: Registry, alias: str) -> None:
    for name in ("a", "b"):
        declare = getattr(dlt, alias)(name=name)
        if declare is not None:
            declare(lambda_named(name))
    assert [dataset.name.name for dataset in registry.definitions().datasets] == ["a", "b"]
    (note,) = registry.notes
    assert f"`dlt.{alias}` is deprecated" in note.text
    assert note.origin.file == __file__


def test_both_definitions_of_one_name_are_kept_for_validation(registry: Registry) -> None:
    dp.table(name="t")(lambda_named("a"))
    dp.table(name="t")(lambda_named("b"))
    assert len(registry.definitions().datasets) == 2


LEGACY_NAMES = """create_view create_table create_streaming_live_table create_streaming_table create_target_table view
    table append_flow read read_stream readStream expect expect_or_fail expect_or_drop expect_all_or_fail
    expect_all_or_drop expect_all apply_changes apply_changes_from_snapshot on_event_hook""".split()  # noqa: SIM905
APACHE_NAMES = """append_flow create_auto_cdc_flow create_streaming_table materialized_view table temporary_view
    create_sink""".split()  # noqa: SIM905


def test_both_modules_have_every_name_of_their_originals() -> None:
    assert set(LEGACY_NAMES) <= set(dlt.__all__)
    assert set(APACHE_NAMES) <= set(dp.__all__)
    assert all(hasattr(module, name) for module in (dp, dlt) for name in module.__all__)
