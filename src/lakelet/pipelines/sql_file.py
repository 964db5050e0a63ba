"""Loads a pipeline's `.sql` file: statements in, datasets and flows out. Nothing here runs a query."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lakelet.errors import DefinitionError, DefinitionErrors, LakeletError, Origin, did_you_mean
from lakelet.pipelines.registry import Registry
from lakelet.pipelines.sql_cursor import Cursor
from lakelet.pipelines.sql_statements import StatementReader
from lakelet.plan.sql_tokens import SqlText, TokenKind, scan, split_statements

_VARIABLE = re.compile(r"\$\{\s*([^{}]+?)\s*\}")
_NOTEBOOK = "-- Databricks notebook source"
_CELL = re.compile(r"^-- COMMAND -+[ \t]*$", re.MULTILINE)
_SPARK_SETTINGS = ("spark.", "pipelines.")


def load_sql_file(text: str, file: str, registry: Registry, *, configuration: Mapping[str, str] | None = None) -> None:
    """Register all datasets and flows that a file declares.

    `SET key = value` holds for the statements after it: `${key}` is replaced by the value, and `spark.*` and
    `pipelines.*` keys become settings of their queries. In a notebook export a cell ends a statement.

    Args:
        file: shown in messages.
        configuration: the pipeline's settings, also available as `${key}`.

    Raises:
        DefinitionError: the one thing that is wrong.
        DefinitionErrors: all that is wrong, if it is more than one; what is right is registered.
    """
    if text.lstrip().startswith(_NOTEBOOK):
        text = _CELL.sub(lambda match: ";" + " " * (len(match[0]) - 1), text)
    variables: dict[str, str] = dict(configuration or {})
    spark_conf: dict[str, str] = {}
    errors: list[LakeletError] = []
    for statement in split_statements(text, origin=Origin(file=file, line=1)):
        try:
            _load_statement(statement, registry, variables, spark_conf)
        except DefinitionErrors as several:
            errors.extend(several.errors)
        except DefinitionError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise DefinitionErrors(errors)


def _load_statement(
    statement: SqlText, registry: Registry, variables: dict[str, str], spark_conf: dict[str, str]
) -> None:
    text = _substitute(statement, variables)
    source = scan(text, origin=statement.origin, first_column=statement.first_column)
    cursor = Cursor(source)
    if cursor.accept("SET"):
        key, value = _setting(cursor)
        variables[key] = value
        if key.startswith(_SPARK_SETTINGS):
            spark_conf[key] = value
        return
    declared = StatementReader(cursor, registry.names, spark_conf=spark_conf).read()
    for dataset in declared.datasets:
        registry.add_dataset(dataset)
    for flow in declared.flows:
        registry.add_flow(flow)


def _substitute(statement: SqlText, variables: Mapping[str, str]) -> str:
    """Replace `${key}` everywhere but in comments.

    Raises:
        DefinitionError: `UNRESOLVED_SQL_VARIABLE` for a key that nobody set.
    """
    spans = [(token.start, token.end) for token in statement.tokens]

    def value(match: re.Match[str]) -> str:
        key = match[1]
        if key in variables:
            return variables[key]
        if not any(start <= match.start() < end for start, end in spans):
            return match[0]
        near = did_you_mean(key, variables)
        raise statement.error(
            match.start(),
            f"the variable `{match[0]}` is not set",
            condition="UNRESOLVED_SQL_VARIABLE",
            hint=f"did you mean `${{{near}}}`?"
            if near
            else f"add `SET {key} = …;` above, or `{key}` to `configuration` in the spec file",
        )

    return _VARIABLE.sub(value, statement.text)


def _setting(cursor: Cursor) -> tuple[str, str]:
    """Read `key = value` after SET; the value is the rest of the statement, without quotes around it."""
    start = cursor.i
    while not (cursor.at_end or cursor.sees("=")):
        cursor.skip_token()
    key = "".join(token.name for token in cursor.source.tokens[start : cursor.i])
    if not key or not cursor.accept("="):
        raise cursor.error("SET needs a key and a value", hint="write `SET key = value;`")
    token = cursor.token
    if token.kind is TokenKind.STRING and cursor.i + 2 == len(cursor.source.tokens):
        return key, token.value
    return key, cursor.inside()
