"""The embedded engine: Sail serves Spark Connect from inside this process.

Two settings are not a matter of taste. Replies are not compressed: gzip makes a large result eight times slower on a
loopback connection. Reattachable execution stays on: with it off, a cancelled query returns part of its rows as if
they were all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.failures import query_error
from lakelet.engine.releases import use_release_queue

if TYPE_CHECKING:
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import StructType

    from lakelet.plan.relation import Relation

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class SailEngine:
    """Sail on a free port of the loopback interface; closed with the object.

    Args:
        configuration: session settings, `spark.*` keys.
    """

    capabilities = EngineCapabilities(
        file_metadata=False, join_key_by_frame=False, group_by_all=False, batch_watermark=False
    )

    def __init__(self, *, configuration: Mapping[str, str] | None = None) -> None:
        os.environ.setdefault("RUST_LOG", "off")
        os.environ.setdefault("SAIL_SPARK__SESSION_TIMEOUT_SECS", str(10 * 365 * 24 * 3600))
        import importlib.metadata

        from pysail.spark import SparkConnectServer

        self.version = f"sail-{importlib.metadata.version('pysail')}"
        self._server = SparkConnectServer("127.0.0.1", 0)
        self._server.start(background=True)
        host, port = self._server.listening_address
        self.url = f"sc://{host}:{port}"
        self.session_id = str(uuid.uuid4())
        self._client = connect(self.url, self.session_id)
        for key, value in {"spark.sql.session.timeZone": "UTC", **(configuration or {})}.items():
            _set_config(self._client, key, value)
        take_signals_back()

    def schema(self, relation: Relation) -> StructType:
        with _translated():
            return self._client.schema(_plan(relation))

    def collect(self, relation: Relation) -> pa.Table:
        with _translated():
            table, _, _ = self._client.to_table(_plan(relation), {})
            return table

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        from pyspark.sql.types import StructType

        rows: Any = self._client.to_table_as_iterator(_plan(relation), {})
        with _translated():
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
                with _translated():
                    for item in rows:
                        if not isinstance(item, StructType):
                            yield from item.to_batches()
            finally:
                rows.close()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def command(self, command: proto.Command) -> None:
        with _translated():
            self._client.execute_command(command)

    def interrupt(self) -> None:
        self._client.interrupt_all()

    def close(self) -> None:
        self._client.close()
        self._server.stop()


def connect(url: str, session_id: str) -> SparkConnectClient:
    """Return a client of the endpoint that shares the session `session_id` with others.

    It tries for about four seconds to reach the endpoint, not for pyspark's ten minutes: the endpoint is in this process.
    """
    from pyspark.sql.connect.client import DefaultChannelBuilder, SparkConnectClient
    from pyspark.sql.connect.client.retries import DefaultPolicy

    use_release_queue()
    client = SparkConnectClient(
        DefaultChannelBuilder(f"{url}/;session_id={session_id}", channelOptions=CHANNEL_OPTIONS)
    )
    client.set_retry_policies([DefaultPolicy(max_retries=6, max_backoff=1000)])
    return client


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


def _set_config(client: SparkConnectClient, key: str, value: str) -> None:
    from pyspark.sql.connect import proto

    operation = proto.ConfigRequest.Operation()
    pair = operation.set.pairs.add()
    pair.key, pair.value = key, value
    client.config(operation)


def _plan(relation: Relation) -> Any:
    from pyspark.sql.connect import proto

    return proto.Plan(root=relation)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        raise query_error(error) from error
