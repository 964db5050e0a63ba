"""AUTO CDC, its columns: what a flow's target and auxiliary table have, and whether a declaration fits its source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyspark.sql.types import (
    ArrayType,
    CalendarIntervalType,
    DataType,
    MapType,
    StringType,
    StructField,
    StructType,
    VariantType,
)

from lakelet.errors import DefinitionError, DefinitionErrors, LakeletError, did_you_mean
from lakelet.plan import relation

if TYPE_CHECKING:
    from lakelet.engine.base import Engine
    from lakelet.graph.elements import AutoCdcFlow

START_AT = "__START_AT"
END_AT = "__END_AT"

PREFIX = "__lakelet_"
SEQUENCE = PREFIX + "sequence"
DELETE = PREFIX + "delete"
TRUNCATE = PREFIX + "truncate"
"""Only in auxiliary tables that a flow with `apply_as_truncates` has written."""
KEPT = PREFIX + "kept"
"""Only in auxiliary tables that a flow with ignored NULLs has written: the paths whose NULL keeps the value before."""
NEW = PREFIX + "new"
"""Only in memory: whether the batch at hand has brought the event."""
APP_ID = PREFIX + "app_id"
BATCH_ID = PREFIX + "batch_id"
STORED_AT = PREFIX + "stored_at"
"""Clock of the batch that added the event."""

METADATA_PROPERTY = "lakelet.cdc"


@dataclass(frozen=True, slots=True, kw_only=True)
class CdcMetadata:
    """What every event of an auxiliary table agrees on; kept as JSON in the table's property `lakelet.cdc`."""

    keys: tuple[tuple[str, str], ...]
    sequence_type: str
    scd_type: int
    track_history: tuple[str, ...] | None
    track_history_except: tuple[str, ...] | None

    def to_json(self) -> str:
        return json.dumps(
            {
                "keys": [list(key) for key in self.keys],
                "sequence_type": self.sequence_type,
                "scd_type": self.scd_type,
                "track_history": self.track_history,
                "track_history_except": self.track_history_except,
            }
        )

    @staticmethod
    def from_json(text: str) -> CdcMetadata:
        """Read what `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError: the text is something else.
        """
        found = json.loads(text)
        tracked, untracked = found["track_history"], found["track_history_except"]
        return CdcMetadata(
            keys=tuple((name, kind) for name, kind in found["keys"]),
            sequence_type=found["sequence_type"],
            scd_type=found["scd_type"],
            track_history=None if tracked is None else tuple(tracked),
            track_history_except=None if untracked is None else tuple(untracked),
        )


def metadata_of(flow: AutoCdcFlow, source: StructType, sequence_type: DataType) -> CdcMetadata:
    """Return what the auxiliary table of `flow` must agree on; names are folded and sorted, so spelling is no drift."""
    types = {field.name.lower(): field.dataType.simpleString() for field in source}
    return CdcMetadata(
        keys=tuple(sorted((key.lower(), types[key.lower()]) for key in flow.keys)),
        sequence_type=sequence_type.simpleString(),
        scd_type=flow.scd_type,
        track_history=_folded(flow.track_history_column_list),
        track_history_except=_folded(flow.track_history_except_column_list),
    )


def _folded(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(sorted(name.lower() for name in names))


# -- the target ---------------------------------------------------------------------------------------------------


def sequence_type_of(flow: AutoCdcFlow, source: StructType, engine: Engine) -> DataType:
    """Return the type of `sequence_by` over the columns of `source`; one analysis call to the engine.

    Raises:
        QueryError: the expression cannot be resolved, with the flow's origin.
    """
    columns = {SEQUENCE: relation.expression_of(flow.sequence_by)}
    try:
        schema = engine.schema(relation.with_columns(relation.empty(source), columns))
    except LakeletError as error:
        raise error.at(flow.origin) from error.__cause__
    return schema[SEQUENCE].dataType


def target_schema(flow: AutoCdcFlow, source: StructType, sequence_type: DataType) -> StructType:
    """Return the columns of the flow's target: the selected source columns, then for SCD 2 the two of the interval.

    Raises:
        DefinitionError: the declaration does not fit the source's columns; `DefinitionErrors` if several things do not.
    """
    problems = list(definition_problems(flow, source, sequence_type))
    if len(problems) > 1:
        raise DefinitionErrors(problems)
    if problems:
        raise problems[0]
    fields = [StructField(field.name, field.dataType, True) for field in selected_fields(flow, source)]
    if flow.scd_type == 2:
        fields += [StructField(name, sequence_type, True) for name in (START_AT, END_AT)]
    return StructType(fields)


def selected_fields(flow: AutoCdcFlow, source: StructType) -> list[StructField]:
    """Return the source columns that `column_list` or `except_column_list` leave for the target, in source order."""
    return [field for field in source if _in_lists(field.name, flow.column_list, flow.except_column_list)]


def tracked_names(flow: AutoCdcFlow, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns whose change opens a new version; keys never change and are left out."""
    keys = {key.lower() for key in flow.keys}
    lists = (flow.track_history_column_list, flow.track_history_except_column_list)
    return tuple(name for name in columns if name.lower() not in keys and _in_lists(name, *lists))


def null_keeping_names(flow: AutoCdcFlow, columns: Iterable[str]) -> tuple[str, ...]:
    """Return the columns in which an upsert may keep the value before: by a NULL, or by `columns_to_update`."""
    keys = {key.lower() for key in flow.keys}
    if flow.columns_to_update is not None:
        return tuple(name for name in columns if name.lower() not in {*keys, flow.columns_to_update.lower()})
    lists = (flow.ignore_null_updates_column_list, flow.ignore_null_updates_except_column_list)
    if not keeps_values(flow):
        return ()
    return tuple(name for name in columns if name.lower() not in keys and _in_lists(name, *lists))


def keeps_values(flow: AutoCdcFlow) -> bool:
    """Return whether an upsert of the flow may keep the value that an event before it has set."""
    lists = (flow.ignore_null_updates_column_list, flow.ignore_null_updates_except_column_list)
    return flow.columns_to_update is not None or flow.ignore_null_updates is True or lists != (None, None)


def _in_lists(name: str, only: tuple[str, ...] | None, without: tuple[str, ...] | None) -> bool:
    if only is not None:
        return name.lower() in {item.lower() for item in only}
    return without is None or name.lower() not in {item.lower() for item in without}


# -- checks -------------------------------------------------------------------------------------------------------


def definition_problems(
    flow: AutoCdcFlow, source: StructType, sequence_type: DataType | None
) -> Iterator[DefinitionError]:
    """Yield everything in which the declaration does not fit its source's columns.

    Args:
        sequence_type: None where it cannot be told, which is a problem of its own.
    """
    selected = selected_fields(flow, source)
    checks = (_missing_columns, _unselected_keys, _reserved_names, _wrong_scd_type, _key_types, _wrong_array)
    for check in checks:
        yield from check(flow, source, selected)
    if sequence_type is not None and not is_orderable(sequence_type):
        yield DefinitionError(
            "AUTOCDC_MICROBATCH_VALIDATION.NON_ORDERABLE_SEQUENCE",
            f"`sequence_by` of flow `{flow.name}` is {sequence_type.simpleString()}, which has no order",
            origin=flow.origin,
            cause="the sequence decides which of two events is later, so its values must be sortable",
            hint="use a number, a string, a date, a timestamp, or a struct of them such as `struct(updated_at, id)`",
        )


def _missing_columns(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    of_source, of_target = source.names, [field.name for field in selected]
    named = [
        ("keys", flow.keys, of_source),
        ("columns_to_update", None if flow.columns_to_update is None else (flow.columns_to_update,), of_source),
        ("column_list", flow.column_list, of_source),
        ("except_column_list", flow.except_column_list, of_source),
        ("track_history_column_list", flow.track_history_column_list, of_target),
        ("track_history_except_column_list", flow.track_history_except_column_list, of_target),
        ("ignore_null_updates_column_list", flow.ignore_null_updates_column_list, of_target),
        ("ignore_null_updates_except_column_list", flow.ignore_null_updates_except_column_list, of_target),
    ]
    for parameter, names, known in named:
        folded = {name.lower() for name in known}
        for name in names or ():
            if name.lower() in folded:
                continue
            near = did_you_mean(name, known)
            where = f"source `{flow.source}`" if known is of_source else "target"
            yield DefinitionError(
                "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA",
                f"`{parameter}` of flow `{flow.name}` names a column `{name}` that its {where} does not have",
                origin=flow.origin,
                cause=f"the columns there are {', '.join(f'`{column}`' for column in known) or 'none'}",
                hint=f"did you mean `{near}`?" if near else f"correct or remove `{name}` in `{parameter}`",
            )


def _unselected_keys(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    present = {name.lower() for name in source.names}
    kept = {field.name.lower() for field in selected}
    for key in flow.keys:
        if key.lower() in present and key.lower() not in kept:
            parameter = "column_list" if flow.column_list is not None else "except_column_list"
            action = "add it to" if flow.column_list is not None else "remove it from"
            yield DefinitionError(
                "AUTOCDC_KEY_NOT_IN_SELECTED_SCHEMA",
                f"the key `{key}` of flow `{flow.name}` is not a column of its target",
                origin=flow.origin,
                cause=f"`{parameter}` leaves it out, and the target's rows are identified by their keys",
                hint=f"{action} `{parameter}`",
            )


def _reserved_names(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    reserved = {START_AT.lower(), END_AT.lower()} if flow.scd_type == 2 else set()
    for field in selected:
        hint = f"rename it in `{flow.source}`, or leave it out with `except_column_list`"
        if field.name.lower() in reserved:
            yield DefinitionError(
                "AUTOCDC_RESERVED_COLUMN_NAME_CONFLICT",
                f"the source of flow `{flow.name}` has a column `{field.name}`",
                origin=flow.origin,
                cause=f"an SCD type 2 target has columns `{START_AT}` and `{END_AT}` of its own",
                hint=hint,
            )
        elif field.name.lower().startswith(PREFIX):
            yield DefinitionError(
                "AUTOCDC_RESERVED_COLUMN_NAME_PREFIX_CONFLICT",
                f"the source of flow `{flow.name}` has a column `{field.name}`",
                origin=flow.origin,
                cause=f"names that start with `{PREFIX}` are those of the auxiliary table",
                hint=hint,
            )


def _wrong_scd_type(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    if flow.scd_type == 1 and (
        flow.track_history_column_list is not None or flow.track_history_except_column_list is not None
    ):
        yield DefinitionError(
            "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2",
            f"flow `{flow.name}` chooses tracked columns but stores SCD type 1",
            origin=flow.origin,
            cause="SCD type 1 keeps no history",
            hint="set `stored_as_scd_type=2`, or remove the `track_history` parameter",
        )
    if flow.scd_type == 2 and flow.apply_as_truncates is not None:
        yield DefinitionError(
            "AUTOCDC_TRUNCATE_REQUIRES_SCD1",
            f"flow `{flow.name}` has `apply_as_truncates` but stores SCD type 2",
            origin=flow.origin,
            cause="a truncate removes rows, and SCD type 2 removes none",
            hint="set `stored_as_scd_type=1`, or send deletes for the keys and use `apply_as_deletes`",
        )


def _key_types(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    keys = {key.lower() for key in flow.keys}
    for field in source:
        if field.name.lower() in keys and isinstance(field.dataType, ArrayType | MapType | StructType | VariantType):
            yield DefinitionError(
                "AUTOCDC_KEY_TYPE_NOT_SUPPORTED",
                f"the key `{field.name}` of flow `{flow.name}` is {field.dataType.simpleString()}",
                origin=flow.origin,
                cause="a key is a single value: rows are found and files are skipped by it",
                hint="use the fields of the struct as keys, each as a column of its own",
            )


def _wrong_array(flow: AutoCdcFlow, source: StructType, selected: list[StructField]) -> Iterator[DefinitionError]:
    for field in source:
        kind = field.dataType
        if field.name.lower() != (flow.columns_to_update or "").lower():
            continue
        if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, StringType)):
            yield DefinitionError(
                "AUTOCDC_COLUMNS_TO_UPDATE_TYPE",
                f"`columns_to_update` of flow `{flow.name}` is `{field.name}`, which is {kind.simpleString()}",
                origin=flow.origin,
                cause="it lists the names of the columns that an event sets",
                hint="name a column of type ARRAY<STRING>",
            )


# -- types --------------------------------------------------------------------------------------------------------


def is_orderable(kind: DataType) -> bool:
    """Return whether values of this type have an order: everything but maps, variants and calendar intervals."""
    if isinstance(kind, StructType):
        return bool(kind.fields) and all(is_orderable(field.dataType) for field in kind)
    if isinstance(kind, ArrayType):
        return is_orderable(kind.elementType)
    return not isinstance(kind, MapType | VariantType | CalendarIntervalType)
