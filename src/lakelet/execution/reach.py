"""Whether a cluster that writes tables itself sees the object store that this process sees.

It has an endpoint and credentials of its own. Under one address each side may see another store, or the cluster none: the lock,
which this process has just written there, shows it before anything of an update is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lakelet.engine.paths import literal_path
from lakelet.errors import QueryError
from lakelet.places import ObjectPath, Place
from lakelet.plan import relation as plan

if TYPE_CHECKING:
    from lakelet.engine.base import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hadoop:
    """How Hadoop calls what reads a store.

    Attributes:
        unknown_scheme: what helps where it does not know the scheme.
    """

    settings: str
    library: str
    choice: str
    unknown_scheme: str

    def hint(self, said: str) -> str:
        """Return what helps against what a cluster has said."""
        own = (
            f"endpoint and credentials of the cluster are its own, in its settings `spark.hadoop.fs.{self.settings}.*`"
        )
        if "No FileSystem for scheme" in said:
            return self.unknown_scheme
        if "ClassNotFoundException" in said:
            return (
                f"give the cluster the library `{self.library}` of its Hadoop version; on this machine, `lakelet spark down` "
                f"and `lakelet spark up --object-store {self.choice}`"
            )
        if "PATH_NOT_FOUND" in said:
            return f"it sees another store at that address than this process does; {own}"
        return f"check what they allow: {own}"


_S3 = _Hadoop(
    settings="s3a",
    library="hadoop-aws",
    choice="s3",
    unknown_scheme="let the cluster read it through Hadoop's S3A: put `spark.hadoop.fs.s3.impl: "
    "org.apache.hadoop.fs.s3a.S3AFileSystem` into `configuration`, or write the storage as `s3a://…`",
)
_AZURE = _Hadoop(
    settings="azure",
    library="hadoop-azure",
    choice="azure",
    unknown_scheme="write the storage as `abfss://container@account.dfs.core.windows.net/…`, which Hadoop and `lakelet` know",
)
_GOOGLE = _Hadoop(
    settings="gs",
    library="hadoop-gcp",
    choice="gcs",
    unknown_scheme="let the cluster read it: put `spark.hadoop.fs.gs.impl: org.apache.hadoop.fs.gs.GoogleHadoopFileSystem` "
    "into `configuration`",
)
_BY_SCHEME = {"s3": _S3, "s3a": _S3, "az": _AZURE, "abfs": _AZURE, "abfss": _AZURE, "gs": _GOOGLE}


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
            hint=_BY_SCHEME[lock.root.partition("://")[0].lower()].hint(said),
            retryable=error.retryable,
        ) from error
