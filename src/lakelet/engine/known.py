"""The engines that lakelet is tested with, and what each of them can do; the contract suite holds them to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lakelet.engine.base import EngineCapabilities
from lakelet.engine.sail import CAPABILITIES as EMBEDDED

SAIL_SERVER = replace(EMBEDDED, scoped_sources=False)
SPARK_WITH_DELTA = EngineCapabilities(
    file_metadata=True,
    file_readers=True,
    join_key_by_frame=True,
    group_by_all=True,
    hashes_constants=True,
    spark_hashes=True,
    instants_in_session_zone=True,
    exact_bounds=True,
    batch_watermark=True,
    overflow_is_an_error=True,
    scoped_sources=False,
    arrow_functions=True,
    observed_metrics=True,
    cluster_writes=True,
)

ENGINES: Mapping[str, EngineCapabilities] = {
    "Sail, embedded": EMBEDDED,
    "Sail server": SAIL_SERVER,
    "Apache Spark 4.2 with Delta Lake 4.4": SPARK_WITH_DELTA,
}
