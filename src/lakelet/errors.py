"""The one tree of errors, and the one rendering of an error.

    LakeletError
    ├── SpecError            the project file or a command line option is wrong          exit 2
    ├── DefinitionError      a pipeline file declares something wrong, or fails to load  exit 2
    ├── GraphError           the datasets do not form a valid pipeline                   exit 2
    ├── LockError            another process runs an update of this pipeline             exit 2
    ├── FlowError            one flow failed while it ran                                exit 1
    │   ├── SourceError      its input is not what it was or must be
    │   ├── QueryError       the engine refused or failed its query
    │   ├── ExpectationViolation   a fail rule found invalid rows
    │   ├── CdcError         change rows that cannot be applied
    │   └── StorageError     a table or the checkpoint cannot be read or written
    └── DefinitionErrors     several of the above, found in one load                     exit 2

Every error has a condition (Spark's own name where Spark has the case), an origin, a cause, and a hint: an action.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where something was declared: the user's file and line, and what it declares."""

    file: str | None = None
    line: int | None = None
    dataset: str | None = None
    flow: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else (self.file or "")
        things = [f"{kind} `{name}`" for kind, name in (("dataset", self.dataset), ("flow", self.flow)) if name]
        if self.dataset == self.flow:
            things = things[:1]
        return ", ".join(part for part in (place, *things) if part)


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What delta-rs puts into some of its messages for a terminal."""
NOWHERE = Origin()
"""The origin of what no file declares."""


class LakeletError(Exception):
    """An error that a user can act on.

    Args:
        condition: stable upper-case name, documented in docs/reference/errors.md.
        message: one sentence that says what is wrong.
        origin: where it was declared.
        cause: why, one or more lines.
        hint: an action that mends it.
        retryable: whether the same call may succeed when tried again.
    """

    exit_code: int = 1
    """Of the command that ends with this error; 2 where nothing ran, which the same error may mean while loading."""

    def __init__(
        self,
        condition: str,
        message: str,
        *,
        origin: Origin | None = None,
        cause: str | None = None,
        hint: str | None = None,
        retryable: bool = False,
    ) -> None:
        super().__init__(condition, message)
        if hint:
            self.add_note(f"hint: {hint}")
        self.condition = condition
        self.message = message
        self.origin = origin
        self.cause = _COLOURS.sub("", cause) if cause else cause
        self.hint = hint
        self.retryable = retryable

    def __str__(self) -> str:
        return f"[{self.condition}] {self.message}"

    def render(self) -> str:
        """Return the error as the terminal shows it, without a trailing newline."""
        lines = [f"error[{self.condition}]: {self.message}"]
        if self.origin and str(self.origin):
            lines.append(f"  --> {self.origin}")
        if self.cause:
            first, *rest = self.cause.rstrip().splitlines() or [""]
            lines.append(f"  cause: {first}")
            lines.extend(f"         {line}" for line in rest)
        if self.hint:
            lines += ["", f"hint: {self.hint}"]
        return "\n".join(lines)

    def at(self, origin: Origin) -> LakeletError:
        """Fill in what the error does not know about its origin; returns itself."""
        have = self.origin or Origin()
        self.origin = Origin(
            file=have.file or origin.file,
            line=have.line if have.file else origin.line,
            dataset=have.dataset or origin.dataset,
            flow=have.flow or origin.flow,
        )
        if self.hint and self.origin.dataset:
            self.hint = self.hint.replace("<dataset>", self.origin.dataset)
        if self.hint and self.origin.flow:
            name = self.origin.flow
            self.hint = self.hint.replace("<flow>", f"'{name}'" if " " in name else name)
        return self


class SpecError(LakeletError):
    """The project file, or an option of the command line, is wrong."""

    exit_code = 2


class DefinitionError(LakeletError):
    """A pipeline file declares something wrong, or cannot be loaded."""

    exit_code = 2


class GraphError(LakeletError):
    """The declared datasets do not form a valid pipeline."""

    exit_code = 2


class LockError(LakeletError):
    """Another process runs an update of the same pipeline."""

    exit_code = 2


class FlowError(LakeletError):
    """One flow failed while it ran."""


class SourceError(FlowError):
    """The input of a flow is missing, changed or not what it must be."""


class QueryError(FlowError):
    """The engine refused a query, or failed while it ran.

    Attributes:
        column: of `UNRESOLVED_COLUMN`, the name that was not found.
    """

    column: str | None = None


class ExpectationViolation(FlowError):
    """Rows violate an `expect_or_fail` rule; nothing of the batch was written."""


class CdcError(FlowError):
    """Change rows that AUTO CDC cannot apply."""


class StorageError(FlowError):
    """A table, a checkpoint or the event log cannot be read or written."""


class DefinitionErrors(LakeletError):
    """All definition errors of one load, root causes first."""

    exit_code = 2

    def __init__(self, errors: Sequence[LakeletError]) -> None:
        super().__init__("PIPELINE_INVALID", f"{len(errors)} errors in the pipeline's definition")
        self.errors = tuple(errors)

    def render(self) -> str:
        return "\n\n".join(error.render() for error in self.errors)


def raise_all(errors: Sequence[LakeletError]) -> None:
    """Raise what is wrong with a definition, each thing once; the command ends with exit code 2, since nothing ran.

    What fails the same way at the same line, seen from several datasets, is one error.
    """
    found: dict[tuple[object, ...], LakeletError] = {}
    for error in errors:
        for part in error.errors if isinstance(error, DefinitionErrors) else (error,):
            place = (part.origin.file, part.origin.line) if part.origin else None
            found.setdefault((part.condition, part.message, place), part)
            part.exit_code = 2
    each = list(found.values())
    if len(each) == 1:
        raise each[0]
    if each:
        raise DefinitionErrors(each)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return the known name nearest to `name`, or None if none is near."""
    import difflib

    candidates = list(known)
    short = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
    near = difflib.get_close_matches(name, candidates, n=1, cutoff=0.6)
    if near:
        return near[0]
    near = difflib.get_close_matches(name.rpartition(".")[2], list(short), n=1, cutoff=0.6)
    return short[near[0]] if near else None
