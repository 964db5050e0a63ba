"""Options of a read of a Delta table, as a stream and as a table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lakelet.errors import SourceError, did_you_mean

_BOTH = ("readChangeFeed", "readChangeData", "startingVersion", "startingTimestamp")
_STREAM = (
    *_BOTH, "maxFilesPerTrigger", "maxBytesPerTrigger", "skipChangeCommits", "ignoreDeletes", "ignoreChanges",
    "failOnDataLoss", "excludeRegex", "withEventTimeOrder",
)  # fmt: skip
_TABLE = (*_BOTH, "endingVersion", "endingTimestamp", "versionAsOf", "timestampAsOf")
_FLAGS = {
    "readchangefeed", "readchangedata", "skipchangecommits", "ignoredeletes", "ignorechanges", "failondataloss",
    "witheventtimeorder",
}  # fmt: skip
_TIMES = {"startingtimestamp", "endingtimestamp", "timestampasof"}
_REFUSED = {"schemaTrackingLocation": "leave it out: column mapping is not supported"}
_EXCLUSIVE = (
    ("startingversion", "startingtimestamp"),
    ("endingversion", "endingtimestamp"),
    ("versionasof", "timestampasof"),
)
_UNITS = {"b": 1, "k": 2**10, "kb": 2**10, "m": 2**20, "mb": 2**20, "g": 2**30, "gb": 2**30, "": 1}


def parse_bytes(text: str) -> int | None:
    """Return the number of bytes that `10g`, `64 MB` or `1024` means, None if it means nothing."""
    stripped = text.strip().lower()
    digits = stripped.rstrip("bkmgt ").strip()
    unit = stripped[len(digits) :].strip()
    return int(digits) * _UNITS[unit] if digits.isdigit() and unit in _UNITS else None


def parse_time(text: str) -> datetime | None:
    """Return the instant that `2024-05-01` or `2024-05-01 10:00:00.5` means, in UTC where it names no zone."""
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return value if value.tzinfo else value.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class DeltaOptions:
    """The options of one read; keys in lower case, as Spark compares them."""

    given: Mapping[str, str] = field(default_factory=dict)

    def flag(self, key: str, *, default: bool = False) -> bool:
        text = self.given.get(key)
        return default if text is None else text.strip().lower() == "true"

    def text(self, key: str) -> str | None:
        text = self.given.get(key)
        return None if text is None else text.strip()

    def time_ms(self, key: str) -> int | None:
        text = self.given.get(key)
        value = None if text is None else parse_time(text)
        return None if value is None else int(value.timestamp() * 1000)

    @property
    def change_feed(self) -> bool:
        """Whether the changes are read, and not the rows."""
        return self.flag("readchangefeed") or self.flag("readchangedata")

    @property
    def reads_old_version(self) -> bool:
        """Whether a version is asked for, and not the newest."""
        return "versionasof" in self.given or "timestampasof" in self.given

    @property
    def handles_changes(self) -> bool:
        """Whether commits that change rows are read or left out on the user's word, and so do no harm."""
        return self.change_feed or self.flag("skipchangecommits") or self.flag("ignorechanges")

    @property
    def max_files(self) -> int:
        return int(self.given.get("maxfilespertrigger", "1000"))

    def max_bytes(self, default: int) -> int:
        text = self.given.get("maxbytespertrigger")
        return default if text is None else parse_bytes(text) or default


def check_options(label: str, options: Mapping[str, str], *, streaming: bool) -> None:
    """Check the options of a read of a Delta table.

    Args:
        options: keys in lower case.

    Raises:
        SourceError: `UNSUPPORTED_OPTION`, `UNKNOWN_OPTION`, `INVALID_OPTION`.
    """
    refused = {name.lower(): (name, hint) for name, hint in _REFUSED.items()}
    known = {name.lower(): name for name in (_STREAM if streaming else _TABLE)}
    what = "a streaming read of a Delta table" if streaming else "a read of a Delta table"
    for key, text in options.items():
        if key in refused:
            name, hint = refused[key]
            raise SourceError("UNSUPPORTED_OPTION", f"the option `{name}` of `{label}` is not supported", hint=hint)
        if key == "path":
            continue
        if key not in known:
            near = did_you_mean(key, known)
            raise SourceError(
                "UNKNOWN_OPTION",
                f"`{key}` is no option of {what}",
                cause=f"the options are {', '.join(known.values())}",
                hint=f"did you mean `{known[near]}`?" if near else "remove it",
            )
        problem = _value_problem(key, text.strip(), streaming=streaming)
        if problem:
            raise SourceError("INVALID_OPTION", f"`{known[key]}` of `{label}` is `{text}`", hint=problem)
    _check_together(label, DeltaOptions(options), known, streaming=streaming)


def _check_together(label: str, options: DeltaOptions, known: Mapping[str, str], *, streaming: bool) -> None:
    for one, other in _EXCLUSIVE:
        if one in options.given and other in options.given:
            raise SourceError(
                "INVALID_OPTION",
                f"`{known[one]}` and `{known[other]}` of `{label}` are both set",
                hint="leave one of them out",
            )
    if streaming:
        return
    ranged = [known[key] for key in options.given if key.startswith(("starting", "ending"))]
    if ranged and not options.change_feed:
        raise SourceError(
            "INVALID_OPTION",
            f"`{ranged[0]}` of `{label}` is for the change feed of a table",
            hint='set `.option("readChangeFeed", "true")`, or read an old version with `versionAsOf`',
        )
    if options.change_feed and not any(name.startswith("starting") for name in ranged):
        raise SourceError(
            "INVALID_OPTION",
            f"the change feed of `{label}` is read from no version",
            hint="set `startingVersion` or `startingTimestamp`",
        )


def _value_problem(key: str, text: str, *, streaming: bool) -> str | None:
    """Return how to write the value of an option that is wrong, None if it is right."""
    if key == "startingversion" and not text.isdigit() and not (streaming and text == "latest"):
        return 'give a version number, or "latest"' if streaming else "give a version number"
    if key in ("endingversion", "versionasof") and not text.isdigit():
        return "give a version number"
    if key in _TIMES and parse_time(text) is None:
        return 'give a timestamp, for example "2024-05-01 10:00:00"'
    if key == "maxfilespertrigger" and (not text.isdigit() or int(text) == 0):
        return "give a positive number, for example 100"
    if key == "maxbytespertrigger" and not parse_bytes(text):
        return "give a size, for example 64m"
    if key in _FLAGS and text.lower() not in ("true", "false"):
        return 'give "true" or "false"'
    if key == "excluderegex":
        try:
            re.compile(text)
        except re.error as error:
            return f"write a regular expression: {error}"
    return None
