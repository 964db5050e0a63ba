"""Comments that a schema declares as text are those of the table's columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakelet.pipeline import RefreshSelection

VIEW = """
    @dp.materialized_view(schema="{schema}")
    def orders():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/orders")
"""
STREAM = VIEW.replace("materialized_view", "table").replace("spark.read.", "spark.readStream.")
SCHEMA = "id BIGINT COMMENT '{comment}', place STRUCT<city: STRING COMMENT 'where it went'>"
ORDERS = pa.table({"id": pa.array([1], pa.int64()), "place": [{"city": "Oslo"}]})


def comments(project: Any) -> tuple[Any, Any]:
    """Return the comments of `id` and of `place.city`."""
    columns = {field.name: field for field in DeltaTable(str(project.folder("orders"))).schema().fields}
    return columns["id"].metadata.get("comment"), columns["place"].type.fields[0].metadata.get("comment")


@pytest.mark.parametrize("declaration", [VIEW, STREAM], ids=["view", "stream"])
def test_they_stay_over_updates_and_full_refreshes(project: Any, declaration: str) -> None:
    project.write(declaration.format(schema=SCHEMA.format(comment="number")))
    for _ in range(2):
        project.land("orders", ORDERS)
        project.ok()
        assert comments(project) == ("number", "where it went")
    version = project.version("orders")
    project.ok()
    assert project.version("orders") == version
    project.ok(selection=RefreshSelection(full_refresh=("orders",)))
    assert comments(project) == ("number", "where it went")
    assert project.rows("orders", "id") == [1, 1]


@pytest.mark.parametrize("declaration", [VIEW, STREAM], ids=["view", "stream"])
def test_a_changed_one_takes_effect(project: Any, declaration: str) -> None:
    project.land("orders", ORDERS)
    for comment in ("number", "number of the order"):
        project.write(declaration.format(schema=SCHEMA.format(comment=comment)))
        project.ok()
        assert comments(project) == (comment, "where it went")
    assert project.rows("orders", "id") == [1]


def test_a_sql_file_declares_them_too(project: Any) -> None:
    project.write(
        "CREATE MATERIALIZED VIEW orders (id BIGINT COMMENT 'number', place STRUCT<city: STRING COMMENT 'where it went'>)"
        " AS SELECT id, named_struct('city', 'Oslo') AS place FROM range(3)",
        file="orders.sql",
    )
    project.ok()
    assert comments(project) == ("number", "where it went")
