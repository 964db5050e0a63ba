"""SQL text as data: what a query reads, and the same query over other relations."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime

import pytest

from lakelet.errors import DefinitionError, Origin
from lakelet.plan.sql import (
    ReferenceKind,
    Watermark,
    check_syntax,
    is_query,
    normalize_sql,
    replace_clock,
    rewrite,
    table_references,
)

AT = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def rewritten(sql: str) -> str:
    numbers = itertools.count(1)
    return rewrite(sql, lambda _: f"r{next(numbers)}")


@pytest.mark.parametrize(
    ("sql", "names"),
    [
        ("SELECT 1", []),
        ("SELECT * FROM t", ["t"]),
        ("SELECT * FROM 01_bronze.bronze_sales", ["01_bronze.bronze_sales"]),
        ("SELECT * FROM a.b.c, `d e`.`f``g`", ["a.b.c", "`d e`.`f``g`"]),
        ("SELECT * FROM LIVE.x JOIN live.y USING (id)", ["LIVE.x", "live.y"]),
        ("SELECT * FROM a LEFT ANTI JOIN b ON a.i = b.i CROSS JOIN c NATURAL JOIN d", ["a", "b", "c", "d"]),
        ("SELECT * FROM (a JOIN b) JOIN ((c JOIN d) x JOIN e)", ["a", "b", "c", "d", "e"]),
        ("SELECT (SELECT max(i) FROM b) FROM a WHERE EXISTS (SELECT 1 FROM c) AND d IN (TABLE e)",
         ["b", "a", "c", "e"]),
        ("SELECT * FROM a UNION ALL SELECT * FROM b EXCEPT (SELECT * FROM c)", ["a", "b", "c"]),
        ("SELECT * EXCEPT (a, b) FROM t", ["t"]),
        ("WITH x AS (SELECT * FROM t) SELECT * FROM x, y", ["t", "y"]),
        ("WITH x AS (SELECT * FROM x) SELECT * FROM X", ["x"]),
        ("WITH RECURSIVE x AS (SELECT 1 UNION ALL SELECT * FROM x) SELECT * FROM x", []),
        ("WITH x AS (WITH y AS (SELECT * FROM a) SELECT * FROM y) SELECT * FROM x, y", ["a", "y"]),
        ("WITH x(i, j) AS (SELECT 1, 2), y AS (SELECT * FROM x) SELECT * FROM y, s.x", ["s.x"]),
        ("SELECT * FROM (WITH x AS (SELECT 1) SELECT * FROM x) JOIN x", ["x"]),
        ("SELECT * FROM t LATERAL VIEW OUTER explode(xs) e AS x, y WHERE x > 1", ["t"]),
        ("SELECT * FROM t, LATERAL (SELECT * FROM u WHERE u.i = t.i), LATERAL explode(t.xs)", ["t", "u"]),
        ("SELECT * FROM range(10) r, explode(array(1)) e(x), t", ["t"]),
        ("SELECT * FROM VALUES (1, 'a'), (2, 'b') AS v(a, b), t", ["t"]),
        ("VALUES (1), (2)", []),
        ("TABLE a.b", ["a.b"]),
        ("FROM a SELECT i", ["a"]),
        ("FROM a |> WHERE i > 1 |> JOIN b ON a.i = b.i", ["a", "b"]),
        ("SELECT * FROM t PIVOT (sum(x) FOR y IN ('a', 'b')) p JOIN u", ["t", "u"]),
        ("SELECT * FROM t TABLESAMPLE (10 PERCENT) REPEATABLE (5) s, u", ["t", "u"]),
        ("SELECT extract(year FROM a), trim(BOTH 'x' FROM b), trim(FROM c), a IS DISTINCT FROM b FROM t",
         ["t"]),
        ("SELECT max(table) FROM t", ["t"]),
        ("SELECT * FROM f(TABLE(a.b) PARTITION BY i), g(x => TABLE(SELECT * FROM c))", ["a.b", "c"]),
        ("SELECT * FROM IDENTIFIER('a.' || 'b') i", ["a.b"]),
        ("SELECT 'from x', \"from y\", r'\\' FROM t -- from z\n/* from /* from */ u */ JOIN v", ["t", "v"]),
        ("SELECT 'it\\'s from x', 'it''s from y' FROM t", ["t"]),
        ("SELECT /*+ BROADCAST(b) */ * FROM a JOIN b;", ["a", "b"]),
        ("SELECT a.b.c.d, e FROM t WINDOW w AS (PARTITION BY a), v AS (ORDER BY b)", ["t"]),
        ("SELECT * FROM t GROUP BY a, b ORDER BY c, d LIMIT 3", ["t"]),
    ],
)  # fmt: skip
def test_every_place_where_a_query_reads_a_table_is_found(sql: str, names: list[str]) -> None:
    references = table_references(sql)
    assert [reference.name for reference in references] == names
    assert all(sql[reference.start : reference.end] == reference.text for reference in references)


@pytest.mark.parametrize(
    ("relation", "name", "streaming"),
    [
        ("STREAM(bronze.sales)", "bronze.sales", True),
        ("stream( LIVE . sales )", "LIVE.sales", True),
        ("STREAM sales", "sales", True),
        ("STREAM `a b`.c", "`a b`.c", True),
        ("stream", "stream", False),
        ("stream.sales", "stream.sales", False),
    ],
)
def test_stream_is_told_from_a_table_of_that_name(relation: str, name: str, streaming: bool) -> None:
    (reference,) = table_references(f"SELECT * FROM {relation} AS s WHERE x")
    assert (reference.name, reference.streaming, reference.alias) == (name, streaming, "s")
    assert reference.text == relation


@pytest.mark.parametrize(
    ("relation", "options"),
    [
        ("t VERSION AS OF 3", {"versionAsOf": "3"}),
        ("t FOR SYSTEM_VERSION AS OF 3", {"versionAsOf": "3"}),
        ("t TIMESTAMP AS OF '2024-01-01'", {"timestampAsOf": "2024-01-01"}),
        ("t TIMESTAMP AS OF DATE '2024-01-01'", {"timestampAsOf": "2024-01-01"}),
        ("t@v12", {"versionAsOf": "12"}),
        ("t@20240102030405678", {"timestampAsOf": "2024-01-02 03:04:05.678"}),
        ("t WITH ('startingVersion' = '3', a.b 4)", {"startingVersion": "3", "a.b": "4"}),
    ],
)
def test_time_travel_and_options_belong_to_the_reference(relation: str, options: dict[str, str]) -> None:
    (reference,) = table_references(f"SELECT * FROM {relation} q JOIN (SELECT 1)")
    assert (reference.name, reference.alias, reference.text) == ("t", "q", relation)
    assert reference.options == options


def test_a_watermark_belongs_to_the_reference() -> None:
    (reference,) = table_references("SELECT * FROM STREAM(s) WATERMARK ts DELAY OF INTERVAL 10 MINUTES AS w")
    assert reference.watermark == Watermark(column="ts", delay="10 minutes")
    assert (reference.alias, reference.text[-7:]) == ("w", "MINUTES")


def test_a_path_is_told_from_a_table_in_a_schema_of_that_name() -> None:
    path, table = table_references("SELECT * FROM delta.`/data/x`, delta.x")
    assert (path.kind, path.format, path.paths) == (ReferenceKind.PATH, "delta", ("/data/x",))
    assert (table.kind, table.name) == (ReferenceKind.TABLE, "delta.x")


def test_files_carry_their_options_under_the_names_of_auto_loader() -> None:
    options = "format => 'json', schema => 'a INT', multiLine => true"
    (files,) = table_references(f"SELECT * FROM STREAM read_files('/in' || '/x', {options})")
    assert (files.kind, files.streaming, files.paths) == (ReferenceKind.FILES, True, ("/in/x",))
    assert (files.format, files.schema) == ("cloudFiles", "a INT")
    assert files.options == {"cloudFiles.format": "json", "multiLine": "true"}
    (files,) = table_references("SELECT * FROM cloud_files('/x', 'csv', map('header', 'true'))")
    assert (files.streaming, files.options) == (False, {"cloudFiles.format": "csv", "header": "true"})


def test_named_parameters_stand_for_names_and_paths() -> None:
    sql = "SELECT * FROM IDENTIFIER(:name), read_files(:path)"
    names = [r.name for r in table_references(sql, parameters={"name": "a.b", "path": "/x"})]
    assert names == ["a.b", "/x"]


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("SELECT * FROM t", "SELECT * FROM r1 AS `t`"),
        ("SELECT * FROM a.b x", "SELECT * FROM r1 x"),
        ("SELECT b.i FROM a.b", "SELECT b.i FROM r1 AS `b`"),
        (
            "SELECT 1_a.b.i, x FROM 1_a.b WHERE `1_A`.B.j = 1",
            "SELECT `b`.i, x FROM r1 AS `b` WHERE `b`.j = 1",
        ),
        ("SELECT c.a.b.i, a.b.* FROM c.a.b", "SELECT `b`.i, `b`.* FROM r1 AS `b`"),
        ("SELECT a.b.f(a.b.i) FROM a.b", "SELECT a.b.f(`b`.i) FROM r1 AS `b`"),
        ("SELECT a.b.i FROM a.b AS a", "SELECT a.b.i FROM r1 AS a"),
        ("SELECT a.b.i FROM x.a", "SELECT a.b.i FROM r1 AS `a`"),
        (
            "SELECT * FROM a.t JOIN b.t ON a.t.i = b.t.i",
            "SELECT * FROM r1 AS `a_t` JOIN r2 AS `b_t` ON `a_t`.i = `b_t`.i",
        ),
        (
            "SELECT t.i FROM a.t UNION SELECT t.i FROM b.t",
            "SELECT t.i FROM r1 AS `t` UNION SELECT t.i FROM r2 AS `t`",
        ),
        (
            "SELECT * FROM a.b WHERE EXISTS (SELECT 1 FROM a.c WHERE a.c.i = a.b.i)",
            "SELECT * FROM r1 AS `b` WHERE EXISTS (SELECT 1 FROM r2 AS `c` WHERE `c`.i = `b`.i)",
        ),
        (
            "SELECT * FROM t TABLESAMPLE (5 ROWS) WHERE x",
            "SELECT * FROM r1 TABLESAMPLE (5 ROWS) AS `t` WHERE x",
        ),
        ("SELECT * FROM STREAM(a.b) -- all\nWHERE b.x", "SELECT * FROM r1 AS `b` -- all\nWHERE b.x"),
        ("TABLE a.b", "TABLE r1"),
        ("SELECT * FROM delta.`/x` WHERE i = 'é'", "SELECT * FROM r1 WHERE i = 'é'"),
        (
            "WITH b AS (SELECT * FROM a.b) SELECT b.i FROM b",
            "WITH b AS (SELECT * FROM r1 AS `b`) SELECT b.i FROM b",
        ),
    ],
)
def test_a_replaced_table_keeps_its_name_for_column_references(sql: str, result: str) -> None:
    assert rewritten(sql) == result


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("SELECT *\nFROM WHERE x", 2, 6),
        ("SELECT * FROM", 1, 14),
        ("SELECT 'abc", 1, 8),
        ("SELECT (1\n+ 2", 1, 8),
        ("SELECT 1)", 1, 9),
        ("SELECT * FROM a JOIN ON x", 1, 22),
        ("SELEC * FROM x", 1, 1),
        ("WITH x AS SELECT 1", 1, 11),
        ("", 1, 1),
    ],
)
def test_a_broken_query_is_refused_with_line_and_column(sql: str, line: int, column: int) -> None:
    with pytest.raises(DefinitionError, match=f"line {line}, column {column}") as refused:
        table_references(sql)
    assert refused.value.condition == "PARSE_SYNTAX_ERROR"


@pytest.mark.parametrize(
    ("sql", "line", "column"),
    [
        ("SELECT id FORM t WHERE x", 1, 16),
        ("SELECT a\nFROM 1_a.t\nWHERE a = = 3", 3, 11),
        ("SELECT cast(a INT) FROM STREAM(t)", 1, 15),
    ],
)
def test_a_syntax_error_is_found_before_an_engine_sees_the_query(sql: str, line: int, column: int) -> None:
    with pytest.raises(DefinitionError, match=f"line {line + 40}, column {column}") as refused:
        check_syntax(sql, origin=Origin(file="a.sql", line=41))
    assert (refused.value.origin or Origin()).line == line + 40


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * EXCEPT (a), x -> x + 1, a:b.c[0]::int, `a b`.c FROM 01_bronze.t VERSION AS OF 3",
        "SELECT * FROM STREAM(a) WATERMARK ts DELAY OF INTERVAL 10 MINUTES GROUP BY window(ts, '1 hour')",
        "SELECT * FROM a PIVOT (sum(x) AS s FOR y IN ('a' AS aa)) QUALIFY row_number() OVER (ORDER BY i) = 1",
        "FROM t |> WHERE a > 1 |> SELECT b",
        "SELECT a, count(*) FROM t LATERAL VIEW explode(xs) e AS x GROUP BY ALL ORDER BY ALL",
        "SELECT * FROM read_files('/x', format => 'csv') WHERE _metadata.file_path LIKE '%x'",
    ],
)
def test_the_check_of_the_syntax_lets_spark_sql_pass(sql: str) -> None:
    check_syntax(sql)


@pytest.mark.parametrize(
    ("sql", "condition"),
    [
        ("SELECT * FROM t TIMESTAMP AS OF current_date() - 1", "UNSUPPORTED_FEATURE"),
        ("SELECT * FROM read_files(concat('/a', x))", "UNSUPPORTED_FEATURE"),
        ("SELECT * FROM STREAM(range(10))", "UNSUPPORTED_FEATURE"),
        ("WITH x AS (SELECT 1) SELECT * FROM STREAM(x)", "UNSUPPORTED_FEATURE"),
        ("SELECT * FROM (SELECT 1) WATERMARK ts DELAY OF INTERVAL 1 DAY", "UNSUPPORTED_FEATURE"),
    ],
)
def test_what_cannot_be_replaced_is_refused(sql: str, condition: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        table_references(sql)
    assert refused.value.condition == condition


@pytest.mark.parametrize(
    ("sql", "result"),
    [
        ("current_timestamp()", "timestamp_micros(1704164645678901)"),
        ("ts > NOW( ) AND d = current_date",
         "ts > timestamp_micros(1704164645678901) AND d = DATE '2024-01-02'"),
        ("localtimestamp", "TIMESTAMP_NTZ '2024-01-02 03:04:05.678901'"),
        ("unix_timestamp() - unix_timestamp(ts)", "CAST(1704164645 AS BIGINT) - unix_timestamp(ts)"),
        ("now > 'now()' -- now()", "now > 'now()' -- now()"),
        ("t.current_date + x.now", "t.current_date + x.now"),
        ("`current_date`", "`current_date`"),
        ("SELECT x current_date FROM t", "SELECT x current_date FROM t"),
        ("SELECT current_date AS current_date FROM t", "SELECT DATE '2024-01-02' AS current_date FROM t"),
        ("SELECT current_date, now() FROM t",
         "SELECT DATE '2024-01-02' AS `current_date()`, timestamp_micros(1704164645678901) AS `now()`"
         " FROM t"),
        ("SELECT current_date FROM (SELECT d AS current_date FROM t)",
         "SELECT current_date FROM (SELECT d AS current_date FROM t)"),
        ("WITH c AS (SELECT d AS current_date FROM t), e AS (SELECT current_date FROM c) SELECT 1",
         "WITH c AS (SELECT d AS current_date FROM t), e AS (SELECT current_date FROM c) SELECT 1"),
        ("SELECT * FROM a JOIN b USING (current_date)", "SELECT * FROM a JOIN b USING (current_date)"),
        ("date_add(current_date(), 1)", "date_add(DATE '2024-01-02', 1)"),
    ],
)  # fmt: skip
def test_the_clock_becomes_the_instant_of_the_batch(sql: str, result: str) -> None:
    assert replace_clock(sql, AT) == result


def test_the_day_is_the_day_of_the_sessions_zone() -> None:
    assert replace_clock("current_date()", AT, time_zone="America/New_York") == "DATE '2024-01-01'"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 1", True),
        ("-- x\n((SELECT 1) UNION SELECT 2)", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("VALUES 1", True),
        ("TABLE t", True),
        ("FROM t SELECT i", True),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", False),
        ("INSERT INTO t SELECT 1", False),
        ("CREATE TABLE t AS SELECT 1", False),
        ("SET a = 1", False),
        ("", False),
    ],
)
def test_queries_are_told_from_commands(sql: str, expected: bool) -> None:
    assert is_query(sql) is expected


def test_tables_in_sql_become_relations_of_the_tree() -> None:
    from pyspark.sql.connect.proto import Relation

    relation = Relation()
    relation.common.plan_id = 5
    relation.sql.query = "SELECT * FROM STREAM(a.b) x JOIN c JOIN C d JOIN delta.`/p` e"
    ids = itertools.count(10)
    normalized = normalize_sql(relation, lambda: next(ids))
    references = normalized.with_relations.references
    assert normalized.common.plan_id == 5
    aliases = [reference.subquery_alias.alias for reference in references]
    stream, table, path = (reference.subquery_alias.input.read for reference in references)
    assert normalized.with_relations.root.sql.query == (
        f"SELECT * FROM {aliases[0]} x JOIN {aliases[1]} AS `c` JOIN {aliases[1]} d JOIN {aliases[2]} e"
    )
    assert (stream.named_table.unparsed_identifier, stream.is_streaming) == ("a.b", True)
    assert (table.named_table.unparsed_identifier, table.is_streaming) == ("c", False)
    assert (path.data_source.format, list(path.data_source.paths)) == ("delta", ["/p"])
    assert all(reference.common.plan_id for reference in references)
    assert relation.sql.query.startswith("SELECT * FROM STREAM")


def test_the_references_of_a_formatted_query_stay() -> None:
    from pyspark.sql.connect.proto import Relation

    relation = Relation()
    relation.with_relations.root.sql.query = "SELECT * FROM view_1 JOIN t"
    relation.with_relations.references.add().subquery_alias.alias = "view_1"
    ids = itertools.count(10)
    normalized = normalize_sql(relation, lambda: next(ids))
    aliases = [reference.subquery_alias.alias for reference in normalized.with_relations.references]
    assert aliases == ["view_1", "lk_sql_10"]
    assert normalized.with_relations.root.sql.query == "SELECT * FROM view_1 JOIN lk_sql_10 AS `t`"


def test_sql_that_reads_nothing_stays_as_it_is() -> None:
    from pyspark.sql.connect.proto import Relation

    relation = Relation()
    relation.sql.query = "SELECT 1"
    assert normalize_sql(relation, lambda: 1) is relation
