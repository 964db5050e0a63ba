"""What maintenance and resets did, as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakelet.execution.maintenance import Maintained


def maintained_line(table: Maintained, *, dry_run: bool) -> str:
    """Return what was done to a table."""
    if table.skipped is not None:
        return f"{table.table}: skipped, {table.skipped}"
    verb = "would delete" if dry_run else "deleted"
    kept = f", older files stay for the flow {table.kept_for}" if table.kept_for else ""
    files = f"{table.files_before} files" if dry_run else f"{table.files_before} → {table.files_after} files"
    return f"{table.table}: {files}, {verb} {table.vacuumed_files} data files and {table.log_files} log files{kept}"
