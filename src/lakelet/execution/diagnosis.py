"""What an error can say beyond its fact: the user's line, names that are near, what is there instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pyspark.sql.types import StructType

from lakelet.errors import DefinitionError, LakeletError, Origin, QueryError, SourceError, did_you_mean
from lakelet.names import split_name
from lakelet.pipelines.call_site import display_path
from lakelet.places import Place, place
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.sql import check_syntax

MAX_NAMES = 12
"""Columns that a hint lists at most."""


# -- queries ------------------------------------------------------------------------------------------------------


def relative_sites(relation: Relation, root: Path) -> Relation:
    """Return the tree with the user's files named relative to the project."""
    result = Relation()
    result.CopyFrom(relation)
    for message in plan.messages(result):
        if message.DESCRIPTOR.name == "PythonOrigin":
            file, colon, line = message.call_site.rpartition(":")  # type: ignore[attr-defined]
            if colon:
                message.call_site = f"{display_path(file, root=root)}:{line}"  # type: ignore[attr-defined]
    return result


def explained(
    error: QueryError, relation: Relation, origin: Origin, *, columns_of: Callable[[Relation], StructType]
) -> LakeletError:
    """Return the engine's error with the user's line and, for a wrong name, the nearest right one.

    Args:
        columns_of: gives the columns of a part of the tree.
    """
    if error.column is not None:
        part = _naming(relation, error.column)
        error.at(_site(part) or origin)
        known = [name for child in plan.children(part) for name in _columns(child, columns_of)] if part else []
        error.hint = column_hint(error.column, known) or error.hint
    elif error.condition == "PARSE_SYNTAX_ERROR":
        better = _syntax_error(relation, origin)
        if better is not None:
            return better
    error.at(plan.call_site(relation) or origin)
    return error.at(origin)


def column_hint(name: str, known: list[str]) -> str | None:
    """Return which column may have been meant, or which there are."""
    names = list(dict.fromkeys(known))
    if not names:
        return None
    near = did_you_mean(name, names)
    if near:
        return f"did you mean `{near}`?"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"the columns there are {', '.join(names[:MAX_NAMES])}{more}"


def _naming(relation: Relation, column: str) -> Relation | None:
    """Return the innermost part of the tree that names a column: in an expression, else in its SQL text."""
    wanted = column.lower()
    found = None
    for part in plan.relations(relation):
        kind = part.WhichOneof("rel_type")
        if kind == "with_relations" and part.with_relations.root.HasField("sql"):
            matches = _names(part.with_relations.root.sql, wanted)
        else:
            matches = kind != "sql" and any(_names(message, wanted) for message in plan.own_messages(part))
        if matches:
            found = part
    return found


def _names(message: Any, column: str) -> bool:
    match message.DESCRIPTOR.name:
        case "UnresolvedAttribute":
            try:
                return ".".join(split_name(message.unparsed_identifier)).lower() == column
            except DefinitionError:
                return False
        case "ExpressionString":
            return column.rpartition(".")[2] in message.expression.lower()
        case "SQL":
            return column.rpartition(".")[2] in message.query.lower()
        case "Join":
            return any(name.lower() == column for name in message.using_columns)
        case "Drop" | "Deduplicate" | "NADrop" | "NAFill":
            return any(
                name.lower() == column for name in getattr(message, "column_names", getattr(message, "cols", ()))
            )
    return False


def _site(part: Relation | None) -> Origin | None:
    if part is None:
        return None
    return plan.call_site(part.common) or next(
        (site for message in plan.own_messages(part) if (site := plan.call_site(message))), None
    )


def _columns(part: Relation, columns_of: Callable[[Relation], StructType]) -> list[str]:
    if part.WhichOneof("rel_type") == "sql":
        return []
    try:
        return list(columns_of(part).names)
    except LakeletError:
        return []


def _syntax_error(relation: Relation, origin: Origin) -> DefinitionError | None:
    """Return what the parser finds wrong in the SQL text of a tree, with the text itself."""
    for part in plan.relations(relation):
        if part.WhichOneof("rel_type") == "sql":
            try:
                check_syntax(part.sql.query)
            except DefinitionError as error:
                error.origin = None
                error.message = error.message.rpartition(" (line ")[0] or error.message
                error.hint = (
                    error.hint
                    or "look just before that place: a comma, a bracket or a keyword is missing or misspelled"
                )
                error.at(plan.call_site(relation) or origin).at(origin)
                return error
    return None


# -- sources ------------------------------------------------------------------------------------------------------


def missing_table(label: str, location: str) -> SourceError:
    """Return the error for a source that is no Delta table, saying what is there instead."""
    folder, shown = place(location), label.removeprefix("delta:")
    tables = sorted(child.name for child in _children(folder) if (child / "_delta_log").is_dir())
    volume = volume_hint(shown)
    if tables:
        cause = f"`{location}` is a folder of tables: {', '.join(tables[:MAX_NAMES])}"
        hint = f"name one of them, for example `{shown.rstrip('/')}/{tables[0]}`"
    elif not folder.exists():
        cause = f"`{location}` does not exist"
        hint = volume or near_paths(location) or "check the path, or write the first rows to it before the update"
    elif folder.is_file():
        cause, hint = f"`{location}` is a file", "name the table's folder, or the file's format"
    elif not any(folder.iterdir()):
        cause, hint = f"`{location}` is empty", "write the first rows to it before the update"
    else:
        cause = f"`{location}` has files but no `_delta_log`"
        hint = "point the read at the table's own folder, or name the files' format"
    return SourceError("DELTA_TABLE_NOT_FOUND", f"there is no Delta table at `{shown}`", cause=cause, hint=hint)


def volume_hint(path: str) -> str | None:
    """Return how a path was probably meant, if it looks like one of a volume and is not."""
    first, *rest = path.strip("/").split("/")
    if len(rest) < 1 or path.startswith("/Volumes/"):
        return None
    if first.lower() == "volumes" or did_you_mean(first.lower(), ["volumes"]):
        return f"did you mean `/Volumes/{'/'.join(rest)}`?"
    return None


def near_paths(path: str) -> str | None:
    """Return what is there with a name like that of a path that does not exist."""
    missing = place(path)
    while not missing.parent.exists() and missing.parent != missing:
        missing = missing.parent
    names = [child.name for child in _children(missing.parent) if not child.name.startswith((".", "_"))]
    near = did_you_mean(missing.name, names) if names and not set(missing.name) & set("*?[") else None
    return f"did you mean `{missing.parent / near}`?" if near else None


def _children(folder: Place) -> Iterator[Place]:
    try:
        yield from folder.iterdir()
    except OSError:
        return
