"""The parenthesised list after the name in CREATE: columns, and the rules that the rows must satisfy."""

from __future__ import annotations

from dataclasses import dataclass, field

from lakelet.graph.elements import Action, Expectation
from lakelet.pipelines.sql_cursor import Cursor

_COLUMN_OPTIONS = frozenset({
    "NOT", "NULL", "COMMENT", "GENERATED", "DEFAULT", "MASK", "PRIMARY", "FOREIGN", "REFERENCES",
    "CONSTRAINT", "COLLATE", "UNIQUE", "CHECK",
})  # fmt: skip
_INFORMATIONAL_WORDS = frozenset({
    "NOT", "ENFORCED", "DEFERRABLE", "INITIALLY", "DEFERRED", "NORELY", "RELY", "MATCH", "FULL", "ON",
    "UPDATE", "DELETE", "NO", "ACTION", "TIMESERIES",
})  # fmt: skip

_INTERVAL_WORDS = frozenset(["YEAR", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND", "TO"])


@dataclass(slots=True)
class Columns:
    """What a column list declares.

    Attributes:
        names: the columns, in order.
        schema: DDL of the columns if they have types.
        comments: column to comment, where the columns have no types.
        expectations: of the constraints, in order.
    """

    names: list[str] = field(default_factory=list)
    schema: str | None = None
    comments: dict[str, str] = field(default_factory=dict)
    expectations: list[Expectation] = field(default_factory=list)


def read_columns(inside: Cursor) -> Columns:
    """Read the inside of the list. PRIMARY KEY and FOREIGN KEY are informational and have no effect.

    Raises:
        DefinitionError: for a clause that is unknown, or that this release does not support.
    """
    columns = Columns()
    typed: list[str] = []
    while True:
        if inside.sees("CONSTRAINT") or _starts_key(inside):
            _read_constraint(inside, columns)
        else:
            _read_column(inside, columns, typed)
        if inside.at_end:
            break
        if not inside.accept(","):
            raise inside.unknown_clause([",", ")"])
    if typed and len(typed) != len(columns.names):
        raise inside.error("either all columns have a type, or none")
    columns.schema = ", ".join(typed) or None
    return columns


def _starts_key(cursor: Cursor) -> bool:
    return cursor.sees("PRIMARY", "KEY") or cursor.sees("FOREIGN", "KEY")


def _read_constraint(cursor: Cursor, columns: Columns) -> None:
    origin = cursor.origin
    name = cursor.identifier("the name of the constraint") if cursor.accept("CONSTRAINT") else ""
    if _starts_key(cursor):
        _skip_key(cursor)
        return
    if not cursor.accept("EXPECT"):
        raise cursor.error(
            f"expected EXPECT after the constraint's name, found {cursor.token}",
            hint="write `CONSTRAINT name EXPECT (condition) [ON VIOLATION DROP ROW | FAIL UPDATE]`",
        )
    condition = _read_condition(cursor, name)
    action = Action.WARN
    if cursor.accept("ON"):
        cursor.expect("VIOLATION")
        if cursor.accept("DROP", "ROW"):
            action = Action.DROP
        elif cursor.accept("FAIL", "UPDATE"):
            action = Action.FAIL
        else:
            raise cursor.error(
                f"expected DROP ROW or FAIL UPDATE, found {cursor.token}",
                hint="leave ON VIOLATION out to keep the rows and count them",
            )
    columns.expectations.append(Expectation(name=name, condition=condition, action=action, origin=origin))


def _read_condition(cursor: Cursor, name: str) -> str:
    inside = cursor.group("the condition of the constraint")
    start = inside.i
    inside.inside()
    return inside.expression(start, f"the constraint `{name}`")


def _read_column(cursor: Cursor, columns: Columns, typed: list[str]) -> None:
    start = cursor.i
    name = cursor.identifier("the name of a column")
    columns.names.append(name)
    definition = [cursor.text_of(start, cursor.i)]
    type_start = cursor.i
    _skip_type(cursor)
    has_type = cursor.i > type_start
    if has_type:
        definition.append(cursor.text_of(type_start, cursor.i))
    while not (cursor.at_end or cursor.sees(",")):
        option_start = cursor.i
        if cursor.accept("NOT", "NULL"):
            pass
        elif cursor.accept("COMMENT"):
            comment = cursor.string("the comment")
            if not has_type:
                columns.comments[name] = comment
        elif cursor.accept("GENERATED", "ALWAYS", "AS"):
            if cursor.sees("IDENTITY"):
                raise cursor.unsupported("identity columns are not supported", hint="compute the column in the query")
            cursor.group("the expression of the column")
        elif cursor.sees("CONSTRAINT") or cursor.sees("PRIMARY", "KEY") or cursor.sees("REFERENCES"):
            if cursor.accept("CONSTRAINT"):
                cursor.identifier("the name of the constraint")
            _skip_key(cursor)
            continue
        elif cursor.token.word in _COLUMN_OPTIONS:
            raise cursor.unsupported(
                f"{cursor.token.word} of a column is not supported in this release",
                hint="compute the value in the query" if cursor.sees("DEFAULT") else "leave it out",
            )
        else:
            raise cursor.unknown_clause(["NOT NULL", "COMMENT", "GENERATED ALWAYS AS", "PRIMARY KEY", ",", ")"])
        definition.append(cursor.text_of(option_start, cursor.i))
    if has_type:
        typed.append(" ".join(definition))
    elif len(definition) > 1 and name not in columns.comments:
        raise cursor.error(f"the column `{name}` needs a type", hint="write `name TYPE NOT NULL`")


def _skip_type(cursor: Cursor) -> None:
    """Step over a type such as `MAP<STRING, DECIMAL(10, 2)>` or `INTERVAL DAY TO SECOND`."""
    if not cursor.token.is_name or cursor.token.word in _COLUMN_OPTIONS:
        return
    is_interval = cursor.sees("INTERVAL")
    cursor.skip_token()
    while is_interval and cursor.token.word in _INTERVAL_WORDS:
        cursor.skip_token()
    if cursor.sees("("):
        cursor.skip_token()
    depth = 0
    while not cursor.at_end:
        depth += {"<": 1, ">": -1}.get(cursor.token.text, 0)
        if depth == 0 and cursor.token.text not in (">", "<>"):
            return
        cursor.skip_token()


def _skip_key(cursor: Cursor) -> None:
    """Step over `PRIMARY KEY (a) …`, `FOREIGN KEY (a) REFERENCES t (b) …`, which nothing enforces."""
    if cursor.accept("PRIMARY", "KEY"):
        if cursor.sees("("):
            cursor.skip_token()
    elif cursor.accept("FOREIGN", "KEY"):
        cursor.group("the columns of the key")
    if cursor.accept("REFERENCES"):
        cursor.name("the table that the key refers to")
        if cursor.sees("("):
            cursor.skip_token()
    while cursor.token.word in _INFORMATIONAL_WORDS and not cursor.sees("NOT", "NULL"):
        cursor.skip_token()
