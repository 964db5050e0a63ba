"""What each client of the Spark Connect door has for itself: settings, temporary views, the queries that it runs."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lakelet.doors.plan_check import Key
from lakelet.doors.streams import Running
from lakelet.doors.tables import TIME_ZONE, OpenQuery
from lakelet.errors import DefinitionError
from lakelet.names import NameContext, TableName
from lakelet.pipelines.engine_defaults import ENGINE_DEFAULTS
from lakelet.plan.relation import Relation
from lakelet.secrets import shown

MOST_SESSIONS = 500
MOST_BYTES = 48 * 2**20
"""Of one plan, with the rows that it carries; also of all views of a session."""
DEFAULTS: Mapping[str, str] = {
    **ENGINE_DEFAULTS,
    "spark.connect.session.planCompression.threshold": "-1",
    "spark.connect.session.planCompression.defaultAlgorithm": "NONE",
    "spark.sql.session.localRelationSizeLimit": str(MOST_BYTES),
}
_OF_THE_CLIENT = (
    "spark.app.", "spark.sql.execution.arrow.", "spark.sql.execution.pandas.", "spark.sql.pyspark.", "spark.sql.repl.",
    "spark.sql.connect.", "spark.sql.shuffle.", "spark.sql.adaptive.",
)  # fmt: skip
"""Beginnings of settings that the client itself reads, or that change no result."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One client.

    Attributes:
        configuration: of the pipeline, as clients may see it.
        server_id: by which a client notices that the server is another one.
        settings: set by the client, over the pipeline's own.
        views: folded name → name and normalized tree.
        running: by operation id, with the tags that the client gave.
    """

    names: NameContext
    configuration: Mapping[str, str]
    server_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    settings: dict[str, str] = field(default_factory=dict)
    views: dict[Key, tuple[TableName, Relation]] = field(default_factory=dict)
    running: dict[str, tuple[Running[Any], frozenset[str]]] = field(default_factory=dict)
    used_at: float = field(default_factory=time.monotonic)

    def query(self, relation: Relation) -> OpenQuery:
        """Return a relation as a query of this session."""
        own = {key: value for key, value in self.settings.items() if key == TIME_ZONE}
        return OpenQuery(relation=relation, views=dict(self.views), settings=own)

    # -- settings

    def setting(self, key: str) -> str | None:
        for settings in (self.settings, self.configuration, DEFAULTS):
            if key in settings:
                return settings[key]
        return None

    def all_settings(self) -> dict[str, str]:
        return {**DEFAULTS, **self.configuration, **self.settings}

    def set(self, key: str, value: str) -> None:
        """Change a setting.

        Raises:
            DefinitionError: `CANNOT_MODIFY_CONFIG` for one that queries of this server do not follow.
        """
        if not self.may_set(key):
            raise DefinitionError(
                "CANNOT_MODIFY_CONFIG",
                f"`{key}` cannot be set on this server",
                cause="queries run under the settings of the pipeline",
                hint=f"`{TIME_ZONE}` is the setting of a session that can be changed",
            )
        if key == TIME_ZONE:
            _check_zone(value)
        self.settings[key] = value

    def may_set(self, key: str) -> bool:
        return key == TIME_ZONE or key.startswith(_OF_THE_CLIENT)

    # -- views

    def view(self, text: str) -> TableName | None:
        found = self.views.get(self.names.resolve(text).key)
        return found[0] if found is not None else None

    def keep(self, text: str, tree: Relation, *, replace: bool) -> None:
        """Give a name to a tree.

        Raises:
            DefinitionError: `TEMP_TABLE_OR_VIEW_ALREADY_EXISTS`, `SESSION_TOO_LARGE`.
        """
        name = self.names.resolve(f"`{text.replace('`', '``')}`")
        if name.key in self.views and not replace:
            raise DefinitionError(
                "TEMP_TABLE_OR_VIEW_ALREADY_EXISTS",
                f"there is a temporary view `{text}` already",
                hint="use `createOrReplaceTempView`",
            )
        others = sum(kept.ByteSize() for key, (_, kept) in self.views.items() if key != name.key)
        if others + tree.ByteSize() > MOST_BYTES:
            raise DefinitionError(
                "SESSION_TOO_LARGE",
                "the temporary views of this session are too large",
                cause=f"with the rows that they carry they may have {MOST_BYTES / 2**20:.0f} MB",
                hint="drop some: `spark.catalog.dropTempView(name)`",
            )
        self.views[name.key] = (name, tree)

    def drop(self, text: str) -> bool:
        return self.views.pop(self.names.resolve(text).key, None) is not None

    def cancel(self, *, operation: str | None = None, tag: str | None = None) -> list[str]:
        """End queries: all, one, or those with a tag; returns the ids of those that ran."""
        ended = []
        for key, (running, tags) in list(self.running.items()):
            if operation in (None, key) and (tag is None or tag in tags):
                running.cancel()
                ended.append(key)
        return ended


class Sessions:
    """All sessions, by who asks and the id that the client chose; the longest unused go when there are too many.

    Args:
        configuration: of the pipeline; values that are secret no client gets to see.
    """

    def __init__(self, names: NameContext, configuration: Mapping[str, str]) -> None:
        self._names, self._configuration = names, shown(configuration)
        self._lock = threading.Lock()
        self._sessions: dict[tuple[str, str], Session] = {}

    def get(self, user: str, session_id: str) -> Session:
        """Return a session; a new one where the id is.

        Raises:
            DefinitionError: `INVALID_HANDLE.FORMAT`.
        """
        try:
            uuid.UUID(session_id)
        except ValueError:
            raise DefinitionError("INVALID_HANDLE.FORMAT", "the id of the session is not a UUID") from None
        with self._lock:
            session = self._sessions.get((user, session_id))
            if session is None:
                if len(self._sessions) >= MOST_SESSIONS:
                    idle = [key for key, session in self._sessions.items() if not session.running]
                    if idle:
                        del self._sessions[min(idle, key=lambda key: self._sessions[key].used_at)]
                session = Session(names=self._names, configuration=self._configuration)
                self._sessions[user, session_id] = session
            session.used_at = time.monotonic()
            return session

    def release(self, user: str, session_id: str) -> None:
        """Forget a session, and end what it runs."""
        with self._lock:
            session = self._sessions.pop((user, session_id), None)
        if session is not None:
            session.cancel()


def _check_zone(value: str) -> None:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(value)
    except (ValueError, OSError) as error:
        raise DefinitionError(
            "INVALID_TIME_ZONE", f"`{value}` is not a time zone", hint='write a name such as "Europe/Berlin", or "UTC"'
        ) from error
