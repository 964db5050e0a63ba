"""Which expressions need more than the row itself: aggregates, window functions, sub-queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from lakelet.errors import DefinitionError
from lakelet.plan.sql_tokens import Token, scan

_AGGREGATES = {
    "any", "any_value", "approx_count_distinct", "approx_top_k", "bitmap_and_agg", "bitmap_construct_agg", "bitmap_or_agg",
    "count_min_sketch", "grouping", "grouping_id", "hll_sketch_agg", "hll_union_agg", "product", "regr_avgx", "regr_avgy",
    "regr_count", "regr_intercept", "regr_r2", "regr_slope", "regr_sxx", "regr_sxy", "regr_syy", "schema_of_variant_agg",
    "some", "approx_percentile", "array_agg", "avg", "bit_and", "bit_or", "bit_xor",
    "bool_and", "bool_or", "collect_list", "collect_set", "corr", "count", "count_distinct", "count_if", "covar_pop",
    "covar_samp", "every", "first", "first_value", "histogram_numeric", "kurtosis", "last", "last_value", "listagg",
    "max", "max_by", "mean", "median", "min", "min_by", "mode", "percentile", "percentile_approx", "percentile_cont",
    "percentile_disc", "skewness", "std", "stddev", "stddev_pop", "stddev_samp", "string_agg", "sum", "sum_distinct",
    "try_avg", "try_sum", "var_pop", "var_samp", "variance",
}  # fmt: skip


def is_aggregate(function: str) -> bool:
    """Return whether this is the name of an aggregate function."""
    return function.lower() in _AGGREGATES


AGGREGATE = "an aggregate function"
WINDOW = "a window function"
SUBQUERY = "a sub-query"


def beyond_the_row(messages: Iterable[Message]) -> str | None:
    """Return what in these parts of a plan needs other rows than the one at hand, None if nothing does."""
    found: str | None = None
    for message in messages:
        match message.DESCRIPTOR.name:
            case "Window":
                return WINDOW
            case "SubqueryExpression":
                return SUBQUERY
            case "UnresolvedFunction" if message.function_name.lower() in _AGGREGATES:  # type: ignore[attr-defined]
                found = AGGREGATE
            case "ExpressionString":
                inside = text_beyond_the_row(message.expression)  # type: ignore[attr-defined]
                if inside in (WINDOW, SUBQUERY):
                    return inside
                found = inside or found
    return found


def text_beyond_the_row(sql: str) -> str | None:
    """Return what in the text of an expression needs other rows, None if nothing does or the text is not SQL."""
    try:
        tokens = scan(sql).tokens
    except DefinitionError:
        return None
    words = {token.word for token in tokens}
    if "SELECT" in words:
        return SUBQUERY
    if "OVER" in words:
        return WINDOW
    return AGGREGATE if calls_aggregate(tokens) else None


def calls_aggregate(tokens: Sequence[Token]) -> bool:
    """Return whether one of the tokens is the name of an aggregate function that is called."""
    return any(
        token.is_name and following.text == "(" and token.name.lower() in _AGGREGATES
        for token, following in itertools.pairwise(tokens)
    )
