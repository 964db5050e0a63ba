"""What an endpoint can do, found out by small questions. Only analysis where that tells, a row or two where not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakelet.engine.base import EngineCapabilities
from lakelet.errors import QueryError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from lakelet.engine.base import Engine
    from lakelet.engine.connect import ConnectEngine
    from lakelet.plan.relation import Relation

DELTA_EXTENSION = "io.delta.sql.DeltaSparkSessionExtension"


def detect(engine: ConnectEngine) -> EngineCapabilities:
    """Return the capabilities of an endpoint."""
    observes = _runs(engine, observed())
    return EngineCapabilities(
        # A relation over no file has no metadata; an engine that knows `_metadata` is one that knows `observe`.
        file_metadata=observes,
        file_readers=observes,
        join_key_by_frame=_runs(engine, key_by_frame()),
        group_by_all=_runs(engine, grouped_by_all()),
        # These show over files, which would have to lie where both sides can read them.
        hashes_constants=observes,
        spark_hashes=hashes_as_spark(engine),
        instants_in_session_zone=observes,
        exact_bounds=observes,
        batch_watermark=_runs(engine, watermarked()),
        scoped_sources=False,  # two queries at one instant cannot be tried, and names of their own never hurt
        arrow_functions=_runs(engine, mapped_by_function()),
        observed_metrics=observes,
        overflow_is_an_error=not _runs(engine, overflowing()),
        cluster_writes=observes and DELTA_EXTENSION in (engine.setting("spark.sql.extensions") or ""),
    )


def _runs(engine: Engine, relation: Relation) -> bool:
    try:
        engine.collect(relation)
    except QueryError as error:
        if error.condition == "ENGINE_UNAVAILABLE":
            raise
        return False
    return True


def observed() -> Relation:
    """Return one row, and a count of it taken on the way."""
    from lakelet.plan import relation as plan

    return plan.observed(plan.sql("SELECT 1 AS id"), "probe", {"n": plan.expression("count(*)")})


def hashes_as_spark(engine: Engine) -> bool:
    """Return whether `xxhash64` gives Spark's values, for all types whose hash an engine goes on with."""
    return _runs(engine, hashed()) and engine.collect(hashed()).to_pylist() == [HASHES]


def hashed() -> Relation:
    """Return one row of hashes, a column for each type; Spark's are `HASHES`."""
    from lakelet.plan import relation as plan

    columns = ", ".join(f"xxhash64({text}) AS {name}" for name, text in _HASHED.items())
    return plan.sql(f"SELECT {columns}")


_HASHED = {
    "texts": "'äöü a text of more than thirty-two bytes', ''",
    "bytes": "X'0102', true",
    "integers": "CAST(-1 AS TINYINT), CAST(2 AS SMALLINT), -3, 4L",
    "instants": "DATE'1924-01-02', TIMESTAMP'2024-01-02 03:04:05.123456Z', TIMESTAMP_NTZ'2024-01-02 03:04:05'",
    "numbers": "CAST(1.25 AS DECIMAL(18, 2)), CAST('NaN' AS DOUBLE), CAST('-0.0' AS DOUBLE), CAST(1.5 AS FLOAT)",
    "nothing": "7, isnull(CAST(NULL AS STRING)), CAST(NULL AS STRING)",
    "structs": "named_struct('start', TIMESTAMP'2024-01-02 03:04:05Z', 'end', DATE'2024-01-02')",
}
HASHES = {
    "texts": -1032832554164365746,
    "bytes": 3357111702436211303,
    "integers": -7576156994274864306,
    "instants": -4623327708480289478,
    "numbers": -1985735502924227790,
    "nothing": 9169376771526295306,
    "structs": 2888248604367502914,
}
"""What Apache Spark 4.2 gives."""


def mapped_by_function() -> Relation:
    """Return one row, passed on by a Python function that needs pyarrow."""
    from pyspark.sql.types import IntegerType, StructField, StructType

    from lakelet.plan import relation as plan
    from lakelet.plan.arrow_functions import mapped

    columns = StructType([StructField("id", IntegerType(), nullable=False)])
    return mapped(plan.sql("SELECT 1 AS id"), columns.names, passed_on, columns)


def passed_on(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches as tables cut them, which pyarrow and numpy do."""
    import numpy
    import pyarrow

    for batch in batches:
        yield from pyarrow.Table.from_batches([batch]).take(numpy.arange(batch.num_rows)).to_batches()


def grouped_by_all() -> Relation:
    from lakelet.plan import relation as plan

    return plan.sql("SELECT id % 2 AS odd, count(*) FROM range(4) GROUP BY ALL")


def overflowing() -> Relation:
    from lakelet.plan import relation as plan

    return plan.sql("SELECT max(id) + 9223372036854775807L AS n FROM range(4)")


def watermarked() -> Relation:
    from lakelet.plan import relation as plan

    relation = plan.new()
    relation.with_watermark.input.CopyFrom(plan.sql("SELECT current_timestamp() AS at"))
    relation.with_watermark.event_time, relation.with_watermark.delay_threshold = "at", "1 minute"
    return relation


def key_by_frame() -> Relation:
    """Return a selection of the first join's key, through its frame, above two USING joins."""
    from pyspark.sql.connect import proto

    from lakelet.plan import relation as plan

    first = plan.sql("SELECT 1 AS k, 2 AS c")
    joined = first
    for key in ("k", "c"):
        join = plan.new()
        join.join.left.CopyFrom(joined)
        join.join.right.CopyFrom(plan.sql(f"SELECT 1 AS {key}" if key == "k" else f"SELECT 2 AS {key}"))
        join.join.join_type = proto.Join.JOIN_TYPE_INNER
        join.join.using_columns.append(key)
        joined = join
    result = plan.new()
    result.project.input.CopyFrom(joined)
    attribute = result.project.expressions.add().unresolved_attribute
    attribute.unparsed_identifier, attribute.plan_id = "k", first.common.plan_id
    return result
