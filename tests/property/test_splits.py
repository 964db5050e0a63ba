"""How events were cut into commits, in which order they came and how often: nothing downstream may depend on it.

A pipeline of one bronze table, one AUTO CDC flow and one materialized view, over one small set of events.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelet.pipeline import Pipeline

TRANSFORMATIONS = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F


@dp.table
@dp.expect("known_city", "city IN ('rome', 'oslo')")
def bronze_changes():
    return spark.readStream.format("delta").load("/Volumes/c/s/v/changes")


dp.create_streaming_table("silver_people")
dp.create_auto_cdc_flow(
    target="silver_people",
    source="bronze_changes",
    keys=["id"],
    sequence_by="at",
    ignore_null_updates=True,
    except_column_list=["at"],
    stored_as_scd_type=2,
    track_history_column_list=["name", "city"],
)


@dp.materialized_view
def gold_cities():
    people = spark.read.table("silver_people").filter("__END_AT IS NULL")
    return people.groupBy("city").agg(F.count("*").alias("people"), F.sum("points").alias("points"))
"""
SCHEMA = pa.schema(
    [("id", pa.int32()), ("at", pa.int64()), ("name", pa.string()), ("city", pa.string()), ("points", pa.int64())]
)
Event = tuple[int, int, str | None, str | None, int | None]

EVENTS: tuple[Event, ...] = (
    (1, 10, "Ann", "rome", 1),
    (1, 20, None, "oslo", 2),
    (1, 30, None, None, 3),
    (1, 40, "Ann", "rome", None),
    (2, 10, None, "oslo", 5),
    (2, 10, "Bob", None, 4),  # ties with the event above, which loses: NULL is the smallest
    (2, 15, "Bo", "oslo", 4),
    (2, 15, "Bo", "oslo", 7),
    (3, 5, None, None, None),
    (3, 50, "Cy", "paris", 9),
    (4, 1, "Di", "rome", 1),
    (4, 2, "Di", "rome", 2),
    (4, 3, "Di", "oslo", 3),
    (4, 4, "Di", "rome", 4),
)


def silver() -> set[tuple[Any, ...]]:
    """Return the history of `EVENTS` by the plainest reading of the rules: sort, fill, and look for what changed."""
    by_key: dict[int, dict[int, list[Event]]] = defaultdict(lambda: defaultdict(list))
    for event in EVENTS:
        by_key[event[0]][event[1]].append(event)
    rows = set()
    for key, instants in by_key.items():
        versions: list[list[Any]] = []
        name = city = points = None
        for at in sorted(instants):
            # Alphabetical order of the columns decides a tie: city, name, points.
            best = max(instants[at], key=lambda e: tuple((e[i] is not None, e[i]) for i in (3, 2, 4)))
            before = name, city
            name, city = best[2] or name, best[3] or city
            points = points if best[4] is None else best[4]
            if versions and before == (name, city):
                versions[-1][3] = points
                continue
            if versions:
                versions[-1][5] = at
            versions.append([key, name, city, points, at, None])
        rows |= {tuple(version) for version in versions}
    return rows


def gold() -> set[tuple[Any, ...]]:
    current = [row for row in silver() if row[5] is None]
    cities = {row[2] for row in current}
    return {
        (city, sum(row[2] == city for row in current), sum(row[3] for row in current if row[2] == city))
        for city in cities
    }


@dataclass(frozen=True, slots=True)
class Delivery:
    """Commits to the landing table, before which an update runs, and the size of its micro-batches."""

    commits: list[list[Event]]
    updates: list[bool]
    size: str


@st.composite
def deliveries(draw: st.DrawFn) -> Delivery:
    events = list(draw(st.permutations(EVENTS)))
    events += draw(st.lists(st.sampled_from(EVENTS), max_size=6))
    cuts = sorted(draw(st.lists(st.integers(1, len(events) - 1), max_size=4, unique=True)))
    edges = [0, *cuts, len(events)]
    commits = [events[start:end] for start, end in pairwise(edges)]
    if draw(st.booleans()):
        commits.append(draw(st.sampled_from(commits)))  # a whole commit again
    updates = draw(st.lists(st.booleans(), min_size=len(commits), max_size=len(commits)))
    return Delivery(commits, updates, draw(st.sampled_from(["1b", "64mb"])))


def table(events: list[Event]) -> pa.Table:
    return pa.table(
        {field.name: pa.array([event[at] for event in events], field.type) for at, field in enumerate(SCHEMA)},
        schema=SCHEMA,
    )


def rows_of(location: Path, *columns: str) -> list[tuple[Any, ...]]:
    found = DeltaTable(str(location)).to_pyarrow_table()
    return [tuple(row[name] for name in columns) for row in found.to_pylist()]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("splits")
    (root / "transformations").mkdir()
    (root / "transformations" / "people.py").write_text(TRANSFORMATIONS)
    (root / "spark-pipeline.yml").write_text(
        "name: splits\nstorage: storage\ncatalog: c\ndatabase: s\nlibraries:\n  - glob: {include: transformations/**}\n"
    )
    yield root


@settings(
    max_examples=12,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(delivery=deliveries())
def test_splitting_reordering_and_replaying_commits_changes_no_row(project: Path, delivery: Delivery) -> None:
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        with Pipeline(
            project, storage=storage, configuration={"lakelet.maxBytesPerTrigger": delivery.size}
        ) as pipeline:
            for commit, updates in zip(delivery.commits, delivery.updates, strict=True):
                write_deltalake(str(storage / "Volumes/c/s/v/changes"), table(commit), mode="append")
                if updates:
                    assert pipeline.run().exit_code == 0
            assert pipeline.run().exit_code == 0
        tables = storage / "tables/c/s"
        landed = sorted(repr(event) for commit in delivery.commits for event in commit)
        assert sorted(map(repr, rows_of(tables / "bronze_changes", *SCHEMA.names))) == landed
        people = rows_of(tables / "silver_people", "id", "name", "city", "points", "__START_AT", "__END_AT")
        assert sorted(map(repr, people)) == sorted(map(repr, silver()))
        cities = rows_of(tables / "gold_cities", "city", "people", "points")
        assert sorted(map(repr, cities)) == sorted(map(repr, gold()))
