"""Statements of a `.sql` file in, datasets and flows out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lakelet.errors import DefinitionError, DefinitionErrors
from lakelet.graph.elements import Action, AutoCdcFlow, Dataset, DatasetKind, Definitions, Flow, SqlQuery
from lakelet.names import NameContext
from lakelet.pipelines.registry import Registry
from lakelet.pipelines.sql_file import load_sql_file

MV, ST, VIEW = DatasetKind.MATERIALIZED_VIEW, DatasetKind.STREAMING_TABLE, DatasetKind.TEMPORARY_VIEW


def load(text: str, **settings: Any) -> Definitions:
    registry = Registry(NameContext())
    load_sql_file(text, "sales.sql", registry, **settings)
    return registry.definitions()


def dataset(text: str) -> Dataset:
    (only,) = load(text).datasets
    return only


def query(text: str) -> SqlQuery:
    (flow,) = load(text).flows
    assert isinstance(flow, Flow)
    assert isinstance(flow.query, SqlQuery)
    return flow.query


def auto_cdc(text: str) -> AutoCdcFlow:
    (flow,) = load(text).flows
    assert isinstance(flow, AutoCdcFlow)
    return flow


def refused(text: str) -> DefinitionError:
    with pytest.raises(DefinitionError) as error:
        load(text)
    return error.value


@pytest.mark.parametrize(
    ("statement", "kind", "private"),
    [
        ("CREATE MATERIALIZED VIEW d AS SELECT 1", MV, False),
        ("CREATE OR REFRESH PRIVATE MATERIALIZED VIEW d AS SELECT 1", MV, True),
        ("create or refresh live table d as select 1", MV, False),
        ("CREATE OR REFRESH TEMPORARY LIVE TABLE d AS SELECT 1", MV, True),
        ("CREATE OR REFRESH STREAMING TABLE d AS SELECT * FROM STREAM(s)", ST, False),
        ("CREATE STREAMING TABLE IF NOT EXISTS d", ST, False),
        ("CREATE PRIVATE STREAMING TABLE d", ST, True),
        ("CREATE STREAMING LIVE TABLE d AS SELECT * FROM STREAM(LIVE.s)", ST, False),
        ("CREATE TEMPORARY VIEW d AS SELECT 1", VIEW, False),
        ("CREATE TEMPORARY LIVE VIEW d AS SELECT 1", VIEW, False),
        ("CREATE LIVE VIEW d AS SELECT 1", VIEW, False),
        ("CREATE STREAMING LIVE VIEW d AS SELECT * FROM STREAM(s)", VIEW, False),
    ],
)
def test_each_statement_declares_its_kind_of_dataset(statement: str, kind: DatasetKind, private: bool) -> None:
    declared = dataset(statement)
    assert (declared.name.name, declared.kind, declared.private) == ("d", kind, private)


def test_a_query_becomes_an_implicit_flow_with_the_datasets_name() -> None:
    (flow,) = load("-- daily\nCREATE MATERIALIZED VIEW 03_gold.daily\nAS -- why\n  SELECT 1 -- one\n;").flows
    assert isinstance(flow, Flow)
    assert (flow.name, flow.implicit, str(flow.target)) == (
        "03_gold.daily",
        True,
        "spark_catalog.03_gold.daily",
    )
    assert isinstance(flow.query, SqlQuery)
    assert (flow.query.text, flow.query.origin.line, flow.origin.line) == ("SELECT 1", 4, 2)


def test_semicolons_in_strings_and_comments_do_not_end_a_statement() -> None:
    first = "CREATE MATERIALIZED VIEW a AS SELECT ';', `x;y` -- ;\n/* ; */ FROM t;;\n"
    text = first + "CREATE MATERIALIZED VIEW b AS SELECT 2"
    assert [d.name.name for d in load(text).datasets] == ["a", "b"]


def test_the_clauses_of_a_table_take_effect() -> None:
    declared = dataset(
        "CREATE STREAMING TABLE d (a INT, b STRING) COMMENT 'it''s' PARTITIONED BY (a, `b`)"
        " TBLPROPERTIES ('x.y' = 'z', delta.n = -3, ok = TRUE) LOCATION '/data/d' AS SELECT * FROM STREAM(s)"
    )
    assert (declared.comment, declared.partition_cols, declared.path) == ("it's", ("a", "b"), "/data/d")
    assert declared.table_properties == {"x.y": "z", "delta.n": "-3", "ok": "true"}
    assert declared.schema == "a INT, b STRING"
    assert dataset("CREATE MATERIALIZED VIEW d CLUSTER BY (a, b) AS SELECT 1").cluster_by == ("a", "b")
    assert dataset("CREATE MATERIALIZED VIEW d CLUSTER BY AUTO AS SELECT 1").cluster_by_auto
    policy = dataset("CREATE MATERIALIZED VIEW d REFRESH POLICY INCREMENTAL STRICT AS SELECT 1").refresh_policy
    assert policy == "incremental_strict"


def test_constraints_are_expectations_and_keys_are_informational() -> None:
    declared = dataset(
        """CREATE OR REFRESH STREAMING TABLE d (
             id BIGINT NOT NULL PRIMARY KEY COMMENT 'the id, really',
             m MAP<STRING, STRUCT<a: INT, b: DECIMAL(10, 2)>>,
             day DATE GENERATED ALWAYS AS (to_date(id, 'x')),
             CONSTRAINT pk PRIMARY KEY (id) NOT ENFORCED RELY,
             CONSTRAINT fk FOREIGN KEY (id) REFERENCES other.t (id),
             CONSTRAINT ok EXPECT (id > 0 AND m['a,b'] IS NOT NULL),
             CONSTRAINT `no null` EXPECT (day IS NOT NULL) ON VIOLATION DROP ROW,
             CONSTRAINT must EXPECT (id < 9) ON VIOLATION FAIL UPDATE
           ) AS SELECT * FROM STREAM(s)"""
    )
    assert declared.schema == (
        "id BIGINT NOT NULL COMMENT 'the id, really', m MAP<STRING, STRUCT<a: INT, b: DECIMAL(10, 2)>>,"
        " day DATE GENERATED ALWAYS AS (to_date(id, 'x'))"
    )
    assert [(rule.name, rule.condition, rule.action, rule.origin.line) for rule in declared.expectations] == [
        ("ok", "id > 0 AND m['a,b'] IS NOT NULL", Action.WARN, 7),
        ("no null", "day IS NOT NULL", Action.DROP, 8),
        ("must", "id < 9", Action.FAIL, 9),
    ]


def test_constraints_stand_without_columns() -> None:
    declared = dataset("CREATE TEMPORARY VIEW d (CONSTRAINT a EXPECT (x > 1)) AS SELECT 1 AS x")
    assert (declared.schema, len(declared.expectations)) == (None, 1)


def test_columns_without_types_rename_by_position_and_keep_their_comments() -> None:
    text = "CREATE MATERIALIZED VIEW d (a COMMENT 'first', `b c`) AS SELECT 1, 2"
    assert query(text).text == "SELECT * FROM (SELECT 1, 2\n) AS lk_columns(`a`, `b c`)"
    assert dataset(text).table_properties == {"lakelet.comment.a": "first"}


def test_a_flow_inserts_by_name_into_its_target() -> None:
    (flow,) = load("CREATE FLOW f COMMENT 'c' AS INSERT INTO s.t BY NAME SELECT * FROM STREAM(x)").flows
    assert isinstance(flow, Flow)
    assert (flow.name, str(flow.target), flow.once) == ("f", "spark_catalog.s.t", False)
    assert (flow.implicit, flow.comment) == (False, "c")
    (once,) = load("CREATE FLOW f AS INSERT INTO ONCE t BY NAME SELECT * FROM x").flows
    assert once.once


def test_all_clauses_of_auto_cdc_are_read() -> None:
    flow = auto_cdc(
        """CREATE FLOW f AS AUTO CDC INTO target FROM STREAM(cdc.users) KEYS (id, `k 2`)
           IGNORE NULL UPDATES ON * EXCEPT (note)
           APPLY AS DELETE WHEN operation = 'DELETE' APPLY AS TRUNCATE WHEN operation = 'TRUNCATE'
           SEQUENCE BY struct(ts, id) COLUMNS * EXCEPT (operation, ts) STORED AS SCD TYPE 1"""
    )
    assert (flow.name, flow.target.name, flow.source, flow.keys) == (
        "f",
        "target",
        "cdc.users",
        ("id", "k 2"),
    )
    assert (flow.sequence_by, flow.scd_type) == ("struct(ts, id)", 1)
    assert flow.apply_as_deletes == "operation = 'DELETE'"
    assert flow.apply_as_truncates == "operation = 'TRUNCATE'"
    assert (flow.ignore_null_updates, flow.ignore_null_updates_except_column_list) == (True, ("note",))
    assert (flow.column_list, flow.except_column_list) == (None, ("operation", "ts"))


@pytest.mark.parametrize(
    ("clause", "tracked", "untracked"),
    [
        ("TRACK HISTORY ON a, b", ("a", "b"), None),
        ("TRACK HISTORY ON (a, b)", ("a", "b"), None),
        ("TRACK HISTORY ON * EXCEPT (c)", None, ("c",)),
        ("TRACK HISTORY ON *", None, None),
        ("", None, None),
    ],
)
def test_track_history_chooses_columns(clause: str, tracked: Any, untracked: Any) -> None:
    flow = auto_cdc(
        f"APPLY CHANGES INTO LIVE.t FROM STREAM(LIVE.s) KEYS (id) SEQUENCE BY ts STORED AS SCD TYPE 2 {clause}"
    )
    assert (flow.name, flow.source, flow.scd_type) == ("t", "LIVE.s", 2)
    assert (flow.track_history_column_list, flow.track_history_except_column_list) == (tracked, untracked)


def test_auto_cdc_stands_inside_its_table() -> None:
    text = "CREATE STREAMING TABLE t FLOW AUTO CDC FROM STREAM s KEYS (id) SEQUENCE BY ts"
    assert dataset(text).kind is ST
    assert (auto_cdc(text).name, auto_cdc(text).source) == ("t", "s")


def test_a_once_flow_reads_a_batch() -> None:
    flow = auto_cdc("CREATE FLOW f AS AUTO CDC ONCE INTO t FROM s KEYS (id) SEQUENCE BY ts")
    assert (flow.once, flow.source) == (True, "s")


def test_a_query_of_change_rows_becomes_a_temporary_view() -> None:
    loaded = load("CREATE FLOW f AS AUTO CDC INTO t FROM (SELECT * FROM STREAM(s) WHERE x) KEYS (id) SEQUENCE BY ts")
    (view,) = loaded.datasets
    inner, flow = loaded.flows
    assert (view.kind, view.name.name) == (VIEW, "f_source")
    assert isinstance(inner, Flow)
    assert isinstance(inner.query, SqlQuery)
    assert inner.query.text == "SELECT * FROM STREAM(s) WHERE x"
    assert isinstance(flow, AutoCdcFlow)
    assert flow.source == "`f_source`"


def test_variables_hold_for_the_statements_after_them() -> None:
    text = """SET schema = 01_bronze;
              SET day = '2024-01-01';
              SET spark.sql.shuffle.partitions = 4;
              CREATE MATERIALIZED VIEW ${schema}.d AS SELECT '${day}', ${ limit } -- ${unknown}
           """
    (flow,) = load(text, configuration={"limit": "7"}).flows
    assert isinstance(flow, Flow)
    assert isinstance(flow.query, SqlQuery)
    assert (flow.name, flow.query.text) == ("01_bronze.d", "SELECT '2024-01-01', 7")
    assert flow.spark_conf == {"spark.sql.shuffle.partitions": "4"}


def test_a_cell_of_a_notebook_ends_a_statement() -> None:
    text = """-- Databricks notebook source
-- MAGIC %md
-- MAGIC # Sales; daily
-- COMMAND ----------
CREATE MATERIALIZED VIEW a AS SELECT 1
-- COMMAND ----------
CREATE MATERIALIZED VIEW b AS SELECT 2;
"""
    loaded = load(text)
    assert [(d.name.name, d.origin.line) for d in loaded.datasets] == [("a", 5), ("b", 7)]


def test_the_example_of_apache_spark_loads_unchanged() -> None:
    source = Path(pytest.importorskip("pyspark").__file__).parent / "pipelines" / "init_cli.py"
    text = source.read_text().split('SQL_EXAMPLE = """')[1].split('"""')[0]
    (declared,) = load(text).datasets
    assert (declared.name.name, declared.kind) == ("example_sql_materialized_view", MV)


@pytest.mark.parametrize(
    ("text", "condition", "place", "words"),
    [
        ("SELECT 1", "UNSUPPORTED_SQL_STATEMENT", "line 1, column 1", "CREATE MATERIALIZED VIEW name AS"),
        ("\nUSE SCHEMA x", "UNSUPPORTED_SQL_STATEMENT", "line 2, column 1", "`database` in the spec"),
        ("INSERT INTO t SELECT 1", "UNSUPPORTED_SQL_STATEMENT", "line 1, column 1", "CREATE FLOW"),
        ("CREATE TABLE t AS SELECT 1", "UNSUPPORTED_SQL_STATEMENT", "line 1", "CREATE STREAMING TABLE"),
        ("CREATE MATERIALISED VIEW t AS SELECT 1", "UNSUPPORTED_SQL_STATEMENT", "line 1",
         "did you mean CREATE MATERIALIZED VIEW"),
        ("CREATE VIEW v AS SELECT 1", "UNSUPPORTED_FEATURE", "line 1, column 8", "CREATE TEMPORARY VIEW"),
        ("CREATE MATERIALIZED VIEW v SCHEDULE EVERY 1 HOUR AS SELECT 1", "UNSUPPORTED_FEATURE",
         "line 1, column 28", "--continuous"),
        ("CREATE STREAMING TABLE t COMENT 'x'", "PARSE_SYNTAX_ERROR", "line 1, column 26", "mean COMMENT"),
        ("CREATE STREAMING TABLE t COMMENT 'x' COMMENT 'y'", "PARSE_SYNTAX_ERROR", "column 38", ""),
        ("CREATE STREAMING TABLE t (a INT NOTNULL)", "PARSE_SYNTAX_ERROR", "column 33", "NOT NULL"),
        ("CREATE STREAMING TABLE t (a INT DEFAULT 3)", "UNSUPPORTED_FEATURE", "column 33", ""),
        ("CREATE STREAMING TABLE t (a, b)", "PARSE_SYNTAX_ERROR", "", "TYPE"),
        ("CREATE STREAMING TABLE t (CONSTRAINT a CHECK (x))", "PARSE_SYNTAX_ERROR", "column 40", "EXPECT"),
        ("CREATE STREAMING TABLE t (CONSTRAINT a EXPECT (x >))", "PARSE_SYNTAX_ERROR", "column 51", ""),
        ("CREATE STREAMING TABLE t (CONSTRAINT a EXPECT (x) ON VIOLATION SKIP)", "PARSE_SYNTAX_ERROR",
         "column 64", ""),
        ("CREATE MATERIALIZED VIEW v", "PARSE_SYNTAX_ERROR", "column 27", ""),
        ("CREATE MATERIALIZED VIEW v AS\n  SELECT id FORM t x",
         "PARSE_SYNTAX_ERROR", "line 2, column 18", ""),
        ("CREATE MATERIALIZED VIEW v AS SELECT 'a", "PARSE_SYNTAX_ERROR", "column 38", ""),
        ("CREATE FLOW f AS INSERT INTO t SELECT 1", "PARSE_SYNTAX_ERROR", "column 32", "BY NAME"),
        ("CREATE FLOW f AS AUTO CDC FROM SNAPSHOT x", "UNSUPPORTED_FEATURE", "", ""),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM s KEYS (i) SEQUENCE BY j", "PARSE_SYNTAX_ERROR", "column 39",
         "FROM STREAM(s)"),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(s) SEQUENCE BY j", "PARSE_SYNTAX_ERROR", "", "KEYS"),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(s) KEYS (i)", "PARSE_SYNTAX_ERROR", "", "SEQUENCE BY"),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(s) KEYS (a.i) SEQUENCE BY j",
         "AUTOCDC_MULTIPART_COLUMN_IDENTIFIER", "column 56", ""),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(s) KEYS (i) SEQUENCE BY j STORD AS SCD TYPE 2",
         "PARSE_SYNTAX_ERROR", "column 72", ""),
        ("CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(s) KEYS (i) SEQUENCE BY j TRACK HISTORY ON a",
         "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2", "", "SCD TYPE 2"),
        ("CREATE MATERIALIZED VIEW v AS SELECT ${schem}",
         "UNRESOLVED_SQL_VARIABLE", "column 38", "SET schem"),
        ("CREATE MATERIALIZED VIEW a.b.c.d AS SELECT 1", "INVALID_IDENTIFIER", "", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place_and_a_hint(text: str, condition: str, place: str, words: str) -> None:
    error = refused(text)
    assert error.condition == condition
    assert error.origin is not None
    assert error.origin.file == "sales.sql"
    assert place in error.message
    assert words in (error.hint or "")


def test_all_errors_of_a_file_are_reported_and_the_rest_is_registered() -> None:
    registry = Registry(NameContext())
    text = "USE x;\nCREATE MATERIALIZED VIEW a AS SELECT 1;\nCREATE VIEW b AS SELECT 1;"
    with pytest.raises(DefinitionErrors) as several:
        load_sql_file(text, "sales.sql", registry)
    assert [error.origin.line for error in several.value.errors if error.origin] == [1, 3]
    assert [d.name.name for d in registry.definitions().datasets] == ["a"]
