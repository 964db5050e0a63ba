"""Files of a batch: written aside, noted, moved; whoever dies where, and whatever engine goes on."""

from __future__ import annotations

import itertools
import json
import shutil
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql.types import LongType, StructField, StructType

from lakelet import faults
from lakelet.errors import Origin, QueryError, SourceError, StorageError
from lakelet.execution import sink_files
from lakelet.execution.checkpoint import Batch, Checkpoint, start_epoch, start_generation
from lakelet.execution.sink_files import tidy_sink_files, write_sink_files
from lakelet.execution.sinks import sink_id
from lakelet.graph.elements import Dataset, DatasetKind
from lakelet.names import TableName
from lakelet.plan import relation as plan

NAME = TableName("c", "s", "out")


class Crash(BaseException):
    """The death of the process."""


class Cluster:
    """An engine that writes the pieces of a result itself, one file each, as Spark lays them out."""

    capabilities = SimpleNamespace(cluster_writes=True)

    def __init__(self, *pieces: list[int], observes: bool = True, fails: Exception | None = None) -> None:
        self.pieces, self.observes, self.fails = pieces, observes, fails
        self.folders: list[Path] = []
        self.loses: tuple[int, ...] = ()
        self.files_per_task = 1

    def schema(self, relation: Any) -> StructType:
        return StructType([StructField("id", LongType())])

    def observed(self, command: Any, *, settings: Any = None) -> dict[str, Any]:
        folder = Path(command.write_operation.path)
        self.folders.append(folder)
        if self.fails is not None:
            raise self.fails
        write_pieces(folder, *self.pieces, loses=self.loses, files_per_task=self.files_per_task)
        tasks = ",".join(str(number) for number, piece in enumerate(self.pieces) if piece)
        return {"num_rows": sum(map(len, self.pieces)), "__lakelet_tasks": tasks} if self.observes else {}

    def collect(self, relation: Any) -> pa.Table:
        """Count the rows of files, or of the query."""
        reads = [node.read.data_source for node in plan.relations(relation) if node.HasField("read")]
        files = [Path(path) for read in reads for path in read.paths]
        in_files = sum(len(file.read_text().splitlines()) for file in files)
        return pa.table({"n": [in_files if files else sum(map(len, self.pieces))]})


class Embedded:
    """An engine whose rows stream through this process."""

    capabilities = SimpleNamespace(cluster_writes=False)

    def __init__(self, *ids: int) -> None:
        self.rows = pa.table({"id": pa.array(ids, pa.int64())})

    def schema(self, relation: Any) -> StructType:
        return StructType([StructField("id", LongType())])

    def stream(self, relation: Any) -> pa.RecordBatchReader:
        return self.rows.to_reader(max_chunksize=2)


def write_pieces(folder: Path, *pieces: list[int], loses: tuple[int, ...] = (), files_per_task: int = 1) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_SUCCESS").write_text("")
    for number, piece in enumerate(pieces):
        if number not in loses:
            task = uuid.uuid4()
            for part in range(files_per_task):
                name = f"part-{number:05d}-{task}-c{part:03d}.json"
                (folder / name).write_text("".join(f'{{"id":{value}}}\n' for value in piece[part::files_per_task]))
                (folder / f".{name}.crc").write_text("")


class Sink:
    """A folder that one flow writes to."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "out"
        self.path = "out"
        self.flow = "to_out"

    @property
    def checkpoint(self) -> Checkpoint:
        folder = self.root / "checkpoint"
        generation = json.loads((folder / "generation.json").read_text())["generation"] if folder.exists() else 0
        return Checkpoint(folder, self.flow, generation)

    def write(self, engine: Any, batch_id: int = 0, *, commits: bool = True) -> int:
        """Write a batch, and commit it unless the process dies before."""
        checkpoint = self.checkpoint
        context: Any = SimpleNamespace(
            engine=engine,
            display=lambda name: "out",
            catalog=SimpleNamespace(path=lambda text: text if "://" in text else str(self.root / text)),
            graph=SimpleNamespace(flows_to=lambda name: [SimpleNamespace(name=self.flow)]),
        )
        sink = Dataset(
            name=NAME,
            kind=DatasetKind.SINK,
            origin=Origin(file="sinks.py", line=1),
            sink_format="json",
            sink_options={"path": self.path},
        )
        count = write_sink_files(context, sink, checkpoint, batch_id, sink_id(checkpoint), plan.sql("SELECT 1"))
        if commits:
            checkpoint.write_commit(Batch(id=batch_id, at=datetime(2024, 5, 1, tzinfo=UTC)))
            tidy_sink_files(context, sink, checkpoint)
        return count

    def dies(self, engine: Any, point: str, *, occurrence: int = 1, batch_id: int = 0) -> None:
        passes = itertools.count(1)

        def hook(reached: str) -> None:
            if reached == point and next(passes) == occurrence:
                raise Crash

        with faults.installed(hook), pytest.raises(Crash):
            self.write(engine, batch_id)

    def rows(self, folder: Path | None = None) -> list[int]:
        """Return the rows that readers of the folder see, sorted."""
        files = (folder or self.folder).glob("*.json")
        return sorted(json.loads(line)["id"] for file in files for line in file.read_text().splitlines())

    @property
    def hidden(self) -> list[str]:
        """Attempts in the folder, and whatever else is there beside the files."""
        others = [path.name for path in self.folder.iterdir() if not path.name.startswith((".lakelet", "part-"))]
        return sorted([*others, *(path.name for path in (self.folder / ".lakelet").glob("*"))])


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[Sink]:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "generation.json").write_text('{"format": 1, "generation": 0}')
    yield Sink(tmp_path)


# -- without a death ----------------------------------------------------------------------------------------------


def test_a_batch_is_one_file_a_piece_and_only_what_has_rows_is_a_file(sink: Sink) -> None:
    assert sink.write(Cluster([], [1, 2], [3]), batch_id=7) == 3
    writer = sink_id(sink.checkpoint)
    assert sorted(path.name for path in sink.folder.iterdir() if path.name != ".lakelet") == [
        f"part-000007-{writer}-00000.json",
        f"part-000007-{writer}-00001.json",
    ]
    assert sink.rows() == [1, 2, 3]


@pytest.mark.parametrize("engine", [Cluster([]), Cluster(), Cluster([], observes=False), Embedded()])
def test_an_empty_batch_writes_no_file(sink: Sink, engine: Any) -> None:
    assert sink.write(engine) == 0
    assert (list(sink.folder.glob("part-*")), sink.hidden) == ([], [])


def test_rows_are_counted_in_the_files_where_the_observation_did_not_come(sink: Sink) -> None:
    assert sink.write(Cluster([1, 2], [3], observes=False)) == 3


# -- deaths -------------------------------------------------------------------------------------------------------

ENGINES = {"cluster": lambda: Cluster([], [1, 2], [3], [4]), "embedded": lambda: Embedded(1, 2, 3, 4)}
DEATHS = [
    ("cluster", "sink.files_written", 1),
    ("cluster", "sink.files_noted", 1),
    *(("cluster", "sink.file_moved", number) for number in (1, 2, 3)),
    *(("embedded", point, 1) for point in faults.SINK_FILE_POINTS),
]


@pytest.mark.parametrize("second", ENGINES)
@pytest.mark.parametrize(("first", "point", "occurrence"), DEATHS)
def test_a_batch_is_there_once_whoever_begins_and_whoever_goes_on(
    sink: Sink, first: str, point: str, occurrence: int, second: str
) -> None:
    sink.dies(ENGINES[first](), point, occurrence=occurrence)
    assert sink.write(ENGINES[second](), commits=False) == 4
    assert sink.rows() == [1, 2, 3, 4]
    assert sink.write(ENGINES[first]()) == 4, "it died after the moves, before its commit"
    assert sink.rows() == [1, 2, 3, 4]
    assert sink.hidden == []


def test_rows_that_are_noted_are_those_that_count(sink: Sink) -> None:
    """A query may give others when it is run again."""
    sink.dies(Cluster([1], [2]), "sink.file_moved")
    assert sink.write(Cluster([8], [9])) == 2
    assert sink.rows() == [1, 2]
    sink.dies(Cluster([3]), "sink.files_written", batch_id=1)
    assert sink.write(Cluster([4]), batch_id=1) == 1
    assert sink.rows() == [1, 2, 4]


def test_a_job_that_goes_on_after_its_client_died_adds_to_nothing(sink: Sink) -> None:
    lost = Cluster([1], [2])
    sink.dies(lost, "sink.files_written")
    assert sink.write(Cluster([1], [2])) == 2
    write_pieces(lost.folders[0], [1], [2])
    assert sink.rows() == [1, 2]
    sink.write(Cluster([3]), batch_id=1)
    assert (sink.rows(), sink.hidden) == ([1, 2, 3], [])


def test_files_that_somebody_took_away_do_not_come_again(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.file_moved")
    for expected in ([2], []):
        for file in sink.folder.glob("*.json"):
            file.unlink()
        assert sink.write(Cluster([1], [2]), commits=False) == 2
        assert sink.rows() == expected
    assert sink.write(Cluster([1], [2])) == 2
    assert (sink.rows(), sink.hidden) == ([], [])


@pytest.mark.parametrize("point", ["sink.files_noted", "sink.file_moved"])
def test_a_share_that_is_not_mounted_is_no_batch_that_is_moved(sink: Sink, point: str) -> None:
    sink.dies(Cluster([1], [2]), point)
    share = sink.folder.rename(sink.root / "share")
    for is_empty_mount in (False, True):
        if is_empty_mount:
            sink.folder.mkdir()
        with pytest.raises(StorageError, match="SINK_NOT_WRITABLE") as raised:
            sink.write(Cluster([1], [2]))
        assert raised.value.retryable
        assert "that folder is not there" in str(raised.value.cause)
    sink.folder.rmdir()
    share.rename(sink.folder)
    assert sink.write(Cluster([8], [9])) == 2
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


def test_rows_that_are_lost_are_written_anew_as_the_hint_says(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.file_moved")
    shutil.rmtree(sink.folder / ".lakelet")
    with pytest.raises(StorageError) as raised:
        sink.write(Cluster([1], [2]))
    note, pattern = str(raised.value.hint).split("`")[1::2]
    Path(note).unlink()
    for file in sink.folder.glob(pattern):
        file.unlink()
    assert sink.write(Cluster([1], [2])) == 2
    assert sink.rows() == [1, 2]


def test_a_file_that_lost_rows_since_it_was_noted_is_not_moved(sink: Sink) -> None:
    sink.dies(Cluster([1, 2]), "sink.files_noted")
    [file] = sink.folder.glob(".lakelet/*/part-*.json")
    file.write_text('{"id":1}\n')
    with pytest.raises(StorageError, match="SINK_NOT_WRITABLE") as raised:
        sink.write(Cluster([1, 2]))
    assert "had 18 bytes when it was written, and has 9" in str(raised.value.cause)
    assert sink.rows() == []


@pytest.mark.parametrize("engine", [Cluster([1], [2]), Embedded(1, 2)])
def test_what_is_noted_is_on_the_disk_before_and_what_is_moved_before_the_commit(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    done: list[str] = []
    monkeypatch.setattr(sink_files, "sync", lambda path: done.append(path.name.partition("-")[0]))
    with faults.installed(lambda point: done.append(point) if point.startswith("sink.") else None):
        sink.write(engine, commits=False)
    count = len(engine.pieces) if isinstance(engine, Cluster) else 1
    files = ["part"] * count + ["part", ".lakelet", "out"]
    assert done == [*files, "sink.files_written", "sink.files_noted", "0", *["sink.file_moved"] * count, "out"]


def test_a_folder_that_cannot_be_removed_is_no_failure_and_goes_later(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path) -> None:
        raise OSError("busy")

    with monkeypatch.context() as patch:
        patch.setattr(sink_files, "remove_folder", fails)
        assert sink.write(Cluster([1])) == 1
        assert sink.write(Cluster([2]), batch_id=1) == 1
    assert len(sink.hidden) == 2
    sink.write(Cluster([3]), batch_id=2)
    assert (sink.rows(), sink.hidden) == ([1, 2, 3], [])


@pytest.mark.parametrize("engine", [Cluster([1], [2]), Embedded(1, 2)])
def test_a_batch_that_the_release_before_had_written_is_not_doubled(sink: Sink, engine: Any) -> None:
    sink.folder.mkdir()
    name = f"part-000000-{sink_id(sink.checkpoint)}.json"
    (sink.folder / name).write_text('{"id":1}\n{"id":2}\n')
    (sink.folder / f".{name}.tmp").write_text('{"id":1}')
    sink.write(engine)
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


def test_what_is_written_here_has_no_ending_before_it_is_moved(sink: Sink) -> None:
    """Patterns over all folders, as `**/*.json`, look into hidden ones, too."""
    sink.dies(Embedded(1, 2), "sink.files_noted")
    assert list(sink.folder.rglob("*.json")) == []
    sink.write(Embedded(1, 2))
    assert sink.rows() == [1, 2]


def test_the_folder_of_the_sink_is_not_searched(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a file for every batch there ever was."""
    sink.write(Cluster([1]))
    seen: list[Path] = []
    for name in ("glob", "iterdir"):
        method = getattr(Path, name)
        monkeypatch.setattr(Path, name, lambda self, *args, _of=method: seen.append(self) or _of(self, *args))
    sink.write(Cluster([2]), batch_id=1)
    sink.dies(Cluster([3]), "sink.files_written", batch_id=2)
    sink.write(Cluster([3]), batch_id=2)
    assert sink.folder / ".lakelet" in seen
    assert sink.folder not in seen


def test_a_batch_is_finished_in_the_folder_where_it_was_begun(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.file_moved")
    sink.path = "elsewhere"
    sink.write(Embedded(1, 2))
    sink.write(Embedded(3), batch_id=1)
    assert (sink.rows(), sink.rows(sink.root / "elsewhere")) == ([1, 2], [3])


def test_a_full_refresh_removes_what_was_left_aside_before(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.files_written")
    start_generation(sink.root / "checkpoint")
    sink.write(Cluster([1], [2]))
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


def test_a_reset_of_the_checkpoint_removes_what_was_left_aside_before(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.files_noted")
    start_epoch(sink.root / "checkpoint", "to_out", 0)
    sink.write(Cluster([1], [2]))
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


def test_what_a_flow_left_that_has_another_name_now_goes_unless_it_is_noted(sink: Sink) -> None:
    sink.dies(Cluster([1], [2]), "sink.files_written")
    sink.flow = "renamed"
    sink.dies(Cluster([3], [4]), "sink.file_moved")
    sink.flow = "once_more"
    sink.write(Cluster([5]))
    [left] = sink.hidden
    assert sink.rows() == [3, 5]
    sink.flow = "renamed"
    sink.write(Cluster([3], [4]))
    assert (sink.rows(), sink.hidden) == ([3, 4, 5], []), f"{left} was noted"


def test_two_flows_into_one_folder_leave_each_other_alone(sink: Sink, tmp_path: Path) -> None:
    sink.dies(Cluster([1]), "sink.files_noted")
    (tmp_path / "other").mkdir()
    other = Sink(tmp_path / "other")
    (other.root / "checkpoint").mkdir()
    (other.root / "checkpoint" / "generation.json").write_text('{"format": 1, "generation": 0}')
    other.path = "../out"
    other.write(Cluster([2]))
    sink.write(Cluster([1]))
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


# -- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("files_per_task", [1, 2])
@pytest.mark.parametrize("loses", [(0,), (1,), (0, 1)])
def test_a_machine_that_writes_to_a_disk_of_its_own_is_found_out(
    sink: Sink, loses: tuple[int, ...], files_per_task: int, observes: bool
) -> None:
    """Also where a task writes many files, as `spark.sql.files.maxRecordsPerFile` has it."""
    engine = Cluster([1, 5], [2, 6], observes=observes)
    engine.loses, engine.files_per_task = loses, files_per_task
    with pytest.raises(StorageError) as raised:
        sink.write(engine)
    assert raised.value.condition == "SINK_OUT_OF_REACH"
    assert raised.value.retryable
    assert sink.rows() == []
    sink.write(Cluster([1], [2]))
    assert (sink.rows(), sink.hidden) == ([1, 2], [])


def test_a_full_disk_of_the_cluster_is_told_in_its_words(sink: Sink) -> None:
    error = QueryError("TASK_WRITE_FAILED", "task failed while writing rows to file:/out")
    error.__cause__ = RuntimeError(
        "[TASK_WRITE_FAILED]\nCaused by: java.io.IOException: No space left on device\n\tat x"
    )
    with pytest.raises(StorageError) as raised:
        sink.write(Cluster([1], fails=error))
    assert raised.value.condition == "SINK_NOT_WRITABLE"
    assert raised.value.cause == "the cluster says: java.io.IOException: No space left on device"


def test_a_function_that_may_not_read_a_file_is_no_fault_of_the_folder(sink: Sink) -> None:
    error = QueryError("PYTHON_EXCEPTION", "PermissionError: [Errno 13] Permission denied: '/etc/x'")
    with pytest.raises(QueryError, match="PYTHON_EXCEPTION"):
        sink.write(Cluster([1], fails=error))


def test_a_query_that_fails_is_no_fault_of_the_folder(sink: Sink) -> None:
    with pytest.raises(QueryError, match="DIVIDE_BY_ZERO"):
        sink.write(Cluster([1], fails=QueryError("DIVIDE_BY_ZERO", "division by zero")))


def test_a_folder_that_is_a_file_is_told(sink: Sink) -> None:
    sink.folder.write_text("")
    for engine in (Embedded(1), Cluster([1])):
        with pytest.raises(StorageError, match="SINK_NOT_WRITABLE"):
            sink.write(engine)


def test_files_go_to_folders_of_this_machine(sink: Sink) -> None:
    sink.path = "s3://bucket/out"
    with pytest.raises(SourceError, match="UNSUPPORTED_FILE_SYSTEM"):
        sink.write(Cluster([1]))
