"""What a user gets to see, and to send, when lakelet itself fails."""

from __future__ import annotations

import platform
import sys
import tempfile
import traceback
from importlib import metadata

_DISTRIBUTIONS = ("lakelet", "pysail", "pyspark-client", "deltalake", "pyarrow", "sqlglot")


def report(error: BaseException, *, debug: bool) -> str:
    """Return the few lines for stderr: with the traceback, or with the file that has it."""
    trace = "".join(traceback.format_exception(error))
    heading = (
        f"internal error: {type(error).__name__}: {error}\n"
        "  a bug in lakelet, not in your pipeline; what was committed is safe"
    )
    if debug:
        return f"{trace}\n{heading}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lakelet-report-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"{_environment()}\n\n{trace}")
    except OSError as failure:
        return f"{heading}\n\nhint: run it again with `lakelet --debug …` for the traceback (no report file: {failure})"
    return f"{heading}\n  report: {file.name}\n\nhint: send the report, or run again with `lakelet --debug …`"


def _environment() -> str:
    lines = [f"command: {' '.join(sys.argv)}", f"python: {sys.version}", f"platform: {platform.platform()}"]
    for name in _DISTRIBUTIONS:
        try:
            lines.append(f"{name}: {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name}: not installed")
    return "\n".join(lines)
