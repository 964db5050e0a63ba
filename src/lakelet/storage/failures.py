"""What delta-rs and the file system raise, as errors that say which table and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from lakelet.errors import LakeletError, StorageError


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
            f"`{location}` cannot be written",
            cause=text,
            hint="check the owner and the mount of the storage folder, then run the update again",
        )
    if isinstance(error, CommitFailedError):
        return StorageError(
            "CONCURRENT_WRITE",
            f"another writer committed to `{location}` at the same time",
            cause=text,
            hint="make sure that only this pipeline writes the table, then run the update again",
            retryable=True,
        )
    return StorageError(
        "TABLE_IO_FAILED",
        f"the table at `{location}` cannot be read or written",
        cause=text.partition("\n")[0],
        hint="restore its folder from a copy; if it is one of the pipeline's own, `lakelet reset <dataset>` starts it anew",
    )
