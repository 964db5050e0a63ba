"""The events of a pipeline, indexed: what pages ask of ten thousand updates is answered by looking it up.

The index is a temporary SQLite file that goes with the process. It is made from the event log's table and from the JSON
lines of updates that run; an event counts once, whichever of the two had it first.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lakelet.events.progress import chosen_technique

LEVELS = ("METRICS", "INFO", "WARN", "ERROR")
_SCHEMA = """
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY, id TEXT UNIQUE, update_id TEXT, timestamp TEXT, type TEXT, level INTEGER,
  dataset TEXT, flow TEXT, message TEXT, body BLOB
);
CREATE INDEX events_of_update ON events (update_id, sequence);
CREATE INDEX events_of_dataset ON events (dataset, sequence);
CREATE INDEX events_of_level ON events (level, sequence);
CREATE TABLE updates (
  update_id TEXT PRIMARY KEY, sequence INTEGER, started_at TEXT, finished_at TEXT, last_at TEXT, state TEXT, cause TEXT,
  continuous INTEGER, full_refresh INTEGER, selection TEXT, written INTEGER DEFAULT 0, dropped INTEGER DEFAULT 0,
  failed_rows INTEGER DEFAULT 0, errors INTEGER DEFAULT 0, warnings INTEGER DEFAULT 0
);
CREATE INDEX updates_in_order ON updates (sequence);
CREATE TABLE types (type TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE flows (
  update_id TEXT, dataset TEXT, flow TEXT, status TEXT, technique TEXT, started_at TEXT, finished_at TEXT, input INTEGER,
  output INTEGER, upserted INTEGER, deleted INTEGER, dropped INTEGER DEFAULT 0, batches INTEGER DEFAULT 0,
  busy_ms REAL DEFAULT 0, reason TEXT, PRIMARY KEY (update_id, dataset, flow)
);
CREATE TABLE batches (
  sequence INTEGER PRIMARY KEY, update_id TEXT, dataset TEXT, flow TEXT, batch_id INTEGER, timestamp TEXT, input INTEGER,
  output INTEGER, upserted INTEGER, deleted INTEGER, dropped INTEGER, duration_ms REAL, backlog_bytes INTEGER,
  backlog_files INTEGER, watermark TEXT, late INTEGER, state_rows INTEGER
);
CREATE INDEX batches_of_dataset ON batches (dataset, sequence);
CREATE TABLE rules (
  update_id TEXT, update_sequence INTEGER, dataset TEXT, name TEXT, action TEXT, flow TEXT, passed INTEGER, failed INTEGER,
  last_at TEXT, PRIMARY KEY (dataset, name, update_id, flow)
);
CREATE INDEX rules_in_order ON rules (update_sequence);
"""
_RULES_OF_UPDATES = """
SELECT dataset, name, action, update_id, MAX(passed) AS passed, MAX(failed) AS failed, MAX(last_at) AS last_at,
       update_sequence
FROM rules WHERE {where} GROUP BY dataset, name, action, update_id
"""
"""Rows that each rule saw in each update. The rules of a view are counted by every flow that reads it, over the same rows:
hence the maximum."""

Row = dict[str, Any]
_COMPACT = json.JSONEncoder(separators=(",", ":"))


class EventIndex:
    """One connection behind a lock: short statements, from the watcher's thread and from those of the pages."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lakelet-ui-")
        self._lock = threading.RLock()
        self._types: set[str] = set()
        self._connection = sqlite3.connect(Path(self._folder.name) / "events.sqlite", check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + _SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._folder.cleanup()

    def clear(self) -> None:
        """Forget everything: the event log was made anew."""
        with self._lock, self._connection:
            for table in ("events", "updates", "flows", "batches", "rules", "types"):
                self._connection.execute(f"DELETE FROM {table}")
            self._types = set()

    # -- writing

    def add(self, events: Iterable[Mapping[str, Any]], *, packed: bool = False) -> list[Mapping[str, Any]]:
        """Index events, in the JSON form of `PipelineEvent`; returns those that were not known before, in order.

        Args:
            packed: save space rather than time: for years of log, not for the events of this moment.
        """
        new = []
        with self._lock, self._connection:
            times: dict[str, list[str]] = {}
            for event in events:
                if self._add(event, times, packed=packed):
                    new.append(event)
            for update_id, at in times.items():
                self._run("UPDATE updates SET last_at = MAX(last_at, ?) WHERE update_id = ?", max(at), update_id)
        return new

    def _add(self, event: Mapping[str, Any], times: dict[str, list[str]], *, packed: bool) -> bool:
        origin, details = event["origin"], event["details"].get(event["event_type"]) or {}
        sequence = event["sequence"]["data_plane_id"]["seq_no"]
        dataset, flow = origin.get("dataset_name"), origin.get("flow_name")
        update_id = origin.get("update_id", "")
        text = _COMPACT.encode(event).encode()
        body = zlib.compress(text, 1) if packed else text
        level = LEVELS.index(event["level"]) if event["level"] in LEVELS else 1
        row = (sequence, event["id"], update_id, event["timestamp"], event["event_type"], level)
        added = self._run(
            "INSERT OR IGNORE INTO events VALUES (?,?,?,?,?,?,?,?,?,?)", *row, dataset, flow, event["message"], body
        )
        if added.rowcount == 0:
            return False
        if event["event_type"] not in self._types:
            self._types.add(event["event_type"])
            self._run("INSERT INTO types VALUES (?)", event["event_type"])
        if update_id not in times:
            self._run(
                "INSERT INTO updates (update_id, sequence, started_at, last_at) VALUES (?,?,?,?) ON CONFLICT (update_id)"
                " DO UPDATE SET sequence = MIN(sequence, excluded.sequence),"
                " started_at = MIN(started_at, excluded.started_at)",
                update_id, sequence, event["timestamp"], event["timestamp"],
            )  # fmt: skip
        times.setdefault(update_id, []).append(event["timestamp"])
        if event["level"] in ("WARN", "ERROR"):
            column = "errors" if event["level"] == "ERROR" else "warnings"
            self._run(f"UPDATE updates SET {column} = {column} + 1 WHERE update_id = ?", update_id)
        match event["event_type"]:
            case "create_update":
                self._create_update(update_id, details)
            case "update_progress":
                self._update_progress(update_id, details, event["timestamp"])
            case "planning_information" if dataset:
                technique = chosen_technique(details)
                self._flow(update_id, dataset, flow)
                self._run(
                    "UPDATE flows SET technique = ? WHERE update_id = ? AND dataset = ? AND flow = ?",
                    technique, update_id, dataset, flow or dataset,
                )  # fmt: skip
            case "flow_progress" if dataset:
                self._flow_progress(sequence, event, details)
        return True

    def _run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(sql, values)

    def _create_update(self, update_id: str, details: Mapping[str, Any]) -> None:
        config = details.get("config") or {}
        selection = {name: config.get(name) for name in ("refresh_selection", "full_refresh_selection")}
        self._run(
            "UPDATE updates SET cause = ?, continuous = ?, full_refresh = ?, selection = ?, state = COALESCE(state, ?)"
            " WHERE update_id = ?",
            details.get("cause"), bool(config.get("continuous")), bool(config.get("full_refresh")),
            json.dumps({name: value for name, value in selection.items() if value}), "CREATED", update_id,
        )  # fmt: skip

    def _update_progress(self, update_id: str, details: Mapping[str, Any], at: str) -> None:
        state = details.get("state")
        finished = at if state in ("COMPLETED", "FAILED", "CANCELED") else None
        self._run("UPDATE updates SET state = ?, finished_at = ? WHERE update_id = ?", state, finished, update_id)

    def _flow(self, update_id: str, dataset: str, flow: str | None) -> None:
        self._run(
            "INSERT OR IGNORE INTO flows (update_id, dataset, flow) VALUES (?,?,?)", update_id, dataset, flow or dataset
        )

    def _flow_progress(self, sequence: int, event: Mapping[str, Any], details: Mapping[str, Any]) -> None:
        origin, at = event["origin"], event["timestamp"]
        update_id, dataset = origin.get("update_id", ""), origin["dataset_name"]
        flow = origin.get("flow_name") or dataset
        status, metrics = details.get("status"), details.get("metrics")
        quality = details.get("data_quality") or {}
        self._flow(update_id, dataset, flow)
        key = (update_id, dataset, flow)
        where = "WHERE update_id = ? AND dataset = ? AND flow = ?"
        begins = at if status in ("STARTING", "RUNNING") else None
        ends = at if status not in ("QUEUED", "STARTING", "RUNNING") else None
        self._run(
            f"UPDATE flows SET status = ?, started_at = COALESCE(started_at, ?), finished_at = ?, reason = ? {where}",
            status, begins, ends, details.get("reason"), *key,
        )  # fmt: skip
        if metrics is None and not quality:
            return
        counts = metrics or {}
        rows = [counts.get(f"num_{name}_rows") for name in ("input", "output", "upserted", "deleted")]
        dropped, failed = quality.get("dropped_records", 0), 0
        duration = counts.get("duration_ms")
        self._run(
            "UPDATE flows SET input = " + _plus("input") + ", output = " + _plus("output") + ", upserted = "
            + _plus("upserted") + ", deleted = " + _plus("deleted")
            + f", dropped = dropped + ?, batches = batches + 1, busy_ms = busy_ms + ? {where}",
            *[value for row in rows for value in (row, row)], dropped, duration or 0.0, *key,
        )  # fmt: skip
        self._run(
            "INSERT OR IGNORE INTO batches VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            sequence, *key, origin.get("batch_id"), at, *rows, dropped, duration, counts.get("backlog_bytes"),
            counts.get("backlog_files"), counts.get("watermark"), counts.get("num_rows_dropped_by_watermark"),
            counts.get("num_state_rows"),
        )  # fmt: skip
        for rule in quality.get("expectations", ()):
            failed += rule["failed_records"]
            self._rule(key, rule, at)
        self._run(
            "UPDATE updates SET written = written + ?, dropped = dropped + ?, failed_rows = failed_rows + ? WHERE update_id = ?",
            sum(value or 0 for value in rows[1:]), dropped, failed, update_id,
        )  # fmt: skip

    def _rule(self, key: tuple[str, str, str], rule: Mapping[str, Any], at: str) -> None:
        update_id, _, flow = key
        self._run(
            "INSERT INTO rules VALUES (?, (SELECT sequence FROM updates WHERE update_id = ?), ?,?,?,?,?,?,?)"
            " ON CONFLICT (dataset, name, update_id, flow) DO UPDATE SET passed = passed + excluded.passed,"
            " failed = failed + excluded.failed, last_at = excluded.last_at, action = excluded.action",
            update_id, update_id, rule["dataset"], rule["name"], rule.get("action", ""), flow, rule["passed_records"],
            rule["failed_records"], at,
        )  # fmt: skip

    # -- reading

    def rows(self, sql: str, *values: Any) -> list[Row]:
        with self._lock:
            return [dict(row) for row in self._connection.execute(sql, values)]

    def has_all(self, ids: Sequence[str]) -> bool:
        """Return whether all of these events are known."""
        found = self.rows(
            "SELECT COUNT(*) AS n FROM events WHERE id IN (SELECT value FROM json_each(?))", json.dumps(ids)
        )
        return int(found[0]["n"]) == len(set(ids))

    def updates(self, *, limit: int, offset: int = 0) -> list[Row]:
        """Return updates, the newest first."""
        found = self.rows("SELECT * FROM updates ORDER BY sequence DESC LIMIT ? OFFSET ?", limit, offset)
        return [_update(row) for row in found]

    def count_updates(self) -> int:
        return int(self.rows("SELECT COUNT(*) AS n FROM updates")[0]["n"])

    def update(self, prefix: str) -> Row | None:
        """Return the update with an id, or with the only id that begins so."""
        end = prefix + "\uffff"
        found = self.rows("SELECT * FROM updates WHERE update_id >= ? AND update_id < ? LIMIT 2", prefix, end)
        return _update(found[0]) if len(found) == 1 and prefix else None

    def flows(self, update_id: str, *, limit: int = 1000) -> list[Row]:
        return self.rows(
            "SELECT * FROM flows WHERE update_id = ? ORDER BY started_at, dataset LIMIT ?", update_id, limit
        )

    def batches(self, dataset: str, *, limit: int) -> list[Row]:
        """Return the last micro-batches of a dataset's flows, oldest first."""
        return self.rows("SELECT * FROM batches WHERE dataset = ? ORDER BY sequence DESC LIMIT ?", dataset, limit)[::-1]

    def rules(self, *, dataset: str | None = None, update_id: str | None = None, updates: int = 50) -> list[Row]:
        """Return passed and failed rows of each rule in each of the last updates that counted one, oldest first."""
        conditions, values = ["update_sequence >= ?"], [self._oldest_counted(updates)]
        if dataset is not None:
            conditions, values = [*conditions, "dataset = ?"], [*values, dataset]
        if update_id is not None:
            conditions, values = ["update_id = ?"], [update_id]
        sql = _RULES_OF_UPDATES.format(where=" AND ".join(conditions))
        return self.rows(f"{sql} ORDER BY update_sequence, dataset, name", *values)

    def _oldest_counted(self, updates: int) -> Any:
        found = self.rows("SELECT DISTINCT update_sequence AS s FROM rules ORDER BY s DESC LIMIT ?", updates)
        return found[-1]["s"] if found else 0

    def events(
        self,
        *,
        after: int | None = None,
        before: int | None = None,
        update_id: str | None = None,
        level: str | None = None,
        dataset: str | None = None,
        event_type: str | None = None,
        text: str = "",
        limit: int = 100,
    ) -> list[Row]:
        """Return events without their details, the newest first; with `after` the oldest first.

        Args:
            level: the least level.
            text: what the message, the dataset's or the flow's name contains, whatever its case.
        """
        conditions: list[str] = []
        values: list[Any] = []
        for condition, value in (
            ("sequence > ?", after),
            ("sequence < ?", before),
            ("update_id = ?", update_id),
            ("dataset = ?", dataset),
            ("type = ?", event_type),
        ):
            if value is not None:
                conditions.append(condition)
                values.append(value)
        if level in LEVELS[1:]:
            conditions.append("level >= ?")
            values.append(LEVELS.index(level))
        if text:
            pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
            conditions.append("(message LIKE ? ESCAPE '\\' OR dataset LIKE ? ESCAPE '\\' OR type LIKE ? ESCAPE '\\')")
            values += [pattern] * 3
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        order = "ASC" if after is not None else "DESC"
        columns = "sequence, id, update_id, timestamp, type, level, dataset, flow, message"
        found = self.rows(f"SELECT {columns} FROM events {where} ORDER BY sequence {order} LIMIT ?", *values, limit)
        return [{**row, "level": LEVELS[row["level"]]} for row in found]

    def bodies(self, update_id: str, *, types: Sequence[str] = (), limit: int = 200_000) -> list[Row]:
        """Return the whole events of an update, in order."""
        where = f"AND type IN ({','.join('?' * len(types))})" if types else ""
        sql = f"SELECT body FROM events WHERE update_id = ? {where} ORDER BY sequence LIMIT ?"
        return [_body(row) for row in self.rows(sql, update_id, *types, limit)]

    def errors(self, update_id: str, *, limit: int = 100) -> list[Row]:
        """Return the whole events of level ERROR of an update, in order."""
        sql = "SELECT body FROM events WHERE update_id = ? AND level = 3 ORDER BY sequence LIMIT ?"
        return [_body(row) for row in self.rows(sql, update_id, limit)]

    def event(self, sequence: int) -> Row | None:
        """Return one whole event."""
        if sequence >= 2**63:
            return None
        found = self.rows("SELECT body FROM events WHERE sequence = ?", sequence)
        return _body(found[0]) if found else None

    def types(self) -> list[str]:
        return [row["type"] for row in self.rows("SELECT type FROM types ORDER BY type")]


def _plus(column: str) -> str:
    return f"CASE WHEN ? IS NULL THEN {column} ELSE COALESCE({column}, 0) + ? END"


def _update(row: Row) -> Row:
    return {
        **row,
        "continuous": bool(row["continuous"]),
        "full_refresh": bool(row["full_refresh"]),
        "selection": json.loads(row["selection"] or "{}"),
    }


def _body(row: Row) -> Row:
    body: bytes = row["body"]
    return dict(json.loads(body if body.startswith(b"{") else zlib.decompress(body)))
