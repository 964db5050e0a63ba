"""Records of text files: JSON documents and CSV lines, as the file writes them, whole or broken.

A record that cannot be read is handed on with its text; nothing is dropped here.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import IO, Any, cast

from lakelet.execution.file_options import FileRead
from lakelet.execution.file_types import Real

_SPACE = " \t\n\r"
Decode = Callable[[str, int], tuple[Any, int]]
"""Reads the JSON value at a position; returns it and where it ends."""
Field = tuple[Any, str | None]
"""A value, and its text in the file unless it is a JSON string or null."""


@dataclass(slots=True)
class Record:
    """One record.

    Attributes:
        fields: by name; empty for a broken record.
        text: of a broken record, and of any where its line is at hand.
        is_broken: it cannot be read.
        is_ragged: CSV: more or fewer values than columns; `fields` has those that are there.
    """

    fields: dict[str, Field]
    text: str = ""
    is_broken: bool = False
    is_ragged: bool = False


def open_bytes(path: str) -> IO[bytes]:
    """Open a file, unpacked if its name says that it is packed."""
    match Path(path).suffix.lower():
        case ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        case ".bz2":
            return bz2.open(path, "rb")
        case _:
            return Path(path).open("rb")


def open_text(path: str, read: FileRead) -> IO[str]:
    """Open a text file; bytes that are no text become U+FFFD, line ends become line feeds."""
    encoding = read.text("encoding") or read.text("charset") or "utf-8"
    if encoding.lower().replace("-", "") == "utf8":
        encoding = "utf-8-sig"  # without a byte order mark
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, errors="replace")


# -- JSON ---------------------------------------------------------------------------------------------------------


def json_records(path: str, read: FileRead) -> Iterator[Record]:
    """Yield the records of a JSON file: one a line, or with `multiLine` all documents of the file."""
    decode = json.JSONDecoder(parse_float=Real).raw_decode
    with open_text(path, read) as file:
        for text in [file.read()] if read.flag("multiline") else file:
            line = text.rstrip("\n")
            if line.strip(_SPACE):
                yield from _documents(line, decode)


def _documents(text: str, decode: Decode) -> Iterator[Record]:
    """Yield the objects of a text, those in an array one by one."""
    position, end = _skip(text, 0), len(text)
    found: list[Record] = []
    try:
        while position < end:
            if text[position] == "[":
                position = _skip(text, position + 1)
                while text[position] != "]":
                    fields, position = _object(text, position, decode)
                    found.append(Record(fields, text))
                    position = _skip(text, position)
                    if text[position] == ",":
                        position = _skip(text, position + 1)
                    elif text[position] != "]":
                        raise ValueError(text)
                position += 1
            else:
                fields, position = _object(text, position, decode)
                found.append(Record(fields, text))
            position = _skip(text, position)
    except (ValueError, IndexError, RecursionError):
        yield Record({}, text, is_broken=True)
        return
    yield from found


def _object(text: str, position: int, decode: Decode) -> tuple[dict[str, Field], int]:
    """Read the object at a position; returns its fields and where it ends."""
    if text[position] != "{":
        raise ValueError(text)
    fields: dict[str, Field] = {}
    position = _skip(text, position + 1)
    if text[position] == "}":
        return fields, position + 1
    while True:
        if text[position] != '"':
            raise ValueError(text)
        name, position = scanstring(text, position + 1, True)
        position = _skip(text, position)
        if text[position] != ":":
            raise ValueError(text)
        start = _skip(text, position + 1)
        value, position = decode(text, start)
        fields[name] = (value, None if value is None or isinstance(value, str) else text[start:position])
        position = _skip(text, position)
        if text[position] == "}":
            return fields, position + 1
        if text[position] != ",":
            raise ValueError(text)
        position = _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in _SPACE:
        position += 1
    return position


# -- CSV ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Syntax:
    separator: str
    quote: str
    escape: str


def csv_records(path: str, read: FileRead, names: Sequence[str] = ()) -> Iterator[Record]:
    """Yield the records of a CSV file; a header names the values, else they are `_c0`, `_c1`, …

    Args:
        names: what the values are called by their position, whatever a header says.
    """
    syntax = _Syntax(
        (read.text("sep") or read.text("delimiter") or ",").replace("\\t", "\t"),
        read.text("quote", '"'),
        read.text("escape", "\\"),
    )
    comment = read.text("comment")
    to_skip = int(read.text("skiprows", "0"))
    columns: list[str] | None = None
    for text, values in _csv_rows(path, read, syntax, to_skip):
        if comment and text.startswith(comment):
            continue
        if columns is None:
            columns = list(names) or ([] if read.flag("header") else [f"_c{n}" for n in range(len(values or ()))])
            if read.flag("header"):
                columns = columns or _header(values or [])
                continue
        if values is None:
            yield Record({}, text, is_broken=True)
            continue
        fields: dict[str, Field] = {}
        for position, value in enumerate(_plain(values, read)):
            fields[columns[position] if position < len(columns) else f"_c{position}"] = (value, None)
        yield Record(fields, text, is_ragged=len(values) != len(columns))


def _header(values: list[tuple[str, bool]]) -> list[str]:
    names: list[str] = []
    for position, (text, _) in enumerate(values):
        name = text.strip() or f"_c{position}"
        names.append(f"{name}{position}" if name in names else name)
    return names


def _plain(values: list[tuple[str, bool]], read: FileRead) -> Iterator[str | None]:
    """Yield the values: NULL where the file has the text for it, or nothing without quotes."""
    null, empty = read.text("nullvalue"), read.text("emptyvalue")
    leading, trailing = read.flag("ignoreleadingwhitespace"), read.flag("ignoretrailingwhitespace")
    for text, quoted in values:
        if not quoted:
            text = text.lstrip(" \t") if leading else text
            text = text.rstrip(" \t") if trailing else text
        if text == "" and not quoted:
            yield None
            continue
        text = empty if text == "" else text
        yield None if text == null else text


def _csv_rows(
    path: str, read: FileRead, syntax: _Syntax, to_skip: int
) -> Iterator[tuple[str, list[tuple[str, bool]] | None]]:
    """Yield each record's text and its values with whether they are quoted; no values where quotes do not close."""
    with open_text(path, read) as file:
        for _ in range(to_skip):
            file.readline()
        if read.flag("multiline"):
            text, position = file.read(), 0
            while position < len(text):
                values, end = _values(text, position, syntax, multiline=True)
                record = text[position:end].rstrip("\n")
                if record:
                    yield record, values
                position = end
            return
        for line in file:
            record = line.rstrip("\n")
            if record.strip():
                if not syntax.quote or syntax.quote not in record:
                    yield record, [(text, False) for text in record.split(syntax.separator)]
                else:
                    yield record, _values(record, 0, syntax, multiline=False)[0]


def _values(text: str, position: int, syntax: _Syntax, *, multiline: bool) -> tuple[list[tuple[str, bool]] | None, int]:
    """Read one record; returns its values and where the next begins. Both `\\"` and `""` are a quote inside of quotes."""
    values: list[tuple[str, bool]] = []
    end = len(text)
    while True:
        if syntax.quote and text.startswith(syntax.quote, position):
            read = _quoted(text, position + 1, syntax)
            if read is None:
                return None, end
            value, position = read
            values.append((value, True))
        else:
            stops = [text.find(syntax.separator, position)]
            if multiline:
                stops.append(text.find("\n", position))
            stop = min((found for found in stops if found >= 0), default=end)
            values.append((text[position:stop], False))
            position = stop
        if position >= end:
            return values, end
        if text[position] == "\n":
            return values, position + 1
        position += 1


def _quoted(text: str, position: int, syntax: _Syntax) -> tuple[str, int] | None:
    """Read up to the closing quote and the separator after it; None if the quote does not close."""
    parts: list[str] = []
    while position < len(text):
        char = text[position]
        following = text[position + 1 : position + 2]
        if char == syntax.escape and char != syntax.quote and following in (syntax.quote, syntax.escape) and following:
            parts.append(following)
            position += 2
        elif char == syntax.quote and following == syntax.quote:
            parts.append(char)
            position += 2
        elif char == syntax.quote and following in ("", syntax.separator, "\n"):
            return "".join(parts), position + 1
        else:
            parts.append(char)
            position += 1
    return None
