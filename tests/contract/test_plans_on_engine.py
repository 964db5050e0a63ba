"""What users write in query functions, run on the engine: the rows are those that Spark gives."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.connect.functions import builtin as F

from lakelet.engine.base import Engine
from lakelet.errors import LakeletError, Origin
from lakelet.execution.binding import Binder
from lakelet.execution.clock import ClockedEngine
from lakelet.execution.resolution import Resolver
from lakelet.names import NameContext
from lakelet.pipelines.session import relation_of, session_active, user_session
from lakelet.plan.normalize import normalize
from lakelet.storage.base import TableDefinition
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("DataFrames: functions, joins, UDFs, file metadata")

AT = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
TABLES = {
    "a": pa.table({"k": [1, 2, 3], "c": [10, 20, 30], "v": ["a1", "a2", "a3"]}),
    "b": pa.table({"k": [1, 2, 4], "name": ["b1", "b2", "b4"]}),
    "c": pa.table({"c": [10, 20, 40], "city": ["c10", "c20", "c40"]}),
    "d": pa.table({"k": [1, 4, 5], "z": ["d1", "d4", "d5"]}),
}


class Lake:
    """Four stored tables, and a session as query functions have it."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        names = NameContext()
        catalog = Catalog(storage=folder, root=folder)
        store = DeltaRsStore()
        for name, rows in TABLES.items():
            store.create(catalog.location(names.resolve(name)), TableDefinition(schema=rows.schema)).append(rows)
        self.engine = engine
        self.resolver = Resolver(names=names, catalog=catalog, engine=engine, store=store)
        self.spark = user_session(engine.url, engine.session_id, self.resolver, {}, names=names)
        self.a, self.b, self.c, self.d = (self.spark.read.table(name) for name in "abcd")

    def run(self, frame: Any) -> pa.Table:
        columns_of: Callable[[Any], list[str]] = lambda part: list(self.resolver.schema_of(part).names)  # noqa: E731
        relation = normalize(relation_of(frame), columns_of=columns_of)
        binder = Binder(self.resolver)
        versions = dict.fromkeys(binder.inputs(relation, Origin()).locations, 1)
        table = ClockedEngine(self.engine, AT, "UTC").collect(
            binder.bind(relation, Origin(), slices={}, versions=versions).rows
        )
        assert [column.name for column in self.resolver.schema_of(relation_of(frame)).fields] == table.column_names
        return table

    def rows(self, frame: Any) -> list[Any]:
        """Return the rows as tuples, sorted; bare values where there is one column."""
        table = self.run(frame)
        columns = [column.to_pylist() for column in table.columns]
        return sorted(columns[0] if len(columns) == 1 else zip(*columns, strict=True), key=str)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory, engine: Engine) -> Lake:
    return Lake(tmp_path_factory.mktemp("lake"), engine)


# -- keys of USING joins, by frame --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("inner", [(1, 1, 1), (2, 2, 2)]),
        ("left", [(1, 1, 1), (2, 2, 2), (3, None, 3)]),
        ("right", [(1, 1, 1), (2, 2, 2), (None, 4, 4)]),
        ("full", [(1, 1, 1), (2, 2, 2), (3, None, 3), (None, 4, 4)]),
    ],
)
def test_each_side_of_a_using_join_keeps_its_own_key(lake: Lake, how: str, rows: list[Any]) -> None:
    assert lake.rows(lake.a.join(lake.b, "k", how).select(lake.a.k, lake.b.k, "k")) == rows


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("inner", [(1, 1, 10, 10, 10), (2, 2, 20, 20, 20)]),
        ("left", [(1, 1, 10, 10, 10), (2, 2, 20, 20, 20), (3, None, 30, None, 30)]),
        ("right", [(1, 1, 10, 10, 10), (2, 2, 20, 20, 20), (None, None, None, 40, 40)]),
        (
            "full",
            [
                (1, 1, 10, 10, 10),
                (2, 2, 20, 20, 20),
                (3, None, 30, None, 30),
                (None, 4, None, None, None),
                (None, None, None, 40, 40),
            ],
        ),
    ],
)
def test_the_keys_of_two_using_joins_are_found_by_frame(lake: Lake, how: str, rows: list[Any]) -> None:
    """ENGINE_FACTS 1.4b: the first join's key through its frame is missing above the second join."""
    joined = lake.a.join(lake.b, "k", how).join(lake.c, "c", how)
    selected = joined.select(lake.a.k, lake.b.k, lake.a.c, lake.c.c, "c")
    assert lake.rows(selected) == rows
    assert lake.run(selected).column_names == ["k", "k", "c", "c", "c"]


@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        ("inner", "inner", [(1, 1, 1, 1)]),
        ("left", "left", [(1, 1, 1, 1), (2, 2, None, 2), (3, None, None, 3)]),
        ("right", "inner", [(1, 1, 1, 1), (None, 4, 4, 4)]),
        ("right", "right", [(1, 1, 1, 1), (None, 4, 4, 4), (None, None, 5, 5)]),
        ("full", "full", [(1, 1, 1, 1), (2, 2, None, 2), (3, None, None, 3), (None, 4, 4, 4), (None, None, 5, 5)]),
    ],
)
def test_one_key_in_two_using_joins_has_each_frames_value(lake: Lake, first: str, second: str, rows: list[Any]) -> None:
    joined = lake.a.join(lake.b, "k", first).join(lake.d, "k", second)
    assert lake.rows(joined.select(lake.a.k, lake.b.k, lake.d.k, "k")) == rows


def test_three_using_joins_as_the_flagship_has_them(lake: Lake) -> None:
    joined = lake.a.join(lake.b, "k").join(lake.c, "c").join(lake.d, "k")
    columns = (lake.a.k, lake.a.c, lake.a.v, lake.b.name, lake.c.city, lake.d.z)
    assert lake.rows(joined.select(*columns)) == [(1, 10, "a1", "b1", "c10", "d1")]
    grouped = joined.groupBy(lake.a.k, lake.c.city).agg(F.count("*").alias("n"), F.max(lake.a.c).alias("c"))
    assert lake.rows(grouped) == [(1, "c10", 1, 10)]


def test_keys_by_frame_in_every_place_of_a_query(lake: Lake) -> None:
    joined = lake.a.join(lake.b, "k", "left").join(lake.c, "c", "left")
    assert lake.rows(joined.filter(lake.b.k.isNull()).select("v")) == ["a3"]
    assert lake.rows(joined.withColumn("x", lake.b.k + 1).select("x")) == [2, 3, None]
    assert lake.rows(joined.orderBy(lake.a.k).select(lake.a.k)) == [1, 2, 3]
    assert lake.rows(joined.select("*", lake.b.k.alias("bk"))) == [
        (10, 1, "a1", "b1", "c10", 1),
        (20, 2, "a2", "b2", "c20", 2),
        (30, 3, "a3", None, None, None),
    ]


def test_a_key_by_frame_in_the_condition_of_the_next_join(lake: Lake) -> None:
    one = lake.a.join(lake.b, "k").join(lake.d, lake.a.k == lake.d.k, "left")
    assert lake.rows(one.select(lake.a.k, lake.d.z)) == [(1, "d1"), (2, None)]
    two = lake.a.join(lake.b, "k").join(lake.c, "c").join(lake.d, lake.a.k == lake.d.k, "left")
    assert lake.rows(two.select(lake.a.k, lake.d.z)) == [(1, "d1"), (2, None)]


def test_hidden_columns_never_show(lake: Lake) -> None:
    joined = lake.a.join(lake.b, "k", "left").join(lake.c, "c", "left")
    assert lake.run(joined.filter(lake.b.k.isNull())).column_names == ["c", "k", "v", "name", "city"]
    assert lake.rows(joined.select(lake.b.k).union(lake.d.select("k"))) == [1, 1, 2, 4, 5, None]


# -- keys and stars by alias --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "rows"),
    [("inner", [(1, 1), (2, 2)]), ("left", [(1, 1), (2, 2), (3, None)]), ("right", [(1, 1), (2, 2), (None, 4)])],
)
def test_each_side_of_a_using_join_keeps_its_own_key_by_alias(lake: Lake, how: str, rows: list[Any]) -> None:
    assert lake.rows(lake.a.alias("x").join(lake.b.alias("y"), "k", how).select("x.k", "y.k")) == rows
    assert lake.rows(lake.a.join(lake.b, "k", how).select("a.k", "b.k")) == rows


def test_keys_by_alias_above_two_using_joins(lake: Lake) -> None:
    joined = lake.a.alias("x").join(lake.b.alias("y"), "k").join(lake.c.alias("w"), "c")
    expected = [(1, 1, "b1", "c10", 10), (2, 2, "b2", "c20", 20)]
    assert lake.rows(joined.select("x.k", "y.k", "y.name", "w.city", F.col("x.c"))) == expected


def test_a_star_of_a_frame_or_an_alias_has_its_keys(lake: Lake) -> None:
    joined = lake.a.alias("x").join(lake.b.alias("y"), "k").join(lake.c.alias("w"), "c")
    expected = [(1, 10, "a1", "c10"), (2, 20, "a2", "c20")]
    assert lake.rows(joined.select("x.*", "w.city")) == expected
    assert lake.rows(lake.a.join(lake.b, "k").join(lake.c, "c").select(lake.a["*"], lake.c.city)) == expected
    assert lake.rows(lake.a.join(lake.b, lake.a.k == lake.b.k).select(lake.b["*"], "v")) == [
        (1, "b1", "a1"),
        (2, "b2", "a2"),
    ]


def test_self_joins(lake: Lake) -> None:
    again = lake.spark.read.table("a")
    pairs = [(2, 1, "a2", "a1"), (3, 2, "a3", "a2")]
    assert lake.rows(lake.a.join(again, lake.a.k == again.k + 1).select(lake.a.k, again.k, lake.a.v, again.v)) == pairs
    left, right = lake.a.alias("l"), lake.a.alias("r")
    joined = left.join(right, F.col("l.k") == F.col("r.k") + 1)
    assert lake.rows(joined.select("l.k", "r.k", "l.v", "r.v")) == pairs


# -- file metadata ------------------------------------------------------------------------------------------------


def test_file_metadata_goes_through_filters_stars_aliases_and_joins(lake: Lake) -> None:
    name = F.col("_metadata.file_name").endswith(".parquet")
    assert lake.rows(lake.a.filter("k > 1").select("k", name.alias("f"))) == [(2, True), (3, True)]
    starred = lake.a.select("*", "_metadata.file_name").filter("k > 2").withColumn("f", F.col("file_name").isNotNull())
    assert lake.run(starred).column_names == ["k", "c", "v", "file_name", "f"]
    assert lake.rows(lake.a.alias("x").select("x.k", F.col("x._metadata.file_name").isNotNull())) == [
        (1, True),
        (2, True),
        (3, True),
    ]
    assert lake.rows(lake.a.withColumn("f", name).join(lake.b.withColumn("g", name), "k")) == [
        (1, 10, "a1", True, "b1", True),
        (2, 20, "a2", True, "b2", True),
    ]
    assert lake.rows(lake.a.groupBy("_metadata.file_name").count().select("count")) == [3]
    assert lake.rows(lake.spark.sql("SELECT k, _metadata.file_size > 0 AS f FROM a WHERE k > 2")) == [(3, True)]


def test_file_metadata_is_not_among_the_columns(lake: Lake) -> None:
    assert lake.run(lake.a.filter(F.col("_metadata.file_size") > 0)).column_names == ["k", "c", "v"]
    assert lake.run(lake.a.filter(F.input_file_name() != "").union(lake.a)).column_names == ["k", "c", "v"]


def test_input_file_name_is_the_path(lake: Lake) -> None:
    assert lake.rows(lake.a.select(F.input_file_name().startswith("file:///")).distinct()) == [True]
    assert lake.rows(lake.a.selectExpr("input_file_name() LIKE 'file:%.parquet' AS f").distinct()) == [True]
    assert lake.rows(lake.a.select(F.regexp_extract(F.input_file_name(), r"part-(\d+)", 1).alias("n")).distinct()) == [
        "00000"
    ]


def test_a_selected_metadata_column_is_a_column_like_any_other(lake: Lake) -> None:
    kept = lake.a.select("k", "_metadata")
    assert lake.run(kept).column_names == ["k", "_metadata"]
    assert lake.rows(kept.filter("_metadata.file_size > 0").select("k", F.col("_metadata.file_name").isNotNull())) == [
        (1, True),
        (2, True),
        (3, True),
    ]


# -- clock --------------------------------------------------------------------------------------------------------


def test_the_clock_stands_still_in_a_batch_however_it_is_asked(lake: Lake) -> None:
    frame = lake.a.limit(1).select(
        F.current_timestamp(),
        F.now(),
        F.localtimestamp(),
        F.current_date(),
        F.curdate().alias("curdate"),  # Spark names these two after what it makes of them
        F.unix_timestamp().alias("seconds"),
        F.date_trunc("day", F.current_timestamp()).alias("day"),
        F.expr("current_timestamp() + INTERVAL 1 DAY").alias("text"),
        F.expr("current_date").alias("bare"),
    )
    table = lake.run(frame)
    assert table.column_names[:6] == [
        "current_timestamp()", "now()", "localtimestamp()", "current_date()", "curdate", "seconds"
    ]  # fmt: skip
    local, day = AT.replace(tzinfo=None), date(2024, 1, 2)
    midnight, tomorrow = datetime(2024, 1, 2, tzinfo=UTC), AT.replace(day=3)
    assert lake.rows(frame) == [(AT, AT, local, day, day, int(AT.timestamp()), midnight, tomorrow, day)]
    assert lake.rows(lake.spark.sql("SELECT now() AS n, current_date() AS d, k FROM a WHERE k = 1")) == [(AT, day, 1)]


def test_the_clock_of_another_zone_has_its_own_day(lake: Lake) -> None:
    relation = normalize(relation_of(lake.a.limit(1).select(F.current_date(), F.localtimestamp(), F.now())))
    binder = Binder(lake.resolver)
    versions = dict.fromkeys(binder.inputs(relation, Origin()).locations, 1)
    row = (
        ClockedEngine(lake.engine, AT, "America/New_York")
        .collect(binder.bind(relation, Origin(), slices={}, versions=versions).rows)
        .to_pylist()[0]
    )
    assert list(row.values()) == [date(2024, 1, 1), datetime(2024, 1, 1, 22, 4, 5, 678901), AT]


# -- windows, functions, SQL --------------------------------------------------------------------------------------


def test_time_windows_are_structs_with_start_and_end(lake: Lake) -> None:
    at = lake.a.withColumn("at", F.timestamp_seconds(F.col("c") * 60))
    counted = at.withWatermark("at", "1 hour").groupBy(F.window("at", "15 minutes")).agg(F.count("*").alias("n"))
    assert lake.rows(counted.select(F.col("window.start").cast("string"), F.col("window.end").cast("string"), "n")) == [
        ("1970-01-01 00:00:00", "1970-01-01 00:15:00", 1),
        ("1970-01-01 00:15:00", "1970-01-01 00:30:00", 1),
        ("1970-01-01 00:30:00", "1970-01-01 00:45:00", 1),
    ]


def test_user_functions(lake: Lake) -> None:
    def shout(values):  # type: ignore[no-untyped-def]
        return values.str.upper() + "!"

    with session_active(lake.spark):
        twice, shout = F.udf(lambda value: value * 2, "bigint"), F.pandas_udf(shout, "string")
    assert lake.rows(lake.a.select(twice("k"), shout("v"))) == [(2, "A1!"), (4, "A2!"), (6, "A3!")]


def test_an_error_in_a_user_function_is_the_querys(lake: Lake) -> None:
    with session_active(lake.spark):
        broken = F.udf(lambda value: 1 // (value - 2), "bigint")
    with pytest.raises(LakeletError) as raised:
        lake.rows(lake.a.select(broken("k")))
    assert "ZeroDivisionError" in raised.value.render()


def test_sql_over_frames_and_tables(lake: Lake) -> None:
    text = "SELECT v, name FROM {frame} JOIN b USING (k) WHERE k < 2"
    assert lake.rows(lake.spark.sql(text, frame=lake.a)) == [("a1", "b1")]
    if (
        not lake.engine.capabilities.cluster_writes
    ):  # Spark 4.2 with Delta Lake's parser: UNBOUND_SQL_PARAMETER, also without us
        named = lake.spark.sql(text.replace("2", ":most"), args={"most": 2}, frame=lake.a)
        assert lake.rows(named) == [("a1", "b1")]
    assert lake.rows(lake.spark.sql("SELECT count(*) AS n FROM a GROUP BY ALL")) == [3]


def test_scalar_and_exists_subqueries(lake: Lake) -> None:
    assert lake.rows(lake.a.filter(F.col("k") == lake.b.agg(F.min("k")).scalar()).select("v")) == ["a1"]
    matching = lake.b.filter(F.col("b.k") == F.col("a.k").outer())
    assert lake.rows(lake.a.filter(matching.exists()).select("v")) == ["a1", "a2"]


# -- through a whole pipeline -------------------------------------------------------------------------------------

VIEWS = """
    @dp.temporary_view
    def numbers():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/numbers").withColumn("odd", F.col("id") % 2)

    @dp.materialized_view
    def pairs():
        left, right = spark.read.table("numbers"), spark.read.table("numbers")
        joined = left.join(right, left.odd == right.odd).filter(left.id < right.id)
        return joined.select(left.id.alias("a"), right.id.alias("b"))

    @dp.materialized_view
    def pairs_by_sql():
        return spark.sql("SELECT l.id AS a, r.id AS b FROM numbers l JOIN numbers AS r ON l.odd = r.odd WHERE l.id < r.id")

    @dp.materialized_view
    def all_twice():
        numbers = spark.read.table("numbers")
        return numbers.select("id").union(spark.read.table("numbers").select(F.col("id") * 10))
"""


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., Any]:
    """Write pipeline files, and return the pipeline over a landing table `numbers` with 1, 2 and 3."""
    from deltalake import write_deltalake

    def write(engine: Engine, **sources: str) -> Any:
        from lakelet.pipeline import Pipeline

        (tmp_path / "spark-pipeline.yml").write_text(
            "name: p\nstorage: data\nlibraries:\n  - glob: {include: code/**}\n"
        )
        (tmp_path / "code").mkdir()
        imports = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"
        for name, text in sources.items():
            (tmp_path / "code" / f"{name}.py").write_text(imports + textwrap.dedent(text))
        landing = tmp_path / "data/Volumes/main/raw/landing"
        landing.mkdir(parents=True)
        write_deltalake(str(landing / "numbers"), pa.table({"id": pa.array([1, 2, 3], pa.int64())}))
        return Pipeline(tmp_path, engine=engine)

    return write


def test_a_view_that_is_read_twice_keeps_its_columns_apart(engine: Engine, files: Callable[..., Any]) -> None:
    pipeline = files(engine, views=VIEWS)
    result = pipeline.run()
    assert result.exit_code == 0, [error.render() for error in result.errors]
    assert pipeline.table("pairs").to_pylist() == [{"a": 1, "b": 3}]
    assert pipeline.table("pairs_by_sql").to_pylist() == [{"a": 1, "b": 3}]
    assert sorted(pipeline.table("all_twice")["id"].to_pylist()) == [1, 2, 3, 10, 20, 30]


def test_functions_of_sibling_modules_travel_into_udfs(engine: Engine, files: Callable[..., Any]) -> None:
    pipeline = files(
        engine,
        rules="FACTOR = 3\nrates = spark.range(3)\n\ndef scaled(value):\n    return value * FACTOR\n",
        tables="""
            from rules import scaled
            import rules

            triple = F.udf(lambda value: scaled(value) + rules.FACTOR, "bigint")

            @dp.table
            def tripled():
                numbers = spark.readStream.format("delta").load("/Volumes/main/raw/landing/numbers")
                return numbers.select("id", triple("id").alias("x"))

            @F.pandas_udf("bigint")
            def plus(values):
                return values + rules.FACTOR

            @dp.materialized_view
            def more():
                return spark.read.table("tripled").select(plus("x").alias("x"))
        """,
    )
    result = pipeline.run()
    assert result.exit_code == 0, [error.render() for error in result.errors]
    assert sorted(pipeline.table("tripled")["x"].to_pylist()) == [6, 9, 12]
    assert sorted(pipeline.table("more")["x"].to_pylist()) == [9, 12, 15]


def test_columns_of_a_dataset_are_known_while_a_query_is_built(engine: Engine, files: Callable[..., Any]) -> None:
    pipeline = files(
        engine,
        tables="""
            @dp.table
            def numbers():
                return spark.readStream.format("delta").load("/Volumes/main/raw/landing/numbers").withColumn("x", F.lit("a"))

            @dp.materialized_view
            def strings():
                frame = spark.read.table("numbers")
                texts = [F.col(name).cast("string") for name in frame.columns]
                return frame.select(*texts, F.lit(frame.schema.simpleString()).alias("s"))
        """,
    )
    assert pipeline.run().exit_code == 0
    assert pipeline.table("strings").slice(0, 1)["s"].to_pylist() == ["struct<id:bigint,x:string>"]
