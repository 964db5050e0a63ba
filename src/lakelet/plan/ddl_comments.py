"""The comments in a column list as text, `id INT COMMENT 'the order'`: the embedded engine's parser leaves them out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pyspark.sql.types import ArrayType, DataType, MapType, StructField, StructType

from lakelet.plan.sql_tokens import Token, TokenKind, scan

_OPENING, _CLOSING = "<([", ">)]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commented:
    """What text says of a column or of a part of its type: its comment, the fields of a struct, the parts of an array or map."""

    comment: str | None = None
    fields: dict[str, Commented] = field(default_factory=dict)
    parts: tuple[Commented, ...] = ()


def with_comments(columns: StructType, text: str) -> StructType:
    """Return columns with the comments that `text`, which declares them, has; nested ones, too."""
    if "comment" not in text.lower():
        return columns
    tokens = [token for token in scan(text).tokens if token.kind is not TokenKind.END]
    return _commented_struct(columns, Commented(fields=_columns(tokens)))


def declared_comments(schema: StructType | str | None, columns: StructType) -> StructType:
    """Return columns with the comments that a dataset's declared schema, as text or as a type, gives them."""
    match schema:
        case None:
            return columns
        case StructType():
            comments = {column.name.lower(): (column.metadata or {}).get("comment") for column in schema.fields}
            found = {name: Commented(comment=comment) for name, comment in comments.items()}
            return _commented_struct(columns, Commented(fields=found))
        case _:
            return with_comments(columns, str(schema))


def _commented_struct(columns: StructType, found: Commented) -> StructType:
    return StructType([_commented_field(column, found.fields.get(column.name.lower())) for column in columns.fields])


def _commented_field(column: StructField, found: Commented | None) -> StructField:
    if found is None:
        return column
    metadata = dict(column.metadata or {})
    if found.comment is not None:
        metadata["comment"] = found.comment
    return StructField(column.name, _commented(column.dataType, found), column.nullable, metadata)


def _commented(kind: DataType, found: Commented) -> DataType:
    match kind, found.parts:
        case StructType(), _:
            return _commented_struct(kind, found)
        case ArrayType(), (element,):
            return ArrayType(_commented(kind.elementType, element), kind.containsNull)
        case MapType(), (key, value):
            return MapType(_commented(kind.keyType, key), _commented(kind.valueType, value), kind.valueContainsNull)
        case _:
            return kind


def _columns(tokens: Sequence[Token]) -> dict[str, Commented]:
    columns = [column for column in _split(tokens) if column]
    return {column[0].name.lower(): _type(column[1:]) for column in columns}


def _type(tokens: Sequence[Token]) -> Commented:
    """Return what the tokens after a column's name say, or those of a type."""
    comment, word, depth, start = None, "", 0, 0
    inner: tuple[Token, ...] = ()
    for number, token in enumerate(tokens):
        if token.text in _CLOSING:
            depth -= 1
            if depth == 0 and token.text == ">" and not word:
                word, inner = tokens[start - 1].word, tuple(tokens[start + 1 : number])
        elif token.text in _OPENING:
            depth += 1
            start = number if depth == 1 else start
        elif depth == 0 and token.kind is TokenKind.STRING and number and tokens[number - 1].word == "COMMENT":
            comment = token.value
    match word:
        case "STRUCT":
            return Commented(comment=comment, fields=_columns(inner))
        case "ARRAY" | "MAP":
            return Commented(comment=comment, parts=tuple(_type(part) for part in _split(inner)))
        case _:
            return Commented(comment=comment)


def _split(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Return what stands between the commas outside of brackets."""
    depth = start = 0
    for number, token in enumerate(tokens):
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if token.text == "," and depth == 0:
            yield tokens[start:number]
            start = number + 1
    yield tokens[start:]
