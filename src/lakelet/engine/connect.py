"""Any Spark Connect endpoint as an engine: Apache Spark with Delta Lake, or a Sail server.

What the endpoint can do is asked, not assumed: each capability is a small query that it can analyse or not.

Two settings are not a matter of taste. Replies are not compressed: gzip makes a large result eight times slower on a
loopback connection. Reattachable execution stays on: with it off, a cancelled query returns part of its rows as if
they were all.

A server may be restarted, and may let a session expire. The call that meets it fails with `ENGINE_SESSION_LOST`, and may be
tried again: the next one finds a new session with the same settings and functions.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.failures import cancelled, query_error, session_lost, unavailable
from lakelet.engine.probes import detect
from lakelet.engine.releases import is_releasing, use_release_queues
from lakelet.engine.scopes import scoped
from lakelet.errors import QueryError

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import StructType

    from lakelet.plan.relation import Relation

    M = TypeVar("M", bound=Message)

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A network that stops without a word ends a call within two minutes, where otherwise it waits for ever. Spark's server
    # closes connections that ask more often than its own messages (one in two seconds) and every five minutes allow.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.ping_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]
SESSION_MARK = "spark.lakelet.session"
"""A setting by which a session is known again."""
_AWAY = frozenset({"ENGINE_UNAVAILABLE", "ENGINE_SESSION_LOST"})

RETRIES = 6
INTERRUPTED_SECONDS = 10
"""A result that breaks off so soon after an interrupt was ended by it."""


class ConnectEngine:
    """A session of its own on a Spark Connect endpoint.

    Args:
        url: `sc://host:port`, with parameters as in `sc://host:port/;use_ssl=true`. A token may be in it, but is better
            left to the environment variable `SPARK_CONNECT_AUTHENTICATE_TOKEN`.
        configuration: session settings, `spark.*` keys.
        capabilities: what the endpoint can do, where that is known; None to ask it.
        retries: how often a call is tried again while the endpoint does not answer.

    Raises:
        QueryError: `ENGINE_UNAVAILABLE`, or what the endpoint refuses.
    """

    def __init__(
        self,
        url: str,
        *,
        configuration: Mapping[str, str] | None = None,
        capabilities: EngineCapabilities | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.url = url
        self._settings = {"spark.sql.session.timeZone": "UTC", **(configuration or {})}
        self._registered: dict[tuple[str, str], proto.Command] = {}
        self._lock = threading.Lock()
        self._is_marked = False
        self._interrupted_at = float("-inf")
        self._retries = retries
        self._shares_names = capabilities is None or not capabilities.scoped_sources
        self._client = self._opened()
        if capabilities is None:
            self._is_marked = not _names_its_sessions(self._client)
            if self._is_marked:
                self._set(SESSION_MARK, self.session_id)
                self._refuse_to_resume(self._client)
        self.capabilities = capabilities or detect(self)
        if capabilities is None:
            self.version = self._version()
        if self.capabilities.cluster_writes:
            # Spark's default is INT96, which other readers of the files take for timestamps without a zone.
            more = {"spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS", **hadoop_settings(self._settings)}
            self._settings |= more
            for key, value in more.items():
                self._set(key, value)

    version: str

    @property
    def session_id(self) -> str:
        return str(self._client._session_id)

    def _opened(self) -> SparkConnectClient:
        """Return a client of a new session, with our settings and the functions of the user."""
        session_id = str(uuid.uuid4())
        marked = {SESSION_MARK: session_id} if self._is_marked else {}
        with _translated(self.url):
            client = connect(self.url, session_id, retries=self._retries)
            for key, value in {**self._settings, **marked}.items():
                set_config(client, key, value)
            for command in self._registered.values():
                client.execute_command(command)
        if self._is_marked:
            self._refuse_to_resume(client)
        return client

    def _refuse_to_resume(self, client: SparkConnectClient) -> None:
        """Have a result whose connection broke end with an error instead of going on over a new one.

        Spark numbers the rows of a result, and its client checks that none is missing. Sail 0.7.2 does not, and once went on
        without 117,000 of two million rows after its network had stopped and come back. The query is run again instead,
        unless it was cancelled: that ends a result without its end, too.
        """

        def reattach(*_: Any, **__: Any) -> Any:
            if time.monotonic() - self._interrupted_at < INTERRUPTED_SECONDS:
                raise cancelled("the engine was interrupted")
            raise unavailable(
                self.url,
                "the connection broke while a result was on its way, and this server may go on without some rows",
            )

        client._stub.ReattachExecute = reattach

    @contextlib.contextmanager
    def _session(self, client: SparkConnectClient | None = None) -> Iterator[SparkConnectClient]:
        """Lend the client for one call; if its session turns out to be lost, the next call gets another one.

        Args:
            client: that of a call which goes on.
        """
        client = client or self._client
        try:
            with _translated(self.url):
                try:
                    yield client
                except Exception as error:
                    if query_error(error, url=self.url).condition not in _AWAY:
                        self._check(client)  # a query may also fail for want of its settings and functions
                    raise
                self._check(client)
        except QueryError as error:
            if error.condition == "ENGINE_SESSION_LOST":
                self._renew(client)
            raise

    def _check(self, client: SparkConnectClient) -> None:
        """Refuse the result of a server that was restarted meanwhile, and has made a session without our settings.

        Spark finds that out itself. A server that does not is asked for a setting of ours after each call.
        """
        if self._is_marked and read_config(client, SESSION_MARK) != client._session_id:
            raise session_lost(self.url, "the server has made a new session of that name, without its settings")

    def _renew(self, lost: SparkConnectClient) -> None:
        with self._lock:
            if self._client is lost:  # of several calls that meet it, the first one renews
                with contextlib.suppress(QueryError):  # it is away altogether: the next call tries again
                    self._client = self._opened()

    def _version(self) -> str:
        """Return a name that differs where results may: a view computed by another engine is computed anew."""
        with self._session() as client:
            number = client._analyze("spark_version").spark_version
        return f"{'spark' if self.capabilities.observed_metrics else 'connect'}-{number}"

    def _set(self, key: str, value: str) -> None:
        with _translated(self.url):
            set_config(self._client, key, value)

    def configure(self, key: str, value: str) -> None:
        with self._lock:  # whoever asks for the same waits until the session has it, and a renewal until it is noted
            client = self._client
            if self._settings.get(key) == value:
                return
            try:
                with _translated(self.url):
                    set_config(client, key, value)
                self._settings = {**self._settings, key: value}
                return
            except QueryError as error:
                failure = error
        if failure.condition == "ENGINE_SESSION_LOST":
            self._renew(client)
        raise failure

    def setting(self, key: str) -> str | None:
        """Return a setting of the session, None if it is not set."""
        with self._session() as client:
            return read_config(client, key)

    def schema(self, relation: Relation) -> StructType:
        with self._session() as client:
            return client.schema(self._plan(relation))

    def collect(self, relation: Relation) -> pa.Table:
        with self._session() as client:
            table, _, _ = client.to_table(self._plan(relation), {})
        return table

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        from pyspark.sql.types import StructType

        schema: pa.Schema | None = None
        first: pa.Table | None = None
        with self._session() as client:
            rows: Any = client.to_table_as_iterator(self._plan(relation), {})
            for item in rows:
                if not isinstance(item, StructType):
                    schema, first = item.schema, item
                    break
        if schema is None:
            from pyspark.sql.pandas.types import to_arrow_schema

            schema = to_arrow_schema(self.schema(relation), timezone="UTC")

        def batches() -> Iterator[pa.RecordBatch]:
            if first is not None:
                yield from first.to_batches()
            try:
                with self._session(client):
                    for item in rows:
                        if not isinstance(item, StructType):
                            yield from item.to_batches()
            finally:
                rows.close()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def responses(self, relation: Relation) -> Iterator[proto.ExecutePlanResponse]:
        """Yield what the endpoint answers when it runs a relation, to its very end; for a server that passes it on."""
        from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

        with self._session() as client:
            request = client._execute_plan_request_with_metadata()
            request.plan.CopyFrom(self._plan(relation))
            answers = ExecutePlanResponseReattachableIterator(
                request, client._stub, client._retrying, client._builder.metadata()
            )
            try:
                yield from answers
            finally:
                answers.close()

    def command(self, command: proto.Command) -> None:
        scoped_command = self._scoped(command)
        with self._session() as client:
            client.execute_command(scoped_command)
        kind = command.WhichOneof("command_type") or ""
        made = getattr(command, kind)
        self._registered[kind, getattr(made, "function_name", "") or getattr(made, "name", "")] = scoped_command

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        with self._session() as client, _configured(client, settings or {}) as configured:
            _, _, execution = configured.execute_command(self._scoped(command))
        return {key: value for metrics in execution._observations for key, value in _pairs(metrics).items()}

    def _plan(self, relation: Relation) -> Any:
        from pyspark.sql.connect import proto

        return proto.Plan(root=self._scoped(relation))

    def _scoped(self, message: M) -> M:
        return scoped(message) if self._shares_names else message

    @contextlib.contextmanager
    def client(self) -> Iterator[SparkConnectClient]:
        client = connect(self.url, self.session_id)
        try:
            yield client
        finally:
            client.close()

    def interrupt(self) -> None:
        self._interrupted_at = time.monotonic()
        with _translated(self.url):
            self._client.interrupt_all()

    def disconnect(self) -> None:
        """End the connection, and leave the session to its server."""
        self._client.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the endpoint may be gone, and its session with it
            self._client.release_session()
        self._client.close()


@contextlib.contextmanager
def _configured(client: SparkConnectClient, settings: Mapping[str, str]) -> Iterator[SparkConnectClient]:
    """Lend a client of a copy of the session, functions included, in which some settings differ."""
    if not settings:
        yield client
        return
    copy = client.clone()
    # Otherwise a copy tries for ten minutes to reach a server that was killed, and once more when this process ends.
    copy.set_retry_policies(client.get_retry_policies())
    atexit.unregister(copy._on_exit)
    try:
        for key, value in settings.items():
            set_config(copy, key, value)
        yield copy
    finally:
        with contextlib.suppress(Exception):  # the endpoint may be gone, and the copy with it; why is told already
            copy.release_session()
        copy.close()


def _names_its_sessions(client: SparkConnectClient) -> bool:
    """Return whether the server gives each session a name of its own, and so notices one that is not the same any more."""
    return client._server_session_id != client._session_id


def hadoop_settings(configuration: Mapping[str, str]) -> dict[str, str]:
    """Return the `spark.hadoop.*` settings under the names by which a session of Spark hands them on to Hadoop.

    Spark takes the prefix off those that a server starts with, not off those of a session.
    """
    prefix = "spark.hadoop."
    return {key.removeprefix(prefix): value for key, value in configuration.items() if key.startswith(prefix)}


def _pairs(metrics: Any) -> dict[str, Any]:
    return dict(metrics.pairs)


def with_session(url: str, session_id: str) -> str:
    """Return the address of an endpoint with the id of a session among its parameters."""
    base, _, parameters = url.partition("/;")
    kept = [part for part in parameters.split(";") if part and not part.startswith("session_id=")]
    return f"{base.rstrip('/')}/;{';'.join([*kept, f'session_id={session_id}'])}"


def connect(url: str, session_id: str, *, retries: int = RETRIES) -> SparkConnectClient:
    """Return a client of the endpoint that shares the session `session_id` with others.

    Args:
        retries: how often it tries again to reach the endpoint: for about four seconds, not for pyspark's ten minutes.
    """
    from pyspark.logger import PySparkLogger
    from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
    from pyspark.sql.connect.client.retries import DefaultPolicy

    use_release_queues()
    # What they say becomes an error of ours.
    warnings.filterwarnings("ignore", message=r"\[RETRIES_EXCEEDED\]")
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):
        PySparkLogger.getLogger(name).disabled = True
    client = SparkConnectClient(DefaultChannelBuilder(with_session(url, session_id), channelOptions=CHANNEL_OPTIONS))

    class Policy(DefaultPolicy):
        def can_retry(self, exception: BaseException) -> bool:
            return not is_releasing() and bool(super().can_retry(exception))

    client.set_retry_policies([Policy(max_retries=retries, max_backoff=1000)] if retries else [])
    # At exit it would try for seconds to reach an endpoint that may have ended before it, to clear a cache of models.
    atexit.unregister(client._on_exit)
    return client


def set_config(client: SparkConnectClient, key: str, value: str) -> None:
    from pyspark.sql.connect import proto

    operation = proto.ConfigRequest.Operation()
    pair = operation.set.pairs.add()
    pair.key, pair.value = key, value
    client.config(operation)


def read_config(client: SparkConnectClient, key: str) -> str | None:
    """Return a setting of a session, None if it is not set."""
    from pyspark.sql.connect import proto

    operation = proto.ConfigRequest.Operation()
    operation.get_option.keys.append(key)
    ((_, value),) = client.config(operation).pairs
    return value or None


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    import grpc
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, grpc.RpcError) as error:
        raise query_error(error, url=url) from error
