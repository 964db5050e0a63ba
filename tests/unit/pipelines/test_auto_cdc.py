import inspect
from collections.abc import Iterator
from typing import Any

import pyspark.pipelines as apache
import pytest

from lakelet.errors import DefinitionError
from lakelet.graph.elements import AutoCdcFlow, SnapshotCdcFlow
from lakelet.names import NameContext
from lakelet.pipelines import dlt, dp
from lakelet.pipelines.registry import Registry


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(NameContext())
    with registry.activate():
        yield registry


def declared(registry: Registry, **changes: Any) -> AutoCdcFlow:
    arguments = {"target": "customers", "source": "changes", "keys": ["id"], "sequence_by": "seq"}
    dp.create_auto_cdc_flow(**{**arguments, **changes})  # type: ignore[arg-type]
    flow = registry.definitions().flows[-1]
    assert isinstance(flow, AutoCdcFlow)
    return flow


def refused(registry: Registry, **changes: Any) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        declared(registry, **changes)
    return caught.value


def test_a_flow_has_the_defaults_of_the_documentation(registry: Registry) -> None:
    flow = declared(registry)
    assert (flow.name, flow.source, flow.keys, flow.sequence_by) == ("customers", "changes", ("id",), "seq")
    assert (flow.scd_type, flow.once, flow.ignore_null_updates) == (1, False, False)
    assert flow.column_list is flow.except_column_list is flow.apply_as_deletes is None
    assert flow.origin.flow == "customers"
    assert flow.origin.file == __file__


@pytest.mark.parametrize(("given", "kept"), [(1, 1), ("1", 1), (2, 2), ("2", 2), (None, 1)])
def test_the_scd_type_may_be_a_number_or_text(registry: Registry, given: object, kept: int) -> None:
    assert declared(registry, stored_as_scd_type=given).scd_type == kept


def test_keys_and_lists_may_be_columns(registry: Registry) -> None:
    from pyspark.sql.functions import col

    flow = declared(registry, keys=[col("id"), "`my.key`"], except_column_list=[col("op")])
    assert flow.keys == ("id", "my.key")
    assert flow.except_column_list == ("op",)


def test_sequence_and_conditions_may_be_columns(registry: Registry) -> None:
    from pyspark.sql.functions import expr, struct

    flow = declared(registry, sequence_by=struct("ts", "id"), apply_as_deletes=expr("op = 'D'"))
    assert "struct" in str(flow.sequence_by)
    assert "op" in str(flow.apply_as_deletes)


def test_a_key_that_is_an_expression_is_refused(registry: Registry) -> None:
    from pyspark.sql.functions import col, expr, lower

    for key in (lower(col("id")), col("id").alias("k"), expr("id"), col("id") + 1):
        assert refused(registry, keys=[key]).condition == "AUTOCDC_NON_COLUMN_IDENTIFIER"


def test_a_qualified_key_is_refused(registry: Registry) -> None:
    from pyspark.sql.functions import col

    for key in (col("t.id"), "t.id"):
        assert refused(registry, keys=[key]).condition == "AUTOCDC_MULTIPART_COLUMN_IDENTIFIER"


def test_an_empty_list_of_columns_counts_as_left_out(registry: Registry) -> None:
    assert declared(registry, column_list=[], except_column_list=["op"]).column_list is None


def test_a_list_of_ignored_nulls_implies_that_nulls_are_ignored(registry: Registry) -> None:
    flow = declared(registry, ignore_null_updates_column_list=["name"])
    assert flow.ignore_null_updates
    assert flow.ignore_null_updates_column_list == ("name",)


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"keys": []}, "AUTOCDC_EMPTY_KEYS"),
        ({"keys": "id"}, "NOT_EXPECTED_TYPE"),
        ({"keys": [1]}, "NOT_EXPECTED_TYPE"),
        ({"keys": ["id", "id"]}, "AUTOCDC_DUPLICATE_KEY"),
        ({"sequence_by": None}, "NOT_EXPECTED_TYPE"),
        ({"source": None}, "NOT_EXPECTED_TYPE"),
        ({"source": "a.b.c.d"}, "INVALID_IDENTIFIER"),
        ({"column_list": ["a"], "except_column_list": ["b"]}, "CANNOT_SET_TOGETHER"),
        ({"name": "a", "flow_name": "b"}, "CANNOT_SET_TOGETHER"),
        ({"stored_as_scd_type": 3}, "INVALID_PARAMETER_VALUE"),
        ({"stored_as_scd_type": True}, "INVALID_PARAMETER_VALUE"),
        ({"stored_as_scd_type": "bitemporal"}, "UNSUPPORTED_FEATURE"),
        ({"track_history_column_list": ["a"]}, "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2"),
        ({"apply_as_truncates": "op = 'T'", "stored_as_scd_type": 2}, "AUTOCDC_TRUNCATE_REQUIRES_SCD1"),
        ({"columns_to_update": ["cols"]}, "NOT_EXPECTED_TYPE"),
        ({"columns_to_update": "a.cols"}, "AUTOCDC_MULTIPART_COLUMN_IDENTIFIER"),
        ({"columns_to_update": "cols", "ignore_null_updates": True}, "CANNOT_SET_TOGETHER"),
        ({"columns_to_update": "cols", "ignore_null_updates_column_list": ["a"]}, "CANNOT_SET_TOGETHER"),
        ({"where": 7}, "NOT_EXPECTED_TYPE"),
        ({"system_sequence_by": "at"}, "UNSUPPORTED_FEATURE"),
        ({"sequnce_by": "seq"}, "UNKNOWN_PARAMETER"),
    ],
)
def test_a_wrong_argument_is_refused(registry: Registry, changes: dict[str, object], condition: str) -> None:
    assert refused(registry, **changes).condition == condition


def test_the_legacy_function_takes_its_legacy_order_and_flow_name(registry: Registry) -> None:
    dlt.apply_changes("customers", "changes", ["id"], "seq", None, True, "op = 'D'", flow_name="from_crm")
    (flow,) = registry.definitions().flows
    assert isinstance(flow, AutoCdcFlow)
    assert (flow.name, flow.ignore_null_updates, flow.apply_as_deletes) == ("from_crm", True, "op = 'D'")


def test_positional_arguments_are_in_the_order_of_apache_spark(registry: Registry) -> None:
    dp.create_auto_cdc_flow("customers", "changes", ["id"], "seq", "op = 'D'", None, ["op"], 2, "from_crm")
    (flow,) = registry.definitions().flows
    assert isinstance(flow, AutoCdcFlow)
    assert (flow.apply_as_deletes, flow.except_column_list, flow.scd_type, flow.name) == (
        "op = 'D'",
        ("op",),
        2,
        "from_crm",
    )
    theirs = [name for name, p in inspect.signature(apache.create_auto_cdc_flow).parameters.items()]
    positional = [
        n for n, p in inspect.signature(dp.create_auto_cdc_flow).parameters.items() if p.kind is not p.KEYWORD_ONLY
    ]
    assert theirs[: len(positional)] == positional


def test_the_new_name_of_the_legacy_module_has_the_legacy_order(registry: Registry) -> None:
    assert inspect.signature(dlt.create_auto_cdc_flow) == inspect.signature(dlt.apply_changes)


def test_columns_to_update_and_where_are_kept(registry: Registry) -> None:
    from pyspark.sql.functions import col

    flow = declared(registry, columns_to_update=col("cols"), where="day > '2024-01-01'")
    assert (flow.columns_to_update, flow.where) == ("cols", "day > '2024-01-01'")


@pytest.mark.parametrize("module", [dp, dlt])
def test_a_flow_from_snapshots(registry: Registry, module: Any) -> None:
    module.create_auto_cdc_from_snapshot_flow("customers", "raw", ["id"], "2", None, ["name"])
    module.apply_changes_from_snapshot(target="b", snapshot_and_version=print, keys=["id"], once=True, flow_name="f")
    first, second = registry.definitions().flows
    assert isinstance(first, SnapshotCdcFlow)
    assert isinstance(second, SnapshotCdcFlow)
    assert (first.name, first.source, first.keys, first.scd_type) == ("customers", "raw", ("id",), 2)
    assert first.track_history_column_list == ("name",)
    assert (second.name, second.source, second.scd_type, second.once) == ("f", print, 1, True)


def test_all_implemented_parameters_are_kept(registry: Registry) -> None:
    flow = declared(
        registry,
        stored_as_scd_type=2,
        track_history_except_column_list=["seen_at"],
        ignore_null_updates=True,
        ignore_null_updates_except_column_list=["a"],
        once=True,
        name="hydration",
        spark_conf={"a": "b"},
        comment="first",
    )
    assert flow.track_history_except_column_list == ("seen_at",)
    assert flow.ignore_null_updates_except_column_list == ("a",)
    assert (flow.once, flow.name, flow.spark_conf, flow.comment) == (True, "hydration", {"a": "b"}, "first")
