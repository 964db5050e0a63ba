"""Where the rows that fail a rule can be read: in the dataset's own table, or in the table that its query reads.

A rule that warns leaves its rows in the table. Rows that a rule drops or stops, and those of a view, are in no table of
the dataset; its query is then followed down to the one stored table that it reads, as long as it takes that table's rows
one by one and the rule's columns as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyspark.sql.connect import proto

from lakelet.errors import DefinitionError
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import Action, Dataset
from lakelet.names import TableName, quote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.row_wise import AGGREGATE, beyond_the_row
from lakelet.plan.sources import LeafKind, leaf_of
from lakelet.plan.sql_select import as_relations
from lakelet.plan.sql_tokens import TokenKind, scan

EXAMPLES = 20
_SAME_ROWS = ("subquery_alias", "with_watermark", "hint", "repartition", "repartition_by_expression", "drop")
_REASONS = {"join": "joins tables", "aggregate": "aggregates rows", "deduplicate": "leaves out duplicates",
            "set_op": "puts several tables together"}  # fmt: skip
_INFIX = {"==": "=", "=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=", "<=>": "<=>", "and": "AND", "or": "OR",
          "+": "+", "-": "-", "*": "*", "/": "/", "%": "%", "like": "LIKE"}  # fmt: skip
_AFTER = {"isnull": "IS NULL", "isnotnull": "IS NOT NULL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleRows:
    """The rows that fail a rule.

    Attributes:
        query: SQL for some of them, None where they cannot be read.
        note: whose rows they are if not the dataset's own, or why there is no query.
    """

    query: str | None
    note: str | None


class _NotFollowed(Exception):
    """The rows are not those of one stored table; the text says why."""


@dataclass(slots=True, kw_only=True)
class _InputRows:
    """The rows that a query takes from one stored table.

    Attributes:
        conditions: SQL that the rows meet before the rule sees them.
        changed: folded names of columns that are not the table's own → the dataset whose query makes them.
        is_exact: whether `conditions` has every filter on the way.
    """

    table: TableName
    conditions: list[str] = field(default_factory=list)
    changed: dict[str, str] = field(default_factory=dict)
    is_exact: bool = True

    def keep(self, condition: str | None) -> None:
        """Take in a filter, if it can be said of the table's own columns; `o.id` may be a field, or a column under an alias."""
        if (
            condition is None
            or self.unreadable(condition) is not None
            or re.search(r"[\w`]\s*\.\s*[A-Za-z_`]", condition)
        ):
            self.is_exact = False
        else:
            self.conditions.append(condition)

    def unreadable(self, condition: str) -> str | None:
        """Return why SQL text does not mean the same over the table as where it stands, None if it does."""
        names = _names(condition)
        if names is None or "select" in names:
            return "the rule cannot be written as SQL over its input"
        made = next((name for name in names if name in self.changed), None)
        return None if made is None else f"`{made}` is made by the query of `{self.changed[made]}`"


def rule_rows(graph: DataflowGraph, dataset: Dataset) -> list[RuleRows]:
    """Return for each rule of a dataset where the rows that fail it are."""
    source: _InputRows | str | None = None
    found = []
    for rule in dataset.expectations:
        condition = _text(rule.condition)
        if condition is not None and rule.action is Action.WARN and dataset.is_stored:
            found.append(RuleRows(query=_query(sql_name(graph, dataset.name), (), condition), note=None))
            continue
        if source is None:
            source = _source(graph, dataset)
        found.append(_of_input(graph, source, condition))
    return found


def _of_input(graph: DataflowGraph, source: _InputRows | str, condition: str | None) -> RuleRows:
    if isinstance(source, str):
        return RuleRows(query=None, note=source)
    reason = "the rule is not SQL text" if condition is None else source.unreadable(condition)
    if condition is None or reason is not None:
        return RuleRows(query=None, note=reason)
    note = f"rows of {graph.display(source.table)}, its input"
    if not source.is_exact:
        note += "; some of them its query may leave out before the rule sees them"
    return RuleRows(query=_query(sql_name(graph, source.table), source.conditions, condition), note=note)


def _query(table: str, conditions: Iterable[str], rule: str) -> str:
    """Return a query for rows that fail a rule; NULL is a failure, as in the counts."""
    lines = [*(_in_brackets(condition) for condition in conditions), f"{_in_brackets(rule)} IS NOT TRUE"]
    return f"SELECT *\nFROM {table}\nWHERE " + "\n  AND ".join(lines) + f"\nLIMIT {EXAMPLES}"


def _in_brackets(text: str) -> str:
    return f"({text}\n)" if "--" in text else f"({text})"


def sql_name(graph: DataflowGraph, name: TableName) -> str:
    """Return a dataset's name as SQL reads it, whatever characters it has; as short as it is displayed."""
    parts = [name.catalog, name.schema, name.name]
    if name.catalog.lower() == graph.names.catalog.lower():
        parts = parts[2:] if name.schema.lower() == graph.names.schema.lower() else parts[1:]
    return ".".join(quote(part) for part in parts)


# -- down the query


def _source(graph: DataflowGraph, dataset: Dataset) -> _InputRows | str:
    try:
        return _rows_into(graph, dataset)
    except _NotFollowed as reason:
        return str(reason)


def _rows_into(graph: DataflowGraph, dataset: Dataset) -> _InputRows:
    flows = graph.flows_to(dataset.name)
    display = graph.display(dataset.name)
    if len(flows) != 1:
        raise _NotFollowed(f"{len(flows)} flows write `{display}`")
    return _rows(graph, flows[0].relation, display)


def _rows(graph: DataflowGraph, node: Relation, dataset: str) -> _InputRows:
    """Return what a part of the query of `dataset` takes from its one table."""
    kind = node.WhichOneof("rel_type") or ""
    if kind == "read":
        return _read(graph, node, dataset)
    if kind == "with_relations":
        tree = as_relations(node, None)
        if tree is None:
            raise _NotFollowed(f"the SQL of `{dataset}` is more than a selection of rows")
        return _rows(graph, tree, dataset)
    if kind in _SAME_ROWS:
        return _rows(graph, getattr(node, kind).input, dataset)
    if kind == "filter":
        rows = _rows(graph, node.filter.input, dataset)
        rows.keep(as_sql(node.filter.condition))
        return rows
    if kind == "with_columns":
        rows = _rows(graph, node.with_columns.input, dataset)
        rows.changed |= {column.name[0].lower(): dataset for column in node.with_columns.aliases}
        return rows
    if kind == "with_columns_renamed":
        rows = _rows(graph, node.with_columns_renamed.input, dataset)
        renamed = [item.new_col_name for item in node.with_columns_renamed.renames]
        renamed += node.with_columns_renamed.rename_columns_map.values()
        rows.changed |= {name.lower(): dataset for name in renamed}
        return rows
    if kind == "project" and beyond_the_row(plan.own_messages(node)) != AGGREGATE:
        rows = _rows(graph, node.project.input, dataset)
        rows.changed |= {name: dataset for item in node.project.expressions for name in _made(item)}
        return rows
    raise _NotFollowed(f"the query of `{dataset}` {_REASONS.get(kind, 'is more than a selection of rows')}")


def _read(graph: DataflowGraph, node: Relation, dataset: str) -> _InputRows:
    leaf = leaf_of(node)
    name = graph.names.resolve(leaf.name) if leaf is not None and leaf.kind is LeafKind.TABLE else None
    read = graph.datasets.get(name.key) if name is not None else None
    if leaf is None or read is None:
        raise _NotFollowed(f"`{dataset}` reads from outside of the pipeline: these rows are there")
    if leaf.options.get("readchangefeed", "").lower() == "true":
        raise _NotFollowed(f"`{dataset}` reads the changes of `{graph.display(read.name)}`, not its rows")
    if read.is_stored:
        return _InputRows(table=read.name)
    rows = _rows_into(graph, read)
    for rule in read.expectations:
        if rule.action is Action.DROP:
            rows.keep(_text(rule.condition))
    return rows


def _made(item: proto.Expression) -> Iterator[str]:
    """Yield the folded names of the columns that an item of a SELECT may give and that are not the input's own."""
    match item.WhichOneof("expr_type"):
        case "unresolved_star":
            return
        case "unresolved_attribute" if "." not in item.unresolved_attribute.unparsed_identifier:
            return
        case "alias":
            column = item.alias.expr.unresolved_attribute.unparsed_identifier.replace("`", "").lower()
            yield from (name.lower() for name in item.alias.name if name.lower() != column)
        case "expression_string":
            tokens = scan(item.expression_string.expression).tokens[:-1]
            is_own = tokens and ((len(tokens) == 1 and tokens[0].is_name) or tokens[-1].text == "*")
            yield from () if is_own else (token.name.lower() for token in tokens if token.is_name)
        case _:
            for message in plan.messages(item):
                match message.DESCRIPTOR.name:
                    case "UnresolvedAttribute":
                        yield from message.unparsed_identifier.replace("`", "").lower().split(".")  # type: ignore[attr-defined]
                    case "Literal" if message.HasField("string"):
                        yield message.string.lower()  # type: ignore[attr-defined]


# -- conditions as text


def _text(condition: Any) -> str | None:
    return condition if isinstance(condition, str) else as_sql(plan.expression_of(condition))


def _names(sql: str) -> list[str] | None:
    """Return the folded names in an expression, None where it is not SQL; functions are left out, keywords are not."""
    try:
        tokens = scan(sql).tokens
    except DefinitionError:
        return None
    return [
        token.name.lower()
        for token, after in itertools.pairwise(tokens)
        if token.is_name and (token.kind is TokenKind.QUOTED or after.text != "(")
    ]


def as_sql(expression: proto.Expression) -> str | None:
    """Return an expression as SQL text, None for what is more than comparisons of columns and literals."""
    match expression.WhichOneof("expr_type"):
        case "expression_string":
            return str(expression.expression_string.expression)
        case "unresolved_attribute":
            name = expression.unresolved_attribute.unparsed_identifier
            return name if re.fullmatch(r"[\w.]+|.*`.*", name) else quote(name)
        case "literal":
            return _literal(expression.literal)
        case "unresolved_function":
            called = expression.unresolved_function
            parts = [as_sql(argument) for argument in called.arguments]
            texts = [_in_brackets(part) if _is_compound(argument) else part
                     for argument, part in zip(called.arguments, parts, strict=True) if part is not None]  # fmt: skip
            return _call(called.function_name.lower(), texts) if len(texts) == len(parts) else None
    return None


def _is_compound(expression: proto.Expression) -> bool:
    return expression.WhichOneof("expr_type") not in ("unresolved_attribute", "literal")


def _call(function: str, arguments: list[str]) -> str | None:
    match arguments:
        case [left, right] if function in _INFIX:
            return f"{left} {_INFIX[function]} {right}"
        case [value] if function in _AFTER:
            return f"{value} {_AFTER[function]}"
        case [value] if function in ("not", "!"):
            return f"NOT {value}"
        case [value, *listed] if function == "in" and listed:
            return f"{value} IN ({', '.join(listed)})"
    return None


def _literal(literal: proto.Expression.Literal) -> str | None:
    match literal.WhichOneof("literal_type"):
        case "null":
            return "NULL"
        case "boolean":
            return "true" if literal.boolean else "false"
        case "byte" | "short" | "integer" | "long" as kind:
            return str(getattr(literal, kind))
        case "double":
            return f"{literal.double!r}D"
        case "string":
            return "'" + literal.string.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return None
