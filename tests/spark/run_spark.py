"""Runs cases through Apache Spark; started with the Python that has `pyspark`, not the runtime's own.

`python run_spark.py <manifest.json> <results.json>`: the manifest lists reads of files and streaming queries; the
results give for each the rows, or the error.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from plain import plain  # beside this file; the runtime's own packages are not in this Python
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F


def rows_of(frame: DataFrame) -> list[Any]:
    return [plain(row.asDict(recursive=True)) for row in frame.collect()]


def stream(spark: SparkSession, frame: DataFrame, *, complete: bool = False) -> list[Any]:
    """Return the rows that a streaming query gives; of a complete one those of its last batch."""
    found: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as checkpoint:
        writer = frame.writeStream.foreachBatch(lambda batch, _: found.append(rows_of(batch)))
        writer = writer.outputMode("complete" if complete else "append").option("checkpointLocation", checkpoint)
        writer.trigger(availableNow=True).start().awaitTermination()
    return (found[-1] if found else []) if complete else [row for batch in found for row in batch]


def read(spark: SparkSession, case: dict[str, Any]) -> list[Any]:
    reader = spark.readStream if case["mode"] == "stream" else spark.read
    reader = reader.format(case["format"]).options(**case["options"])
    if case["schema"]:
        reader = reader.schema(case["schema"])
    frame = reader.load(case["path"])
    if case["format"].lower() == "binaryfile":
        frame = frame.select("length", "content")
    return stream(spark, frame) if case["mode"] == "stream" else rows_of(frame)


def query(spark: SparkSession, case: dict[str, Any]) -> list[Any]:
    names = {
        name: spark.readStream.schema("k STRING, at TIMESTAMP, v BIGINT").option("maxFilesPerTrigger", 1).parquet(path)
        for name, path in case["streams"].items()
    }
    return stream(spark, eval(case["query"], {"F": F, **names}), complete=case["complete"])


def main(manifest: str, results: str) -> None:
    builder = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    settings = {
        "spark.sql.session.timeZone": "UTC", "spark.sql.shuffle.partitions": "1", "spark.log.level": "OFF",
        "spark.sql.streaming.metricsEnabled": "false", "spark.sql.warehouse.dir": tempfile.mkdtemp(),
    }  # fmt: skip
    for key, value in settings.items():
        builder = builder.config(key, value)
    spark = builder.getOrCreate()
    found: dict[str, Any] = {}
    for case in json.loads(Path(manifest).read_text("utf-8")):
        try:
            found[case["id"]] = {"rows": (query if "query" in case else read)(spark, case)}
        except Exception as error:  # the case's own outcome: the runtime is expected to fail, too
            found[case["id"]] = {"error": str(error)[:2000]}
    Path(results).write_text(json.dumps(found), "utf-8")
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
