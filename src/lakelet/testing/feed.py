"""An input that tells a story: rows that arrive one batch after the other, and what goes wrong between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from lakelet.errors import DefinitionError, SpecError
from lakelet.settings import interval_seconds
from lakelet.testing.crash import Crash, check_point


@dataclass(frozen=True, slots=True)
class ABORT:
    """The update dies in the middle of the batch before this item, once: the next run goes on after it.

    Without a batch before it, in the same run, the update dies before it has read anything.

    Args:
        at: where in the batch, one of `CRASH_POINTS`; by default after it was planned and before its rows are written.
        occurrence: at which pass of that point, counted over all flows.

    Raises:
        DefinitionError: `TEST_CRASH_POINT_UNKNOWN`.
    """

    at: str = "flow.intent_written"
    occurrence: int = 1

    def __post_init__(self) -> None:
        check_point(self.at, self.occurrence)


@dataclass(frozen=True, slots=True)
class EOF:
    """The run ends here; the next one goes on with what follows."""


@dataclass(frozen=True, slots=True)
class PAUSE:
    """Time passes before what follows, on the test's clock: nobody waits.

    Args:
        duration: a timedelta, or text such as `"5 minutes"`.

    Raises:
        DefinitionError: `TEST_FEED_INVALID`.
    """

    duration: timedelta | str

    def __post_init__(self) -> None:
        if self.time < timedelta():
            raise _invalid(f"`PAUSE({self.duration!r})` goes back in time", "set `test.now` for that")

    @property
    def time(self) -> timedelta:
        if isinstance(self.duration, timedelta):
            return self.duration
        try:
            return timedelta(seconds=interval_seconds(self.duration))
        except (SpecError, ValueError, AttributeError) as error:
            raise _invalid(
                f"`PAUSE({self.duration!r})` is no length of time", 'write `PAUSE("5 minutes")`, or give a timedelta'
            ) from error


class Feed:
    """What is still to come of one input.

    Args:
        name: of the input, as `PipelineTest.given` takes it.
    """

    def __init__(self, *, name: str, items: Sequence[Any], schema: str | None = None) -> None:
        if isinstance(items, (str, bytes, Mapping)) or not isinstance(items, Sequence):
            raise _invalid(f"the items of `{name}` are a {type(items).__name__}", "give a list of batches of rows")
        for position, item in enumerate(items):
            if isinstance(item, Mapping):
                raise _invalid(
                    f"item {position + 1} of `{name}` is a single row", "each item is a batch: put the row into a list"
                )
            if isinstance(item, type) and item in (ABORT, EOF, PAUSE):
                raise _invalid(f"item {position + 1} of `{name}` is the class {item.__name__}", "call it")
        self.name = name
        self.schema = schema
        self.left = list(items)

    def take(self, turn: Turn) -> None:
        """Move the next batch of rows, with what stands before it and goes with it, into a turn."""
        has_rows = False
        while self.left:
            item = self.left[0]
            if has_rows and not isinstance(item, ABORT | EOF):
                return
            self.left.pop(0)
            match item:
                case ABORT():
                    if not has_rows:
                        raise Crash(item.at)
                    turn.abort = item
                    return
                case EOF():
                    turn.is_last = True
                    return
                case PAUSE():
                    turn.pause += item.time
                case _:
                    turn.rows.append(FeedRows(name=self.name, rows=item, schema=self.schema))
                    has_rows = True


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedRows:
    """Rows that arrive at an input."""

    name: str
    rows: Any
    schema: str | None


@dataclass(slots=True, kw_only=True)
class Turn:
    """What happens until the pipeline takes its next micro-batches.

    Attributes:
        abort: the update dies while it takes them.
        is_last: the run ends after them.
    """

    rows: list[FeedRows] = field(default_factory=list)
    pause: timedelta = timedelta()
    abort: ABORT | None = None
    is_last: bool = False


def next_turn(feeds: Sequence[Feed]) -> Turn:
    """Take the next batch of every feed; without feeds, what was given is one turn.

    Raises:
        Crash: a feed has an `ABORT()` with nothing before it.
    """
    turn = Turn()
    for feed in feeds:
        feed.take(turn)
    turn.is_last = turn.is_last or not any(feed.left for feed in feeds)
    return turn


def _invalid(message: str, hint: str) -> DefinitionError:
    return DefinitionError("TEST_FEED_INVALID", message, hint=hint)
