"""Normalised SQL runs on the embedded engine and returns what the user's text means."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.connect import proto

from lakelet.plan.sql import normalize_sql, replace_clock
from lakelet.plan.sql_engine import for_engine

pytestmark = pytest.mark.feature("SQL text")

IDS = itertools.count(1000)
TABLES = {
    "01_bronze.sales": pa.table({"id": [1, 2, 3], "store": ["a", "b", "a"], "amount": [10, 20, 30]}),
    "stores": pa.table({"store": ["a", "b"], "city": ["Bonn", "Oslo"]}),
}


@pytest.fixture(scope="module")
def session() -> Iterator[Any]:
    from pysail.spark import SparkConnectServer
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.session import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    host, port = server.listening_address
    builder = DefaultChannelBuilder(
        f"sc://{host}:{port}", channelOptions=[("grpc.compression_enabled_algorithms_bitset", 1)]
    )
    spark = SparkSession.builder.channelBuilder(builder).create()
    yield spark
    spark.stop()
    server.stop()


def run(session: Any, relation: proto.Relation) -> list[tuple[Any, ...]]:
    """Normalise, put the rows of TABLES where tables are read, and return the result's rows."""
    normalized = normalize_sql(relation, lambda: next(IDS))
    for reference in normalized.with_relations.references:
        leaf = reference.subquery_alias.input
        if leaf.WhichOneof("rel_type") == "read":
            name = leaf.read.named_table.unparsed_identifier.removeprefix("LIVE.")
            leaf.CopyFrom(local(TABLES[name]))
    table = session.client.to_table(proto.Plan(root=normalized), {})[0]
    columns = [table.column(index).to_pylist() for index in range(table.num_columns)]
    return list(zip(*columns, strict=True))


def local(table: pa.Table) -> proto.Relation:
    relation = proto.Relation()
    relation.common.plan_id = next(IDS)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    relation.local_relation.data = sink.getvalue().to_pybytes()
    return relation


def sql(text: str) -> proto.Relation:
    relation = proto.Relation()
    relation.common.plan_id = next(IDS)
    relation.sql.query = text
    return relation


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT id FROM 01_bronze.sales ORDER BY id", [(1,), (2,), (3,)]),
        ("SELECT sales.id, 01_bronze.sales.amount FROM 01_bronze.sales WHERE `01_bronze`.sales.amount >"
         " 20",
         [(3, 30)]),
        ("SELECT s.id, b.city FROM 01_bronze.sales s JOIN LIVE.stores AS b ON s.store = b.store"
         " WHERE id < 3 ORDER BY 1",
         [(1, "Bonn"), (2, "Oslo")]),
        ("SELECT id, city FROM STREAM(01_bronze.sales) JOIN stores ON sales.store = stores.store ORDER BY id",
         [(1, "Bonn"), (2, "Oslo"), (3, "Bonn")]),
        ("WITH sales AS (SELECT * FROM 01_bronze.sales),"
         " n AS (SELECT store, count(*) c FROM sales GROUP BY store) SELECT * FROM n ORDER BY store",
         [("a", 2), ("b", 1)]),
        ("WITH a AS (WITH c AS (SELECT * FROM stores) SELECT city FROM c) SELECT * FROM a ORDER BY 1",
         [("Bonn",), ("Oslo",)]),
        ("SELECT city FROM stores WHERE EXISTS"
         " (SELECT 1 FROM 01_bronze.sales s WHERE s.store = stores.store AND amount > 25)",
         [("Bonn",)]),
        ("SELECT city FROM stores WHERE store IN (SELECT store FROM 01_bronze.sales WHERE amount = 20)",
         [("Oslo",)]),
        ("SELECT (SELECT max(amount) FROM 01_bronze.sales) m, city FROM stores ORDER BY city",
         [(30, "Bonn"), (30, "Oslo")]),
        ("SELECT a.id FROM 01_bronze.sales a JOIN 01_bronze.sales b ON a.id = b.id + 1 ORDER BY 1",
         [(2,), (3,)]),
        ("SELECT count(*) FROM 01_bronze.sales, stores", [(6,)]),
        ("SELECT store FROM 01_bronze.sales UNION SELECT store FROM stores ORDER BY store", [("a",), ("b",)]),
        ("SELECT city FROM (01_bronze.sales JOIN stores ON 01_bronze.sales.store = stores.store)"
         " WHERE id = 2",
         [("Oslo",)]),
        ("SELECT stores.* FROM stores, 01_bronze.sales WHERE id = 2 AND stores.store = sales.store",
         [("b", "Oslo")]),
        ("SELECT id, x FROM 01_bronze.sales LATERAL VIEW explode(array(7, 8)) e AS x WHERE id = 1",
         [(1, 7), (1, 8)]),
        ("SELECT city FROM stores TABLESAMPLE (100 PERCENT) WHERE stores.store = 'a'", [("Bonn",)]),
        ("SELECT id FROM IDENTIFIER('01_bronze.' || 'sales') WHERE id = 3", [(3,)]),
        ("TABLE stores", [("a", "Bonn"), ("b", "Oslo")]),
        ("SELECT * FROM (SELECT id, amount FROM 01_bronze.sales\n) AS lk_columns(`k`, `v w`) WHERE `v w`"
         " = 20",
         [(2, 20)]),
        ("SELECT 1 AS one", [(1,)]),
    ],
)  # fmt: skip
def test_a_query_returns_the_rows_that_its_text_means(session: Any, text: str, rows: list[tuple[Any, ...]]) -> None:
    assert run(session, sql(text)) == rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            "SELECT store, sum(amount) AS total FROM 01_bronze.sales GROUP BY ALL ORDER BY ALL",
            [("a", 40), ("b", 20)],
        ),
        ("SELECT sum(amount) FROM 01_bronze.sales GROUP BY ALL", [(60,)]),
        ("SELECT id, store FROM 01_bronze.sales ORDER BY ALL DESC", [(3, "a"), (2, "b"), (1, "a")]),
        (
            "SELECT * FROM 01_bronze.sales"
            " QUALIFY row_number() OVER (PARTITION BY store ORDER BY id DESC) = 1 ORDER BY id",
            [(2, "b", 20), (3, "a", 30)],
        ),
        (
            "SELECT id, rank() OVER (ORDER BY amount) AS place FROM 01_bronze.sales QUALIFY place < 3 ORDER BY id",
            [(1, 1), (2, 2)],
        ),
    ],
)
def test_clauses_that_the_engine_lacks_are_rewritten(session: Any, text: str, rows: list[tuple[Any, ...]]) -> None:
    assert run(session, sql(for_engine(text))) == rows


def test_a_formatted_query_keeps_the_users_dataframe_beside_the_table(session: Any) -> None:
    relation = proto.Relation()
    relation.common.plan_id = next(IDS)
    relation.with_relations.root.CopyFrom(sql("SELECT id, n FROM view_1 JOIN 01_bronze.sales USING (id) ORDER BY id"))
    reference = relation.with_relations.references.add()
    reference.common.plan_id = next(IDS)
    reference.subquery_alias.alias = "view_1"
    reference.subquery_alias.input.CopyFrom(local(pa.table({"id": [2, 3], "n": ["x", "y"]})))
    assert run(session, relation) == [(2, "x"), (3, "y")]


def test_named_arguments_still_reach_the_query(session: Any) -> None:
    relation = sql("SELECT id FROM IDENTIFIER(:t) WHERE amount = :a")
    relation.sql.named_arguments["t"].literal.string = "01_bronze.sales"
    relation.sql.named_arguments["a"].literal.long = 20
    assert run(session, relation) == [(2,)]


def test_the_replaced_clock_has_the_types_and_names_of_the_functions(session: Any) -> None:
    at = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    text = "SELECT now(), current_date, localtimestamp(), unix_timestamp()"
    assert run(session, sql(replace_clock(text, at))) == [(at, date(2024, 1, 2), at.replace(tzinfo=None), 1704164645)]
    before = session.client.schema(proto.Plan(root=sql(text)))
    after = session.client.schema(proto.Plan(root=sql(replace_clock(text, at))))
    assert [field.dataType for field in after.fields] == [field.dataType for field in before.fields]
    assert [field.name for field in after.fields][:3] == ["now()", "current_date()", "localtimestamp()"]
