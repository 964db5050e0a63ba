"""Incremental refreshes of materialized views: what they follow, what they give up on, and that no crash shows."""

from __future__ import annotations

import decimal
import io
import json
import tempfile
from datetime import UTC, date, datetime
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.techniques import techniques

from lakelet import faults
from lakelet.pipeline import Pipeline
from lakelet.storage import clustered
from lakelet.testing import crash_at

LANDING = "/Volumes/main/raw/landing/sales"
READ = f'spark.read.format("delta").load("{LANDING}")'


def sales(*rows: tuple[Any, ...]) -> pa.Table:
    shops, amounts, customers = zip(*rows, strict=True) if rows else ((), (), ())
    return pa.table(
        {
            "shop": pa.array(shops, pa.string()),
            "amount": pa.array(amounts, pa.int64()),
            "customer": pa.array(customers, pa.string()),
        }
    )


BY_SHOP = 'sales.groupBy("shop").agg'

FIRST = sales(("N", 1, "a"), ("S", 2, "b"), (None, 3, "a"), ("N", 4, None))
MORE = sales(("N", 10, "a"), ("W", 20, "c"), (None, 30, "z"), ("N", 40, "d"))


def view(query: str, *, decorator: str = "@dp.materialized_view") -> str:
    return f"{decorator}\ndef v():\n    sales = {READ}\n    return {query}\n"


def expected(project: Any, query: str) -> list[dict[str, Any]]:
    """Return what the query gives as a whole, by a view that has never been refreshed before."""
    source = view(query).replace("def v()", "def whole()")
    project.write(source, file="whole.py")
    project.ok()
    rows = project.rows("whole")
    (project.root / "pipeline" / "whole.py").unlink()
    return rows


GROUPED = {
    "sum": 'sales.groupBy("shop").agg(F.sum("amount").alias("x"))',
    "several": 'sales.groupBy("shop").agg(F.sum("amount").alias("x"), F.count("*").alias("n"), F.avg("amount").alias("a"), '
    'F.min("customer").alias("lo"), F.max("amount").alias("hi"), F.count("customer").alias("c"))',
    "distinct": f'{BY_SHOP}(F.countDistinct("customer").alias("c"), F.countDistinct("shop", "customer").alias("d"))',
    "expression around": 'sales.groupBy("shop").agg((F.sum("amount") * 2 + F.count("*")).cast("string").alias("x"))',
    "expression text": 'sales.groupBy("shop").agg(F.expr("sum(amount) FILTER (WHERE amount > 2)").alias("x"))',
    "text": f'{BY_SHOP}(F.expr("sum(amount + 1) / count(1)").alias("x"), F.expr("count(DISTINCT customer)").alias("d"))',
    "unnamed": 'sales.groupBy("shop").sum("amount")',
    "count": 'sales.groupBy("shop").count()',
    "key expression": 'sales.groupBy(F.upper("shop").alias("s"), (F.col("amount") % 2).alias("odd"))'
    '.agg(F.sum("amount").alias("x"))',
    "having": 'sales.groupBy("shop").agg(F.sum("amount").alias("x")).filter("x < 50")',
    "keys dropped": 'sales.groupBy("shop").agg(F.sum("amount").alias("x")).select("x")',
    "units shared": 'sales.groupBy("shop", "amount").agg(F.count("*").alias("n")).select(F.length("shop").alias("l"), "n")',
    "below": 'sales.filter("amount > 1").withColumn("y", F.col("amount") * 2).groupBy("shop").agg(F.sum("y").alias("y"))',
    "union": 'sales.select("shop", "amount").union(sales.select(F.lit("all"), "amount")).groupBy("shop")'
    '.agg(F.sum("amount").alias("x"))',
    "global": 'sales.agg(F.sum("amount").alias("x"), F.countDistinct("customer").alias("c"), F.stddev("amount").alias("s"))',
    "select": 'sales.select(F.max("amount").alias("x"))',
    "moments": 'sales.groupBy("shop").agg(F.round(F.stddev("amount"), 6).alias("s"), F.round(F.var_pop("amount"), 6).alias("v"))',
    "averages of decimals": f'{BY_SHOP}(F.avg(F.col("amount").cast("decimal(9,2)")).alias("a"), '
    'F.round(F.avg(F.expr("CAST(amount AS DECIMAL(30, 4)) / 7")), 3).alias("r"), '
    'F.expr("CAST(avg(CAST(amount AS DECIMAL(5, 0)) + 0.25) AS DOUBLE)").alias("t"), F.sum("amount").alias("s"))',
    "logical": f'{BY_SHOP}(F.bool_and(F.col("amount") > 1).alias("a"), F.bool_or(F.col("amount") > 30).alias("o"))',
    "condition": f'{BY_SHOP}(F.count_if(F.col("amount") > 2).alias("n"), F.sum(F.when(F.col("amount") > 2, 1)).alias("w"))',
    "self join": 'sales.alias("l").join(sales.alias("r"), "shop").groupBy("shop").agg(F.count("*").alias("n"))',
}


@pytest.mark.feature("Incremental refresh of views")
@pytest.mark.parametrize("query", GROUPED.values(), ids=GROUPED.keys())
def test_groups_follow_appended_rows(project: Any, query: str) -> None:
    if query == GROUPED["unnamed"] and project.engine.capabilities.cluster_writes:
        pytest.skip("Delta Lake's own writer takes no column called `sum(amount)`")
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    technique = project.techniques()["v"]
    is_anew = "FILTER" in query
    assert technique[0] == ("COMPLETE_RECOMPUTE" if is_anew else "GROUP_AGGREGATE"), project.events
    assert project.rows("v") == expected(project, query)


@pytest.mark.feature("Incremental refresh of views")
@pytest.mark.parametrize(
    "query",
    [
        'sales.filter("amount > 2").select("shop", (F.col("amount") * 2).alias("x"))',
        'sales.union(sales).withColumnRenamed("amount", "x")',
        'sales.join(spark.createDataFrame([("N", "north")], "shop STRING, name STRING"), "shop", "left")',
        'sales.alias("l").join(sales.alias("r"), F.expr("l.shop = r.shop")).select("l.amount", "r.customer")',
    ],
    ids=["filter", "union", "join", "self join"],
)
def test_rows_follow_appended_rows(project: Any, query: str) -> None:
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("APPEND_ONLY", [])
    assert project.rows("v") == expected(project, query)


@pytest.mark.feature("Incremental refresh of views")
def test_an_append_that_was_cut_off_is_not_followed_by_another_where_it_may_still_run(project: Any) -> None:
    """A cluster goes on with a job whose client has died; a swap takes its place, whichever of them commits first."""
    query = 'sales.filter("amount > 2")'
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    with crash_at("view.intent_written"):
        project.run()
    project.ok()
    in_cluster = ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "CHANGE_SET_MISSING"])
    expected_plan = in_cluster if project.engine.capabilities.cluster_writes else ("APPEND_ONLY", [])
    assert project.techniques()["v"] == expected_plan
    assert project.rows("v") == expected(project, query)
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("APPEND_ONLY", [])


@pytest.mark.feature("Incremental refresh of views")
def test_new_rows_may_all_be_the_same(project: Any) -> None:
    """Of a file in which each column has one value, an engine may compute with constants."""
    query = 'sales.groupBy("shop", "amount").agg(F.countDistinct("customer").alias("c"), F.count("*").alias("n"))'
    project.write(view(query)).land("sales", sales(*[("N", 1, "a")] * 3))
    project.ok()
    project.land("sales", sales(*[("N", 1, "b")] * 40))
    project.ok()
    if not project.engine.capabilities.cluster_writes:
        assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert project.rows("v") == [{"shop": "N", "amount": 1, "c": 2, "n": 43}]


@pytest.mark.feature("Surrogate keys by hash")
def test_a_hash_of_values_that_are_all_the_same(project: Any) -> None:
    project.write(
        """
        LANDING = spark.read.format("delta").load("/Volumes/main/raw/landing/sales")

        @dp.table
        def tree():
            rows = spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")
            return rows.withColumn("h", F.xxhash64("shop", "amount"))

        @dp.materialized_view
        def text():
            return LANDING.selectExpr("xxhash64(shop, amount) AS h", "coalesce(xxhash64(customer), 0) AS c")

        @dp.materialized_view
        def query():
            return spark.sql("SELECT xxhash64(shop, amount) AS h FROM tree")

        @dp.materialized_view
        def groups():
            nested = spark.read.table("tree").select(F.struct("shop", "amount").alias("s"), F.array("shop").alias("a"))
            return nested.groupBy(F.xxhash64("s").alias("h"), F.xxhash64("a").alias("i")).agg(F.countDistinct("s").alias("n"))
        """
    )
    one, more = sales(("N", 1, "a")), sales(*[("N", 1, "a")] * 40_000)
    project.land("sales", one)
    project.ok()
    [known] = project.rows("text", "h", "c")
    project.land("sales", more)
    project.ok()
    assert set(project.rows("tree", "h")) == {known[0]}
    assert set(project.rows("text", "h", "c")) == {known}
    assert set(project.rows("query", "h")) == {known[0]}
    assert project.rows("groups", "n") == [1]


@pytest.mark.parametrize("change_feed", [False, True], ids=["files swapped", "merged"])
def test_only_groups_that_changed_are_written(project: Any, monkeypatch: pytest.MonkeyPatch, change_feed: bool) -> None:
    """Of 1,600 groups in files of a few, three get a row."""
    monkeypatch.setattr(clustered, "LEAF_ROWS", 16)
    properties = ', table_properties={"delta.enableChangeDataFeed": "true"}' if change_feed else ""
    query = 'sales.groupBy("shop").agg(F.sum("amount").alias("x"), F.countDistinct("customer").alias("c"))'
    project.write(view(query, decorator=f'@dp.materialized_view(name="v"{properties})'))
    project.land("sales", sales(*[(f"shop {n:05}", n, "a") for n in range(1_600)]))
    project.ok()
    project.land("sales", sales(("shop 00500", 0, "a")))  # a whole view is one file, which comes apart now
    project.ok()
    before = set(DeltaTable(str(project.folder("v"))).file_uris())
    changed = ("shop 00003", "shop 00800", "shop 01599")
    project.land("sales", sales(*[(shop, 1, "b") for shop in changed]))
    project.ok()
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    [progress] = [event.details["metrics"] for event in project.events if "metrics" in event.details]
    assert progress["num_output_rows"] == 3
    after = set(DeltaTable(str(project.folder("v"))).file_uris())
    if not change_feed:
        kept = before & after
        assert len(before) >= 50
        assert len(before) - len(kept) <= 3
        assert len(after) - len(kept) <= 3
    rows = {row["shop"]: (row["x"], row["c"]) for row in project.rows("v")}
    assert rows == {f"shop {n:05}": (n, 1) for n in range(1_600)} | {shop: (int(shop[-5:]) + 1, 2) for shop in changed}


class Crash(BaseException):
    pass


@pytest.mark.parametrize("query", [GROUPED["sum"], GROUPED["distinct"], GROUPED["keys dropped"], 'sales.filter("amount > 2")'],
                         ids=["groups", "distinct", "whole", "rows"])  # fmt: skip
@pytest.mark.parametrize(
    "point", ["view.planned", "view.intent_written", "view.state_committed", "view.swapped", "view.noted"]
)
def test_a_refresh_that_dies_loses_and_doubles_nothing(project: Any, point: str, query: str) -> None:
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    reached = []

    def hook(name: str) -> None:
        if name == point:
            reached.append(name)
            raise Crash(name)

    with faults.installed(hook):
        if "groupBy" in query or point != "view.state_committed":
            with pytest.raises(Crash):
                project.run()
    project.land("sales", sales(("N", 100, "q"), ("X", 1, "a")))
    project.ok()
    project.land("sales", sales(("N", 1000, "q")))
    project.ok()
    assert project.techniques()["v"][0] == ("GROUP_AGGREGATE" if "groupBy" in query else "APPEND_ONLY")
    assert project.rows("v") == expected(project, query)


def test_sums_of_decimals_are_exact(project: Any) -> None:
    def prices(*texts: str) -> pa.Table:
        values = [decimal.Decimal(text) for text in texts]
        return pa.table({"k": ["a"] * len(texts), "price": pa.array(values, pa.decimal128(10, 2))})

    project.write(view('sales.groupBy("k").agg(F.sum("price").alias("total"))')).land("sales", prices("0.10", "0.20"))
    project.ok()
    for _ in range(3):
        project.land("sales", prices("12345678.90", "-0.05"))
        project.ok()
        assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "total") == [decimal.Decimal("37037036.85")]


@pytest.mark.feature("Incremental refresh of views")
def test_a_sum_that_is_too_large_ends_the_refresh_and_not_the_next(project: Any) -> None:
    def prices(text: str) -> pa.Table:
        return pa.table({"k": ["a"], "price": pa.array([decimal.Decimal(text)], pa.decimal128(38, 30))})

    project.write(view('sales.groupBy("k").agg(F.sum("price").alias("total"))')).land("sales", prices("9" * 8))
    project.ok()
    project.land("sales", prices("9" * 8))
    [error] = project.run().errors
    assert error.condition in ("ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE")
    project.land("sales", prices("-" + "9" * 8))
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "total") == [decimal.Decimal("9" * 8)]


def test_sums_of_doubles_lose_nothing_to_rounding_between_refreshes(project: Any) -> None:
    def numbers(value: float) -> pa.Table:
        return pa.table({"k": ["a"], "x": [value]})

    project.write(view('sales.groupBy("k").agg(F.sum("x").alias("x"))')).land("sales", numbers(1e16))
    project.ok()
    for value in (1.0, 1.0, 1.0, -1e16):
        project.land("sales", numbers(value))
        project.ok()
    assert project.rows("v", "x") == [3.0]


def test_deleted_rows_make_it_be_computed_anew_and_the_next_append_is_followed_again(project: Any) -> None:
    project.write(view(GROUPED["sum"])).land("sales", FIRST)
    project.ok()
    DeltaTable(str(project.root / "data" / LANDING.lstrip("/"))).delete("amount = 1")
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED"])
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "CHANGE_SET_MISSING"])
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v") == expected(project, GROUPED["sum"])


def test_a_table_that_is_made_anew_is_read_anew(project: Any) -> None:
    import shutil

    project.write(view(GROUPED["sum"])).land("sales", FIRST)
    project.ok()
    shutil.rmtree(project.root / "data" / LANDING.lstrip("/"))
    for _ in range(3):
        project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED"])
    assert project.rows("v") == expected(project, GROUPED["sum"])


@pytest.mark.parametrize(
    ("query", "issue"),
    [
        ('sales.groupBy("shop").agg(F.collect_list("amount").alias("x"))', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.groupBy("shop").agg(F.sum_distinct("amount").alias("x"))', "PLAN_NOT_INCREMENTALIZABLE"),
        (f'{BY_SHOP}(F.first("amount", ignorenulls=True).alias("x")).select(F.col("x") * 0)', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.orderBy("amount").limit(3)', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.select("shop").distinct()', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.groupBy("shop").agg(F.sum("amount").alias("x")).agg(F.max("x"))', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.rollup("shop").agg(F.sum("amount").alias("x"))', "PLAN_NOT_INCREMENTALIZABLE"),
        ('sales.withColumn("n", F.expr("row_number() OVER (PARTITION BY shop ORDER BY amount)"))', "PLAN_NOT_INCREMENTALIZABLE"),
    ],
    ids=["collect_list", "sum distinct", "first", "limit", "distinct", "twice", "rollup", "window"],
)  # fmt: skip
def test_what_cannot_follow_is_computed_anew(project: Any, query: str, issue: str) -> None:
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", issue])
    assert project.rows("v") == expected(project, query)


def test_rows_that_no_rule_drops_any_more_come_back(project: Any) -> None:
    rule = '@dp.materialized_view\n@dp.expect_or_drop("even", "x % 2 = 0")'
    project.write(view(GROUPED["sum"], decorator=rule)).land("sales", sales(("N", 1, "a"), ("S", 2, "b")))
    project.ok()
    assert project.rows("v", "shop") == ["S"]
    project.land("sales", sales(("N", 1, "a"), ("S", 1, "b")))
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "shop", "x") == [("N", 2)]


def test_a_violated_fail_rule_leaves_the_view_and_what_it_remembers(project: Any) -> None:
    rule = '@dp.materialized_view\n@dp.expect_or_fail("small", "x < 100")'
    project.write(view(GROUPED["sum"], decorator=rule)).land("sales", FIRST)
    project.ok()
    project.land("sales", sales(("N", 1000, "a")))
    assert project.run().exit_code == 1
    project.land("sales", sales(("N", -990, "a")))
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "shop", "x") == [("N", 15), ("S", 2), (None, 3)]


def test_explain_says_what_the_next_update_does(project: Any) -> None:
    project.write(view(GROUPED["having"])).land("sales", FIRST)
    first = project.pipeline().explain("v")
    assert (first.technique, first.possible, first.unit) == ("COMPLETE_RECOMPUTE", "GROUP_AGGREGATE", ("shop",))
    project.ok()
    assert project.pipeline().explain("v").technique == "NO_OP"
    project.land("sales", MORE)
    explained = project.pipeline().explain("v")
    assert (explained.technique, [issue.type for issue in explained.issues]) == (
        "GROUP_AGGREGATE",
        ["DATA_HAS_CHANGED"],
    )
    project.ok()
    [planned] = [event for event in project.events if event.event_type == "planning_information"]
    assert planned.details["technique_information"] == explained.to_dict()["technique_information"]
    assert "rewrites rows by shop" in explained.render()


def test_only_views_are_explained(project: Any) -> None:
    from lakelet.errors import GraphError

    source = f'@dp.table\ndef t():\n    return spark.readStream.format("delta").load("{LANDING}")\n'
    project.write(source).land("sales", FIRST)
    with pytest.raises(GraphError) as error:
        project.pipeline().explain("t")
    assert error.value.condition == "NOT_A_MATERIALIZED_VIEW"


@pytest.mark.parametrize("policy", ["incremental", "incremental_strict"])
def test_a_policy_refuses_a_query_that_cannot_follow(project: Any, policy: str) -> None:
    query = 'sales.groupBy("shop").agg(F.collect_list("amount").alias("x"))'
    project.write(view(query, decorator=f'@dp.materialized_view(refresh_policy="{policy}")')).land("sales", FIRST)
    [error] = project.run().errors
    assert error.condition == "MATERIALIZED_VIEW_NOT_INCREMENTALIZABLE"
    assert "collect_list" in (error.cause or "")
    assert project.pipeline().explain("v").problem is not None


def test_policies_differ_in_what_a_deleted_row_means(project: Any) -> None:
    both = "".join(
        view(GROUPED["sum"], decorator=f'@dp.materialized_view(name="{policy}", refresh_policy="{policy}")')
        for policy in ("incremental", "incremental_strict", "full")
    )
    project.write(both).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert {name: technique for name, (technique, _) in project.techniques().items()} == {
        "incremental": "GROUP_AGGREGATE",
        "incremental_strict": "GROUP_AGGREGATE",
        "full": "COMPLETE_RECOMPUTE",
    }
    DeltaTable(str(project.root / "data" / LANDING.lstrip("/"))).delete("amount = 1")
    result = project.run()
    assert project.status(result) == {"incremental": "COMPLETED", "incremental_strict": "FAILED", "full": "COMPLETED"}
    assert result.errors[0].condition == "MATERIALIZED_VIEW_NOT_INCREMENTALIZABLE"


SQL = {
    "sum": "SELECT shop, sum(amount) AS x FROM sales GROUP BY shop",
    "unnamed": "SELECT shop, sum(amount), count(*) FROM sales GROUP BY shop",
    "around": "SELECT upper(shop) s, round(avg(amount) * 2, 1) AS x FROM sales WHERE amount > 1 GROUP BY shop",
    "key expression": "SELECT amount % 2 AS odd, count(DISTINCT customer) AS c FROM sales s GROUP BY amount % 2",
    "ordinal": "SELECT length(shop) AS l, max(amount) AS hi FROM sales GROUP BY 1",
    "having": "SELECT shop, min(amount) lo FROM sales GROUP BY shop HAVING sum(amount) < 50 AND count(*) > 0",
    "with": "WITH big AS (SELECT shop, amount FROM sales WHERE amount > 1) SELECT shop, sum(amount) AS x FROM big GROUP BY shop",
    "query": "SELECT t.shop, sum(t.y) AS y FROM (SELECT shop, amount * 2 AS y FROM sales) t GROUP BY t.shop",
    "union": "SELECT k, sum(n) AS n FROM (SELECT shop k, 1 AS n FROM sales UNION ALL SELECT customer, 2 FROM sales) GROUP BY k",
    "join": "SELECT l.shop, count(*) AS n FROM sales l JOIN sales r ON l.shop = r.shop AND l.amount <= r.amount GROUP BY l.shop",
    "window": "SELECT window(timestamp_seconds(amount), '6 seconds') AS w, count(*) AS n FROM sales "
    "GROUP BY window(timestamp_seconds(amount), '6 seconds')",
    "global": "SELECT sum(amount) AS x, CASE WHEN count(*) > 5 THEN 'many' ELSE NULL END AS y FROM sales",
}


@pytest.mark.parametrize("sql", SQL.values(), ids=SQL.keys())
@pytest.mark.parametrize("form", ["python", "file"])
def test_sql_is_followed_too(project: Any, sql: str, form: str) -> None:
    over = sql.replace("FROM sales", f"FROM delta.`{LANDING}`").replace("JOIN sales", f"JOIN delta.`{LANDING}`")
    if form == "file":
        project.write(f"CREATE MATERIALIZED VIEW v AS {over};", file="v.sql")
    else:
        project.write(view(f'spark.sql("""{over}""")'))
    project.land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", []), project.pipeline().explain("v").render()
    assert project.rows("v") == expected(project, f'spark.sql("""{over}""")')


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT shop, sum(amount) AS x FROM sales GROUP BY shop ORDER BY x LIMIT 2",
        "SELECT DISTINCT shop FROM sales",
        "SELECT shop, sum(amount) AS x FROM sales GROUP BY ALL",
        "SELECT shop, sum(amount) OVER (PARTITION BY shop) AS x FROM sales",
        "SELECT shop FROM sales WHERE amount > (SELECT avg(amount) FROM sales)",
        "SELECT shop, sum(amount) AS x FROM sales GROUP BY shop WITH ROLLUP",
        "SELECT upper(shop) AS shop, sum(amount) AS x FROM sales GROUP BY shop",
    ],
)
def test_sql_of_another_shape_is_computed_anew(project: Any, sql: str) -> None:
    over = sql.replace("FROM sales", f"FROM delta.`{LANDING}`")
    project.write(view(f'spark.sql("""{over}""")')).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "PLAN_NOT_INCREMENTALIZABLE"])
    assert project.rows("v") == expected(project, f'spark.sql("""{over}""")')


def test_new_rows_that_a_filter_leaves_out_commit_nothing(project: Any) -> None:
    project.write(view('sales.filter("amount > 5").groupBy("shop").agg(F.sum("amount").alias("x"))')).land(
        "sales", FIRST
    )
    project.ok()
    version = project.version("v")
    project.land("sales", sales(("S", 2, "a")))
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert (project.version("v"), project.rows("v")) == (version, [])
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "shop", "x") == [("N", 50), ("W", 20), (None, 30)]


def test_a_named_version_does_not_follow_its_table(project: Any) -> None:
    query = f'spark.read.format("delta").option("versionAsOf", 0).load("{LANDING}").groupBy("shop").count()'
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("NO_OP", [])
    assert project.rows("v", "count") == [1, 1, 2]


def test_a_small_view_is_computed_anew_and_followed_once_it_has_grown(project: Any) -> None:
    settings = {"lakelet.views.recomputeRows": str(2 * FIRST.num_rows)}
    project.write(view(GROUPED["sum"]))
    chosen = []
    for _ in range(4):
        project.land("sales", FIRST)
        project.ok(configuration=settings)
        chosen.append(project.techniques()["v"])
    assert [technique for technique, _ in chosen] == [*["COMPLETE_RECOMPUTE"] * 3, "GROUP_AGGREGATE"]
    assert chosen[1][1] == ["DATA_HAS_CHANGED", "INCREMENTAL_PLAN_REJECTED_BY_COST_MODEL"]
    assert chosen[2][1] == ["DATA_HAS_CHANGED", "CHANGE_SET_MISSING"], "from here on partial values are kept"
    assert project.rows("v", "shop", "x") == [("N", 20), ("S", 8), (None, 12)]


def test_a_view_is_computed_anew_if_the_files_that_were_added_are_gone(project: Any) -> None:
    project.write(view(GROUPED["sum"])).land("sales", FIRST)
    project.ok()
    project.land("sales", FIRST)
    landing = DeltaTable(str(project.root / "data" / "Volumes" / "main" / "raw" / "landing" / "sales"))
    landing.optimize.compact()
    landing.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_FILE_MISSING"])
    assert project.rows("v", "shop", "x") == [("N", 10), ("S", 4), (None, 6)]


@pytest.mark.parametrize("grouped", [False, True], ids=["rows", "groups"])
def test_a_side_of_a_join_that_did_not_grow_may_be_put_together(project: Any, grouped: bool) -> None:
    """Its files at the version of the last refresh are gone; its rows are the same."""
    names = "spark.read.format('delta').load('/Volumes/main/raw/landing/names')"
    query = f"sales.join({names}, 'shop')"
    query += (
        ".groupBy('shop', 'name').agg(F.sum('amount').alias('x'))" if grouped else ".select('shop', 'name', 'amount')"
    )
    names_of = [pa.table({"shop": [shop], "name": [shop.lower()]}) for shop in ("N", "S", "W")]
    project.write(view(query)).land("sales", FIRST)
    project.land("sales", MORE)
    project.land("names", names_of[0])
    project.ok()
    landing = DeltaTable(str(project.root / "data" / "Volumes" / "main" / "raw" / "landing" / "sales"))
    landing.optimize.compact()
    landing.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    project.ok()
    for rows in names_of[1:]:
        project.land("names", rows)
        project.ok()
        assert project.techniques()["v"][0] == ("GROUP_AGGREGATE" if grouped else "APPEND_ONLY")
        assert project.rows("v") == expected(project, query)


TOO_MUCH = ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "INCREMENTAL_PLAN_REJECTED_BY_COST_MODEL"])


def test_distinct_values_of_too_many_rows_are_not_taken_up(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lakelet.execution.refresh_plan.MOST_ROWS_TAKEN_UP", FIRST.num_rows - 1)
    project.write(view(GROUPED["distinct"]))
    for _ in range(2):
        project.land("sales", FIRST)
        project.ok()
    assert project.techniques()["v"] == TOO_MUCH
    assert project.rows("v") == expected(project, GROUPED["distinct"])


def test_so_many_new_rows_are_not_followed_that_their_distinct_values_would_fill_memory(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakelet.execution.refresh_plan.MOST_ROWS_ADDED", FIRST.num_rows - 1)
    project.write(view(GROUPED["distinct"]))
    for _ in range(2):
        project.land("sales", FIRST)
        project.ok()
    assert project.techniques()["v"] == TOO_MUCH
    monkeypatch.setattr("lakelet.execution.refresh_plan.MOST_ROWS_ADDED", FIRST.num_rows)
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"  # what was computed anew took up its values
    assert project.rows("v") == expected(project, GROUPED["distinct"])


def test_a_full_disk_of_temporary_files_is_named(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("lakelet.execution.distinct_values._spooled", lambda _: Full())
    project.write(view(GROUPED["distinct"])).land("sales", FIRST)
    result = project.run()
    (error,) = result.errors
    assert error.condition == "DISK_FULL"
    assert tempfile.gettempdir() in error.message
    monkeypatch.undo()
    project.ok()
    assert project.rows("v") == expected(project, GROUPED["distinct"])


@pytest.mark.parametrize("remembered", [0, 1 << 20])
@pytest.mark.parametrize(
    "query", ["several", "distinct", "having", "below", "global", "moments", "logical", "units shared"]
)
def test_distinct_values_are_taken_up_in_buckets_and_looked_up_in_parts(
    project: Any, query: str, remembered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakelet.execution.distinct_values.BUCKET_ROWS", 2)
    monkeypatch.setattr("lakelet.execution.distinct_values.BLOCK_ROWS", 3)
    monkeypatch.setattr("lakelet.execution.distinct_values.SPOOLED_BYTES", 24)
    monkeypatch.setattr("lakelet.execution.distinct_values.LOOKED_UP_AT_ONCE", 2)
    monkeypatch.setattr("lakelet.execution.distinct_values.REMEMBERED_BYTES", remembered)
    for rows in (FIRST, MORE, FIRST):
        project.land("sales", rows)
    project.write(view(GROUPED[query]))
    project.ok()
    assert project.rows("v") == expected(project, GROUPED[query])
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert project.rows("v") == expected(project, GROUPED[query])


def test_any_engine_goes_on_with_what_is_kept(project: Any) -> None:
    project.write(view(GROUPED["sum"])).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    with patch.object(project.engine, "version", "Sail 0.0.1"):
        project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v") == expected(project, GROUPED["sum"])


@pytest.mark.parametrize(
    "query",
    [
        f"{BY_SHOP}(F.countDistinct(F.expr('CAST(amount AS DECIMAL(19, 0))')).alias('c'))",
        "sales.groupBy(F.expr('CAST(amount AS DECIMAL(19, 0))').alias('k')).count()",
    ],
    ids=["value", "key"],
)
def test_hashes_of_long_decimals_are_of_one_engine(project: Any, query: str) -> None:
    """Spark hashes the bytes of their digits, Sail does not."""
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    with patch.object(project.engine, "version", "Sail 0.0.1"):
        project.ok()
        assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["CONFIGURATION_CHANGED"])
        project.land("sales", FIRST)
        project.ok()
        assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    assert project.rows("v") == expected(project, query)


def test_an_engine_that_gives_a_key_another_type_does_not_go_on(project: Any) -> None:
    """Sail's `datediff` is a BIGINT and Spark's an INT, whose hashes differ."""
    project.write(view("sales.groupBy(F.expr('CAST(amount AS BIGINT)').alias('k')).count()")).land("sales", FIRST)
    project.ok()
    note = project.root / "data/_checkpoints/spark_catalog/default/v/view.json"
    record = json.loads(note.read_text())
    assert "__lakelet_k0:bigint" in record["kept"]
    note.write_text(json.dumps(record | {"kept": record["kept"].replace("__lakelet_k0:bigint", "__lakelet_k0:int")}))
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["CONFIGURATION_CHANGED"])


def test_every_nan_is_one_value(project: Any) -> None:
    roots = "F.expr('sqrt(CASE WHEN amount > 9 THEN -1.0D ELSE amount END)')"
    floats = "F.expr('CAST(amount AS FLOAT)')"
    project.write(view(f"sales.agg(F.countDistinct({roots}).alias('n'), F.countDistinct({floats}).alias('f'))"))
    project.land("sales", pa.concat_tables([FIRST, MORE]))
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert project.rows("v", "n", "f") == [(5, 8)]


@pytest.mark.parametrize("value", ["array(amount, NULL)", "struct(amount, customer)", "named_struct('a', customer)"])
def test_distinct_values_with_parts_are_not_followed(project: Any, value: str) -> None:
    """A hash skips NULL inside of a value: `[1, NULL]` and `[1]` would be one."""
    query = f'{BY_SHOP}(F.expr("count(DISTINCT {value})").alias("n"))'
    project.write(view(query)).land("sales", FIRST)
    project.ok()
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"] == ("COMPLETE_RECOMPUTE", ["DATA_HAS_CHANGED", "PLAN_NOT_INCREMENTALIZABLE"])
    assert project.rows("v") == expected(project, query)


def test_declared_columns_may_be_spelled_in_another_way(project: Any) -> None:
    declared = 'schema="SHOP STRING, X BIGINT"'
    project.write(view(GROUPED["sum"], decorator=f"@dp.materialized_view({declared})")).land("sales", FIRST)
    project.ok()
    for _ in range(2):
        project.land("sales", MORE)
        project.ok()
        assert project.techniques()["v"] == ("GROUP_AGGREGATE", [])
    assert set(project.rows("v", "SHOP", "X")) == {(None, 63), ("N", 105), ("S", 2), ("W", 40)}


def test_another_time_zone_computes_anew(project: Any) -> None:
    """Days begin at other instants."""
    project.write(
        """
        @dp.materialized_view
        def v():
            rows = spark.read.format("delta").load("/Volumes/main/raw/landing/visits")
            return rows.groupBy(F.to_date("at").alias("day")).count()
        """
    )
    instants = [datetime(2024, 5, 1, hour, tzinfo=UTC) for hour in (1, 12, 23)]
    found = {}
    for zone in ("UTC", "Asia/Tokyo"):
        project.land("visits", pa.table({"at": pa.array(instants, pa.timestamp("us", "UTC"))}))
        with Pipeline(project.root, configuration={"spark.sql.session.timeZone": zone}) as pipeline:
            events: list[Any] = []
            assert pipeline.run(subscribers=[events.append]).exit_code == 0
            found[zone] = techniques(events)["v"], pipeline.query("SELECT day, count FROM v ORDER BY day").to_pylist()
    first, second = date(2024, 5, 1), date(2024, 5, 2)
    assert found["UTC"][1] == [{"day": first, "count": 3}]
    assert found["Asia/Tokyo"] == (
        ("COMPLETE_RECOMPUTE", ["TIME_ZONE_CHANGED"]),
        [{"day": first, "count": 4}, {"day": second, "count": 2}],
    )


@pytest.mark.parametrize("lost", ["file", "commit"])
def test_a_join_of_two_tables_that_grew_needs_the_rows_of_before(project: Any, lost: str) -> None:
    """Both sides gained rows, and somebody has removed the old files, or the old part of the log."""
    project.write(
        """
        @dp.materialized_view
        def v():
            left, right = (spark.read.format("delta").load(f"/Volumes/main/raw/landing/{name}") for name in ("sales", "shops"))
            return left.join(right, "shop").select("shop", "amount", "town")
        """
    )
    shops = pa.table({"shop": ["N", "S"], "town": ["north", "south"]})
    project.land("sales", FIRST)
    project.land("shops", shops)
    project.ok()
    project.land("sales", MORE)
    project.land("shops", shops)
    landing = project.root / "data/Volumes/main/raw/landing/sales"
    if lost == "file":
        table = DeltaTable(str(landing))
        table.optimize.compact()
        table.vacuum(0, enforce_retention_duration=False, dry_run=False)
    else:
        DeltaTable(str(landing)).create_checkpoint()
        (landing / "_delta_log" / f"{0:020}.json").unlink()
    project.ok()
    technique, issues = project.techniques()["v"]
    assert (technique, issues[-1]) == (
        "COMPLETE_RECOMPUTE",
        "CHANGE_SET_MISSING" if lost == "commit" else "DATA_FILE_MISSING",
    )
    towns = {"N": "north", "S": "south"}
    sold = [row for part in (FIRST, MORE) for row in part.to_pylist() if row["shop"] in towns]
    assert project.rows("v", "shop", "amount", "town") == sorted(
        [(row["shop"], row["amount"], towns[row["shop"]]) for row in sold for _ in range(2)], key=str
    )


def test_a_version_whose_part_of_the_log_is_gone_is_told_as_such(project: Any) -> None:
    project.land("sales", FIRST)
    table = DeltaTable(str(project.root / "data/Volumes/main/raw/landing/sales"))
    for _ in range(3):
        project.land("sales", MORE)
    table.update_incremental()
    table.create_checkpoint()
    for version in range(3):
        (project.root / "data/Volumes/main/raw/landing/sales/_delta_log" / f"{version:020}.json").unlink()
    project.write(
        """
        @dp.materialized_view
        def v():
            return spark.read.format("delta").option("versionAsOf", 1).load("/Volumes/main/raw/landing/sales")
        """
    )
    result = project.run()
    assert result.exit_code == 2
    assert [error.condition for error in result.errors] == ["DELTA_VERSION_NOT_FOUND"]


@pytest.mark.parametrize("policy", ["auto", "incremental_strict"])
def test_a_changed_comment_is_no_change_of_rows(project: Any, policy: str) -> None:
    source = """
        @dp.table(schema="shop STRING COMMENT 'first', amount BIGINT, customer STRING")
        def sold():
            return spark.readStream.format("delta").load("/Volumes/main/raw/landing/sales")

        @dp.materialized_view(refresh_policy="{policy}", schema="shop STRING COMMENT 'first', n BIGINT")
        def v():
            return spark.read.table("sold").groupBy("shop").agg(F.count("*").alias("n"))
    """.replace("{policy}", policy)
    project.write(source).land("sales", FIRST)
    project.ok()
    project.write(source.replace("COMMENT 'first', amount", "COMMENT 'second', amount"))
    project.land("sales", MORE)
    project.ok()
    assert project.techniques()["v"][0] == "GROUP_AGGREGATE"
    schema = DeltaTable(str(project.folder("sold"))).schema()
    assert schema.fields[0].metadata["comment"] == "second"
