"""SQL text as data: what a query reads, and the same query over other relations.

Text is never regenerated. What a query reads is found by position (`sql_references`), replaced by position,
and the rest of the user's text reaches the engine as it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from lakelet.errors import Origin
from lakelet.names import quote
from lakelet.plan.sql_clock import replace_clock
from lakelet.plan.sql_references import (
    QUERY_STARTS,
    ReferenceKind,
    TableReference,
    find_references,
)
from lakelet.plan.sql_syntax import check_syntax
from lakelet.plan.sql_table_clauses import Watermark
from lakelet.plan.sql_tokens import NOWHERE, SqlText, Token, scan

if TYPE_CHECKING:
    from pyspark.sql.connect.proto import Relation

__all__ = [
    "ReferenceKind",
    "TableReference",
    "Watermark",
    "check_syntax",
    "is_query",
    "normalize_sql",
    "replace_clock",
    "rewrite",
    "table_references",
]


def is_query(sql: str) -> bool:
    """Tell a query (SELECT, WITH, VALUES, FROM, TABLE, also in parentheses) from any other statement."""
    source = scan(sql)
    tokens = source.tokens
    first = next(token for token in tokens if token.text != "(")
    if first.word not in QUERY_STARTS:
        return False
    i, outer = 0, set()
    while i < len(tokens):
        outer.add(tokens[i].word)
        i = source.closing.get(i, i) + 1
    is_change = first.word in ("WITH", "FROM") and outer & {"INSERT", "MERGE", "UPDATE", "DELETE"}
    return not is_change


def table_references(
    sql: str,
    *,
    origin: Origin = NOWHERE,
    known: Iterable[str] = (),
    parameters: Mapping[str, str] | None = None,
) -> list[TableReference]:
    """Return every place where the query reads a relation, in the order of the text.

    Args:
        origin: where the text starts, for messages.
        known: names that are not tables, such as the views of `spark.sql("{d}", d=df)`.
        parameters: values of named parameters, for `IDENTIFIER(:name)` and `read_files(:path)`.

    Raises:
        DefinitionError: `PARSE_SYNTAX_ERROR`, or `UNSUPPORTED_FEATURE` for what cannot be replaced; with line
            and column.
    """
    return find_references(scan(sql, origin=origin), known=tuple(known), parameters=parameters)


def rewrite(
    sql: str,
    replacement: Callable[[TableReference], str],
    *,
    origin: Origin = NOWHERE,
    known: Iterable[str] = (),
    parameters: Mapping[str, str] | None = None,
) -> str:
    """Replace every relation that the query reads; `replacement` returns the new name, without an alias.

    A table that has no alias gets its own name as one, so that `sales.amount` still resolves; a longer
    qualifier (`bronze.sales.amount`) is cut to it.
    """
    source = scan(sql, origin=origin)
    references = find_references(source, known=tuple(known), parameters=parameters)
    return _replace(source, references, replacement)


def _replace(source: SqlText, references: list[TableReference], replacement: Callable[[TableReference], str]) -> str:
    aliases = _aliases(references)
    edits = _qualifier_edits(source, references, aliases)
    for index, reference in enumerate(references):
        edits.append((reference.start, reference.end, replacement(reference)))
        if index in aliases and reference.alias_at is not None:
            edits.append((reference.alias_at, reference.alias_at, f" AS {quote(aliases[index])}"))
    text = source.text
    for start, end, new in sorted(edits, key=lambda edit: (edit[0], edit[1]), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _aliases(references: list[TableReference]) -> dict[int, str]:
    """Choose the alias of each table that has none: its own name, or all its parts where two share it."""
    bare = {
        index: reference
        for index, reference in enumerate(references)
        if reference.kind is ReferenceKind.TABLE and reference.alias is None and reference.alias_at is not None
    }
    aliases: dict[int, str] = {}
    for index, reference in bare.items():
        namesakes = {
            tuple(part.lower() for part in other.parts)
            for other in bare.values()
            if other.scope == reference.scope and other.parts[-1].lower() == reference.parts[-1].lower()
        }
        is_shared = len(namesakes) > 1 and len(reference.parts) > 1
        aliases[index] = "_".join(reference.parts) if is_shared else reference.parts[-1]
    return aliases


def _qualifier_edits(
    source: SqlText, references: list[TableReference], aliases: dict[int, str]
) -> list[tuple[int, int, str]]:
    """Cut `schema.table.column` to `table.column` where the table lost its schema."""
    qualified = [(references[index], alias) for index, alias in aliases.items() if len(references[index].parts) > 1]
    if not qualified:
        return []
    qualified.sort(key=lambda pair: pair[0].scope[1] - pair[0].scope[0])
    edits: list[tuple[int, int, str]] = []
    for chain in _dotted_names(source, references):
        edit = next((e for pair in qualified if (e := _qualifier_edit(chain, *pair)) is not None), None)
        if edit is not None:
            edits.append(edit)
    return edits


def _qualifier_edit(chain: list[Token], reference: TableReference, alias: str) -> tuple[int, int, str] | None:
    if not reference.scope[0] <= chain[0].start < reference.scope[1]:
        return None
    names = [token.name.lower() for token in chain]
    parts = [part.lower() for part in reference.parts]
    for length in range(len(parts), 1, -1):
        if len(names) > length and names[:length] == parts[-length:]:
            return (chain[0].start, chain[length - 1].end, quote(alias))
    return None


def _dotted_names(source: SqlText, references: list[TableReference]) -> Iterable[list[Token]]:
    """Yield names of three parts and more outside the references, `*` included; not those of functions."""
    tokens = source.tokens
    spans = [(reference.start, reference.end) for reference in references]
    i = 0
    while i < len(tokens) - 1:
        chain = [tokens[i]]
        i += 1
        if not chain[0].is_name:
            continue
        while tokens[i].text == "." and (tokens[i + 1].is_name or tokens[i + 1].text == "*"):
            chain.append(tokens[i + 1])
            i += 2
        is_inside = any(start <= chain[0].start < end for start, end in spans)
        if len(chain) > 2 and tokens[i].text != "(" and not is_inside:
            yield chain


# -- Spark Connect -------------------------------------------------------------------------------------------


def normalize_sql(relation: Relation, next_plan_id: Callable[[], int], *, origin: Origin = NOWHERE) -> Relation:
    """Turn a `sql` relation into one whose tables are relations of the tree.

    `SELECT * FROM bronze.sales` becomes `WithRelations(root: SELECT * FROM lk_sql_7 AS sales, references:
    [SubqueryAlias(lk_sql_7, Read(bronze.sales))])`, so that one walk over the tree finds and substitutes all
    that a plan reads. A `WithRelations` whose root is SQL (`spark.sql("{d}", d=df)`) keeps its references;
    call this on it, not on its root. Anything else, and text that reads nothing, comes back as it is. The
    argument is not changed.

    Raises:
        DefinitionError: as `table_references`.
    """
    from pyspark.sql.connect.proto import Relation as RelationMessage

    kind = relation.WhichOneof("rel_type")
    existing = list(relation.with_relations.references) if kind == "with_relations" else []
    root = relation.with_relations.root if kind == "with_relations" else relation
    if root.WhichOneof("rel_type") != "sql":
        return relation
    known = [reference.subquery_alias.alias for reference in existing]
    parameters = {
        name: str(expression.literal.string)
        for name, expression in root.sql.named_arguments.items()
        if expression.literal.WhichOneof("literal_type") == "string"
    }
    source = scan(root.sql.query, origin=origin)
    references = find_references(source, known=known, parameters=parameters)
    if not references:
        return relation
    names: dict[str, str] = {}
    added: list[Relation] = []

    def replacement(reference: TableReference) -> str:
        key = repr(
            (
                reference.kind,
                reference.name.lower(),
                reference.streaming,
                reference.options,
                reference.watermark,
            )
        )
        if key not in names:
            plan_id = next_plan_id()
            names[key] = f"lk_sql_{plan_id}"
            added.append(_reference_relation(reference, names[key], plan_id, next_plan_id))
        return names[key]

    normalized = RelationMessage(common=relation.common)
    new_root = normalized.with_relations.root
    new_root.CopyFrom(root)
    if kind == "sql":
        new_root.common.plan_id = next_plan_id()
    new_root.sql.query = _replace(source, references, replacement)
    normalized.with_relations.references.extend([*existing, *added])
    return normalized


def _reference_relation(
    reference: TableReference, alias: str, plan_id: int, next_plan_id: Callable[[], int]
) -> Relation:
    """Build `SubqueryAlias(alias, [WithWatermark] Read)`; Sail needs a plan id on each reference."""
    from pyspark.sql.connect.proto import Read
    from pyspark.sql.connect.proto import Relation as RelationMessage

    if reference.kind is ReferenceKind.TABLE:
        table = Read.NamedTable(unparsed_identifier=reference.name, options=reference.options)
        read = Read(named_table=table, is_streaming=reference.streaming)
    else:
        source = Read.DataSource(
            format=reference.format, schema=reference.schema, options=reference.options, paths=reference.paths
        )
        read = Read(data_source=source, is_streaming=reference.streaming)
    leaf = RelationMessage(read=read)
    leaf.common.plan_id = next_plan_id()
    if reference.watermark is not None:
        marked = RelationMessage()
        marked.common.plan_id = next_plan_id()
        marked.with_watermark.input.CopyFrom(leaf)
        marked.with_watermark.event_time = reference.watermark.column
        marked.with_watermark.delay_threshold = reference.watermark.delay
        leaf = marked
    relation = RelationMessage()
    relation.common.plan_id = plan_id
    relation.subquery_alias.alias = alias
    relation.subquery_alias.input.CopyFrom(leaf)
    return relation
