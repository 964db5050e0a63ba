"""What a plan of a client may be made of: relations and expressions that compute with rows of the pipeline's tables.

Everything is listed that may pass; a plan with anything else is refused, so what a later Spark adds is not let in by
accident. SQL text inside of a plan is checked as the SQL of the pages is.
"""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.message import Message

from lakelet.names import NameContext
from lakelet.plan.relation import Relation, parts, relations
from lakelet.plan.sources import LeafKind, leaf_of
from lakelet.queries.check import check_function, check_name, check_sql, check_table_function, refused

Key = tuple[str, str, str]

RELATIONS = frozenset({
    "read", "project", "filter", "join", "set_op", "sort", "limit", "aggregate", "sql", "local_relation", "sample", "offset",
    "deduplicate", "range", "subquery_alias", "repartition", "repartition_by_expression", "to_df", "with_columns_renamed",
    "show_string", "html_string", "drop", "tail", "with_columns", "hint", "unpivot", "to_schema", "parse", "as_of_join",
    "lateral_join", "with_relations", "transpose", "unresolved_table_valued_function", "fill_na", "drop_na", "replace",
    "summary", "crosstab", "describe", "cov", "corr", "approx_quantile", "freq_items", "sample_by",
})  # fmt: skip
EXPRESSIONS = frozenset({
    "literal", "unresolved_attribute", "unresolved_function", "expression_string", "unresolved_star", "alias", "cast",
    "unresolved_regex", "sort_order", "lambda_function", "window", "unresolved_extract_value", "update_fields",
    "unresolved_named_lambda_variable", "call_function", "named_argument_expression", "subquery_expression",
})  # fmt: skip
_CODE = frozenset({
    "map_partitions", "group_map", "co_group_map", "apply_in_pandas_with_state", "common_inline_user_defined_function",
    "common_inline_user_defined_table_function", "common_inline_user_defined_data_source", "typed_aggregate_expression",
})  # fmt: skip
_WORDS = {
    "cached_local_relation": "an uploaded table",
    "cached_remote_relation": "a checkpoint",
    "catalog": "a request to the catalog inside of a query",
    "collect_metrics": "`observe`",
    "ml_relation": "machine learning",
    "with_watermark": "a stream",
}
_HINT = "compute with built-in functions over the pipeline's tables and `event_log`"


def check_plan(relation: Relation, *, allowed: Mapping[Key, str], names: NameContext) -> None:
    """Refuse a plan that does anything but read `allowed` tables and rows that it carries itself.

    Args:
        allowed: folded name → display name.

    Raises:
        DefinitionError: `SQL_NOT_ALLOWED`, `PARSE_SYNTAX_ERROR`.
    """
    stack: list[tuple[Message, tuple[str, ...]]] = [(relation, ())]
    while stack:
        message, known = stack.pop()
        match message.DESCRIPTOR.name:
            case "Relation":
                _check_kind(message.WhichOneof("rel_type"), RELATIONS)
            case "Expression":
                _check_kind(message.WhichOneof("expr_type"), EXPRESSIONS)
            case "Any":
                raise refused("an extension of the protocol cannot be used here", "it may be anything", hint=_HINT)
            case "SQL":
                check_sql(message.query, tables=allowed.values(), names=names, known=known)  # type: ignore[attr-defined]
            case "ExpressionString":
                check_sql(f"SELECT {message.expression}", tables=(), names=names)  # type: ignore[attr-defined]
            case "UnresolvedFunction" | "CallFunction":
                check_function(message.function_name)  # type: ignore[attr-defined]
            case "UnresolvedTableValuedFunction":
                check_table_function(message.function_name)  # type: ignore[attr-defined]
        for name, item in parts(message):
            below: tuple[str, ...] = ()
            if message.DESCRIPTOR.name == "WithRelations" and name == "root":
                below = tuple(source.subquery_alias.alias for source in message.references)  # type: ignore[attr-defined]
            elif item.DESCRIPTOR.name == "SQL":
                below = known
            stack.append((item, below))
    check_leaves(relation, allowed=allowed, names=names)


def check_leaves(relation: Relation, *, allowed: Mapping[Key, str], names: NameContext) -> None:
    """Refuse a tree that reads anything but `allowed` tables by their names."""
    for node in relations(relation):
        leaf = leaf_of(node)
        if leaf is None and node.WhichOneof("rel_type") == "read":
            raise refused("a read without a name cannot be run here", "only tables of the pipeline can be read")
        if leaf is None:
            continue
        if leaf.streaming:
            raise refused(f"`{leaf.shown}` cannot be read as a stream here", "a query reads stored rows", hint=_HINT)
        if leaf.kind is not LeafKind.TABLE:
            raise refused(f"`{leaf.shown}` cannot be read here", "only tables of the pipeline are, by name", hint=_HINT)
        check_name(leaf.name, allowed, names)


def _check_kind(kind: str | None, known: frozenset[str]) -> None:
    if kind in known:
        return
    if kind in _CODE:
        raise refused(
            "functions in Python, Java or Scala cannot be used here",
            "they would run in the pipeline's process, with its rights",
            hint="compute with built-in functions, or on the client: `frame.toPandas()`, `frame.toArrow()`",
        )
    what = _WORDS.get(kind or "", f"`{kind}`" if kind else "a part of the protocol that this server does not know")
    raise refused(f"{what} cannot be used here", "a query reads stored rows", hint=_HINT)
