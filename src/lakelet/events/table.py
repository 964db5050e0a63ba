"""The event log's Delta table: the events of all updates of a pipeline, in the columns that Databricks documents.

Source of the columns: https://docs.databricks.com/aws/en/ldp/monitor-event-log-schema
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lakelet.errors import StorageError
from lakelet.events.model import PipelineEvent, compact_json
from lakelet.places import Place, place

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

FLUSH_EVERY = 500
"""Events that wait in memory before they become a commit of their own; they are safe in the JSON lines until then."""

COMPACT_EVERY = 50
"""Versions between two compactions."""

CHECKPOINT_INTERVAL = "10"
KEPT_UPDATES = 20
RECORDED = ".recorded"
"""Suffix of the empty file that says: every line of this update's .jsonl is in the table."""

ORIGIN_TEXT_FIELDS = (
    "pipeline_id",
    "pipeline_name",
    "update_id",
    "dataset_name",
    "flow_name",
    "flow_id",
    "table_name",
    "sink_name",
    "request_id",
)


def event_log_schema() -> pa.Schema:
    """Return the columns: grain one row an event; sequence, error and details are JSON text, error NULL without one."""
    import pyarrow as pa

    origin = [pa.field(name, pa.string()) for name in ORIGIN_TEXT_FIELDS]
    origin.insert(6, pa.field("batch_id", pa.int64()))
    return pa.schema(
        [
            ("id", pa.string()),
            ("sequence", pa.string()),
            ("origin", pa.struct(origin)),
            ("timestamp", pa.timestamp("us", tz="UTC")),
            ("message", pa.string()),
            ("level", pa.string()),
            ("maturity_level", pa.string()),
            ("error", pa.string()),
            ("details", pa.string()),
            ("event_type", pa.string()),
        ]
    )


class DeltaEventLog:
    """Subscriber that gathers events and appends them to a Delta table in few commits.

    Commits happen every `flush_every` events, on `flush()` and on `close()`. Until then an event is only in memory and
    in the update's JSON lines; `recover` brings home what a dead update left there.

    Args:
        location: folder of the table, created by the first commit.
        updates: folder of the updates' JSON lines.
        update_id: the update whose events this log receives.
        retention: older events are removed, about once a day; None to keep all.
        table: its table, if it is open already.
    """

    def __init__(
        self,
        location: str | Place,
        *,
        updates: str | Path | None = None,
        update_id: str | None = None,
        flush_every: int = FLUSH_EVERY,
        retention: timedelta | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        table: DeltaTable | None = None,
    ) -> None:
        self.location = place(str(location))
        self._updates = Path(updates) if updates is not None else None
        self._update_id = update_id
        self._flush_every = flush_every
        self._next_flush = flush_every
        self._lock = threading.RLock()
        self._waiting: list[dict[str, Any]] = []
        self._table = table
        self._retention = retention
        self._clock = clock
        self._trimmed_at: datetime | None = None

    @property
    def table(self) -> DeltaTable | None:
        """Its table, once it is open."""
        return self._table

    def __call__(self, event: PipelineEvent) -> None:
        """Take one event; one that was published already, and a replay publishes again, counts once.

        Raises:
            StorageError: `EVENT_LOG_NOT_WRITABLE`; the events stay in memory and are tried again.
        """
        with self._lock:
            if event.is_replay and self._has(event.id):
                return
            self._waiting.append(_row(event.to_dict(), event.details_json()))
            if len(self._waiting) >= self._next_flush:
                self.flush()

    def flush(self) -> int:
        """Commit the events that wait; returns how many.

        Raises:
            StorageError: `EVENT_LOG_NOT_WRITABLE`; the events stay in memory and are tried again.
        """
        with self._lock:
            count = len(self._waiting)
            self._next_flush = count + self._flush_every  # after a failure: not at once again
            if count:
                version = self._append(self._waiting)
                self._waiting = []
                self._next_flush = self._flush_every
                self._compact_when_due(version)
            return count

    def close(self) -> None:
        """Commit the events that wait, and note that this update's JSON lines are all in the table."""
        with self._lock:
            self.flush()
            lines = self._updates / f"{self._update_id}.jsonl" if self._updates and self._update_id else None
            if lines is not None and lines.exists():
                lines.with_suffix(RECORDED).touch()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def recover(self) -> int:
        """Append the events that dead updates left in their JSON lines only; returns how many.

        Call it while holding the pipeline's lock: then every update but this one is dead. Running it again appends
        nothing. Afterwards the JSON lines of all but the last updates are removed.

        Raises:
            StorageError: `EVENT_LOG_NOT_WRITABLE`; nothing is removed.
        """
        if self._updates is None or not self._updates.is_dir():
            return 0
        with self._lock:
            dead = [path for path in self._jsonl_files() if path.stem != self._update_id]
            left_over = [path for path in dead if not path.with_suffix(RECORDED).exists()]
            events = {event["id"]: event for path in reversed(left_over) for event in reversed(read_json_lines(path))}
            present = self._present(list(events))
            missing = [event for key, event in reversed(events.items()) if key not in present]
            if missing:
                self._append([_row(event, compact_json(event["details"])) for event in missing])
            for path in left_over:
                path.with_suffix(RECORDED).touch()
            for path in dead[:-KEPT_UPDATES]:
                path.unlink()
                path.with_suffix(RECORDED).unlink(missing_ok=True)
            return len(missing)

    def read(self) -> pa.Table:
        """Return all events in their order; without rows where nothing was ever logged."""
        import pyarrow as pa

        with self._lock:
            table = self._open()
            if table is None:
                return event_log_schema().empty_table()
            with _Translated(self.location):
                return pa.table(table.to_pyarrow_table()).sort_by(
                    [("timestamp", "ascending"), ("sequence", "ascending")]
                )

    def _jsonl_files(self) -> list[Path]:
        assert self._updates is not None
        return sorted(self._updates.glob("*.jsonl"), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _open(self) -> DeltaTable | None:
        """Return the table in its newest version, None where there is none yet."""
        if not (self.location / "_delta_log").is_dir():
            return None
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        with _Translated(self.location):
            if self._table is None:
                try:
                    self._table = DeltaTable(str(self.location))
                except TableNotFoundError:  # it was being made when the disk was full, or its process was killed
                    return None
            else:
                self._table.update_incremental()
            return self._table

    def _open_or_create(self) -> DeltaTable:
        table = self._open()
        if table is None:
            from deltalake import DeltaTable

            with _Translated(self.location):
                self.location.mkdir(parents=True, exist_ok=True)
                table = self._table = DeltaTable.create(
                    str(self.location),
                    schema=event_log_schema(),
                    name="event_log",
                    description="Events of all updates of the pipeline",
                    configuration={
                        "delta.checkpointInterval": CHECKPOINT_INTERVAL,
                        "delta.logRetentionDuration": "interval 1 days",
                    },
                    raise_if_key_not_exists=False,
                )
        return table

    def _append(self, waiting: Sequence[Mapping[str, Any]]) -> int:
        """Commit rows of the table; returns the new version."""
        import pyarrow as pa
        from deltalake import write_deltalake

        schema = event_log_schema()
        columns = [pa.array([row[field.name] for row in waiting], field.type) for field in schema]
        rows = pa.table(columns, schema=schema)
        table = self._open_or_create()
        with _Translated(self.location):
            write_deltalake(table, rows, mode="append")
            return int(table.version())

    def _compact_when_due(self, version: int) -> None:
        table = self._table
        if table is not None and version % COMPACT_EVERY == 0:
            with _Translated(self.location):
                table.optimize.compact()
                self._trim(table)
                table.vacuum(dry_run=False)  # keeps a week of files for readers of older versions
                table.create_checkpoint()
                table.cleanup_metadata()

    def _trim(self, table: DeltaTable) -> None:
        """Remove the events that are too old, once a day."""
        now = self._clock()
        if self._retention is not None and (self._trimmed_at is None or now - self._trimmed_at >= timedelta(days=1)):
            table.delete(f"timestamp < '{(now - self._retention).isoformat()}'")
            self._trimmed_at = now

    def _has(self, event_id: str) -> bool:
        return any(event["id"] == event_id for event in self._waiting) or bool(self._present([event_id]))

    def _present(self, ids: Sequence[str]) -> frozenset[str]:
        """Return which of these events are in the table; reads all of its ids, so it is asked only after a death."""
        table = self._open() if ids else None
        if table is None:
            return frozenset()
        import pyarrow.dataset as ds

        with _Translated(self.location):
            rows = table.to_pyarrow_dataset().to_table(columns=["id"], filter=ds.field("id").isin(ids))
        return frozenset(rows.column("id").to_pylist())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the events of a .jsonl file; a last line that a kill cut short is left out.

    Raises:
        StorageError: `EVENT_LOG_CORRUPT` for any other line that is not an event.
    """
    events: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            event = json.loads(line)
            events.append({**event, "timestamp": datetime.fromisoformat(event["timestamp"]).isoformat()})
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise StorageError(
                "EVENT_LOG_CORRUPT",
                f"line {number} of `{path}` is not an event",
                cause=str(error),
                hint="mend or remove the line; only that event is lost",
            ) from error
    return events


def _row(event: Mapping[str, Any], details: str) -> dict[str, Any]:
    """Return an event, as `PipelineEvent.to_dict` gives it, as a row of the table; `details` as JSON text."""
    return {
        **{name: event[name] for name in ("id", "message", "level", "maturity_level", "event_type")},
        "origin": event["origin"],
        "timestamp": datetime.fromisoformat(event["timestamp"]),
        "sequence": compact_json(event["sequence"]),
        "error": compact_json(event["error"]) if event["error"] else None,
        "details": details,
    }


class _Translated:
    """Turns what delta-rs, Arrow and the file system raise into a StorageError."""

    def __init__(self, location: Place) -> None:
        self._location = location

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pyarrow as pa
        from deltalake.exceptions import DeltaError

        if isinstance(error, (DeltaError, OSError, pa.ArrowException)):
            raise StorageError(
                "EVENT_LOG_NOT_WRITABLE",
                f"the event log at `{self._location}` cannot be read or written",
                cause=str(error),
                hint="check the free space, the owner and the mount of the storage folder",
            ) from error
