"""What an operator with state needs of the columns that it reads, checked before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql.types import MapType, StructType, TimestampNTZType, TimestampType

from lakelet.errors import GraphError, Origin
from lakelet.execution.stateful_part import StatefulPart
from lakelet.plan.stateful import Operator, inputs_of

if TYPE_CHECKING:
    from lakelet.execution.resolution import Resolver


def check_stateful(resolver: Resolver, part: StatefulPart, origin: Origin) -> None:
    """Check the columns below an operator.

    Raises:
        GraphError: `EVENT_TIME_IS_NOT_ON_TIMESTAMP_TYPE`, `COLUMN_ALREADY_EXISTS`, `UNRESOLVED_COLUMN`,
            `UNSUPPORTED_STREAMING_OPERATOR`.
    """
    for watermark in part.watermarks:
        columns = resolver.analyze(watermark.relation, origin)
        found = next((item for item in columns.fields if item.name.lower() == watermark.column.lower()), None)
        if found is None:
            raise GraphError(
                "UNRESOLVED_COLUMN",
                f"`withWatermark` names a column `{watermark.column}` that its input does not have",
                origin=watermark.origin,
                cause=f"the columns there are {', '.join(columns.names)}",
                hint="name a timestamp column of the stream",
            )
        if not isinstance(found.dataType, TimestampType | TimestampNTZType):
            raise GraphError(
                "EVENT_TIME_IS_NOT_ON_TIMESTAMP_TYPE",
                f"the event time `{watermark.column}` is {found.dataType.simpleString()}, not a timestamp",
                origin=watermark.origin,
                hint=f'cast it first: `.withColumn("{watermark.column}", F.to_timestamp("{watermark.column}"))`',
            )
    for item in inputs_of(part.node):
        _check_input(part, resolver.analyze(item, origin))


def _check_input(part: StatefulPart, columns: StructType) -> None:
    folded = [name.lower() for name in columns.names]
    twice = next((name for position, name in enumerate(columns.names) if name.lower() in folded[:position]), None)
    if twice is not None:
        raise GraphError(
            "COLUMN_ALREADY_EXISTS",
            f"the rows that a {part.operator.value} remembers have the column `{twice}` twice",
            origin=part.origin,
            hint="rename or drop one of the two before it",
        )
    if part.operator not in (Operator.DEDUPLICATE, Operator.DEDUPLICATE_WITHIN_WATERMARK):
        return
    node = part.node.deduplicate
    missing = [name for name in node.column_names if name.lower() not in folded]
    if missing:
        raise GraphError(
            "UNRESOLVED_COLUMN",
            f"`{part.operator.value}` names a column `{missing[0]}` that its input does not have",
            origin=part.origin,
            cause=f"the columns there are {', '.join(columns.names)}",
            hint="correct the name",
        )
    for key in part.keys(columns.names):
        if isinstance(columns[key].dataType, MapType):
            raise GraphError(
                "UNSUPPORTED_STREAMING_OPERATOR",
                f"`{part.operator.value}` by the map `{key}` is not supported",
                origin=part.origin,
                cause="maps cannot be compared",
                hint="name the columns that identify a row",
            )
