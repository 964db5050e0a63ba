"""What maintenance and resets did, as lines of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lakelet.execution.maintenance import Maintained
    from lakelet.execution.reset import ResetStep


def maintained_line(table: Maintained, *, dry_run: bool) -> str:
    """Return what was done to a table."""
    if table.skipped is not None:
        return f"{table.table}: skipped, {table.skipped}"
    verb = "would delete" if dry_run else "deleted"
    kept = f", older files stay for the flow {table.kept_for}" if table.kept_for else ""
    files = f"{table.files_before} files" if dry_run else f"{table.files_before} → {table.files_after} files"
    return f"{table.table}: {files}, {verb} {table.vacuumed_files} data files and {table.log_files} log files{kept}"


def reset_lines(steps: Sequence[ResetStep], *, done: bool = False) -> list[str]:
    """Return what a reset does, or has done, and what the user should know about it."""
    from lakelet.execution.reset import CheckpointReset, DatasetReset

    lines = []
    for step in steps:
        match step:
            case DatasetReset():
                gone = "" if step.is_declared else ", which is no longer in the code"
                verb = "dropped" if done else "drop"
                rows = "rows that cannot be read" if step.rows is None else f"{step.rows} rows"
                lines.append(f"{verb} the table {step.dataset}{gone}: {rows}, and its checkpoints")
                lines += [
                    f"  {reader} reads it as a stream, and fails until it is reset or refreshed from the start, too"
                    for reader in step.readers
                ]
            case CheckpointReset():
                verb = "removed" if done else "remove"
                lines.append(f"{verb} the checkpoint of flow {step.flow}: {step.batches} batches")
                lines.append(f"  {step.dataset} keeps its rows; what the flow's sources still have is appended again")
    return lines
