"""What has been written so far, and commits on top of it that never collide.

The ledger is a copy of what the tables say. It is read from them at the start, advanced by each commit, and
read again whenever a table turns out to be at another version: after compaction, after a reset, or when a
second generator writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from apparel.generator.landing import Landing, LandingChangedError, StreamState
from apparel.generator.model import DIMENSIONS, Ids, Stream
from lakelet.errors import LakeletError

# A commit takes about 15 ms and the others wait for their next interval: losing this often means something
# is wrong.
_ATTEMPTS = 20


class Ledger:
    """The state of every stream, kept in step with the landing zone."""

    def __init__(self, landing: Landing) -> None:
        self._landing = landing
        self._states = self._read()

    def __getitem__(self, stream: Stream) -> StreamState:
        return self._states[stream]

    def commit(self, stream: Stream, make: Callable[[], pa.RecordBatchReader | None]) -> StreamState | None:
        """Append what `make` returns to a stream; None means there is nothing to write.

        `make` is called again, after the ledger was read again, whenever another writer was faster: its
        rows must follow from the ledger.

        Returns:
            What was appended, as the state of a stream that holds only it; None if nothing was.

        Raises:
            LakeletError: LANDING_CONTENDED when another writer is faster again and again; those of
                `Landing.append`.
        """
        for _ in range(_ATTEMPTS):
            rows = make()
            if rows is None:
                return None
            seen = _Seen(rows, key=stream.key, keep_ids=stream in DIMENSIONS)
            try:
                version = self._landing.append(stream, seen.reader, after=self[stream].version)
            except LandingChangedError:
                self._states = self._read()
                continue
            appended = seen.state(version)
            self._states[stream] = _advanced(self[stream], appended)
            return appended
        raise LakeletError(
            "LANDING_CONTENDED",
            f"stream `{stream}` changed {_ATTEMPTS} times while one batch was written",
            cause="other writers append to the same landing zone without a pause",
            hint="stop the other generators, or give this one a storage of its own",
            retryable=True,
        )

    def fingerprint(self) -> list[int]:
        """Return numbers that differ after every commit with rows, whatever files and versions hold these."""
        return [number for stream in Stream for number in (self[stream].max_id, self[stream].row_count)]

    def _read(self) -> dict[Stream, StreamState]:
        return {stream: self._landing.read_state(stream) for stream in Stream}


class _Seen:
    """A reader that notes what passes through it."""

    def __init__(self, rows: pa.RecordBatchReader, *, key: str, keep_ids: bool) -> None:
        self._rows = rows
        self._key = key
        self._keep_ids = keep_ids
        self._ids: list[Ids] = []
        self._row_count = 0
        self._max_id = 0
        self.reader = pa.RecordBatchReader.from_batches(rows.schema, self._pass_through())

    def _pass_through(self) -> Iterator[pa.RecordBatch]:
        for batch in self._rows:
            keys = batch.column(self._key).drop_null()
            self._row_count += batch.num_rows
            self._max_id = max(self._max_id, pc.max(keys).as_py() or 0)
            if self._keep_ids:
                self._ids.append(keys.to_numpy(zero_copy_only=False))
            yield batch

    def state(self, version: int) -> StreamState:
        ids = np.unique(np.concatenate([np.empty(0, np.int32), *self._ids]))
        return StreamState(version=version, row_count=self._row_count, max_id=self._max_id, ids=ids)


def _advanced(before: StreamState, appended: StreamState) -> StreamState:
    return StreamState(
        version=appended.version,
        row_count=before.row_count + appended.row_count,
        max_id=max(before.max_id, appended.max_id),
        ids=np.union1d(before.ids, appended.ids).astype(np.int32),
    )
