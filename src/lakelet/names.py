"""Dataset names: one to three parts, back-ticks, `LIVE.`, schema names that start with a digit."""

from __future__ import annotations

from dataclasses import dataclass

from lakelet.errors import DefinitionError, Origin


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A fully qualified name; two datasets are the same when all three parts are equal.

    Spark compares names without regard to case, so the parts keep the user's spelling and `key` folds it.
    """

    catalog: str
    schema: str
    name: str

    @property
    def key(self) -> tuple[str, str, str]:
        return (self.catalog.lower(), self.schema.lower(), self.name.lower())

    def __str__(self) -> str:
        return f"{self.catalog}.{self.schema}.{self.name}"


@dataclass(frozen=True, slots=True)
class NameContext:
    """The pipeline's default catalog and schema, against which shorter names resolve."""

    catalog: str = "spark_catalog"
    schema: str = "default"

    def resolve(self, text: str, *, origin: Origin | None = None) -> TableName:
        """Resolve a name of one to three parts.

        Raises:
            DefinitionError: `INVALID_IDENTIFIER` for an empty name, an open back-tick or more than three parts.
        """
        parts = split_name(text, origin=origin)
        if len(parts) == 2 and parts[0].lower() == "live":
            parts = parts[1:]
        if len(parts) > 3:
            raise DefinitionError(
                "INVALID_IDENTIFIER",
                f"the name `{text}` has {len(parts)} parts",
                origin=origin,
                cause="a dataset name is `name`, `schema.name` or `catalog.schema.name`",
                hint="drop a part, or quote a part that contains a dot with back-ticks",
            )
        defaults = (self.catalog, self.schema)
        missing = 3 - len(parts)
        return TableName(*(*defaults[:missing], *parts))

    def display(self, name: TableName) -> str:
        """Return the shortest spelling that resolves back to `name`."""
        if name.catalog.lower() != self.catalog.lower():
            return str(name)
        if name.schema.lower() != self.schema.lower():
            return f"{name.schema}.{name.name}"
        return name.name


def split_name(text: str, *, origin: Origin | None = None) -> list[str]:
    """Split a dotted name; dots inside back-ticks do not separate, a doubled back-tick is one."""
    parts: list[str] = []
    part, quoted, position = "", False, 0
    while position < len(text):
        char = text[position]
        if char == "`":
            if quoted and text[position + 1 : position + 2] == "`":
                part += "`"
                position += 1
            else:
                quoted = not quoted
        elif char == "." and not quoted:
            parts.append(part)
            part = ""
        else:
            part += char
        position += 1
    parts.append(part)
    if quoted or any(not piece.strip() for piece in parts):
        raise DefinitionError(
            "INVALID_IDENTIFIER",
            f"`{text}` is not a dataset name",
            origin=origin,
            hint="write `name`, `schema.name` or `catalog.schema.name`",
        )
    return [piece.strip() for piece in parts]


def quote(part: str) -> str:
    """Quote one identifier for Spark SQL."""
    return "`" + part.replace("`", "``") + "`"
