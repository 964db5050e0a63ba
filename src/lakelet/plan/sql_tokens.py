"""Tokens of Spark SQL text with their exact positions.

The runtime never regenerates SQL: it finds things by token and replaces them by position. This scanner
follows Spark's lexer (`SqlBaseLexer.g4`) in what a general SQL tokenizer gets wrong: identifiers that start
with a digit (`01_bronze`), `''` and `\\'` inside strings, raw strings, nested block comments. It imports
nothing but `re`, which keeps sqlglot (0.4 s) out of every run that has no SQL file.
"""

from __future__ import annotations

import enum
import re
from bisect import bisect_right
from dataclasses import dataclass, field

from lakelet.errors import DefinitionError, Origin

NOWHERE = Origin()
"""The origin of text that no file holds."""


class TokenKind(enum.Enum):
    """The classes of token that the rest of the code tells apart."""

    WORD = "word"
    QUOTED = "quoted identifier"
    STRING = "string"
    NUMBER = "number"
    HINT = "hint"
    SYMBOL = "symbol"
    END = "end of text"


_PATTERN = re.compile(
    r"""
      (?P<skip> \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<string> [rR]'[^']*' | [rR]"[^"]*" | '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" | \$\$.*?\$\$ )
    | (?P<quoted> `(?:[^`]|``)*` )
    | (?P<number> (?:\d+(?:\.\d*)?|(?<![\w`])\.\d+)(?:[eE][+-]?\d+)?(?:BD|bd|[lLsSyYdDfF])?(?!\w) )
    | (?P<word> \w+ )
    | (?P<symbol> <=> | \|\| | \|> | \?:: | :: | => | -> | == | != | <> | <= | >= | [^'"`] )
    """,
    re.VERBOSE | re.DOTALL,
)
_KINDS = {
    "string": TokenKind.STRING,
    "quoted": TokenKind.QUOTED,
    "number": TokenKind.NUMBER,
    "word": TokenKind.WORD,
    "symbol": TokenKind.SYMBOL,
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "0": "\0", "Z": "\x1a"}
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `end` is exclusive, so `sql[start:end] == text`."""

    kind: TokenKind
    text: str
    start: int
    end: int

    @property
    def word(self) -> str:
        """The text in upper case if this is an unquoted word, else an empty string."""
        return self.text.upper() if self.kind is TokenKind.WORD else ""

    @property
    def is_name(self) -> bool:
        return self.kind is TokenKind.WORD or self.kind is TokenKind.QUOTED

    @property
    def name(self) -> str:
        """The identifier without its back-ticks."""
        return self.text[1:-1].replace("``", "`") if self.kind is TokenKind.QUOTED else self.text

    @property
    def value(self) -> str:
        """The value of a string literal."""
        if self.text[:1] in "rR":
            return self.text[2:-1]
        if self.text.startswith("$$"):
            return self.text[2:-2]
        quote = self.text[0]
        return re.sub(
            rf"\\(.)|{quote * 2}",
            lambda match: _ESCAPES.get(match[1], match[1]) if match[1] else quote,
            self.text[1:-1],
            flags=re.DOTALL,
        )

    def __str__(self) -> str:
        return "the end of the text" if self.kind is TokenKind.END else f"`{self.text}`"


@dataclass(frozen=True, slots=True)
class SqlText:
    """SQL text with its tokens, closed by one `END` token.

    Attributes:
        closing: index of an opening bracket's token to that of its partner.
        origin: where the text starts in the user's file; lines of messages count from there.
        first_column: the column there.
    """

    text: str
    tokens: tuple[Token, ...]
    closing: dict[int, int]
    origin: Origin = NOWHERE
    first_column: int = 1
    _line_starts: list[int] = field(default_factory=list)

    def position(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both from 1, within this text."""
        line = bisect_right(self._line_starts, offset)
        column = offset - self._line_starts[line - 1] + 1
        return line, column + (self.first_column - 1 if line == 1 else 0)

    def origin_at(self, offset: int) -> Origin:
        """Return where in the user's file an offset lies."""
        base = self.origin.line or 1
        return Origin(
            file=self.origin.file,
            line=base + self.position(offset)[0] - 1,
            dataset=self.origin.dataset,
            flow=self.origin.flow,
        )

    def error(
        self, offset: int, message: str, *, condition: str = "PARSE_SYNTAX_ERROR", hint: str | None = None
    ) -> DefinitionError:
        """Build an error that points at an offset: line, column, and the line itself with a caret."""
        line, column = self.position(offset)
        start = self._line_starts[line - 1]
        source_line = self.text[start:].split("\n", 1)[0]
        origin = self.origin_at(offset)
        return DefinitionError(
            condition,
            f"{message} (line {origin.line}, column {column})",
            origin=origin,
            cause=f"{source_line}\n{' ' * (offset - start)}^" if source_line else None,
            hint=hint,
        )


def scan(text: str, *, origin: Origin = NOWHERE, first_column: int = 1) -> SqlText:
    """Split SQL text into tokens; comments and white space fall away, hints stay.

    Raises:
        DefinitionError: `PARSE_SYNTAX_ERROR` for an open string, comment, back-tick or bracket.
    """
    source = _lex(text, origin, first_column)
    open_brackets: list[int] = []
    for index, token in enumerate(source.tokens):
        if token.kind is not TokenKind.SYMBOL:
            continue
        if token.text in _PAIRS:
            open_brackets.append(index)
        elif token.text in _PAIRS.values():
            if not open_brackets or _PAIRS[source.tokens[open_brackets[-1]].text] != token.text:
                raise source.error(token.start, f"the bracket `{token.text}` closes nothing")
            source.closing[open_brackets.pop()] = index
    if open_brackets:
        token = source.tokens[open_brackets[-1]]
        raise source.error(token.start, f"the bracket `{token.text}` is not closed")
    return source


def split_statements(text: str, *, origin: Origin = NOWHERE) -> list[SqlText]:
    """Split a script at its semicolons; statements keep their place in the file, empty ones fall away.

    The tokens of a statement are not checked for brackets: `scan` its text for that.
    """
    script = _lex(text, origin, 1)
    statements: list[SqlText] = []
    pending: list[Token] = []
    for token in script.tokens:
        if token.text != ";" and token.kind is not TokenKind.END:
            pending.append(token)
        elif pending:
            start, end = pending[0].start, pending[-1].end
            column = script.position(start)[1]
            statements.append(_lex(text[start:end], script.origin_at(start), column))
            pending = []
    return statements


def _lex(text: str, origin: Origin, first_column: int) -> SqlText:
    line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
    tokens: list[Token] = []
    source = SqlText(text, (), {}, origin, first_column, line_starts)
    position = 0
    while position < len(text):
        match = _PATTERN.match(text, position)
        if match is None:
            kind = "quoted identifier" if text[position] == "`" else "string"
            raise source.error(position, f"the {kind} that starts here is not closed")
        group, end = match.lastgroup, match.end()
        if group == "comment":
            end = _end_of_comment(source, position)
            if text.startswith("/*+", position):
                tokens.append(Token(TokenKind.HINT, text[position:end], position, end))
        elif group is not None and group != "skip":
            tokens.append(Token(_KINDS[group], match[0], position, end))
        position = end
    end = tokens[-1].end if tokens else 0
    tokens.append(Token(TokenKind.END, "", end, end))
    return SqlText(text, tuple(tokens), {}, origin, first_column, line_starts)


def _end_of_comment(source: SqlText, start: int) -> int:
    """Return the offset after a block comment; block comments nest, as in Spark."""
    depth = 0
    for match in re.finditer(r"/\*|\*/", source.text[start:]):
        depth += 1 if match[0] == "/*" else -1
        if depth == 0:
            return start + match.end()
    raise source.error(start, "the comment that starts here is not closed")
