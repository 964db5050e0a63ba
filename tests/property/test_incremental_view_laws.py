"""The law of incremental refreshes: after any sequence of updates a view has the rows of its query over the tables as they are.

Random pipelines of a streaming table, temporary views and two levels of materialized views; random appends, deletes and deaths.
DuckDB computes the same queries over the rows that landed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.property.view_laws import HEAD, POINTS, SPEC, run, same
from tests.techniques import techniques

from lakelet.engine.sail import SailEngine
from lakelet.events.model import PipelineEvent
from lakelet.pipeline import Pipeline

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
KEYS = ("k", "j", "upper(k)", "j % 2", "CAST(t AS DATE)")
WINDOWS = {
    "window(t, '6 hours')": (6, "[time_bucket(INTERVAL 6 HOURS, t)]"),
    "window(t, '12 hours', '6 hours')": (
        12,
        "[time_bucket(INTERVAL 6 HOURS, t), time_bucket(INTERVAL 6 HOURS, t - INTERVAL 6 HOURS)]",
    ),
}
"""Time windows: their hours, and when those that a row belongs to begin."""
MEASURES = {
    "count(*)": "count(*)",
    "count(n)": "count(n)",
    "sum(n)": "CAST(sum(n) AS BIGINT)",
    "sum(d)": "sum(d)",
    "sum(x)": "sum(x)",
    "avg(n)": "avg(n)",
    "avg(d)": "CAST((CAST(sum(d) * 100 AS HUGEINT) * 10000) // count(d) AS DECIMAL(20, 0)) * 0.000001",
    "round(avg(d + 0.005), 2)": "round(CAST((CAST(sum(d + 0.005) * 1000 AS HUGEINT) * 10000) // count(d) AS DECIMAL(20, 0)) "
    "* 0.0000001, 2)",
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
ABOUT = {"round(avg(x), 3)": 1.5e-3, "stddev(x)": 1e-7, "var_pop(n)": 1e-7}
"""By how much doubles may differ that are rounded, or near to zero; all others only by 1e-9 of their value."""
BELOW = ("TRUE", "n > 1", "k IS NOT NULL", "j % 2 = 1 OR j IS NULL")
START = datetime(2024, 5, 1, tzinfo=UTC)


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

    def columns(self, words: dict[str, str], keys: Sequence[str]) -> list[str]:
        both = [f"{key} AS g{i}" for i, key in enumerate(keys)]
        both += [f"{words[measure]} AS m{i}" for i, measure in enumerate(self.measures)]
        return [both[i] for i in self.shown if i < len(both)] or both

    def sql(self, source: str, *, duck: bool) -> str:
        words = MEASURES if duck else {name: name for name in MEASURES}
        rows = f"(SELECT * FROM {source} UNION ALL SELECT * FROM {source} WHERE n = 3)" if self.union else source
        keys = list(self.keys)
        window = next((key for key in keys if key in WINDOWS), None)
        if duck and window:
            hours, begins = WINDOWS[window]
            rows = f"(SELECT *, unnest({begins}) AS begins FROM {rows} AS u WHERE t IS NOT NULL)"
            keys[keys.index(window)] = f'struct_pack("start" := begins, "end" := begins + INTERVAL {hours} HOURS)'
        group = f" GROUP BY {', '.join(keys)}" if keys else ""
        having = f" HAVING {self.having}" if self.having else ""
        return f"SELECT {', '.join(self.columns(words, keys))} FROM {rows} AS r WHERE {self.below}{group}{having}"

    def source(self, name: str) -> str:
        if self.form == "sql":
            query = self.sql("facts", duck=False)
            return f'@dp.materialized_view\ndef {name}():\n    return spark.sql("""{query}""")\n'
        rows = 'spark.read.table("shaped")' if self.form == "view" else 'spark.read.table("facts")'
        if self.union:
            rows = f"{rows}.union({rows}.filter('n = 3'))"
        keys = ", ".join(f"F.expr({key!r}).alias('g{i}')" for i, key in enumerate(self.keys))
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
    keys=st.lists(st.sampled_from([*KEYS, *WINDOWS]), max_size=2, unique=True)
    .filter(lambda keys: not set(WINDOWS) <= set(keys))
    .map(tuple),
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
        patch("lakelet.execution.distinct_values.BUCKET_ROWS", at_once),
        patch("lakelet.execution.distinct_values.LOOKED_UP_AT_ONCE", at_once),
    ):
        check_views([engine], views, steps, from_stream)


def check_views(engines: Sequence[Any], views: list[View], steps: list[Any], from_stream: bool) -> None:
    """Run updates, one engine after the other, and check each view after each of them."""
    with tempfile.TemporaryDirectory() as folder:
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
        named = {f"v{number}": view for number, view in enumerate(views)}
        parts = [HEAD, facts, shaped, *(view.source(name) for name, view in named.items()), above]
        (root / "pipeline" / "views.py").write_text("\n".join(parts))
        path = str(root / "data/Volumes/c/s/v/landing")
        is_undisturbed = True
        for number, (rows, deleted, point, after) in enumerate(steps):
            engine = engines[number % len(engines)]
            is_undisturbed = is_undisturbed and point is None and (deleted is None or from_stream)
            write_deltalake(path, pa.Table.from_pylist(rows, schema=COLUMNS), mode="append")
            if deleted and not from_stream:
                DeltaTable(path).delete(deleted)
            run(root, engine, point, after)
            pipeline = Pipeline(root, engine=engine)
            events: list[PipelineEvent] = []
            result = pipeline.run(subscribers=[events.append])
            assert result.exit_code == 0, [error.render() for error in result.errors]
            with duckdb.connect() as duck:
                duck.execute("SET TimeZone = 'UTC'")
                duck.register("landed", DeltaTable(path).to_pyarrow_table())
                for name, view in named.items():
                    query = duck.execute(view.sql("landed", duck=True))
                    names = [item[0] for item in query.description or ()]
                    wanted = [dict(zip(names, row, strict=True)) for row in query.fetchall()]
                    found = pipeline.table(name).to_pylist()
                    about = {f"m{i}": ABOUT[measure] for i, measure in enumerate(view.measures) if measure in ABOUT}
                    assert same(found, wanted, about=about), (view, pipeline.explain(name).render(), found, wanted)
                    if is_undisturbed and number:
                        assert techniques(events)[name][0] == "GROUP_AGGREGATE", (view, techniques(events))
            count = pipeline.table("v0").num_rows
            assert pipeline.table("above").to_pylist() == [{"count": count}]
