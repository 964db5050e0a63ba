"""What `spark.conf.get` answers for well-known settings that a pipeline does not set: Spark's own defaults.

The settings about local relations keep the rows of `createDataFrame` inside the plan, because the plan is all
that leaves the user's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_NEVER = str(2**62)

ENGINE_DEFAULTS: Mapping[str, str] = MappingProxyType(
    {
        "spark.app.name": "lakelet",
        "spark.master": "local[*]",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.autoBroadcastJoinThreshold": "10485760b",
        "spark.sql.caseSensitive": "false",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.pyspark.fallback.enabled": "true",
        "spark.sql.execution.arrow.pyspark.selfDestruct.enabled": "false",
        "spark.sql.execution.arrow.useLargeVarTypes": "false",
        "spark.sql.execution.pandas.convertToArrowArraySafely": "false",
        "spark.sql.execution.pandas.inferPandasDictAsMap": "false",
        "spark.sql.execution.pandas.structHandlingMode": "legacy",
        "spark.sql.execution.pyspark.binaryAsBytes": "true",
        "spark.sql.execution.pythonUDF.arrow.enabled": "false",
        "spark.sql.legacy.timeParserPolicy": "CORRECTED",
        "spark.sql.pyspark.inferNestedDictAsStruct.enabled": "false",
        "spark.sql.pyspark.legacy.inferArrayTypeFromFirstElement.enabled": "false",
        "spark.sql.pyspark.legacy.inferMapTypeFromFirstPair.enabled": "false",
        "spark.sql.repl.eagerEval.enabled": "false",
        "spark.sql.repl.eagerEval.maxNumRows": "20",
        "spark.sql.repl.eagerEval.truncate": "20",
        "spark.sql.session.localRelationBatchOfChunksSizeBytes": _NEVER,
        "spark.sql.session.localRelationCacheThreshold": _NEVER,
        "spark.sql.session.localRelationChunkSizeBytes": _NEVER,
        "spark.sql.session.localRelationChunkSizeRows": _NEVER,
        "spark.sql.session.localRelationSizeLimit": _NEVER,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "200",
        "spark.sql.sources.default": "delta",
        "spark.sql.streaming.stateStore.providerClass": (
            "org.apache.spark.sql.execution.streaming.state.HDFSBackedStateStoreProvider"
        ),
        "spark.sql.timestampType": "TIMESTAMP_LTZ",
    }
)
