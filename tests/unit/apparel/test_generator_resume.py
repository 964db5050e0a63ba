"""Dying at any commit and starting again: nothing collides, nothing is referenced that is not there."""

import json
import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake

from apparel.generator.landing import LandingChangedError, landing_folder, max_id
from apparel.generator.model import DIMENSIONS, Stream
from apparel.generator.settings import Dirt, Span
from lakelet.errors import LakeletError


class Killed(BaseException):
    """What a kill looks like from inside."""


class DyingLanding:
    """Passes commits on, and dies right before or right after one of them."""

    def __init__(self, inner, *, at, after_commit):
        self.inner, self.left, self.after_commit = inner, at, after_commit

    def read_state(self, stream):
        return self.inner.read_state(stream)

    def append(self, stream, rows, *, after):
        self.left -= 1
        if self.left == 0 and not self.after_commit:
            raise Killed
        version = self.inner.append(stream, rows, after=after)
        if self.left == 0:
            raise Killed
        return version


def assert_sound(rows_of, *, sales):
    """Every transaction once, no gap, every reference known; every new dimension id new."""
    assert sorted(rows_of(Stream.SALES)["transaction_id"].to_pylist()) == list(range(1, sales + 1))
    for stream in DIMENSIONS:
        ids = set(rows_of(stream)[stream.key].to_pylist())
        assert set(rows_of(Stream.SALES)[stream.key].to_pylist()) <= ids
        assert ids == set(range(1, len(ids) + 1))


# The first batch makes 3 bootstrap commits, 3 of changes and 1 of sales; the second the last 4.
@pytest.mark.parametrize("after_commit", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", range(1, 12))
def test_a_restart_resumes_whatever_commit_the_previous_run_died_at(memory, generator, at, after_commit):
    settings = {"store_changes": Span(5, 5), "sales_per_batch": 50}
    dying = generator(DyingLanding(memory, at=at, after_commit=after_commit), **settings)
    with pytest.raises(Killed):
        for _ in range(2):
            dying.write_batch()
    before = memory.rows(Stream.SALES).num_rows
    resumed = generator(memory, **settings)
    assert resumed.next_transaction_id == before + 1
    resumed.write_batch()
    resumed.write_batch()
    assert_sound(memory.rows, sales=before + 100)
    for stream, column in [(Stream.CUSTOMERS, "address"), (Stream.STORES, "address")]:
        values = memory.rows(stream)[column]
        assert pc.count_distinct(values).as_py() == len(values), "a row of the dead run came again"


@pytest.mark.parametrize("at", [1, 4, 7, 9])
def test_tables_on_disk_resume_like_those_in_memory(landing, generator, read, at):
    dying = generator(DyingLanding(landing, at=at, after_commit=True))
    with pytest.raises(Killed):
        for _ in range(2):
            dying.write_batch()
    resumed = generator(landing)
    first = resumed.write_batch().first_transaction_id
    assert_sound(read, sales=first + 499)


def test_a_kill_before_a_tables_first_commit_leaves_a_fresh_start(landing, generator, read):
    (landing.folder / "sales" / "_delta_log").mkdir(parents=True)
    generator(landing).write_batch()
    assert_sound(read, sales=500)


def test_a_kill_between_creating_a_table_and_its_first_rows_is_a_fresh_start(landing, generator, read):
    DeltaTable.create(landing.folder / "customers", schema=Stream.CUSTOMERS.schema)
    assert generator(landing).write_batch().bootstrapped[Stream.CUSTOMERS] == 50
    assert_sound(read, sales=500)


def test_leftover_files_of_a_killed_append_do_not_matter(landing, generator, read):
    generator(landing).write_batch()
    (landing.folder / "sales" / "part-00000-dead.snappy.parquet").write_bytes(b"half a file")
    generator(landing).write_batch()
    assert_sound(read, sales=1000)


def test_a_missing_dimension_table_is_a_fresh_start_for_it(landing, generator, read):
    generator(landing).write_batch()
    shutil.rmtree(landing.folder / "stores")
    assert generator(landing).write_batch().bootstrapped == {
        Stream.STORES: 5,
        Stream.CUSTOMERS: 0,
        Stream.ITEMS: 0,
    }
    assert read(Stream.SALES).num_rows == 1000


def test_compaction_while_the_generator_runs_does_not_disturb_it(landing, generator, read):
    writer = generator(landing)
    for _ in range(3):
        writer.write_batch()
        for stream in Stream:
            DeltaTable(landing.folder / stream).optimize.compact()
    assert_sound(read, sales=1500)


def test_a_reset_while_the_generator_runs_is_a_fresh_start(landing, generator, read):
    writer = generator(landing)
    writer.write_batch()
    shutil.rmtree(landing.folder)
    assert writer.write_batch().first_transaction_id == 1
    assert_sound(read, sales=500)


def test_two_generators_on_one_landing_zone_never_collide(landing, generator, read):
    first, second = generator(landing), generator(landing)
    for _ in range(3):
        first.write_batch()
        second.write_batch()
    assert_sound(read, sales=3000)


def test_a_landing_zone_that_never_comes_to_rest_is_an_error_not_a_loop(memory, generator):
    class Contended(type(memory)):
        def append(self, stream, rows, *, after):
            raise LandingChangedError(stream)

    with pytest.raises(LakeletError) as caught:
        generator(Contended()).write_batch()
    assert caught.value.condition == "LANDING_CONTENDED"
    assert caught.value.retryable


def test_the_next_transaction_follows_the_highest_one_even_if_the_last_keys_are_null(landing, generator, read):
    generator(landing, dirt=Dirt(null_sale_key_rate=0.5)).write_batch()
    highest = pc.max(read(Stream.SALES)["transaction_id"]).as_py()
    assert generator(landing).next_transaction_id == highest + 1


def test_the_highest_id_is_read_from_the_column_where_statistics_are_missing(tmp_path):
    rows = pa.table({"transaction_id": pa.array([3, 9, None], pa.int32())})
    write_deltalake(tmp_path, rows, configuration={"delta.dataSkippingNumIndexedCols": "0"})
    assert max_id(DeltaTable(tmp_path), "transaction_id") == 9


def test_the_highest_id_of_keys_that_are_all_null_is_0(tmp_path):
    write_deltalake(tmp_path, pa.table({"transaction_id": pa.array([None, None], pa.int32())}))
    assert max_id(DeltaTable(tmp_path), "transaction_id") == 0


def test_appending_on_top_of_another_version_writes_nothing(landing, generator):
    generator(landing).write_batch()
    with pytest.raises(LandingChangedError):
        landing.append(Stream.SALES, Stream.SALES.schema.empty_table().to_reader(), after=0)
    with pytest.raises(LandingChangedError):
        landing.append(Stream.SALES, Stream.SALES.schema.empty_table().to_reader(), after=None)
    assert DeltaTable(landing.folder / "sales").version() == 1


def test_tables_keep_their_log_short_and_every_commit_only_adds_files(landing, generator):
    writer = generator(landing)
    for _ in range(11):
        writer.write_batch()
    log = landing.folder / "sales" / "_delta_log"
    assert DeltaTable(landing.folder / "sales").metadata().configuration == {"delta.checkpointInterval": "10"}
    assert list(log.glob("*.checkpoint.parquet"))
    actions = [json.loads(line) for commit in log.glob("*.json") for line in commit.read_text().splitlines()]
    assert not any("remove" in action for action in actions)


def test_a_folder_with_foreign_files_is_refused_with_an_action(landing, storage, generator):
    folder = landing_folder(storage) / "items"
    folder.mkdir(parents=True)
    (folder / "prices.csv").write_text("a,b")
    with pytest.raises(LakeletError) as caught:
        generator(landing)
    assert caught.value.condition == "LANDING_NOT_DELTA"
    assert "prices.csv" in caught.value.render()
    assert "hint: move these files away" in caught.value.render()


def test_a_broken_log_is_an_error_that_names_the_table(landing, generator):
    generator(landing).write_batch()
    (landing.folder / "items" / "_delta_log" / f"{3:020}.json").write_text("{broken")
    with pytest.raises(LakeletError) as caught:
        generator(landing)
    assert caught.value.condition == "LANDING_UNREADABLE"
    assert "items" in caught.value.message


def test_a_table_of_other_types_is_refused_before_anything_is_written(landing, generator):
    other = Stream.SALES.schema.set(6, pa.field("unit_price", pa.string()))
    DeltaTable.create(landing.folder / "sales", schema=other)
    with pytest.raises(LakeletError) as caught:
        generator(landing).write_batch()
    assert caught.value.condition == "LANDING_SCHEMA_MISMATCH"
    assert DeltaTable(landing.folder / "sales").version() == 0


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("Unable to copy data to file: No space left on device (os error 28)", "LANDING_DISK_FULL"),
        ("Unable to open file: Permission denied (os error 13)", "LANDING_PERMISSION_DENIED"),
        ("something else", "LANDING_WRITE_FAILED"),
    ],
)
def test_what_the_file_system_reports_becomes_an_error_with_an_action(landing, generator, monkeypatch, text, condition):
    def fail(*args, **kwargs):
        raise OSError(text)

    monkeypatch.setattr("apparel.generator.landing.write_deltalake", fail)
    with pytest.raises(LakeletError) as caught:
        generator(landing).write_batch()
    assert caught.value.condition == condition
    assert caught.value.cause == text
    assert caught.value.hint
