"""One storage, the processes that work on it, and their death at random moments.

Who works on it is a *subject*: something that lands rows, a pipeline that processes them continuously, and an oracle that
knows what must come out. One of the two processes, or both, is killed (SIGKILL) and started again; in between the tables are
compacted and vacuumed without retention, and that is killed, too.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.context
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

from deltalake import DeltaTable

from lakelet import Pipeline

MODULES = [
    "pandas",
    "pysail.spark",
    "apparel.generator.streams",
    "lakelet.execution.continuous",
    "lakelet.engine.sail",
    "lakelet.project",
    "lakelet.pipelines.session",
]


class Subject(Protocol):
    """What is killed, and what must come out. A process of its own gets a copy.

    Attributes:
        name: how it is called in the report.
        project: the folder of the pipeline.
        rows: what arrives, as a word.
    """

    name: str
    root: Path
    project: Path
    configuration: Mapping[str, str]
    rows: str

    def prepare(self) -> None:
        """Land the first rows; a process that is killed before its first commit leaves nothing to process."""

    def land(self, seed: int) -> None:
        """Land rows until it is killed."""

    def has_begun(self) -> bool:
        """Return whether tables may be maintained: where the oracle reads what the first batches read, they are done."""

    def maintain(self) -> None:
        """Compact everything and remove every file that no flow needs; nobody else is alive."""

    def save(self) -> None:
        """Keep what the oracle needs and the pipeline removes; called all the time."""

    def drain(self) -> None:
        """Process the rest in ordinary updates."""

    def differences(self) -> list[str]:
        """Return where tables, counts of rules or counts of rows are not what the input says."""

    def tables(self) -> Mapping[str, Path]:
        """Return the tables that are compared, by name."""

    def num_landed(self) -> int:
        """Return how many rows have arrived."""


def storage_of(subject: Subject) -> Path:
    return subject.root / "storage"


def run_update(subject: Subject) -> None:
    """Run one ordinary update."""
    configuration = dict(subject.configuration)
    with Pipeline(subject.project, storage=storage_of(subject), configuration=configuration) as pipeline:
        result = pipeline.run()
        assert result.exit_code == 0, [error.render() for error in result.errors]


def _land(subject: Subject, seed: int) -> None:
    os.nice(10)
    subject.land(seed)


def _run_continuously(subject: Subject) -> None:
    os.nice(10)
    configuration = dict(subject.configuration)
    with Pipeline(subject.project, storage=storage_of(subject), configuration=configuration) as pipeline:
        result = pipeline.run(continuous=True)
    raise SystemExit(f"the continuous update ended by itself: {result}")


def _maintain(subject: Subject) -> None:
    subject.maintain()


@dataclass(slots=True, kw_only=True)
class Soak:
    """Kills the processes of one subject.

    Attributes:
        shells: share of the starts of the pipeline that go through `lakelet run` in a new interpreter.
        maintenances: share of the kills that are followed by maintenance.
        awaited: share of the kills that come only when the pipeline has begun to process.
    """

    subject: Subject
    seed: int
    shells: float = 0.05
    maintenances: float = 0.15
    awaited: float = 0.85
    hits: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    _draw: random.Random = field(init=False)
    _context: multiprocessing.context.ForkServerContext = field(init=False)
    _seen: set[str] = field(default_factory=set)
    _processes: dict[str, BaseProcess | subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(MODULES)

    @property
    def storage(self) -> Path:
        return storage_of(self.subject)

    def run(self, *, kills: int, seconds: float, say: Callable[[str], None] = print) -> list[str]:
        """Kill and start again until there were so many kills, or the time is over; then return what is not as it must be."""
        with self._saving():
            self.subject.prepare()
            self._kill_again_and_again(kills=kills, ends_at=time.monotonic() + seconds, say=say)
            self.subject.drain()
        return self.subject.differences()

    def _kill_again_and_again(self, *, kills: int, ends_at: float, say: Callable[[str], None]) -> None:
        self._ensure_all()
        while self.kills < kills and time.monotonic() < ends_at:
            if self._draw.random() < self.awaited:
                self._wait_until_started(ends_at)
            time.sleep(self._draw.choice((0.5, 2.0, 4.0)) * self._draw.random())
            self._check_alive()
            victims = self._draw.choice((["pipeline"], ["pipeline"], ["generator"], ["pipeline", "generator"]))
            for name in victims:
                self._kill(name)
            if self._draw.random() < self.maintenances and self.subject.has_begun():
                for name in ("pipeline", "generator"):
                    self._kill(name)
                self._maintain()
            self._ensure_all()
            if self.kills % 25 < len(victims):
                say(f"{self.kills} kills: {dict(self.hits)}")
        for name in ("generator", "pipeline"):
            self._kill(name)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        """Let the subject save what it needs, several times a second."""
        is_over = threading.Event()

        def save() -> None:
            while not is_over.wait(0.1):
                self.subject.save()

        thread = threading.Thread(target=save)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    # -- processes ----------------------------------------------------------------------------------------------------

    def _ensure_all(self) -> None:
        if "generator" not in self._processes:
            self._processes["generator"] = self._forked(_land, self._draw.randrange(10**6))
        if "pipeline" not in self._processes:
            self._seen = {path.name for path in (self.storage / "system" / "updates").glob("*.jsonl")}
            is_shell = self._draw.random() < self.shells
            self._processes["pipeline"] = self._shell() if is_shell else self._forked(_run_continuously)

    def _forked(self, function: Callable[..., None], *arguments: object) -> BaseProcess:
        process = self._context.Process(target=function, args=(self.subject, *arguments), daemon=True)
        process.start()
        return process

    def _shell(self) -> subprocess.Popen[bytes]:
        options = [f"--conf={key}={value}" for key, value in self.subject.configuration.items()]
        command = [sys.executable, "-c", "from lakelet.cli import main; main()", "run", "--continuous", *options]
        return subprocess.Popen(
            [*command, "--spec", str(self.subject.project), "--storage", str(self.storage)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is None:
            return
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join() if isinstance(process, BaseProcess) else process.wait()
        self.kills += 1
        self.hits[self._where_it_hit() if name == "pipeline" else name] += 1

    def _check_alive(self) -> None:
        for name, process in self._processes.items():
            code = process.exitcode if isinstance(process, BaseProcess) else process.poll()
            assert code is None, f"the {name} ended by itself with exit code {code} (seed {self.seed})"

    def _maintain(self) -> None:
        """Compact and vacuum, to the end or until it is killed, too."""
        process = self._forked(_maintain)
        if self._draw.random() < 0.5:
            process.join(self._draw.random() * 1.5)
            if process.is_alive():
                process.kill()
                self.kills += 1
                self.hits["maintenance"] += 1
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), f"maintenance ended with exit code {process.exitcode}"

    def _where_it_hit(self) -> str:
        """Return what the pipeline was doing when it was killed, as far as what it left tells."""
        if not self._has_started():
            return "pipeline, while starting"
        stages = set()
        for intents in self.storage.glob("_checkpoints/*/*/*/*/*/offsets"):
            intent, note = (_last(intents), _last(intents.with_name("commits")))
            if intent > note:
                stages.add(self._is_committed(intents.parent, intent))
        if True in stages:
            return "pipeline, rows committed, note missing"
        return "pipeline, in a batch before its commit" if stages else "pipeline, elsewhere"

    def _wait_until_started(self, ends_at: float) -> None:
        while not self._has_started() and time.monotonic() < ends_at:
            self._check_alive()
            time.sleep(0.05)

    def _has_started(self) -> bool:
        """Return whether the update that was begun last has brought flows to work."""
        lines = {path.name: path for path in (self.storage / "system" / "updates").glob("*.jsonl")}
        new = [path for name, path in lines.items() if name not in self._seen]
        return any('"flow_progress"' in path.read_text("utf-8") for path in new)

    def _is_committed(self, checkpoint: Path, batch: int) -> bool:
        catalog, schema, name, flow, generation = checkpoint.relative_to(self.storage / "_checkpoints").parts
        for tables in ("_auxiliary", "tables"):
            location = self.storage / tables / catalog / schema / name
            if (location / "_delta_log").is_dir():
                app_id = f"lakelet/{catalog}.{schema}.{name}/{flow}/{generation}"
                present = DeltaTable(str(location)).transaction_version(app_id)
                return present is not None and present >= batch
        return False


def _last(folder: Path) -> int:
    return max((int(file.name) for file in folder.glob("*") if file.name.isdigit()), default=-1)


def flow_metrics(storage: Path) -> tuple[list[tuple[str, dict[str, int]]], int]:
    """Return what the event log says of each micro-batch, by its flow, and how many micro-batches it has twice."""
    log = DeltaTable(str(storage / "system" / "events")).to_pyarrow_table(columns=["id", "origin", "details"])
    events: dict[str, tuple[str, dict[str, int]]] = {}
    batches = 0
    for event in log.to_pylist():
        metrics = (json.loads(event["details"]).get("flow_progress") or {}).get("metrics")
        if metrics:
            batches += 1
            events[event["id"]] = (event["origin"]["flow_name"], metrics)
    return list(events.values()), batches - len(events)


def wrong_counts(storage: Path, tables: Mapping[str, Path]) -> list[str]:
    """Return where the event log does not have each batch once, or not the rows that a table has got from its flow.

    Args:
        tables: that only grow, by the name of their flow.
    """
    events, num_doubles = flow_metrics(storage)
    found = [f"{num_doubles} events are in the event log twice"] if num_doubles else []
    counts: Counter[str] = Counter()
    for flow, metrics in events:
        counts[flow] += metrics.get("num_output_rows") or 0
    for name, location in tables.items():
        rows = DeltaTable(str(location)).to_pyarrow_dataset().count_rows()
        if counts[name] != rows:
            found.append(f"{name}: the event log says {counts[name]} rows were written, the table has {rows}")
    return found
