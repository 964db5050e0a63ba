"""The embedded engine: Sail serves Spark Connect from inside this process, and later from processes that are replaced.

Sail keeps some memory for every SQL text that it is sent, for good. An update of a few minutes does not notice; one that runs for
days would. So after some hundred calls the server inside of this process is followed by one in a process of its own, and that
by another whenever it has grown large: calls from then on go to the new one, those under way end where they began.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.connect import ConnectEngine
from lakelet.engine.sail_server import Server, ServerInside, ServerProcess
from lakelet.errors import LakeletError, QueryError

if TYPE_CHECKING:
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import StructType

    from lakelet.plan.relation import Relation

CAPABILITIES = EngineCapabilities(
    file_metadata=False,
    file_readers=False,
    spark_hashes=True,
    join_key_by_frame=False,
    group_by_all=False,
    hashes_constants=False,
    instants_in_session_zone=False,
    exact_bounds=False,
    batch_watermark=False,
    overflow_is_an_error=False,
    scoped_sources=True,
    arrow_functions=True,
    observed_metrics=False,
    cluster_writes=False,
)
CALLS_INSIDE = 500
"""Calls that the server inside of this process answers before it is replaced."""
CALLS_BETWEEN = 500
"""Calls that each further server answers at least, however large it is."""
MAX_BYTES = 256 * 2**20
"""Memory at which a server in a process of its own is replaced."""
LOOK_CALLS = 50
_DRAIN_SECONDS = (0.05, 1.0)

_log = logging.getLogger("lakelet.engine")


@dataclass(eq=False, slots=True)
class _Generation:
    """One server, our session with it, and the calls that it has not finished.

    A call is an entry in a set: that it has ended may be noted by the garbage collector, in the middle of whatever a thread
    does, so it takes no lock.
    """

    server: Server
    engine: ConnectEngine
    first_call: int
    calls: set[object] = field(default_factory=set)

    def close(self) -> None:
        self.engine.disconnect()
        self.server.stop()


class SailEngine:
    """Sail on a free port of the loopback interface; closed with the object.

    Args:
        configuration: session settings, `spark.*` keys.
        is_replaced: whether servers follow the one inside of this process.
    """

    capabilities = CAPABILITIES

    def __init__(self, *, configuration: Mapping[str, str] | None = None, is_replaced: bool = True) -> None:
        self.version = f"sail-{importlib.metadata.version('pysail')}"
        self._configuration = dict(configuration or {})
        self._is_replaced = is_replaced
        self._numbers = itertools.count(1)
        self._look_at = CALLS_INSIDE
        self._commands: dict[bytes, proto.Command] = {}
        self._lock = threading.Lock()
        """Guards which server is the current one, and what it has been told."""
        self._replacing = threading.Lock()
        self._closed = threading.Event()
        self._current = self._connected(ServerInside(), first_call=0)
        self._generations = [self._current]
        # What asks this address asks things that need no state; its server stays for as long as the engine.
        self.url = self._current.server.url
        self.session_id = self._current.engine.session_id
        take_signals_back()

    # -- calls ----------------------------------------------------------------------------------------------------

    def schema(self, relation: Relation) -> StructType:
        with self._call() as engine:
            return engine.schema(relation)

    def collect(self, relation: Relation) -> pa.Table:
        with self._call() as engine:
            return engine.collect(relation)

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        generation, call = self._begin()
        try:
            with _explained(generation):
                reader = generation.engine.stream(relation)
        except BaseException:
            generation.calls.discard(call)
            raise
        return pa.RecordBatchReader.from_batches(reader.schema, _Rows(reader, generation, call))

    def command(self, command: proto.Command) -> None:
        with self._lock:
            self._current.engine.command(command)
            self._commands[command.SerializeToString(deterministic=True)] = command

    def configure(self, key: str, value: str) -> None:
        with self._lock:
            self._configuration = {**self._configuration, key: value}
            self._current.engine.configure(key, value)

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        with self._call() as engine:
            return engine.observed(command, settings=settings)

    @contextlib.contextmanager
    def client(self) -> Iterator[SparkConnectClient]:
        with self._call() as engine, engine.client() as client:
            yield client

    def interrupt(self) -> None:
        for generation in list(self._generations):
            if generation.calls and not generation.server.has_ended():
                generation.engine.interrupt()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            generations, self._generations = self._generations, []
        for generation in generations:
            generation.close()

    @contextlib.contextmanager
    def _call(self) -> Iterator[ConnectEngine]:
        generation, call = self._begin()
        try:
            with _explained(generation):
                yield generation.engine
        finally:
            generation.calls.discard(call)

    def _begin(self) -> tuple[_Generation, object]:
        """Return the current server, which stays until the call is discarded from its calls."""
        if self._is_replaced:
            self._look(next(self._numbers))
        call = object()
        while True:
            generation = self._current
            generation.calls.add(call)
            if generation is self._current:
                return generation, call
            generation.calls.discard(call)  # it has been replaced just now, and may be stopped

    # -- replacing ------------------------------------------------------------------------------------------------

    def _look(self, number: int) -> None:
        """Have the server replaced if it has ended or grown large."""
        current = self._current
        if current.server.has_ended():
            with self._replacing:
                self._replace(current, number)
        elif number >= self._look_at:
            self._look_at = number + LOOK_CALLS
            size = current.server.resident_bytes()
            is_large = number - current.first_call >= CALLS_BETWEEN and (size or 0) >= MAX_BYTES
            if isinstance(current.server, ServerInside) or is_large:
                threading.Thread(target=self._replace_aside, args=(current, number), daemon=True).start()

    def _replace_aside(self, old: _Generation, number: int) -> None:
        """Replace a server while it goes on to answer; if that cannot be, it stays."""
        if not self._replacing.acquire(blocking=False):
            return
        try:
            self._replace(old, number)
        except (OSError, LakeletError) as error:
            self._look_at = number + CALLS_INSIDE
            _log.warning("the embedded engine could not be moved to a new process, and keeps its memory: %s", error)
        finally:
            self._replacing.release()

    def _replace(self, old: _Generation, number: int) -> None:
        """Let calls from now on go to a new server, and end the old one after its last call."""
        if self._current is not old or self._closed.is_set():
            return
        server = ServerProcess()
        try:
            new = self._connected(server, first_call=number)
            with self._lock:
                for command in self._commands.values():
                    new.engine.command(command)
                for key, value in self._configuration.items():  # what was set meanwhile
                    new.engine.configure(key, value)
                if self._closed.is_set():
                    new.close()
                    return
                self._current = new
                self._generations.append(new)
        except BaseException:
            server.stop()
            raise
        if not isinstance(old.server, ServerInside):
            threading.Thread(target=self._end, args=(old,), name="end-engine", daemon=True).start()

    def _end(self, old: _Generation) -> None:
        """Stop a server that has been replaced, after its last call."""
        seconds, longest = _DRAIN_SECONDS
        while old.calls:
            if self._closed.wait(seconds):
                return
            seconds = min(longest, seconds * 2)
        with self._lock:
            if self._closed.is_set():
                return
            self._generations.remove(old)
        old.close()

    def _connected(self, server: Server, *, first_call: int) -> _Generation:
        engine = ConnectEngine(server.url, configuration=self._configuration, capabilities=CAPABILITIES)
        return _Generation(server, engine, first_call)


class _Rows:
    """The batches of a result; its server stays until they have been read, or are not wanted any more."""

    def __init__(self, reader: pa.RecordBatchReader, generation: _Generation, call: object) -> None:
        self._reader, self._generation, self._call = reader, generation, call

    def __iter__(self) -> _Rows:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            with _explained(self._generation):
                return self._reader.read_next_batch()
        except BaseException:  # the last one has been read, or reading failed
            self._end()
            raise

    def __del__(self) -> None:
        self._end()

    def _end(self) -> None:
        self._generation.calls.discard(self._call)


@contextlib.contextmanager
def _explained(generation: _Generation) -> Iterator[None]:
    """Say that the engine's process has ended, where that is why a call failed."""
    try:
        yield
    except QueryError as error:
        server = generation.server
        if error.condition != "ENGINE_UNAVAILABLE" or not isinstance(server, ServerProcess) or not server.has_ended():
            raise
        raise QueryError(
            "ENGINE_PROCESS_ENDED",
            "the embedded engine's process has ended in the middle of a query",
            cause=f"it ended with {server.how_it_ended()}; signal 9 is often a machine that has run out of memory",
            hint="run the update again: a new process is started, and nothing is written twice; if it happens again, let "
            "batches be smaller (`maxFilesPerTrigger`, `maxBytesPerTrigger`)",
            retryable=True,
        ) from error


def take_signals_back() -> None:
    """Give SIGINT and SIGTERM back to Python's own handlers.

    Sail's server listens to SIGINT by itself: it would shut down under the flows that use it, and its way of listening
    keeps Python's main thread asleep. Called once the server answers, since only then it has begun to listen. Outside of
    the main thread nothing can be done, and nothing is.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if handler is not None:
            signal.signal(number, handler)
