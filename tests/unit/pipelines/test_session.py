import inspect
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakelet.errors import DefinitionError, SourceError
from lakelet.pipelines.modules import pipeline_modules
from lakelet.pipelines.phase import Phase
from lakelet.pipelines.session import relation_of, session_active


@pytest.fixture
def querying(session: Any) -> Iterator[Any]:
    with pipeline_modules(session=session, phase_of_code=Phase.QUERY):
        yield session


@pytest.fixture
def loading(session: Any) -> Iterator[Any]:
    with pipeline_modules(session=session, phase_of_code=Phase.LOAD):
        yield session


def refused(call: Callable[[], object]) -> DefinitionError:
    with pytest.raises(DefinitionError) as caught:
        call()
    return caught.value


def test_reads_build_plans_and_ask_nothing(querying: Any, handler: Any) -> None:
    frames = [
        querying.read.table("rates"),
        querying.table("rates"),
        querying.readStream.table("rates"),
        querying.readStream.format("cloudFiles").option("cloudFiles.format", "json").load("/Volumes/a/b/c"),
        querying.read.format("delta").load("/x"),
        querying.range(5),
        querying.sql("SELECT * FROM rates"),
        querying.createDataFrame([(1, "a")], ["id", "name"]),
    ]
    assert handler.asked == []
    kinds = [relation_of(frame).WhichOneof("rel_type") for frame in frames]
    assert kinds == ["read", "read", "read", "read", "read", "range", "sql", "to_df"]


def test_sql_takes_arguments_and_frames(querying: Any, handler: Any) -> None:
    rates = querying.read.table("rates")
    relation = relation_of(querying.sql("SELECT * FROM {d} WHERE rate > :least", {"least": 1}, d=rates))
    assert relation.WhichOneof("rel_type") == "with_relations"
    assert "least" in relation.with_relations.root.sql.named_arguments
    assert relation_of(querying.sql("SELECT ?", [7])).sql.pos_arguments[0].literal.integer == 7
    assert handler.asked == []


def test_a_command_in_sql_is_refused_with_its_line(querying: Any) -> None:
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    error = refused(lambda: querying.sql("INSERT INTO t SELECT 1"))
    assert error.condition == "UNSUPPORTED_PIPELINE_SPARK_SQL_COMMAND"
    assert "`INSERT`" in error.message
    assert error.origin is not None
    assert (error.origin.file, error.origin.line) == (__file__, line)


def test_schema_and_columns_are_answered_by_the_handler(querying: Any, handler: Any) -> None:
    frame = querying.read.table("rates")
    assert frame.columns == ["currency", "rate", "__END_AT"]
    assert frame.dtypes[1] == ("rate", "double")
    current = querying.read.table("rates")
    assert relation_of(current.filter(current.__getattr__("__END_AT").isNull())).WhichOneof("rel_type") == "filter"
    assert set(handler.asked) == {"schema"}


def test_streaming_is_answered_by_the_handler(querying: Any, handler: Any) -> None:
    assert querying.readStream.table("rates").isStreaming
    assert not querying.read.table("rates").isStreaming
    assert handler.asked == ["is_streaming", "is_streaming"]


@pytest.mark.parametrize(
    ("name", "act"),
    [
        ("collect", lambda frame: frame.collect()),
        ("count", lambda frame: frame.count()),
        ("first", lambda frame: frame.first()),
        ("take", lambda frame: frame.take(1)),
        ("toPandas", lambda frame: frame.toPandas()),
        ("show", lambda frame: frame.show()),
        ("toLocalIterator", lambda frame: list(frame.toLocalIterator())),
        ("isEmpty", lambda frame: frame.isEmpty()),
        ("checkpoint", lambda frame: frame.checkpoint()),
        ("explain", lambda frame: frame.explain()),
    ],
)
def test_an_action_in_a_query_function_is_refused_by_its_name(querying: Any, handler: Any, name: str, act: Any) -> None:
    frame = querying.read.table("rates")
    line = inspect.currentframe().f_lineno + 1  # type: ignore[union-attr]
    error = refused(lambda: act(frame))
    assert error.condition == "ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION"
    assert f"`{name}()`" in error.message
    assert error.hint
    assert error.origin is not None
    assert error.origin.file == __file__
    assert error.origin.line is not None
    assert error.origin.line < line + 1
    assert "read" not in handler.asked


def test_an_action_while_a_file_loads_runs(loading: Any, handler: Any) -> None:
    rates = loading.read.table("rates")
    assert [tuple(row) for row in rates.collect()] == [("CHF", 0.9)]
    assert rates.toPandas()["rate"].tolist() == [0.9]
    assert [tuple(row) for row in rates.toLocalIterator()] == [("CHF", 0.9)]
    assert handler.asked == ["read", "read", "read"]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("save", lambda frame: frame.write.format("delta").save("/x")),
        ("saveAsTable", lambda frame: frame.write.saveAsTable("t")),
        ("insertInto", lambda frame: frame.write.insertInto("t")),
        ("append", lambda frame: frame.writeTo("t").append()),
        ("start", lambda frame: frame.writeStream.start("/x")),
        ("toTable", lambda frame: frame.writeStream.toTable("t")),
    ],
)
def test_a_write_is_refused_always(session: Any, phase: Phase, name: str, write: Any) -> None:
    with pipeline_modules(session=session, phase_of_code=phase):
        error = refused(lambda: write(session.readStream.table("rates")))
    assert error.condition == "ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION"
    assert f"`{name}()` writes" in error.message


@pytest.mark.parametrize(
    "mutate",
    [
        lambda spark: spark.conf.set("a", "b"),
        lambda spark: spark.conf.unset("a"),
        lambda spark: spark.catalog.setCurrentDatabase("x"),
        lambda spark: spark.catalog.setCurrentCatalog("x"),
        lambda spark: spark.catalog.dropTempView("x"),
        lambda spark: spark.catalog.dropGlobalTempView("x"),
        lambda spark: spark.range(1).createTempView("x"),
        lambda spark: spark.range(1).createOrReplaceTempView("x"),
        lambda spark: spark.range(1).createGlobalTempView("x"),
        lambda spark: spark.range(1).createOrReplaceGlobalTempView("x"),
        lambda spark: spark.udf.registerJavaFunction("f", "com.example.F"),
        lambda spark: spark.udf.registerJavaUDAF("f", "com.example.F"),
        lambda spark: spark.stop(),
        lambda spark: spark.addArtifacts("x.py", pyfile=True),
        lambda spark: spark.interruptAll(),
    ],
)
def test_a_change_of_the_session_is_refused(loading: Any, mutate: Any) -> None:
    error = refused(lambda: mutate(loading))
    assert error.condition == "SESSION_MUTATION_IN_DECLARATIVE_PIPELINE"
    assert error.origin is not None
    assert error.origin.file == __file__


def test_a_registered_function_reaches_the_handler(loading: Any, handler: Any) -> None:
    from pyspark.sql.types import LongType

    loading.udf.register("double", lambda x: x * 2, LongType())
    (command,) = handler.commands
    assert command.register_function.function_name == "double"


def test_configuration_comes_from_the_pipeline_then_from_sparks_defaults(querying: Any) -> None:
    assert querying.conf.get("my.key") == "5"
    assert querying.conf.get("other", "default") == "default"
    assert querying.conf.get("other", None) is None
    assert querying.conf.get("spark.sql.session.timeZone") == "UTC"
    assert querying.conf.get("my.key", "default") == "5"
    assert querying.conf.getAll["my.key"] == "5"
    assert querying.conf.isModifiable("my.key") is False


def test_an_unset_key_is_sparks_own_error(querying: Any) -> None:
    from pyspark.errors import PySparkException

    with pytest.raises(PySparkException, match=r"\[SQL_CONF_NOT_FOUND\].*nope") as caught:
        querying.conf.get("nope")
    assert caught.value.getCondition() == "SQL_CONF_NOT_FOUND"


def test_the_session_is_the_active_one_only_meanwhile(session: Any) -> None:
    from pyspark.sql import SparkSession

    before = SparkSession.getActiveSession()
    with session_active(session):
        assert SparkSession.active() is session
        assert SparkSession.getActiveSession() is session
        assert SparkSession.builder.appName("x").config("spark.sql.ansi.enabled", "true").getOrCreate() is session
    assert SparkSession.getActiveSession() is before


def test_the_catalog_gives_sensible_answers(querying: Any) -> None:
    assert querying.catalog.tableExists("rates")
    with pytest.warns(FutureWarning, match="dbName"):
        assert querying.catalog.tableExists("rates", "ref")
    assert not querying.catalog.tableExists("nope")
    assert querying.catalog.currentDatabase() == "shop"
    assert querying.catalog.currentCatalog() == "main"
    assert refused(querying.catalog.listTables).condition == "UNSUPPORTED_FEATURE"


def test_an_error_of_the_handler_reaches_the_user(querying: Any) -> None:
    with pytest.raises(SourceError):
        _ = querying.read.table("nope").columns


def test_caching_and_display_have_no_effect(querying: Any, handler: Any) -> None:
    frame = querying.read.table("rates")
    assert frame.cache() is frame
    assert frame.persist().unpersist() is frame
    assert frame.display() is None
    assert handler.asked == []


def test_a_large_local_table_stays_inside_the_plan(querying: Any, handler: Any) -> None:
    import pandas as pd

    frame = querying.createDataFrame(pd.DataFrame({"x": range(300_000)}))
    relation = relation_of(frame)
    assert "local_relation" in (relation.WhichOneof("rel_type"), relation.to_df.input.WhichOneof("rel_type"))
    assert handler.asked == []


def test_text_schemas_are_parsed_and_functions_seen_by_a_running_engine(handler: Any) -> None:
    server_module = pytest.importorskip("pysail.spark")
    from pyspark.sql import functions as F

    from lakelet.pipelines.session import user_session

    server = server_module.SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    try:
        host, port = server.listening_address
        spark = user_session(f"sc://{host}:{port}", str(uuid.uuid4()), handler, {})
        with pipeline_modules(session=spark, phase_of_code=Phase.QUERY):
            frame = spark.createDataFrame([(1, "a")], "id INT, name STRING")
            double = F.udf(lambda x: x * 2, "bigint")
            frame = frame.withColumn("twice", double("id"))
            assert spark.version
        assert relation_of(frame).WhichOneof("rel_type") == "with_columns"
        assert handler.asked == []
        spark.client.close()
    finally:
        server.stop()
