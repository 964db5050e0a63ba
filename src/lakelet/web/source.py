"""The code of a dataset, at its line; files of the project only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CONTEXT_LINES = 40
MAX_BYTES = 1_000_000


def source_of(root: Path, file: str | None, line: int | None) -> dict[str, Any] | None:
    """Return the lines around a declaration, highlighted; None where there is no such file below `root`."""
    if not file:
        return None
    folder = root.resolve()
    path = (folder / file).resolve()
    if not path.is_relative_to(folder) or not path.is_file() or path.stat().st_size > MAX_BYTES:
        return None
    text = path.read_text("utf-8", errors="replace")
    lines = text.splitlines()
    at = max(1, min(line or 1, len(lines) or 1))
    first = max(1, at - CONTEXT_LINES // 4)
    last = min(len(lines), first + CONTEXT_LINES)
    return {
        "file": file,
        "line": at,
        "first_line": first,
        "language": "sql" if path.suffix == ".sql" else "python",
        "text": "\n".join(lines[first - 1 : last]),
    }


def highlighted(text: str, *, language: str, first_line: int = 1, line: int | None = None) -> str:
    """Return code as HTML with classes and no styles of its own; `line` is marked."""
    from pygments import highlight
    from pygments.formatters.html import HtmlFormatter
    from pygments.lexers.python import PythonLexer
    from pygments.lexers.sql import SqlLexer

    lexer = SqlLexer() if language == "sql" else PythonLexer()
    marked = [line - first_line + 1] if line is not None else []
    formatter = HtmlFormatter(
        linenos="inline", linenostart=first_line, hl_lines=marked, cssclass="code", nobackground=True, wrapcode=True
    )
    return str(highlight(text, lexer, formatter))
