"""A cursor over the tokens of one statement: the small steps that the statements' grammars are written in."""

from __future__ import annotations

from collections.abc import Iterable

from lakelet.errors import DefinitionError, Origin, did_you_mean
from lakelet.plan.sql_syntax import check_expression
from lakelet.plan.sql_tokens import SqlText, Token, TokenKind, scan


class Cursor:
    """Reads a statement from left to right.

    Attributes:
        source: the statement with its tokens.
        i: index of the next token.
    """

    def __init__(self, source: SqlText, *, i: int = 0, end: int | None = None) -> None:
        self.source = source
        self.i = i
        self._end = len(source.tokens) - 1 if end is None else end

    @property
    def token(self) -> Token:
        """The next token; of kind END after the last one."""
        token = self.source.tokens[min(self.i, self._end)]
        return token if self.i < self._end else Token(TokenKind.END, "", token.start, token.start)

    @property
    def at_end(self) -> bool:
        return self.i >= self._end

    @property
    def origin(self) -> Origin:
        """Where in the user's file the next token is."""
        return self.source.origin_at(self.token.start)

    def sees(self, *words: str) -> bool:
        """Whether the next tokens are these words or symbols."""
        tokens = self.source.tokens[self.i : self._end]
        return len(tokens) >= len(words) and all(
            (token.word or token.text) == word for token, word in zip(tokens, words, strict=False)
        )

    def accept(self, *words: str) -> bool:
        """Step over these words if they come next."""
        if not self.sees(*words):
            return False
        self.i += len(words)
        return True

    def expect(self, *words: str) -> None:
        """Step over words that must come next."""
        for word in words:
            if not self.accept(word):
                raise self.error(f"expected {word}, found {self.token}")

    def identifier(self, what: str = "a name") -> str:
        """Read one identifier, without its back-ticks."""
        token = self.token
        if not token.is_name:
            raise self.error(f"expected {what}, found {token}")
        self.i += 1
        return token.name

    def name(self, what: str = "a name") -> str:
        """Read a dotted name as it is written, without blanks."""
        parts = [self._name_part(what)]
        while self.sees(".") and not self.at_end:
            self.i += 1
            parts.append(self._name_part("a name after the dot"))
        return ".".join(parts)

    def _name_part(self, what: str) -> str:
        text = self.token.text
        self.identifier(what)
        return text

    def string(self, what: str) -> str:
        """Read a string literal."""
        token = self.token
        if token.kind is not TokenKind.STRING:
            raise self.error(f"expected a string with {what}, found {token}", hint=f"write '{what}' in quotes")
        self.i += 1
        return token.value

    def group(self, what: str) -> Cursor:
        """Read a parenthesis; returns a cursor over its inside."""
        if not self.sees("("):
            raise self.error(f"expected `(` with {what}, found {self.token}")
        close = self.source.closing[self.i]
        inside = Cursor(self.source, i=self.i + 1, end=close)
        self.i = close + 1
        return inside

    def names_in_group(self, what: str) -> tuple[str, ...]:
        """Read `(a, b)`."""
        inside = self.group(what)
        names = inside.names(what)
        if not inside.at_end:
            raise inside.error(f"expected `,` or `)` after {what}, found {inside.token}")
        return names

    def names(self, what: str) -> tuple[str, ...]:
        """Read `a, b`: unqualified column names."""
        names = [self.column(what)]
        while self.accept(","):
            names.append(self.column(what))
        return tuple(names)

    def column(self, what: str) -> str:
        """Read the unqualified name of a column."""
        name = self.identifier(f"the name of a column in {what}")
        if self.sees("."):
            raise self.error(
                f"{what} takes names of one part, found `{name}.…`",
                condition="AUTOCDC_MULTIPART_COLUMN_IDENTIFIER",
                hint="name a top-level column, without its table",
            )
        return name

    def text_of(self, start: int, stop: int) -> str:
        """Return the text of tokens `start` to `stop`, as written."""
        if stop <= start:
            return ""
        return self.source.text[self.source.tokens[start].start : self.source.tokens[stop - 1].end]

    def rest(self) -> tuple[str, SqlText]:
        """Read all that is left; returns its text, and the same scanned with its place in the user's file."""
        start = self.token.start
        text = self.text_of(self.i, self._end)
        column = self.source.position(start)[1]
        scanned = scan(text, origin=self.source.origin_at(start), first_column=column)
        self.i = self._end
        return text, scanned

    def expression(self, start: int, what: str) -> str:
        """Return the text from token `start` to here, checked to be one SQL expression."""
        if start >= self.i:
            raise self.error(f"{what} needs an expression, found {self.token}")
        text, offset = self.text_of(start, self.i), self.source.tokens[start].start
        check_expression(text, origin=self.source.origin_at(offset), first_column=self.source.position(offset)[1])
        return text

    def inside(self) -> str:
        """Read all that is left as text."""
        text = self.text_of(self.i, self._end)
        self.i = self._end
        return text

    def skip_token(self) -> Token:
        """Step over one token, or over a whole bracket."""
        token = self.token
        self.i = self.source.closing.get(self.i, self.i) + 1
        return token

    def error(self, message: str, *, condition: str = "PARSE_SYNTAX_ERROR", hint: str | None = None) -> DefinitionError:
        """Build an error that points at the next token."""
        return self.source.error(self.token.start, message, condition=condition, hint=hint)

    def unknown_clause(self, known: Iterable[str]) -> DefinitionError:
        """Build the error for a clause that the statement does not have."""
        clauses = list(known)
        near = did_you_mean(self.token.word, [clause.split()[0] for clause in clauses])
        hint = f"did you mean {near}? " if near and near != self.token.word else ""
        return self.error(f"unknown clause {self.token}", hint=f"{hint}what can stand here: {', '.join(clauses)}")

    def unsupported(self, message: str, *, hint: str) -> DefinitionError:
        """Build the error for what Databricks has and this release has not."""
        return self.error(message, condition="UNSUPPORTED_FEATURE", hint=hint)
