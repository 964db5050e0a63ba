"""The change feed of a Delta table: the changes of every commit, once, as its log promises them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelet.engine.base import Engine
from lakelet.errors import SourceError
from lakelet.execution import slices
from lakelet.execution.change_feed import ChangeFeedSource, changes_between
from lakelet.execution.sources import Slice
from lakelet.storage.base import TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Change feeds of Delta tables")

SCHEMA = pa.schema([("id", pa.int64()), ("shop", pa.string()), ("value", pa.string())])
ENABLED = {"delta.enableChangeDataFeed": "true"}


def create(location: str, *, properties: dict[str, str] = ENABLED, partition_cols: tuple[str, ...] = ()) -> str:
    definition = TableDefinition(schema=SCHEMA, properties=properties, partition_cols=partition_cols)
    DeltaRsStore().create(location, definition)
    return location


def rows_of(*rows: tuple[int, str, str | None]) -> pa.Table:
    return pa.table([list(column) for column in zip(*rows, strict=True)] if rows else [[], [], []], schema=SCHEMA)


def append(location: str, *rows: tuple[int, str, str | None]) -> None:
    table = DeltaRsStore().open(location)
    assert table is not None
    table.append(rows_of(*rows))


def source(location: str, **options: str) -> ChangeFeedSource:
    lowered = {"readchangefeed": "true", **{key.lower(): value for key, value in options.items()}}
    return ChangeFeedSource(location=location, label="orders", store=DeltaRsStore(), options=lowered)


def batches(stream: ChangeFeedSource, after: Any = None) -> Iterator[Slice]:
    while not (piece := stream.plan(after, stream.head())).is_empty:
        yield piece
        after = json.loads(json.dumps(piece.end))


def changes(engine: Engine, stream: ChangeFeedSource, after: Any = None) -> list[list[tuple[Any, ...]]]:
    """Return (version, type, id, value) of each batch, sorted."""
    found = []
    for piece in batches(stream, after):
        start, end = json.loads(json.dumps([piece.start, piece.end]))
        rows = engine.collect(stream.rows(start, end, metadata=False)).to_pylist()
        found.append(sorted((row["_commit_version"], row["_change_type"], row["id"], row["value"]) for row in rows))
    return found


@pytest.fixture
def location(tmp_path: Path) -> str:
    return create(str(tmp_path / "orders"))


def test_without_a_start_the_snapshot_comes_first_as_inserts(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"), (2, "n", "b"))
    append(location, (3, "s", "c"))
    stream = source(location)
    [snapshot] = batches(stream)
    assert changes(engine, stream) == [[(2, "insert", 1, "a"), (2, "insert", 2, "b"), (2, "insert", 3, "c")]]
    DeltaTable(location).update(updates={"value": "'B'"}, predicate="id = 2")
    DeltaTable(location).delete("id = 1")
    assert changes(engine, stream, snapshot.end) == [
        [(3, "update_postimage", 2, "B"), (3, "update_preimage", 2, "b"), (4, "delete", 1, "a")]
    ]


def test_from_a_version_only_its_changes_and_later_ones_come(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"))
    append(location, (2, "n", "b"))
    assert changes(engine, source(location, startingVersion="2")) == [[(2, "insert", 2, "b")]]
    stream = source(location, startingVersion="latest")
    [nothing] = batches(stream)
    assert changes(engine, source(location, startingVersion="latest")) == [[]]
    append(location, (3, "n", "c"))
    assert changes(engine, stream, nothing.end) == [[(3, "insert", 3, "c")]]


def test_a_swap_of_the_whole_table_is_deletes_and_inserts(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"), (2, "n", "b"))
    table = DeltaRsStore().open(location)
    assert table is not None
    table.replace(rows_of((2, "n", "b"), (3, "n", "c")))
    assert changes(engine, source(location, startingVersion="2")) == [
        [(2, "delete", 1, "a"), (2, "delete", 2, "b"), (2, "insert", 2, "b"), (2, "insert", 3, "c")]
    ]


def test_compaction_changes_nothing(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"))
    append(location, (2, "n", "b"))
    DeltaTable(location).optimize.compact()
    append(location, (3, "n", "c"))
    assert changes(engine, source(location, startingVersion="3")) == [[(4, "insert", 3, "c")]]


def test_both_images_of_an_update_are_in_one_batch(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"))
    DeltaTable(location).update(updates={"value": "'b'"}, predicate="id = 1")
    append(location, (2, "n", "c"))
    stream = source(location, startingVersion="0", maxFilesPerTrigger="1")
    assert changes(engine, stream) == [
        [(1, "insert", 1, "a")],
        [(2, "update_postimage", 1, "b"), (2, "update_preimage", 1, "a")],
        [(3, "insert", 2, "c")],
    ]


def test_the_timestamp_is_that_of_the_commit(engine: Engine, location: str) -> None:
    append(location, (1, "n", "a"))
    [piece] = batches(source(location, startingVersion="1"))
    at = engine.collect(source(location).rows(piece.start, piece.end, metadata=False))["_commit_timestamp"][0].as_py()
    info = DeltaTable(location).history(1)[0]
    assert at == datetime.fromtimestamp(info["timestamp"] / 1000, UTC)


def test_a_table_without_change_feed_is_refused(tmp_path: Path) -> None:
    plain = create(str(tmp_path / "plain"), properties={})
    append(plain, (1, "n", "a"))
    with pytest.raises(SourceError, match="DELTA_MISSING_CHANGE_DATA"):
        list(batches(source(plain)))
    DeltaTable(plain).alter.set_table_properties(ENABLED)
    append(plain, (2, "n", "b"))
    assert len(list(batches(source(plain)))) == 1
    assert len(list(batches(source(plain, startingVersion="2")))) == 1
    with pytest.raises(SourceError, match="DELTA_MISSING_CHANGE_DATA"):
        list(batches(source(plain, startingVersion="0")))


def test_a_column_with_the_name_of_the_feed_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path / "t")
    write_deltalake(folder, pa.table({"_change_type": ["x"]}), configuration=ENABLED)
    stream = source(folder)
    [piece] = batches(stream)
    with pytest.raises(SourceError, match="COLUMN_ALREADY_EXISTS"):
        stream.rows(piece.start, piece.end, metadata=False)


# -- as a table ---------------------------------------------------------------------------------------------------


def as_table(engine: Engine, location: str, **options: str) -> list[tuple[Any, ...]]:
    lowered = {"readchangefeed": "true", **{key.lower(): value for key, value in options.items()}}
    newest = DeltaTable(location).version()
    rows = changes_between(location, "orders", DeltaRsStore(), lowered, newest=newest, metadata=False)
    return sorted((row["_commit_version"], row["_change_type"], row["id"]) for row in engine.collect(rows).to_pylist())


def test_a_range_of_versions_is_read_both_ends_included(engine: Engine, location: str) -> None:
    for number in range(1, 5):
        append(location, (number, "n", "a"))
    assert as_table(engine, location, startingVersion="2", endingVersion="3") == [(2, "insert", 2), (3, "insert", 3)]
    assert len(as_table(engine, location, startingVersion="1")) == 4
    history = {item["version"]: item["timestamp"] for item in DeltaTable(location).history()}
    instant = datetime.fromtimestamp(history[3] / 1000, UTC).isoformat()
    assert as_table(engine, location, startingTimestamp=instant) == [(3, "insert", 3), (4, "insert", 4)]
    assert as_table(engine, location, startingVersion="2", endingTimestamp=instant) == [
        (2, "insert", 2),
        (3, "insert", 3),
    ]


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"startingVersion": "9"}, "DELTA_VERSION_NOT_FOUND"),
        ({"startingVersion": "2", "endingVersion": "1"}, "DELTA_INVALID_CDC_RANGE"),
        ({"startingTimestamp": "2999-01-01"}, "DELTA_TIMESTAMP_GREATER_THAN_COMMIT"),
        ({"startingVersion": "0", "endingTimestamp": "1999-01-01"}, "DELTA_TIMESTAMP_EARLIER_THAN_COMMIT"),
    ],
)
def test_a_range_that_is_none_is_refused(
    engine: Engine, location: str, options: dict[str, str], condition: str
) -> None:
    append(location, (1, "n", "a"))
    append(location, (2, "n", "a"))
    with pytest.raises(SourceError, match=condition):
        as_table(engine, location, **options)


# -- law ----------------------------------------------------------------------------------------------------------

ROW = st.tuples(st.integers(1, 6), st.sampled_from("ns"), st.sampled_from(["a", "b", None]))
CHANGE = st.one_of(
    st.tuples(st.just("append"), st.lists(ROW, max_size=3)),
    st.tuples(st.just("merge"), st.dictionaries(st.integers(1, 6), st.sampled_from(["U", "D"]), min_size=1)),
    st.tuples(st.just("replace"), st.lists(ROW, max_size=3)),
    st.tuples(st.just("delete"), st.integers(1, 6)),
    st.tuples(st.just("update"), st.integers(1, 6)),
    st.tuples(st.just("compact"), st.none()),
)


def do(location: str, kind: str, value: Any) -> None:
    table = DeltaRsStore().open(location)
    assert table is not None
    match kind:
        case "append":
            table.append(rows_of(*value))
        case "replace":
            table.replace(rows_of(*value))
        case "merge":
            unique = Counter(table.rows()["id"].to_pylist())
            ops = {key: op for key, op in value.items() if unique[key] <= 1}
            if ops:
                found = rows_of(*((key, "n", f"m{key}") for key in ops)).append_column("__op", pa.array(ops.values()))
                table.merge(found, keys=("id",))
        case "delete":
            table.delta.delete(f"id = {value}")
        case "update":
            table.delta.update(updates={"value": "'u'"}, predicate=f"id = {value}")
        case "compact":
            table.compact()


@pytest.mark.parametrize("reading", ["inline", "by engine"])
@given(steps=st.lists(CHANGE, min_size=1, max_size=5), partitioned=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_changes_of_a_version_lead_from_the_rows_before_to_the_rows_after(
    engine: Engine, reading: str, steps: list[tuple[str, Any]], partitioned: bool
) -> None:
    folder = tempfile.mkdtemp()
    limit, slices.INLINE_BYTES = slices.INLINE_BYTES, 4 * 2**20 if reading == "inline" else 0
    try:
        location = create(f"{folder}/orders", partition_cols=("shop",) if partitioned else ())
        for kind, value in steps:
            do(location, kind, value)
        stream = source(location, startingVersion="0", maxFilesPerTrigger="2")
        now: Counter[tuple[Any, ...]] = Counter()
        by_version: dict[int, list[dict[str, Any]]] = {}
        for piece in batches(stream):
            for row in engine.collect(stream.rows(piece.start, piece.end, metadata=False)).to_pylist():
                by_version.setdefault(row["_commit_version"], []).append(row)
        for version in range(1, DeltaTable(location).version() + 1):
            for row in by_version.get(version, []):
                step = 1 if row["_change_type"] in ("insert", "update_postimage") else -1
                now[row["id"], row["shop"], row["value"]] += step
            stored = DeltaTable(location, version=version).to_pyarrow_table().select(SCHEMA.names).to_pylist()
            assert {key: n for key, n in now.items() if n} == Counter(tuple(row.values()) for row in stored)
    finally:
        slices.INLINE_BYTES = limit
        shutil.rmtree(folder)
