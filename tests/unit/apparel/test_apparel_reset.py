"""Reset: what it removes, and what it refuses to touch."""

import json
import os
import socket
import subprocess
import sys

import pytest

from apparel import operations
from apparel.generator.model import Stream
from apparel.reset import lock_holder, plan_reset, reset
from lakelet.errors import LockError, SpecError
from lakelet.execution.lock import pipeline_lock


@pytest.fixture
def used(storage, landing, generator):
    """A storage root that a pipeline has used."""
    operations.setup(storage)
    generator(landing).write_batch()
    for name in (
        "tables/apparel_store/01_bronze/bronze_sales/x",
        "_checkpoints/a",
        "_auxiliary/b",
        "system/c",
    ):
        (storage / name).parent.mkdir(parents=True, exist_ok=True)
        (storage / name).write_text("12345")
    return storage


def files(storage):
    return {path.relative_to(storage).parts[0] for path in storage.rglob("*") if path.is_file()}


def test_dropping_tables_removes_tables_checkpoints_auxiliary_and_event_log_only(used):
    reset(used, plan_reset(used, tables=True))
    assert files(used) == {"Volumes"}
    assert not any((used / name).exists() for name in ("_checkpoints", "_auxiliary", "system", "_trash"))


def test_clearing_the_landing_zone_removes_the_streams_only(used):
    reset(used, plan_reset(used, landing=True))
    assert files(used) == {"tables", "_checkpoints", "_auxiliary", "system"}


def test_after_a_reset_of_both_setup_has_nothing_to_create_and_the_generator_starts_afresh(used, landing, generator):
    reset(used, plan_reset(used, tables=True, landing=True))
    assert not any(place.created for place in operations.setup(used))
    assert generator(landing).write_batch().first_transaction_id == 1


def test_the_plan_says_what_would_go_and_removes_nothing(used):
    plan = plan_reset(used, tables=True, landing=True)
    assert [doomed.path.name for doomed in plan] == [
        *(stream for stream in reversed(Stream)),
        "01_bronze",
        "_auxiliary",
        "_checkpoints",
        "system",
    ]
    assert (plan[4].files, plan[4].size_bytes) == (1, 5)
    assert files(used) == {"Volumes", "tables", "_checkpoints", "_auxiliary", "system"}


def test_a_reset_of_a_clean_storage_has_nothing_to_do(storage):
    operations.setup(storage)
    assert plan_reset(storage, tables=True, landing=True) == ()
    reset(storage, ())


def test_a_reset_finishes_what_a_killed_one_had_moved_aside(used):
    (used / "_trash").mkdir()
    (used / "_trash" / "left").write_text("")
    reset(used, plan_reset(used, landing=True))
    assert not (used / "_trash").exists()


@pytest.mark.parametrize("content", [None, [], ["photos/a.jpg"], ["Volumes/backup/disk"], ["tables/chairs.txt"]])
def test_a_folder_that_is_not_apparel_storage_is_refused(tmp_path, content):
    folder = tmp_path / "home"
    for name in content or []:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("precious")
    if content == []:
        folder.mkdir()
    with pytest.raises(SpecError) as caught:
        plan_reset(folder, tables=True, landing=True)
    assert caught.value.condition == "APPAREL_STORAGE_UNKNOWN"
    assert "nothing was removed" in caught.value.message


def test_storage_with_foreign_files_beside_it_is_refused(used):
    (used / "thesis.docx").write_text("precious")
    with pytest.raises(SpecError) as caught:
        plan_reset(used, tables=True)
    assert "thesis.docx" in caught.value.render()


def lock(storage, **owner):
    storage.mkdir(exist_ok=True)
    (storage / "_lock").write_text(json.dumps(owner))


def test_storage_that_a_running_pipeline_holds_is_refused(used):
    lock(used, pid=os.getpid(), host=socket.gethostname())
    with pytest.raises(LockError) as caught:
        plan_reset(used, tables=True)
    assert str(os.getpid()) in caught.value.render()


def test_a_dead_process_of_this_host_holds_no_lock(used):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lock(used, pid=dead.pid, host=socket.gethostname())
    assert plan_reset(used, tables=True)


def test_a_process_of_another_host_may_be_alive(used):
    lock(used, pid=1, host="elsewhere")
    with pytest.raises(LockError):
        plan_reset(used, landing=True)


def test_an_update_in_progress_keeps_a_reset_out_and_a_reset_keeps_updates_out(used):
    plan = plan_reset(used, tables=True)
    with pipeline_lock(used / "_lock", pipeline="apparel"):
        assert lock_holder(used) == "a running process"
        with pytest.raises(LockError):
            plan_reset(used, tables=True)
        with pytest.raises(LockError):
            reset(used, plan)
    assert lock_holder(used) is None
    assert files(used) == {"Volumes", "tables", "_checkpoints", "_auxiliary", "system"}


def test_an_empty_lock_file_is_the_leftover_of_a_killed_update(used):
    (used / "_lock").write_text("")
    assert plan_reset(used, tables=True)


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": "x", "host": "y"}'])
def test_a_lock_that_cannot_be_understood_counts_as_held(used, text):
    (used / "_lock").write_text(text)
    assert lock_holder(used) == "an unknown process"


def test_without_a_lock_file_nobody_holds_it(storage):
    assert lock_holder(storage) is None
