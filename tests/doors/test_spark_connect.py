"""Real PySpark sessions read a pipeline's tables through the Spark Connect door."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.errors import AnalysisException, PySparkException
from pyspark.sql import Row, SparkSession
from pyspark.sql import functions as F
from tests.web.web_kit import Shop, wait_for

from lakelet.doors import Doors
from lakelet.pipeline import Pipeline
from lakelet.plan import relation as plan

ENDLESS = "SELECT count(*) FROM range(1000000000000) a JOIN range(1000000) b ON a.id % 7 = b.id % 5"


def test_sql_text_and_tables_give_what_the_pipeline_itself_reads(shop: Shop, spark: SparkSession) -> None:
    pipeline = shop.pipeline()
    for name in ("bronze.orders", "silver.paid", "gold.totals"):
        expected = pipeline.table(name).sort_by("customer")
        assert spark.table(name).orderBy("customer").toArrow().to_pydict() == expected.to_pydict()
        text = f"SELECT * FROM spark_catalog.{name} ORDER BY customer"
        assert spark.sql(text).toArrow().to_pydict() == expected.to_pydict()


def test_frames_join_rows_of_the_client_with_tables(spark: SparkSession) -> None:
    labels = spark.createDataFrame([("ann", "gold"), ("bob", "silver")], ["customer", "label"])
    joined = labels.join(spark.table("bronze.orders"), "customer").groupBy("label").agg(F.sum("amount").alias("total"))
    assert sorted(joined.collect()) == [Row(label="gold", total=10), Row(label="silver", total=250)]


def test_sql_takes_frames_and_parameters(spark: SparkSession) -> None:
    orders = spark.table("bronze.orders")
    query = spark.sql("SELECT customer FROM {orders} WHERE amount > :least", orders=orders, args={"least": 100})
    assert query.collect() == [Row(customer="bob")]


def test_the_event_log_is_a_table(spark: SparkSession) -> None:
    found = spark.sql("SELECT DISTINCT event_type FROM event_log WHERE event_type = 'flow_progress'").collect()
    assert found == [Row(event_type="flow_progress")]
    path = "SELECT origin.dataset_name AS name FROM event_log WHERE details:flow_progress.status = 'COMPLETED'"
    assert Row(name="gold.totals") in spark.sql(path).collect()


def test_the_catalog_lists_schemas_tables_and_columns(spark: SparkSession) -> None:
    assert [item.name for item in spark.catalog.listDatabases()] == ["bronze", "default", "gold", "silver"]
    assert [item.name for item in spark.catalog.listDatabases("s*|g*")] == ["gold", "silver"]
    [table] = spark.catalog.listTables("bronze")
    assert (table.name, table.namespace, table.description) == ("orders", ["bronze"], "Orders as they came")
    assert [item.name for item in spark.catalog.listTables()] == ["event_log"]
    assert [(item.name, item.dataType) for item in spark.catalog.listColumns("gold.totals")] == [
        ("customer", "string"),
        ("total", "bigint"),
    ]
    assert spark.catalog.tableExists("gold.totals") and not spark.catalog.tableExists("gold.nothing")
    assert spark.catalog.databaseExists("gold") and not spark.catalog.databaseExists("platinum")
    assert (spark.catalog.currentCatalog(), spark.catalog.currentDatabase()) == ("spark_catalog", "default")
    with pytest.raises(AnalysisException, match="TABLE_OR_VIEW_NOT_FOUND"):
        spark.catalog.getTable("gold.nothing")


def test_what_people_do_first_in_a_notebook_works(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    orders = spark.table("bronze.orders").orderBy("id")
    orders.show()
    orders.printSchema()
    printed = capsys.readouterr().out
    assert "|  2|     bob|   250|" in printed and "|-- amount: long" in printed
    assert orders.columns == ["id", "customer", "amount"]
    assert (orders.count(), orders.first()) == (3, Row(id=1, customer="ann", amount=10))
    assert orders.toPandas()["amount"].tolist() == [10, 250, -5]
    assert orders.selectExpr("amount * 2 AS twice").tail(1) == [Row(twice=-10)]
    assert orders.describe("amount").count() == 5
    assert spark.range(5).cache().count() == 5


def test_a_query_that_starts_sees_the_newest_rows(
    tmp_path: Path, new_session: Callable[[str], SparkSession], engine: Any
) -> None:
    from lakelet.doors import open_doors

    other = Shop(tmp_path, engine)
    other.land((1, "ann", 10))
    other.run()
    with open_doors(other.pipeline().sibling(), spark_port=0, flight_port=0, queries=1) as opened:
        session = new_session(opened.spark_connect)
        orders = session.table("bronze.orders")
        assert orders.count() == 1
        other.land((2, "bob", 5))
        other.run()
        assert orders.count() == 2
        assert session.sql("SELECT * FROM bronze.orders VERSION AS OF 1").count() == 1
    other.close()


def test_views_and_settings_are_a_sessions_own(
    doors: Doors, spark: SparkSession, new_session: Callable[[str], SparkSession]
) -> None:
    other = new_session(doors.spark_connect)
    spark.table("bronze.orders").filter("amount > 0").createOrReplaceTempView("paying")
    assert spark.sql("SELECT count(*) AS n FROM paying").collect() == [Row(n=2)]
    with pytest.raises(PySparkException, match="SQL_NOT_ALLOWED"):
        other.table("paying").collect()
    spark.table("paying").filter("amount > 100").createOrReplaceTempView("paying")  # in terms of itself
    assert spark.table("paying").collect() == [Row(id=2, customer="bob", amount=250)]
    with pytest.raises(AnalysisException, match="TEMP_TABLE_OR_VIEW_ALREADY_EXISTS"):
        spark.range(1).createTempView("paying")
    assert [item.name for item in spark.catalog.listTables() if item.isTemporary] == ["paying"]
    assert spark.catalog.dropTempView("paying") and not spark.catalog.dropTempView("paying")

    spark.conf.set("spark.sql.session.timeZone", "Asia/Tokyo")
    hour = "SELECT hour(TIMESTAMP '2026-01-01T00:00:00Z') AS hour"
    assert (spark.sql(hour).collect(), other.sql(hour).collect()) == ([Row(hour=9)], [Row(hour=0)])
    spark.conf.unset("spark.sql.session.timeZone")


def test_today_is_the_day_in_the_sessions_zone(shop: Shop, spark: SparkSession) -> None:
    """The two zones are 25 hours apart: never on the same day."""
    days = []
    for zone in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        spark.conf.set("spark.sql.session.timeZone", zone)
        [[day]] = spark.sql("SELECT current_date() AS day").collect()
        pipeline = Pipeline(shop.root, configuration={"lakelet.timezone": zone}, engine=shop.engine)
        days.append((day, pipeline.query("SELECT current_date() AS day")["day"][0].as_py()))
    spark.conf.unset("spark.sql.session.timeZone")
    assert days[0][0] > days[1][0] and days[0][1] > days[1][1]


def test_errors_are_sparks_with_the_condition_and_a_hint(spark: SparkSession) -> None:
    with pytest.raises(AnalysisException) as unknown:
        spark.sql("SELECT nope FROM bronze.orders")
    assert unknown.value.getCondition() == "UNRESOLVED_COLUMN"
    assert "the columns there are id, customer, amount" in str(unknown.value)
    with pytest.raises(PySparkException) as failed:
        spark.sql("SELECT raise_error('on purpose') AS x").collect()
    assert "on purpose" in str(failed.value)
    with pytest.raises(PySparkException, match="SQL_CONF_NOT_FOUND"):
        spark.conf.get("spark.no.such.setting")


def test_an_interrupt_ends_the_query_and_its_process(doors: Doors, spark: SparkSession) -> None:
    failures: list[Exception] = []

    def run() -> None:
        try:
            spark.sql(ENDLESS).collect()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    ended = wait_for(spark.interruptAll)
    thread.join(60)
    assert len(ended) == 1 and "OPERATION_CANCELED" in str(failures[0])
    assert not doors.tables.processes._leases
    assert spark.range(3).count() == 3


def test_an_interrupt_never_gives_part_of_a_result_for_the_whole(
    doors: Doors, new_session: Callable[[str], SparkSession]
) -> None:
    client = new_session(doors.spark_connect).client
    for taken in range(4):
        request = client._execute_plan_request_with_metadata()
        request.plan.root.CopyFrom(plan.sql("SELECT id FROM range(100000000)"))
        call = client._stub.ExecutePlan(request)
        seen = [next(call) for _ in range(taken)]
        wait_for(client.interrupt_all)
        with pytest.raises(Exception, match="OPERATION_CANCELED"):
            seen.extend(call)
        assert not any(response.HasField("result_complete") for response in seen)


def test_a_client_that_goes_away_ends_its_query(doors: Doors, new_session: Callable[[str], SparkSession]) -> None:
    session = new_session(doors.spark_connect)
    client = session.client
    request = client._execute_plan_request_with_metadata()
    request.plan.root.CopyFrom(plan.sql(ENDLESS))
    call = client._stub.ExecutePlan(request)
    wait_for(lambda: doors.tables.processes._leases)
    call.cancel()
    wait_for(lambda: not doors.tables.processes._leases)


def test_a_broken_connection_never_gives_part_of_a_result(
    doors: Doors, new_session: Callable[[str], SparkSession]
) -> None:
    from pyspark.sql.connect import proto

    client = new_session(doors.spark_connect).client
    request = proto.ReattachExecuteRequest(
        session_id=client._session_id, operation_id="0" * 8, last_response_id="1", user_context={"user_id": "x"}
    )
    with pytest.raises(Exception, match=r"INVALID_HANDLE\.OPERATION_NOT_FOUND"):
        list(client._stub.ReattachExecute(request))
