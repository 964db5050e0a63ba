"""`spark.catalog` over the open tables and a client's own temporary views."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema

from lakelet.doors.sessions import Session
from lakelet.doors.tables import OpenTable, OpenTables
from lakelet.errors import DefinitionError, LakeletError
from lakelet.names import TableName, quote

_NO_EFFECT = frozenset({"cache_table", "uncache_table", "clear_cache", "refresh_table", "refresh_by_path"})
_NOTHING = pa.table({"value": pa.array([], pa.bool_())})
_TABLES = pa.schema(
    [
        ("name", pa.string()), ("catalog", pa.string()), ("namespace", pa.list_(pa.string())), ("description", pa.string()),
        ("tableType", pa.string()), ("isTemporary", pa.bool_()),
    ]
)  # fmt: skip
_DATABASES = pa.schema(
    [("name", pa.string()), ("catalog", pa.string()), ("description", pa.string()), ("locationUri", pa.string())]
)
_COLUMNS = pa.schema(
    [
        ("name", pa.string()), ("description", pa.string()), ("dataType", pa.string()), ("nullable", pa.bool_()),
        ("isPartition", pa.bool_()), ("isBucket", pa.bool_()), ("isCluster", pa.bool_()),
    ]
)  # fmt: skip


def answer(asked: proto.Catalog, tables: OpenTables, session: Session) -> pa.Table:
    """Return the rows with which a request to the catalog is answered.

    Raises:
        DefinitionError: `SQL_NOT_ALLOWED` for what changes something, `UNSUPPORTED_FEATURE`, or what is not there.
    """
    kind = asked.WhichOneof("cat_type") or ""
    names = tables.names
    match kind:
        case "current_catalog":
            return _one(names.catalog)
        case "current_database":
            return _one(names.schema)
        case "list_catalogs":
            found = sorted({table.name.catalog for table in tables.listed()} | {names.catalog})
            rows = [{"name": name, "description": ""} for name in found if _fits(name, asked.list_catalogs.pattern)]
            return pa.Table.from_pylist(rows, pa.schema([("name", pa.string()), ("description", pa.string())]))
        case "list_databases":
            return _databases(name for name in _schemas(tables) if _fits(name[1], asked.list_databases.pattern))
        case "get_database":
            return _databases([_schema(asked.get_database.db_name, tables)])
        case "database_exists":
            return _one(_schema_name(asked.database_exists.db_name, tables) in _schemas(tables))
        case "list_tables":
            return _tables_of(asked.list_tables, tables, session)
        case "get_table":
            return _shown(_find(asked.get_table.table_name, asked.get_table.db_name, tables, session))
        case "table_exists":
            wanted = _full(asked.table_exists.table_name, asked.table_exists.db_name)
            return _one(session.view(wanted) is not None or tables.find(wanted) is not None)
        case "list_columns":
            return _columns(_find(asked.list_columns.table_name, asked.list_columns.db_name, tables, session), tables)
        case "drop_temp_view":
            return _one(session.drop(asked.drop_temp_view.view_name))
        case "is_cached":
            return _one(False)
        case _ if kind in _NO_EFFECT:
            return _NOTHING
        case _ if kind.startswith(("create_", "drop_", "truncate_", "recover_", "analyze_")):
            raise DefinitionError(
                "SQL_NOT_ALLOWED",
                f"`{kind}` changes the catalog, and this server is read-only",
                hint="only the pipeline writes its tables; `createOrReplaceTempView` names a query in your own session",
            )
    raise DefinitionError(
        "UNSUPPORTED_FEATURE",
        f"the catalog of this server does not answer `{kind}`",
        hint="`spark.catalog` lists catalogs, databases, tables and columns here; name tables as `schema.table`",
    )


def _one(value: str | bool) -> pa.Table:
    return pa.table({"value": [value]})


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a name is one that Spark's pattern asks for: `*` is any text, `|` separates alternatives."""
    if not pattern:
        return True
    choices = "|".join(".*".join(re.escape(text) for text in choice.split("*")) for choice in pattern.split("|"))
    return re.fullmatch(choices, name, re.IGNORECASE) is not None


def _schemas(tables: OpenTables) -> list[tuple[str, str]]:
    """Return the schemas, each with its catalog before it."""
    own = (tables.names.catalog, tables.names.schema)
    return sorted({(table.name.catalog, table.name.schema) for table in tables.listed()} | {own})


def _schema_name(text: str, tables: OpenTables) -> tuple[str, str]:
    """Return the schema that a client names, as `schema` or `catalog.schema`."""
    name = tables.names.resolve(f"{text}.x")
    known = {(catalog.lower(), schema.lower()): (catalog, schema) for catalog, schema in _schemas(tables)}
    return known.get((name.catalog.lower(), name.schema.lower()), (name.catalog, name.schema))


def _schema(text: str, tables: OpenTables) -> tuple[str, str]:
    name = _schema_name(text, tables)
    if name not in _schemas(tables):
        shown = ", ".join(f"`{schema}`" for _, schema in _schemas(tables))
        raise DefinitionError("SCHEMA_NOT_FOUND", f"there is no schema `{text}`", hint=f"there are {shown}")
    return name


def _databases(found: Iterable[tuple[str, str]]) -> pa.Table:
    rows = [{"name": schema, "catalog": catalog, "description": "", "locationUri": ""} for catalog, schema in found]
    return pa.Table.from_pylist(rows, _DATABASES)


def _tables_of(asked: proto.ListTables, tables: OpenTables, session: Session) -> pa.Table:
    schema = _schema(asked.db_name, tables) if asked.db_name else (tables.names.catalog, tables.names.schema)
    found: list[OpenTable | TableName] = [
        table for table in tables.listed() if (table.name.catalog, table.name.schema) == schema
    ]
    found += [name for name, _ in session.views.values()]
    return _shown(
        *(item for item in found if _fits(item.name.name if isinstance(item, OpenTable) else item.name, asked.pattern))
    )


def _shown(*found: OpenTable | TableName) -> pa.Table:
    rows: list[dict[str, Any]] = [
        {
            "name": item.name.name, "catalog": item.name.catalog, "namespace": [item.name.schema],
            "description": item.comment, "tableType": "MANAGED", "isTemporary": False,
        }
        if isinstance(item, OpenTable)
        else {
            "name": item.name, "catalog": None, "namespace": [], "description": None, "tableType": "TEMPORARY",
            "isTemporary": True,
        }
        for item in found
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _TABLES)


def _full(table: str, schema: str) -> str:
    return f"{schema}.{quote(table)}" if schema else table


def _find(table: str, schema: str, tables: OpenTables, session: Session) -> OpenTable | TableName:
    wanted = _full(table, schema)
    found = session.view(wanted) or tables.find(wanted)
    if found is None:
        raise _not_there(wanted)
    return found


def _not_there(wanted: str) -> LakeletError:
    return DefinitionError(
        "TABLE_OR_VIEW_NOT_FOUND",
        f"there is no table `{wanted}`",
        hint="`spark.catalog.listTables(schema)` shows what there is; a table appears with its first rows",
    )


def _columns(found: OpenTable | TableName, tables: OpenTables) -> pa.Table:
    if not isinstance(found, OpenTable):
        raise DefinitionError(
            "UNSUPPORTED_FEATURE",
            f"the columns of the temporary view `{found.name}` are not listed",
            hint=f'look at `spark.table("{found.name}").schema`',
        )
    schema, partitions = tables.columns(found), tables.partition_columns(found)
    rows = [
        {
            "name": column.name, "description": (column.metadata or {}).get("comment"),
            "dataType": column.dataType.simpleString(), "nullable": column.nullable,
            "isPartition": column.name in partitions, "isBucket": False, "isCluster": False,
        }
        for column in from_arrow_schema(schema).fields
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, _COLUMNS)
