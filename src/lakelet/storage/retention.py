"""What may be removed of a Delta table without taking anything from a reader that is behind.

A reader at version `v` needs the commits from `v` on, and the files that were alive at `v` or came later. A file that is not
in the newest version is in the version before the commit that removed it; so those versions together refer to every such file.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta

from lakelet.places import Place
from lakelet.storage.delta_log import has_version, latest_version, log_folder

_LOG_FILE = re.compile(r"(\d{20})\.(json|crc|checkpoint(\..+)?\.(parquet|json))")
_WHOLE_CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")


def versions_before_removals(location: str, *, since: int) -> tuple[int, ...] | None:
    """Return versions that refer to every file which is alive at version `since` or later and gone by now.

    None if the log no longer has all of these commits: then the files that they named cannot be told.
    """
    newest = latest_version(location)
    if newest is None:
        return None
    found = []
    for version in range(since + 1, newest + 1):
        if not has_version(location, version):
            return None
        if _removes_files(log_folder(location) / f"{version:020d}.json"):
            found.append(version - 1)
    return tuple(found)


def _removes_files(commit: Place) -> bool:
    """Return whether a commit takes files out of the table, be it a change or a compaction."""
    return any(
        '"remove"' in line and "remove" in json.loads(line) for line in commit.read_text("utf-8").splitlines() if line
    )


def old_log_files(location: str, *, needed_from: int | None, now: datetime, retention_hours: int) -> tuple[Place, ...]:
    """Return the files of the log that neither a reader nor the retention keeps.

    The log stays whole from a checkpoint on that is not newer than what is kept; without such a checkpoint all of it stays.

    Args:
        needed_from: the first version that a reader needs; None if there is no reader.
        retention_hours: commits younger than this stay.
    """
    folder = log_folder(location)
    names = {entry.name: entry for entry in folder.iterdir()}
    oldest = (now - timedelta(hours=retention_hours)).timestamp()
    commits = sorted(int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name))
    expired = [version for version in commits if names[f"{version:020d}.json"].stat().st_mtime <= oldest]
    if not expired:
        return ()
    keep_from = min(expired[-1] + 1, *([] if needed_from is None else [needed_from]), commits[-1])
    cuts = [int(found[1]) for name in names if (found := _WHOLE_CHECKPOINT.fullmatch(name))]
    cut = max((version for version in cuts if version <= keep_from), default=0)
    matches = ((_LOG_FILE.fullmatch(name), path) for name, path in sorted(names.items()))
    return tuple(path for found, path in matches if found and int(found[1]) < cut)
