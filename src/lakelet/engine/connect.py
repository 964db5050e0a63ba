"""Any Spark Connect endpoint as an engine: Apache Spark with Delta Lake, or a Sail server.

What the endpoint can do is asked, not assumed: each capability is a small query that it can analyse or not.

Two settings are not a matter of taste. Replies are not compressed: gzip makes a large result eight times slower on a
loopback connection. Reattachable execution stays on: with it off, a cancelled query returns part of its rows as if
they were all.
"""

from __future__ import annotations

import atexit
import contextlib
import uuid
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.failures import query_error
from lakelet.engine.probes import detect
from lakelet.engine.releases import use_release_queue
from lakelet.engine.scopes import scoped

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
]

RETRIES = 6


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
        self.session_id = str(uuid.uuid4())
        self._client = connect(url, self.session_id, retries=retries)
        for key, value in {"spark.sql.session.timeZone": "UTC", **(configuration or {})}.items():
            self._set(key, value)
        self._shares_names = capabilities is None or not capabilities.scoped_sources
        self.capabilities = capabilities or detect(self)
        if capabilities is None:
            self.version = self._version()
        if self.capabilities.cluster_writes:
            # Spark's default is INT96, which other readers of the files take for timestamps without a zone.
            self._set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")

    version: str

    def _version(self) -> str:
        """Return a name that differs where results may: a view computed by another engine is computed anew."""
        with _translated(self.url):
            number = self._client._analyze("spark_version").spark_version
        return f"{'spark' if self.capabilities.observed_metrics else 'connect'}-{number}"

    def _set(self, key: str, value: str) -> None:
        with _translated(self.url):
            set_config(self._client, key, value)

    def setting(self, key: str) -> str | None:
        """Return a setting of the session, None if it is not set."""
        from pyspark.sql.connect import proto

        operation = proto.ConfigRequest.Operation()
        operation.get_option.keys.append(key)
        with _translated(self.url):
            ((_, value),) = self._client.config(operation).pairs
        return value or None

    def schema(self, relation: Relation) -> StructType:
        with _translated(self.url):
            return self._client.schema(self._plan(relation))

    def collect(self, relation: Relation) -> pa.Table:
        with _translated(self.url):
            table, _, _ = self._client.to_table(self._plan(relation), {})
            return table

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        from pyspark.sql.types import StructType

        rows: Any = self._client.to_table_as_iterator(self._plan(relation), {})
        with _translated(self.url):
            schema: pa.Schema | None = None
            first: pa.Table | None = None
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
                with _translated(self.url):
                    for item in rows:
                        if not isinstance(item, StructType):
                            yield from item.to_batches()
            finally:
                rows.close()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def responses(self, relation: Relation) -> Iterator[proto.ExecutePlanResponse]:
        """Yield what the endpoint answers when it runs a relation, to its very end; for a server that passes it on."""
        from pyspark.sql.connect.client.reattach import ExecutePlanResponseReattachableIterator

        client = self._client
        request = client._execute_plan_request_with_metadata()
        request.plan.CopyFrom(self._plan(relation))
        with _translated(self.url):
            answers = ExecutePlanResponseReattachableIterator(
                request, client._stub, client._retrying, client._builder.metadata()
            )
            try:
                yield from answers
            finally:
                answers.close()

    def command(self, command: proto.Command) -> None:
        with _translated(self.url):
            self._client.execute_command(self._scoped(command))

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        client = self._client if not settings else self._configured(settings)
        try:
            with _translated(self.url):
                _, _, execution = client.execute_command(self._scoped(command))
            return {key: value for metrics in execution._observations for key, value in _pairs(metrics).items()}
        finally:
            if client is not self._client:
                client.release_session()
                client.close()

    def _configured(self, settings: Mapping[str, str]) -> SparkConnectClient:
        """Return a client of a copy of the session, functions included, in which some settings differ."""
        with _translated(self.url):
            client = self._client.clone()
            for key, value in settings.items():
                set_config(client, key, value)
            return client

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
        with _translated(self.url):
            self._client.interrupt_all()

    def disconnect(self) -> None:
        """End the connection, and leave the session to its server."""
        self._client.close()

    def close(self) -> None:
        with contextlib.suppress(Exception):  # the endpoint may be gone, and its session with it
            self._client.release_session()
        self._client.close()


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
    from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
    from pyspark.sql.connect.client.retries import DefaultPolicy

    use_release_queue()
    # What it says becomes an error of ours.
    warnings.filterwarnings("ignore", message=r"\[RETRIES_EXCEEDED\]")
    client = SparkConnectClient(DefaultChannelBuilder(with_session(url, session_id), channelOptions=CHANNEL_OPTIONS))
    client.set_retry_policies([DefaultPolicy(max_retries=retries, max_backoff=1000)] if retries else [])
    # At exit it would try for seconds to reach an endpoint that may have ended before it, to clear a cache of models.
    atexit.unregister(client._on_exit)
    return client


def set_config(client: SparkConnectClient, key: str, value: str) -> None:
    from pyspark.sql.connect import proto

    operation = proto.ConfigRequest.Operation()
    pair = operation.set.pairs.add()
    pair.key, pair.value = key, value
    client.config(operation)


@contextlib.contextmanager
def _translated(url: str) -> Iterator[None]:
    import grpc
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, grpc.RpcError) as error:
        raise query_error(error, url=url) from error
