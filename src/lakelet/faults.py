"""Named points at which a test may end the process, to show that the next run repairs what was cut off."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

POINTS = (
    "flow.intent_written",
    "flow.rows_committed",
    "flow.batch_published",
    "flow.commit_noted",
    "cdc.auxiliary_committed",
    "cdc.target_committed",
    "view.planned",
    "view.intent_written",
    "view.state_committed",
    "view.swapped",
    "view.noted",
)
"""Every point that each pipeline passes, in this order."""

FILE_POINTS = ("files.discovered", "files.planned")
"""Points of streams of files, before an intent is written."""

SINK_POINTS = ("sink.rows_written",)
"""Points of flows into sinks."""

SINK_FILE_POINTS = ("sink.files_written", "sink.files_noted", "sink.file_moved")
"""Points of flows into sinks of files, before that of all sinks."""

STATE_POINTS = ("state.committed", "state.compacted")
"""The points that only flows with state pass: the first between their intent and their rows, the second after their note."""

TABLE_POINTS = ("table.files_written", "table.committed")
"""Points inside of a commit to any table that is written without delta-rs."""

TIDYING_POINTS = ("cdc.settled", "view.tidied", "checkpoint.intent_forgotten")
"""Points where something is tidied up that many batches have left."""

MAINTENANCE_POINTS = ("maintenance.compacted", "maintenance.file_removed", "maintenance.commit_removed")
"""Points of `lakelet maintain`, and of the upkeep of a continuous update."""

MEANINGS: Mapping[str, str] = {
    "files.discovered": "stream of files: new files are noted, no batch is planned",
    "files.planned": "stream of files: the rows of a batch are parsed, its intent is not written",
    "table.files_written": "any table: the files of a small append, or of a change by key, are written, no commit has them",
    "table.committed": "any table: such a commit is in its log, whose checkpoint, if one is due, is not written",
    "flow.intent_written": "micro-batch: its intent is on disk, nothing of it is in a table",
    "state.committed": "operator with state: what it remembers of the batch is committed, its rows are not",
    "cdc.auxiliary_committed": "AUTO CDC: the events of the batch are stored, the target is as before",
    "cdc.target_committed": "AUTO CDC: the target is written",
    "cdc.settled": "AUTO CDC: events that came last are put in the order of their keys, the old files are still there",
    "sink.files_written": "sink of files: the rows of the batch are in files that nobody reads, nothing says that they are whole",
    "sink.files_noted": "sink of files: such files are noted, none of them is where files are read",
    "sink.file_moved": "sink of files: one of them is, others may not be",
    "sink.rows_written": "sink: the rows of the batch are written",
    "flow.rows_committed": "micro-batch: rows and receipt are in the table, nothing says so yet",
    "flow.batch_published": "micro-batch: its counts are in the event log, the checkpoint does not know that it is done",
    "checkpoint.intent_forgotten": "micro-batch: the intent of a batch long done is removed, its note is not",
    "flow.commit_noted": "micro-batch: it is done; what it remembered is not tidied up",
    "state.compacted": "operator with state: its table is written anew, the old files are still there",
    "view.planned": "materialized view: what it reads is pinned, nothing is computed",
    "view.intent_written": "materialized view: its intent is on disk, its table and partial values are as before",
    "view.state_committed": "materialized view: the partial values of its groups are ahead of its rows",
    "view.swapped": "materialized view: the new rows are in the table, nothing says which version they belong to",
    "view.noted": "materialized view: the refresh is noted",
    "view.tidied": "materialized view: small files of its partial values are merged, the old ones are still there",
    "maintenance.compacted": "maintenance: the small files of a table are put together, the old ones are still there",
    "maintenance.file_removed": "maintenance: a data file of a table is removed, others that are to go are still there",
    "maintenance.commit_removed": "maintenance: a commit of a log is removed, others that are to go are still there",
}
"""What has happened at each point, and what has not; in the order in which an update passes them."""

ENVIRONMENT = "LAKELET_CRASH_AT"
_passes = itertools.count(1)

_hook: Callable[[str], None] | None = None


def reach(point: str) -> None:
    """Tell the hook, if there is one, that `point` is reached.

    In a process of its own the hook is `LAKELET_CRASH_AT=<point>[:<n>]`: the process ends there, the first or the n-th time,
    as if it were killed.
    """
    if _hook is not None:
        _hook(point)
    elif ENVIRONMENT in os.environ:
        wanted, _, occurrence = os.environ[ENVIRONMENT].partition(":")
        if wanted == point and next(_passes) == int(occurrence or 1):
            os._exit(137)


@contextmanager
def installed(hook: Callable[[str], None]) -> Iterator[None]:
    """Call `hook` at every point while the context is open."""
    global _hook
    previous, _hook = _hook, hook
    try:
        yield
    finally:
        _hook = previous
