"""Bad input: what pipeline files declare, and files that do not load."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.behaviour.bad_input import FILE, ORDERS, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "shop")


# -- files


def test_a_syntax_error_shows_the_line_and_the_place_in_it(project: Project) -> None:
    project.pipeline("def totals(:  # here\n    return 1\n")
    error = project.refuses("PIPELINE_FILE_SYNTAX_ERROR", "invalid syntax", "def totals(:", hint="Python 3.")
    assert "\n                    ^\n" in error


@pytest.mark.parametrize(
    ("code", "says", "hint"),
    [
        ("print 'a'  # here\n", "Missing parentheses", "this is Python 2"),
        ("if True:\nx = 1  # here\n", "expected an indented block", "indent the block"),
    ],
)
def test_python_of_another_age(project: Project, code: str, says: str, hint: str) -> None:
    project.pipeline(code)
    project.refuses("PIPELINE_FILE_SYNTAX_ERROR", says, hint=hint)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python knows the newer syntax")
def test_python_that_is_newer_than_the_one_that_runs(project: Project) -> None:
    project.pipeline("type Name = str  # here\n")
    project.refuses("PIPELINE_FILE_SYNTAX_ERROR", hint=f"Python {sys.version_info.major}.{sys.version_info.minor}")


def test_an_exception_while_a_file_loads_keeps_the_users_traceback(project: Project) -> None:
    project.pipeline(
        """
        def region():
            return {}["region"]  # here

        REGION = region()  # caller
        """
    )
    project.refuses(
        "PIPELINE_FILE_FAILED",
        "KeyError: 'region'",
        f"{project.place('# caller')} in <module>: REGION = region()",
        f'{project.place()} in region: return {{}}["region"]',
        hint="correct the line",
    )


def test_an_exception_in_a_query_function_keeps_the_users_traceback(project: Project) -> None:
    project.pipeline(
        """
        def column(options):
            return options["column"]  # here

        @dp.materialized_view
        def totals():
            return spark.read.table("orders").select(column({}))  # caller
        """
    )
    project.refuses(
        "QUERY_FUNCTION_FAILED", "KeyError: 'column'", f"{project.place('# caller')} in totals", hint="correct the line"
    )


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("@dp.tabel", "did you mean `table`?"),
        ("dp.create_streaming_tables('a')", "did you mean `create_streaming_table`?"),
        ("from pyspark.pipelines import tabel", "did you mean `table`?"),
        ("ORDERS = 1; ORDRES", "did you mean `ORDERS`?"),
        ("F.coalesc('a')", "did you mean `coalesce`?"),
        ("import pandass_not_there", "install `pandass_not_there`"),
        ("spark.conf.get('region')", "add the key to `configuration`"),
    ],
)
def test_a_misspelled_name_in_a_file(project: Project, line: str, hint: str) -> None:
    project.pipeline(f"{line}  # here\ndef f():\n    pass\n" if line.startswith("@") else f"{line}  # here\n")
    project.refuses("PIPELINE_FILE_FAILED", hint=hint)


def test_a_file_that_another_one_imports_fails_once(project: Project) -> None:
    project.write("transformations/a_first.py", "from broken import x\n")
    project.write("transformations/broken.py", "x = 1\ny = 1 / 0\n")
    error = project.refuses(
        "PIPELINE_FILE_FAILED", "ZeroDivisionError", place="transformations/broken.py:2", hint="correct"
    )
    assert "transformations/a_first.py:1 in <module>" in error


def test_a_notebook_that_runs_itself(project: Project) -> None:
    project.write(FILE, "# Databricks notebook source\n# MAGIC %run ./shop\n")
    project.refuses(
        "NOTEBOOK_CYCLE", "transformations/shop.py → transformations/shop.py", place=f"{FILE}:2", hint="remove"
    )


def test_a_notebook_that_runs_one_that_is_not_there(project: Project) -> None:
    project.write(FILE, "# Databricks notebook source\n# MAGIC %run ./nope\n")
    project.refuses("NOTEBOOK_NOT_FOUND", place=f"{FILE}:2", hint="correct the path")


# -- decorators and their arguments


@pytest.mark.parametrize(
    ("call", "condition", "says", "hint"),
    [
        ("@dp.table(commment='x')", "UNKNOWN_PARAMETER", "no parameter `commment`", "did you mean `comment`?"),
        ("@dp.table(colour='x')", "UNKNOWN_PARAMETER", "its parameters are `name`, `comment`", "remove `colour`"),
        ("@dp.table('totals')", "DECORATOR_ARGUMENT_NOT_CALLABLE", "not str", '@table(name="totals")'),
        ("@dp.table(name=1)", "NOT_EXPECTED_TYPE", "`name` must be str, got int 1", "of type str"),
        ("@dp.table(name=' ')", "INVALID_PARAMETER_VALUE", "`name` is empty", "give `name` a value"),
        ("@dp.table(partition_cols='a')", "NOT_EXPECTED_TYPE", "list[str]", 'partition_cols=["a"]'),
        ("@dp.table(name='a.b.c.d')", "INVALID_IDENTIFIER", "has 4 parts", "drop a part"),
        ("@dp.table(name='a..b')", "INVALID_IDENTIFIER", "`a..b`", "schema.name"),
        ("@dp.table(partition_cols=['a'], cluster_by=['a'])", "SPECIFY_CLUSTER_BY_WITH_PARTITIONED_BY_IS_NOT_ALLOWED",
         "", "keep `cluster_by`"),
        ("@dp.materialized_view(refresh_policy='ful')", "INVALID_PARAMETER_VALUE", "`auto`", "did you mean `full`?"),
        ("@dp.table(row_filter='f')", "UNSUPPORTED_FEATURE", "`row_filter`", "filter the rows"),
        ("@dp.table(replace_using=['a'])", "UNSUPPORTED_FEATURE", "`replace_using`", "create_auto_cdc_flow"),
        ("@dp.table(format='parquet')", "UNSUPPORTED_FEATURE", "`parquet`", "it is Delta"),
        ("@dp.append_flow", "ARGUMENT_REQUIRED", "`target`", '@append_flow(target="...")'),
        ("@dp.update_flow", "ARGUMENT_REQUIRED", "`target`", '@update_flow(target="...")'),
        ("@dp.update_flow(target='nowhere')", "PIPELINE_FLOW_TARGET_NOT_FOUND", "`nowhere`", "declare it"),
        ("@dp.on_event_hook(max_allowable_consecutive_failures='x')", "INVALID_PARAMETER_VALUE", "'x'", "whole number"),
    ],
)  # fmt: skip
def test_a_wrong_decorator(project: Project, call: str, condition: str, says: str, hint: str) -> None:
    project.pipeline(f"{call}  # here\ndef totals():\n    return spark.readStream.table('orders')\n")
    project.refuses(condition, says, hint=hint)


def test_a_wrong_expectation_decorator(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        @dp.expect_or_drop("positive")  # here
        def totals():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("ARGUMENT_REQUIRED", "`expect_or_drop` needs the argument `inv`", hint="add `inv=...`")


def test_two_expectations_of_one_name(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        @dp.expect("positive", "amount > 0")
        @dp.expect("positive", "amount > 1")  # here
        def totals():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("DUPLICATE_EXPECTATION", "`positive`", hint="rename")


def test_expectations_on_a_function_that_declares_nothing(project: Project) -> None:
    project.pipeline("@dp.expect('positive', 'amount > 0')  # here\ndef totals():\n    return None\n")
    project.refuses("EXPECTATION_WITHOUT_DATASET", "`totals`", "`positive`", hint="`@table`")


def test_a_query_function_with_an_argument(project: Project) -> None:
    project.pipeline("@dp.table  # here\ndef totals(region):\n    return None\n")
    project.refuses("QUERY_FUNCTION_NEEDS_ARGUMENT", "`region`", hint="def totals(region=region):")


@pytest.mark.parametrize(
    ("arguments", "condition", "says", "hint"),
    [
        ("keys=[], sequence_by='amount'", "AUTOCDC_EMPTY_KEYS", "", "at least one"),
        ("keys=['a', 'a'], sequence_by='amount'", "AUTOCDC_DUPLICATE_KEY", "`a`", "once"),
        ("keys='order_id', sequence_by='amount'", "NOT_EXPECTED_TYPE", "`keys`", "keys=[...]"),
        ("keys=['t.order_id'], sequence_by='amount'", "AUTOCDC_MULTIPART_COLUMN_IDENTIFIER", "2 parts", "`order_id`"),
        ("keys=[F.lit(1)], sequence_by='amount'", "AUTOCDC_NON_COLUMN_IDENTIFIER", "", "name the column"),
        ("keys=['order_id']", "ARGUMENT_REQUIRED", "`sequence_by`", "sequence_by"),
        ("keys=['order_id'], sequence_by='amount', stored_as_scd_type=3", "INVALID_PARAMETER_VALUE", "3", "=2"),
        ("keys=['order_id'], sequence_by='amount', column_list=['a'], except_column_list=['b']", "CANNOT_SET_TOGETHER",
         "`column_list` and `except_column_list`", "remove `except_column_list`"),
        ("keys=['order_id'], sequence_by='amount', track_history_column_list=['a']",
         "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2", "", "stored_as_scd_type=2"),
        ("keys=['order_id'], sequence_by='amount', stored_as_scd_type=2, apply_as_truncates='a'",
         "AUTOCDC_TRUNCATE_REQUIRES_SCD1", "", "remove `apply_as_truncates`"),
        ("keys=['order_id'], sequence_by='amount', where=7", "NOT_EXPECTED_TYPE", "`where`", "`where`"),
        ("keys=['order_id'], sequence_by='amount', stored_as_scd_type='bitemporal'", "UNSUPPORTED_FEATURE", "",
         "type 2"),
    ],
)  # fmt: skip
def test_a_wrong_auto_cdc_flow(project: Project, arguments: str, condition: str, says: str, hint: str) -> None:
    project.pipeline(
        f"""
        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="orders", {arguments})  # here
        """
    )
    project.refuses(condition, says, hint=hint)


# -- names and flows


def test_two_datasets_of_one_name(project: Project) -> None:
    project.pipeline(ORDERS.replace("@dp.table", "@dp.table  # here"))
    first = f"{FILE}:5"
    project.refuses("PIPELINE_DUPLICATE_IDENTIFIERS.OUTPUT", "`orders` is declared twice", first, hint="append_flow")


def test_names_differ_by_more_than_case(project: Project) -> None:
    project.pipeline("@dp.table  # here\ndef ORDERS():\n    return spark.readStream.table('orders')\n")
    project.refuses("PIPELINE_DUPLICATE_IDENTIFIERS.OUTPUT", "declared twice", hint="rename")


def test_two_flows_of_one_name(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("totals")

        @dp.append_flow(target="totals", name="load")
        def first():
            return spark.readStream.table("orders")

        @dp.append_flow(target="totals", name="load")  # here
        def second():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("PIPELINE_DUPLICATE_IDENTIFIERS.FLOW", "`load` is declared twice", hint="name=")


def test_a_flow_into_a_table_that_is_not_declared(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("totals")

        @dp.append_flow(target="total")  # here
        def load():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("PIPELINE_FLOW_TARGET_NOT_FOUND", "`load` writes to `total`", hint="did you mean `totals`?")


def test_a_table_without_a_flow(project: Project) -> None:
    project.pipeline("dp.create_streaming_table('totals')  # here\n")
    project.refuses("PIPELINE_DATASET_WITHOUT_FLOW", "`totals`", hint='@dp.append_flow(target="totals")')


def test_an_append_flow_into_a_materialized_view(project: Project) -> None:
    project.pipeline(
        """
        @dp.materialized_view  # here
        def totals():
            return spark.read.table("orders")

        @dp.append_flow(target="totals")
        def more():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("MULTIPLE_QUERIES_FOR_TABLE", "2 queries", hint="only streaming tables take several flows")


def test_an_append_flow_into_an_auto_cdc_target(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="orders", keys=["order_id"], sequence_by="amount")

        @dp.append_flow(target="customers")  # here
        def more():
            return spark.readStream.table("orders")
        """
    )
    project.refuses("AUTOCDC_TARGET_HAS_OTHER_FLOWS", "`more`", hint="alone")


def test_auto_cdc_flows_of_one_target_that_differ(project: Project) -> None:
    project.pipeline(
        """
        dp.create_streaming_table("customers")
        dp.create_auto_cdc_flow(target="customers", source="orders", keys=["order_id"], sequence_by="amount", name="a")
        dp.create_auto_cdc_flow(  # here
            target="customers", source="orders", keys=["customer"], sequence_by="amount", name="b"
        )
        """
    )
    project.refuses("AUTOCDC_FLOWS_DIFFER", "differ in `keys`", hint="the same keys")


# -- several at once


def test_everything_that_is_wrong_is_reported_at_once_and_dependants_are_folded(project: Project) -> None:
    project.pipeline(
        """
        @dp.table
        def a():
            return spark.readStream.table("ordres")

        @dp.materialized_view
        def reads_a():
            return spark.read.table("a")

        @dp.materialized_view
        def asks_a_for_its_columns():
            df = spark.read.table("a")
            return df.select(df.columns)

        @dp.materialized_view
        def b():
            spark.read.table("orders")

        @dp.materialized_view
        def c():
            return spark.read.table("orders").select("amout")

        dp.create_streaming_table("d")
        """
    )
    outcome = project.run()
    assert outcome.exit_code == 2
    assert sorted(outcome.errors) == [
        "PIPELINE_DATASET_WITHOUT_FLOW",
        "QUERY_FUNCTION_RETURNED_NO_DATAFRAME",
        "TABLE_OR_VIEW_NOT_FOUND",
        "UNRESOLVED_COLUMN",
    ], outcome.stderr
    assert outcome.stderr.count("error[") == 4, outcome.stderr
    assert project.tables() == {}


def test_a_broken_file_does_not_hide_the_errors_of_the_others(project: Project) -> None:
    project.pipeline("@dp.table(commment='x')\ndef totals():\n    return spark.readStream.table('orders')\n")
    project.write("transformations/other.py", "x = (\n")
    project.write("transformations/third.sql", "CREATE MATERIALIZED VIEW t AS SELEC 1;\n")
    outcome = project.run()
    assert outcome.exit_code == 2
    assert set(outcome.errors) == {"UNKNOWN_PARAMETER", "PIPELINE_FILE_SYNTAX_ERROR", "PARSE_SYNTAX_ERROR"}, (
        outcome.stderr
    )


def test_a_dry_run_finds_the_same_and_writes_nothing_at_all(project: Project) -> None:
    project.pipeline("@dp.materialized_view  # here\ndef totals():\n    return None\n")
    hint = "is a `return` missing?"
    project.refuses("QUERY_FUNCTION_RETURNED_NO_DATAFRAME", hint=hint, arguments=("dry-run",))
    assert not (project.root / "store").exists()
