"""The command line, with a pipeline that is not there: what it passes on, writes and exits with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

import lakelet.cli as lakelet_cli
from lakelet.cli import cli
from lakelet.errors import DefinitionError, DefinitionErrors, FlowError, LakeletError, LockError, Origin
from lakelet.events import kinds
from lakelet.events.log import EventBus
from lakelet.events.model import FlowStatus, PipelineEvent, UpdateState
from lakelet.events.table import DeltaEventLog
from lakelet.execution.outcome import FlowOutcome, RefreshSelection, UpdateResult
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import Dataset, DatasetKind, Flow
from lakelet.names import NameContext

NAMES = NameContext()


class FakePipeline:
    """Remembers how it was called, and answers as it was told to."""

    def __init__(self) -> None:
        self.opened: dict[str, Any] = {}
        self.ran: dict[str, Any] = {}
        self.closed = False
        self.raises: BaseException | None = None
        self.flows: tuple[FlowOutcome, ...] = ()
        self.while_running: Callable[[], None] = lambda: None
        self.rows = pa.table({"n": list(range(150))})
        self.log: DeltaEventLog | None = None
        self.spec = SimpleNamespace(name="shop")

    def __call__(
        self, spec: str | None = None, *, storage: str | None = None, configuration: Mapping[str, str] | None = None
    ) -> FakePipeline:
        self.opened = {"spec": spec, "storage": storage, "configuration": configuration}
        return self

    def __enter__(self) -> FakePipeline:
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def graph(self) -> DataflowGraph:
        self._answer()
        name = NAMES.resolve("orders")
        dataset = Dataset(name=name, kind=DatasetKind.STREAMING_TABLE)
        flow = ResolvedFlow(
            flow=Flow(name="orders", target=name, query=lambda: None), relation=None, inputs=(), streaming=True
        )
        return DataflowGraph(names=NAMES, datasets={name.key: dataset}, flows=(flow,))

    def run(
        self,
        *,
        selection: RefreshSelection,
        continuous: bool = False,
        subscribers: Sequence[Callable[[PipelineEvent], None]] = (),
        stop: Any = None,
    ) -> UpdateResult:
        self.ran = {"selection": selection, "continuous": continuous, "stop": stop}
        self._answer()
        bus = EventBus("p", "shop", "abcdef123")
        for subscriber in subscribers:
            bus.subscribe(subscriber)
        kinds.update_progress(bus, UpdateState.RUNNING)
        self.while_running()
        for flow in self.flows:
            kinds.flow_progress(bus, flow=flow.name, dataset=flow.dataset, status=flow.status, error=flow.error)
        failed = any(flow.status is FlowStatus.FAILED for flow in self.flows)
        state = UpdateState.FAILED if failed else UpdateState.COMPLETED
        kinds.update_progress(bus, state)
        return UpdateResult(update_id="abcdef123", state=state, flows=self.flows)

    def query(self, sql: str) -> pa.Table:
        self._answer()
        return self.rows

    def events(self) -> pa.Table:
        assert self.log is not None
        return self.log.read()

    def _answer(self) -> None:
        sys.stdout.write("printed by the user's file\n")
        if self.raises is not None:
            raise self.raises


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    fake = FakePipeline()
    monkeypatch.setattr("lakelet.pipeline.Pipeline", fake)
    return fake


def lakelet(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments), prog_name="lakelet")


def failed(name: str) -> FlowOutcome:
    return FlowOutcome(name=name, dataset=name, status=FlowStatus.FAILED, error=FlowError("BROKEN", f"{name} broke"))


# -- run


def test_run_passes_on_the_project_and_every_list(pipeline: FakePipeline) -> None:
    result = lakelet(
        "run", "--spec", "s.yml", "--storage", "/tmp/x", "--conf", "a=1", "--conf", "b=x=y",
        "--refresh", "a, b", "--refresh", "c", "--full-refresh", "d", "--continuous",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert pipeline.opened == {"spec": "s.yml", "storage": "/tmp/x", "configuration": {"a": "1", "b": "x=y"}}
    assert pipeline.ran["selection"] == RefreshSelection(refresh=("a", "b", "c"), full_refresh=("d",))
    assert pipeline.ran["continuous"] is True
    assert pipeline.closed


def test_run_without_a_terminal_writes_plain_lines(pipeline: FakePipeline) -> None:
    pipeline.flows = (FlowOutcome(name="orders", dataset="orders", status=FlowStatus.COMPLETED),)
    lines = lakelet("run").stdout.splitlines()
    assert lines[0] == "shop: update abcdef running"
    assert lines[1].split()[:2] == ["completed", "orders"]
    assert lines[2].startswith("shop: update abcdef completed in ")


@pytest.mark.parametrize("lists", [("--refresh", "a"), ("--full-refresh", "a")])
def test_full_refresh_all_excludes_a_list(pipeline: FakePipeline, lists: tuple[str, str]) -> None:
    result = lakelet("run", "--full-refresh-all", *lists)
    assert result.exit_code == 2
    assert "error[CONFLICTING_PIPELINE_REFRESH_OPTIONS]" in result.stderr
    assert not pipeline.ran


def test_a_failed_update_exits_with_1_and_explains_itself_on_stderr(pipeline: FakePipeline) -> None:
    skipped = FlowOutcome(name="daily", dataset="daily", status=FlowStatus.SKIPPED)
    pipeline.flows = (failed("orders"), skipped)
    result = lakelet("run")
    assert result.exit_code == 1
    assert "error[BROKEN]: orders broke" in result.stderr
    assert "skipped, since something they read failed: daily" in result.stderr
    assert "error[" not in result.stdout


def test_run_json_is_one_event_a_line_and_nothing_else(pipeline: FakePipeline) -> None:
    pipeline.flows = (failed("orders"),)
    result = lakelet("run", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event_type"] for event in events] == ["update_progress", "flow_progress", "update_progress"]
    assert "printed by the user's file" in result.stderr


def test_an_update_stopped_by_a_signal_exits_with_130(pipeline: FakePipeline) -> None:
    pipeline.while_running = lambda: signal.raise_signal(signal.SIGTERM)
    result = lakelet("run", "--continuous")
    assert pipeline.ran["stop"].is_set()
    assert result.exit_code == 130


# -- dry-run, graph


def test_dry_run_says_that_a_pipeline_is_valid(pipeline: FakePipeline) -> None:
    result = lakelet("dry-run")
    assert (result.exit_code, result.stdout) == (0, "shop is valid: 1 streaming table\n")
    assert not pipeline.ran


def test_dry_run_shows_every_error_and_exits_with_2(pipeline: FakePipeline) -> None:
    pipeline.raises = DefinitionErrors([DefinitionError("A", "one"), DefinitionError("B", "two")])
    result = lakelet("dry-run")
    assert result.exit_code == 2
    assert "error[A]: one\n\nerror[B]: two" in result.stderr


def test_dry_run_json_has_the_errors_as_data(pipeline: FakePipeline) -> None:
    pipeline.raises = DefinitionError("A", "one", origin=Origin(file="t.py", line=3, dataset="d"), hint="mend it")
    result = lakelet("dry-run", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout) == {
        "valid": False,
        "errors": [
            {
                "condition": "A",
                "message": "one",
                "file": "t.py",
                "line": 3,
                "dataset": "d",
                "flow": None,
                "cause": None,
                "hint": "mend it",
            }
        ],
    }


@pytest.mark.parametrize("arguments", [("--json",), ("--format", "json")])
def test_graph_json_has_the_pipeline_its_datasets_and_edges(pipeline: FakePipeline, arguments: tuple[str, ...]) -> None:
    result = json.loads(lakelet("graph", *arguments).stdout)
    assert (result["pipeline"], result["edges"]) == ("shop", [])
    assert [dataset["name"] for dataset in result["datasets"]] == ["orders"]


def test_graph_text_and_mermaid_go_to_stdout(pipeline: FakePipeline) -> None:
    assert lakelet("graph").stdout == "orders  streaming table\n"
    assert lakelet("graph", "--format", "mermaid").stdout.startswith("flowchart LR\n")


def test_graph_svg_is_a_whole_picture_on_stdout(pipeline: FakePipeline) -> None:
    result = lakelet("graph", "--format", "svg")
    assert (result.exit_code, result.stderr) == (0, "printed by the user's file\n")
    picture = ElementTree.fromstring(result.stdout)
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "orders" in "".join(picture.itertext())


# -- query


def test_query_formats_and_limits_rows(pipeline: FakePipeline) -> None:
    assert lakelet("query", "select 1", "--format", "csv", "--limit", "2").stdout == "n\n0\n1\n"
    assert len(json.loads(lakelet("query", "select 1", "--json").stdout)) == 150
    assert lakelet("query", "select 1").stdout.splitlines()[-1] == "150 rows, the first 100 shown"
    assert lakelet("query", "select 1", "--limit", "3").stdout.splitlines()[-1] == "150 rows, the first 3 shown"


@pytest.mark.parametrize("sql", ["-- a comment\nselect 1", "--a comment\nselect 1", "--\nselect 1"])
def test_a_query_that_begins_with_a_comment_is_no_option(pipeline: FakePipeline, sql: str) -> None:
    assert lakelet("query", sql, "--limit=1", "--format", "csv").stdout == "n\n0\n"
    assert lakelet("query", "--fromat=csv", sql).exit_code == 2


# -- events


@pytest.fixture
def logged(pipeline: FakePipeline, tmp_path: Path) -> FakePipeline:
    pipeline.log = DeltaEventLog(tmp_path / "events")
    for update_id in ("aaa111", "bbb222"):
        bus = EventBus("p", "shop", update_id)
        bus.subscribe(pipeline.log)
        kinds.create_update(bus)
        kinds.flow_progress(bus, flow="orders", dataset="orders", status=FlowStatus.FAILED, error=FlowError("X", "y"))
    pipeline.log.flush()
    return pipeline


def test_events_shows_the_log_oldest_first(logged: FakePipeline) -> None:
    lines = lakelet("events").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["aaa111", "aaa111", "bbb222", "bbb222"]


def test_events_filters_and_keeps_the_last(logged: FakePipeline) -> None:
    result = lakelet(
        "events", "--update", "latest", "--level", "error", "--dataset", "orders", "--type", "flow_progress", "--json"
    )
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["origin"]["update_id"] for event in events] == ["bbb222"]
    assert lakelet("events", "--limit", "1").stdout.count("\n") == 1


def test_events_says_on_stderr_that_none_match(logged: FakePipeline) -> None:
    result = lakelet("events", "--dataset", "orders", "--type", "create_update", "--json")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no events match\n")


def test_events_of_an_unknown_update_exits_with_2(logged: FakePipeline) -> None:
    result = lakelet("events", "--update", "nope")
    assert result.exit_code == 2
    assert "error[UNKNOWN_UPDATE]" in result.stderr


# -- init


def test_init_writes_a_project_and_says_what_comes_next(tmp_path: Path) -> None:
    result = lakelet("init", "--name", "demo", "--dir", str(tmp_path / "demo"))
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == f"next: cd {tmp_path / 'demo'} && lakelet run"
    assert (tmp_path / "demo" / "spark-pipeline.yml").exists()


def test_init_json_lists_the_files(tmp_path: Path) -> None:
    written = json.loads(lakelet("init", "--name", "demo", "--dir", str(tmp_path), "--json").stdout)
    assert str(tmp_path / "transformations" / "customers.py") in written["files"]


# -- how a command ends


@pytest.mark.parametrize("error", [LockError("PIPELINE_LOCKED", "busy"), FlowError("X", "y")])
def test_an_error_is_a_block_on_stderr_with_its_own_exit_code(pipeline: FakePipeline, error: LakeletError) -> None:
    pipeline.raises = error
    result = lakelet("query", "select 1")
    assert result.exit_code == error.exit_code
    assert result.stdout == ""
    assert error.render() in result.stderr


@pytest.mark.parametrize("arguments", [("run", "--bogus"), ("nope",), ("query",), ("run", "--conf", "novalue")])
def test_wrong_usage_exits_with_2(pipeline: FakePipeline, arguments: tuple[str, ...]) -> None:
    assert lakelet(*arguments).exit_code == 2


def test_a_bug_exits_with_70_and_leaves_a_report(
    pipeline: FakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pipeline.raises = ZeroDivisionError("division by zero")
    result = lakelet("query", "select 1")
    assert result.exit_code == 70
    assert "internal error: ZeroDivisionError: division by zero" in result.stderr
    assert "Traceback" not in result.stderr
    (report,) = tmp_path.glob("lakelet-report-*.txt")
    assert str(report) in result.stderr
    assert "Traceback" in report.read_text()


def test_debug_shows_the_traceback_of_a_bug(pipeline: FakePipeline) -> None:
    pipeline.raises = ZeroDivisionError("division by zero")
    result = lakelet("--debug", "query", "select 1")
    assert result.exit_code == 70
    assert "Traceback" in result.stderr


def test_ctrl_c_exits_with_130(pipeline: FakePipeline) -> None:
    pipeline.raises = KeyboardInterrupt()
    assert lakelet("query", "select 1").exit_code == 130


def in_a_process(folder: Path, code: str) -> subprocess.Popen[str]:
    """Start a script as pip installs it: a file, not `python -c`."""
    script = folder / "lakelet"
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(lakelet_cli.__file__).parents[1])},
    )


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lakelet', '--help']\n"
        "import lakelet.cli\n"
        "try: lakelet.cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'pyarrow', 'deltalake', 'pyspark', 'pysail', 'sqlglot', 'yaml'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    with in_a_process(tmp_path, code) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Usage: lakelet" in out


def test_help_answers_within_half_a_second(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['lakelet', '--help']; import lakelet.cli; lakelet.cli.main()"

    def seconds() -> float:
        started = time.perf_counter()
        with in_a_process(tmp_path, code) as process:
            process.communicate()
        return time.perf_counter() - started

    assert min(seconds() for _ in range(5)) < 0.5


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['lakelet', 'query', 'x', '--format', 'csv']\n"
        "import lakelet.cli, lakelet.pipeline, pyarrow\n"
        "class Fake:\n"
        "    def __init__(self, *a, **k): pass\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *e): pass\n"
        "    def query(self, sql): return pyarrow.table({'n': list(range(200000))})\n"
        "lakelet.pipeline.Pipeline = Fake\n"
        "lakelet.cli.main()"
    )
    with in_a_process(tmp_path, code) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "n\n", process.stderr.read()
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
