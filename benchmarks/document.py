"""docs/benchmarks.md as parts that are measured and written one by one, each between its two markers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
LOAD_BEFORE = os.getloadavg()[0]
"""Processes that wanted the machine's cores in the minute before; above 0.5 the figures are too high."""


def machine(*libraries: str) -> str:
    """Return the line that says what was measured where, and how busy the machine was before."""
    versions = "".join(f", {name} {importlib.metadata.version(name)}" for name in libraries)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} {platform.machine()}, Python "
        f"{platform.python_version()}{versions}; {time.strftime('%Y-%m-%d')}; load before the run {LOAD_BEFORE:.1f}"
    )


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_part(name: str, text: str, *, document: Path = DOCUMENT) -> None:
    """Replace one part of the document, or add it at the end; the other parts stay as they were measured."""
    part = f"<!-- part {name} -->\n\n{text.strip()}\n\n<!-- end {name} -->"
    before = document.read_text("utf-8") if document.exists() else "# Benchmarks\n"
    pattern = re.compile(rf"<!-- part {re.escape(name)} -->.*?<!-- end {re.escape(name)} -->", re.DOTALL)
    if pattern.search(before):
        after = pattern.sub(lambda _: part, before)
    else:
        after = before.rstrip() + f"\n\n{part}\n"
    document.write_text(after, "utf-8")
