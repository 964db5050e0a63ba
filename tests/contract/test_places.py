"""What the code asks of a path, of a folder of this machine and of a key in an object store."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.object_stores import ObjectStore

from lakelet.places import ObjectPath, Place, open_file, place, remove_folder


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return tmp_path if request.param == "folder" else ObjectPath.of(f"{request.getfixturevalue('bucket')}/a b/~c")


def write(path: Place, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())


def test_a_file_is_there_once_it_is_written(root: Place) -> None:
    path = root / "x" / "1.json"
    assert not path.exists()
    assert not path.is_file()
    assert not path.parent.exists()
    with pytest.raises(FileNotFoundError):
        path.read_text("utf-8")
    with pytest.raises(FileNotFoundError):
        path.stat()
    write(path, "ä")
    assert path.read_text("utf-8") == "ä"
    assert (path.exists(), path.is_file(), path.is_dir()) == (True, True, False)
    assert (path.parent.exists(), path.parent.is_file(), path.parent.is_dir()) == (True, False, True)
    assert path.stat().st_size == 2


def test_another_content_has_another_identity(root: Place) -> None:
    path = root / "x"
    write(path, "one")
    first = path.stat()
    path.unlink()
    write(path, "two")
    second = path.stat()
    assert (first.st_ino, first.st_mtime_ns) != (second.st_ino, second.st_mtime_ns)


def test_folders_are_listed_and_searched(root: Place) -> None:
    for name in ("a/b/1.json", "a/b/2.json", "a/c/1.txt", "a/0.json"):
        write(root / name, name)
    assert sorted(path.name for path in (root / "a").iterdir()) == ["0.json", "b", "c"]
    assert sorted(str(path) for path in root.glob("*/*/*.json")) == [str(root / f"a/b/{n}.json") for n in (1, 2)]
    assert [str(path) for path in root.glob("a/*.json")] == [str(root / "a/0.json")]
    assert not list((root / "nothing").glob("*"))


def test_a_folder_goes_with_all_that_is_in_it_and_with_nothing_else(root: Place) -> None:
    for name in ("a/b/1", "a/2", "ab/3"):
        write(root / name, name)
    remove_folder(root / "a")
    remove_folder(root / "a")
    assert sorted(path.name for path in root.iterdir()) == ["ab"]


def test_what_is_gone_may_be_removed_again_where_one_says_so(root: Place) -> None:
    path = root / "x"
    write(path, "x")
    path.unlink()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        path.unlink()


def test_parquet_is_read_in_parts(root: Place) -> None:
    rows = pa.table({"id": range(200_000)})
    content = pa.BufferOutputStream()
    pq.write_table(rows, content, row_group_size=50_000)
    path = root / "x.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue().to_pybytes())
    file = pq.ParquetFile(open_file(str(path)))
    assert file.metadata.num_rows == 200_000
    assert file.read_row_group(2).column("id")[0].as_py() == 100_000
    assert place(str(path)) == path


def test_a_key_is_written_on_a_condition(bucket: str) -> None:
    path = ObjectPath.of(f"{bucket}/lock")
    mine = path.write_new(b"mine")
    with pytest.raises(FileExistsError):
        path.write_new(b"theirs")
    over = path.write_over(b"over", mine)
    with pytest.raises(FileExistsError):
        path.write_over(b"theirs", mine)
    assert path.read_bytes() == b"over"
    assert path.stat().e_tag == over.e_tag


def test_a_bucket_that_is_not_there(object_store: ObjectStore) -> None:
    path = ObjectPath.of(f"{object_store.address('there-is-no-such-bucket')}/x")
    with pytest.raises(OSError, match="there-is-no-such-bucket"):
        path.write_bytes(b"x")
    with pytest.raises(OSError, match="there-is-no-such-bucket"):
        list(path.iterdir())
