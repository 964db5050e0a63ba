"""Attacks on the doors; each one must fail, and leave every file as it was."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from adbc_driver_flightsql import DatabaseOptions, dbapi
from adbc_driver_manager import Error as AdbcError
from pyarrow import flight
from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.connect import proto
from pyspark.sql.connect.proto import base_pb2_grpc
from tests.doors.conftest import CONFIGURATION, SECRET
from tests.doors.test_spark_connect import ENDLESS
from tests.web.test_security import REFUSED, files_of
from tests.web.web_kit import Shop, wait_for

from lakelet.doors import Doors, open_doors
from lakelet.doors.flight_messages import packed
from lakelet.errors import LakeletError
from lakelet.plan import relation as plan

REFUSALS = ("SQL_NOT_ALLOWED", "PARSE_SYNTAX_ERROR", "NOT_A_QUERY")


@pytest.fixture(autouse=True)
def nothing_changes(shop: Shop) -> Iterator[None]:
    before = files_of(shop)
    yield
    assert files_of(shop) == before


def refused(attack: Callable[[], Any]) -> str:
    with pytest.raises((PySparkException, AdbcError, flight.FlightError, grpc.RpcError)) as raised:
        attack()
    assert any(condition in str(raised.value) for condition in REFUSALS), str(raised.value)
    assert "Traceback" not in str(raised.value) and "/lakelet/" not in str(raised.value)
    return str(raised.value)


def filled(sql: str, shop: Shop) -> str:
    table = shop.root / "data" / "tables" / "spark_catalog" / "bronze" / "orders"
    return sql.replace("{file}", str(next(table.glob("*.parquet")))).replace("{folder}", str(table))


# -- SQL text


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:50])
def test_sql_cannot_write_read_files_or_leave_the_pipeline(
    shop: Shop, doors: Doors, spark: SparkSession, sql: str
) -> None:
    query = filled(sql, shop)
    refused(lambda: spark.sql(query))
    relation = plan.sql(query)  # without the client's own round of analysis
    refused(lambda: spark.client.to_table(proto.Plan(root=relation), {}))
    with flight.connect(doors.flight_sql) as client:
        command = flight.FlightDescriptor.for_command(packed("CommandStatementQuery", query=query))
        refused(lambda: client.get_flight_info(command))
        ticket = packed("TicketStatementQuery", statement_handle=query.encode())
        refused(lambda: client.do_get(flight.Ticket(ticket)).read_all())


@pytest.mark.parametrize(
    "text",
    [
        "(SELECT max(value) FROM text.`/etc/passwd`)",
        "1 FROM text.`/etc/passwd`",
        "id IN (SELECT value FROM csv.`/etc/passwd`)",
        "reflect('java.lang.System', 'exit', 1)",
        "1; DROP TABLE silver.paid",
        "id FROM delta.`{folder}` --",
    ],
)
def test_text_of_an_expression_reads_no_file(shop: Shop, spark: SparkSession, text: str) -> None:
    text = filled(text, shop)
    refused(lambda: spark.range(1).select(F.expr(text)).collect())
    refused(lambda: spark.range(1).filter(text).collect())
    refused(lambda: spark.range(1).select(F.expr(text)).schema)


# -- frames

FRAMES: dict[str, Callable[[SparkSession, str], DataFrame]] = {
    "text": lambda spark, folder: spark.read.text("/etc/passwd"),
    "csv": lambda spark, folder: spark.read.csv("/etc/passwd"),
    "json": lambda spark, folder: spark.read.json("/etc/passwd"),
    "parquet": lambda spark, folder: spark.read.parquet(folder),
    "binary": lambda spark, folder: spark.read.format("binaryFile").load("/etc/passwd"),
    "delta": lambda spark, folder: spark.read.format("delta").load(folder),
    "path option": lambda spark, folder: spark.read.format("text").option("path", "/etc/passwd").load(),
    "jdbc": lambda spark, folder: spark.read.format("jdbc").option("url", "jdbc:x").option("dbtable", "t").load(),
    "path as a table": lambda spark, folder: spark.table(f"delta.`{folder}`"),
    "file as a table": lambda spark, folder: spark.table("text.`/etc/passwd`"),
    "a table outside": lambda spark, folder: spark.table("other.bronze.orders"),
    "a view of the pipeline": lambda spark, folder: spark.table("good_orders"),
    "a stream": lambda spark, folder: spark.readStream.table("bronze.orders"),
    "a stream of files": lambda spark, folder: spark.readStream.format("text").load("/etc"),
    "below a join": lambda spark, folder: spark.range(1).crossJoin(spark.read.text("/etc/passwd")),
    "a star of a file": lambda spark, folder: (lambda frame: frame.select(frame["*"]))(spark.read.text("/etc/passwd")),
    "in a frame of SQL": lambda spark, folder: spark.sql("SELECT * FROM {f}", f=spark.read.text("/etc/passwd")),
    "a frame named as a file": lambda spark, folder: spark.sql(
        "SELECT * FROM text.`/etc/passwd` UNION ALL SELECT * FROM {text}", text=spark.range(1).selectExpr("'x' AS value")
    ),
    "in a sub-query": lambda spark, folder: spark.range(1).select(spark.read.text("/etc/passwd").scalar()),
    "a function in Python": lambda spark, folder: spark.range(1).select(F.udf(lambda x: 1)("id")),
    "a function of pandas": lambda spark, folder: spark.range(1).mapInPandas(lambda it: it, "id BIGINT"),
    "groups in pandas": lambda spark, folder: spark.range(1).groupBy("id").applyInPandas(lambda f: f, "id BIGINT"),
    "a function of Java": lambda spark, folder: spark.range(1).select(F.call_function("reflect", F.lit("java.lang.System"))),
    "a table function": lambda spark, folder: spark.range(1).lateralJoin(
        spark.sql("SELECT * FROM read_files('/etc/passwd', format => 'text')")
    ),
    "observe": lambda spark, folder: spark.range(1).observe("x", F.count("*").alias("n")),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_reads_no_file_and_runs_no_code(shop: Shop, spark: SparkSession, name: str) -> None:
    folder = str(shop.root / "data" / "tables" / "spark_catalog" / "bronze" / "orders")
    refused(lambda: FRAMES[name](spark, folder).collect())
    if "pandas" not in name:  # of those the client knows the columns itself
        refused(lambda: FRAMES[name](spark, folder).schema)
    refused(lambda: FRAMES[name](spark, folder).createOrReplaceTempView("attack"))


COMMANDS: dict[str, Callable[[SparkSession, Path], Any]] = {
    "save as a table": lambda spark, tmp: spark.range(1).write.saveAsTable("x"),
    "overwrite a table": lambda spark, tmp: spark.range(1).write.mode("overwrite").saveAsTable("bronze.orders"),
    "insert": lambda spark, tmp: spark.table("bronze.orders").write.insertInto("bronze.orders"),
    "write files": lambda spark, tmp: spark.range(1).write.parquet(str(tmp / "x")),
    "write to": lambda spark, tmp: spark.range(1).writeTo("bronze.orders").append(),
    "merge": lambda spark, tmp: spark.range(1).mergeInto("bronze.orders", F.lit(True)).whenMatched().delete().merge(),
    "register a function": lambda spark, tmp: spark.udf.register("f", lambda x: x),
    "register a function of Java": lambda spark, tmp: spark.udf.registerJavaFunction("f", "java.lang.System"),
    "a global view": lambda spark, tmp: spark.range(1).createOrReplaceGlobalTempView("v"),
    "a view over a file": lambda spark, tmp: spark.read.text("/etc/passwd").createOrReplaceTempView("v"),
    "create a table": lambda spark, tmp: spark.catalog.createTable("x", path="/etc", source="text"),
    "drop a view": lambda spark, tmp: spark.catalog.dropGlobalTempView("v"),
    "upload a file": lambda spark, tmp: spark.addArtifacts(__file__, file=True),
    "upload code": lambda spark, tmp: spark.addArtifacts(__file__, pyfile=True),
    "copy to the server": lambda spark, tmp: spark.copyFromLocalToFs(__file__, str(tmp / "copied.py")),
    "a checkpoint": lambda spark, tmp: spark.range(1).checkpoint(),
    "a stream": lambda spark, tmp: spark.readStream.table("bronze.orders").writeStream.toTable("x"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs(spark: SparkSession, tmp_path: Path, name: str) -> None:
    refused(lambda: COMMANDS[name](spark, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_setting_changes_nothing_for_others(spark: SparkSession) -> None:
    for key in (
        "spark.sql.warehouse.dir",
        "spark.hadoop.fs.defaultFS",
        "spark.sql.catalog.x",
        "spark.sql.ansi.enabled",
    ):
        with pytest.raises(PySparkException, match="CANNOT_MODIFY_CONFIG"):
            spark.conf.set(key, "x")
    with pytest.raises(PySparkException, match="INVALID_TIME_ZONE"):
        spark.conf.set("spark.sql.session.timeZone", "../../etc/passwd")


def test_no_secret_is_in_the_settings(spark: SparkSession) -> None:
    expected = {
        "spark.hadoop.fs.s3a.secret.key": "***",
        "spark.hadoop.fs.s3a.access.key": "***",
        "spark.hadoop.lake.url": "https://me:***@lake.example",
        "spark.hadoop.fs.s3a.endpoint.region": "north",
    }
    assert expected.keys() == CONFIGURATION.keys()
    assert {key: spark.conf.get(key) for key in expected} == expected
    assert {key: spark.conf.get(key, "a default") for key in expected} == expected
    everything = spark.conf.getAll
    assert {key: everything[key] for key in expected} == expected
    assert "storage.password" not in everything and SECRET not in str(everything)
    operations = [
        proto.ConfigRequest.Operation(get=proto.ConfigRequest.Get(keys=list(expected))),
        proto.ConfigRequest.Operation(get_option=proto.ConfigRequest.GetOption(keys=list(expected))),
        proto.ConfigRequest.Operation(get_all=proto.ConfigRequest.GetAll()),
        proto.ConfigRequest.Operation(get_all=proto.ConfigRequest.GetAll(prefix="spark.hadoop.")),
    ]
    for operation in operations:
        answer = dict(spark.client.config(operation).pairs)
        assert {key: answer[key] for key in expected} == expected
    for key in expected:
        with pytest.raises(PySparkException, match="CANNOT_MODIFY_CONFIG"):
            spark.conf.set(key, "mine")


def test_no_secret_is_in_an_error(doors: Doors, spark: SparkSession) -> None:
    half = len(SECRET) // 2
    query = f"SELECT raise_error(concat('with ', '{SECRET[:half]}', '{SECRET[half:]}')) AS x FROM bronze.orders"
    with pytest.raises(PySparkException) as of_spark:
        spark.sql(query).collect()
    with (
        dbapi.connect(doors.flight_sql, autocommit=True) as connection,
        connection.cursor() as cursor,
        pytest.raises(AdbcError) as of_flight,
    ):
        cursor.execute(query)
        cursor.fetchall()
    for error in (str(of_spark.value), str(of_flight.value)):
        assert "with ***" in error and SECRET not in error


def test_a_part_of_the_protocol_that_is_not_known_is_refused(spark: SparkSession) -> None:
    unknown = proto.Relation.FromString(b"\xfa\x3e\x02\x08\x01")  # field 1007
    nested = proto.Relation()
    nested.limit.input.CopyFrom(unknown)
    extended = proto.Relation()
    extended.extension.type_url = "type.googleapis.com/sail.Anything"
    for relation in (unknown, nested, extended):
        refused(lambda relation=relation: spark.client.to_table(proto.Plan(root=relation), {}))
        refused(lambda relation=relation: spark.client.schema(proto.Plan(root=relation)))


def test_a_deep_plan_ends_no_server(spark: SparkSession) -> None:
    frame = spark.range(1)
    for _ in range(200):
        frame = frame.filter("id >= 0")
    with pytest.raises(Exception, match=r"deep|INTERNAL|deserializ|recursion"):
        frame.collect()
    assert spark.range(2).count() == 2


# -- Flight


def test_flight_takes_no_rows_and_no_other_action(doors: Doors) -> None:
    import pyarrow as pa

    with flight.connect(doors.flight_sql) as client:
        for name in ("CommandStatementUpdate", "CommandStatementIngest", "CommandStatementSubstraitPlan"):
            envelope = packed("CommandStatementQuery", query="DROP TABLE silver.paid").replace(
                b"CommandStatementQuery", name.encode()
            )
            data = bytes([10, envelope[1] + len(name) - len("CommandStatementQuery")]) + envelope[2:]
            descriptor = flight.FlightDescriptor.for_command(data)
            refused(lambda descriptor=descriptor: client.get_flight_info(descriptor))

            def put(descriptor: Any = descriptor) -> None:
                writer, _ = client.do_put(descriptor, pa.schema([("a", pa.int64())]))
                with writer:
                    writer.write_table(pa.table({"a": [1]}))

            refused(put)
        for action in ("BeginTransaction", "BeginSavepoint", "CreatePreparedSubstraitPlan", "SetSessionOptions", "x"):
            refused(lambda action=action: list(client.do_action(flight.Action(action, b""))))
        refused(lambda: client.get_flight_info(flight.FlightDescriptor.for_path("etc", "passwd")))
        refused(lambda: list(client.list_flights()))
        for garbage in (b"", b"\xff" * 20, b"SELECT 1"):
            with pytest.raises(flight.FlightError):
                client.do_get(flight.Ticket(garbage)).read_all()


def test_adbc_writes_nothing(doors: Doors) -> None:
    import pyarrow as pa

    attacks: list[Callable[[Any], Any]] = [
        lambda cursor: cursor.execute("INSERT INTO silver.paid SELECT * FROM bronze.orders"),
        lambda cursor: cursor.execute("SELECT * FROM text.`/etc/passwd`"),
        lambda cursor: cursor.adbc_ingest("x", pa.table({"a": [1]})),
        lambda cursor: cursor.executescript("DROP TABLE silver.paid"),
        lambda cursor: cursor.execute("SELECT ? AS a", (1,)),
    ]
    with dbapi.connect(doors.flight_sql, autocommit=True) as connection:
        for attack in attacks:
            with connection.cursor() as cursor:
                refused(lambda attack=attack, cursor=cursor: attack(cursor))


# -- who may come in


@pytest.fixture(scope="module")
def guarded(shop: Shop) -> Iterator[Doors]:
    with open_doors(
        shop.pipeline().sibling(), host="0.0.0.0", spark_port=0, flight_port=0, queries=1, timeout_seconds=2.0
    ) as opened:
        yield opened


def local(url: str) -> str:
    """Return an address of this machine for a server that listens at all of its addresses."""
    return url.replace(f"//{socket.gethostname()}:", "//127.0.0.1:")


def test_beyond_this_machine_a_token_is_required(guarded: Doors, new_session: Callable[[str], SparkSession]) -> None:
    token = guarded.token
    assert token is not None and len(token) >= 32
    url = local(guarded.spark_connect)
    assert new_session(url).range(2).count() == 2
    bare = url.partition("/;")[0]
    channel = grpc.insecure_channel(bare.removeprefix("sc://"))
    stub = base_pb2_grpc.SparkConnectServiceStub(channel)
    headers = [
        (),
        (("x-lakelet-token", "wrong"),),
        (("authorization", "Bearer"),),
        (("authorization", f"Basic {token}"),),
    ]
    for metadata in headers:
        calls: list[Callable[[], Any]] = [
            lambda metadata=metadata: stub.Config(proto.ConfigRequest(), metadata=metadata),
            lambda metadata=metadata: list(stub.ExecutePlan(proto.ExecutePlanRequest(), metadata=metadata)),
            lambda metadata=metadata: stub.AddArtifacts(iter([proto.AddArtifactsRequest()]), metadata=metadata),
        ]
        for call in calls:
            with pytest.raises(grpc.RpcError) as raised:
                call()
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
    channel.close()


def test_flight_asks_for_the_token_in_each_way_that_drivers_have(guarded: Doors) -> None:
    url, token = local(guarded.flight_sql), guarded.token
    ticket = flight.Ticket(packed("CommandGetTables"))
    with flight.connect(url) as client:
        for headers in ([], [(b"authorization", b"Bearer wrong")], [(b"authorization", b"Basic !!!")]):
            with pytest.raises(flight.FlightUnauthenticatedError):
                client.do_get(ticket, flight.FlightCallOptions(headers=headers)).read_all()
        bearer = client.authenticate_basic_token("anybody", token)
        assert client.do_get(ticket, flight.FlightCallOptions(headers=[bearer])).read_all().num_rows == 4
        with pytest.raises(flight.FlightUnauthenticatedError):
            client.authenticate_basic_token("anybody", "wrong")
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {token}"}
    with dbapi.connect(url, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1 AS one")
        assert cursor.fetchall() == [(1,)]
    with (
        pytest.raises(AdbcError, match="token is required"),
        dbapi.connect(url, autocommit=True) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT 1")


@pytest.mark.parametrize("door", ["spark_connect", "flight_sql"])
def test_a_browser_gets_no_answer(doors: Doors, door: str) -> None:
    """A page of another site whose name resolves here speaks HTTP/1.1: there is nothing that would answer it."""
    port = int(getattr(doors, door).rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"POST /spark.connect.SparkConnectService/Config HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    assert b"HTTP/1.1 200" not in answer and b"session" not in answer


# -- how long, how much


def test_a_query_does_not_run_for_ever(guarded: Doors, new_session: Callable[[str], SparkSession]) -> None:
    session = new_session(local(guarded.spark_connect))
    with pytest.raises(PySparkException, match="SQL_TIMEOUT"):
        session.sql(ENDLESS).collect()
    options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {guarded.token}"}
    with (
        dbapi.connect(local(guarded.flight_sql), db_kwargs=options, autocommit=True) as connection,
        connection.cursor() as cursor,
        pytest.raises(AdbcError, match="SQL_TIMEOUT"),
    ):
        cursor.execute(ENDLESS)
        cursor.fetchall()
    assert not guarded.tables.processes._leases
    assert session.range(2).count() == 2


def test_a_client_that_does_not_read_keeps_no_place(guarded: Doors, new_session: Callable[[str], SparkSession]) -> None:
    session = new_session(local(guarded.spark_connect))
    client = session.client
    request = client._execute_plan_request_with_metadata()
    request.plan.root.CopyFrom(plan.sql("SELECT id, repeat('x', 1000) AS x FROM range(100000000)"))
    slow = client._stub.ExecutePlan(request, metadata=client._builder.metadata())
    next(slow)
    wait_for(lambda: not guarded.tables.processes._leases)
    assert session.range(2).count() == 2
    with pytest.raises(grpc.RpcError, match="SQL_TIMEOUT"):
        for _ in slow:
            pass


def test_a_process_that_died_is_replaced(doors: Doors, spark: SparkSession) -> None:
    assert spark.range(2).count() == 2
    [*idle] = doors.tables.processes._idle
    for process in idle:
        process._process.kill()
        process._process.wait()
    assert idle and spark.range(2).count() == 2


def test_only_so_many_queries_run_at_once(guarded: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = guarded.tables.processes
    with processes.lease({}) as lease:
        monkeypatch.setattr(processes, "_timeout", 0.2)  # else the second waits until the first is ended for its time
        with pytest.raises(LakeletError, match="SQL_BUSY"), processes.lease({}):
            pass
        assert lease.reason is None or lease.reason.condition == "SQL_TIMEOUT"


def test_a_query_takes_only_so_much_memory(doors: Doors, spark: SparkSession) -> None:
    with pytest.raises(PySparkException):
        spark.sql("SELECT collect_list(repeat(cast(id AS string), 1000000)) FROM range(100000)").collect()
    assert spark.range(2).count() == 2


def test_many_sessions_use_bounded_memory(doors: Doors) -> None:
    import uuid

    from lakelet.doors.sessions import MOST_SESSIONS, Sessions

    sessions = Sessions(doors.tables.names, {})
    for _ in range(MOST_SESSIONS + 10):
        sessions.get("x", str(uuid.uuid4()))
    assert len(sessions._sessions) == MOST_SESSIONS
    with pytest.raises(LakeletError, match=r"INVALID_HANDLE\.FORMAT"):
        sessions.get("x", "not a UUID")


def test_queries_at_once_do_not_mix(doors: Doors, new_session: Callable[[str], SparkSession]) -> None:
    sessions = [new_session(doors.spark_connect) for _ in range(4)]
    found: dict[int, list[int]] = {}

    def run(number: int) -> None:
        frame = sessions[number].createDataFrame([(number,)], ["n"])
        frame.createOrReplaceTempView("mine")
        found[number] = [sessions[number].sql("SELECT n FROM mine").collect()[0]["n"] for _ in range(5)]

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert found == {number: [number] * 5 for number in range(4)}
