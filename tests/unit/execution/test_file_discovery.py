"""Which files a stream finds, and how it remembers them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lakelet.errors import StorageError
from lakelet.execution.file_discovery import SEGMENT_FILES, FileLog, FoundFile, Lister, fixed_part
from lakelet.execution.file_options import FileRead


def read(path: Path | str, **options: str) -> FileRead:
    return FileRead(label=str(path), path=str(path), format="json", auto_loader=True, options=options)


def log(folder: Path) -> FileLog:
    return FileLog(folder, relative=lambda path: path.removeprefix("/in/"), absolute=lambda path: f"/in/{path}")


def found(*names: str) -> list[FoundFile]:
    return [FoundFile(path=f"/in/{name}", size_bytes=1, modified_at_ms=5) for name in names]


# -- the list of files --------------------------------------------------------------------------------------------


def test_files_keep_their_numbers(tmp_path: Path) -> None:
    first = log(tmp_path)
    first.append(found("a", "b"))
    again = log(tmp_path)
    again.append(found("c"))
    assert [file.path for file in log(tmp_path).files(1, 3)] == ["/in/b", "/in/c"]
    assert log(tmp_path).known("/in/a") == 5
    assert log(tmp_path).known("/in/x") is None


def test_a_line_that_was_cut_off_never_counts(tmp_path: Path) -> None:
    log(tmp_path).append(found("a", "b"))
    [segment] = (tmp_path / "files").iterdir()
    segment.write_bytes(segment.read_bytes()[:-4])
    mended = log(tmp_path)
    assert len(mended) == 1
    mended.append(found("b", "c"))
    assert [file.path for file in log(tmp_path).files(0, 3)] == ["/in/a", "/in/b", "/in/c"]


def test_full_segments_are_packed(tmp_path: Path) -> None:
    entry = log(tmp_path)
    names = [f"day=2026-01-{number % 28:02}/part-{number:08}.json" for number in range(3 * SEGMENT_FILES)]
    entry.append(found(*names))
    entry.append(found("last"))
    assert sorted(path.suffix for path in (tmp_path / "files").iterdir()) == [
        ".jsonl",
        ".parquet",
        ".parquet",
        ".parquet",
    ]
    again = log(tmp_path)
    assert len(again) == 3 * SEGMENT_FILES + 1
    across = again.files(SEGMENT_FILES - 1, 2 * SEGMENT_FILES + 1)
    assert [file.path for file in across] == [
        f"/in/{name}" for name in names[SEGMENT_FILES - 1 : 2 * SEGMENT_FILES + 1]
    ]
    assert sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) < 10 * len(names)


def test_a_crash_between_packing_and_removing_changes_nothing(tmp_path: Path) -> None:
    entry = log(tmp_path)
    entry.append(found(*(f"{number}" for number in range(SEGMENT_FILES))))
    plain = tmp_path / "files" / f"{0:012d}.jsonl"
    content = plain.read_bytes()
    entry.append(found("last"))
    plain.write_bytes(content)
    again = log(tmp_path)
    assert len(again) == SEGMENT_FILES + 1
    assert [file.path for file in again.files(SEGMENT_FILES, SEGMENT_FILES + 1)] == ["/in/last"]


def test_a_list_with_a_hole_is_corrupt(tmp_path: Path) -> None:
    log(tmp_path).append(found("a"))
    with pytest.raises(StorageError, match="CHECKPOINT_CORRUPT"):
        log(tmp_path).files(0, 2)
    (tmp_path / "files" / f"{7:012d}.jsonl").write_text('["x",1,1]\n')
    with pytest.raises(StorageError, match="CHECKPOINT_CORRUPT"):
        log(tmp_path)


# -- listing ------------------------------------------------------------------------------------------------------


class Counted:
    """Lists folders, and counts how often."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, folder: str) -> Any:
        self.calls.append(folder)
        return os.scandir(folder)


def test_a_folder_that_has_not_changed_is_not_listed_again(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text("{}")
    scan = Counted()
    long_ago = 1_600_000_000
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path):
        os.utime(folder, (long_ago, long_ago))
    lister = Lister(read(tmp_path), scan=scan)
    assert len(lister.new_files(lambda path: None)) == 2
    assert len(scan.calls) == 3
    lister.new_files(lambda path: 1)
    assert len(scan.calls) == 3
    (tmp_path / "b" / "y.json").write_text("{}")
    assert [file.path for file in lister.new_files(lambda path: None if path.endswith("y.json") else 1)] == [
        f"{tmp_path}/b/y.json"
    ]
    assert scan.calls[3:] == [f"{tmp_path}/b"]


def test_files_of_a_folder_that_has_not_changed_are_passed_over_once_they_are_noted(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    os.utime(tmp_path, (1_600_000_000, 1_600_000_000))
    lister = Lister(read(tmp_path))
    assert len(lister.new_files(lambda path: None)) == 1
    assert len(lister.new_files(lambda path: None)) == 1  # nobody has noted it
    lister.noted()
    assert lister.new_files(lambda path: None) == []


def test_a_folder_that_changed_just_now_is_listed_again(tmp_path: Path) -> None:
    scan = Counted()
    lister = Lister(read(tmp_path), scan=scan)
    lister.new_files(lambda path: None)
    lister.new_files(lambda path: None)
    assert len(scan.calls) == 2


class Entry:
    """A directory entry that is on no disk."""

    def __init__(self, name: str) -> None:
        self.name = name

    def is_dir(self) -> bool:
        return False


def test_many_known_files_cost_one_listing_and_no_look_at_them(tmp_path: Path) -> None:
    names = [f"{number}.json" for number in range(20_000)]

    @contextmanager
    def scan(folder: str) -> Iterator[Any]:
        yield iter([Entry(name) for name in names])

    (tmp_path / "new.json").write_text("{}")
    names.append("new.json")
    known = {f"{tmp_path}/{name}" for name in names[:-1]}  # a look at one would fail: it is not there
    lister = Lister(read(tmp_path), scan=scan)  # type: ignore[arg-type]
    [file] = lister.new_files(lambda path: 1 if path in known else None)
    assert file.path == f"{tmp_path}/new.json"


def test_files_come_oldest_first(tmp_path: Path) -> None:
    for name, at in (("a", 300), ("b", 100), ("c", 200)):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (at, at))
    assert [file.path[-1] for file in Lister(read(tmp_path)).new_files(lambda path: None)] == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("path", "fixed"), [("/a/b", "/a/b"), ("/a/*/c", "/a"), ("/a/b/{x,y}.json", "/a/b"), ("/*", "/"), ("/a/b/", "/a/b")]
)
def test_the_part_of_a_path_before_wildcards(path: str, fixed: str) -> None:
    assert fixed_part(path) == fixed
