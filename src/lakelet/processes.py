"""Other processes of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Return whether a process with this number runs, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def resident_bytes(pid: int) -> int | None:
    """Return the memory that the operating system has given to a process, None if it does not say."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]
    except OSError:
        return _told_by_ps(pid)
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _told_by_ps(pid: int) -> int | None:
    """Ask `ps`, where there is no `/proc`."""
    try:
        told = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    return int(told) * 1024 if told.strip() else None
