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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lakelet.web.indexing import COUNTS, LEVELS, Additions, unknown

_SCHEMA = """
CREATE TABLE events (
  sequence INTEGER PRIMARY KEY, id TEXT UNIQUE, update_id TEXT, timestamp TEXT, type TEXT, level INTEGER,
  dataset TEXT, flow TEXT, message TEXT, body BLOB
);
CREATE INDEX events_of_update ON events (update_id, sequence);
CREATE INDEX events_of_dataset ON events (dataset, sequence);
CREATE INDEX events_that_warn ON events (sequence, level) WHERE level >= 2;
CREATE TABLE updates (
  update_id TEXT PRIMARY KEY, sequence INTEGER, started_at TEXT, finished_at TEXT, last_at TEXT, state TEXT, cause TEXT,
  continuous INTEGER, full_refresh INTEGER, selection TEXT, written INTEGER DEFAULT 0, dropped INTEGER DEFAULT 0,
  failed_rows INTEGER DEFAULT 0, errors INTEGER DEFAULT 0, warnings INTEGER DEFAULT 0,
  state_sequence INTEGER
);
CREATE INDEX updates_in_order ON updates (sequence);
CREATE TABLE types (type TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE flows (
  update_id TEXT, dataset TEXT, flow TEXT, status TEXT, technique TEXT, started_at TEXT, finished_at TEXT, input INTEGER,
  output INTEGER, upserted INTEGER, deleted INTEGER, dropped INTEGER DEFAULT 0, batches INTEGER DEFAULT 0,
  busy_ms REAL DEFAULT 0, reason TEXT, status_sequence INTEGER, PRIMARY KEY (update_id, dataset, flow)
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
_KNOWN = """
SELECT id, sequence FROM events
WHERE id IN (SELECT value FROM json_each(?)) OR sequence IN (SELECT value FROM json_each(?))
"""


def _added(*columns: str) -> str:
    """Return assignments that add counts; NULL is what nobody has counted."""
    return ", ".join(
        f"{name} = CASE WHEN excluded.{name} IS NULL THEN {name} ELSE COALESCE({name}, 0) + excluded.{name} END"
        for name in columns
    )


def _newer(by: str, *columns: str) -> str:
    """Return assignments for what the event with the greater number decides: files are not read in order."""
    return ", ".join(
        f"{name} = CASE WHEN excluded.{by} > {by} THEN excluded.{name} ELSE {name} END" for name in (*columns, by)
    )


def _first_known(*columns: str) -> str:
    return ", ".join(f"{name} = COALESCE(excluded.{name}, {name})" for name in columns)


_UPDATE_ROW = f"""
INSERT INTO updates VALUES ({",".join("?" * 16)}) ON CONFLICT (update_id) DO UPDATE SET
  sequence = MIN(sequence, excluded.sequence), started_at = MIN(started_at, excluded.started_at),
  last_at = MAX(last_at, excluded.last_at), {_newer("state_sequence", "state", "finished_at")},
  {_first_known("cause", "continuous", "full_refresh", "selection")},
  {_added("written", "dropped", "failed_rows", "errors", "warnings")}
"""
_FLOW_ROW = f"""
INSERT INTO flows VALUES ({",".join("?" * 16)}) ON CONFLICT (update_id, dataset, flow) DO UPDATE SET
  {_newer("status_sequence", "status", "finished_at", "reason")}, {_first_known("technique")},
  started_at = MIN(COALESCE(started_at, excluded.started_at), COALESCE(excluded.started_at, started_at)),
  {_added(*COUNTS, "dropped", "batches", "busy_ms")}
"""
_RULE_ROW = """
INSERT INTO rules VALUES (?, (SELECT sequence FROM updates WHERE update_id = ?), ?,?,?,?,?,?,?)
ON CONFLICT (dataset, name, update_id, flow) DO UPDATE SET passed = passed + excluded.passed,
  failed = failed + excluded.failed, last_at = MAX(last_at, excluded.last_at), action = excluded.action
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

    def add(
        self, events: Sequence[Mapping[str, Any]], *, packed: bool = False, texts: Mapping[str, bytes] | None = None
    ) -> list[Mapping[str, Any]]:
        """Index events, in the JSON form of `PipelineEvent`, in any order; returns those that were not known before.

        Args:
            packed: save space rather than time: for years of log, not for the events of this moment.
            texts: the events' own JSON by id, of those for which it is at hand.
        """
        ids = [event["id"] for event in events]
        sequences = [event["sequence"]["data_plane_id"]["seq_no"] for event in events]
        with self._lock, self._connection as connection:
            known = connection.execute(_KNOWN, (json.dumps(ids), json.dumps(sequences))).fetchall()
            new = unknown(events, ids={row["id"] for row in known}, sequences={row["sequence"] for row in known})
            if not new:
                return []
            additions = Additions.of(new, packed=packed, texts=texts or {})
            connection.executemany("INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?,?)", additions.events)
            for kind in additions.types - self._types:
                connection.execute("INSERT INTO types VALUES (?)", (kind,))
            self._types |= additions.types
            connection.executemany(_UPDATE_ROW, [row.values(key) for key, row in additions.updates.items()])
            connection.executemany(_FLOW_ROW, [row.values(key) for key, row in additions.flows.items()])
            connection.executemany(f"INSERT INTO batches VALUES ({','.join('?' * 17)})", additions.batches)
            connection.executemany(
                _RULE_ROW,
                [
                    (update_id, update_id, dataset, name, action, flow, passed, failed, at)
                    for (dataset, name, update_id, flow), (action, passed, failed, at) in additions.rules.items()
                ],
            )
        return new

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
        sql = "SELECT * FROM flows WHERE update_id = ? ORDER BY started_at, dataset LIMIT ?"
        return [_shown(row) for row in self.rows(sql, update_id, limit)]

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
        if level in LEVELS[2:]:
            conditions.append("level >= 2")  # as the index has it
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


def _shown(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in ("state_sequence", "status_sequence")}


def _update(row: Row) -> Row:
    return {
        **_shown(row),
        "continuous": bool(row["continuous"]),
        "full_refresh": bool(row["full_refresh"]),
        "selection": json.loads(row["selection"] or "{}"),
    }


def _body(row: Row) -> Row:
    body: bytes = row["body"]
    return dict(json.loads(body if body.startswith(b"{") else zlib.decompress(body)))
