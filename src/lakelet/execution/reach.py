"""Whether a cluster that writes tables itself sees the object store that this process sees.

It has an endpoint and credentials of its own. Under one address each side may see another store, or the cluster none: the lock,
which this process has just written there, shows it before anything of an update is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lakelet.engine.paths import literal_path
from lakelet.errors import QueryError
from lakelet.places import ObjectPath, Place
from lakelet.plan import relation as plan

if TYPE_CHECKING:
    from lakelet.engine.base import Engine

_OWN = "endpoint and credentials of the cluster are its own: for S3 its settings `spark.hadoop.fs.s3a.*`"
_HINTS = (
    (
        "No FileSystem for scheme",
        "let the cluster read it through Hadoop's S3A: put `spark.hadoop.fs.s3.impl: "
        "org.apache.hadoop.fs.s3a.S3AFileSystem` into `configuration`, or write the storage as `s3a://…`",
    ),
    (
        "ClassNotFoundException",
        "give the cluster the library `hadoop-aws` of its Hadoop version; on this machine, `lakelet spark down` and "
        "`lakelet spark up --object-store s3`",
    ),
    ("PATH_NOT_FOUND", f"it sees another store at that address than this process does; {_OWN}"),
)


def check_reach(engine: Engine, lock: Place) -> None:
    """Return if the engine finds the lock, which is held.

    An engine that writes nothing, and a folder of this machine, are not asked.

    Raises:
        QueryError: `STORAGE_OUT_OF_REACH`, or what the endpoint itself has.
    """
    if not isinstance(lock, ObjectPath) or not engine.capabilities.cluster_writes:
        return
    relation = plan.new()
    relation.read.data_source.format = "binaryFile"
    relation.read.data_source.paths.append(literal_path(str(lock)))
    try:
        engine.schema(relation)
    except QueryError as error:
        if error.condition.startswith(("ENGINE_", "OPERATION_")):
            raise
        said = f"{error.condition} {error.message} {error.cause or ''}"
        raise QueryError(
            "STORAGE_OUT_OF_REACH",
            f"the engine at {engine.url.partition('/;')[0]} does not find what this process has written to `{lock.parent}`",
            cause=(error.cause if error.condition == "QUERY_FAILED" else None)
            or f"[{error.condition}] {error.message}",
            hint=next((hint for sign, hint in _HINTS if sign in said), f"check what they allow: {_OWN}"),
            retryable=error.retryable,
        ) from error
