"""A real ADBC driver reads a pipeline's tables through the Flight SQL door."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from adbc_driver_flightsql import DatabaseOptions, dbapi
from pyarrow import flight
from tests.web.web_kit import Shop

from lakelet.doors import Doors, open_doors
from lakelet.doors.flight_messages import packed
from lakelet.pipeline import Pipeline


@pytest.fixture
def connection(doors: Doors) -> Iterator[Any]:
    with dbapi.connect(doors.flight_sql, autocommit=True) as connection:
        yield connection


def rows(connection: Any, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetch_arrow_table()


def ask(doors: Doors, command: str, **fields: Any) -> Any:
    with flight.connect(doors.flight_sql) as client:
        info = client.get_flight_info(flight.FlightDescriptor.for_command(packed(command, **fields)))
        [endpoint] = info.endpoints
        answer = client.do_get(endpoint.ticket).read_all()
        assert answer.schema == info.schema
        return answer


def test_queries_give_what_the_pipeline_itself_reads(shop: Shop, connection: Any) -> None:
    for sql in (
        "SELECT * FROM bronze.orders ORDER BY id",
        "SELECT customer, total FROM `gold`.`totals` ORDER BY customer",
        "WITH o AS (SELECT * FROM silver.paid) SELECT count(*) AS n, sum(amount) AS total FROM o",
        "SELECT count(*) > 5 AS has_events FROM event_log",
        "SELECT * FROM bronze.orders WHERE id < 0",
    ):
        expected = shop.pipeline().query(sql)
        found = rows(connection, sql)
        assert found.column_names == expected.column_names
        assert found.to_pydict() == expected.to_pydict()


def test_values_of_every_type_arrive(shop: Shop, connection: Any) -> None:
    sql = (
        "SELECT true AS a, cast(1 AS tinyint) AS b, cast(2 AS smallint) AS c, 3 AS d, cast(4 AS bigint) AS e, "
        "cast(1.5 AS float) AS f, cast(2.5 AS double) AS g, cast(3.25 AS decimal(10, 2)) AS h, 'ä' AS i, X'01ff' AS j, "
        "DATE'2026-01-02' AS k, TIMESTAMP'2026-01-02 03:04:05' AS l, TIMESTAMP_NTZ'2026-01-02 03:04:05' AS m, "
        "array(1, NULL) AS n, map('k', 1) AS o, struct(1 AS x, 'y' AS y) AS p, NULL AS q"
    )
    assert rows(connection, sql).to_pydict() == shop.pipeline().query(sql).to_pydict()


def test_the_driver_finds_catalogs_schemas_tables_and_columns(connection: Any) -> None:
    [catalog] = connection.adbc_get_objects(depth="all").read_all().to_pylist()
    assert catalog["catalog_name"] == "spark_catalog"
    found = {
        (schema["db_schema_name"], table["table_name"]): [column["column_name"] for column in table["table_columns"]]
        for schema in catalog["catalog_db_schemas"]
        for table in schema["db_schema_tables"]
    }
    assert found["gold", "totals"] == ["customer", "total"]
    assert set(found) == {("bronze", "orders"), ("silver", "paid"), ("gold", "totals"), ("default", "event_log")}
    assert connection.adbc_get_table_types() == ["TABLE"]
    schema = connection.adbc_get_table_schema("orders", catalog_filter="spark_catalog", db_schema_filter="bronze")
    assert schema.names == ["id", "customer", "amount"]
    info = connection.adbc_get_info()
    assert info["vendor_name"] == "lakelet"


def test_questions_are_filtered_as_the_protocol_says(doors: Doors) -> None:
    def names(**fields: Any) -> list[str]:
        return ask(doors, "CommandGetTables", **fields)["table_name"].to_pylist()

    assert names(table_name_filter_pattern="%t%") == ["event_log", "totals"]
    assert names(db_schema_filter_pattern="g_ld") == ["totals"]
    assert names(table_name_filter_pattern="event\\_log") == ["event_log"]
    assert names(table_name_filter_pattern="event\\_l_g") == ["event_log"]
    assert names(catalog="elsewhere") == []
    assert names(table_types=["VIEW"]) == []
    assert ask(doors, "CommandGetDbSchemas", db_schema_filter_pattern="s%")["db_schema_name"].to_pylist() == ["silver"]
    assert ask(doors, "CommandGetCatalogs").to_pylist() == [{"catalog_name": "spark_catalog"}]
    assert ask(doors, "CommandGetXdbcTypeInfo", data_type=4)["type_name"].to_pylist() == ["INT"]
    assert ask(doors, "CommandGetPrimaryKeys", table="orders").num_rows == 0
    assert ask(doors, "CommandGetImportedKeys", table="orders").num_rows == 0
    facts = dict(zip(*ask(doors, "CommandGetSqlInfo", info=[0, 3, 504, 99999]).to_pydict().values(), strict=True))
    assert facts == {0: "lakelet", 3: True, 504: "`"}


def test_a_prepared_statement_says_its_columns_and_runs_again(connection: Any) -> None:
    with connection.cursor() as cursor:
        sql = "SELECT id, amount FROM bronze.orders WHERE amount > 0 ORDER BY id"
        assert cursor.adbc_prepare(sql) is None or len(cursor.adbc_prepare(sql)) == 0
        for _ in range(2):
            cursor.execute(sql)
            assert cursor.fetchall() == [(1, 10), (2, 250)]
    assert rows(connection, sql).schema.names == ["id", "amount"]


def test_timestamps_come_without_a_zone_for_drivers_that_know_none(
    shop: Shop,
) -> None:
    sql = "SELECT TIMESTAMP'2026-01-01T12:00:00Z' AS at, TIMESTAMP_NTZ'2026-01-01 12:00:00' AS there"
    pipeline = Pipeline(shop.root, configuration={"lakelet.timezone": "Asia/Tokyo"}, engine=shop.engine)
    with open_doors(pipeline, spark_port=0, flight_port=0, queries=1) as doors:
        options = {f"{DatabaseOptions.RPC_CALL_HEADER_PREFIX.value}x-lakelet-timestamps": "local"}
        with dbapi.connect(doors.flight_sql, db_kwargs=options, autocommit=True) as connection:
            noon = datetime(2026, 1, 1, 12)
            assert rows(connection, sql).to_pylist() == [{"at": noon.replace(hour=21), "there": noon}]
        with dbapi.connect(doors.flight_sql, autocommit=True) as connection:
            assert rows(connection, sql).to_pylist() == [{"at": noon.replace(tzinfo=UTC), "there": noon}]


def test_a_wrong_query_says_what_is_wrong(connection: Any) -> None:
    with pytest.raises(dbapi.Error, match="the columns there are id, customer, amount"):
        rows(connection, "SELECT nope FROM bronze.orders")
    with pytest.raises(dbapi.Error, match="is not a stored table of the pipeline"):
        rows(connection, "SELECT * FROM nothing")
    with pytest.raises(dbapi.Error, match="on purpose"):
        rows(connection, "SELECT raise_error('on purpose') AS x")
    assert rows(connection, "SELECT 1 AS one").to_pydict() == {"one": [1]}


def test_a_large_result_arrives_whole(connection: Any) -> None:
    found = rows(connection, "SELECT sum(id) OVER () AS total, id FROM range(300000)")
    assert found.num_rows == 300_000
    assert found["id"].to_pandas().sum() == 300_000 * 299_999 // 2
