"""AUTO CDC, checks that need the engine or several flows, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql.types import DataType, StructType

from lakelet.engine.base import Engine
from lakelet.errors import GraphError, LakeletError, QueryError, did_you_mean
from lakelet.graph.elements import AutoCdcFlow
from lakelet.plan import relation as plan

_CONDITION = "__lakelet_condition"


def condition_problems(engine: Engine, flow: AutoCdcFlow, source: StructType) -> Iterator[LakeletError]:
    """Analyse the conditions of a flow over the columns of its source; yield what is wrong with each."""
    conditions = {
        "apply_as_deletes": flow.apply_as_deletes,
        "apply_as_truncates": flow.apply_as_truncates,
        "where": flow.where,
    }
    for parameter, condition in conditions.items():
        if condition is None:
            continue
        rows = plan.with_columns(plan.empty(source), {_CONDITION: plan.expression_of(condition)})
        try:
            kind = engine.schema(rows)[_CONDITION].dataType.typeName()
        except QueryError as error:
            near = did_you_mean(error.column, source.names) if error.column else None
            yield GraphError(
                "AUTOCDC_INVALID_CONDITION",
                f"`{parameter}` of flow `{flow.name}` cannot be evaluated: {condition}",
                origin=flow.origin,
                cause=f"there is no column `{error.column}`" if error.column else error.cause or error.message,
                hint=f"did you mean `{near}`?" if near else f"the source's columns are {', '.join(source.names)}",
            )
            continue
        if kind not in ("boolean", "void"):
            yield GraphError(
                "AUTOCDC_INVALID_CONDITION",
                f"`{parameter}` of flow `{flow.name}` is {kind}, not boolean: {condition}",
                origin=flow.origin,
                hint="write a condition, for example `operation = 'DELETE'`",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TypedFlow:
    """A flow with the columns of its source and the type of its `sequence_by`."""

    flow: AutoCdcFlow
    source: StructType
    sequence: DataType

    @property
    def types(self) -> dict[str, DataType]:
        """The types that all flows of one target must agree on, by what they belong to."""
        columns = {field.name.lower(): field.dataType for field in self.source}
        keys = sorted(key.lower() for key in self.flow.keys)
        return {**{f"the key `{key}`": columns[key] for key in keys if key in columns}, "`sequence_by`": self.sequence}


def check_same_types(target: str, first: TypedFlow, other: TypedFlow) -> None:
    """Require that two flows of one target have keys and sequences of the same types.

    Raises:
        GraphError: `AUTOCDC_FLOWS_DIFFER`.
    """
    wanted, given = first.types, other.types
    differing = [
        f"{what} is {wanted[what].simpleString()} in flow `{first.flow.name}` ({first.flow.origin}), "
        f"{given[what].simpleString()} in `{other.flow.name}`"
        for what in wanted
        if what in given and wanted[what] != given[what]
    ]
    if differing:
        raise GraphError(
            "AUTOCDC_FLOWS_DIFFER",
            f"the AUTO CDC flows into `{target}` differ in types",
            origin=other.flow.origin,
            cause="\n".join(differing),
            hint="cast the columns to one type in the sources of the flows",
        )
