"""The event log's table gets every event once, in few commits, also those of updates that died."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from lakelet.errors import FlowError, StorageError
from lakelet.events import kinds
from lakelet.events.log import EventBus, JsonLinesWriter
from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState
from lakelet.events.table import KEPT_UPDATES, DeltaEventLog, event_log_schema

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NewBus = Callable[..., EventBus]


@contextmanager
def update(storage: Path, bus: EventBus, *, dies: bool = False, flush_every: int = 500) -> Iterator[DeltaEventLog]:
    """One update with both writers; a dying one leaves what it has not committed in its JSON lines."""
    log = DeltaEventLog(
        storage / "events", updates=storage / "updates", update_id=bus.update_id, flush_every=flush_every
    )
    log.recover()
    with JsonLinesWriter(storage / "updates" / f"{bus.update_id}.jsonl") as writer:
        bus.subscribe(writer)
        bus.subscribe(log)
        yield log
    if not dies:
        log.close()


def ids(log: DeltaEventLog) -> list[str]:
    return [str(value) for value in log.read().column("id").to_pylist()]


def versions(storage: Path) -> int:
    return int(DeltaTable(str(storage / "events")).version())


def test_the_columns_are_those_of_databricks_with_json_in_text(tmp_path: Path, new_bus: NewBus) -> None:
    bus = new_bus()
    with update(tmp_path, bus) as log:
        kinds.flow_progress(
            bus, flow="f", dataset="d", status=FlowStatus.FAILED, batch_id=3, error=FlowError("X", "broken")
        )
    rows = log.read()
    assert rows.schema.equals(event_log_schema())
    row = rows.to_pylist()[0]
    assert row["origin"] == {
        "pipeline_id": "p1",
        "pipeline_name": "shop",
        "update_id": "u1",
        "dataset_name": "d",
        "flow_name": "f",
        "flow_id": None,
        "batch_id": 3,
        "table_name": None,
        "sink_name": None,
        "request_id": None,
    }
    assert row["timestamp"].isoformat() == "2026-03-01T12:00:00+00:00"
    assert json.loads(row["details"]) == {"flow_progress": {"status": "FAILED"}}
    assert json.loads(row["error"])["exceptions"][0]["condition"] == "X"
    assert list(json.loads(row["sequence"])) == ["data_plane_id"]


def test_an_event_without_error_has_null_there(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus) as log:
        kinds.warning(bus, "m")
    assert log.read().column("error").to_pylist() == [None]


def test_a_log_that_was_never_written_has_columns_and_no_rows(tmp_path: Path) -> None:
    assert DeltaEventLog(tmp_path / "events").read().equals(event_log_schema().empty_table())


def test_a_short_update_is_one_commit(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus) as log:
        for _ in range(30):
            kinds.warning(bus, "m")
        assert not (tmp_path / "events").exists()
    assert (versions(tmp_path), len(ids(log))) == (1, 30)


def test_a_long_update_commits_every_so_many_events(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus, flush_every=10) as log:
        for _ in range(25):
            kinds.warning(bus, "m")
        assert len(ids(log)) == 20
    assert (versions(tmp_path), len(ids(log))) == (3, 25)


def test_a_flush_without_events_commits_nothing(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus) as log:
        kinds.warning(bus, "m")
        assert log.flush() == 1
        assert log.flush() == 0
    assert versions(tmp_path) == 1


def test_the_log_checkpoints_every_ten_commits(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus, flush_every=1):
        for _ in range(11):
            kinds.warning(bus, "m")
    assert DeltaTable(str(tmp_path / "events")).metadata().configuration["delta.checkpointInterval"] == "10"
    assert (tmp_path / "events" / "_delta_log" / "_last_checkpoint").exists()


def test_many_small_files_become_one_and_no_event_changes(tmp_path: Path, bus: EventBus) -> None:
    with update(tmp_path, bus, flush_every=1) as log:
        for _ in range(60):
            kinds.warning(bus, "m")
    assert len(DeltaTable(str(tmp_path / "events")).file_uris()) < 20
    assert ids(log) == [f"u1-{number}" for number in range(1, 61)]


def test_the_next_update_brings_home_what_a_dead_one_left(tmp_path: Path, new_bus: NewBus) -> None:
    dead = new_bus("u1")
    with update(tmp_path, dead, dies=True, flush_every=2):
        for _ in range(5):
            kinds.warning(dead, "m")
    next_bus = new_bus("u2")
    with update(tmp_path, next_bus) as log:
        kinds.update_progress(next_bus, UpdateState.COMPLETED)
    assert sorted(ids(log)) == ["u1-1", "u1-2", "u1-3", "u1-4", "u1-5", "u2-1"]


def test_recovering_twice_adds_nothing(tmp_path: Path, new_bus: NewBus) -> None:
    dead = new_bus("u1")
    with update(tmp_path, dead, dies=True):
        kinds.warning(dead, "m")
    log = DeltaEventLog(tmp_path / "events", updates=tmp_path / "updates", update_id="u2")
    assert (log.recover(), log.recover()) == (1, 0)
    (tmp_path / "updates" / "u1.recorded").unlink()  # as if the process had died between the commit and this note
    assert log.recover() == 0
    assert ids(log) == ["u1-1"]


def test_a_line_that_a_kill_cut_short_is_left_out(tmp_path: Path, new_bus: NewBus) -> None:
    dead = new_bus("u1")
    with update(tmp_path, dead, dies=True):
        kinds.warning(dead, "m")
        kinds.warning(dead, "cut")
    lines = tmp_path / "updates" / "u1.jsonl"
    lines.write_text(lines.read_text()[:-40])
    log = DeltaEventLog(tmp_path / "events", updates=tmp_path / "updates", update_id="u2")
    assert log.recover() == 1
    assert ids(log) == ["u1-1"]


def test_a_broken_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "u1.jsonl").write_text("not json\n{}\n")
    log = DeltaEventLog(tmp_path / "events", updates=tmp_path / "updates", update_id="u2")
    with pytest.raises(StorageError, match=r"line 1 of .*u1\.jsonl"):
        log.recover()


def test_the_json_lines_of_the_last_updates_are_kept_and_older_ones_removed(tmp_path: Path, new_bus: NewBus) -> None:
    for number in range(KEPT_UPDATES + 3):
        bus = new_bus(f"u{number:02}")
        with update(tmp_path, bus):
            kinds.warning(bus, "m")
    kept = sorted(path.name for path in (tmp_path / "updates").glob("*.jsonl"))
    assert kept == [f"u{number:02}.jsonl" for number in range(2, KEPT_UPDATES + 3)]
    assert len(list((tmp_path / "updates").glob("*.recorded"))) == len(kept)


def test_a_failed_commit_keeps_the_events_and_the_next_one_has_them(
    tmp_path: Path, bus: EventBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    with update(tmp_path, bus, flush_every=2) as log, monkeypatch.context() as patch:
        patch.setattr("deltalake.write_deltalake", _full_disk)
        for _ in range(5):
            kinds.warning(bus, "m")
        with pytest.raises(StorageError, match="EVENT_LOG_NOT_WRITABLE"):
            log.flush()
    assert set(ids(log)) == {f"u1-{number}" for number in range(1, 7)}  # the sixth reports the failure
    assert len(ids(log)) == 6


def _full_disk(*arguments: object, **options: object) -> None:
    raise pa.ArrowException("No space left on device")


# -- replays, large files, old events -----------------------------------------------------------------------------


def publish_batch(bus: EventBus, *, is_replay: bool) -> None:
    kinds.flow_progress(bus, flow="f", dataset="d", status=FlowStatus.RUNNING, event_id="batch-7", is_replay=is_replay)


@pytest.mark.parametrize("deaths_between", [0, 1, KEPT_UPDATES + 5])
def test_a_replayed_batch_is_in_the_log_once_however_many_updates_died_in_between(
    tmp_path: Path, new_bus: NewBus, deaths_between: int
) -> None:
    dead = new_bus("u0")
    with update(tmp_path, dead, dies=True, flush_every=1):
        publish_batch(dead, is_replay=False)
    for number in range(deaths_between):
        bus = new_bus(f"u{number + 1:02}")
        with update(tmp_path, bus, dies=True):
            kinds.warning(bus, "starting")
    last = new_bus("u99")
    with update(tmp_path, last) as log:
        publish_batch(last, is_replay=True)
    assert ids(log).count("batch-7") == 1


def test_a_batch_that_two_dead_updates_published_is_in_the_log_once(tmp_path: Path, new_bus: NewBus) -> None:
    for name in ("u1", "u2"):
        dead = new_bus(name)
        lines = JsonLinesWriter(tmp_path / "updates" / f"{name}.jsonl")  # dies before it recovers
        dead.subscribe(lines)
        publish_batch(dead, is_replay=name == "u2")
        lines.close()
    with update(tmp_path, new_bus("u3")) as log:
        pass
    assert ids(log) == ["batch-7"]


def test_a_replay_within_one_update_is_in_the_log_once(tmp_path: Path, new_bus: NewBus) -> None:
    bus = new_bus()
    with update(tmp_path, bus) as log:
        publish_batch(bus, is_replay=False)
        publish_batch(bus, is_replay=True)
    assert ids(log) == ["batch-7"]


def test_a_large_file_of_json_lines_gives_way_to_a_new_one_and_nothing_is_recovered_twice(
    tmp_path: Path, new_bus: NewBus
) -> None:
    bus = new_bus("u1")
    log = DeltaEventLog(tmp_path / "events", updates=tmp_path / "updates", update_id="u1")
    with JsonLinesWriter(tmp_path / "updates" / "u1.jsonl") as writer:
        bus.subscribe(writer)
        bus.subscribe(log)
        for _ in range(4):
            kinds.warning(bus, "m")
            log.flush()
            writer.rotate(min_bytes=100)
        kinds.warning(bus, "not in the table yet")
    assert sorted(path.name for path in (tmp_path / "updates").iterdir()) == ["u1.4.jsonl", "u1.4.recorded", "u1.jsonl"]
    with update(tmp_path, new_bus("u2")) as log:
        pass
    assert ids(log) == ["u1-1", "u1-2", "u1-3", "u1-4", "u1-5"]


def test_a_small_file_of_json_lines_stays(tmp_path: Path, new_bus: NewBus) -> None:
    with JsonLinesWriter(tmp_path / "u1.jsonl") as writer:
        bus = new_bus("u1")
        bus.subscribe(writer)
        kinds.warning(bus, "m")
        writer.rotate(min_bytes=1_000_000)
    assert [path.name for path in tmp_path.iterdir()] == ["u1.jsonl"]


def test_events_older_than_the_retention_go_when_the_table_is_compacted(
    tmp_path: Path, new_bus: NewBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lakelet.events.table.COMPACT_EVERY", 3)
    bus = new_bus()  # from noon on, an event a second
    log = DeltaEventLog(
        tmp_path / "events",
        flush_every=1,
        retention=timedelta(days=1),
        clock=lambda: NOON + timedelta(days=1, seconds=2),
    )
    bus.subscribe(log)
    for _ in range(3):
        kinds.warning(bus, "m")
    assert ids(log) == ["u1-3"]


def test_a_log_whose_making_was_cut_off_is_made_anew(tmp_path: Path, new_bus: NewBus) -> None:
    """A full disk left the folder of the log without a commit; every later update failed on it."""
    (tmp_path / "events" / "_delta_log").mkdir(parents=True)
    bus = new_bus()
    with update(tmp_path, bus) as log:
        kinds.update_progress(bus, UpdateState.RUNNING)
    assert ids(log) == ["u1-1"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_told_of_by_the_writer_of_lines_also_at_the_end(new_bus: NewBus) -> None:
    bus = new_bus()
    events: list[PipelineEvent] = []
    bus.subscribe(events.append)
    kinds.update_progress(bus, UpdateState.RUNNING)
    writer = JsonLinesWriter("/dev/full")
    for call in (lambda: writer(events[0]), writer.close):
        with pytest.raises(StorageError) as raised:
            call()
        assert raised.value.condition == "EVENT_LOG_NOT_WRITABLE"
        assert "No space left" in (raised.value.cause or "")
