"""Checks of expectations before anything runs: every rule must be a condition over the row that it judges."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql.connect import proto
from pyspark.sql.types import StructType

from lakelet.engine.base import Engine
from lakelet.errors import DefinitionError, DefinitionErrors, GraphError, QueryError
from lakelet.execution.diagnosis import column_hint
from lakelet.graph.elements import Dataset, Expectation
from lakelet.plan import relation as plan
from lakelet.plan.row_wise import beyond_the_row
from lakelet.plan.sql_syntax import check_expression

_RULE = "__lakelet_rule"


def check_expectations(engine: Engine, dataset: Dataset, display: str, columns: StructType) -> None:
    """Analyse every rule of a dataset over the columns that its query gives; all of them in one call if all are right.

    Raises:
        GraphError: `INVALID_EXPECTATION`; `DefinitionErrors` if several rules are wrong.
    """
    rules = dataset.expectations
    if not rules:
        return
    with contextlib.suppress(QueryError):
        kinds = engine.schema(
            plan.with_columns(plan.empty(columns), {f"{_RULE}{n}": _whole(r) for n, r in enumerate(rules)})
        )
        right = all(kinds[f"{_RULE}{number}"].dataType.typeName() == "boolean" for number in range(len(rules)))
        if right and not any(_beyond(rule) for rule in rules):
            return
    problems = [problem for rule in rules if (problem := _problem(engine, rule, display, columns)) is not None]
    _raise(problems)


def _raise(problems: Sequence[GraphError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise DefinitionErrors(problems)


def _problem(engine: Engine, rule: Expectation, display: str, columns: StructType) -> GraphError | None:
    beyond = _beyond(rule)
    if beyond is not None:
        return _invalid(
            rule,
            display,
            f"it uses {beyond}, and a rule sees one row at a time",
            "compute the value in the query, and let the rule compare it",
        )
    if isinstance(rule.condition, str):
        try:
            check_expression(rule.condition)
        except DefinitionError as error:
            return _invalid(
                rule,
                display,
                f"{error.message.rpartition(' (line ')[0]}\n{error.cause or ''}",
                "write one SQL condition, such as `amount > 0`",
            )
    try:
        kind = engine.schema(plan.with_columns(plan.empty(columns), {_RULE: _whole(rule)}))[_RULE].dataType.typeName()
    except QueryError as error:
        cause = "\n".join(text for text in (error.message, error.cause) if text)
        if error.column:
            cause = f"there is no column `{error.column}`"
        hint = column_hint(error.column, columns.names) if error.column else error.hint
        return _invalid(rule, display, cause, hint)
    if kind in ("boolean", "void") and rule.text.strip() != "*":
        return None
    return _invalid(rule, display, f"it is {kind}, not boolean", "write a condition, such as `amount > 0`")


def _invalid(rule: Expectation, display: str, cause: str, hint: str | None) -> GraphError:
    return GraphError(
        "INVALID_EXPECTATION",
        f"the expectation `{rule.name}` of `{display}` cannot be evaluated: {rule.text}",
        origin=replace(rule.origin, dataset=display),
        cause=cause,
        hint=hint,
    )


def _beyond(rule: Expectation) -> str | None:
    return beyond_the_row(plan.messages(plan.expression_of(rule.condition)))


def _whole(rule: Expectation) -> proto.Expression:
    """Return the condition in brackets, so that text after it is no alias."""
    if isinstance(rule.condition, str):
        return plan.expression(f"({rule.condition}\n)")
    return plan.expression_of(rule.condition)
