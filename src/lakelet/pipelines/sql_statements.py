"""The statements of a pipeline's SQL file, read into datasets and flows.

Grammar: https://docs.databricks.com/aws/en/ldp/developer/sql-ref, with the older LIVE forms.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.graph.elements import AnyFlow, AutoCdcFlow, Dataset, DatasetKind, Flow, SqlQuery
from lakelet.names import NameContext, TableName, quote
from lakelet.pipelines.sql_auto_cdc import read_clauses
from lakelet.pipelines.sql_columns import Columns, read_columns
from lakelet.pipelines.sql_cursor import Cursor
from lakelet.plan.sql_references import FILE_FUNCTIONS
from lakelet.plan.sql_syntax import check_syntax
from lakelet.plan.sql_tokens import TokenKind

STATEMENTS = (
    "CREATE [OR REFRESH] [PRIVATE] STREAMING TABLE",
    "CREATE [OR REFRESH] [PRIVATE] MATERIALIZED VIEW",
    "CREATE TEMPORARY VIEW",
    "CREATE FLOW",
    "APPLY CHANGES INTO",
    "SET key = value",
)
_PLAIN_STATEMENTS = (
    "CREATE STREAMING TABLE",
    "CREATE OR REFRESH STREAMING TABLE",
    "CREATE MATERIALIZED VIEW",
    "CREATE OR REFRESH MATERIALIZED VIEW",
    "CREATE TEMPORARY VIEW",
    "CREATE FLOW",
    "APPLY CHANGES INTO",
)
_TABLE_CLAUSES = (
    "COMMENT",
    "PARTITIONED BY",
    "CLUSTER BY",
    "TBLPROPERTIES",
    "LOCATION",
    "USING DELTA",
    "REFRESH POLICY",
    "AS",
    "FLOW",
)


@dataclass(slots=True)
class Declared:
    """What one statement declares."""

    datasets: list[Dataset] = field(default_factory=list)
    flows: list[AnyFlow] = field(default_factory=list)


class StatementReader:
    """Reads one statement.

    Args:
        cursor: at the statement's first token.
        names: the pipeline's default catalog and schema.
        spark_conf: settings for the queries, from SET.
    """

    def __init__(self, cursor: Cursor, names: NameContext, *, spark_conf: Mapping[str, str]) -> None:
        self.cursor = cursor
        self.names = names
        self.spark_conf = dict(spark_conf)
        self.origin = cursor.origin
        self.declared = Declared()

    def read(self) -> Declared:
        """Read the statement.

        Raises:
            DefinitionError: `UNSUPPORTED_SQL_STATEMENT`, `UNSUPPORTED_FEATURE` or `PARSE_SYNTAX_ERROR`, with
                line and column.
        """
        cursor = self.cursor
        if cursor.accept("APPLY", "CHANGES", "INTO"):
            self._auto_cdc_into(flow=None, once=False)
        elif cursor.accept("CREATE", "FLOW"):
            self._flow()
        elif cursor.accept("CREATE"):
            self._create()
        else:
            raise unsupported_statement(cursor)
        return self.declared

    # -- CREATE <dataset> ------------------------------------------------------------------------------------

    def _create(self) -> None:
        cursor = self.cursor
        or_refresh = cursor.accept("OR", "REFRESH")
        or_replace = not or_refresh and cursor.accept("OR", "REPLACE")
        private = cursor.accept("PRIVATE")
        temporary = cursor.accept("TEMPORARY") or cursor.accept("TEMP")
        at = cursor.i
        kind = self._dataset_kind(temporary=temporary)
        if or_replace and kind is DatasetKind.STREAMING_TABLE:
            cursor.i = at
            raise cursor.error("a streaming table is not replaced", hint="write CREATE OR REFRESH STREAMING TABLE")
        if (or_refresh or private) and kind is DatasetKind.TEMPORARY_VIEW:
            cursor.i = at
            raise cursor.error("a temporary view is neither refreshed nor private", hint="write CREATE TEMPORARY VIEW")
        if cursor.accept("IF"):
            cursor.expect("NOT", "EXISTS")
        text = cursor.name("the name of the dataset")
        name = self.names.resolve(text, origin=self.origin)
        shown = self.names.display(name)
        self.origin = replace(self.origin, dataset=shown, flow=shown)
        columns = read_columns(cursor.group("columns")) if cursor.sees("(") else Columns()
        attributes = self._table_clauses(kind)
        query = self._query_of(kind, name, columns)
        self.declared.datasets.append(
            Dataset(
                name=name,
                kind=kind,
                origin=replace(self.origin, flow=None),
                schema=columns.schema,
                expectations=tuple(
                    replace(expectation, origin=replace(expectation.origin, dataset=shown))
                    for expectation in columns.expectations
                ),
                private=private or (temporary and kind is not DatasetKind.TEMPORARY_VIEW),
                spark_conf=self.spark_conf,
                **_with_comments(attributes, columns),
            )
        )
        if query is not None:
            self.declared.flows.append(
                Flow(name=shown, target=name, query=query, origin=self.origin, spark_conf=self.spark_conf)
            )

    def _dataset_kind(self, *, temporary: bool) -> DatasetKind:
        cursor = self.cursor
        if cursor.accept("MATERIALIZED", "VIEW") or cursor.accept("LIVE", "TABLE"):
            return DatasetKind.MATERIALIZED_VIEW
        if cursor.accept("STREAMING", "TABLE") or cursor.accept("STREAMING", "LIVE", "TABLE"):
            return DatasetKind.STREAMING_TABLE
        if cursor.accept("LIVE", "VIEW") or cursor.accept("STREAMING", "LIVE", "VIEW"):
            return DatasetKind.TEMPORARY_VIEW
        if cursor.sees("VIEW") and not temporary:
            raise cursor.unsupported(
                "persistent views are not supported in this release",
                hint="write CREATE TEMPORARY VIEW, or CREATE MATERIALIZED VIEW to keep its rows",
            )
        if cursor.accept("VIEW"):
            return DatasetKind.TEMPORARY_VIEW
        if cursor.sees("SINK"):
            raise cursor.unsupported(
                "sinks are not supported in this release",
                hint="write a streaming table and copy it out after the update; any Delta reader can open it",
            )
        raise unsupported_statement(cursor)

    def _table_clauses(self, kind: DatasetKind) -> dict[str, Any]:
        """Read the clauses between the columns and the query."""
        cursor = self.cursor
        given: dict[str, Any] = {}
        known = ("COMMENT", "TBLPROPERTIES", "AS") if kind is DatasetKind.TEMPORARY_VIEW else _TABLE_CLAUSES
        while not (cursor.at_end or cursor.sees("AS") or cursor.sees("FLOW")):
            at = cursor.i
            clause = self._table_clause(known)
            repeated = given.keys() & clause.keys()
            if repeated:
                cursor.i = at
                raise cursor.error(f"the clause {cursor.token} is given twice")
            given |= clause
        if given.get("partition_cols") and (given.get("cluster_by") or given.get("cluster_by_auto")):
            raise cursor.error("PARTITIONED BY and CLUSTER BY exclude each other", hint="keep one of them")
        return given

    def _table_clause(self, known: tuple[str, ...]) -> dict[str, Any]:
        cursor = self.cursor
        is_table = "LOCATION" in known
        if cursor.accept("COMMENT"):
            return {"comment": cursor.string("the comment")}
        if cursor.accept("TBLPROPERTIES"):
            return {"table_properties": _properties(cursor.group("the properties"))}
        if is_table and cursor.accept("PARTITIONED", "BY"):
            return {"partition_cols": cursor.names_in_group("PARTITIONED BY")}
        if is_table and cursor.accept("CLUSTER", "BY"):
            if cursor.accept("AUTO"):
                return {"cluster_by_auto": True}
            return {"cluster_by": () if cursor.accept("NONE") else cursor.names_in_group("CLUSTER BY")}
        if is_table and cursor.accept("LOCATION"):
            return {"path": cursor.string("the location")}
        if is_table and cursor.accept("USING"):
            if not cursor.accept("DELTA"):
                raise cursor.unsupported(f"tables are Delta, not {cursor.token}", hint="write USING DELTA, or nothing")
            return {}
        if is_table and cursor.accept("REFRESH", "POLICY"):
            return {"refresh_policy": _refresh_policy(cursor)}
        if cursor.sees("SCHEDULE") or cursor.sees("TRIGGER"):
            raise cursor.unsupported(
                f"{cursor.token.word} is not supported: the pipeline's update refreshes its datasets",
                hint="remove the clause, and run `lakelet run` by a scheduler or with --continuous",
            )
        if cursor.token.word in ("WITH", "ROW", "DEFAULT", "MASK"):
            raise cursor.unsupported(f"the clause {cursor.token} is not supported", hint="remove the clause")
        raise cursor.unknown_clause(known)

    def _query_of(self, kind: DatasetKind, name: TableName, columns: Columns) -> SqlQuery | None:
        """Read AS or FLOW; a query without types in its column list has its columns renamed by position."""
        cursor = self.cursor
        if kind is DatasetKind.STREAMING_TABLE:
            if cursor.at_end:
                if columns.names and columns.schema is None:
                    raise cursor.error("columns without a query need types", hint="write `(name TYPE, …)`")
                return None
            if cursor.accept("FLOW"):
                return self._inline_flow(name)
        elif cursor.at_end or not cursor.sees("AS"):
            raise cursor.error(f"expected AS and a query, found {cursor.token}")
        cursor.expect("AS")
        query = self._query()
        if columns.names and columns.schema is None:
            names = ", ".join(quote(column) for column in columns.names)
            return replace(query, text=f"SELECT * FROM ({query.text}\n) AS lk_columns({names})")
        return query

    def _inline_flow(self, name: TableName) -> SqlQuery | None:
        cursor = self.cursor
        if cursor.accept("AUTO", "CDC") or cursor.accept("APPLY", "CHANGES"):
            once = cursor.accept("ONCE")
            self._auto_cdc(name, flow=self.names.display(name), once=once)
            return None
        if cursor.accept("INSERT", "BY", "NAME"):
            return self._query()
        raise cursor.error(f"expected AUTO CDC or INSERT BY NAME after FLOW, found {cursor.token}")

    # -- CREATE FLOW -----------------------------------------------------------------------------------------

    def _flow(self) -> None:
        cursor = self.cursor
        name = cursor.name("the name of the flow").replace("`", "")
        self.origin = replace(self.origin, flow=name)
        comment = cursor.string("the comment") if cursor.accept("COMMENT") else None
        cursor.expect("AS")
        if cursor.accept("AUTO", "CDC") or cursor.accept("APPLY", "CHANGES"):
            if cursor.sees("FROM", "SNAPSHOT"):
                raise cursor.unsupported(
                    "AUTO CDC FROM SNAPSHOT is declared in Python",
                    hint="call `dp.create_auto_cdc_from_snapshot_flow(...)` in a .py file of the pipeline",
                )
            once = cursor.accept("ONCE")
            cursor.expect("INTO")
            self._auto_cdc_into(flow=name, once=cursor.accept("ONCE") or once, comment=comment)
            return
        if not cursor.accept("INSERT"):
            raise cursor.error(f"expected INSERT INTO or AUTO CDC INTO, found {cursor.token}")
        once = cursor.accept("ONCE")
        cursor.expect("INTO")
        once = cursor.accept("ONCE") or once
        cursor.accept("TABLE")
        target = self._target()
        self.origin = replace(self.origin, dataset=self.names.display(target))
        if not cursor.accept("BY", "NAME"):
            raise cursor.error(f"expected BY NAME, found {cursor.token}", hint="a flow inserts BY NAME")
        self.declared.flows.append(
            Flow(
                name=name,
                target=target,
                query=self._query(),
                origin=self.origin,
                once=once,
                implicit=False,
                comment=comment,
                spark_conf=self.spark_conf,
            )
        )

    def _auto_cdc_into(self, *, flow: str | None, once: bool, comment: str | None = None) -> None:
        target = self._target()
        self._auto_cdc(target, flow=flow or self.names.display(target), once=once, comment=comment)

    def _auto_cdc(self, target: TableName, *, flow: str, once: bool, comment: str | None = None) -> None:
        cursor = self.cursor
        self.origin = replace(self.origin, dataset=self.names.display(target), flow=flow)
        cursor.expect("FROM")
        source = self._change_rows(flow, once=once)
        clauses = read_clauses(cursor)
        self.declared.flows.append(
            AutoCdcFlow(
                name=flow,
                target=target,
                source=source,
                origin=self.origin,
                once=once,
                comment=comment,
                spark_conf=self.spark_conf,
                **clauses,
            )
        )

    def _change_rows(self, flow: str, *, once: bool) -> str:
        """Read the source: `STREAM(name)`, `STREAM name`, or a query, which becomes a temporary view."""
        cursor = self.cursor
        at = cursor.i
        streaming = cursor.accept("STREAM")
        reads_files = cursor.token.word in FILE_FUNCTIONS
        if cursor.token.is_name and not reads_files:
            name = cursor.name("the source")
        elif streaming and cursor.sees("(") and not cursor.sees("(", "READ_FILES"):
            inside = cursor.group("the source")
            name = inside.name("the source")
            if not inside.at_end:
                raise inside.error(f"expected `)`, found {inside.token}")
        else:
            cursor.i = at
            return self._view_of_change_rows(flow)
        if not streaming and not once:
            cursor.i = at
            raise cursor.error(f"AUTO CDC reads a stream, and `{name}` is not one", hint=f"write FROM STREAM({name})")
        self.names.resolve(name, origin=self.origin)
        return name

    def _view_of_change_rows(self, flow: str) -> str:
        cursor = self.cursor
        start = cursor.i
        if cursor.sees("("):
            inside = cursor.group("the query of the change rows")
            text, place = inside.rest()
        else:
            while not (cursor.at_end or cursor.sees("KEYS")):
                cursor.skip_token()
            text, place = Cursor(cursor.source, i=start, end=cursor.i).rest()
            text = f"SELECT * FROM {text}"
        check_syntax(text, origin=place.origin, first_column=place.first_column)
        view = f"{flow.replace('.', '_')}_source"
        name = self.names.resolve(quote(view), origin=self.origin)
        origin = replace(place.origin, dataset=view, flow=view)
        self.declared.datasets.append(Dataset(name=name, kind=DatasetKind.TEMPORARY_VIEW, origin=origin))
        self.declared.flows.append(
            Flow(
                name=view,
                target=name,
                query=SqlQuery(text=text, origin=origin),
                origin=origin,
                spark_conf=self.spark_conf,
            )
        )
        return quote(view)

    # -- shared ----------------------------------------------------------------------------------------------

    def _target(self) -> TableName:
        return self.names.resolve(self.cursor.name("the target of the flow"), origin=self.origin)

    def _query(self) -> SqlQuery:
        """Read the rest of the statement as a query, and check its syntax."""
        text, place = self.cursor.rest()
        check_syntax(text, origin=place.origin, first_column=place.first_column)
        return SqlQuery(text=text, origin=replace(self.origin, line=place.origin.line))


def unsupported_statement(cursor: Cursor) -> DefinitionError:
    """Build the error for a statement that a pipeline's SQL file cannot have."""
    cursor.i = 0
    leading = list(itertools.takewhile(lambda token: token.kind is TokenKind.WORD, cursor.source.tokens[:5]))
    words = [token.word for token in leading]
    first = words[0] if words else ""
    hint = f"supported are: {'; '.join(STATEMENTS)}"
    near = did_you_mean(" ".join(words[: 5 if words[1:2] == ["OR"] else 3]), _PLAIN_STATEMENTS)
    if first == "USE":
        hint = "set `catalog` and `database` in the spec file, or qualify the names"
    elif first in ("SELECT", "WITH", "FROM", "VALUES"):
        hint = f"give the query a dataset: CREATE MATERIALIZED VIEW name AS {first} …; {hint}"
    elif first in ("INSERT", "MERGE"):
        hint = f"declare a flow: CREATE FLOW name AS INSERT INTO target BY NAME …; {hint}"
    elif words[:2] == ["CREATE", "TABLE"]:
        hint = f"write CREATE STREAMING TABLE or CREATE MATERIALIZED VIEW; {hint}"
    elif near:
        hint = f"did you mean {near}? {hint}"
    shown = " ".join(token.text for token in leading[:3]) or cursor.token.text
    return cursor.error(f"`{shown}` is not a statement of a pipeline", condition="UNSUPPORTED_SQL_STATEMENT", hint=hint)


def _refresh_policy(cursor: Cursor) -> str:
    for words, policy in (
        (("AUTO",), "auto"),
        (("INCREMENTAL", "STRICT"), "incremental_strict"),
        (("INCREMENTAL",), "incremental"),
        (("FULL",), "full"),
    ):
        if cursor.accept(*words):
            return policy
    raise cursor.error(f"expected AUTO, INCREMENTAL, INCREMENTAL STRICT or FULL, found {cursor.token}")


def _properties(inside: Cursor) -> dict[str, str]:
    """Read `'key' = 'value', key.part = 3`."""
    properties: dict[str, str] = {}
    while True:
        is_string = inside.token.kind is TokenKind.STRING
        key = inside.string("the key") if is_string else inside.name("the key of a property").replace("`", "")
        inside.accept("=")
        sign = "-" if inside.accept("-") else ""
        value = inside.skip_token()
        if value.kind is TokenKind.STRING:
            properties[key] = value.value
        elif value.kind is TokenKind.NUMBER or value.word in ("TRUE", "FALSE"):
            properties[key] = sign + value.text.lower()
        else:
            inside.i -= 1
            raise inside.error(f"expected the value of `{key}`, found {inside.token}", hint="put it in quotes")
        if inside.at_end:
            return properties
        inside.expect(",")


def _with_comments(attributes: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Keep the comments of columns without types as properties of the table."""
    if not columns.comments:
        return attributes
    comments = {f"lakelet.comment.{column}": comment for column, comment in columns.comments.items()}
    return attributes | {"table_properties": attributes.get("table_properties", {}) | comments}
