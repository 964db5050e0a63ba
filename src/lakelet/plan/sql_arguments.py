"""Constant arguments inside a query: what must be known before the query runs."""

from __future__ import annotations

from collections.abc import Mapping

from lakelet.plan.sql_tokens import SqlText, TokenKind


def read_arguments(source: SqlText, open_index: int, parameters: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Read the constant arguments of a call from its parenthesis; pairs of `map(…)` count as positional.

    Raises:
        DefinitionError: `UNSUPPORTED_FEATURE` for an argument that is not constant.
    """
    close = source.closing[open_index]
    positional: list[str] = []
    named: dict[str, str] = {}
    i = open_index + 1
    while i < close:
        token, following = source.tokens[i], source.tokens[i + 1]
        stop = next_comma(source, i, close)
        if following.text == "=>":
            named[token.name] = constant(source, i + 2, stop, token.text, parameters)
        elif token.word == "MAP" and following.text == "(":
            positional += read_arguments(source, i + 1, parameters)[0]
        else:
            positional.append(constant(source, i, stop, "the argument", parameters))
        i = stop + 1
    return positional, named


def next_comma(source: SqlText, i: int, end: int) -> int:
    """Return the index of the next comma outside brackets, or `end`."""
    while i < end and source.tokens[i].text != ",":
        i = source.closing.get(i, i) + 1
    return i


def constant(source: SqlText, i: int, end: int, what: str, parameters: Mapping[str, str]) -> str:
    """Evaluate tokens `i` to `end`: a literal, a named parameter, or several of them joined by `||`."""
    tokens, start, value = source.tokens, i, ""
    while i < end:
        token = tokens[i]
        if token.kind is TokenKind.STRING:
            value += token.value
        elif token.kind is TokenKind.NUMBER or token.word in ("TRUE", "FALSE"):
            value += token.text.lower()
        elif token.text == "-" and i == start:
            value += "-"
        elif token.text == ":" and tokens[i + 1].name in parameters:
            i += 1
            value += parameters[tokens[i].name]
        elif token.text != "||" or i == start:
            break
        i += 1
    if i < end or start >= end:
        raise source.error(
            tokens[min(i, end)].start,
            f"{what} must be a constant here",
            condition="UNSUPPORTED_FEATURE",
            hint="write a string literal; `||` joins literals",
        )
    return value


_AUTO_LOADER_OPTIONS = (
    "format", "inferColumnTypes", "schemaHints", "schemaEvolutionMode", "schemaLocation",
    "partitionColumns", "maxFilesPerTrigger", "maxBytesPerTrigger", "includeExistingFiles",
    "allowOverwrites", "useManagedFileEvents", "useStrictGlobber", "useNotifications",
    "backfillInterval",
)  # fmt: skip


def file_option(key: str) -> str:
    """Give an option of `read_files` the name that `cloudFiles` knows it by."""
    option = next((name for name in _AUTO_LOADER_OPTIONS if name.lower() == key.lower()), None)
    return f"cloudFiles.{option}" if option else key
