"""A Delta table as a stream: every row once, in slices that stay the same for ever."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lakelet.engine.base import Engine
from lakelet.errors import SourceError
from lakelet.execution import delta_source, slices
from lakelet.execution.delta_source import DeltaSource
from lakelet.execution.sources import Slice
from lakelet.plan.metadata import METADATA
from lakelet.plan.relation import relations
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Delta tables as streams")


def numbers(*ids: int, **columns: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids, pa.int64()), **columns})


def write(location: str, rows: pa.Table, **options: Any) -> None:
    write_deltalake(location, rows, mode=options.pop("mode", "append"), **options)


def source(location: str, **options: str) -> DeltaSource:
    lowered = {key.lower(): value for key, value in options.items()}
    return DeltaSource(location=location, label="orders", store=DeltaRsStore(), options=lowered)


def batches(stream: DeltaSource, after: Any = None, *, limit: int = 100) -> Iterator[Slice]:
    """Plan slice after slice until nothing is new, as the core loop does; offsets travel through JSON."""
    for _ in range(limit):
        piece = stream.plan(after, stream.head())
        if piece.is_empty:
            return
        yield piece
        after = json.loads(json.dumps(piece.end))
    raise AssertionError("the source never ends")


def rows(engine: Engine, stream: DeltaSource, piece: Slice, *, metadata: bool = False) -> pa.Table:
    start, end = json.loads(json.dumps([piece.start, piece.end]))
    return engine.collect(stream.rows(start, end, metadata=metadata))


def ids(engine: Engine, stream: DeltaSource, after: Any = None) -> list[list[int]]:
    return [sorted(rows(engine, stream, piece)["id"].to_pylist()) for piece in batches(stream, after)]


@pytest.fixture
def three_commits(location: str) -> str:
    """Versions 0, 1, 2 with the ids 1, 2 and 3."""
    for number in (1, 2, 3):
        write(location, numbers(number))
    return location


def edit_log(location: str, version: int, change: Any) -> None:
    """Rewrite the actions of one commit."""
    path = Path(location, "_delta_log", f"{version:020d}.json")
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(action) for action in change(actions)))


# -- slices -------------------------------------------------------------------------------------------------------


def test_a_batch_takes_several_versions(engine: Engine, three_commits: str) -> None:
    assert ids(engine, source(three_commits)) == [[1, 2, 3]]


def test_the_next_batch_starts_where_the_last_one_ended(engine: Engine, three_commits: str) -> None:
    first = next(batches(source(three_commits)))
    write(three_commits, numbers(4))
    write(three_commits, numbers(5))
    assert ids(engine, source(three_commits), first.end) == [[4, 5]]


def test_nothing_new_is_no_batch(three_commits: str) -> None:
    stream = source(three_commits)
    first = next(batches(stream))
    assert stream.plan(first.end, stream.head()).is_empty


def test_a_batch_never_goes_beyond_the_pinned_head(engine: Engine, three_commits: str) -> None:
    stream = source(three_commits)
    head = stream.head()
    write(three_commits, numbers(4))
    assert rows(engine, stream, stream.plan(None, head))["id"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize("files", [1, 2])
def test_max_files_per_trigger_splits_the_backlog(engine: Engine, three_commits: str, files: int) -> None:
    stream = source(three_commits, maxFilesPerTrigger=str(files))
    found = ids(engine, stream)
    assert [len(batch) for batch in found] == ([1, 1, 1] if files == 1 else [2, 1])
    assert sorted(itertools.chain(*found)) == [1, 2, 3]


def test_max_bytes_per_trigger_takes_at_least_one_file(engine: Engine, three_commits: str) -> None:
    assert [len(batch) for batch in ids(engine, source(three_commits, maxBytesPerTrigger="1b"))] == [1, 1, 1]
    assert [len(batch) for batch in ids(engine, source(three_commits, maxBytesPerTrigger="1 GB"))] == [3]


def test_starting_version_leaves_out_what_was_before(engine: Engine, three_commits: str) -> None:
    assert ids(engine, source(three_commits, startingVersion="1")) == [[2, 3]]


def test_latest_starts_with_what_comes_after_the_first_look(engine: Engine, three_commits: str) -> None:
    """The first look is a batch without rows; without it, rows between two updates were lost."""
    stream = source(three_commits, startingVersion="latest")
    first = list(batches(stream))
    assert [rows(engine, stream, piece).num_rows for piece in first] == [0]
    write(three_commits, numbers(4))
    again = source(three_commits, startingVersion="latest")
    assert ids(engine, again, first[0].end) == [[4]]


def test_a_table_without_rows_is_no_batch(location: str) -> None:
    write(location, numbers())
    assert list(batches(source(location))) == []


def test_commits_without_new_rows_are_no_batch(three_commits: str) -> None:
    stream = source(three_commits)
    first = next(batches(stream))
    DeltaTable(three_commits).alter.set_table_properties({"owner": "ann"}, raise_if_not_exists=False)
    assert list(batches(stream, first.end)) == []


def test_compaction_is_invisible(engine: Engine, three_commits: str) -> None:
    stream = source(three_commits)
    first = next(batches(stream))
    DeltaTable(three_commits).optimize.compact()
    write(three_commits, numbers(4))
    assert ids(engine, source(three_commits), first.end) == [[4]]
    assert sorted(itertools.chain(*ids(engine, source(three_commits)))) == [1, 2, 3, 4]


# -- rows that change ---------------------------------------------------------------------------------------------


def change(location: str, kind: str) -> None:
    table = DeltaTable(location)
    match kind:
        case "delete of one file":
            table.delete("id = 2")
        case "delete of all":
            table.delete()
        case "update":
            table.update(updates={"id": "id + 10"}, predicate="id = 2")
        case "overwrite":
            write(location, numbers(7), mode="overwrite")


@pytest.mark.parametrize("kind", ["delete of one file", "delete of all", "update", "overwrite"])
def test_a_commit_that_changes_rows_is_refused(three_commits: str, kind: str) -> None:
    stream = source(three_commits)
    first = next(batches(stream))
    change(three_commits, kind)
    with pytest.raises(SourceError) as raised:
        stream.plan(first.end, stream.head())
    assert raised.value.condition == "DELTA_SOURCE_TABLE_IGNORE_CHANGES"
    assert "version 3 of `orders`" in raised.value.message
    assert "skipChangeCommits" in (raised.value.hint or "")


def test_a_stream_that_starts_after_the_change_does_not_see_it(engine: Engine, three_commits: str) -> None:
    change(three_commits, "update")
    assert ids(engine, source(three_commits)) == [[1, 3, 12]]


@pytest.mark.parametrize("kind", ["delete of one file", "update", "overwrite"])
def test_skip_change_commits_leaves_the_whole_commit_out_and_says_so(
    engine: Engine, three_commits: str, kind: str
) -> None:
    stream = source(three_commits, skipChangeCommits="true")
    first = next(batches(stream))
    change(three_commits, kind)
    write(three_commits, numbers(4))
    later = list(batches(stream, first.end))
    assert [rows(engine, stream, piece)["id"].to_pylist() for piece in later] == [[4]]
    skipped = later[0].skipped
    assert skipped is not None and skipped.commits == (3,)
    counts = {"delete of one file": (0, 1), "update": (1, 1), "overwrite": (1, 3)}
    assert (skipped.num_added_rows, skipped.num_removed_rows) == counts[kind]


def test_ignore_deletes_takes_deletes_only(engine: Engine, three_commits: str) -> None:
    stream = source(three_commits, ignoreDeletes="true")
    first = next(batches(stream))
    change(three_commits, "delete of one file")
    write(three_commits, numbers(4))
    assert ids(engine, stream, first.end) == [[4]]
    DeltaTable(three_commits).update(updates={"id": "id + 10"}, predicate="id = 4")
    with pytest.raises(SourceError, match="DELTA_SOURCE_TABLE_IGNORE_CHANGES"):
        list(batches(stream, first.end))


# -- by a cluster -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata", [False, True])
def test_a_cluster_reads_the_files_however_small(engine: Engine, three_commits: str, metadata: bool) -> None:
    here, there = source(three_commits), source(three_commits)
    there.inline = False
    for piece in batches(there):
        relation = there.rows(piece.start, piece.end, metadata=metadata)
        assert not [item for item in relations(relation) if item.HasField("local_relation")]
        found, expected = engine.collect(relation), rows(engine, here, piece, metadata=metadata)
        assert found.sort_by("id").to_pylist() == expected.sort_by("id").to_pylist()


@pytest.mark.parametrize(
    ("partitioned", "metadata", "sizes"), [(False, False, [5, 2]), (True, False, [3, 3, 1]), (False, True, [3, 3, 1])]
)
def test_a_slice_of_a_cluster_has_many_files_or_a_few_scans(
    monkeypatch: pytest.MonkeyPatch, location: str, partitioned: bool, metadata: bool, sizes: list[int]
) -> None:
    monkeypatch.setattr(delta_source, "MAX_FILES_IN_CLUSTER", 5)
    monkeypatch.setattr(delta_source, "MAX_FILES_BY_ENGINE", 3)
    for number in range(7):
        write(location, numbers(number, part=[str(number)]), partition_by=["part"] if partitioned else None)
    stream = source(location, startingVersion="0")
    stream.inline, stream.metadata = False, metadata
    assert [piece.num_files for piece in batches(stream)] == sizes


# -- a source that is not what it was -----------------------------------------------------------------------------


def test_a_data_file_that_is_gone_is_an_error_not_a_smaller_slice(
    monkeypatch: pytest.MonkeyPatch, three_commits: str
) -> None:
    stream = source(three_commits)
    piece = next(batches(stream))
    next(Path(three_commits).glob("*.parquet")).unlink()
    for inline_bytes in (slices.INLINE_BYTES, 0):
        monkeypatch.setattr(slices, "INLINE_BYTES", inline_bytes)
        with pytest.raises(SourceError) as raised:
            stream.rows(piece.start, piece.end, metadata=False)
        assert raised.value.condition == "DATA_FILE_MISSING"


def test_a_data_file_with_fewer_rows_than_promised_is_an_error(
    monkeypatch: pytest.MonkeyPatch, three_commits: str
) -> None:
    import pyarrow.parquet as pq

    stream = source(three_commits)
    piece = next(batches(stream))
    file = next(Path(three_commits).glob("*.parquet"))
    pq.write_table(numbers(), file)
    for inline_bytes in (slices.INLINE_BYTES, 0):
        monkeypatch.setattr(slices, "INLINE_BYTES", inline_bytes)
        with pytest.raises(SourceError) as raised:
            stream.rows(piece.start, piece.end, metadata=False)
        assert raised.value.condition == "DATA_FILE_INCOMPLETE"


def test_a_log_that_was_cleaned_up_before_it_was_read_is_an_error(three_commits: str) -> None:
    stream = source(three_commits, startingVersion="0", maxFilesPerTrigger="1")
    first = next(batches(stream))
    DeltaTable(three_commits).create_checkpoint()
    Path(three_commits, "_delta_log", f"{1:020d}.json").unlink()
    with pytest.raises(SourceError) as raised:
        stream.plan(first.end, stream.head())
    assert raised.value.condition == "SOURCE_LOG_MISSING"
    assert "--full-refresh" in (raised.value.hint or "")


def test_a_table_that_was_written_anew_is_an_error(three_commits: str) -> None:
    stream = source(three_commits)
    first = next(batches(stream))
    shutil.rmtree(three_commits)
    for number in range(5):
        write(three_commits, numbers(number))
    again = source(three_commits)
    with pytest.raises(SourceError, match="SOURCE_TABLE_REPLACED"):
        again.plan(first.end, again.head())


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "is empty"),
        (lambda folder: (folder.mkdir(), (folder / "rows.json").write_text("{}")), "no `_delta_log`"),
    ],
    ids=["missing", "empty", "not Delta"],
)
def test_where_no_table_is_the_error_says_what_is_there(location: str, make: Any, cause: str) -> None:
    make(Path(location))
    stream = source(location)
    assert stream.head() is None
    with pytest.raises(SourceError) as raised:
        stream.plan(None, stream.head())
    assert raised.value.condition == "DELTA_TABLE_NOT_FOUND"
    assert cause in (raised.value.cause or "")


def test_deletion_vectors_are_refused_instead_of_giving_deleted_rows_back(three_commits: str) -> None:
    stream = source(three_commits, startingVersion="0")
    piece = next(batches(stream))

    def with_vector(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for action in actions:
            if "add" in action:
                action["add"]["deletionVector"] = {
                    "storageType": "u",
                    "pathOrInlineDv": "x",
                    "sizeInBytes": 36,
                    "offset": 1,
                    "cardinality": 1,
                }
        features = ["deletionVectors"]
        protocol = {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": features,
            "writerFeatures": features,
        }
        return [*actions, {"protocol": protocol}]

    edit_log(three_commits, 2, with_vector)
    with pytest.raises(SourceError, match="DELETION_VECTORS_UNSUPPORTED"):
        stream.rows(piece.start, piece.end, metadata=False)
    with pytest.raises(SourceError, match="DELETION_VECTORS_UNSUPPORTED"):
        next(batches(source(three_commits)))


def test_column_mapping_is_refused_instead_of_reading_nulls(three_commits: str) -> None:
    def mapped(actions: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for action in actions:
            if "metaData" in action:
                action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
        return actions

    edit_log(three_commits, 0, mapped)
    with pytest.raises(SourceError, match="COLUMN_MAPPING_UNSUPPORTED"):
        stream = source(three_commits)
        piece = next(batches(stream))
        stream.rows(piece.start, piece.end, metadata=False)


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"maxFilesPerTrigger": "0"}, "INVALID_OPTION"),
        ({"maxBytesPerTrigger": "much"}, "INVALID_OPTION"),
        ({"startingVersion": "first"}, "INVALID_OPTION"),
        ({"skipChangeCommit": "true"}, "UNKNOWN_OPTION"),
        ({"schemaTrackingLocation": "/tmp/x"}, "UNSUPPORTED_OPTION"),
        ({"readChangeFeed": "maybe"}, "INVALID_OPTION"),
        ({"versionAsOf": "1"}, "UNKNOWN_OPTION"),
        ({"startingTimestamp": "yesterday"}, "INVALID_OPTION"),
        ({"startingTimestamp": "2024-01-01", "startingVersion": "0"}, "INVALID_OPTION"),
        ({"excludeRegex": "("}, "INVALID_OPTION"),
    ],
)
def test_options_are_checked_before_anything_is_read(
    three_commits: str, options: Mapping[str, str], condition: str
) -> None:
    with pytest.raises(SourceError) as raised:
        source(three_commits, **options)
    assert raised.value.condition == condition


# -- columns ------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["inline", "by engine"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small slices travel inside the plan, big ones are read by the engine: both must give the same."""
    if request.param == "by engine":
        monkeypatch.setattr(slices, "INLINE_BYTES", 0)
    return str(request.param)


@pytest.mark.usefixtures("reading")
def test_a_new_column_is_null_in_the_rows_of_old_files(engine: Engine, location: str) -> None:
    write(location, numbers(1))
    write(location, numbers(2, coupon=["X"]), schema_mode="merge")
    stream = source(location)
    found = rows(engine, stream, next(batches(stream)))
    assert sorted(found.to_pylist(), key=lambda row: row["id"]) == [{"id": 1, "coupon": None}, {"id": 2, "coupon": "X"}]


@pytest.mark.usefixtures("reading")
def test_a_slice_before_a_schema_change_still_has_its_rows_after_it(engine: Engine, location: str) -> None:
    write(location, numbers(1))
    stream = source(location)
    piece = next(batches(stream))
    write(location, numbers(2, coupon=["X"]), schema_mode="merge")
    assert rows(engine, source(location), piece)["id"].to_pylist() == [1]


@pytest.mark.usefixtures("reading")
def test_the_order_of_columns_in_a_file_does_not_matter(engine: Engine, location: str) -> None:
    write(location, pa.table({"a": ["a1"], "b": ["b1"]}))
    write(location, pa.table({"b": ["b2"], "a": ["a2"]}))
    stream = source(location)
    found = rows(engine, stream, next(batches(stream)))
    assert found.column_names == ["a", "b"]
    assert sorted(found.to_pylist(), key=str) == [{"a": "a1", "b": "b1"}, {"a": "a2", "b": "b2"}]


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("metadata", [False, True])
def test_partition_columns_come_from_the_log(engine: Engine, location: str, metadata: bool) -> None:
    keys = ["a b", "a%20b", "ü/x=y", "it's", "*?[{\\", '"', None]
    write(location, pa.table({"k": keys[:4], "id": [0, 1, 2, 3]}), partition_by=["k"])
    write(location, pa.table({"k": keys[4:], "id": [4, 5, 6]}))
    snapshot, later = source(location), source(location, startingVersion="0")
    for stream in (snapshot, later):
        found = rows(engine, stream, next(batches(stream)), metadata=metadata)
        assert found.column_names[:2] == ["k", "id"]
        assert {row["id"]: row["k"] for row in found.to_pylist()} == dict(enumerate(keys))


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.date32(), date(2024, 2, 29)),
        (pa.timestamp("us", "UTC"), datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC)),
        (pa.timestamp("us"), datetime(2024, 1, 1, 1, 2, 3, 4)),
        (pa.decimal128(10, 2), Decimal("1.50")),
        (pa.bool_(), True),
        (pa.int32(), -1),
        (pa.float64(), 0.5),
    ],
)
def test_partition_values_have_the_columns_type(engine: Engine, location: str, kind: pa.DataType, value: Any) -> None:
    """A timestamp stands in the log without a zone."""
    write(location, pa.table({"k": pa.array([value, None], kind), "id": [1, 2]}), partition_by=["k"])
    for stream in (source(location), source(location, startingVersion="0")):
        found = rows(engine, stream, next(batches(stream)))
        assert {row["id"]: row["k"] for row in found.to_pylist()} == {1: value, 2: None}


EVERY_TYPE = pa.table(
    {
        "id": pa.array([1, 2], pa.int64()),
        "byte": pa.array([1, None], pa.int8()),
        "small": pa.array([1, None], pa.int16()),
        "number": pa.array([1, None], pa.int32()),
        "real": pa.array([1.5, None], pa.float32()),
        "double": pa.array([float("inf"), None], pa.float64()),
        "price": pa.array([Decimal("12345.67"), None], pa.decimal128(20, 2)),
        "text": ["", None],
        "flag": [True, None],
        "raw": pa.array([b"\x00\xff", None], pa.binary()),
        "day": pa.array([date(1969, 12, 31), None]),
        "at": pa.array([datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC), None], pa.timestamp("us", "UTC")),
        "local": pa.array([datetime(2024, 3, 31, 2, 30), None], pa.timestamp("us")),
        "item": pa.array([{"sku": "a", "count": 1}, None], pa.struct([("sku", pa.string()), ("count", pa.int32())])),
        "tags": pa.array([["x", None], []], pa.list_(pa.string())),
        "items": pa.array([[{"sku": "a"}], None], pa.list_(pa.struct([("sku", pa.string())]))),
        "prices": pa.array([[("eur", 1.0)], None], pa.map_(pa.string(), pa.float64())),
    }
)


@pytest.mark.usefixtures("reading")
@pytest.mark.parametrize("metadata", [False, True])
def test_values_of_every_type_arrive_as_they_were_written(engine: Engine, location: str, metadata: bool) -> None:
    write(location, EVERY_TYPE)
    stream = source(location)
    found = rows(engine, stream, next(batches(stream)), metadata=metadata).sort_by("id")
    assert found.drop_columns([METADATA] if metadata else []).to_pylist() == EVERY_TYPE.to_pylist()
    assert str(found.schema.field("local").type) == "timestamp[us]"
    assert str(found.schema.field("at").type) == "timestamp[us, tz=UTC]"


def test_file_metadata_is_the_same_inline_and_by_engine(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    location = str(tmp_path / "my it's 50% shop")
    write(location, pa.table({"k": ["a b", "c"], "id": [1, 2]}), partition_by=["k"])
    write(location, pa.table({"k": ["c"], "id": [3]}))
    stream = source(location)
    piece = next(batches(stream))
    found = []
    for inline_bytes in (slices.INLINE_BYTES, 0):
        monkeypatch.setattr(slices, "INLINE_BYTES", inline_bytes)
        found.append(rows(engine, stream, piece, metadata=True).sort_by("id").to_pylist())
    assert found[0] == found[1]
    first = found[0][0][METADATA]
    assert first["file_path"].startswith("file:///") and "my%20it%27s%2050%25%20shop" in first["file_path"]
    assert first["file_name"] in {path.name for path in Path(location).rglob("*.parquet")}
    assert first["file_size"] > 0 and first["file_modification_time"].year >= 2024


def test_a_slice_of_many_files_is_read_by_the_engine_with_metadata(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    monkeypatch.setattr(slices, "INLINE_BYTES", 0)
    write(location, pa.table({"k": list(range(60)), "id": list(range(60))}), partition_by=["k"])
    stream = source(location)
    found = rows(engine, stream, next(batches(stream)), metadata=True)
    assert sorted(found["id"].to_pylist()) == list(range(60))
    assert len({row["file_name"] for row in found[METADATA].to_pylist()}) == 60


# -- the law ------------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 3)),
        st.tuples(st.just("compact"), st.just(0)),
        st.tuples(st.just("property"), st.integers(0, 9)),
        st.tuples(st.just("read"), st.integers(1, 4)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, starting=st.sampled_from([{}, {"startingVersion": "0"}]))
def test_slices_are_the_table_each_row_once_and_stay_so(
    engine: Engine, steps: list[tuple[str, int]], starting: dict[str, str]
) -> None:
    """Whatever happens between the reads: the union of all slices is the table, and a slice read later is the same."""
    counter = itertools.count()
    with contextlib.ExitStack() as stack:
        location = stack.enter_context(tempfile.TemporaryDirectory()) + "/table"
        write(location, numbers(next(counter)))
        after: Any = None
        read: list[tuple[Slice, list[int]]] = []
        for step, number in [*steps, ("read", 100)]:
            match step:
                case "append":
                    write(location, numbers(*(next(counter) for _ in range(number))))
                case "compact":
                    DeltaTable(location).optimize.compact()
                case "property":
                    DeltaTable(location).alter.set_table_properties({"n": str(number)}, raise_if_not_exists=False)
                case "read":
                    stream = source(location, maxFilesPerTrigger=str(number), **starting)
                    for piece in batches(stream, after):
                        after = piece.end
                        read.append((piece, sorted(rows(engine, stream, piece)["id"].to_pylist())))
        assert sorted(itertools.chain(*(found for _, found in read))) == list(range(next(counter)))
        later = source(location, **starting)
        for piece, found in read:
            assert sorted(rows(engine, later, piece)["id"].to_pylist()) == found


# -- options ------------------------------------------------------------------------------------------------------


def committed_at(location: str, version: int) -> datetime:
    history = {item["version"]: item["timestamp"] for item in DeltaTable(location).history()}
    return datetime.fromtimestamp(history[version] / 1000, UTC)


def test_a_starting_timestamp_means_the_first_commit_at_or_after_it(engine: Engine, three_commits: str) -> None:
    at = committed_at(three_commits, 1)
    assert ids(engine, source(three_commits, startingTimestamp=at.isoformat())) == [[2, 3]]
    with pytest.raises(SourceError, match="DELTA_TIMESTAMP_GREATER_THAN_COMMIT"):
        list(batches(source(three_commits, startingTimestamp="2999-12-31")))


def test_exclude_regex_leaves_files_out_by_their_path(engine: Engine, tmp_path: Path) -> None:
    location = str(tmp_path / "by_shop")
    write(location, numbers(1, 2, shop=["n", "s"]), partition_by=["shop"])
    stream = source(location, excludeRegex="^shop=s/")
    [snapshot] = batches(stream)
    assert rows(engine, stream, snapshot)["id"].to_pylist() == [1]
    write(location, numbers(3, 4, shop=["s", "n"]))
    assert ids(engine, stream, snapshot.end) == [[4]]


def test_a_lost_version_is_left_out_only_if_the_user_says_so(engine: Engine, three_commits: str) -> None:
    first = next(batches(source(three_commits)))
    write(three_commits, numbers(4))
    write(three_commits, numbers(5))
    DeltaTable(three_commits).create_checkpoint()
    for version in range(4):
        (Path(three_commits) / "_delta_log" / f"{version:020d}.json").unlink()
    stream = source(three_commits, failOnDataLoss="false")
    [later] = batches(stream, first.end)
    assert later.skipped is not None and later.skipped.lost == (3,)
    assert rows(engine, stream, later)["id"].to_pylist() == [5]
    with pytest.raises(SourceError, match="SOURCE_LOG_MISSING"):
        list(batches(source(three_commits), first.end))


def test_event_time_order_reads_the_snapshot_at_once(engine: Engine, three_commits: str) -> None:
    assert len(ids(engine, source(three_commits, maxFilesPerTrigger="1"))) == 3
    ordered = source(three_commits, maxFilesPerTrigger="1", withEventTimeOrder="true")
    assert ids(engine, ordered) == [[1, 2, 3]]
