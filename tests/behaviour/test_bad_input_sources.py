"""Bad input: where data comes from, what changes there, and rows that do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from tests.behaviour.bad_input import ROWS, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


def stream(project: Project, read: str) -> None:
    project.pipeline(f"@dp.table\ndef copy():\n    return {read}  # here\n")


def delta(path: str, options: str = "") -> str:
    return f'spark.readStream.format("delta"){options}.load("{path}")'


# -- what is not there


@pytest.mark.parametrize(
    ("path", "says", "hint"),
    [
        ("landing/order", "does not exist", "landing/orders`?"),
        ("nowhere/at/all", "does not exist", "check the path"),
        (
            "/Volumes/shop/landing/stream/orders",
            "store/Volumes/shop/landing/stream/orders` does not exist",
            "check the path",
        ),
        ("/Volumess/a/b/c/x", "`/Volumess/a/b/c/x` does not exist", "did you mean `/Volumes/a/b/c/x`?"),
        ("/volumes/a/b/c/x", "does not exist", "did you mean `/Volumes/a/b/c/x`?"),
        ("Volumes/a/b/c/x", "does not exist", "did you mean `/Volumes/a/b/c/x`?"),
        ("landing/empty", "is empty", "write the first rows"),
        ("landing/files", "has files but no `_delta_log`", "the table's own folder"),
        ("landing", "is a folder of tables: orders", "`landing/orders`"),
        ("landing/files/a.csv", "is a file", "folder"),
    ],
)
@pytest.mark.parametrize("reader", ["readStream", "read"])
def test_a_source_that_is_no_delta_table(project: Project, reader: str, path: str, says: str, hint: str) -> None:
    (project.root / "landing" / "empty").mkdir()
    project.write("landing/files/a.csv", "a,b\n1,2\n")
    stream(project, delta(path).replace("readStream", reader))
    project.refuses("DELTA_TABLE_NOT_FOUND", says, hint=hint)


@pytest.mark.parametrize(
    ("path", "hint"), [("landing/file/a.csv", "landing/files`?"), ("none/*.csv", "check the path")]
)
def test_files_that_are_not_there(project: Project, path: str, hint: str) -> None:
    project.write("landing/files/a.csv", "a,b\n1,2\n")
    stream(project, f'spark.read.option("header", "true").csv("{path}")')
    project.refuses("PATH_NOT_FOUND", path.split("/")[0], hint=hint)


@pytest.mark.parametrize(
    ("read", "condition", "says", "hint"),
    [
        (delta("hdfs://name/x"), "UNSUPPORTED_FILE_SYSTEM", "`hdfs://name/x`", "/Volumes/"),
        (
            'spark.readStream.schema("a INT").json("s3://bucket/x")',
            "UNSUPPORTED_FILE_SYSTEM",
            "s3://bucket/x",
            "Delta table",
        ),
        ('spark.read.csv("abfss://c@a.dfs.core.windows.net/x")', "UNSUPPORTED_FILE_SYSTEM", "abfss", "Delta table"),
        ('spark.readStream.format("kafka").load()', "UNSUPPORTED_SOURCE", "`kafka`", "Delta table first"),
        ('spark.readStream.format("cloudFiles").load("x")', "INVALID_OPTION", "which format", "cloudFiles.format"),
        ('spark.readStream.schema("a INT").json("x")', "PATH_NOT_FOUND", "`x`", "make the folder"),
        ('spark.readStream.json("landing")', "UNABLE_TO_INFER_SCHEMA", "json", ".schema("),
        ('spark.read.format("jdbc").load()', "UNSUPPORTED_SOURCE", "`jdbc`", "Delta table or to files"),
        ('spark.read.format("parqet").load("x")', "UNSUPPORTED_SOURCE", "`parqet`", "did you mean `parquet`?"),
        ('spark.readStream.format("delta").load()', "UNSUPPORTED_SOURCE", "exactly one path", ".load(path)"),
    ],
)
def test_a_source_of_another_kind(project: Project, read: str, condition: str, says: str, hint: str) -> None:
    stream(project, read)
    project.refuses(condition, says, hint=hint)


@pytest.mark.parametrize(
    ("options", "condition", "says", "hint"),
    [
        (
            '.option("maxFilePerTrigger", 1)',
            "UNKNOWN_OPTION",
            "skipChangeCommits",
            "did you mean `maxFilesPerTrigger`?",
        ),
        (
            '.option("readChangeFeed", "true")',
            "DELTA_MISSING_CHANGE_DATA",
            "`landing/orders`",
            "delta.enableChangeDataFeed",
        ),
        (
            '.option("startingVersion", "ten")',
            "INVALID_OPTION",
            "`startingVersion` of `landing/orders` is `ten`",
            "latest",
        ),
        ('.option("maxFilesPerTrigger", "0")', "INVALID_OPTION", "`0`", "positive number"),
        ('.option("maxBytesPerTrigger", "big")', "INVALID_OPTION", "`big`", "64m"),
        ('.option("skipChangeCommits", "yes")', "INVALID_OPTION", "`yes`", '"true"'),
    ],
)
def test_a_wrong_option_of_a_stream(project: Project, options: str, condition: str, says: str, hint: str) -> None:
    stream(project, delta("landing/orders", options))
    project.refuses(condition, says, hint=hint)


def test_a_starting_version_that_is_not_there_yet(project: Project) -> None:
    project.pipeline(
        "@dp.table  # here\ndef copy():\n    return " + delta("landing/orders", '.option("startingVersion", 99)')
    )
    project.fails("DELTA_VERSION_NOT_FOUND", "99", "is 0", hint="a version that exists")


# -- what changes


@pytest.fixture
def running(project: Project) -> Project:
    """A pipeline that has handled three orders."""
    project.pipeline(
        """
        @dp.materialized_view
        def totals():
            return spark.read.table("orders").groupBy("customer").count()

        @dp.table
        def apart():
            return spark.readStream.format("delta").load("landing/apart")
        """
    )
    project.source = project.source.replace("@dp.table\ndef orders", "@dp.table  # here\ndef orders", 1)
    project.write("transformations/shop.py", project.source)
    project.land(ROWS, folder="landing/apart")
    assert project.run().exit_code == 0
    return project


@pytest.mark.parametrize("change", ["delete", "update", "overwrite"])
def test_a_source_commit_that_changes_rows(running: Project, change: str) -> None:
    table = DeltaTable(str(running.root / "landing" / "orders"))
    if change == "delete":
        table.delete("order_id = 1")
    elif change == "update":
        table.update(updates={"amount": "9.0"}, predicate="order_id = 1")
    else:
        running.land(ROWS, mode="overwrite")
    running.land(ROWS, folder="landing/apart")
    running.fails(
        "DELTA_SOURCE_TABLE_IGNORE_CHANGES",
        "version 1 of `landing/orders` updates or deletes rows",
        hint="lakelet run --full-refresh orders",
    )
    assert running.tables() == {"orders": 3, "totals": 3, "apart": 6}, "a table lost rows, or another flow was stopped"


def test_the_way_past_a_source_commit_that_changes_rows(running: Project) -> None:
    DeltaTable(str(running.root / "landing" / "orders")).delete("order_id = 1")
    assert running.run().exit_code == 1
    running.land(ROWS)
    skipping = running.source.replace(
        '.load("landing/orders")', '.option("skipChangeCommits", "true").load("landing/orders")'
    )
    running.write("transformations/shop.py", skipping)
    outcome = running.run()
    assert outcome.exit_code == 0, outcome.stderr
    assert "left out commits [1]" in outcome.stderr
    assert running.tables()["orders"] == 6


def test_a_column_whose_type_changes(running: Project) -> None:
    texts = ROWS.set_column(1, "amount", pa.array(["1", "2", "x"]))
    place = running.root / "landing" / "orders"
    shutil.rmtree(place)
    for _ in range(3):
        write_deltalake(str(place), texts, mode="append")
    running.fails("SOURCE_TABLE_REPLACED", "`landing/orders`", hint="lakelet run --full-refresh orders", alone=False)
    assert running.tables()["orders"] == 3


def test_a_query_whose_column_changes_its_type(running: Project) -> None:
    cast = running.source.replace(
        '.load("landing/orders")', '.load("landing/orders").withColumn("amount", F.lit("much"))'
    )
    running.write("transformations/shop.py", cast)
    running.land(ROWS)
    running.fails(
        "DATASET_SCHEMA_MISMATCH",
        "`amount` is double in the table and string in the query",
        hint="lakelet run --full-refresh orders",
    )
    assert running.tables()["orders"] == 3


def test_a_new_column_is_taken_over(running: Project) -> None:
    more = ROWS.append_column("note", pa.array(["a", "b", "c"]))
    write_deltalake(str(running.root / "landing" / "orders"), more, mode="append", schema_mode="merge")
    assert running.run().exit_code == 0
    outcome = running.run("query", "select count(*) n, count(note) m from orders", "--format", "csv")
    assert outcome.stdout.splitlines()[1] == "6,3"


# -- rows that do not fit


@pytest.mark.parametrize(
    ("query", "condition", "says", "hint"),
    [
        ("selectExpr('cast(customer as int) as c')", "CAST_INVALID_INPUT", "'ann' cannot be cast to INT", "try_cast"),
        ("select(F.col('customer').cast('int'))", "CAST_INVALID_INPUT", "cannot be cast to INT", "try_cast"),
        ("filter('customer > 1')", "CAST_INVALID_INPUT", "'ann'", "try_cast"),
        ("selectExpr('cast(customer as date) as c')", "CAST_INVALID_INPUT", "DATE", "try_cast"),
        ("selectExpr('amount / (order_id - 1) as c')", "DIVIDE_BY_ZERO", "", "try_divide"),
        ("select(F.udf(lambda name: {}[name], 'int')('customer').alias('c'))", "FAILED_EXECUTE_UDF", "KeyError: 'ann'",
         "returning None"),
        ("selectExpr('raise_error(customer) as c')", "QUERY_FAILED", "ann", "change the part"),
    ],
)  # fmt: skip
def test_a_row_that_the_query_cannot_handle(project: Project, query: str, condition: str, says: str, hint: str) -> None:
    project.pipeline(
        f"""
        @dp.table  # here
        def broken():
            return spark.readStream.table("orders").{query}

        @dp.materialized_view
        def on_top():
            return spark.read.table("broken")

        @dp.table
        def sound():
            return spark.readStream.table("orders")
        """
    )
    outcome = project.run()
    assert outcome.exit_code == 1
    project.check(outcome, condition, says, place="# here", hint=hint)
    assert "skipped, since something they read failed: on_top" in outcome.stderr
    assert project.tables() == {"orders": 3, "broken": 0, "sound": 3, "on_top": 0}


def test_a_materialized_view_that_fails_keeps_its_rows(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view  # here
        def numbers():
            return spark.read.table("orders").selectExpr("cast(substr(customer, 2) as int) as n")
        """
    )
    project.write("transformations/shop.py", project.source.replace("substr(customer, 2)", "'1'"))
    assert project.run().exit_code == 0
    project.write("transformations/shop.py", project.source)
    project.fails("CAST_INVALID_INPUT", "'nn'", hint="try_cast")
    assert project.tables() == {"orders": 3, "numbers": 3}


def test_a_violated_fail_rule(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        @dp.expect_or_fail("known", "customer <> 'x1'")  # here
        def strict():
            return spark.readStream.table("orders")
        """
    )
    project.fails("EXPECTATION_VIOLATION.VERBOSITY_ALL", "'known'", "1 row", '"customer": "x1"', hint="loosen the rule")
    assert project.tables() == {"orders": 3, "strict": 0}


@pytest.mark.parametrize(
    ("keys", "sequence", "condition", "says"),
    [
        ("maybe", "amount", "AUTOCDC_MICROBATCH_VALIDATION.NULL_KEY", "NULL in the key `maybe`"),
        ("order_id", "maybe", "AUTOCDC_MICROBATCH_VALIDATION.NULL_SEQUENCE", "NULL as `sequence_by`"),
    ],
)
def test_a_change_row_without_key_or_sequence(
    project: Project, keys: str, sequence: str, condition: str, says: str
) -> None:
    project.pipeline(
        f"""
        @dp.temporary_view
        def changes():
            return spark.readStream.table("orders").withColumn("maybe", F.expr("nullif(order_id, 2)"))

        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="changes", keys=["{keys}"], sequence_by="{sequence}")  # here
        """
    )
    project.fails(condition, says, "'customer': 'bob'", hint="`expect_or_drop` on `changes`")
    assert project.tables() == {"orders": 3, "customers": 0}
