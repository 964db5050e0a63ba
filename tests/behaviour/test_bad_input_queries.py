"""Bad input: query functions, what they read, and the rules over what they give."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.behaviour.bad_input import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


def batch(project: Project, query: str) -> None:
    project.pipeline(f"@dp.materialized_view\ndef totals():\n    return {query}  # here\n")


def stream(project: Project, query: str) -> None:
    project.pipeline(f"@dp.table\ndef totals():\n    return {query}  # here\n")


# -- what a query function returns and does


@pytest.mark.parametrize(
    ("code", "says", "hint"),
    [
        ("spark.read.table('orders')", "returned nothing", "is a `return` missing?"),
        ("return spark.read.table('orders').amount", "Column", "return the Spark DataFrame itself"),
        ("import pandas; return pandas.DataFrame({'a': [1]})", "pandas", "spark.createDataFrame"),
        ("return [1, 2]", "list", "spark.createDataFrame"),
    ],
)
def test_a_query_function_that_returns_no_dataframe(project: Project, code: str, says: str, hint: str) -> None:
    project.pipeline(f"@dp.materialized_view  # here\ndef totals():\n    {code}\n")
    project.refuses("QUERY_FUNCTION_RETURNED_NO_DATAFRAME", says, hint=hint)


@pytest.mark.parametrize(
    "call", ["collect()", "count()", "toPandas()", "show()", "first()", "take(1)", "isEmpty()", "foreach(print)"]
)
@pytest.mark.filterwarnings("ignore:Cannot infer the eval type:UserWarning")
def test_an_action_inside_a_query_function(project: Project, call: str) -> None:
    project.pipeline(
        f"""
        @dp.materialized_view
        def totals():
            df = spark.read.table("orders")
            df.{call}  # here
            return df
        """
    )
    name = call.partition("(")[0]
    project.refuses("ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION", f"`{name}()`", hint="return the DataFrame")


@pytest.mark.parametrize(
    "write",
    [
        "df.write.saveAsTable('x')",
        "df.write.format('delta').save('x')",
        "df.writeTo('x').append()",
        "spark.readStream.table('orders').writeStream.toTable('x')",
        "spark.readStream.table('orders').writeStream.format('console').start()",
    ],
)
def test_a_write_inside_a_query_function(project: Project, write: str) -> None:
    project.pipeline(
        f"""
        @dp.materialized_view
        def totals():
            df = spark.read.table("orders")
            {write}  # here
            return df
        """
    )
    project.refuses("ATTEMPT_ANALYSIS_IN_PIPELINE_QUERY_FUNCTION", "writes", hint="@dp.table")
    assert not (project.root / "x").exists()


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        ("spark.conf.set('a', 'b')", "`configuration`"),
        ("df.createOrReplaceTempView('v')", "@dp.temporary_view"),
        ("spark.catalog.setCurrentDatabase('x')", "`database`"),
    ],
)
def test_a_change_of_the_session(project: Project, call: str, hint: str) -> None:
    project.pipeline(
        f"""
        @dp.materialized_view
        def totals():
            df = spark.read.table("orders")
            {call}  # here
            return df
        """
    )
    project.refuses("SESSION_MUTATION_IN_DECLARATIVE_PIPELINE", hint=hint)


@pytest.mark.parametrize(
    ("sql", "hint"),
    [("create table x (a int)", "@dp.table"), ("drop table orders", "@dp.table"), ("selct 1", "`SELECT`")],
)
def test_sql_that_is_no_query(project: Project, sql: str, hint: str) -> None:
    batch(project, f"spark.sql('{sql}')")
    project.refuses("UNSUPPORTED_PIPELINE_SPARK_SQL_COMMAND", f"`{sql.split()[0].upper()}`", hint=hint)


# -- names


def test_a_dataset_that_is_not_there_at_the_line_that_reads_it(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view
        def totals():
            return (
                spark.read.format("delta")
                .table("ordres")  # here
                .filter("amount > 1")
            )
        """
    )
    project.refuses("TABLE_OR_VIEW_NOT_FOUND", "`ordres`", hint="did you mean `orders`?")


@pytest.mark.parametrize(
    "query",
    ["spark.sql('select * from ordres')", "dp.read('ordres')", "spark.table('ordres')", "spark.sql('table ordres')"],
)
def test_a_dataset_that_is_not_there_however_it_is_read(project: Project, query: str) -> None:
    batch(project, query)
    project.refuses("TABLE_OR_VIEW_NOT_FOUND", "`ordres`", hint="did you mean `orders`?")


def test_an_external_table_that_is_not_mapped(project: Project) -> None:
    batch(project, "spark.read.table('prod.ref.rates')")
    project.refuses("TABLE_OR_VIEW_NOT_FOUND", "`prod.ref.rates`", hint="lakelet.tables.prod.ref.rates")


def test_a_name_of_four_parts(project: Project) -> None:
    batch(project, "spark.read.table('a.b.c.d')")
    project.refuses("INVALID_IDENTIFIER", "4 parts", hint="drop a part")


def test_a_cycle_is_shown_as_a_path(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view  # here
        def a():
            return spark.read.table("c")

        @dp.materialized_view
        def b():
            return spark.read.table("a")

        @dp.materialized_view
        def c():
            return spark.read.table("b")
        """
    )
    project.refuses("PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED", "a → c → b → a", hint="break the circle")


def test_a_cycle_through_questions_about_columns_is_reported_once(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view
        def a():
            return spark.read.table("b").select(*spark.read.table("b").columns)

        @dp.materialized_view
        def b():
            return spark.read.table("a").select(*spark.read.table("a").columns)
        """
    )
    error = project.refuses("PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED", place=None, hint="break the circle")
    assert " → " in error


@pytest.mark.parametrize(
    "query",
    [
        "spark.read.table('orders').select('order_id', 'amout')",
        "spark.read.table('orders').filter('amout > 1')",
        "spark.read.table('orders').withColumn('tax', F.col('amout') * 2)",
        "spark.read.table('orders').groupBy('customer').agg(F.sum('amout'))",
        "spark.read.table('orders').orderBy('amout')",
        "spark.sql('select amout from orders')",
        "spark.read.table('orders').join(spark.read.table('orders'), 'amout')",
        "spark.sql('select o.amout from orders o')",
    ],
)
def test_a_column_that_is_not_there(project: Project, query: str) -> None:
    batch(project, query)
    project.refuses("UNRESOLVED_COLUMN", "amout", hint="did you mean `amount`?")


def test_a_wrong_column_is_shown_at_its_own_line(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        def totals():
            df = spark.readStream.table("orders").filter("amount > 0")
            df = df.withColumn("tax", F.col("amout") * 0.1)  # here
            return df.withColumn("note", F.lit("x"))
        """
    )
    project.refuses("UNRESOLVED_COLUMN", "`amout`", hint="did you mean `amount`?")


def test_a_wrong_column_without_a_near_one_lists_what_there_is(project: Project) -> None:
    batch(project, "spark.read.table('orders').select('zzz')")
    project.refuses("UNRESOLVED_COLUMN", "`zzz`", hint="the columns there are order_id, amount, customer")


@pytest.mark.parametrize(
    ("query", "condition", "says", "hint"),
    [
        ("spark.sql('select * form orders')", "PARSE_SYNTAX_ERROR", "near `orders`", "look just before"),
        ("spark.read.table('orders').filter('amount >')", "PARSE_SYNTAX_ERROR", "ends too early", "look just before"),
        ("spark.read.table('orders').select(F.expr('fooo(amount)'))", "UNRESOLVED_ROUTINE", "`fooo`", "F.udf"),
        ("spark.read.table('orders').union(spark.read.table('orders').select('amount'))", "NUM_COLUMNS_MISMATCH",
         "the left has 3, the right 1", "unionByName"),
        ("spark.read.table('orders').crossJoin(spark.read.table('orders')).select('amount')", "AMBIGUOUS_REFERENCE",
         "`amount`", "say which one"),
        ("spark.read.table('orders').selectExpr('customer + array(1)')", "QUERY_FAILED", "", "change the part"),
    ],
)  # fmt: skip
def test_a_query_that_does_not_hold(project: Project, query: str, condition: str, says: str, hint: str) -> None:
    batch(project, query)
    project.refuses(condition, says, hint=hint)


def test_a_function_of_a_type_that_is_not_there(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        def totals():
            return spark.readStream.table("orders").select(F.udf(len, "nosuchtype")("customer").alias("n"))  # here
        """
    )
    project.refuses("QUERY_FUNCTION_FAILED", hint="correct the line")


def test_two_columns_of_one_name(project: Project) -> None:
    project.pipeline(
        "@dp.table  # here\ndef t():\n    return spark.readStream.table('orders').select('amount', 'AMOUNT')\n"
    )
    project.refuses("COLUMN_ALREADY_EXISTS", "`AMOUNT` twice", hint="rename")


def test_a_partition_column_that_is_not_there(project: Project) -> None:
    project.pipeline(
        """
        @dp.table(partition_cols=["custmer"])  # here
        def totals():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("PARTITION_COLUMN_NOT_FOUND", "`custmer`", hint="did you mean `customer`?")


# -- streams and batches


@pytest.mark.parametrize(
    ("declaration", "what"),
    [
        ("@dp.materialized_view\ndef kept():\n    return spark.read.table('orders')\n", "a materialized view"),
        (
            "dp.create_streaming_table('kept')\n"
            "dp.create_auto_cdc_flow(target='kept', source='orders', keys=['order_id'], sequence_by='amount')\n",
            "an AUTO CDC target",
        ),
    ],
)
def test_a_stream_of_a_table_whose_rows_change(project: Project, declaration: str, what: str) -> None:
    project.pipeline(declaration + "\n@dp.table\ndef t():\n    return spark.readStream.table('kept')  # here\n")
    project.refuses("STREAMING_READ_OF_CHANGING_TABLE", what, hint='spark.read.table("kept")')


def test_a_stream_in_a_materialized_view(project: Project) -> None:
    project.pipeline("@dp.materialized_view  # here\ndef totals():\n    return spark.readStream.table('orders')\n")
    project.refuses("INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_MATERIALIZED_VIEW", hint="@dp.table")


def test_a_batch_in_an_append_flow(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("totals")

        @dp.append_flow(target="totals")  # here
        def load():
            return spark.read.table("orders")
        """
    )
    project.refuses("INVALID_FLOW_QUERY_TYPE.BATCH_RELATION_FOR_STREAMING_TABLE", hint="spark.readStream")


def test_a_stream_in_a_once_flow(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("totals")

        @dp.append_flow(target="totals", once=True)  # here
        def load():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_ONCE_FLOW", hint="spark.read")


@pytest.mark.parametrize(
    ("view", "read", "condition", "hint"),
    [
        ("read", "readStream", "INCOMPATIBLE_STREAMING_VIEW_READ", 'spark.read.table("v")'),
        ("readStream", "read", "INCOMPATIBLE_BATCH_VIEW_READ", 'spark.readStream.table("v")'),
    ],
)
def test_a_view_read_the_other_way(project: Project, view: str, read: str, condition: str, hint: str) -> None:
    project.pipeline(
        f"""
        @dp.temporary_view
        def v():
            return spark.{view}.table("orders")

        @dp.table
        def totals():
            return spark.{read}.table("v")  # here
        """
    )
    project.refuses(condition, "`v`", hint=hint)


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("orders.cube('customer').count()", "a streaming aggregation by cube"),
        (
            "orders.withWatermark('at', '1 minute').groupBy('customer').count()",
            "a streaming aggregation whose watermark",
        ),
        ("orders.groupBy('customer').count().unionByName(orders, True)", "a streaming aggregation without a watermark"),
        ("orders.dropDuplicates(['order_id']).groupBy('customer').count()", "a second operator with state"),
        ("orders.dropDuplicatesWithinWatermark(['order_id'])", "`dropDuplicatesWithinWatermark` without a watermark"),
        ("orders.select(F.sum('amount'))", "an aggregate function"),
        ("orders.selectExpr('max(amount) as m')", "an aggregate function"),
        ("orders.orderBy('amount')", "sorting"),
        ("orders.limit(2)", "`limit`"),
        ("orders.offset(2)", "`offset`"),
        (
            "orders.withWatermark('at', '1 minute').groupBy(F.session_window('at', '5 minutes')).count()",
            "a streaming aggregation whose watermark",
        ),
        (
            "orders.groupBy('customer').applyInPandas(lambda rows: rows, 'customer string')",
            "`applyInPandas` over groups",
        ),
        (
            "orders.groupBy('customer').applyInPandasWithState("
            "lambda key, rows, state: rows, 'customer string', 'n int', 'append', 'NoTimeout')",
            "arbitrary state over a stream",
        ),
        ("orders.withColumn('n', F.row_number().over(Window.orderBy('amount')))", "a window function"),
        ("orders.withColumn('n', F.expr('row_number() over (order by amount)'))", "a window function"),
        ("orders.join(spark.readStream.table('orders'), 'order_id', 'left')", "a left outer join of two streams"),
        ("orders.join(spark.readStream.table('orders'), 'order_id', 'semi')", "a left semi join of two streams"),
        ("spark.read.table('orders').join(orders, 'order_id', 'left')", "an outer join"),
        ("orders.intersect(spark.read.table('orders'))", "a set operation"),
        (
            "spark.sql('select customer, count(*) n from stream(orders) group by cube (customer)')",
            "a streaming aggregation",
        ),
        ("spark.sql('select distinct customer from stream(orders) limit 1')", "`DISTINCT`"),
        ("spark.sql('select * from stream(orders) order by amount')", "sorting"),
        ("spark.sql('select * from stream(orders) limit 1')", "`LIMIT`"),
        ("spark.sql('select *, rank() over (order by amount) n from stream(orders)')", "a window function"),
        ("spark.sql('select a.* from stream(orders) a, stream(orders) b')", "a join of two streams"),
        ("spark.sql('with s as (select * from stream(orders)) select * from s order by 1')", "sorting"),
        ("spark.sql('select * from stream(orders) union select * from orders')", "a set operation"),
    ],
)
@pytest.mark.filterwarnings("ignore:WARN WindowExpression:UserWarning")
def test_an_operator_that_needs_more_than_one_micro_batch(project: Project, query: str, what: str) -> None:
    project.pipeline(
        f"""
        from pyspark.sql import Window

        @dp.table
        def totals():
            orders = spark.readStream.table("orders")
            return {query}  # here
        """
    )
    project.refuses("UNSUPPORTED_STREAMING_OPERATOR", f"]: {what}", hint="")


@pytest.mark.parametrize(
    "query",
    [
        "orders.join(spark.read.table('names'), 'customer', 'left')",
        "orders.unionByName(orders)",
        "orders.withWatermark('at', '1 minute').filter('amount > 0')",
        "spark.sql('select o.*, n.long from stream(orders) o left join names n using (customer)')",
        "spark.sql('select * from stream(orders) union all select * from stream(orders)')",
        "spark.sql('select *, greatest(amount, 1) g from stream(orders) where 1 < (select min(least) from names)')",
    ],
)
def test_what_works_row_by_row_is_not_refused(project: Project, query: str) -> None:
    project.pipeline(
        f"""
        @dp.materialized_view
        def names():
            return spark.sql("select 'ann' as customer, 'Anna' as long, 2.0D as least")

        @dp.table
        def totals():
            orders = spark.readStream.table("orders").withColumn("at", F.current_timestamp())
            return {query}
        """
    )
    outcome = project.run("dry-run")
    assert outcome.exit_code == 0, outcome.stderr


# -- rules


@pytest.mark.parametrize(
    ("rule", "says", "hint"),
    [
        ("amount > 0 AND", "something is missing", "one SQL condition"),
        ("amount > 0 x", "near `x`", "one SQL condition"),
        ("(amount > 0", "is not closed", "one SQL condition"),
        ("customer = 'a", "is not closed", "one SQL condition"),
        ("amount > 0; drop table orders", "syntax error", "one SQL condition"),
        ("amout > 0", "no column `amout`", "did you mean `amount`?"),
        ("zzz > 0", "no column `zzz`", "order_id, amount, customer"),
        ("fooo(amount) > 0", "no function `fooo`", "check its name"),
        ("amount", "it is double, not boolean", "write a condition"),
        ("*", "not boolean", "write a condition"),
        ("count(*) > 1", "an aggregate function", "compute the value in the query"),
        ("rank() over (order by amount) = 1", "a window function", "compute the value in the query"),
        ("amount > (select 1)", "a sub-query", "compute the value in the query"),
    ],
)
def test_an_expectation_that_cannot_be_evaluated(project: Project, rule: str, says: str, hint: str) -> None:
    project.pipeline(
        f"""
        @dp.table
        @dp.expect_or_drop("good", "amount > 0")
        @dp.expect("usable", {rule!r})  # here
        def totals():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("INVALID_EXPECTATION", "`usable` of `totals`", says, hint=hint)


def test_all_wrong_expectations_of_a_dataset_are_reported(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("totals", expect_all={"a": "amout > 0", "b": "custmer = 'x'", "c": "amount > 0"})

        @dp.append_flow(target="totals")
        def load():
            return spark.readStream.table("orders")
        """
    )
    outcome = project.run()
    assert outcome.exit_code == 2
    assert outcome.stderr.count("error[INVALID_EXPECTATION]") == 2, outcome.stderr


# -- declared schemas


@pytest.mark.parametrize("decorator", ["table", "materialized_view"])
@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (
            "order_id INT, amount DOUBLE, customer INT",
            "`customer` is int in the declared schema and string in the query",
        ),
        ("order_id INT, amount DOUBLE", "`customer` of the query is not in the declared schema"),
    ],
)
def test_a_query_that_does_not_fit_its_declared_schema(
    project: Project, decorator: str, schema: str, says: str
) -> None:
    read = "readStream" if decorator == "table" else "read"
    project.pipeline(
        f"""
        @dp.{decorator}(schema="{schema}")  # here
        def totals():
            return spark.{read}.table("orders")
        """
    )
    project.refuses("USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE", says, hint="cast or select")


def test_a_materialized_view_has_the_types_that_it_declares(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view(schema="order_id BIGINT, amount DOUBLE, customer STRING, more INT")
        def totals():
            return spark.read.table("orders")
        """
    )
    assert project.run().exit_code == 0
    outcome = project.run("query", "select typeof(order_id) a, more from totals limit 1", "--format", "csv")
    assert outcome.stdout.splitlines()[1].replace('"', "") == "bigint,", outcome.stdout


@pytest.mark.parametrize("schema", ["order_id INTT", "order_id", "order_id INT,, x INT"])
def test_a_schema_that_cannot_be_read(project: Project, schema: str) -> None:
    project.pipeline(
        f"""
        @dp.table(schema="{schema}")  # here
        def totals():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("INVALID_SCHEMA", schema, hint="id INT, name STRING")


# -- AUTO CDC over its source


@pytest.mark.parametrize(
    ("arguments", "condition", "says", "hint"),
    [
        ("keys=['orderid'], sequence_by='amount'", "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA", "`orderid`", "`order_id`?"),
        ("keys=['order_id'], sequence_by='amout'", "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA", "`amout`", "`amount`?"),
        ("keys=['order_id'], sequence_by='amount', apply_as_deletes=\"custmer = 'x'\"", "AUTOCDC_INVALID_CONDITION",
         "no column `custmer`", "did you mean `customer`?"),
        ("keys=['order_id'], sequence_by='amount', apply_as_deletes='amount'", "AUTOCDC_INVALID_CONDITION",
         "is double, not boolean", "operation = 'DELETE'"),
        ("keys=['order_id'], sequence_by='amount', except_column_list=['order_id']",
         "AUTOCDC_KEY_NOT_IN_SELECTED_SCHEMA", "`order_id`", "remove it from"),
        ("keys=['order_id'], sequence_by=F.create_map('customer', 'amount')",
         "AUTOCDC_MICROBATCH_VALIDATION.NON_ORDERABLE_SEQUENCE", "map<", "use a number"),
    ],
)  # fmt: skip
def test_an_auto_cdc_flow_that_does_not_fit_its_source(
    project: Project, arguments: str, condition: str, says: str, hint: str
) -> None:
    project.pipeline(
        f"""
        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="orders", {arguments})  # here
        """
    )
    project.refuses(condition, says, hint=hint)


def test_an_auto_cdc_flow_of_a_source_that_is_not_there(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="ordres", keys=["order_id"], sequence_by="amount")  # here
        """
    )
    project.refuses("TABLE_OR_VIEW_NOT_FOUND", "`ordres`", hint="did you mean `orders`?")
