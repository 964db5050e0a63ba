"""What a local Spark server needs to read and write an object store: libraries, settings, and where its credentials are.

Credentials come from the environment, under the names that `lakelet` itself reads. They stay there: a setting names the variable,
or the file that it names, so that neither the list of processes nor the note of the server shows them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HADOOP_VERSION = "3.5.0"
"""That of the jars in `pyspark`."""
_AWS_VERSION = "2.35.4"
"""That which this Hadoop is built with."""
_TRUE = ("1", "true", "on", "yes", "y")
"""As delta-rs and Sail read it."""
_AZURITE = "http://127.0.0.1:10000"
"""Where the emulator of Azure's storage listens unless it is told otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreLibraries:
    """What Maven's repository has for an object store.

    Attributes:
        title: of the store.
        packages: their coordinates; the first one is Hadoop's.
        without: coordinates of what they bring and nobody needs.
        megabytes: to download.
    """

    title: str
    packages: tuple[str, ...]
    without: tuple[str, ...] = ()
    megabytes: int

    @property
    def jar(self) -> str:
        """Part of the name of the file that shows that they are there."""
        return self.packages[0].split(":")[1]


OBJECT_STORES: Mapping[str, ObjectStoreLibraries] = {
    "s3": ObjectStoreLibraries(
        title="S3",
        packages=(
            f"org.apache.hadoop:hadoop-aws:{HADOOP_VERSION}",
            *(f"software.amazon.awssdk:{name}:{_AWS_VERSION}" for name in ("s3", "s3-transfer-manager", "sts")),
        ),
        # All of Amazon's services in one file of 690 MB; the three that are used are 20.
        without=("software.amazon.awssdk:bundle",),
        megabytes=20,
    ),
    "azure": ObjectStoreLibraries(
        title="Azure", packages=(f"org.apache.hadoop:hadoop-azure:{HADOOP_VERSION}",), megabytes=4
    ),
    "gcs": ObjectStoreLibraries(
        title="Google Cloud Storage", packages=(f"org.apache.hadoop:hadoop-gcp:{HADOOP_VERSION}",), megabytes=36
    ),
}
"""By the value of `--object-store`."""


def endpoint_of(object_store: str | None) -> str:
    """Return where the environment says that the store is; empty for the provider's own place."""
    if object_store == "s3":
        return os.environ.get("AWS_ENDPOINT_URL", "")
    if object_store == "azure" and os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in _TRUE:
        return os.environ.get("AZURITE_BLOB_STORAGE_URL") or _AZURITE
    return ""


def account_of(object_store: str | None) -> str:
    """Return whose credentials the environment has, as far as that is no secret; empty where it does not say."""
    if object_store == "azure":
        return os.environ.get("AZURE_STORAGE_ACCOUNT_NAME", "")
    return _google_key() if object_store == "gcs" else ""


def _google_key() -> str:
    """Return the path of a service account's key; delta-rs and Sail take it under both names."""
    key = os.environ.get("GOOGLE_SERVICE_ACCOUNT") or os.environ.get("GOOGLE_SERVICE_ACCOUNT_PATH")
    return str(Path(key).resolve()) if key else ""


def settings_of(object_store: str | None, endpoint: str) -> dict[str, str]:
    """Return the settings of the server's Spark."""
    found = {"s3": _s3, "azure": _azure, "gcs": _gcs}[object_store](endpoint) if object_store else {}
    return {f"spark.hadoop.fs.{key}": value for key, value in found.items()}


def _s3(endpoint: str) -> dict[str, str]:
    found = {
        "s3.impl": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        # Where nothing listens at the endpoint, Hadoop's defaults try for seven minutes.
        "s3a.attempts.maximum": "3",
        "s3a.retry.limit": "3",
    }
    if endpoint:
        found |= {"s3a.endpoint": endpoint, "s3a.path.style.access": "true"}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region:
        found["s3a.endpoint.region"] = region
    return found


def _azure(endpoint: str) -> dict[str, str]:
    found = {"azure.io.retry.max.retries": "3"}
    account = os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    variables = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
    variable = next((name for name in variables if os.environ.get(name)), None)
    if account and variable:
        for service in ("dfs", "blob"):
            found[f"azure.account.key.{account}.{service}.core.windows.net"] = f"${{env.{variable}}}"
    if endpoint:
        # The emulator has the interface of blobs only, and no TLS, with which Hadoop's other client cannot do without.
        found |= {
            "azure.abfs.endpoint": endpoint.partition("://")[2].strip("/"),
            "azure.always.use.https": "false",
            "azure.account.hns.enabled": "false",
            "azure.fns.account.service.type": "BLOB",
            "azure.ingress.service.type": "BLOB",
            "azure.networking.library": "JDK_HTTP_URL_CONNECTION",
        }
    return found


def _gcs(endpoint: str) -> dict[str, str]:
    found = {"gs.impl": "org.apache.hadoop.fs.gs.GoogleHadoopFileSystem", "gs.auth.type": "APPLICATION_DEFAULT"}
    if key := _google_key():
        found |= {"gs.auth.type": "SERVICE_ACCOUNT_JSON_KEYFILE", "gs.auth.service.account.json.keyfile": key}
    return found
