"""One update at a time: who holds the lock, and what a killed process leaves."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from lakelet.errors import LockError, StorageError
from lakelet.execution import lock
from lakelet.execution.lock import pipeline_lock


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    path = tmp_path / "data" / "_lock"
    with pipeline_lock(path, pipeline="shop"):
        assert json.loads(path.read_text())["pipeline"] == "shop"
        with pytest.raises(LockError) as raised, pipeline_lock(path, pipeline="shop"):
            pass
        assert raised.value.condition == "PIPELINE_LOCKED"
        assert raised.value.retryable
        assert f"process {os.getpid()} on {socket.gethostname()}" in (raised.value.cause or "")


def test_the_lock_ends_with_its_holder_also_by_an_error(tmp_path: Path) -> None:
    path = tmp_path / "_lock"
    with pytest.raises(KeyError), pipeline_lock(path, pipeline="shop"):
        raise KeyError
    assert not path.exists()
    with pipeline_lock(path, pipeline="shop"):
        pass


@pytest.mark.parametrize("left", ["", "{", "HERE"])
def test_what_a_killed_process_left_is_taken_over(tmp_path: Path, left: str) -> None:
    path = tmp_path / "_lock"
    path.write_text(json.dumps({"pid": 1, "host": socket.gethostname()}) if left == "HERE" else left)
    with pipeline_lock(path, pipeline="shop"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_file_of_another_host_is_respected(tmp_path: Path) -> None:
    path = tmp_path / "_lock"
    path.write_text(json.dumps({"pid": 7, "host": "elsewhere", "started_at": "2024-01-01"}))
    with pytest.raises(LockError) as raised, pipeline_lock(path, pipeline="shop"):
        pass
    assert "process 7 on elsewhere, since 2024-01-01" in (raised.value.cause or "")
    assert str(path) in (raised.value.hint or "")
    assert path.exists()


def test_a_lock_on_a_file_that_its_holder_has_just_removed_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder removed it, locked after: a third process would lock a new file beside it."""
    path = tmp_path / "_lock"
    owner = lock._owner

    def removed_meanwhile(file: Any) -> dict[str, Any]:
        path.unlink()
        return owner(file)

    monkeypatch.setattr(lock, "_owner", removed_meanwhile)
    with pytest.raises(LockError), pipeline_lock(path, pipeline="shop"):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with (
        pytest.raises(StorageError, match="STORAGE_NOT_WRITABLE"),
        pipeline_lock(tmp_path / "data" / "_lock", pipeline="x"),
    ):
        pass
