"""Arrow types of tables: what is stored, how rows are cast to it, how a schema may evolve."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from lakelet.errors import StorageError
from lakelet.names import quote


def stored_type(kind: pa.DataType) -> pa.DataType:
    """Return the type that Delta stores for `kind`: one string type, UTC microseconds, nullable children."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return stored_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return pa.timestamp("us", "UTC") if kind.tz else pa.timestamp("us")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_list_view(kind):
        return pa.list_(pa.field("element", stored_type(kind.value_type)))
    if pa.types.is_map(kind):
        return pa.map_(stored_type(kind.key_type), stored_type(kind.item_type))
    if pa.types.is_struct(kind):
        return pa.struct([_stored_field(field) for field in kind])
    if pa.types.is_null(kind):
        return pa.string()
    return kind


def nullable(schema: pa.Schema) -> pa.Schema:
    """Return the stored form of `schema`: every column nullable, as Spark does for the result of a query; comments stay."""
    return pa.schema([_stored_field(field) for field in schema])


def _stored_field(field: pa.Field) -> pa.Field:
    comment = comment_of(field)
    return pa.field(field.name, stored_type(field.type), metadata=None if comment is None else {"comment": comment})


def comment_of(field: pa.Field) -> str | None:
    """Return the comment of a column, as Delta has it or as a Spark client passes it on."""
    metadata = field.metadata or {}
    if b"comment" in metadata:
        return str(metadata[b"comment"].decode())
    comment = json.loads(metadata.get(b"SPARK::metadata::json", b"{}")).get("comment")
    return None if comment is None else str(comment)


def conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return `batch` with the columns and types of `schema`, by name without regard to case; one that it lacks is NULL.

    Raises:
        StorageError: `CAST_INVALID_INPUT` where a value does not fit the column's type.
    """
    if batch.schema.equals(schema):
        return batch
    columns: list[pa.Array] = []
    positions = {name.lower(): position for position, name in enumerate(batch.schema.names)}
    for field in schema:
        position = positions.get(field.name.lower())
        if position is None:
            columns.append(pa.nulls(batch.num_rows, field.type))
            continue
        column = batch.column(position)
        if not column.type.equals(field.type):
            try:
                column = _cast(column, field.type)
            except pa.ArrowException as error:
                raise StorageError(
                    "CAST_INVALID_INPUT",
                    f"column `{field.name}` has a value that is no {sql_type(field.type)}",
                    cause=str(error),
                    hint="cast the column in the query, or declare another type in the table's schema",
                ) from error
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Cast; a struct by the names of its fields, one that it lacks is NULL, also inside of arrays."""
    if column.type.equals(kind):
        return column
    if pa.types.is_struct(column.type) and pa.types.is_struct(kind):
        have = {column.type.field(i).name.lower(): i for i in range(column.type.num_fields)}
        values = column.flatten()
        children = [
            _cast(values[have[field.name.lower()]], field.type)
            if field.name.lower() in have
            else pa.nulls(len(column), field.type)
            for field in kind
        ]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=column.is_null())
    if pa.types.is_list(column.type) and pa.types.is_list(kind) and _has_struct(kind.value_type):
        offsets, values = _compacted(column)
        return pa.ListArray.from_arrays(offsets, _cast(values, kind.value_type), type=kind, mask=column.is_null())
    return column.cast(kind)


def _has_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) or (pa.types.is_list(kind) and _has_struct(kind.value_type))


def _compacted(column: pa.ListArray) -> tuple[pa.Array, pa.Array]:
    """Return offsets from zero and the values that belong to them."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    ends = pc.cumulative_sum(lengths).cast(pa.int32())
    return pa.concat_arrays([pa.array([0], pa.int32()), ends]), column.flatten()


def evolved(stored: pa.Schema, incoming: pa.Schema) -> pa.Schema:
    """Return the stored columns, in their order and with their types, and after them what `incoming` adds."""
    change = compare(stored, incoming)
    come = nullable(incoming)
    return pa.schema([*stored, *(come.field(name) for name in change.added)])


_SQL_TYPES = {
    "int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint", "float": "float", "double": "double",
    "string": "string", "bool": "boolean", "date32[day]": "date", "binary": "binary",
    "timestamp[us, tz=UTC]": "timestamp", "timestamp[us]": "timestamp_ntz",
}  # fmt: skip


def sql_type(kind: pa.DataType) -> str:
    """Return the name that SQL has for a stored type."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind):
        return f"array<{sql_type(kind.value_type)}>"
    if pa.types.is_map(kind):
        return f"map<{sql_type(kind.key_type)},{sql_type(kind.item_type)}>"
    if pa.types.is_struct(kind):
        return f"struct<{','.join(f'{_field_name(field.name)}:{sql_type(field.type)}' for field in kind)}>"
    return _SQL_TYPES.get(str(kind), str(kind))


def _field_name(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else quote(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaChange:
    """What a query's columns mean for the stored table."""

    added: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()

    @property
    def evolves(self) -> bool:
        return bool(self.added)


def compare(stored: pa.Schema, incoming: pa.Schema) -> SchemaChange:
    """Compare a table with the columns of a query, names without regard to case.

    A column of another type is a conflict unless every value of the incoming type fits the stored one.
    """
    have = {field.name.lower(): field for field in stored}
    come = {field.name.lower(): field for field in nullable(incoming)}
    untyped = {field.name.lower() for field in incoming if pa.types.is_null(field.type)}
    conflicts = tuple(
        f"`{have[name].name}` is {sql_type(have[name].type)} in the table and {sql_type(field.type)} in the query"
        for name, field in come.items()
        if name in have and name not in untyped and not _fits(field.type, have[name].type)
    )
    return SchemaChange(
        added=tuple(field.name for name, field in come.items() if name not in have),
        missing=tuple(field.name for name, field in have.items() if name not in come),
        conflicts=conflicts,
    )


_INTEGERS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]


def _fits(incoming: pa.DataType, stored: pa.DataType) -> bool:
    if incoming.equals(stored):
        return True
    if incoming in _INTEGERS and stored in _INTEGERS:
        return _INTEGERS.index(incoming) <= _INTEGERS.index(stored)
    if pa.types.is_float32(incoming) and pa.types.is_float64(stored):
        return True
    if incoming in _INTEGERS[:3] and pa.types.is_float64(stored):
        return True
    if pa.types.is_decimal(incoming) and pa.types.is_decimal(stored):
        whole = (incoming.precision - incoming.scale, stored.precision - stored.scale)
        return bool(whole[0] <= whole[1] and incoming.scale <= stored.scale)
    if pa.types.is_struct(incoming) and pa.types.is_struct(stored):
        names = {field.name.lower(): field.type for field in stored}
        return all(field.name.lower() in names and _fits(field.type, names[field.name.lower()]) for field in incoming)
    if pa.types.is_list(incoming) and pa.types.is_list(stored):
        return _fits(incoming.value_type, stored.value_type)
    if pa.types.is_map(incoming) and pa.types.is_map(stored):
        return bool(incoming.key_type.equals(stored.key_type) and incoming.item_type.equals(stored.item_type))
    return False
