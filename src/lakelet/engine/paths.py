"""Folders whose names the embedded engine cannot read, under names that it can.

Sail's Delta reader finds nothing below a folder whose path has a space, a tilde or a letter outside of ASCII ("Missing commit
file"), so `/home/zoë/my shop` would be no place for a pipeline. Such a folder is read through a symbolic link in a folder of
this process, which goes when the process ends.
"""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import tempfile
from pathlib import Path

from lakelet.places import is_remote

_MAGIC = re.compile(r"([{}\[\]*?])")
_PLAIN = re.compile(r"[\w./=,:;@&+$!'()-]*", re.ASCII)


@functools.cache
def _links() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lakelet-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def readable_path(location: str) -> str:
    """Return a path to `location` that the engine can read."""
    if _PLAIN.fullmatch(location) or is_remote(location):
        return location
    link = Path(tempfile.mkdtemp(dir=_links())) / "table"
    link.symlink_to(Path(location).absolute(), target_is_directory=True)
    return str(link)


def literal_path(path: str) -> str:
    """Return a path as Spark's readers need it to take it for one, and not for a pattern."""
    return _MAGIC.sub(r"\\\1", path)
