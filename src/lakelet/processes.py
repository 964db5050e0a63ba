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


def identity(pid: int) -> str:
    """Return what tells a process from an earlier one that had its number: when it started; empty if that cannot be told."""
    try:
        # The name of the program, in brackets, may have spaces and brackets itself.
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]
    except OSError:
        return _ps("lstart", pid)


def resident_bytes(pid: int) -> int | None:
    """Return the memory that the operating system has given to a process, None if it does not say."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text("utf-8").split()[1]
    except OSError:
        return _told_by_ps(pid)
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _told_by_ps(pid: int) -> int | None:
    """Ask `ps`, where there is no `/proc`."""
    told = _ps("rss", pid)
    return int(told) * 1024 if told else None


def _ps(column: str, pid: int) -> str:
    command = ["ps", "-o", f"{column}=", "-p", str(pid)]
    try:
        environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}  # a time must read the same whoever asks
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        return done.stdout.strip()
    except OSError:
        return ""
