"""What delta-rs and the file system raise, as errors that say which table and what to do."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from lakelet.errors import LakeletError, StorageError
from lakelet.places import is_remote


@contextlib.contextmanager
def storage_errors(location: str, counted: Any = None) -> Iterator[None]:
    """Translate what delta-rs and the file system raise; an error of the rows' own source passes through as it is."""
    try:
        yield
    except LakeletError:
        raise
    except TableNotFoundError:
        raise
    except (DeltaError, OSError, pa.ArrowException) as error:
        failure = getattr(counted, "failure", None)
        if isinstance(failure, LakeletError):
            raise failure from failure.__cause__
        if failure is not None and not isinstance(failure, (DeltaError, OSError, pa.ArrowException)):
            raise failure from failure.__cause__  # an interrupt, or a bug of ours: not the store's failure
        raise _storage_error(location, failure or error) from (failure or error)


def _storage_error(location: str, error: BaseException) -> StorageError:
    text = str(error)
    if "No space left" in text or "os error 28" in text:
        return StorageError(
            "DISK_FULL",
            f"no space left while writing `{location}`",
            cause=text,
            hint="free some space and run the update again; nothing of this batch was committed",
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return StorageError(
            "STORAGE_NOT_WRITABLE",
            f"`{location}` cannot be read or written",
            cause=text,
            hint="check the owner, the permissions and the mount of that folder, then run the update again",
        )
    if isinstance(error, CommitFailedError):
        return StorageError(
            "CONCURRENT_WRITE",
            f"another writer committed to `{location}` at the same time",
            cause=text,
            hint="make sure that only this pipeline writes the table, then run the update again",
            retryable=True,
        )
    if is_remote(location) and "Generic" in text:
        return StorageError(
            "TABLE_IO_FAILED",
            f"the table at `{location}` cannot be read or written",
            cause=_reason(error),
            hint="check the address, the credentials in the environment and what they allow, then run the update again",
        )
    return StorageError(
        "TABLE_IO_FAILED",
        f"the table at `{location}` cannot be read or written",
        cause=text.partition("\n")[0],
        hint="restore its folder from a copy; if it is one of the pipeline's own, `lakelet reset <dataset>` starts it anew",
    )


def _reason(error: BaseException) -> str:
    """Return what an object store says: its library tells the causes line by line, with arrows and colours."""
    lines = [re.sub(r"\x1b\[\d+m|↳", "", line).strip() for line in str(error).splitlines()]
    return ": ".join(line for line in lines if line and not line.startswith("<"))[:400]
