"""What an AUTO CDC declaration must be, checked against the columns of its source; no engine runs."""

from __future__ import annotations

from typing import Any

import pytest
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DoubleType,
    IntegerType,
    LongType,
    MapType,
    StringType,
    StructType,
    TimestampType,
    VariantType,
)

from lakelet.errors import DefinitionError, DefinitionErrors, Origin
from lakelet.execution.auto_cdc_schema import (
    CdcMetadata,
    is_orderable,
    metadata_of,
    null_keeping_names,
    target_schema,
    tracked_names,
)
from lakelet.graph.elements import AutoCdcFlow
from lakelet.names import TableName

SOURCE = (
    StructType()
    .add("userId", LongType(), False)
    .add("name", StringType())
    .add("city", StringType())
    .add("operation", StringType())
    .add("sequenceNum", IntegerType())
)
ORIGIN = Origin(file="silver.py", line=7, flow="users")


def flow(**options: Any) -> AutoCdcFlow:
    defaults: dict[str, Any] = {
        "name": "users",
        "target": TableName("c", "s", "users"),
        "source": "users_feed",
        "keys": ("userId",),
        "sequence_by": "sequenceNum",
        "origin": ORIGIN,
    }
    return AutoCdcFlow(**{**defaults, **options})


def schema(sequence_type: DataType | None = None, source: StructType = SOURCE, **options: Any) -> StructType:
    return target_schema(flow(**options), source, sequence_type or IntegerType())


def test_scd1_has_the_selected_columns_in_source_order() -> None:
    assert schema().names == SOURCE.names
    assert schema(column_list=("NAME", "userid")).names == ["userId", "name"]
    assert schema(except_column_list=("operation", "sequenceNum")).names == ["userId", "name", "city"]


def test_scd2_ends_with_the_interval_in_the_type_of_the_sequence() -> None:
    found = schema(TimestampType(), scd_type=2, column_list=("userId", "name"))
    assert found.names == ["userId", "name", "__START_AT", "__END_AT"]
    assert found["__START_AT"].dataType == found["__END_AT"].dataType == TimestampType()


def test_every_column_of_a_target_is_nullable() -> None:
    assert all(field.nullable for field in schema(scd_type=2))


def test_tracked_columns_are_all_but_the_keys_unless_listed() -> None:
    columns = ["userId", "name", "city"]
    assert tracked_names(flow(), columns) == ("name", "city")
    assert tracked_names(flow(track_history_column_list=("CITY",)), columns) == ("city",)
    assert tracked_names(flow(track_history_except_column_list=("city",)), columns) == ("name",)


def test_nulls_are_ignored_in_all_columns_but_the_keys_unless_listed() -> None:
    columns = ["userId", "name", "city"]
    assert null_keeping_names(flow(), columns) == ()
    assert null_keeping_names(flow(ignore_null_updates=True), columns) == ("name", "city")
    assert null_keeping_names(
        flow(ignore_null_updates=True, ignore_null_updates_except_column_list=("name",)), columns
    ) == ("city",)


@pytest.mark.parametrize(
    ("options", "condition", "message", "hint"),
    [
        (
            {"keys": ("userid", "nmae")},
            "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
            "`keys` of flow `users` names a column `nmae` that its source `users_feed` does not have",
            "did you mean `name`?",
        ),
        (
            {"except_column_list": ("op",)},
            "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
            "`except_column_list` of flow `users` names a column `op`",
            "correct or remove `op`",
        ),
        (
            {"scd_type": 2, "except_column_list": ("city",), "track_history_column_list": ("city",)},
            "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
            "names a column `city` that its target does not have",
            "correct or remove `city`",
        ),
        (
            {"ignore_null_updates": True, "ignore_null_updates_column_list": ("citi",)},
            "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
            "`ignore_null_updates_column_list` of flow `users`",
            "did you mean `city`?",
        ),
        (
            {"column_list": ("name",)},
            "AUTOCDC_KEY_NOT_IN_SELECTED_SCHEMA",
            "the key `userId` of flow `users` is not a column of its target",
            "add it to `column_list`",
        ),
        (
            {"except_column_list": ("userId",)},
            "AUTOCDC_KEY_NOT_IN_SELECTED_SCHEMA",
            "the key `userId`",
            "remove it from `except_column_list`",
        ),
        (
            {"track_history_column_list": ("city",)},
            "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2",
            "flow `users` chooses tracked columns but stores SCD type 1",
            "set `stored_as_scd_type=2`",
        ),
        (
            {"scd_type": 2, "apply_as_truncates": "operation = 'TRUNCATE'"},
            "AUTOCDC_TRUNCATE_REQUIRES_SCD1",
            "flow `users` has `apply_as_truncates` but stores SCD type 2",
            "`apply_as_deletes`",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_is_refused(
    options: dict[str, Any], condition: str, message: str, hint: str
) -> None:
    with pytest.raises(DefinitionError) as caught:
        schema(**options)
    assert caught.value.condition == condition
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert caught.value.origin == ORIGIN


@pytest.mark.parametrize("name", ["__START_AT", "__end_at"])
def test_the_names_of_the_interval_are_reserved_in_scd2(name: str) -> None:
    source = StructType([*SOURCE.fields]).add(name, StringType())
    with pytest.raises(DefinitionError, match="AUTOCDC_RESERVED_COLUMN_NAME_CONFLICT"):
        schema(source=source, scd_type=2)
    assert schema(source=source).names[-1] == name
    assert schema(source=source, scd_type=2, except_column_list=(name,)).names[-2:] == ["__START_AT", "__END_AT"]


def test_the_prefix_of_the_auxiliary_table_is_reserved() -> None:
    source = StructType([*SOURCE.fields]).add("__lakelet_sequence", LongType())
    with pytest.raises(DefinitionError, match="AUTOCDC_RESERVED_COLUMN_NAME_PREFIX_CONFLICT"):
        schema(source=source)


@pytest.mark.parametrize("kind", [MapType(StringType(), LongType()), VariantType(), ArrayType(StringType())])
def test_a_key_is_a_single_value(kind: DataType) -> None:
    source = StructType([*SOURCE.fields]).add("tags", kind)
    with pytest.raises(DefinitionError, match="AUTOCDC_KEY_TYPE_NOT_SUPPORTED"):
        schema(source=source, keys=("tags",))


def test_a_sequence_must_have_an_order() -> None:
    with pytest.raises(DefinitionError, match="NON_ORDERABLE_SEQUENCE"):
        schema(MapType(StringType(), LongType()))
    assert is_orderable(StructType().add("at", TimestampType()).add("id", LongType()))
    assert is_orderable(DoubleType())
    assert not is_orderable(StructType().add("at", VariantType()))
    assert not is_orderable(StructType())


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(DefinitionErrors) as caught:
        schema(keys=("id",), track_history_column_list=("town",))
    assert [error.condition for error in caught.value.errors] == [
        "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
        "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
        "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2",
    ]


def test_metadata_survives_the_table_property_and_ignores_spelling() -> None:
    one = metadata_of(flow(keys=("userId", "name"), scd_type=2), SOURCE, IntegerType())
    other = metadata_of(flow(keys=("NAME", "USERID"), scd_type=2), SOURCE, IntegerType())
    assert CdcMetadata.from_json(one.to_json()) == one == other
    tracked = metadata_of(flow(scd_type=2, track_history_column_list=("City",)), SOURCE, IntegerType())
    assert CdcMetadata.from_json(tracked.to_json()).track_history == ("city",)
