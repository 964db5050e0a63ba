"""Which line of the user's code runs: the first frame outside lakelet, pyspark and their plumbing."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_LAKELET = str(Path(__file__).resolve().parents[1]) + os.sep
_STANDARD_LIBRARY = str(Path(os.__file__).parent) + os.sep
_PLUMBING = tuple(_STANDARD_LIBRARY + name for name in ("functools.py", "contextlib.py", "importlib" + os.sep))
_WRAPPERS = frozenset({"wrapped", "wrapper", "_", "__call__", "<lambda>", "inner", "__getattr__"})


@dataclass(frozen=True, slots=True, kw_only=True)
class CallSite:
    """A line of the user's code.

    Attributes:
        file: absolute path, as Python knows the code object.
        call: the pyspark or lakelet function that the line calls, None if it calls none.
    """

    file: str
    line: int
    call: str | None = None

    def relative_to(self, root: Path | None) -> str:
        """Return the file's path, relative to `root` when the file lies below it."""
        return display_path(self.file, root=root)


def call_site() -> CallSite | None:
    """Return the user's line that led here, or None when no user code is on the stack."""
    frame: FrameType | None = sys._getframe(1)
    call: str | None = None
    while frame is not None:
        if not is_internal(frame.f_code.co_filename):
            return CallSite(file=frame.f_code.co_filename, line=frame.f_lineno, call=call)
        if _is_library(frame.f_code.co_filename) and frame.f_code.co_name not in _WRAPPERS:
            call = frame.f_code.co_name
        frame = frame.f_back
    return None


def is_internal(file: str) -> bool:
    """Tell whether a code object's file is lakelet's, pyspark's, or plumbing between them and the user."""
    return _is_library(file) or file.startswith("<frozen") or file.startswith(_PLUMBING)


def display_path(file: str, *, root: Path | None) -> str:
    """Return `file` relative to `root` when it lies below it, else unchanged."""
    if root is None:
        return file
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file


def _is_library(file: str) -> bool:
    return file.startswith(_LAKELET) or f"{os.sep}pyspark{os.sep}" in file
