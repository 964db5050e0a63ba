"""The keys of a project's `configuration` that mean something to us: what each takes, and what it is where it is not set."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lakelet.errors import Origin, SpecError, did_you_mean

TABLES_PREFIX = "lakelet.tables."
SOURCE_FOLDERS = "lakelet.source.folders"
TRIGGER_INTERVAL = "pipelines.trigger.interval"
STOP_TIMEOUT = "lakelet.stop.timeout"
KEPT_BATCHES = "spark.sql.streaming.minBatchesToRetain"

_SECONDS = {"millisecond": 0.001, "second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One key of `configuration` that means something to us.

    Attributes:
        default: its value when it is not set, None where not setting it means something of its own.
        doc: one sentence for the reference page.
        parse: raises ValueError, with what is allowed as its text, for a wrong value.
    """

    key: str
    default: str | None
    doc: str
    parse: Callable[[str], Any]


def is_setting(key: str) -> bool:
    """Return whether we read a key: all of our own, and some of Databricks' and Spark's."""
    return key.startswith("lakelet.") or key in SETTINGS


def check_setting(key: str, value: str, *, origin: Origin | None = None) -> None:
    """Check one setting.

    Raises:
        SpecError: `PIPELINE_SETTING_UNKNOWN` or `PIPELINE_SETTING_INVALID`.
    """
    declared = SETTINGS.get(TABLES_PREFIX + "<name>" if key.startswith(TABLES_PREFIX) else key)
    if declared is None:
        near = did_you_mean(key, SETTINGS)
        raise SpecError(
            "PIPELINE_SETTING_UNKNOWN",
            f"there is no setting `{key}`",
            origin=origin,
            hint=f"did you mean `{near}`?" if near else "the settings are " + ", ".join(SETTINGS),
        )
    try:
        declared.parse(value)
    except ValueError as error:
        raise SpecError(
            "PIPELINE_SETTING_INVALID",
            f"`{key}` is {re.sub(r'token=[^;]*', 'token=…', value)!r}",
            origin=origin,
            cause=str(error),
            hint=f"its default is `{declared.default}`" if declared.default else declared.doc,
        ) from None


# -- what a value may be ------------------------------------------------------------------------------------------


def interval_seconds(text: str) -> float:
    """Parse an interval such as `10 seconds` or `1 minute 30 seconds`.

    Raises:
        ValueError: for anything else, and for zero.
    """
    found = re.findall(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+?)s?(?=\s|$)", text.strip())
    total = sum(float(number) * _SECONDS.get(unit.lower(), float("nan")) for number, unit in found)
    rest = re.sub(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", "", text).strip()
    if not found or rest or not total > 0:
        raise ValueError("an interval is a number and a unit, as in `10 seconds` or `1 minute`")
    return total


def size_bytes(text: str) -> int:
    """Parse a size such as `512m`, `1g` or a number of bytes.

    Raises:
        ValueError: for anything else, and for zero.
    """
    match = re.fullmatch(r"(\d+)\s*([kmgt]?)i?b?", text.strip().lower())
    if match is None or int(match[1]) == 0:
        raise ValueError("a size is a number of bytes, or a number with `k`, `m` or `g`, as in `512m`")
    return int(match[1]) * _BYTES[match[2]]


def _engine(text: str) -> str:
    if text == "sail" or text.startswith("sc://"):
        return text
    raise ValueError("an engine is `sail`, or the address of a Spark Connect server, as in `sc://localhost:15002`")


def _timezone(text: str) -> str:
    from zoneinfo import ZoneInfo

    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        raise ValueError("a time zone is a name such as `UTC` or `Europe/Zurich`") from None
    return text


def _ties(text: str) -> str:
    if text not in ("warn", "fail"):
        raise ValueError("it is `warn` or `fail`")
    return text


def _boolean(text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ValueError("it is `true` or `false`")
    return text.strip().lower() == "true"


def _count(text: str) -> int:
    if not text.strip().isdigit() or int(text) == 0:
        raise ValueError("it is a positive number")
    return int(text)


def _whole(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError("it is a whole number, 0 or more")
    return int(text)


def _folders(text: str) -> tuple[str, ...]:
    return tuple(folder.strip() for folder in text.split(",") if folder.strip())


def _path(text: str) -> str:
    if not text.strip():
        raise ValueError("it is the path of a Delta table")
    return text


def _file(text: str) -> str:
    if not text.strip():
        raise ValueError("it is the path of a file")
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("it is a name")
    return text


def _http_address(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ValueError("it is an `http://` or `https://` address without a password in it")
    return text


# -- the settings -------------------------------------------------------------------------------------------------

SETTINGS: Mapping[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting(
            key="lakelet.engine",
            default="sail",
            doc="What runs the queries: `sail` (embedded) or the `sc://` address of a Spark Connect server.",
            parse=_engine,
        ),
        Setting(
            key=TABLES_PREFIX + "<name>",
            default=None,
            doc="Where an external table is: a Delta table's path, relative to the project file.",
            parse=_path,
        ),
        Setting(
            key=TRIGGER_INTERVAL,
            default=None,
            doc="How far apart a continuous update starts the batches of a table, at least, as in `10 seconds`; a table "
            "may set its own.",
            parse=interval_seconds,
        ),
        Setting(
            key="lakelet.maintenance.enabled",
            default="true",
            doc="Whether a continuous update puts small files together and removes old ones beside its flows.",
            parse=_boolean,
        ),
        Setting(
            key="lakelet.maintenance.interval",
            default="10 minutes",
            doc="How long a continuous update leaves a table alone before it maintains it.",
            parse=interval_seconds,
        ),
        Setting(
            key=STOP_TIMEOUT,
            default="10 seconds",
            doc="How long queries still run after Ctrl-C or SIGTERM before they are given up; the next update runs them again.",
            parse=interval_seconds,
        ),
        Setting(
            key="lakelet.events.retention",
            default="30 days",
            doc="How long events stay in the event log.",
            parse=interval_seconds,
        ),
        Setting(
            key=KEPT_BATCHES,
            default="20",
            doc="How many finished micro-batches of a flow stay in its checkpoint, for people to look at.",
            parse=_count,
        ),
        Setting(
            key="lakelet.maxBytesPerTrigger",
            default=None,
            doc="At most how many bytes of input a micro-batch reads, where the source itself sets no limit; 64 MiB unless set.",
            parse=size_bytes,
        ),
        Setting(
            key="lakelet.timezone",
            default="UTC",
            doc="The session's time zone: decides what day a timestamp falls on.",
            parse=_timezone,
        ),
        Setting(
            key=SOURCE_FOLDERS,
            default="",
            doc="Extra folders, separated by commas, whose modules the pipeline's files may import.",
            parse=_folders,
        ),
        Setting(
            key="lakelet.views.recomputeRows",
            default="200000",
            doc="A view with groups whose tables have no more rows than this is computed anew instead of incrementally, which "
            "costs less; 0 never prefers that. For `refresh_policy` auto.",
            parse=_whole,
        ),
        Setting(
            key="lakelet.cdc.ties",
            default="warn",
            doc="What happens when two changes of a key have the same sequence and differ: `warn` or `fail`.",
            parse=_ties,
        ),
        Setting(
            key="lakelet.openlineage.url",
            default=None,
            doc="The server that gets the lineage of updates as OpenLineage events; its key is in the variable "
            "`OPENLINEAGE_API_KEY`.",
            parse=_http_address,
        ),
        Setting(
            key="lakelet.openlineage.file",
            default=None,
            doc="A file, relative to the project file, to which OpenLineage events are appended as JSON lines.",
            parse=_file,
        ),
        Setting(
            key="lakelet.openlineage.namespace",
            default="lakelet",
            doc="The namespace of jobs and tables in OpenLineage events.",
            parse=_name,
        ),
    )
}
