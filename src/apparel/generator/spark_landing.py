"""The landing zone of a Databricks workspace: read like the local one, written through Spark.

A volume is a folder there, too, but one that takes no renames: delta-rs can read a table in it and must not commit to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from apparel.generator.landing import DeltaLanding, LandingChangedError, landing_error, open_delta
from apparel.generator.model import Stream

WORKSPACE = Path("/")
"""The storage root of a workspace: volumes lie in `/Volumes`, as they lie in `<storage>/Volumes` elsewhere."""


class SparkLanding(DeltaLanding):
    """The landing zone below a storage root, written through a Spark session.

    For one writer at a time: unlike `DeltaLanding`, an append that another writer overtakes is not refused by the commit.
    """

    def __init__(self, spark: Any, storage: Path = WORKSPACE) -> None:
        super().__init__(storage)
        self._spark = spark

    def append(self, stream: Stream, rows: pa.RecordBatchReader, *, after: int | None) -> int:
        """Commit rows and return the new version; the rows of a batch are held in memory.

        Columns that the table has and the batch lacks become NULL; new columns of the batch are added to the table.

        Raises:
            LandingChangedError: the table is not at version `after` when the append begins.
            LakeletError: LANDING_NOT_DELTA, LANDING_UNREADABLE, LANDING_WRITE_FAILED.
        """
        from pyspark.errors import PySparkException

        folder = self.folder / stream
        table = open_delta(folder)
        if (None if table is None else table.version()) != after:
            raise LandingChangedError(stream)
        batch = rows.read_all()
        try:
            writer = self._spark.createDataFrame(batch).write.format("delta").mode("append")
            writer.option("mergeSchema", "true").save(str(folder))
        except PySparkException as error:
            raise landing_error(error, folder, "write") from error
        written = open_delta(folder)
        if written is None:
            raise landing_error(FileNotFoundError("Spark reported a commit, and there is no table"), folder, "write")
        return written.version()
