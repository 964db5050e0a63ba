"""Splits a pipeline file into what runs as Python, what runs another notebook, and what is SQL.

Databricks notebooks in source form start with `# Databricks notebook source`; cells are separated by
`# COMMAND ----------`, and a cell in another language has all its lines behind `# MAGIC`. Every part keeps
the line numbers of the file.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from lakelet.errors import DefinitionError, Origin

_log = logging.getLogger("lakelet.pipelines")
_HEADER = "# Databricks notebook source"
_SEPARATOR = re.compile(r"#\s*COMMAND\s*-{5,}\s*$")
_MAGIC_LINE = re.compile(r"#\s*MAGIC(?: (?P<text>.*)|\s*)$")
_BARE_MAGIC = re.compile(
    r"(?:!|%%?(?:pip|conda|sh|fs|md|run|sql|python|lsmagic|load_ext|autoreload|matplotlib|config"
    r"|configure|env|time)\b)"
)
_NO_EFFECT = frozenset(
    {
        "md",
        "md-sandbox",
        "sh",
        "fs",
        "lsmagic",
        "load_ext",
        "autoreload",
        "matplotlib",
        "config",
        "configure",
        "env",
        "time",
        "conda",
        "pip",
    }
)


@dataclass(frozen=True, slots=True)
class PythonPart:
    """Python text, padded with empty lines so that its line numbers are the file's."""

    text: str


@dataclass(frozen=True, slots=True)
class SqlPart:
    """SQL text, padded like Python text."""

    text: str


@dataclass(frozen=True, slots=True)
class RunPart:
    """`%run path`: the other notebook runs in this one's namespace."""

    path: str
    line: int


Part = PythonPart | SqlPart | RunPart


def is_notebook(source: str) -> bool:
    """Tell whether a .py file is a Databricks notebook."""
    return source.lstrip("\ufeff").startswith(_HEADER)


def parts_of(source: str, *, file: str) -> list[Part]:
    """Split a file.

    Args:
        file: for errors.

    Raises:
        DefinitionError: `UNSUPPORTED_FEATURE` for a cell in another language than Python, SQL or Markdown.
    """
    lines = source.lstrip("\ufeff").splitlines()
    if not is_notebook(source):
        return _python_cell(lines, 0, file=file) if _needs_splitting(source, file) else [PythonPart(source)]
    parts: list[Part] = []
    start = 0
    for position, line in enumerate([*lines, "# COMMAND ----------"]):
        if _SEPARATOR.match(line):
            parts += _cell(lines[start:position], start, file=file)
            start = position + 1
    return parts


def _needs_splitting(source: str, file: str) -> bool:
    """Tell whether a plain file has magics: only if it is not Python as it stands."""
    if not any(_BARE_MAGIC.match(line) for line in source.splitlines()):
        return False
    try:
        compile(source, file, "exec", dont_inherit=True)
    except SyntaxError:
        return True
    return False


def _cell(lines: list[str], offset: int, *, file: str) -> list[Part]:
    """Split one cell, whose first line has the number `offset + 1`."""
    magic = [_MAGIC_LINE.match(line) for line in lines]
    first = next((position for position, line in enumerate(lines) if _is_content(line)), None)
    if first is None or magic[first] is None:
        return _python_cell(lines, offset, file=file)
    texts = [(match.group("text") or "") if match else "" for match in magic]
    return _magic_cell(texts, first, offset, file=file)


def _is_content(line: str) -> bool:
    """Tell whether a line is more than a blank, a title or the notebook's header."""
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith("# DBTITLE") and not stripped.startswith(_HEADER)


def _magic_cell(texts: list[str], first: int, offset: int, *, file: str) -> list[Part]:
    """Split a cell whose lines were behind `# MAGIC`; `texts[first]` has its language, if it names one."""
    match = re.match(r"\s*%(?P<name>[\w-]+)\s?(?P<rest>.*)", texts[first])
    if match is None:
        return _python_cell(texts, offset, file=file)
    name, rest = match["name"], match["rest"]
    body = [*[""] * first, rest, *texts[first + 1 :]]
    padded = "\n" * offset + "\n".join(body)
    if name == "sql":
        return [SqlPart(padded)]
    if name == "python":
        return _python_cell(body, offset, file=file)
    if name == "run":
        return [RunPart(rest.strip(), offset + first + 1)]
    _check_language(name, offset + first + 1, file=file)
    return []


def _python_cell(lines: list[str], offset: int, *, file: str) -> list[Part]:
    """Split Python lines at `%run`, and blank out the other magics."""
    if not any(_BARE_MAGIC.match(line) for line in lines):
        return [PythonPart("\n" * offset + "\n".join(lines) + "\n")]
    parts: list[Part] = []
    kept: list[str] = []
    start = offset
    for position, line in enumerate(lines):
        number = offset + position + 1
        magic = re.match(r"%%?(?P<name>[\w-]+)\s?(?P<rest>.*)", line)
        if not _BARE_MAGIC.match(line):
            kept.append(line)
        elif magic is not None and magic["name"] == "run":
            parts += [
                PythonPart("\n" * start + "\n".join(kept) + "\n"),
                RunPart(magic["rest"].strip(), number),
            ]
            kept, start = [], number
        elif magic is not None and magic["name"] in ("sql", "python", "md"):
            return (
                [*parts, *_magic_cell(lines, position, offset, file=file)]
                if not any(text.strip() for text in kept)
                else _refuse_mixed(magic["name"], number, file=file)
            )
        else:
            _check_language(magic["name"] if magic else "sh", number, file=file)
            kept.append("")
    return [*parts, PythonPart("\n" * start + "\n".join(kept) + "\n")]


def _refuse_mixed(name: str, line: int, *, file: str) -> list[Part]:
    raise DefinitionError(
        "PIPELINE_FILE_SYNTAX_ERROR",
        f"`%{name}` is in the middle of a cell",
        origin=Origin(file=file, line=line),
        hint="start a new cell for it",
    )


def _check_language(name: str, line: int, *, file: str) -> None:
    """Refuse a cell that would have had an effect here; note one that has none."""
    if name not in _NO_EFFECT:
        raise DefinitionError(
            "UNSUPPORTED_FEATURE",
            f"a cell in `%{name}` cannot run in a pipeline",
            origin=Origin(file=file, line=line),
            cause="pipelines are Python and SQL",
            hint="remove the cell, or move it to a notebook outside of the pipeline's libraries",
        )
    if name not in ("md", "md-sandbox"):
        _log.info("%s:%d: %%%s has no effect in a pipeline", file, line, name)
