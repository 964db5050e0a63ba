"""What a query may be: one SELECT over the pipeline's tables and the event log, and nothing else.

Two parsers look at the text independently of each other, and both must find nothing but known tables: sqlglot, and the
scanner that later puts the tables' locations in. What one of them does not understand is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlglot import exp
from sqlglot.errors import SqlglotError

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.names import NameContext
from lakelet.plan.sql import ReferenceKind, table_references
from lakelet.plan.sql_parser import parse

MAX_CHARACTERS = 20_000
_TABLE_FUNCTIONS = frozenset({"range", "explode", "explode_outer", "posexplode", "posexplode_outer", "inline",
                              "inline_outer", "stack", "json_tuple"})  # fmt: skip
_FUNCTIONS = frozenset({"reflect", "java_method", "try_reflect", "read_files", "cloud_files", "http_request", "secret",
                        "try_secret", "identifier", "input_file_name", "event_log", "vector_search", "sql_keywords",
                        "read_csv", "read_parquet", "read_json", "read_text", "read_kafka", "remote_query"})  # fmt: skip
_HINT = "write one SELECT over the pipeline's tables and `event_log`"


def check_sql(sql: str, *, tables: Collection[str], names: NameContext, known: Collection[str] = ()) -> set[str]:
    """Refuse everything but one query over `tables`; returns those that it reads.

    Args:
        tables: display names, `event_log` included.
        known: names that are not tables, such as the frames of `spark.sql("{d}", d=df)`.

    Raises:
        DefinitionError: `SQL_NOT_ALLOWED`, or `PARSE_SYNTAX_ERROR`.
    """
    if len(sql) > MAX_CHARACTERS:
        raise refused(f"the query has {len(sql):,} characters", f"at most {MAX_CHARACTERS:,} are read")
    allowed = {names.resolve(name).key: name for name in tables}
    query = _parsed(sql)
    common = {cte.alias.lower() for cte in query.find_all(exp.CTE)} | {name.lower() for name in known}
    for node in query.walk():
        if isinstance(node, (exp.Command, exp.DML, exp.DDL, exp.Into)) and not isinstance(node, exp.Query):
            raise refused("only a query can be run here", f"it has {node.key.upper()}")
        if isinstance(node, exp.Func):
            check_function(_name(node))
        if isinstance(node, exp.Table):
            _check_table(node, allowed, common, names)
    read: set[str] = set()
    for reference in table_references(sql, known=known):
        if reference.kind is not ReferenceKind.TABLE:
            raise refused(f"`{reference.text[:80]}` reads files", "only tables of the pipeline can be read here")
        read.add(check_name(reference.name, allowed, names))
    return read


def check_function(name: str) -> None:
    """Refuse a function that reads from outside of the tables, or runs code."""
    if name.lower() in _FUNCTIONS:
        raise refused(f"the function `{name}` cannot be used here", "it reads from outside of the tables")


def check_table_function(name: str) -> None:
    """Refuse every table function but those that make rows of their arguments."""
    if name.lower() not in _TABLE_FUNCTIONS:
        raise refused(f"the table function `{name}` cannot be used here", "it may read from outside of the tables")


def _parsed(sql: str) -> exp.Query:
    try:
        statements = parse(sql)
    except SqlglotError as error:
        raise DefinitionError(
            "PARSE_SYNTAX_ERROR",
            "the query cannot be read",
            cause=str(error).replace("\x1b[4m", "").replace("\x1b[0m", "")[:500],
            hint=_HINT,
        ) from error
    except RecursionError as error:
        raise refused("the query is nested too deeply", "no reader of SQL follows it") from error
    if len(statements) != 1:
        raise refused(f"the text has {len(statements)} statements", "one is run")
    [statement] = statements
    if not isinstance(statement, exp.Query):
        raise refused("only a query can be run here", f"it is a {statement.key.upper()}")
    return statement


def _check_table(
    table: exp.Table, allowed: dict[tuple[str, str, str], str], common: set[str], names: NameContext
) -> None:
    if isinstance(table.this, exp.Func):
        check_table_function(_name(table.this))
        return
    parts = [part.name for part in table.parts]
    if len(parts) == 1 and parts[0].lower() in common:
        return
    check_name(".".join(f"`{part.replace('`', '``')}`" for part in parts), allowed, names)


def check_name(name: str, allowed: Mapping[tuple[str, str, str], str], names: NameContext) -> str:
    """Return the table that a query names.

    Args:
        allowed: folded name → display name.
    """
    plain = name.replace("`", "")
    try:
        key = names.resolve(name).key
    except DefinitionError as error:
        raise refused(f"`{plain}` is not a table of the pipeline", error.message) from error
    if key not in allowed:
        near = did_you_mean(plain, list(allowed.values()))
        raise refused(
            f"`{plain}` is not a stored table of the pipeline",
            "views have no rows of their own, and nothing outside of the pipeline can be read here",
            hint=f"did you mean `{near}`?" if near else _HINT,
        )
    return allowed[key]


def _name(function: exp.Func) -> str:
    if isinstance(function, exp.Anonymous):
        return str(function.this).lower()
    return str(function.sql_name()).lower()


def refused(message: str, cause: str, *, hint: str = _HINT) -> DefinitionError:
    """Return the error for what may not be run."""
    return DefinitionError("SQL_NOT_ALLOWED", message, cause=cause, hint=hint)
