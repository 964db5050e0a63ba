"""What `apparel setup`, `maintain` and `reset` do, in a Databricks workspace: through Spark, and `dbutils` for files.

`apparel list` and `apparel health` only read, and are the same functions there: `operations.list_written(WORKSPACE)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apparel.generator.landing import landing_folder, open_delta
from apparel.generator.model import Stream
from apparel.generator.spark_landing import WORKSPACE
from apparel.operations import CATALOG, SCHEMAS, wanted_places
from lakelet.errors import SpecError
from lakelet.execution.maintenance import RETENTION_HOURS


def setup(spark: Any, dbutils: Any) -> tuple[str, ...]:
    """Create catalog, schemas, volume and landing folders; what is there stays as it is. Returns their names."""
    names = []
    for kind, name, _ in wanted_places(WORKSPACE):
        if kind == "folder":
            dbutils.fs.mkdirs(name)
        elif kind != "catalog" or not _has_catalog(spark):
            spark.sql(f"CREATE {kind.upper()} IF NOT EXISTS {_quoted(name)}")
        names.append(f"{kind} {name}")
    return tuple(names)


def maintain(spark: Any, storage: Path = WORKSPACE, *, retention_hours: int = RETENTION_HOURS) -> tuple[str, ...]:
    """Compact and vacuum the landing tables; the pipeline's own are maintained by Databricks. Returns the streams.

    Raises:
        SpecError: RETENTION_TOO_SHORT.
    """
    if retention_hours < RETENTION_HOURS:
        raise SpecError(
            "RETENTION_TOO_SHORT",
            f"files that are {retention_hours} hours old may still be read",
            hint=f"keep at least {RETENTION_HOURS} hours",
        )
    tended = []
    for stream in Stream:
        folder = landing_folder(storage) / stream
        if open_delta(folder) is not None:
            spark.sql(f"OPTIMIZE delta.`{folder}`")
            spark.sql(f"VACUUM delta.`{folder}` RETAIN {retention_hours} HOURS")
            tended.append(str(stream))
    return tuple(tended)


def drop_tables(spark: Any) -> tuple[str, ...]:
    """Drop the tables of bronze, silver and gold; the pipeline's next update makes them anew. Returns their names."""
    dropped = []
    for schema in SCHEMAS:
        place = _quoted(f"{CATALOG}.{schema}")
        for row in spark.sql(f"SHOW TABLES IN {place}").collect():
            spark.sql(f"DROP TABLE IF EXISTS {place}.`{row['tableName']}`")
            dropped.append(f"{schema}.{row['tableName']}")
    return tuple(dropped)


def clear_landing(dbutils: Any) -> tuple[str, ...]:
    """Empty the landing zone: sales first, so that no sale is ever left whose dimensions are gone."""
    folders = [name for kind, name, _ in wanted_places(WORKSPACE) if kind == "folder"]
    for folder in reversed(folders):
        dbutils.fs.rm(folder, True)
        dbutils.fs.mkdirs(folder)
    return tuple(reversed(folders))


def _has_catalog(spark: Any) -> bool:
    """Tell whether the catalog is there: creating one needs more rights than using it, even with IF NOT EXISTS."""
    return bool(spark.sql(f"SHOW CATALOGS LIKE '{CATALOG}'").collect())


def _quoted(name: str) -> str:
    return ".".join(f"`{part}`" for part in name.split("."))
