"""Files that a cluster parses: rows, columns and errors are those that this process would have found.

On the embedded engine a cluster is played; its workers then run in this process, from the same bytes as elsewhere.
"""

from __future__ import annotations

import bz2
import dataclasses
import gzip
import io
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from pyspark.sql.pandas.types import from_arrow_schema
from tests.behaviour.test_file_streams import AVRO, ORDER, auto_loader, failure, put
from tests.behaviour.test_state_in_cluster import watched
from tests.behaviour.test_streaming_tables import Crash, crash_at
from tests.collected_tables import CollectedStore, PlayedCluster
from tests.engines import address

from lakelet.engine.base import Engine
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail import SailEngine
from lakelet.errors import SourceError
from lakelet.execution import file_batch, file_cluster, file_source, file_worker
from lakelet.execution.file_cluster import FileCluster, tasks
from lakelet.execution.file_discovery import FoundFile, Lister
from lakelet.execution.file_options import FileRead, file_read
from lakelet.execution.file_parsing import FileParser
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.file_worker import FileWorker, task_text
from lakelet.plan import relation as plan
from lakelet.plan.arrow_functions import mapped
from lakelet.plan.sources import Leaf, LeafKind
from lakelet.storage import delta_spark
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_spark import DeltaSparkStore

FEATURE = "Files as streams"


def cluster_of(engine: Any) -> FileCluster:
    if engine.capabilities.cluster_writes:
        return FileCluster(engine=engine, store=DeltaSparkStore(engine))
    played = PlayedCluster(engine)
    return FileCluster(engine=played, store=CollectedStore(played))


@pytest.fixture
def cluster(engine: Engine) -> FileCluster:
    return cluster_of(engine)


@pytest.fixture(params=["UTC", "America/New_York"], scope="module")
def zoned(request: pytest.FixtureRequest) -> Any:
    """An engine whose sessions run in a time zone."""
    settings = {"spark.sql.session.timeZone": request.param}
    engine = (
        SailEngine(configuration=settings) if address() == "sail" else ConnectEngine(address(), configuration=settings)
    )
    yield engine
    engine.close()


# -- the same rows ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """Files, and how they are read.

    Attributes:
        late: files that come after the columns were inferred.
        options: of the reader.
        unknown: fields that are found to be no columns.
        error: condition of what is wrong, empty if nothing is.
    """

    files: Mapping[str, bytes | str]
    late: Mapping[str, bytes | str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    auto_loader: bool = True
    schema: str = ""
    unknown: set[str] = field(default_factory=set)
    error: str = ""


def packed(write: Callable[[pa.Table, io.BytesIO], Any], **columns: Any) -> bytes:
    out = io.BytesIO()
    write(pa.table(columns), out)
    return out.getvalue()


def parquet(**columns: Any) -> bytes:
    return packed(pq.write_table, **columns)


def orc(**columns: Any) -> bytes:
    return packed(pyarrow.orc.write_table, **columns)


def avro(*rows: Mapping[str, Any], schema: Any = AVRO) -> bytes:
    import fastavro

    out = io.BytesIO()
    fastavro.writer(out, schema, rows)
    return out.getvalue()


AT = datetime(2024, 3, 10, 6, 59, 59, 123456, tzinfo=UTC)
BROKEN = '{"id": 1, "more": 1}\n{"id": \n{"id": "x", "new": true}\n{"id": 4}\n'
EVERY_TYPE = (
    "i TINYINT, s SMALLINT, n INT, l BIGINT, f FLOAT, d DOUBLE, m DECIMAL(38,10), yes BOOLEAN, t TIMESTAMP, "
    "w TIMESTAMP_NTZ, day DATE, b BINARY, "
    "a ARRAY<STRUCT<x: INT, y: ARRAY<STRING>>>, p MAP<STRING, TIMESTAMP>, o STRUCT<q: STRUCT<r: DECIMAL(4,2)>>"
)
EVERY_VALUE = (
    '{"i": 1, "s": -2, "n": 3, "l": 9007199254740993, "f": 1.5, "d": "NaN", "m": 1.0000000001, "yes": true, '
    '"t": "2024-03-10T02:30:00-05:00", "w": "2024-03-10 02:30:00.123456", "day": "1582-10-15", "b": "/wA=", '
    '"a": [{"x": 1, "y": ["é", null]}, null], "p": {"k": "2024-03-10T06:59:59Z", "z": null}, "o": {"q": {"r": 1.25}}}\n{}\n'
)
CASES = {
    "json, inferred": Case(
        files={"a.json": '{"id": 1, "o": {"a": [1.50]}, "big": 1180591620717411303424}\n', "deep/b.json": '{"id": 2.5}\n'},
        options={"inferColumnTypes": "true"},
    ),
    "json, every type": Case(files={"a.json": EVERY_VALUE}, schema=EVERY_TYPE, auto_loader=False),
    "json, text only": Case(files={"a.json": '{"id": 1.50, "o": {"a": [1, 2]}, "n": null, "s": "\\u2028"}\n'}),
    "json, broken and rescued": Case(
        files={"a.json": BROKEN}, options={"schemaHints": "id BIGINT"}, late={"b.json": '{"id": 5, "ID": 6}\n'}
    ),
    "json, broken and kept": Case(
        files={"a.json": BROKEN}, schema="id BIGINT, _corrupt_record STRING", auto_loader=False, unknown={"more", "new"}
    ),
    "json, broken and dropped": Case(
        files={"a.json": BROKEN}, schema="id BIGINT", options={"mode": "DROPMALFORMED"}, auto_loader=False,
        unknown={"more", "new"},
    ),
    "json, every row dropped": Case(
        files={"a.json": '{"id": 1}\n'}, late={"b.json": '{"id": "x", "new": 1}\n{"id": \n'}, schema="id BIGINT",
        options={"mode": "DROPMALFORMED"}, auto_loader=False, unknown={"new"},
    ),
    "json, broken and refused": Case(
        files={"a.json": '{"id": 1}\n', "b.json": BROKEN, "c.json": "{\n"}, schema="id BIGINT", options={"mode": "FAILFAST"},
        auto_loader=False, error="MALFORMED_RECORD_IN_PARSING",
    ),
    "json, new fields of several files": Case(
        files={"a.json": '{"id": 1}\n'},
        late={"b.json": '{"id": 2, "o": {"b": 1}, "x": 1}\n', "c.json": '{"o": {"a": "t", "b": 1.5}, "x": "t", "y": null}\n'},
        options={"inferColumnTypes": "true"}, unknown={"o", "x", "y"},
    ),
    "json, several lines and packed": Case(
        files={"a.json.gz": gzip.compress(b'[{"id": 1},\n {"id":\n2}]'), "b.json.bz2": bz2.compress(b'{\n"id": 3}')},
        options={"multiLine": "true"},
    ),
    "json, patterns of times": Case(
        files={"a.json": '{"t": "10.03.2024 02:30"}\n'}, schema="t TIMESTAMP", auto_loader=False,
        options={"timestampFormat": "dd.MM.yyyy HH:mm"},
    ),
    "json, a pattern without meaning": Case(
        files={"a.json": '{"t": "x"}\n'}, schema="t TIMESTAMP", auto_loader=False,
        options={"timestampFormat": "qqq"}, error="UNSUPPORTED_OPTION",
    ),
    "partitions": Case(
        files={
            "day=2026-01-02/hour=3/a.json": '{"id": 1}\n',
            "day=__HIVE_DEFAULT_PARTITION__/hour=4/b.json": '{"id": 2}\n',
        },
        late={"day=tomorrow/hour=x/c.json": '{"id": 3}\n'}, options={"inferColumnTypes": "true"},
    ),
    "csv, inferred": Case(
        files={"a.csv": 'id,name,price,day,at\n1,"a, b",1.5,2026-01-02,2026-01-02 03:04:05\n2,"q""q",,,\n'},
        options={"header": "true", "inferColumnTypes": "true"}, late={"b.csv": "name,id,new\nx,one,1\n"}, unknown={"new"},
    ),
    "csv, ragged": Case(files={"a.csv": "id,name\n1\n2,x\n3,y,z\n"}, options={"header": "true"}),
    "csv, lines within quotes": Case(
        files={"a.csv": "id|text\n1|'two\nlines'\n2|NA\n3|'it\\'s'\n"},
        options={"header": "true", "sep": "|", "quote": "'", "multiLine": "true", "nullValue": "NA"},
    ),
    "csv, by position": Case(
        files={"a.csv": "1,x,2024-03-10\n2,,\n"}, schema="id INT, name STRING, at TIMESTAMP_NTZ", auto_loader=False
    ),
    "parquet": Case(
        files={
            "a.parquet": parquet(
                id=pa.array([1, None], pa.int32()),
                u=pa.array([1, 2**64 - 1], pa.uint64()),
                t=pa.array([AT, None], pa.timestamp("ns", "UTC")),
                w=pa.array([AT.replace(tzinfo=None), None], pa.timestamp("us")),
                m=pa.array([Decimal("1.25"), None], pa.decimal128(10, 2)),
                b=pa.array([b"\xff", None]),
                o=pa.array([{"x": [1], "y": {"z": "t"}}, None]),
            )
        },
    ),
    "parquet, new and other columns": Case(
        files={"a.parquet": parquet(id=pa.array([1], pa.int32()), x=[1.5])},
        late={
            "b.parquet": parquet(id=[2**40], more=["m"]),
            "c.parquet": parquet(id=pa.array([], pa.int64()), none=pa.array([], pa.int8())),
        },
        unknown={"more", "none"},
    ),
    "parquet, another type": Case(
        files={"a.parquet": parquet(id=["x"])}, schema="id BIGINT", auto_loader=False,
        error="FAILED_READ_FILE.PARQUET_COLUMN_DATA_TYPE_MISMATCH",
    ),
    "orc": Case(
        files={"a.orc": orc(id=pa.array([1], pa.int32()), s=["é"])}, late={"b.orc": orc(id=[2**40], t=[AT])}, unknown={"t"}
    ),
    "avro": Case(files={"a.avro": avro(ORDER, {**ORDER, "id": 2, "name": None, "size": None})}),
    "avro, of no column's type": Case(
        files={"a.avro": avro(ORDER)},
        late={"b.avro": avro(schema={"type": "record", "name": "r", "fields": [{"name": "x", "type": ["string", "int"]}]})},
        error="UNSUPPORTED_AVRO_TYPE",
    ),
    "avro, torn": Case(
        files={"a.avro": avro(ORDER)}, late={"b.avro": avro(*[ORDER] * 1000)[:-20]}, error="FAILED_READ_FILE.NO_HINT"
    ),
    "text": Case(files={"a.text": "one\ntwo\n\nlast", "b.text": ""}, options={}),
    "text, whole": Case(files={"a.text": "one\ntwo\n"}, options={"wholeText": "true"}, auto_loader=False, schema="value STRING"),
    "bytes": Case(files={"a b.binaryFile": b"\x00\xff", "c.binaryFile": b""}),
    "torn": Case(
        files={"a.parquet": parquet(id=[1])}, late={"b.parquet": b"", "c.parquet": b"no"}, error="FAILED_READ_FILE.NO_HINT"
    ),
    "torn and ignored": Case(
        files={"a.parquet": parquet(id=[1])}, late={"b.parquet": b"", "c.parquet": b"no"}, options={"ignoreCorruptFiles": "true"}
    ),
    "without rows": Case(
        files={"a.json": ""}, schema="id BIGINT, at TIMESTAMP", auto_loader=False
    ),
}  # fmt: skip


@dataclass
class Given:
    """A case whose files lie on disk."""

    read: FileRead
    parser: Callable[[], FileParser]
    files: list[FoundFile]


def given(case: Case, root: Path, engine: Engine, *, metadata: bool = True) -> Given:
    landing = root / "landing"

    def write(files: Mapping[str, bytes | str]) -> None:
        for name, content in files.items():
            path = landing / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    write(case.files)
    fmt = next(iter(case.files)).removesuffix(".gz").removesuffix(".bz2").rpartition(".")[2]
    own = {"inferColumnTypes", "schemaHints", "schemaEvolutionMode"}
    options = {(f"cloudFiles.{key}" if key in own else key).lower(): value for key, value in case.options.items()}
    if case.auto_loader:
        options["cloudfiles.format"] = fmt
    leaf = Leaf(
        kind=LeafKind.DATA_SOURCE,
        streaming=True,
        format="cloudfiles" if case.auto_loader else fmt.lower(),
        options=options,
        schema=case.schema,
        paths=(str(landing),),
    )
    read = file_read(leaf, str(landing))
    columns = FileSchemas(Catalog(storage=root / "storage", root=root), engine).fresh(read)
    write(case.late)
    return Given(read, lambda: FileParser(read, columns, metadata), Lister(read).new_files(lambda path: None))


def sorted_rows(table: pa.Table, schema: pa.Schema) -> list[str]:
    return sorted(map(repr, table.cast(schema).to_pylist()))


def outcome(parse: Callable[[], pa.Table]) -> Any:
    """Return rows, or the facts of the error."""
    try:
        return parse()
    except SourceError as error:
        return (error.condition, error.message, error.cause, error.hint)


def compare(case: Case, root: Path, engine: Engine) -> None:
    cluster, found = cluster_of(engine), given(case, root, engine)
    here, there = found.parser(), found.parser()
    expected = outcome(
        lambda: pa.concat_tables([here.schema.empty_table(), *(t for f in found.files for t in here.tables(f))])
    )
    relations = []

    def in_cluster() -> pa.Table | None:
        relations.append(cluster.rows(found.files, there, root / "staged"))
        return None if relations[0] is None else engine.collect(relations[0])

    result = outcome(in_cluster)
    if result is None:
        assert found.read.format in cluster.lacking, "the workers have all that this needs"
        pytest.skip(f"the workers have no {cluster.lacking[found.read.format]}")
    if case.error:
        assert expected[0] == case.error
        assert result == expected
        return
    assert isinstance(expected, pa.Table), expected
    assert isinstance(result, pa.Table), result
    assert sorted_rows(result, here.schema) == sorted_rows(expected, here.schema)
    assert engine.schema(relations[0]).simpleString() == from_arrow_schema(here.schema).simpleString()
    assert set(here.unknown) == case.unknown
    assert there.unknown == here.unknown


@pytest.mark.parametrize("case", CASES)
def test_what_the_workers_parse_is_what_this_process_parses(
    case: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cluster, "LEAST_FILE_BYTES", file_cluster.TASK_BYTES)  # each file is a task
    compare(CASES[case], tmp_path, engine)


@pytest.mark.parametrize("case", ["json, every type", "parquet", "csv, inferred", "avro"])
def test_times_are_the_same_in_every_zone(case: str, zoned: Any, tmp_path: Path) -> None:
    compare(CASES[case], tmp_path, zoned)


def test_many_files_are_one_task_and_a_large_one_is_one_alone() -> None:
    def file(size: int) -> FoundFile:
        return FoundFile(path="x", size_bytes=size, modified_at_ms=0)

    small, large = file(1), file(100 * file_cluster.TASK_BYTES)
    counts = [text.count('"x"') for text in tasks([small] * 10 + [large] + [small] * 100)]
    assert counts == [10, 1, 64, 36]


@pytest.mark.parametrize("format", ["json", "parquet", "text"])
def test_a_file_that_may_not_be_read_is_not_corrupt(tmp_path: Path, engine: Engine, format: str) -> None:
    """Neither here nor in a worker; a link to itself stands for a file that the system refuses."""
    content = {"json": '{"id": 1}', "parquet": parquet(id=[1]), "text": "one"}[format]
    case = Case(files={f"a.{format}": content, f"b.{format}": content}, options={"ignoreCorruptFiles": "true"})
    found = given(case, tmp_path, engine)
    refused = tmp_path / "landing" / f"b.{format}"
    refused.unlink()
    refused.symlink_to(refused)
    with pytest.raises(SourceError, match="cannot be read") as here:
        list(found.parser().tables(found.files[1]))
    parser = found.parser()
    worker = FileWorker(read=found.read, columns=parser.columns, metadata=True)
    task = pa.record_batch({"task": [task_text(0, found.files)]})
    *rows, last = worker(iter([task]))
    assert sum(batch.num_rows for batch in rows) == 1
    assert last.column(file_worker.NOTE)[0].as_py() is not None
    failed = file_worker.Note.of(last.column(file_worker.NOTE)[0].as_py()).failed
    assert failed is not None
    assert (failed[0], failed[1]["message"], failed[1]["retryable"]) == (1, here.value.message, True)


def test_workers_give_batches_of_bounded_size(tmp_path: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_worker, "BATCH_BYTES", 10_000)
    lines = "\n".join('{"id": "%s"}' % ("x" * 1_000) for _ in range(100))
    found = given(Case(files={"a.json": lines}), tmp_path, engine, metadata=False)
    worker = FileWorker(read=found.read, columns=found.parser().columns, metadata=False)
    batches = list(worker(iter([pa.record_batch({"task": [task_text(0, found.files)]})])))
    assert sum(batch.num_rows for batch in batches) == 100
    assert max(batch.num_rows for batch in batches) < 20


# -- what workers lack --------------------------------------------------------------------------------------------


def test_a_worker_needs_no_lakelet_and_no_pytest(tmp_path: Path, engine: Engine) -> None:
    """Nor fastavro, unless the files are Avro."""
    found = given(CASES["json, broken and rescued"], tmp_path, engine)
    parser = found.parser()
    worker = FileWorker(read=found.read, columns=parser.columns, metadata=True)
    relation = mapped(plan.sql("SELECT 1"), ["task"], worker, from_arrow_schema(parser.schema))
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['lakelet', '_pytest', 'fastavro', 'cramjam']))\n"
        "import pyarrow as pa; from pyspark import cloudpickle\n"
        "worker, _ = cloudpickle.loads(sys.stdin.buffer.read())\n"
        f"batch = pa.record_batch({{'task': [{task_text(0, found.files)!r}]}})\n"
        "print(sum(rows.num_rows for rows in worker(iter([batch]))))\n"
    )
    command = relation.map_partitions.func.python_udf.command
    done = subprocess.run([sys.executable, "-c", program], input=command, capture_output=True, check=False)
    assert done.stdout.decode().strip() == "5", done.stderr.decode()


def played(project: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a project that runs on a cluster: a played one if the engine is none."""
    if not project.engine.capabilities.cluster_writes:
        project.engine = PlayedCluster(project.engine)
        monkeypatch.setattr(delta_spark, "DeltaSparkStore", CollectedStore)
    return project


def never(*args: Any, **options: Any) -> Any:
    raise AssertionError("rows of files pass through this process")


class ParserWithoutLibrary(FileParser):
    def tables(self, file: FoundFile) -> Any:
        raise ModuleNotFoundError("No module named 'fastavro'", name="fastavro")


def test_workers_without_fastavro_leave_the_rows_to_this_process_which_says_so_once(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if project.engine.capabilities.cluster_writes:
        pytest.skip("its workers may have it")
    monkeypatch.setattr(file_worker, "FileParser", ParserWithoutLibrary)
    played(project, monkeypatch)
    project.write(auto_loader("avro", maxFilesPerTrigger="1"))
    for name in ("a.avro", "b.avro", "c.avro"):
        put(project, name, avro(ORDER))
    project.ok()
    assert project.rows("files", "id") == [1, 1, 1]
    warnings = [event.message for event in project.events if "pass through this process" in event.message]
    assert len(warnings) == 1
    assert "no `fastavro`" in warnings[0]


def test_workers_without_pyarrow_leave_the_rows_to_this_process_which_says_so(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(project, monkeypatch)
    can = dataclasses.replace(project.engine.capabilities, arrow_functions=False)
    monkeypatch.setattr(project.engine, "capabilities", can)
    project.write(auto_loader())
    put(project, "a.json", [{"id": 1}])
    project.ok()
    assert project.rows("files", "id") == ["1"]
    (text,) = [event.message for event in project.events if "pass through this process" in event.message]
    assert text.startswith("rows of files") and "with pyarrow" in text


# -- what workers do not see --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ignores", ["false", "true"])
def test_a_folder_that_workers_do_not_see_is_told_from_files_that_are_gone(
    project: Any, monkeypatch: pytest.MonkeyPatch, ignores: str
) -> None:
    def elsewhere(first: int, files: list[FoundFile]) -> str:
        return task_text(first, files).replace(str(project.root), "/not-mounted-here")

    played(project, monkeypatch)
    project.write(auto_loader(ignoreMissingFiles=ignores))
    put(project, "a.json", [{"id": 1}])
    with monkeypatch.context() as patched:
        patched.setattr(file_cluster, "task_text", elsewhere)
        error = failure(project)
    assert error.condition == "FILES_OUT_OF_REACH"
    assert "a.json" in error.message
    assert "same path" in error.hint
    project.ok()
    assert project.rows("files", "id") == ["1"]


def test_notes_that_are_counted_and_not_there_are_missed(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    played(project, monkeypatch)
    project.write(auto_loader())
    put(project, "a.json", [{"id": 1}])
    project.ok()
    put(project, "b.json", [{"id": 2, "new": 3}])
    with monkeypatch.context() as patched:
        patched.setattr(FileCluster, "_notes", lambda self, staged: [])
        error = failure(project)
    assert (error.condition, error.retryable) == ("STORAGE_OUT_OF_REACH", True)
    assert project.rows("files", "id") == ["1"]


# -- whole updates ------------------------------------------------------------------------------------------------

ROWS = 20_000


@pytest.mark.feature(FEATURE)
@pytest.mark.timeout(600)
def test_no_row_of_a_file_comes_here(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not project.engine.capabilities.cluster_writes:
        pytest.skip("rows stream through this process on this engine")
    monkeypatch.setattr(file_source, "rows_here", never)
    project.write(auto_loader(inferColumnTypes="true", maxFilesPerTrigger="2"))
    put(project, "a.json", [{"id": number, "name": f"n{number}"} for number in range(ROWS // 2)])
    project.ok()
    put(project, "b.json", [{"id": number, "name": f"n{number}"} for number in range(ROWS // 2, ROWS)])
    put(project, "c.json", [{"id": ROWS, "new": True}])
    with watched(monkeypatch) as crossing:
        project.ok()
    assert (crossing.read, crossing.written) == (0, 0)
    assert crossing.sent <= 4, "names of files, and not their rows"
    assert crossing.received <= 4
    monkeypatch.undo()
    assert project.pipeline().table("files").num_rows == ROWS + 1
    assert [row for row in project.rows("files", "id", "new") if row[1]] == [(ROWS, True)]


def test_an_attempt_that_died_leaves_nothing_and_is_repeated_with_the_same_files(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(project, monkeypatch)
    monkeypatch.setattr(file_source, "rows_here", never)
    project.write(auto_loader())
    put(project, "a.json", [{"id": 1}])

    def staged() -> set[Path]:
        return set(project.root.glob("data/_checkpoints/**/staged/*"))

    seen = set()
    for point in ("files.planned", "flow.intent_written"):
        with pytest.raises(Crash), crash_at(point):
            project.run()
        (attempt,) = staged()
        seen.add(attempt)
        put(project, f"{point}.json", [{"id": 2, "new": point}])
    assert len(seen) == 2, "no folder is written twice"
    project.ok()
    assert not staged()
    assert project.rows("files", "id", "new") == [
        ("1", None), ("2", "files.planned"), ("2", "flow.intent_written")
    ]  # fmt: skip


def test_files_are_parsed_for_queries_that_read_them_as_a_table(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    played(project, monkeypatch)
    monkeypatch.setattr(file_batch, "rows_here", never)
    monkeypatch.setattr(file_batch, "_KEPT_FOLDERS", 1)
    put(project, "a.json", '{"id": 1, "more": true}\n{"id": "x"}\n')
    left = project.root / "data" / file_batch.SHARED_FOLDER / "1-of-a-process-that-died"
    left.mkdir(parents=True)
    project.write(
        """
        @dp.materialized_view
        def files():
            return (
                spark.read.format("json").schema("id BIGINT").option("rescuedDataColumn", "_rest")
                .load("/Volumes/main/raw/landing/files")
            )
        """
    )
    project.ok()
    rows = project.rows("files", "id", "_rest")
    assert [row[0] for row in rows] == [1, None]
    assert all("a.json" in row[1] for row in rows)
    assert len(list(left.parent.iterdir())) <= 1
    assert not left.exists()
