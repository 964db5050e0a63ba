"""Versions of snapshots: values that order them, become sequence values of the history, and are noted in checkpoints."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from pyspark.sql.types import (
    BinaryType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    LongType,
    StringType,
    TimestampType,
)

from lakelet.errors import CdcError

if TYPE_CHECKING:
    from lakelet.graph.elements import SnapshotCdcFlow

TYPES = "int, str, float, bytes, datetime, date or Decimal"
_DECIMAL = DecimalType(38, 18)
_SPARK_TYPES: dict[str, DataType] = {
    "int": LongType(),
    "str": StringType(),
    "float": DoubleType(),
    "bytes": BinaryType(),
    "datetime": TimestampType(),
    "date": DateType(),
    "Decimal": _DECIMAL,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotVersion:
    """The version of one snapshot.

    Attributes:
        kind: name of its Python type.
        value: what the user's function returned; a datetime has a time zone.
    """

    kind: str
    value: Any

    @property
    def type(self) -> DataType:
        return _SPARK_TYPES[self.kind]

    @property
    def sql(self) -> str:
        """The version as a SQL literal of `type`."""
        match self.kind:
            case "bytes":
                return f"unhex('{self.value.hex()}')"
            case "str":
                text: str = self.value
                return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
            case _:
                return f"CAST('{self._text}' AS {self.type.simpleString()})"

    @property
    def _text(self) -> str:
        match self.kind:
            case "bytes":
                return str(self.value.hex())
            case "datetime":
                return str(self.value.astimezone(UTC).isoformat())
            case "date":
                return str(self.value.isoformat())
            case "float":
                return repr(self.value)
            case "Decimal":
                return f"{self.value:f}"
            case _:
                return str(self.value)

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind, "text": self._text}

    @staticmethod
    def from_json(data: Mapping[str, str]) -> SnapshotVersion:
        """Read what `to_json` wrote."""
        kind, text = data["kind"], data["text"]
        value: Any = text
        match kind:
            case "int":
                value = int(text)
            case "float":
                value = float(text)
            case "bytes":
                value = bytes.fromhex(text)
            case "datetime":
                value = datetime.fromisoformat(text)
            case "date":
                value = date.fromisoformat(text)
            case "Decimal":
                value = Decimal(text)
        return SnapshotVersion(kind=kind, value=value)


def version_of(value: Any, flow: SnapshotCdcFlow, *, time_zone: str) -> SnapshotVersion:
    """Check what a snapshot function returned as the version.

    Args:
        time_zone: of datetimes without one.

    Raises:
        CdcError: `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.NULL_SNAPSHOT_VERSION`, `.INVALID_SNAPSHOT_VERSION_TYPE`.
    """
    if value is None:
        raise CdcError(
            "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.NULL_SNAPSHOT_VERSION",
            f"the snapshot function of `{flow.name}` returned a snapshot without a version",
            origin=flow.origin,
            cause="the version orders the snapshots, and it is what `__START_AT` and `__END_AT` show",
            hint=f"return (DataFrame, version) with a version of type {TYPES}",
        )
    if isinstance(value, datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=ZoneInfo(time_zone))
        return SnapshotVersion(kind="datetime", value=moment.astimezone(UTC))
    for kind, python in (("int", int), ("str", str), ("float", float), ("bytes", bytes), ("date", date)):
        if isinstance(value, python) and not isinstance(value, bool) and _fits(value):
            return SnapshotVersion(kind=kind, value=value)
    if isinstance(value, Decimal) and _is_exact(value):
        return SnapshotVersion(kind="Decimal", value=value)
    raise CdcError(
        "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.INVALID_SNAPSHOT_VERSION_TYPE",
        f"the snapshot function of `{flow.name}` returned the version {value!r} of type {type(value).__name__}",
        origin=flow.origin,
        cause="an int has 64 bits, a float is a number, a Decimal has up to 20 digits before and 18 after the point",
        hint=f"return a version of type {TYPES}",
    )


def check_order(version: SnapshotVersion, latest: SnapshotVersion | None, flow: SnapshotCdcFlow) -> None:
    """Require that a version comes after the last one.

    Raises:
        CdcError: `APPLY_CHANGES_FROM_SNAPSHOT_ERROR.SNAPSHOT_VERSION_NOT_SORTABLE` for versions of different types,
            `.INVALID_SNAPSHOT_VERSION` for one that is not greater.
    """
    if latest is None:
        return
    if version.kind != latest.kind:
        raise CdcError(
            "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.SNAPSHOT_VERSION_NOT_SORTABLE",
            f"the snapshot versions of `{flow.name}` cannot be compared: {latest.value!r}, then {version.value!r}",
            origin=flow.origin,
            cause=f"the one is {latest.kind}, the other {version.kind}",
            hint="return versions of one type",
        )
    if version.value <= latest.value:
        raise CdcError(
            "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.INVALID_SNAPSHOT_VERSION",
            f"the snapshot function of `{flow.name}` returned version {version.value!r} after {latest.value!r}",
            origin=flow.origin,
            cause="snapshots are taken in ascending order of their versions, each once",
            hint="return the next greater version than the one that the function gets, and None if there is none",
        )


def _fits(value: Any) -> bool:
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    return not isinstance(value, float) or math.isfinite(value)


def _is_exact(value: Decimal) -> bool:
    """Return whether a number fits DECIMAL(38, 18)."""
    if not value.is_finite() or abs(value) >= 10**20:
        return False
    return int(value.normalize().as_tuple().exponent) >= -18
