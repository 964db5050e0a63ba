"""Checkpoints: small files from which every update knows where the last one ended."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lakelet.errors import StorageError
from lakelet.execution.checkpoint import (
    KEEP_BATCHES,
    Batch,
    Checkpoint,
    batches_in_use,
    drop_old_epochs,
    read_generation,
    read_json,
    start_generation,
    write_json,
)

AT = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def batch(number: int) -> Batch:
    return Batch(
        id=number,
        at=AT,
        sources={"orders": {"start": {"version": number}, "end": {"version": number + 1}}},
        versions={"/data/stores": 7},
    )


def opened(folder: Path, *, flow: str = "orders", generation: int = 0) -> Checkpoint:
    return Checkpoint(folder, flow, generation)


def test_a_new_flow_has_nothing(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    assert (checkpoint.committed(), checkpoint.unfinished(), checkpoint.committed_id, checkpoint.next_id) == (
        None,
        None,
        -1,
        0,
    )


def test_an_intent_without_a_commit_is_unfinished_in_the_next_process_too(tmp_path: Path) -> None:
    opened(tmp_path).write_offsets(batch(0))
    again = opened(tmp_path)
    assert again.unfinished() == batch(0)
    assert (again.committed(), again.next_id) == (None, 0)


def test_a_commit_finishes_its_batch(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    for number in range(3):
        checkpoint.write_offsets(batch(number))
        checkpoint.write_commit(batch(number))
    again = opened(tmp_path)
    assert (again.unfinished(), again.committed(), again.next_id) == (None, batch(2), 3)


def test_a_note_that_a_loss_of_power_left_empty_finishes_nothing(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    for number in range(2):
        checkpoint.write_offsets(batch(number))
        checkpoint.write_commit(batch(number), durable=False)
    (checkpoint.folder / "commits" / "1").write_bytes(b"")
    again = opened(tmp_path)
    assert (again.committed(), again.unfinished()) == (batch(0), batch(1))
    ((_, committed, unfinished),) = batches_in_use(tmp_path, 0)
    assert (committed, unfinished) == (batch(0), batch(1))


def test_old_batches_are_forgotten_and_the_last_stays_readable(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    for number in range(KEEP_BATCHES + 5):
        checkpoint.write_offsets(batch(number))
        checkpoint.write_commit(batch(number))
    assert len(list((checkpoint.folder / "offsets").iterdir())) == KEEP_BATCHES
    assert opened(tmp_path).committed() == batch(KEEP_BATCHES + 4)


@pytest.mark.parametrize("flow", ["orders", "from south", "a/b", "ü", "100%", "a.b-c_d"])
def test_any_flow_name_has_a_folder_of_its_own(tmp_path: Path, flow: str) -> None:
    opened(tmp_path, flow=flow).write_offsets(batch(0))
    assert opened(tmp_path, flow=flow).unfinished() == batch(0)
    assert [entry.name for entry in tmp_path.iterdir()] == [opened(tmp_path, flow=flow).folder.parent.name]
    assert opened(tmp_path, flow=flow + "x").unfinished() is None


def test_names_that_look_alike_when_encoded_stay_apart(tmp_path: Path) -> None:
    assert opened(tmp_path, flow="a b").folder != opened(tmp_path, flow="a%20b").folder


def test_a_generation_starts_from_nothing_and_the_old_one_goes_later(tmp_path: Path) -> None:
    assert read_generation(tmp_path) == 0
    first = opened(tmp_path)
    first.write_offsets(batch(0))
    first.write_commit(batch(0))
    assert (start_generation(tmp_path), read_generation(tmp_path)) == (1, 1)
    assert opened(tmp_path, generation=1).committed() is None
    assert opened(tmp_path, generation=0).committed() == batch(0)
    drop_old_epochs(tmp_path, 1)
    assert not first.folder.exists()
    assert opened(tmp_path, generation=1).folder.exists()


def test_files_are_json_that_a_person_can_read(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.write_offsets(batch(0))
    assert json.loads((checkpoint.folder / "offsets" / "0").read_text()) == {
        "format": 1,
        "batch_id": 0,
        "at": "2024-01-02T03:04:05.678901+00:00",
        "sources": {"orders": {"start": {"version": 0}, "end": {"version": 1}}},
        "versions": {"/data/stores": 7},
    }


def test_what_a_crash_leaves_of_a_write_is_not_seen(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.write_offsets(batch(0))
    (checkpoint.folder / "offsets" / ".1.tmp").write_text('{"form')
    assert opened(tmp_path).unfinished() == batch(0)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"batch_id": 0}', '"format"'])
def test_a_file_that_is_not_whole_is_an_error_with_a_way_out(tmp_path: Path, content: str) -> None:
    checkpoint = opened(tmp_path)
    checkpoint.write_offsets(batch(0))
    (checkpoint.folder / "offsets" / "0").write_text(content)
    with pytest.raises(StorageError) as raised:
        opened(tmp_path).unfinished()
    assert raised.value.condition == "CHECKPOINT_CORRUPT"
    assert "lakelet reset" in (raised.value.hint or "")


def test_a_file_of_a_later_format_is_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "x", {"format": 99})
    with pytest.raises(StorageError, match="CHECKPOINT_TOO_NEW"):
        read_json(tmp_path / "x")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file where a folder must be")
    with pytest.raises(StorageError, match="CHECKPOINT_NOT_WRITABLE"):
        write_json(tmp_path / "x" / "y", {"format": 1})


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "x", {"format": 1, "generation": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lakelet.execution.checkpoint.os.fsync", full)
    with pytest.raises(StorageError, match="CHECKPOINT_NOT_WRITABLE"):
        write_json(tmp_path / "x", {"format": 1, "generation": 2})
    assert read_json(tmp_path / "x")["generation"] == 1


def test_a_flow_that_was_killed_while_it_made_its_folders_needs_nothing(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    (checkpoint.folder / "commits").rmdir()
    assert list(batches_in_use(tmp_path, 0)) == [(checkpoint.folder, None, None)]


def test_what_a_kill_kept_from_being_forgotten_is_forgotten_later(tmp_path: Path) -> None:
    checkpoint = opened(tmp_path)
    for number in range(KEEP_BATCHES):
        checkpoint.write_offsets(batch(number))
        checkpoint.write_commit(batch(number))
    again = Checkpoint(tmp_path, "orders", 0, keep=3)
    again.write_offsets(batch(KEEP_BATCHES))
    again.write_commit(batch(KEEP_BATCHES))
    kept = {str(KEEP_BATCHES - 2), str(KEEP_BATCHES - 1), str(KEEP_BATCHES)}
    assert {path.name for path in (checkpoint.folder / "offsets").iterdir()} == kept
    assert {path.name for path in (checkpoint.folder / "commits").iterdir()} == kept
