"""AUTO CDC, its two tables: opened, created, checked against the flow, and given the columns that its source has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import DataType, StructType

from lakelet.errors import CdcError, DefinitionError
from lakelet.execution.auto_cdc_batch import Ties, spelled
from lakelet.execution.auto_cdc_events import event_relation
from lakelet.execution.auto_cdc_history import Shape
from lakelet.execution.auto_cdc_schema import (
    END_AT,
    KEPT,
    METADATA_PROPERTY,
    PREFIX,
    START_AT,
    CdcMetadata,
    target_schema,
    tracked_names,
)
from lakelet.plan.relation import Relation
from lakelet.storage.base import Table, TableDefinition, TableStore
from lakelet.storage.schema import compare, nullable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lakelet.engine.base import Engine
    from lakelet.graph.elements import AutoCdcFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class CdcTables:
    """The target and the auxiliary table of one flow, and what it knows about them.

    Attributes:
        source: columns of the flow's change rows.
        staging: a folder in which a batch may put files of its own.
        definition: what a missing target is created with.
        remember_all: no event may be forgotten, since a later one may need it.
        fail_on_ties: refuse a batch with ties.
        now: clock of the batch.
        forget_before: deletes stored before it are not remembered; None: they are for good.
    """

    flow: AutoCdcFlow
    source: StructType
    engine: Engine
    store: TableStore
    target_location: str
    auxiliary_location: str
    staging: str
    definition: TableDefinition
    metadata: CdcMetadata
    remember_all: bool
    fail_on_ties: bool
    now: datetime | None
    forget_before: datetime | None

    def events(self, changes: Relation, names: Iterable[str]) -> Relation:
        """Return the events of change rows, their columns spelled as `names` are."""
        return event_relation(self.flow, self.source, changes, {name.lower(): name for name in names})

    def start_auxiliary(self, auxiliary: Table | None, schema: pa.Schema) -> Table:
        """Return the auxiliary table for the first batch, one that is there under the rules of this flow."""
        properties = {METADATA_PROPERTY: self.metadata.to_json()}
        if auxiliary is None:
            return self.store.create(self.auxiliary_location, TableDefinition(schema=schema, properties=properties))
        auxiliary.set_properties(properties)
        return auxiliary

    def create_target(self) -> Table:
        return self.store.create(self.target_location, self.definition)

    def open_target(self, auxiliary: Table, target: Table | None) -> Table:
        """Return the target with every column of the events, created if it is missing."""
        if target is None:
            target = self.create_target()
        payload = [field for field in auxiliary.schema if not field.name.startswith(PREFIX)]
        self.evolve(target, pa.schema(payload))
        return target

    def evolve(self, table: Table, wanted: pa.Schema) -> None:
        """Add the columns that a table lacks, in a commit of its own: adding them again changes nothing."""
        self.refuse_conflicts(table.schema, wanted)
        if added := [nullable(wanted).field(name) for name in compare(table.schema, wanted).added]:
            table.append(pa.schema([*table.schema, *added]).empty_table(), evolve=True)

    def refuse_conflicts(self, have: pa.Schema, wanted: pa.Schema) -> None:
        """Raise if a column cannot hold the values of another type that it would get."""
        if conflicts := compare(have, wanted).conflicts:
            raise self.invalid_state("COLUMN_TYPE_DRIFT", f"the type of a column changed: {'; '.join(conflicts)}")

    def shape(self, schema: pa.Schema) -> Shape:
        """Return what an auxiliary table of this schema has: the columns of all its flows, also those that this source lacks."""
        columns = tuple(name for name in schema.names if not name.startswith(PREFIX))
        return Shape(
            keys=self.keys(schema),
            columns=columns,
            scd_type=self.flow.scd_type,
            tracked=tracked_names(self.flow, columns),
            remembers_all=self.remember_all or self.flow.scd_type == 2 or KEPT in schema.names,
        )

    def keys(self, schema: pa.Schema) -> tuple[str, ...]:
        return spelled(self.flow.keys, schema)

    def identity(self, schema: pa.Schema) -> tuple[str, ...]:
        """Return the columns that identify a row of a target with these columns."""
        return self.keys(schema) + ((START_AT,) if self.flow.scd_type == 2 else ())

    def check_drift(self, auxiliary: Table) -> None:
        """Raise if the stored events were recorded under other rules than the flow's."""
        try:
            stored = CdcMetadata.from_json(auxiliary.properties[METADATA_PROPERTY])
        except (KeyError, TypeError, ValueError) as error:
            raise self.invalid_state(
                "AUXILIARY_TABLE_INVALID", f"`{self.auxiliary_location}` is no auxiliary table of AUTO CDC"
            ) from error
        now = self.metadata
        checks = [
            ("KEY_SCHEMA_DRIFT", "the keys", stored.keys, now.keys),
            ("SCD_TYPE_DRIFT", "`stored_as_scd_type`", stored.scd_type, now.scd_type),
            ("SEQUENCING_TYPE_DRIFT", "the type of `sequence_by`", stored.sequence_type, now.sequence_type),
            ("TRACK_HISTORY_DRIFT", "the tracked columns", stored.track_history, now.track_history),
            ("TRACK_HISTORY_DRIFT", "the untracked columns", stored.track_history_except, now.track_history_except),
        ]
        for condition, what, before, after in checks:
            if before != after:
                raise self.invalid_state(condition, f"{what} changed from {_shown(before)} to {_shown(after)}")

    def refuse_ties(self, ties: Ties) -> None:
        """Raise if the events of a batch, together with those that are remembered, have ties; nothing is committed yet."""
        found = ties.summary()
        if self.fail_on_ties and found["num_ties"]:
            examples = "; ".join(f"{dict(tie.key)} at {tie.sequence}" for tie in found["ties"])
            raise CdcError(
                "AUTOCDC_TIE",
                f"{found['num_ties']} keys of flow `{self.flow.name}` have different events with one sequence value",
                origin=self.flow.origin,
                cause=f"`lakelet.cdc.ties` is `fail`; for example {examples}",
                hint="add a tie-break to the sequence, as in `struct(changed_at, id)`, or set `lakelet.cdc.ties: warn`",
            )

    def refuse_rows_without_history(self, target: Table) -> None:
        if target.size().rows:
            raise self.invalid_state(
                "AUXILIARY_TABLE_MISSING",
                f"the target has rows, but there is no auxiliary table at `{self.auxiliary_location}`",
            )

    def invalid_state(self, condition: str, cause: str) -> CdcError:
        return CdcError(
            f"AUTOCDC_INVALID_STATE.{condition}",
            f"flow `{self.flow.name}` cannot continue the history of `{self.flow.target}`",
            origin=self.flow.origin,
            cause=cause,
            hint=f"undo the change, or rebuild the table with `lakelet run --full-refresh {self.flow.target.name}`",
        )


def definition_of(
    flow: AutoCdcFlow, source: StructType, sequence_type: DataType, declared: TableDefinition | None
) -> TableDefinition:
    """Return what a missing target is created with.

    Raises:
        DefinitionError: the flow does not fit the source's columns, or the declared ones have no interval.
    """
    columns = nullable(to_arrow_schema(target_schema(flow, source, sequence_type), timezone="UTC"))
    definition = declared or TableDefinition(schema=columns)
    missing = [name for name in (START_AT, END_AT) if name not in definition.schema.names]
    if flow.scd_type == 2 and missing:
        raise DefinitionError(
            "AUTOCDC_TARGET_SCHEMA_LACKS_INTERVAL",
            f"the schema of the target of flow `{flow.name}` has no column {' and no '.join(missing)}",
            origin=flow.origin,
            cause="an SCD type 2 target shows from which sequence value to which a row was valid",
            hint=f"add `{START_AT}` and `{END_AT}` with the type {sequence_type.simpleString()}",
        )
    return definition


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(" ".join(item) if isinstance(item, tuple) else item for item in value) or "none"
    return "none" if value is None else str(value)
