"""The law of incremental refreshes, of joins: facts that grow and dimensions that grow or change, joined in every way.

Random appends to both sides, deletes from the dimensions, compaction and removal of old files, and deaths. DuckDB computes the
same query over the rows that landed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

FACTS = pa.schema([("k", pa.string()), ("j", pa.int64()), ("n", pa.int64())])
DIMENSIONS = pa.schema([("k", pa.string()), ("j", pa.int64()), ("label", pa.string())])
JOINS = {  # Spark's name, DuckDB's, and whether the right side's columns are there
    "inner": ("inner", "INNER JOIN", True),
    "left": ("left", "LEFT JOIN", True),
    "right": ("right", "RIGHT JOIN", True),
    "full": ("full", "FULL JOIN", True),
    "left_semi": ("left_semi", "SEMI JOIN", False),
    "left_anti": ("left_anti", "ANTI JOIN", False),
}
CONDITIONS = ("l.k = r.k", "l.k = r.k AND l.n > r.j", "l.j = r.j AND l.k <> r.k")
FOLLOWED = {
    "inner": {"facts", "dims"},
    "left": {"facts"},
    "right": {"dims"},
    "left_semi": {"facts"},
    "left_anti": {"facts"},
}
"""The sides of a join of which appended rows are followed."""


@dataclass(frozen=True, kw_only=True)
class Join:
    """One random query over both tables, which both Spark and DuckDB understand."""

    how: str
    condition: str
    groups: bool
    below: str
    form: str

    def sql(self, *, duck: bool) -> str:
        spark, other, has_right = JOINS[self.how]
        word = other if duck else f"{spark.replace('_', ' ')} JOIN"
        label = "r.label" if has_right else "l.k"
        columns = f"{label} AS g, count(*) AS c, sum(l.n) AS s, count(DISTINCT l.n) AS d, min(l.j) AS m"
        if duck:
            columns = columns.replace("sum(l.n)", "CAST(sum(l.n) AS BIGINT)")
        if not self.groups:
            columns = f"l.k AS k, l.n AS n, {label} AS label"
        group = f" GROUP BY {label}" if self.groups else ""
        facts = f"(SELECT * FROM facts WHERE {self.below})"
        return f"SELECT {columns} FROM {facts} AS l {word} dims AS r ON {self.condition}{group}"

    def source(self, name: str) -> str:
        if self.form == "sql":
            return f'@dp.materialized_view\ndef {name}():\n    return spark.sql("""{self.sql(duck=False)}""")\n'
        label = "r.label" if JOINS[self.how][2] else "l.k"
        frame = (
            f"spark.read.table('facts').filter({self.below!r}).alias('l')"
            f".join(spark.read.table('dims').alias('r'), F.expr({self.condition!r}), '{JOINS[self.how][0]}')"
        )
        frame += (
            f".groupBy(F.col('{label}').alias('g')).agg(F.count('*').alias('c'), F.sum('l.n').alias('s'), "
            "F.countDistinct('l.n').alias('d'), F.min('l.j').alias('m'))"
            if self.groups
            else f".select(F.col('l.k').alias('k'), F.col('l.n').alias('n'), F.col('{label}').alias('label'))"
        )
        return f"@dp.materialized_view(name='{name}')\ndef {name}():\n    return {frame}\n"


VIEWS = st.builds(
    Join,
    how=st.sampled_from(list(JOINS)),
    condition=st.sampled_from(CONDITIONS),
    groups=st.booleans(),
    below=st.sampled_from(["TRUE", "n > 1", "k IS NOT NULL"]),
    form=st.sampled_from(["frame", "sql"]),
)
NUMBERS = st.one_of(st.none(), st.integers(0, 4))
KEYS = st.sampled_from([None, "a", "A", "b", ""])
FACT = st.fixed_dictionaries({"k": KEYS, "j": NUMBERS, "n": NUMBERS})
DIMENSION = st.fixed_dictionaries({"k": KEYS, "j": NUMBERS, "label": st.sampled_from([None, "x", "y"])})
STEPS = st.lists(
    st.tuples(
        st.lists(FACT, max_size=4),
        st.lists(DIMENSION, max_size=2),
        st.sampled_from([None, None, None, "deleted", "compacted", "tended"]),
        st.sampled_from([None, None, *POINTS]),
        st.integers(1, 2),
    ),
    min_size=2,
    max_size=5,
)


def tend(path: str) -> None:
    """Put the small files of a table together and remove the old ones; a stream would miss them."""
    table = DeltaTable(path)
    table.optimize.compact()
    table.vacuum(0, enforce_retention_duration=False, dry_run=False)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(
    views=st.lists(VIEWS, min_size=1, max_size=3),
    steps=STEPS,
    streams=st.sets(st.sampled_from(["facts", "dims"])),
    first=st.tuples(st.lists(FACT, min_size=1, max_size=3), st.lists(DIMENSION, min_size=1, max_size=3)),
)
def test_a_join_has_the_rows_of_its_query_whatever_came_before(
    engine: SailEngine, views: list[Join], steps: list[Any], streams: set[str], first: tuple[Any, Any]
) -> None:
    """Args: streams: which of both are streaming tables; the others are temporary views of the landed table."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "pipeline").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC)
        parts = [HEAD]
        for name in ("facts", "dims"):
            read = f'format("delta").load("/Volumes/c/s/v/{name}")'
            parts.append(
                f"@dp.table\ndef {name}():\n    return spark.readStream.{read}\n"
                if name in streams
                else f"@dp.temporary_view\ndef {name}():\n    return spark.read.{read}\n"
            )
        named = {f"v{number}": view for number, view in enumerate(views)}
        parts += [view.source(name) for name, view in named.items()]
        (root / "pipeline" / "views.py").write_text("\n".join(parts))
        paths = {name: str(root / "data/Volumes/c/s/v" / name) for name in ("facts", "dims")}
        is_undisturbed = True
        for number, (facts, dims, done, point, after) in enumerate([(*first, None, None, 1), *steps]):
            is_undisturbed = is_undisturbed and done is None and point is None
            grown = set()
            for name, rows, schema in (("facts", facts, FACTS), ("dims", dims, DIMENSIONS)):
                if rows:
                    write_deltalake(paths[name], pa.Table.from_pylist(rows, schema=schema), mode="append")
                    grown.add(name)
            if done == "deleted" and "dims" not in streams:
                DeltaTable(paths["dims"]).delete("label = 'x'")
            run(root, engine, point, after)
            pipeline = Pipeline(root, engine=engine)
            if done == "compacted":
                for name in paths.keys() - streams:
                    tend(paths[name])
            elif done == "tended":
                pipeline.maintain(retention_hours=0, log_retention_hours=0, allow_short_retention=True)
            events: list[PipelineEvent] = []
            result = pipeline.run(subscribers=[events.append])
            assert result.exit_code == 0, [error.render() for error in result.errors]
            with duckdb.connect() as duck:
                for name, path in paths.items():
                    duck.register(name, DeltaTable(path).to_pyarrow_table())
                for name, view in named.items():
                    query = duck.execute(view.sql(duck=True))
                    names = [item[0] for item in query.description or ()]
                    wanted = [dict(zip(names, row, strict=True)) for row in query.fetchall()]
                    found = pipeline.table(name).to_pylist()
                    assert same(found, wanted), (view, pipeline.explain(name).render(), found, wanted)
            if is_undisturbed and number and grown:
                for name, view in named.items():
                    follows = "GROUP_AGGREGATE" if view.groups else "APPEND_ONLY"
                    is_followed = grown <= FOLLOWED.get(view.how, set())
                    assert techniques(events)[name][0] == (follows if is_followed else "COMPLETE_RECOMPUTE"), view
