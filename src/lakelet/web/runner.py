"""Updates that are started from a page: one at a time, in a thread of this process."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lakelet.errors import LakeletError, LockError
from lakelet.events.model import PipelineEvent
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.pipeline import Pipeline, RefreshSelection, UpdateResult
from lakelet.processes import is_alive
from lakelet.terminal.error_data import errors_as_data

JOIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that runs an update of this pipeline, as its lock file says."""

    pid: int
    host: str
    started_at: str

    def to_dict(self) -> dict[str, Any]:
        return {"pid": self.pid, "host": self.host, "started_at": self.started_at}


class Runner:
    """Starts and stops updates of one pipeline.

    Args:
        on_event: a subscriber of every update.
        on_load: called when the pipeline's files have been loaded anew.
        load_lock: held while the files are loaded, since their code may run once at a time.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        on_event: Callable[[PipelineEvent], None],
        on_load: Callable[[DataflowGraph], None],
        load_lock: threading.Lock,
    ) -> None:
        self._pipeline = pipeline
        self._on_event = on_event
        self._on_load = on_load
        self._load_lock = load_lock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._continuous = False
        self.last_error: LakeletError | None = None
        self.last_result: UpdateResult | None = None

    @property
    def is_running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        return self.is_running and self._stop.is_set()

    def start(
        self,
        selection: RefreshSelection | None = None,
        *,
        continuous: bool = False,
        drain: threading.Event | None = None,
    ) -> None:
        """Start an update, with the pipeline's files as they are now.

        Raises:
            LockError: `PIPELINE_LOCKED`: an update runs, here or elsewhere.
        """
        with self._lock:
            owner = self.owner()
            if self.is_running or owner is not None:
                who = "this process" if owner is None or owner.pid == os.getpid() else f"process {owner.pid}"
                raise LockError(
                    "PIPELINE_LOCKED",
                    f"an update of `{self._pipeline.spec.name}` is running",
                    cause=f"in {who}",
                    hint="wait for it or stop it",
                    retryable=True,
                )
            self._stop = threading.Event()
            self._continuous = continuous
            self.last_error = self.last_result = None
            self._thread = threading.Thread(target=self._run, args=(selection, drain), name="update", daemon=True)
            self._thread.start()

    def _run(self, selection: RefreshSelection | None, drain: threading.Event | None) -> None:
        try:
            self._load()
            result = self._pipeline.run(
                selection=selection,
                continuous=self._continuous,
                subscribers=(self._on_event,),
                stop=self._stop,
                drain=drain,
            )
            self.last_result, self.last_error = result, result.error
        except LakeletError as error:
            self.last_error = error

    def _load(self) -> None:
        """Load the files as they are now; what is wrong with them the update itself reports."""
        with self._load_lock:
            self._pipeline.reload()
            try:
                graph = self._pipeline.graph()
            except LakeletError:
                return
        self._on_load(graph)

    def stop(self) -> bool:
        """End the update after the micro-batches under way; returns whether one was running here."""
        self._stop.set()
        return self.is_running

    def join(self, timeout_seconds: float | None = None) -> None:
        if self._thread is not None:
            self._thread.join(timeout_seconds)

    def owner(self) -> Owner | None:
        """Return who holds the pipeline's lock; a file that a killed process left behind is nobody's."""
        try:
            found = json.loads(self._pipeline.catalog.lock.read_text("utf-8"))
            owner = Owner(pid=int(found["pid"]), host=str(found["host"]), started_at=str(found["started_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if owner.host == socket.gethostname() and not is_alive(owner.pid):
            return None
        return owner

    def to_dict(self) -> dict[str, Any]:
        """Return what runs, and whether a page may start or stop it."""
        owner = self.owner()
        own = self.is_running
        elsewhere = owner is not None and owner.pid != os.getpid()
        return {
            "running": own or owner is not None,
            "here": own,
            "stopping": self.is_stopping,
            "continuous": own and self._continuous,
            "owner": owner.to_dict() if owner is not None and elsewhere else None,
            "can_start": not own and owner is None,
            "can_stop": own and not self.is_stopping,
            "errors": [] if self.last_error is None else errors_as_data(self.last_error),
        }
