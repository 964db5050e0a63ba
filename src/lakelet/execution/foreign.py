"""Commits to the pipeline's tables that are not its own.

Every commit of a flow that changes rows carries a receipt, and its checkpoint notes the version after it. So what was
written since then without one was written by somebody else. Rows that somebody adds, deletes or updates are theirs to answer
for: the event log says so, once. A table that was set back has lost rows that its flow will never read again: that is refused.
"""

from __future__ import annotations

from typing import Any

from lakelet.errors import StorageError
from lakelet.events import kinds
from lakelet.execution.checkpoint import Checkpoint
from lakelet.execution.context import UpdateContext
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset
from lakelet.storage.delta_log import Commit, commits_of_others, latest_version, snapshot_files

LOOKED_THROUGH = 20
"""After so many commits of the dataset's other flows a flow notes that it has looked through them."""


def note_versions(context: UpdateContext, dataset: Dataset, checkpoint: Checkpoint) -> dict[str, int]:
    """Return, for the note of a batch, the versions that the tables of its dataset have with it."""
    known = checkpoint.details()
    places = {
        "table_version": context.location(dataset),
        "auxiliary_version": context.catalog.auxiliary(dataset.name),
    }
    versions = {name: latest_version(place, known=known.get(name, -1)) for name, place in places.items()}
    return {name: version for name, version in versions.items() if version is not None}


def check_commits(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Look at what others have committed to a dataset's tables since the last batch of a flow.

    Raises:
        StorageError: `TABLE_SET_BACK` for a table that was restored to an older version, and for any change of what AUTO CDC and
            operators with state remember.
    """
    details = checkpoint.details()
    own = context.location(dataset)
    hidden: dict[str, Any] = {context.catalog.auxiliary(dataset.name): details.get("auxiliary_version")}
    hidden |= {str(checkpoint.folder / "state" / name): version for name, version in details.get("state", {}).items()}
    for location, version in hidden.items():
        if found := commits_of_others(location, after=version):
            raise _set_back(context, flow, location, found[0])
    found = commits_of_others(own, after=details.get("table_version"))
    if not found:
        now = latest_version(own, known=details.get("table_version", -1))
        if now is not None and now - details.get("table_version", now) >= LOOKED_THROUGH:
            checkpoint.amend(note_versions(context, dataset, checkpoint))
        return
    for commit in found:
        if commit.operation == "RESTORE" and _lacks_files(own, details["table_version"]):
            raise _set_back(context, flow, own, commit)
    display = context.display(dataset.name)
    listed = ", ".join(f"{commit.version} ({commit.operation or 'unknown'})" for commit in found)
    kinds.warning(
        context.events,
        f"somebody else changed rows of `{display}` in version {listed}: they stay as they are now; "
        f"`lakelet run --full-refresh {display}` computes the table anew",
        flow=flow.name,
        dataset=display,
    )
    checkpoint.amend(note_versions(context, dataset, checkpoint))


def _lacks_files(location: str, version: int) -> bool:
    """Return whether data files of a version are no longer in the table: a restore that was undone has them all."""
    newest = latest_version(location)
    assert newest is not None
    now = {file.path for file in snapshot_files(location, newest)}
    return any(file.path not in now for file in snapshot_files(location, version))


def _set_back(context: UpdateContext, flow: ResolvedFlow, location: str, commit: Commit) -> StorageError:
    display = context.display(flow.target)
    what = "was restored to an older version" if commit.operation == "RESTORE" else "was written by somebody else"
    return StorageError(
        "TABLE_SET_BACK",
        f"`{display}` no longer has what the flow `{flow.name}` has committed",
        origin=context.origin(flow),
        cause=f"the table at `{location}` {what} in version {commit.version}",
        hint=f"restore version {commit.version - 1}, or rebuild the dataset with `lakelet run --full-refresh {display}`",
    )
