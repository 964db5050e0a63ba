"""The law of incremental refreshes: after any sequence of updates a view has the rows of its query over the tables as they are.

Random pipelines of a streaming table, temporary views and two levels of materialized views; random appends, deletes and deaths.
DuckDB computes the same queries over the rows that landed.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelet import faults
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline

SPEC = (
    "name: laws\nstorage: data\nlibraries:\n  - glob:\n      include: pipeline/**\n"
    "configuration:\n  lakelet.views.recomputeRows: '0'\n"
)
COLUMNS = pa.schema(
    [
        ("k", pa.string()),
        ("j", pa.int64()),
        ("n", pa.int64()),
        ("d", pa.decimal128(10, 2)),
        ("x", pa.float64()),
        ("t", pa.timestamp("us", "UTC")),
    ]
)
KEYS = {"k": "k", "j": "j", "upper(k)": "upper(k)", "j % 2": "j % 2", "CAST(t AS DATE)": "CAST(t AS DATE)"}
MEASURES = {
    "count(*)": "count(*)",
    "count(n)": "count(n)",
    "sum(n)": "CAST(sum(n) AS BIGINT)",
    "sum(d)": "sum(d)",
    "sum(x)": "sum(x)",
    "avg(n)": "avg(n)",
    "round(avg(x), 3)": "round(avg(x), 3)",
    "min(k)": "min(k)",
    "max(t)": "max(t)",
    "min(d)": "min(d)",
    "max(x) - min(x)": "max(x) - min(x)",
    "count(DISTINCT n)": "count(DISTINCT n)",
    "count(DISTINCT k)": "count(DISTINCT k)",
    "stddev(x)": "stddev_samp(x)",
    "var_pop(n)": "var_pop(n)",
    "count_if(n > 2)": "count(*) FILTER (WHERE n > 2)",  # DuckDB's own gives NULL where Spark counts 0
    "bool_or(n > 4)": "bool_or(n > 4)",
    "sum(n) + coalesce(max(n), 0) * 2": "CAST(sum(n) AS BIGINT) + coalesce(max(n), 0) * 2",
}
BELOW = ("TRUE", "n > 1", "k IS NOT NULL", "j % 2 = 1 OR j IS NULL")
START = datetime(2024, 5, 1, tzinfo=UTC)
POINTS = [point for point in faults.POINTS if point.startswith("view.")]


@dataclass(frozen=True, kw_only=True)
class View:
    """One random group-by: how the pipeline writes it, and how DuckDB does."""

    keys: tuple[str, ...]
    measures: tuple[str, ...]
    below: str
    having: str | None
    shown: tuple[int, ...]
    union: bool
    form: str

    def columns(self, words: dict[str, str], keys: dict[str, str]) -> list[str]:
        both = [f"{keys[key]} AS g{i}" for i, key in enumerate(self.keys)]
        both += [f"{words[measure]} AS m{i}" for i, measure in enumerate(self.measures)]
        return [both[i] for i in self.shown if i < len(both)] or both

    def sql(self, source: str, *, duck: bool) -> str:
        words = MEASURES if duck else {name: name for name in MEASURES}
        rows = f"(SELECT * FROM {source} UNION ALL SELECT * FROM {source} WHERE n = 3)" if self.union else source
        group = f" GROUP BY {', '.join(KEYS[key] for key in self.keys)}" if self.keys else ""
        having = f" HAVING {self.having}" if self.having else ""
        return f"SELECT {', '.join(self.columns(words, KEYS))} FROM {rows} AS r WHERE {self.below}{group}{having}"

    def source(self, name: str) -> str:
        if self.form == "sql":
            query = self.sql("facts", duck=False)
            return f'@dp.materialized_view\ndef {name}():\n    return spark.sql("""{query}""")\n'
        rows = 'spark.read.table("shaped")' if self.form == "view" else 'spark.read.table("facts")'
        if self.union:
            rows = f"{rows}.union({rows}.filter('n = 3'))"
        keys = ", ".join(f"F.expr('{key}').alias('g{i}')" for i, key in enumerate(self.keys))
        measures = [f"F.expr('{measure}').alias('m{i}')" for i, measure in enumerate(self.measures)]
        if self.having:
            measures.append(f"F.expr('{self.having}').alias('h')")
        frame = f"{rows}.filter('{self.below}').groupBy({keys}).agg({', '.join(measures)})"
        if self.having:
            frame += ".filter('h')"
        names = [f"g{i}" for i in range(len(self.keys))] + [f"m{i}" for i in range(len(self.measures))]
        names = [names[i] for i in self.shown if i < len(names)] or names
        return f'@dp.materialized_view(name="{name}")\ndef {name}():\n    return {frame}.select({", ".join(map(repr, names))})\n'


VIEWS = st.builds(
    View,
    keys=st.lists(st.sampled_from(list(KEYS)), max_size=2, unique=True).map(tuple),
    measures=st.lists(st.sampled_from(list(MEASURES)), min_size=1, max_size=4, unique=True).map(tuple),
    below=st.sampled_from(BELOW),
    having=st.sampled_from([None, "count(*) > 1", "sum(n) < 9"]),
    shown=st.permutations(range(4)).flatmap(lambda order: st.integers(1, 4).map(lambda size: tuple(order[:size]))),
    union=st.booleans(),
    form=st.sampled_from(["frame", "view", "sql"]),
)
NUMBERS = st.one_of(st.none(), st.integers(0, 5))
ROWS = st.fixed_dictionaries(
    {
        "k": st.sampled_from([None, "a", "A", "b", ""]),
        "j": NUMBERS,
        "n": NUMBERS,
        "d": st.one_of(st.none(), st.decimals(-99, 99, places=2)),
        "x": st.one_of(st.none(), st.integers(-20, 20).map(lambda value: value / 8 + 1e6)),
        "t": st.one_of(st.none(), st.integers(0, 72).map(lambda hours: START + timedelta(hours=hours))),
    }
)
STEPS = st.lists(
    st.tuples(
        st.lists(ROWS, min_size=1, max_size=5),
        st.sampled_from([None, None, None, "n = 2", "k = 'a'"]),
        st.sampled_from([None, None, *POINTS]),
        st.integers(1, 2),
    ),
    min_size=2,
    max_size=5,
)


class Death(BaseException):
    """Ends an update as the death of the process would."""


def run(root: Path, engine: SailEngine, point: str | None, after: int) -> None:
    left = after

    def hook(reached: str) -> None:
        nonlocal left
        left -= reached == point
        if left == 0 and reached == point:
            raise Death

    if point is not None:
        with faults.installed(hook), suppress(Death):
            Pipeline(root, engine=engine).run()


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    """Return whether both have the same rows, in any order; the last digits of doubles may differ."""

    def equal(left: Any, right: Any) -> bool:
        if isinstance(left, float) and isinstance(right, (float, Decimal)):
            is_rounded = all(math.isclose(value, round(value, 3), abs_tol=1e-12) for value in (left, right))
            return math.isclose(left, right, rel_tol=1e-9, abs_tol=1.5e-3 if is_rounded else 1e-7)
        return bool(left == right)

    left = [list(row.values()) for row in wanted]
    for row in found:
        values = list(row.values())
        place = next((n for n, o in enumerate(left) if len(o) == len(values) and all(map(equal, values, o))), None)
        if place is None:
            return False
        del left[place]
    return not left


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    views=st.lists(VIEWS, min_size=1, max_size=3),
    steps=STEPS,
    from_stream=st.booleans(),
    at_once=st.sampled_from([2_000_000, 3]),
)
def test_a_view_has_the_rows_of_its_query_whatever_came_before(
    engine: SailEngine, views: list[View], steps: list[Any], from_stream: bool, at_once: int
) -> None:
    """Args: at_once: so many distinct values are put in order, and looked up, at once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        patch("lakelet.execution.distinct_values.BUCKET_ROWS", at_once),
        patch("lakelet.execution.distinct_values.LOOKED_UP_AT_ONCE", at_once),
    ):
        root = Path(folder)
        (root / "pipeline").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC)
        landing = 'format("delta").load("/Volumes/c/s/v/landing")'
        facts = (
            f"@dp.table\ndef facts():\n    return spark.readStream.{landing}\n"
            if from_stream
            else f"@dp.temporary_view\ndef facts():\n    return spark.read.{landing}\n"
        )
        shaped = (
            "@dp.temporary_view\ndef shaped():\n    return spark.read.table('facts').filter('n IS NULL OR n >= 0')\n"
        )
        above = "@dp.materialized_view\ndef above():\n    return spark.read.table('v0').groupBy().count()\n"
        head = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n"
        parts = [head, facts, shaped, *(view.source(f"v{n}") for n, view in enumerate(views)), above]
        (root / "pipeline" / "views.py").write_text("\n".join(parts))
        path = str(root / "data/Volumes/c/s/v/landing")
        for rows, deleted, point, after in steps:
            write_deltalake(path, pa.Table.from_pylist(rows, schema=COLUMNS), mode="append")
            if deleted and not from_stream:
                DeltaTable(path).delete(deleted)
            run(root, engine, point, after)
            pipeline = Pipeline(root, engine=engine)
            result = pipeline.run()
            assert result.exit_code == 0, [error.render() for error in result.errors]
            with duckdb.connect() as duck:
                duck.execute("SET TimeZone = 'UTC'")
                duck.register("landed", DeltaTable(path).to_pyarrow_table())
                for number, view in enumerate(views):
                    query = duck.execute(view.sql("landed", duck=True))
                    names = [item[0] for item in query.description or ()]
                    wanted = [dict(zip(names, row, strict=True)) for row in query.fetchall()]
                    found = pipeline.table(f"v{number}").to_pylist()
                    assert same(found, wanted), (view, pipeline.explain(f"v{number}").render(), found, wanted)
            count = pipeline.table("v0").num_rows
            assert pipeline.table("above").to_pylist() == [{"count": count}]
