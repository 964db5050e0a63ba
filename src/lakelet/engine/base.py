"""What lakelet asks of an engine: run ordinary batch relations. Streams are the runtime's business, never the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql.connect import proto
    from pyspark.sql.connect.client import SparkConnectClient
    from pyspark.sql.types import StructType

    from lakelet.plan.relation import Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCapabilities:
    """What an engine can do by itself; what it cannot, the runtime does around it. The contract suite checks each flag."""

    file_metadata: bool
    """`_metadata.*` and `input_file_name()` over files."""
    file_readers: bool
    """Files as tables as Spark reads them: JSON, CSV, ORC, text, bytes and Parquet, with all options of its readers."""
    join_key_by_frame: bool
    """After two USING joins, the key of the first one through its DataFrame."""
    group_by_all: bool
    """`GROUP BY ALL`, `ORDER BY ALL` and `QUALIFY` in SQL text."""
    hashes_constants: bool
    """`xxhash64` over a file in which its arguments have one value each."""
    spark_hashes: bool
    """`xxhash64` gives the values that Spark gives, but of DECIMAL with more than 18 digits."""
    instants_in_session_zone: bool
    """Timestamps that files say are in UTC have days and hours of the session's zone; without it, only where columns are told."""
    exact_bounds: bool
    """Bounds of DECIMAL columns in the log of a Delta table are what its writer wrote; without it what a double makes of them."""
    batch_watermark: bool
    """`withWatermark` on a batch relation is accepted (and does nothing)."""
    overflow_is_an_error: bool
    """Integer arithmetic beyond the type fails the query; without it the result wraps."""
    scoped_sources: bool
    """The sources of SQL text are seen by their own query only; without it, queries at the same time share their names."""
    arrow_functions: bool
    """Python functions over whole batches (`mapInArrow`), with pyarrow where they run."""
    observed_metrics: bool
    """`observe`: counts taken in the same pass as a write."""
    cluster_writes: bool
    """The engine commits Delta tables itself, each commit with its receipt; rows do not pass through this process."""


class Engine(Protocol):
    """A Spark Connect endpoint that runs relations."""

    @property
    def capabilities(self) -> EngineCapabilities: ...

    @property
    def url(self) -> str:
        """The endpoint, `sc://host:port`."""
        ...

    @property
    def session_id(self) -> str: ...

    @property
    def version(self) -> str:
        """Name and version of the engine."""
        ...

    def schema(self, relation: Relation) -> StructType:
        """Return the columns of a relation without running it.

        Raises:
            QueryError: the engine cannot resolve it.
        """
        ...

    def collect(self, relation: Relation) -> pa.Table:
        """Return all rows.

        Raises:
            QueryError: the query failed, was cancelled, or its result is incomplete.
        """
        ...

    def stream(self, relation: Relation) -> pa.RecordBatchReader:
        """Return the rows as a stream; reading it raises `QueryError` where `collect` would."""
        ...

    def command(self, command: proto.Command) -> None:
        """Run a command that changes the session, for example the registration of a user's function."""
        ...

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Run a command and return what `observe` counted in it; needs the capability `observed_metrics`.

        Args:
            settings: session settings for this command only, whatever else runs at the same time.
        """
        ...

    def configure(self, key: str, value: str) -> None:
        """Set a session setting for whatever runs from now on."""
        ...

    def client(self) -> AbstractContextManager[SparkConnectClient]:
        """Return another client of the session, for user code that runs queries by itself; closed at the end of the block."""
        ...

    def interrupt(self) -> None:
        """Cancel what runs; the calls that wait for it raise `QueryError`."""
        ...

    def close(self) -> None: ...
