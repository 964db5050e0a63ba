"""What the pages read: one pipeline, its definition, its events, its tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lakelet.errors import LakeletError
from lakelet.execution.reading import EVENT_LOG_NAMES
from lakelet.pipeline import Pipeline
from lakelet.queries.check import check_sql
from lakelet.queries.reading import collect, query_over_tables
from lakelet.secrets import scrubbed, secret_values
from lakelet.storage.delta_log import latest_version
from lakelet.web.definition import Definition, Definitions
from lakelet.web.index import EventIndex
from lakelet.web.metrics import PipelineMetrics
from lakelet.web.runner import JOIN_SECONDS, Runner
from lakelet.web.sql import SqlService
from lakelet.web.tables import named
from lakelet.web.watcher import Watcher

QUERY_ROWS = 10_000


class Site:
    """Everything behind the pages of one pipeline; `start` it before it is asked.

    Args:
        pipeline: the site runs its updates with it, and closes it not.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self.index = EventIndex()
        self.metrics = PipelineMetrics(pipeline.spec.name, self.index, since=self.now())
        catalog = pipeline.catalog
        self.watcher = Watcher(str(catalog.system / "events"), catalog.journal, self.index, metrics=self.metrics)
        load_lock = threading.Lock()
        self._definitions = Definitions(pipeline.sibling(), load_lock=load_lock)
        self.runner = Runner(pipeline, on_event=self.watcher.wake, on_load=self._definitions.take, load_lock=load_lock)
        self.sql = SqlService(pipeline)
        self._secrets = secret_values(pipeline.spec.configuration)
        self._answers: dict[str, tuple[tuple[int | None, ...], list[Mapping[str, Any]]]] = {}
        self.closing = threading.Event()

    def start(self) -> None:
        self.watcher.start()

    def close(self) -> None:
        """End what runs, after the micro-batches under way."""
        self.closing.set()
        self.runner.stop()
        self.runner.join(JOIN_SECONDS)
        self.watcher.close()
        self.sql.close()
        self.index.close()

    @property
    def name(self) -> str:
        return self.pipeline.spec.name

    @property
    def definition(self) -> Definition:
        """What the pipeline's files declare, as of their last load."""
        return self._definitions.current

    def check(self) -> Definition:
        """Load the pipeline's files anew: a dry run."""
        return self._definitions.reload()

    def tables(self) -> dict[str, str]:
        """Return the stored tables: display name → location."""
        return {name: location for name, (_, location) in self.definition.tables.items()}

    def query(self, sql: str) -> list[Mapping[str, Any]]:
        """Return the rows of a query of a page's own, at most 10,000; nothing where a table has no rows yet.

        An answer is kept as long as no table that it reads has a new version.
        """
        tables = self.tables()
        event_log = str(self.pipeline.catalog.system / "events")
        try:
            read = check_sql(sql, tables=[*tables, *EVENT_LOG_NAMES], names=self.pipeline.names)
        except LakeletError:
            if not tables:
                return []  # the files do not load, and never did
            raise
        versions = tuple(latest_version(tables.get(name, event_log)) for name in sorted(read))
        if None in versions:
            return []
        kept = self._answers.get(sql)
        if kept is not None and kept[0] == versions:
            return kept[1]
        relation = query_over_tables(
            self.pipeline.engine,
            sql,
            names=self.pipeline.names,
            catalog=self.pipeline.catalog,
            tables=tables,
            event_log=event_log,
            time_zone=self.pipeline.spec.time_zone,
        )
        rows, _ = collect(self.pipeline.engine, relation, limit=QUERY_ROWS, max_bytes=2**24)
        answer = named(rows)
        if len(self._answers) > 200:
            self._answers.clear()
        self._answers[sql] = (versions, answer)
        return answer

    def scrub(self, value: Any) -> Any:
        """Return JSON-ready values without the values of secret settings."""
        return scrubbed(value, self._secrets)

    def now(self) -> datetime:
        return datetime.now(UTC)
