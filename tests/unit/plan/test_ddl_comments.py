"""Comments in a column list as text."""

from __future__ import annotations

import pytest
from pyspark.sql.types import ArrayType, IntegerType, MapType, StringType, StructField, StructType

from lakelet.plan.ddl_comments import with_comments


def columns(**types: object) -> StructType:
    return StructType([StructField(name, kind) for name, kind in types.items()])  # type: ignore[arg-type]


def comments(schema: StructType) -> dict[str, str | None]:
    return {column.name: column.metadata.get("comment") for column in schema.fields}


@pytest.mark.parametrize(
    ("text", "comment"),
    [
        ("id INT COMMENT 'the order'", "the order"),
        ('`id` INT NOT NULL comment "it\'s"', "it's"),
        ("ID: DECIMAL(10, 2) COMMENT 'a, b' -- the COMMENT 'no'", "a, b"),
        ("id INT GENERATED ALWAYS AS (coalesce(x, 'COMMENT')) COMMENT 'last'", "last"),
        ("id INT DEFAULT 'COMMENT'", None),
        ("id INT", None),
        ("comment INT, id INT COMMENT 'second'", "second"),
    ],
)
def test_a_column_has_the_comment_that_its_text_gives_it(text: str, comment: str | None) -> None:
    assert comments(with_comments(columns(id=IntegerType()), text)) == {"id": comment}


def test_fields_inside_of_structs_arrays_and_maps_have_theirs() -> None:
    inner = columns(a=IntegerType(), b=StringType())
    found = with_comments(
        columns(s=inner, l=ArrayType(inner), m=MapType(StringType(), inner), last=IntegerType()),
        "s STRUCT<a: INT COMMENT 's a', b: STRING> COMMENT 's', l ARRAY<STRUCT<a: INT, b: STRING COMMENT 'l b'>>, "
        "m MAP<STRING, STRUCT<a: INT COMMENT 'm a', b: STRING>> COMMENT 'm', last INT COMMENT 'end'",
    )
    assert comments(found) == {"s": "s", "l": None, "m": "m", "last": "end"}
    assert comments(found["s"].dataType) == {"a": "s a", "b": None}
    assert comments(found["l"].dataType.elementType) == {"a": None, "b": "l b"}
    assert comments(found["m"].dataType.valueType) == {"a": "m a", "b": None}


def test_types_stay_as_they_are() -> None:
    schema = columns(id=IntegerType(), s=columns(a=IntegerType()))
    found = with_comments(schema, "id INT COMMENT 'x', s STRUCT<a: INT COMMENT 'y'>")
    assert found.simpleString() == schema.simpleString()
