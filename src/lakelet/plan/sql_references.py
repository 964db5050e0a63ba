"""Where a query reads relations: a walk over its tokens that follows Spark's grammar of FROM.

Every sub-query is visited with the CTE names that are in scope there, so a CTE shadows a table exactly where
it does in Spark (not inside its own definition, unless RECURSIVE). Expressions are not understood, only
searched for sub-queries: what the engine alone can judge is left to it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lakelet.errors import DefinitionError
from lakelet.plan.sql_arguments import constant, file_option, read_arguments
from lakelet.plan.sql_table_clauses import (
    Watermark,
    after_sample,
    read_watermark,
    table_options,
    time_travel,
)
from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan

FILE_FORMATS = frozenset({"delta", "parquet", "json", "csv", "text", "orc", "avro", "binaryfile", "xml"})
FILE_FUNCTIONS = frozenset({"READ_FILES", "CLOUD_FILES"})
QUERY_STARTS = frozenset({"SELECT", "WITH", "FROM", "VALUES", "TABLE"})
_BLOCK_STARTS = frozenset({"SELECT", "FROM", "VALUES", "TABLE", "MAP", "REDUCE"})
_SET_OPERATORS = frozenset({"UNION", "EXCEPT", "INTERSECT", "MINUS"})
_END_OF_FROM = frozenset({
    "WHERE", "GROUP", "HAVING", "ORDER", "SORT", "CLUSTER", "DISTRIBUTE", "LIMIT", "OFFSET", "QUALIFY",
    "WINDOW", "SELECT", "LATERAL",
})  # fmt: skip
_JOIN_WORDS = frozenset({
    "JOIN", "INNER", "LEFT", "RIGHT", "FULL", "CROSS", "ANTI", "SEMI", "NATURAL", "OUTER", "ON",
    "USING", "ASOF",
})  # fmt: skip
_NOT_A_NAME = (_END_OF_FROM | _SET_OPERATORS | _JOIN_WORDS | {"FROM", "AS", "AND", "OR", "NOT", "IN"}) - {
    "ASOF", "WINDOW", "CLUSTER", "OFFSET", "MINUS", "QUALIFY"
}  # fmt: skip
_NOT_AN_ALIAS = _NOT_A_NAME | frozenset({
    "ASOF", "WINDOW", "CLUSTER", "OFFSET", "MINUS", "QUALIFY", "PIVOT", "UNPIVOT", "TABLESAMPLE",
    "WITH", "SET", "WHEN",
})  # fmt: skip


class ReferenceKind(enum.Enum):
    """What a query reads."""

    TABLE = "table"
    PATH = "path"
    FILES = "files"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableReference:
    """One place where a query reads a relation.

    Attributes:
        kind: a table by name; a path (``delta.`/x` ``); files (`read_files(…)`, `cloud_files(…)`).
        text: all that is replaced: `sql[start:end]`, with STREAM, time travel, options and watermark.
        name: the name as written without blanks; of a path the path; of files the first path.
        parts: the parts of the name, without back-ticks.
        line, column: of the start, from 1, within the text.
        alias: the name the user gave the relation, None if none.
        alias_at: where an alias may be put if there is none; None where none can stand (`TABLE x`).
        options: time travel as `versionAsOf` and `timestampAsOf`, `WITH (…)`, and the options of files.
        format, paths, schema: of a path and of files.
        scope: start and end of the query block whose columns the relation's name may qualify.
    """

    kind: ReferenceKind
    text: str
    name: str
    parts: tuple[str, ...]
    start: int
    end: int
    line: int
    column: int
    streaming: bool = False
    alias: str | None = None
    alias_at: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    paths: tuple[str, ...] = ()
    schema: str | None = None
    watermark: Watermark | None = None
    scope: tuple[int, int] = (0, 0)


@dataclass(slots=True)
class _Scope:
    """One query block, and the CTE names that it sees."""

    start: int
    end: int
    ctes: frozenset[str]


@dataclass(slots=True)
class _Found:
    """A reference while it is read; its scope's end is known only later."""

    scope: _Scope
    kind: ReferenceKind
    name: str
    parts: tuple[str, ...]
    start: int
    end: int
    streaming: bool
    options: dict[str, str]
    format: str | None = None
    paths: tuple[str, ...] = ()
    schema: str | None = None
    watermark: Watermark | None = None
    alias: str | None = None
    alias_at: int | None = None


def find_references(
    source: SqlText, *, known: Sequence[str] = (), parameters: Mapping[str, str] | None = None
) -> list[TableReference]:
    """Return every place where the query reads a relation, in the order of the text.

    Args:
        known: names that are not tables, such as the views of `spark.sql("{d}", d=df)`.
        parameters: values of the named parameters, for `IDENTIFIER(:name)` and `read_files(:path)`.

    Raises:
        DefinitionError: `PARSE_SYNTAX_ERROR`, or `UNSUPPORTED_FEATURE` for what cannot be replaced; with line
            and column.
    """
    walk = _Walk(source, parameters or {})
    end = len(source.tokens) - 1
    while end and source.tokens[end - 1].text == ";":
        end -= 1
    walk.query(0, end, frozenset(name.lower() for name in known))
    found = sorted(walk.found, key=lambda reference: reference.start)
    return [_finish(source, reference) for reference in found]


def _finish(source: SqlText, found: _Found) -> TableReference:
    line, column = source.position(found.start)
    return TableReference(
        kind=found.kind,
        text=source.text[found.start : found.end],
        name=found.name,
        parts=found.parts,
        start=found.start,
        end=found.end,
        line=line,
        column=column,
        streaming=found.streaming,
        alias=found.alias,
        alias_at=found.alias_at,
        options=found.options,
        format=found.format,
        paths=found.paths,
        schema=found.schema,
        watermark=found.watermark,
        scope=(found.scope.start, found.scope.end),
    )


class _Walk:
    """One pass over the tokens. Methods take token indices and return the index after what they read."""

    def __init__(self, source: SqlText, parameters: Mapping[str, str]) -> None:
        self.source = source
        self.tokens = source.tokens
        self.parameters = parameters
        self.found: list[_Found] = []

    # -- queries ---------------------------------------------------------------------------------------------

    def query(self, i: int, end: int, ctes: frozenset[str]) -> None:
        """Walk a query expression: WITH, then blocks joined by set operators."""
        if self.keyword(i) == "WITH":
            i, ctes = self.common_tables(i + 1, end, ctes)
        if i >= end or not (self.tokens[i].text == "(" or self.keyword(i) in _BLOCK_STARTS):
            raise self.expected("a query", i)
        self.blocks(i, end, self.scope(i, end, ctes), at_relation=False)

    def common_tables(self, i: int, end: int, ctes: frozenset[str]) -> tuple[int, frozenset[str]]:
        recursive = self.keyword(i) == "RECURSIVE"
        i += recursive
        while True:
            name = self.tokens[i]
            if i >= end or not name.is_name:
                raise self.expected("the name of a common table expression after WITH", i)
            i += 1
            if self.tokens[i].text == "(":
                i = self.source.closing[i] + 1
            while self.keyword(i) not in ("", "AS"):  # MAX RECURSION LEVEL 10
                i += 1
                i += self.tokens[i].kind is TokenKind.NUMBER
            i += self.keyword(i) == "AS"
            if self.tokens[i].text != "(":
                raise self.expected(f"`(` with the query of `{name.text}`", i)
            inside = ctes | {name.name.lower()} if recursive else ctes
            close = self.source.closing[i]
            self.query(i + 1, close, inside)
            ctes |= {name.name.lower()}
            i = close + 1
            if self.tokens[i].text != ",":
                return i, ctes
            i += 1

    def blocks(self, i: int, end: int, scope: _Scope, *, at_relation: bool) -> None:
        """Walk query blocks, or the inside of a parenthesised join (`at_relation`)."""
        in_from = expecting = at_relation
        first = True
        while i < end or expecting:
            if expecting:
                i = self.relation(i, end, scope)
                expecting, in_from, first = False, True, False
                continue
            token, word = self.tokens[i], self.keyword(i)
            if token.text == "(":
                i = self.group(i, scope)
            elif token.text == "," and in_from:
                expecting = True
            elif token.text == "|>":
                in_from = False
            elif (word == "FROM" and self.keyword(i - 1) != "DISTINCT") or word == "JOIN":
                expecting = True
            elif word == "TABLE" and first:
                i = self.bare_table(i + 1, end, scope) - 1
            elif word in _SET_OPERATORS and self.is_set_operator(i):
                scope.end = token.start
                scope, in_from = self.scope(i, end, scope.ctes), False
                i += self.keyword(i + 1) in ("ALL", "DISTINCT")
                first, i = True, i + 1
                continue
            elif word in _END_OF_FROM:
                in_from = False
            first = False
            i += 1

    def is_set_operator(self, i: int) -> bool:
        """Tell `q EXCEPT q` from `* EXCEPT (columns)`, and MINUS from a column of that name."""
        following = self.tokens[i + 1]
        if self.tokens[i - 1].text == "*":
            return False
        return following.text == "(" or following.word in QUERY_STARTS | {"ALL", "DISTINCT"}

    def group(self, i: int, scope: _Scope) -> int:
        """Walk a parenthesis inside an expression: a sub-query, or more of the expression."""
        close = self.source.closing[i]
        start = self.keyword(i + 1)
        is_trim = start == "FROM" and self.keyword(i - 1) in ("TRIM", "LTRIM", "RTRIM", "BTRIM")
        if start in QUERY_STARTS - {"TABLE"} and not is_trim and self.tokens[i + 2].text not in (")", ",", "."):
            self.query(i + 1, close, scope.ctes)
            return close
        j = i + 1
        while j < close:
            if self.tokens[j].text == "(":
                j = self.group(j, scope)
            elif self.keyword(j) == "TABLE" and self.tokens[j - 1].text in ("(", ",", "=>"):
                follows = self.tokens[j + 1]
                if follows.is_name and follows.word not in _NOT_AN_ALIAS:
                    j = self.bare_table(j + 1, close, self.scope(j, close, scope.ctes)) - 1
                elif follows.text == "(":
                    j = self.table_argument(j + 1, scope)
            j += 1
        return close

    def table_argument(self, i: int, scope: _Scope) -> int:
        """Walk `TABLE(name)` or `TABLE(query)`, an argument of a table function."""
        close = self.source.closing[i]
        if self.keyword(i + 1) in QUERY_STARTS:
            self.query(i + 1, close, scope.ctes)
        else:
            self.bare_table(i + 1, close, self.scope(i + 1, close, scope.ctes))
        return close

    # -- relations -------------------------------------------------------------------------------------------

    def relation(self, i: int, end: int, scope: _Scope) -> int:
        """Walk one relation with its alias, where FROM, JOIN or a comma demands one."""
        token, word = self.tokens[i], self.keyword(i)
        following = self.tokens[i + 1] if i < end else token
        if i >= end or not (token.is_name or token.text == "("):
            raise self.expected("a table name", i)
        if word == "LATERAL" and following.word != "VIEW":
            return self.relation(i + 1, end, scope)
        if token.text == "(":
            close = self.source.closing[i]
            if self.keyword(i + 1) in QUERY_STARTS:
                self.query(i + 1, close, scope.ctes)
            else:
                self.blocks(i + 1, close, scope, at_relation=True)
            return self.after_relation(close + 1, end, None)
        if word == "VALUES" and following.text != ".":
            return self.after_relation(self.inline_rows(i + 1, end, scope), end, None)
        if word == "TABLE" and following.text == "(":
            self.table_argument(i + 1, scope)
            return self.after_relation(self.source.closing[i + 1] + 1, end, None)
        if word in _NOT_A_NAME and following.text != ".":
            raise self.expected("a table name", i)
        after, found = self.named_relation(i, end, scope)
        return self.after_relation(after, end, found)

    def bare_table(self, i: int, end: int, scope: _Scope) -> int:
        """Walk the name after TABLE, where no alias can stand."""
        if i >= end or not self.tokens[i].is_name:
            raise self.expected("a table name", i)
        after, found = self.named_relation(i, end, scope)
        if found is not None:
            self.found.append(found)
        return after

    def inline_rows(self, i: int, end: int, scope: _Scope) -> int:
        """Walk the rows of VALUES: parentheses or literals, with commas between them."""
        while i < end:
            token = self.tokens[i]
            if token.text == "(":
                i = self.group(i, scope) + 1
            elif (
                token.kind in (TokenKind.NUMBER, TokenKind.STRING)
                or token.text == "-"
                or token.word in ("NULL", "TRUE", "FALSE", "DATE", "TIMESTAMP", "STRUCT", "ARRAY", "MAP")
                or (token.text == "," and self.tokens[i + 1].text == "(")
                or (token.text == "," and self.tokens[i + 1].kind in (TokenKind.NUMBER, TokenKind.STRING))
            ):
                i += 1
            else:
                break
        return i

    def named_relation(self, i: int, end: int, scope: _Scope) -> tuple[int, _Found | None]:
        """Read STREAM, IDENTIFIER, a function or a name; no reference for a CTE or a function."""
        start, following = i, self.tokens[i + 1]
        if self.keyword(i) == "STREAM" and following.text == "(":
            close = self.source.closing[i + 1]
            after, found = self.simple_relation(i + 2, close, scope)
            if found is None or after != close:
                raise self.unsupported("STREAM takes the name of a table, or read_files", i + 2)
            after = close + 1
        elif self.keyword(i) == "STREAM" and self.is_stream_of(i + 1, end):
            after, found = self.simple_relation(i + 1, end, scope)
            if found is None:
                raise self.unsupported("STREAM takes the name of a table, or read_files", i + 1)
        else:
            after, found = self.simple_relation(i, end, scope)
            if found is not None and self.is_cte(found):
                return after, None
            return self.qualified(after, end, found), found
        if self.is_cte(found):
            raise self.unsupported(
                f"`{found.name}` is a common table expression: it streams if its query does",
                start,
                hint=f"write `FROM {found.name}`, and STREAM inside its definition",
            )
        found.start, found.end, found.streaming = self.tokens[start].start, self.tokens[after - 1].end, True
        return self.qualified(after, end, found), found

    def is_stream_of(self, i: int, end: int) -> bool:
        """Tell `STREAM x` from a table called stream."""
        token = self.tokens[i]
        return i < end and token.is_name and token.word not in _NOT_AN_ALIAS

    def simple_relation(self, i: int, end: int, scope: _Scope) -> tuple[int, _Found | None]:
        """Read IDENTIFIER(…), a table function (None unless it reads files), a path or a name."""
        start = self.tokens[i]
        if not start.is_name:
            raise self.expected("a table name", i)
        if self.keyword(i) == "IDENTIFIER" and self.tokens[i + 1].text == "(":
            close = self.source.closing[i + 1]
            name = constant(self.source, i + 2, close, "IDENTIFIER", self.parameters)
            parts = tuple(token.name for token in scan(name).tokens if token.is_name)
            return close + 1, self.reference(ReferenceKind.TABLE, name, parts, i, close + 1, scope)
        j = i + 1
        while j + 1 < end and self.tokens[j].text == "." and self.tokens[j + 1].is_name:
            j += 2
        if self.tokens[j].text == "." and j < end:
            raise self.expected("a name after the dot", j + 1)
        names = self.tokens[i:j:2]
        if j < end and self.tokens[j].text == "(":
            close = self.source.closing[j]
            if len(names) == 1 and start.word in FILE_FUNCTIONS:
                return close + 1, self.files(i, j, scope)
            self.group(j, scope)
            return close + 1, None
        parts = tuple(token.name for token in names)
        if len(names) == 2 and names[0].text.lower() in FILE_FORMATS and names[1].kind is TokenKind.QUOTED:
            found = self.reference(ReferenceKind.PATH, parts[1], parts, i, j, scope)
            found.format, found.paths = parts[0].lower(), (parts[1],)
            return j, found
        name = ".".join(token.text for token in names)
        return j, self.reference(ReferenceKind.TABLE, name, parts, i, j, scope)

    def reference(
        self, kind: ReferenceKind, name: str, parts: tuple[str, ...], i: int, after: int, scope: _Scope
    ) -> _Found:
        return _Found(scope, kind, name, parts, self.tokens[i].start, self.tokens[after - 1].end, False, options={})

    def files(self, i: int, open_index: int, scope: _Scope) -> _Found:
        """Read `read_files(path, format => 'json', …)` or `cloud_files(path, format, map(…))`."""
        close = self.source.closing[open_index]
        positional, named = read_arguments(self.source, open_index, self.parameters)
        found = self.reference(ReferenceKind.FILES, "", (), i, close + 1, scope)
        if self.tokens[i].word == "CLOUD_FILES":
            options = dict(zip(positional[2::2], positional[3::2], strict=False))
            named = {"format": positional[1], **options} if len(positional) > 1 else {}
        path = positional[0] if positional else named.pop("path", None)
        if path is None:
            raise self.unsupported(f"{self.tokens[i].text} needs a path", i)
        found.name, found.paths, found.format = path, (path,), "cloudFiles"
        found.schema = named.pop("schema", None)
        found.options = {file_option(key): value for key, value in named.items()}
        return found

    # -- what follows a name ---------------------------------------------------------------------------------

    def qualified(self, i: int, end: int, found: _Found | None) -> int:
        """Read time travel and `WITH (options)`, which belong to the reference."""
        if found is None:
            return i
        options: dict[str, str] = {}
        if found.kind is ReferenceKind.TABLE:
            i, options = time_travel(self.source, i, end)
        if self.keyword(i) == "WITH" and self.tokens[i + 1].text == "(":
            options |= table_options(self.source, i + 1, self.parameters)
            i = self.source.closing[i + 1] + 1
        found.options |= options
        found.end = max(found.end, self.tokens[i - 1].end)
        return i

    def after_relation(self, i: int, end: int, found: _Found | None) -> int:
        """Read TABLESAMPLE, WATERMARK and the alias that follow a relation."""
        if self.keyword(i) == "TABLESAMPLE" and i < end:
            i = after_sample(self.source, i + 1)
        alias_at = self.tokens[i - 1].end
        if self.keyword(i) == "WATERMARK" and i < end and self.tokens[i + 1].is_name:
            if found is None or found.end != alias_at:
                raise self.unsupported(
                    "WATERMARK must follow the name of a table", i, hint="put it after `STREAM(table)`"
                )
            i, found.watermark = read_watermark(self.source, i + 1, end)
            alias_at = found.end = self.tokens[i - 1].end
        if found is not None:
            found.alias_at = alias_at
            self.found.append(found)
        if i >= end:
            return i
        has_as = self.keyword(i) == "AS"
        token = self.tokens[i + has_as]
        if token.is_name and (has_as or token.word not in _NOT_AN_ALIAS) and i + has_as < end:
            if found is not None:
                found.alias = token.name
            i += has_as + 1
        elif has_as and token.text != "(":
            raise self.expected("an alias after AS", i + 1)
        else:
            i += has_as
        if i < end and self.tokens[i].text == "(" and (has_as or self.tokens[i - 1] is token):
            i = self.source.closing[i] + 1
        return i

    # -- small things ----------------------------------------------------------------------------------------

    def keyword(self, i: int) -> str:
        """The upper-case word at an index; empty for a part of a dotted name and for the name after AS."""
        if i < 0 or (i > 0 and (self.tokens[i - 1].text == "." or self.tokens[i - 1].word == "AS")):
            return ""
        return self.tokens[i].word

    def scope(self, i: int, end: int, ctes: frozenset[str]) -> _Scope:
        return _Scope(self.tokens[i].start, self.tokens[end].start, ctes)

    def is_cte(self, found: _Found) -> bool:
        is_plain_name = found.kind is ReferenceKind.TABLE and len(found.parts) == 1
        return is_plain_name and found.parts[0].lower() in found.scope.ctes

    def expected(self, what: str, i: int) -> DefinitionError:
        token: Token = self.tokens[i]
        return self.source.error(token.start, f"expected {what}, found {token}")

    def unsupported(self, message: str, i: int, hint: str | None = None) -> DefinitionError:
        return self.source.error(self.tokens[i].start, message, condition="UNSUPPORTED_FEATURE", hint=hint)
