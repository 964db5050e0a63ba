"""Which operators a stream may pass through: row by row, with state (`plan/stateful.py`), or refused with the user's line."""

from __future__ import annotations

from lakelet.errors import GraphError, Origin
from lakelet.plan.relation import Relation, call_site, children, own_messages
from lakelet.plan.row_wise import AGGREGATE, WINDOW, beyond_the_row
from lakelet.plan.sources import is_streaming
from lakelet.plan.sql_streaming import stateful_sql

_REFUSED = {
    "sort": ("sorting a stream", "sort where the table is read"),
    "limit": ("`limit` over a stream", "limit where the table is read"),
    "offset": ("`offset` over a stream", "use it where the table is read"),
    "tail": ("`tail` over a stream", "use it where the table is read"),
    "group_map": ("`applyInPandas` over groups of a stream", "use it in a materialized view"),
    "co_group_map": ("`applyInPandas` over co-grouped streams", "use it in a materialized view"),
    "apply_in_pandas_with_state": ("arbitrary state over a stream", "use AUTO CDC, or a materialized view"),
    "sample": ("sampling a stream", "sample where the table is read"),
}


def refuse_stateful(relation: Relation, origin: Origin) -> None:
    """Raise for an operator that needs rows of earlier micro-batches and has no state to find them in.

    Raises:
        GraphError: `UNSUPPORTED_STREAMING_OPERATOR`, at the user's line.
    """
    kind = relation.WhichOneof("rel_type") or ""
    if not is_streaming(relation):
        return
    inputs = list(children(relation))
    if kind in _REFUSED and any(is_streaming(item) for item in inputs):
        what, instead = _REFUSED[kind]
        raise _refused(what, instead, relation, origin)
    if kind == "join":
        join = relation.join
        left, right = is_streaming(join.left), is_streaming(join.right)
        preserved = {"JOIN_TYPE_FULL_OUTER": True, "JOIN_TYPE_RIGHT_OUTER": left, "JOIN_TYPE_LEFT_OUTER": right,
                     "JOIN_TYPE_LEFT_SEMI": right, "JOIN_TYPE_LEFT_ANTI": right}  # fmt: skip
        if not (left and right) and preserved.get(type(join).JoinType.Name(join.join_type), False):
            raise _refused(
                "an outer join that keeps the rows of the table beside a stream",
                "put the stream on the left of a left join, so that its rows are kept",
                relation,
                origin,
            )
    if kind == "set_op" and not (relation.set_op.set_op_type == 2 and relation.set_op.is_all):
        raise _refused("a set operation other than UNION ALL over a stream", "use `union`", relation, origin)
    beyond = beyond_the_row(own_messages(relation))
    if beyond == WINDOW or (beyond == AGGREGATE and kind != "aggregate"):
        raise _refused(
            f"{beyond} over a stream", "use it in a materialized view over the streaming table", relation, origin
        )
    if kind == "with_relations" and relation.with_relations.root.HasField("sql"):
        references = {item.subquery_alias.alias for item in relation.with_relations.references if is_streaming(item)}
        refused = stateful_sql(relation.with_relations.root.sql.query, references)
        if refused is not None:
            raise _refused(*refused, relation, origin)
    for item in inputs:
        refuse_stateful(item, origin)


def _refused(what: str, instead: str, relation: Relation, origin: Origin) -> GraphError:
    error = GraphError(
        "UNSUPPORTED_STREAMING_OPERATOR",
        f"{what} is not supported in this release",
        origin=call_site(relation.common) or call_site(relation),
        cause="it needs the rows of earlier micro-batches, and nothing is kept of them",
        hint=instead,
    )
    error.at(origin)
    return error
