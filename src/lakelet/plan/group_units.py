"""Which columns of a view come from the keys of its groups alone.

Their values name a *unit*: the rows of a view with the same unit are those of the groups with that unit, so they can be
replaced as a whole, though the keys themselves need not be columns of the view, and several groups may share a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pyspark.sql.connect import proto

from lakelet.errors import DefinitionError
from lakelet.names import quote, split_name
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, messages
from lakelet.plan.sql_tokens import scan

Expression = proto.Expression


@dataclass(frozen=True, slots=True)
class _Column:
    """One column on the way up; `name` is None where the engine chooses it."""

    name: str | None
    of_keys: bool


@dataclass(slots=True)
class _Scope:
    columns: list[_Column]
    known: dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for column in self.columns:
            if column.name is not None:
                key = column.name.lower()
                self.known[key] = self.known.get(key, True) and column.of_keys

    @property
    def is_open(self) -> bool:
        """Whether every column has a name that is known."""
        return all(column.name is not None for column in self.columns)


def units(above: Sequence[Relation], groups: Relation, keys: Sequence[str], others: Sequence[str]) -> Units:
    """Follow the keys through the operators above an aggregation.

    Args:
        above: the topmost first, as in an `IncrementalForm`.
        groups: has the columns `keys`, and columns that are handed on under their names.
        others: the other columns of the aggregation, which `groups` does not have.
    """
    scope = _Scope([*(_Column(name, True) for name in keys), *(_Column(name, False) for name in others)])
    rows = groups
    for node in reversed(above):
        step = _step(node, scope, rows)
        if step is None:
            return Units(rows=rows, columns=())
        scope, rows = step
    columns = tuple(column.name if column.of_keys else None for column in scope.columns)
    return Units(rows=rows, columns=columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """The columns of a view that come from keys.

    Attributes:
        rows: the groups with these columns, no group left out.
        columns: for each column of the view its name in `rows`, None where it depends on more than keys. Empty where
            nothing can be said.
    """

    rows: Relation
    columns: tuple[str | None, ...]


def _step(node: Relation, scope: _Scope, rows: Relation) -> tuple[_Scope, Relation] | None:
    kind = node.WhichOneof("rel_type")
    match kind:
        case "filter" | "sort" | "hint" | "repartition" | "repartition_by_expression" | "with_watermark":
            return scope, rows
        case "subquery_alias":
            return scope, plan.alias(rows, node.subquery_alias.alias, tuple(node.subquery_alias.qualifier))
        case "project":
            return _project(node.project.expressions, scope, rows)
        case "with_columns":
            return _with_columns(node, scope, rows)
        case "with_columns_renamed":
            return _renamed(node, scope, rows)
        case "drop":
            gone = {name.lower() for name in node.drop.column_names}
            for item in node.drop.columns:
                if item.WhichOneof("expr_type") != "unresolved_attribute":
                    return None
                gone.add(_last(item.unresolved_attribute.unparsed_identifier).lower())
            return _Scope([c for c in scope.columns if c.name is None or c.name.lower() not in gone]), rows
        case _:
            return None


def _project(expressions: Sequence[Expression], scope: _Scope, rows: Relation) -> tuple[_Scope, Relation] | None:
    columns: list[_Column] = []
    made: dict[str, Expression] = {}
    for item in expressions:
        kind = item.WhichOneof("expr_type")
        if kind == "unresolved_star":
            if item.unresolved_star.unparsed_target or item.unresolved_star.HasField("plan_id"):
                return None
            columns += scope.columns
            continue
        name, value = _named(item)
        of_keys = name is not None and _of_keys(value, scope)
        if name is not None and of_keys:
            made[name] = _bare(value)
        columns.append(_Column(name, of_keys))
    return _Scope(columns), plan.with_columns(rows, made) if made else rows


def _with_columns(node: Relation, scope: _Scope, rows: Relation) -> tuple[_Scope, Relation]:
    columns = list(scope.columns)
    made: dict[str, Expression] = {}
    for item in node.with_columns.aliases:
        (name,) = item.name
        column = _Column(name, _of_keys(item.expr, scope))
        at = [n for n, other in enumerate(columns) if other.name is not None and other.name.lower() == name.lower()]
        if at:
            columns[at[0]] = column
        else:
            columns.append(column)
        if column.of_keys:
            made[name] = _bare(item.expr)
    return _Scope(columns), plan.with_columns(rows, made) if made else rows


def _renamed(node: Relation, scope: _Scope, rows: Relation) -> tuple[_Scope, Relation]:
    pairs = [(item.col_name, item.new_col_name) for item in node.with_columns_renamed.renames]
    pairs += list(node.with_columns_renamed.rename_columns_map.items())
    renames = {old.lower(): new for old, new in pairs}
    columns = [
        _Column(renames.get(column.name.lower(), column.name) if column.name is not None else None, column.of_keys)
        for column in scope.columns
    ]
    made = {
        new: plan.attribute(quote(old)) for old, new in pairs if scope.known.get(old.lower(), False)
    }  # fmt: skip
    return _Scope(columns), plan.with_columns(rows, made) if made else rows


def _named(item: Expression) -> tuple[str | None, Expression]:
    """Return the name that a column of a projection has, None if the engine makes one up, and what it is."""
    kind = item.WhichOneof("expr_type")
    if kind == "alias" and len(item.alias.name) == 1:
        return item.alias.name[0], item.alias.expr
    if kind == "unresolved_attribute":
        return _last(item.unresolved_attribute.unparsed_identifier), item
    return None, item


def _last(identifier: str) -> str:
    return split_name(identifier)[-1]


def _of_keys(expression: Expression, scope: _Scope) -> bool:
    """Return whether an expression depends on columns that come from keys alone; False where it is not sure."""
    for message in messages(expression):
        match message.DESCRIPTOR.name:
            case "UnresolvedAttribute":
                if not _names_key(message.unparsed_identifier, scope):  # type: ignore[attr-defined]
                    return False
            case "ExpressionString":
                if not _text_of_keys(message.expression, scope):  # type: ignore[attr-defined]
                    return False
            case "UnresolvedStar" | "UnresolvedRegex" | "SubqueryExpression" | "CommonInlineUserDefinedFunction":
                return False
    return True


def _names_key(identifier: str, scope: _Scope) -> bool:
    first, *rest = split_name(identifier)
    if first.lower() in scope.known:
        return scope.known[first.lower()]
    return bool(rest) and scope.known.get(rest[0].lower(), False)


def _text_of_keys(text: str, scope: _Scope) -> bool:
    """Return whether SQL text names no column that does not come from keys."""
    if not scope.is_open:
        return False
    try:
        tokens = scan(text).tokens
    except DefinitionError:
        return False
    return all(scope.known.get(token.name.lower(), True) for token in tokens if token.is_name)


def _bare(expression: Expression) -> Expression:
    """Return an expression whose columns are found by name: the relations that it referred to are not there."""
    result = Expression()
    result.CopyFrom(expression)
    for message in messages(result):
        if message.DESCRIPTOR.name == "UnresolvedAttribute":
            message.ClearField("plan_id")
    return result
