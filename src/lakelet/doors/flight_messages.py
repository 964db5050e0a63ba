"""The messages of Arrow Flight SQL that this server understands, and the schemas of its answers.

Source: format/FlightSql.proto and https://arrow.apache.org/docs/format/FlightSql.html. The messages are described here and
not generated, since generated code is bound to one version of protobuf.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "arrow.flight.protocol.sql"
_Field = descriptor_pb2.FieldDescriptorProto
_TYPES = {
    "bytes": _Field.TYPE_BYTES, "string": _Field.TYPE_STRING, "bool": _Field.TYPE_BOOL, "uint32": _Field.TYPE_UINT32,
    "int32": _Field.TYPE_INT32,
}  # fmt: skip
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "CommandStatementQuery": {"query": (1, "string"), "transaction_id": (2, "bytes?")},
    "TicketStatementQuery": {"statement_handle": (1, "bytes")},
    "CommandPreparedStatementQuery": {"prepared_statement_handle": (1, "bytes")},
    "ActionCreatePreparedStatementRequest": {"query": (1, "string"), "transaction_id": (2, "bytes?")},
    "ActionCreatePreparedStatementResult": {
        "prepared_statement_handle": (1, "bytes"), "dataset_schema": (2, "bytes"), "parameter_schema": (3, "bytes"),
    },
    "ActionClosePreparedStatementRequest": {"prepared_statement_handle": (1, "bytes")},
    "CommandGetCatalogs": {},
    "CommandGetDbSchemas": {"catalog": (1, "string?"), "db_schema_filter_pattern": (2, "string?")},
    "CommandGetTables": {
        "catalog": (1, "string?"), "db_schema_filter_pattern": (2, "string?"), "table_name_filter_pattern": (3, "string?"),
        "table_types": (4, "string*"), "include_schema": (5, "bool"),
    },
    "CommandGetTableTypes": {},
    "CommandGetSqlInfo": {"info": (1, "uint32*")},
    "CommandGetXdbcTypeInfo": {"data_type": (1, "int32?")},
    "CommandGetPrimaryKeys": {"catalog": (1, "string?"), "db_schema": (2, "string?"), "table": (3, "string")},
    "CommandGetExportedKeys": {"catalog": (1, "string?"), "db_schema": (2, "string?"), "table": (3, "string")},
    "CommandGetImportedKeys": {"catalog": (1, "string?"), "db_schema": (2, "string?"), "table": (3, "string")},
    "CommandGetCrossReference": {
        "pk_catalog": (1, "string?"), "pk_db_schema": (2, "string?"), "pk_table": (3, "string"),
        "fk_catalog": (4, "string?"), "fk_db_schema": (5, "string?"), "fk_table": (6, "string"),
    },
}  # fmt: skip


def _described() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="lakelet/flight_sql.proto", package=PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            field = message.field.add(name=field_name, number=number, type=_TYPES[kind.rstrip("?*")])
            field.label = _Field.LABEL_REPEATED if kind.endswith("*") else _Field.LABEL_OPTIONAL
            if kind.endswith("?"):
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field_name}")
    pool = descriptor_pool.DescriptorPool()  # of its own: another library may have described the same messages
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _described()


def message(name: str, **fields: Any) -> Any:
    """Return a message of Flight SQL."""
    return _CLASSES[name](**fields)


def packed(name: str, **fields: Any) -> bytes:
    """Return a message in the envelope in which commands, tickets and results travel."""
    envelope = any_pb2.Any(type_url=f"type.googleapis.com/{PACKAGE}.{name}")
    envelope.value = message(name, **fields).SerializeToString()
    return envelope.SerializeToString()


def unpacked(data: bytes) -> tuple[str, Any]:
    """Return the name of the message in an envelope, and the message; None for one that is not known here.

    Raises:
        DecodeError: it is no envelope.
    """
    envelope = any_pb2.Any.FromString(data)
    name = envelope.type_url.rpartition("/")[2].removeprefix(f"{PACKAGE}.")
    return name, _CLASSES[name].FromString(envelope.value) if name in _CLASSES else None


def _columns(*names: str) -> pa.Schema:
    """Return columns of text; a `!` says that there is always a value, after a colon stands another type."""
    kinds = {"": pa.string(), "int": pa.int32(), "tiny": pa.uint8()}
    fields = []
    for text in names:
        name, _, kind = text.rstrip("!").partition(":")
        fields.append(pa.field(name, kinds[kind], nullable=not text.endswith("!")))
    return pa.schema(fields)


CATALOGS = _columns("catalog_name!")
SCHEMAS = _columns("catalog_name", "db_schema_name!")
TABLES = _columns("catalog_name", "db_schema_name", "table_name!", "table_type!")
TABLES_WITH_SCHEMA = TABLES.append(pa.field("table_schema", pa.binary(), nullable=False))
TABLE_TYPES = _columns("table_type!")
PRIMARY_KEYS = _columns(
    "catalog_name", "db_schema_name", "table_name!", "column_name!", "key_name", "key_sequence:int!"
)
FOREIGN_KEYS = _columns(
    "pk_catalog_name", "pk_db_schema_name", "pk_table_name!", "pk_column_name!", "fk_catalog_name", "fk_db_schema_name",
    "fk_table_name!", "fk_column_name!", "key_sequence:int!", "fk_key_name", "pk_key_name", "update_rule:tiny!",
    "delete_rule:tiny!",
)  # fmt: skip
XDBC_TYPES = pa.schema(
    [
        pa.field("type_name", pa.string(), nullable=False),
        pa.field("data_type", pa.int32(), nullable=False),
        pa.field("column_size", pa.int32()),
        pa.field("literal_prefix", pa.string()),
        pa.field("literal_suffix", pa.string()),
        pa.field("create_params", pa.list_(pa.field("item", pa.string(), nullable=False))),
        pa.field("nullable", pa.int32(), nullable=False),
        pa.field("case_sensitive", pa.bool_(), nullable=False),
        pa.field("searchable", pa.int32(), nullable=False),
        pa.field("unsigned_attribute", pa.bool_()),
        pa.field("fixed_prec_scale", pa.bool_(), nullable=False),
        pa.field("auto_increment", pa.bool_()),
        pa.field("local_type_name", pa.string()),
        pa.field("minimum_scale", pa.int32()),
        pa.field("maximum_scale", pa.int32()),
        pa.field("sql_data_type", pa.int32(), nullable=False),
        pa.field("datetime_subcode", pa.int32()),
        pa.field("num_prec_radix", pa.int32()),
        pa.field("interval_precision", pa.int32()),
    ]
)
_INTEGERS = pa.list_(pa.field("$data$", pa.int32()))
_SQL_INFO_KINDS = {
    "string_value": pa.string(),
    "bool_value": pa.bool_(),
    "bigint_value": pa.int64(),
    "int32_bitmask": pa.int32(),
    "string_list": pa.list_(pa.field("string_data", pa.string())),
    "int32_to_int32_list_map": pa.map_(pa.int32(), _INTEGERS),
}
SQL_INFO = pa.schema(
    [
        pa.field("info_name", pa.uint32(), nullable=False),
        pa.field("value", pa.dense_union([pa.field(name, kind) for name, kind in _SQL_INFO_KINDS.items()])),
    ]
)


def sql_info(facts: dict[int, str | bool | int]) -> pa.Table:
    """Return facts about the server; numbers are 64-bit integers, as bit masks are where `SQL_INFO` says so."""
    kinds: list[int] = []
    offsets: list[int] = []
    values: list[list[Any]] = [[] for _ in _SQL_INFO_KINDS]
    for fact in facts.values():
        kind = 0 if isinstance(fact, str) else 1 if isinstance(fact, bool) else 2
        kinds.append(kind)
        offsets.append(len(values[kind]))
        values[kind].append(fact)
    children = [pa.array(found, kind) for found, kind in zip(values, _SQL_INFO_KINDS.values(), strict=True)]
    union = pa.UnionArray.from_dense(
        pa.array(kinds, pa.int8()), pa.array(offsets, pa.int32()), children, list(_SQL_INFO_KINDS)
    )
    return pa.Table.from_arrays([pa.array(list(facts), pa.uint32()), union], schema=SQL_INFO)
