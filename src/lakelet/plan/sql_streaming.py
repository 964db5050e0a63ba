"""Which clauses of a SQL query over streams need the rows of earlier micro-batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lakelet.plan.row_wise import calls_aggregate
from lakelet.plan.sql_tokens import scan

if TYPE_CHECKING:
    from sqlglot import exp

_SUSPECTS = {
    "GROUP", "DISTINCT", "HAVING", "ORDER", "SORT", "CLUSTER", "DISTRIBUTE", "LIMIT", "OFFSET", "OVER", "QUALIFY",
    "UNION", "INTERSECT", "EXCEPT", "MINUS", "JOIN",
}  # fmt: skip
_VIEW = "use it in a materialized view over the streaming table"
_CLAUSES = {
    "group": ("a streaming aggregation", "aggregate in a materialized view over the streaming table"),
    "having": ("a streaming aggregation", "aggregate in a materialized view over the streaming table"),
    "distinct": ("`DISTINCT` over a stream", "deduplicate in a materialized view, or use AUTO CDC with SCD type 1"),
    "order": ("sorting a stream", "sort where the table is read"),
    "sort": ("sorting a stream", "sort where the table is read"),
    "cluster": ("sorting a stream", "sort where the table is read"),
    "limit": ("`LIMIT` over a stream", "limit where the table is read"),
    "offset": ("`OFFSET` over a stream", "use it where the table is read"),
    "qualify": ("a window function over a stream", _VIEW),
}
Refusal = tuple[str, str]


class _Stateful(Exception):
    """Carries what was found."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.refusal: Refusal = (what, instead)


def stateful_sql(sql: str, streams: Collection[str]) -> Refusal | None:
    """Return the first clause of a query that needs more than one micro-batch: what it is, and what to do instead.

    Plain text (no join, no grouping, no order) is not parsed, since loading the parser takes 0.4 s.

    Args:
        streams: names of the relations in the text that are streams.
    """
    if not streams or not (sum(sql.count(name) for name in streams) > 1 or _is_suspect(sql)):
        return None
    from sqlglot.errors import SqlglotError

    from lakelet.plan.sql_parser import parse_one

    try:
        query = parse_one(sql)
    except SqlglotError:
        return ("this SQL over a stream", "write the query with DataFrames, or read the source as a table")
    try:
        _visit(query, {name.lower(): True for name in streams})
    except _Stateful as found:
        return found.refusal
    return None


def _is_suspect(sql: str) -> bool:
    tokens = scan(sql).tokens
    return any(token.word in _SUSPECTS or token.text == "|>" for token in tokens) or calls_aggregate(tokens)


def _visit(node: exp.Expr, known: Mapping[str, bool]) -> bool:
    """Check a query and return whether its rows are a stream.

    Args:
        known: names of relations, lower case, and whether they are streams.
    """
    from sqlglot import exp

    inner = dict(known)
    for table in _own(node, exp.CTE):
        inner[table.alias.lower()] = _visit(table.this, inner)
    match node:
        case exp.Table():
            return inner.get(node.name.lower(), False)
        case exp.Subquery():
            return _with_modifiers(node, _visit(node.this, inner))
        case exp.SetOperation():
            streams = [_visit(side, inner) for side in (node.left, node.right)]
            if any(streams) and not (isinstance(node, exp.Union) and node.args.get("distinct") is False):
                raise _Stateful("a set operation other than UNION ALL over a stream", "use `UNION ALL`")
            return _with_modifiers(node, any(streams))
        case exp.Select():
            return _select(node, inner)
    streams = [_visit(item, inner) for item in _queries(node)]  # all of them are checked
    return any(streams)


def _select(node: exp.Select, known: Mapping[str, bool]) -> bool:
    from sqlglot import exp

    source = node.args.get("from_") or node.args.get("from")
    streaming = _visit(source.this, known) if source is not None else False
    for join in node.args.get("joins") or ():
        streaming = _joined(join, streaming, _visit(join.this, known))
    for query in _queries(*(part for part in node.expressions), node.args.get("where")):
        _visit(query, known)
    if not streaming:
        return False
    for kind, what in ((exp.Window, "a window function"), (exp.AggFunc, "a streaming aggregation")):
        if next(_own(node, kind), None) is not None:
            raise _Stateful(f"{what} over a stream" if kind is exp.Window else what, _VIEW)
    return _with_modifiers(node, True)


def _joined(join: exp.Join, left: bool, right: bool) -> bool:
    if left and right:
        raise _Stateful("a join of two streams", "read one side as a table, without `STREAM`")
    side, kind = (join.side or "").upper(), (join.kind or "").upper()
    keeps_the_table = (
        (side == "FULL" and (left or right))
        or (side == "RIGHT" and left)
        or (right and (side == "LEFT" or kind in ("SEMI", "ANTI")))
    )
    if keeps_the_table:
        raise _Stateful(
            "an outer join that keeps the rows of the table beside a stream",
            "put the stream on the left of a left join, so that its rows are kept",
        )
    return left or right


def _with_modifiers(node: exp.Expr, streaming: bool) -> bool:
    if streaming:
        for clause, refusal in _CLAUSES.items():
            if node.args.get(clause):
                raise _Stateful(*refusal)
    return streaming


def _own(node: exp.Expr, kind: type[Any]) -> Iterator[Any]:
    """Yield the expressions of a kind that belong to this query and to none inside it."""
    from sqlglot import exp

    if kind is exp.CTE:
        clause = node.args.get("with_") or node.args.get("with")
        yield from clause.expressions if clause is not None else ()
        return
    clauses = ("expressions", "where", "having", "qualify", "order")
    stack = [item for clause in clauses for item in _listed(node.args.get(clause))]
    while stack:
        item = stack.pop()
        if isinstance(item, kind):
            yield item
        if not isinstance(item, exp.Query):
            stack.extend(item.iter_expressions())


def _queries(*nodes: exp.Expr | None) -> Iterator[exp.Expr]:
    """Yield the outermost queries inside these expressions."""
    from sqlglot import exp

    stack = [node for node in nodes if node is not None]
    while stack:
        item = stack.pop()
        if isinstance(item, exp.Query):
            yield item
        else:
            stack.extend(item.iter_expressions())


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
