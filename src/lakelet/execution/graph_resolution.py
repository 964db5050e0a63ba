"""From definitions to a graph: every flow analysed and checked before anything runs."""

from __future__ import annotations

from dataclasses import replace

from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from lakelet.errors import GraphError, LakeletError, Origin, did_you_mean, raise_all
from lakelet.execution.auto_cdc_checks import TypedFlow, check_same_types, condition_problems
from lakelet.execution.delta_options import DeltaOptions
from lakelet.execution.reads import Key, plan_leaf
from lakelet.execution.resolution import Resolver
from lakelet.execution.rules import check_expectations
from lakelet.execution.stateful_check import check_stateful
from lakelet.execution.stateful_part import stateful_part
from lakelet.graph.dataflow_graph import DataflowGraph, Input, ResolvedFlow
from lakelet.graph.elements import AnyFlow, AutoCdcFlow, Dataset, DatasetKind, Definitions
from lakelet.plan.operators import refuse_stateful
from lakelet.plan.sources import leaves
from lakelet.storage.schema import compare, nullable


def resolve_graph(resolver: Resolver, definitions: Definitions) -> DataflowGraph:
    """Return the graph, every flow analysed.

    Raises:
        DefinitionErrors: everything that is wrong, root causes first.
    """
    from lakelet.graph.validation import check_definitions, check_graph, complete_targets

    errors: list[LakeletError] = check_definitions(definitions, resolver.names)
    resolver.datasets = {dataset.name.key: dataset for dataset in definitions.datasets}
    resolver.flows = {}
    for flow in definitions.flows:
        resolver.flows.setdefault(flow.target.key, []).append(flow)
    broken: set[Key] = set()
    resolved: dict[str, ResolvedFlow] = {}
    for flow in definitions.flows:
        if flow.name in resolved or flow.target.key not in resolver.datasets:
            continue
        try:
            resolved[flow.name] = _resolve_flow(resolver, flow)
        except LakeletError as error:
            errors.append(_at_flow(resolver, error, flow))
            broken.add(flow.target.key)
    streamed = {flow.target.key for flow in resolved.values() if flow.streaming}
    for key, dataset in resolver.datasets.items():
        if dataset.kind is DatasetKind.TABLE and key not in broken:
            kind = DatasetKind.STREAMING_TABLE if key in streamed else DatasetKind.MATERIALIZED_VIEW
            resolver.datasets[key] = replace(dataset, kind=kind)
    graph = DataflowGraph(names=resolver.names, datasets=dict(resolver.datasets), flows=tuple(resolved.values()))
    if any(error.condition == "PIPELINE_DUPLICATE_IDENTIFIERS.OUTPUT" for error in errors):
        raise_all(errors)  # which of the two a reader means is open
    try:
        order = graph.order()
    except GraphError as cycle:
        raise_all([*errors, cycle])
    errors += check_graph(graph)
    for name in order:
        if name.key in broken or any(
            read.dataset.key in broken
            for item in graph.flows_to(name)
            for read in item.inputs
            if read.dataset is not None
        ):
            broken.add(name.key)
            continue
        for item in graph.flows_to(name):
            try:
                part = stateful_part(resolver, item.relation, item.flow.origin) if item.streaming else None
                if part is not None:
                    check_stateful(resolver, part, item.flow.origin)
                resolved[item.name] = replace(
                    item, schema=resolver.output_schema(item.flow), is_complete=part is not None and part.is_complete
                )
                _check_flow(resolver, resolver.datasets[name.key], item.flow)
            except LakeletError as error:
                errors.append(_at_flow(resolver, error, item.flow))
                broken.add(name.key)
    graph = replace(graph, flows=tuple(resolved.values()))
    raise_all([*errors, *complete_targets(graph)])
    return graph


def _resolve_flow(resolver: Resolver, flow: AnyFlow) -> ResolvedFlow:
    relation = resolver.relation(flow)
    refuse_stateful(relation, flow.origin)
    inputs: dict[tuple[str, bool, bool], Input] = {}
    streaming = False
    for leaf in leaves(relation):
        source = resolver.source(leaf, flow.origin)
        dataset = source.dataset.name if source.dataset else None
        label = resolver.names.display(dataset) if dataset else leaf.label
        streaming |= leaf.streaming
        handles_changes = DeltaOptions(leaf.options).handles_changes
        inputs.setdefault(
            (label, leaf.streaming, handles_changes),
            Input(
                dataset=dataset,
                label=label,
                streaming=leaf.streaming,
                origin=leaf.origin,
                handles_changes=handles_changes,
            ),
        )
    return ResolvedFlow(flow=flow, relation=relation, inputs=tuple(inputs.values()), streaming=streaming)


def _check_flow(resolver: Resolver, dataset: Dataset, flow: AnyFlow) -> None:
    """Check what needs the columns of a flow's query, so that it is found before anything runs."""
    columns = resolver.output_schema(flow)
    display = resolver.names.display(dataset.name)
    _refuse_columns_twice(columns, display, flow.origin)
    if dataset.schema is not None:
        _check_declared_schema(resolver, dataset, resolver.declared_schema(dataset), columns)
    if isinstance(flow, AutoCdcFlow):
        source = resolver.leaf_schema(plan_leaf(resolver.relation(flow)), flow.origin)
        raise_all(list(condition_problems(resolver.engine, flow, source)))
        _check_shared_target(resolver, dataset, flow, source)
        columns = source
    check_expectations(resolver.engine, dataset, display, columns)
    stored = resolver.schema(dataset.name)
    for name in dataset.partition_cols:
        if name not in stored.names:
            near = did_you_mean(name, stored.names)
            raise GraphError(
                "PARTITION_COLUMN_NOT_FOUND",
                f"`{display}` is partitioned by `{name}`, which it does not have",
                origin=dataset.origin,
                cause=f"its columns are {', '.join(stored.names)}",
                hint=f"did you mean `{near}`?" if near else "name one of its columns in `partition_cols`",
            )


def _check_declared_schema(resolver: Resolver, dataset: Dataset, declared: StructType, columns: StructType) -> None:
    change = compare(
        nullable(to_arrow_schema(declared, timezone="UTC")), nullable(to_arrow_schema(columns, timezone="UTC"))
    )
    causes = [text.replace(" in the table ", " in the declared schema ") for text in change.conflicts]
    causes += [f"`{name}` of the query is not in the declared schema" for name in change.added]
    if causes:
        raise GraphError(
            "USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE",
            f"the query of `{resolver.names.display(dataset.name)}` does not fit the schema that it declares",
            origin=dataset.origin,
            cause="\n".join(causes),
            hint="cast or select the columns in the query, or change `schema`",
        )


def _check_shared_target(resolver: Resolver, dataset: Dataset, flow: AutoCdcFlow, source: StructType) -> None:
    """Require that a flow's keys and sequence have the types that they have in the first flow of its target."""
    first = next(item for item in resolver.flows[dataset.name.key] if isinstance(item, AutoCdcFlow))
    if first is not flow:
        columns = resolver.leaf_schema(plan_leaf(resolver.relation(first)), first.origin)
        check_same_types(
            resolver.names.display(dataset.name),
            TypedFlow(flow=first, source=columns, sequence=resolver.sequence_type(first, columns)),
            TypedFlow(flow=flow, source=source, sequence=resolver.sequence_type(flow, source)),
        )


def _at_flow(resolver: Resolver, error: LakeletError, flow: AnyFlow) -> LakeletError:
    return error.at(replace(flow.origin, dataset=resolver.names.display(flow.target), flow=flow.name))


def _refuse_columns_twice(columns: StructType, display: str, origin: Origin) -> None:
    folded = [name.lower() for name in columns.names]
    twice = [name for position, name in enumerate(columns.names) if name.lower() in folded[:position]]
    if twice:
        raise GraphError(
            "COLUMN_ALREADY_EXISTS",
            f"the query of `{display}` has the column `{twice[0]}` twice",
            origin=origin,
            cause=f"its columns are {', '.join(columns.names)}; names are compared without regard to case",
            hint=f'rename one of them: `.alias("...")`, or after a join drop the other side\'s `{twice[0]}`',
        )
