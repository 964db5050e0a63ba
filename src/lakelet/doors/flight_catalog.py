"""What Flight SQL clients ask about the server: its catalogs, schemas, tables, types, and what it can do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from lakelet import __version__
from lakelet.doors import flight_messages as messages
from lakelet.doors.tables import OpenTable, OpenTables

TABLE_TYPE = "TABLE"
_FACTS: dict[int, str | bool | int] = {
    0: "lakelet",  # the server's name
    1: __version__,
    2: pa.__version__,
    3: True,  # read-only
    4: True,  # SQL
    5: False,  # Substrait
    8: 0,  # transactions: none
    9: False,  # the action that cancels; a client cancels its call
    500: False,  # DDL of catalogs
    501: False,
    502: False,
    503: 1,  # names are compared without regard to case
    504: "`",
    505: 1,
    506: True,  # all tables can be read
    513: "\\",
    515: True,  # aliases of columns
    529: "schema",
    531: "catalog",
    532: True,  # the catalog stands first
}
_TYPES = [  # name, number in JDBC, size, prefix and suffix of a literal
    ("BOOLEAN", -7, 1, None), ("TINYINT", -6, 3, None), ("SMALLINT", 5, 5, None), ("INT", 4, 10, None),
    ("BIGINT", -5, 19, None), ("FLOAT", 6, 7, None), ("DOUBLE", 8, 15, None), ("DECIMAL", 3, 38, None),
    ("STRING", 12, 2**31 - 1, "'"), ("BINARY", -3, 2**31 - 1, "X'"), ("DATE", 91, 10, "DATE'"),
    ("TIMESTAMP", 93, 26, "TIMESTAMP'"),
]  # fmt: skip


def schema_of(name: str, command: Any) -> pa.Schema | None:
    """Return the columns of the answer to a question, None if it is none."""
    if name == "CommandGetTables" and command.include_schema:
        return messages.TABLES_WITH_SCHEMA
    return _SCHEMAS.get(name)


def answer(name: str, command: Any, tables: OpenTables) -> pa.Table:
    """Return the answer to a question that `schema_of` knows."""
    schema = schema_of(name, command)
    assert schema is not None
    match name:
        case "CommandGetCatalogs":
            rows = [{"catalog_name": name} for name in sorted({table.name.catalog for table in tables.listed()})]
        case "CommandGetDbSchemas":
            rows = _schemas(command, tables)
        case "CommandGetTables":
            rows = _tables(command, tables)
        case "CommandGetTableTypes":
            rows = [{"table_type": TABLE_TYPE}]
        case "CommandGetSqlInfo":
            wanted = list(command.info) or list(_FACTS)
            return messages.sql_info({number: _FACTS[number] for number in wanted if number in _FACTS})
        case "CommandGetXdbcTypeInfo":
            asked = command.data_type if command.HasField("data_type") else None
            rows = [_type(*kind) for kind in _TYPES if asked in (None, kind[1])]
        case _:
            rows = []  # no keys are declared
    return pa.Table.from_pylist(rows, schema)


def _schemas(command: Any, tables: OpenTables) -> list[dict[str, Any]]:
    fits = _like(command, "db_schema_filter_pattern")
    found = sorted({(table.name.catalog, table.name.schema) for table in tables.listed()})
    return [
        {"catalog_name": catalog, "db_schema_name": schema}
        for catalog, schema in found
        if _is_of(command, catalog) and fits(schema)
    ]


def _tables(command: Any, tables: OpenTables) -> list[dict[str, Any]]:
    if command.table_types and TABLE_TYPE not in command.table_types:
        return []
    fits_schema, fits_table = _like(command, "db_schema_filter_pattern"), _like(command, "table_name_filter_pattern")
    found = [
        table
        for table in tables.listed()
        if _is_of(command, table.name.catalog) and fits_schema(table.name.schema) and fits_table(table.name.name)
    ]
    return [_table(table, tables, with_schema=command.include_schema) for table in found]


def _table(table: OpenTable, tables: OpenTables, *, with_schema: bool) -> dict[str, Any]:
    name = table.name
    row: dict[str, Any] = {
        "catalog_name": name.catalog, "db_schema_name": name.schema, "table_name": name.name, "table_type": TABLE_TYPE,
    }  # fmt: skip
    if with_schema:
        row["table_schema"] = tables.columns(table).serialize().to_pybytes()
    return row


def _is_of(command: Any, catalog: str) -> bool:
    return not command.HasField("catalog") or command.catalog.lower() == catalog.lower()


def _like(command: Any, field: str) -> Callable[[str], bool]:
    """Return whether a name is like the pattern in a field: `%` is any text, `_` any character, a backslash quotes."""
    if not command.HasField(field):
        return lambda name: True
    parts = re.findall(r"\\.|.", getattr(command, field), re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    pattern = "".join(wildcards.get(part) or re.escape(part[-1]) for part in parts)
    return lambda name: re.fullmatch(pattern, name, re.IGNORECASE | re.DOTALL) is not None


def _type(name: str, number: int, size: int, prefix: str | None) -> dict[str, Any]:
    return {
        "type_name": name, "data_type": number, "column_size": size, "literal_prefix": prefix,
        "literal_suffix": "'" if prefix else None, "create_params": None, "nullable": 1, "case_sensitive": name == "STRING",
        "searchable": 3, "unsigned_attribute": False, "fixed_prec_scale": False, "auto_increment": False,
        "local_type_name": name, "minimum_scale": 0, "maximum_scale": 37 if name == "DECIMAL" else 0,
        "sql_data_type": number, "datetime_subcode": None, "num_prec_radix": 10 if prefix is None else None,
        "interval_precision": None,
    }  # fmt: skip


_SCHEMAS = {
    "CommandGetCatalogs": messages.CATALOGS,
    "CommandGetDbSchemas": messages.SCHEMAS,
    "CommandGetTables": messages.TABLES,
    "CommandGetTableTypes": messages.TABLE_TYPES,
    "CommandGetSqlInfo": messages.SQL_INFO,
    "CommandGetXdbcTypeInfo": messages.XDBC_TYPES,
    "CommandGetPrimaryKeys": messages.PRIMARY_KEYS,
    "CommandGetExportedKeys": messages.FOREIGN_KEYS,
    "CommandGetImportedKeys": messages.FOREIGN_KEYS,
    "CommandGetCrossReference": messages.FOREIGN_KEYS,
}
