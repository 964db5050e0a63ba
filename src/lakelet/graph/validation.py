"""Pure checks of definitions and of the resolved graph; each returns the errors that it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from lakelet.errors import GraphError, LakeletError, Origin, did_you_mean
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.graph.elements import TOMBSTONE_PROPERTY, AnyFlow, AutoCdcFlow, DatasetKind, Definitions, SnapshotCdcFlow
from lakelet.graph.trigger import intervals_are_times
from lakelet.names import NameContext, TableName


def check_definitions(definitions: Definitions, names: NameContext) -> list[LakeletError]:
    """Return what is wrong with definitions and needs no query to see: duplicates, targets."""
    return [
        *duplicate_datasets(definitions, names),
        *duplicate_flows(definitions, names),
        *unknown_targets(definitions, names),
        *tables_without_flow(definitions, names),
    ]


def duplicate_datasets(definitions: Definitions, names: NameContext) -> list[LakeletError]:
    first: dict[tuple[str, str, str], Origin] = {}
    errors: list[LakeletError] = []
    for dataset in definitions.datasets:
        if dataset.name.key in first:
            errors.append(
                GraphError(
                    "PIPELINE_DUPLICATE_IDENTIFIERS.OUTPUT",
                    f"the dataset `{names.display(dataset.name)}` is declared twice",
                    origin=dataset.origin,
                    cause=f"it is declared first at {first[dataset.name.key]}",
                    hint="rename one of the two, or add the second query to the first as an `append_flow`",
                )
            )
        first.setdefault(dataset.name.key, dataset.origin)
    return errors


def duplicate_flows(definitions: Definitions, names: NameContext) -> list[LakeletError]:
    first: dict[str, Origin] = {}
    declared = Counter(dataset.name.key for dataset in definitions.datasets)
    duplicates = {key for key, count in declared.items() if count > 1}
    errors: list[LakeletError] = []
    for flow in definitions.flows:
        if flow.name in first and flow.target.key not in duplicates:
            errors.append(
                GraphError(
                    "PIPELINE_DUPLICATE_IDENTIFIERS.FLOW",
                    f"the flow `{flow.name}` is declared twice",
                    origin=flow.origin,
                    cause=f"it is declared first at {first[flow.name]}",
                    hint="give each flow a name of its own with `name=`",
                )
            )
        first.setdefault(flow.name, flow.origin)
    return errors


def unknown_targets(definitions: Definitions, names: NameContext) -> list[LakeletError]:
    known = {dataset.name.key for dataset in definitions.datasets}
    displayed = [names.display(dataset.name) for dataset in definitions.datasets]
    errors: list[LakeletError] = []
    for flow in definitions.flows:
        if flow.target.key not in known:
            text = names.display(flow.target)
            near = did_you_mean(text, displayed)
            errors.append(
                GraphError(
                    "PIPELINE_FLOW_TARGET_NOT_FOUND",
                    f"the flow `{flow.name}` writes to `{text}`, which is not declared",
                    origin=flow.origin,
                    hint=f"did you mean `{near}`?" if near else f'declare it: `dp.create_streaming_table("{text}")`',
                )
            )
    return errors


def tables_without_flow(definitions: Definitions, names: NameContext) -> list[LakeletError]:
    targets = {flow.target.key for flow in definitions.flows}
    known = {dataset.name.key: names.display(dataset.name) for dataset in definitions.datasets}
    misspelled = {
        did_you_mean(names.display(f.target), known.values()) for f in definitions.flows if f.target.key not in known
    }
    return [
        GraphError(
            "PIPELINE_DATASET_WITHOUT_FLOW",
            f"{dataset.kind.label} `{names.display(dataset.name)}` has no flow writing to it",
            origin=replace(dataset.origin, dataset=names.display(dataset.name)),
            cause="declared by `create_streaming_table`, and no flow has it as target",
            hint=f'add `@dp.append_flow(target="{names.display(dataset.name)}")`, or remove the table',
        )
        for dataset in definitions.datasets
        if dataset.name.key not in targets
        and dataset.kind is not DatasetKind.SINK
        and known[dataset.name.key] not in misspelled  # the flow with the wrong target is the root cause
    ]


def check_graph(graph: DataflowGraph) -> list[LakeletError]:
    """Return what is wrong with a resolved graph."""
    return [error for check in _CHECKS for error in check(graph)]


def something_to_store(graph: DataflowGraph) -> list[LakeletError]:
    if any(dataset.is_stored or dataset.kind is DatasetKind.SINK for dataset in graph.datasets.values()):
        return []
    return [
        GraphError(
            "RUN_EMPTY_PIPELINE",
            "the pipeline has no table",
            cause="it declares temporary views only, and nothing reads them"
            if graph.datasets
            else "no file declares a dataset",
            hint="declare a table with `@dp.table` or `@dp.materialized_view`",
        )
    ]


def queries_fit_their_targets(graph: DataflowGraph) -> list[LakeletError]:
    """A streaming table takes streams (a batch only once), a materialized view takes a batch."""
    errors: list[LakeletError] = []
    for flow in graph.flows:
        target = graph.dataset(flow.target)
        if target.kind is DatasetKind.MATERIALIZED_VIEW and len(graph.flows_to(target.name)) > 1:
            continue  # one error is enough
        display = graph.display(flow.target)
        origin = replace(flow.flow.origin, dataset=display, flow=flow.name)
        if flow.flow.once and flow.streaming and not flow.is_cdc:
            errors.append(
                GraphError(
                    "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_ONCE_FLOW",
                    f"the once flow `{flow.name}` reads a stream",
                    origin=origin,
                    hint="read the source as a table: `spark.read` instead of `spark.readStream`",
                )
            )
        elif (
            target.kind is DatasetKind.STREAMING_TABLE
            and not (flow.streaming or flow.flow.once)
            and not isinstance(flow.flow, SnapshotCdcFlow)
        ):
            errors.append(
                GraphError(
                    "INVALID_FLOW_QUERY_TYPE.BATCH_RELATION_FOR_STREAMING_TABLE",
                    f"the flow `{flow.name}` into the streaming table `{display}` reads no stream",
                    origin=origin,
                    hint="read the source with `spark.readStream`, make the flow `once=True`, or declare a materialized view",
                )
            )
        elif target.kind is DatasetKind.MATERIALIZED_VIEW and flow.streaming:
            errors.append(
                GraphError(
                    "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_MATERIALIZED_VIEW",
                    f"the materialized view `{display}` reads a stream",
                    origin=origin,
                    hint="declare a streaming table (`@dp.table`), or read the source with `spark.read`",
                )
            )
    return errors


def flows_fit_sinks(graph: DataflowGraph) -> list[LakeletError]:
    """A sink takes streams of rows; only a sink takes the output mode `update`."""
    errors: list[LakeletError] = []
    for flow in graph.flows:
        target, display = graph.dataset(flow.target), graph.display(flow.target)
        origin = replace(flow.flow.origin, dataset=display, flow=flow.name)
        is_sink = target.kind is DatasetKind.SINK
        if is_sink and (flow.is_cdc or flow.flow.once or not flow.streaming):
            what = "applies changes" if flow.is_cdc else "runs once" if flow.flow.once else "reads no stream"
            errors.append(
                GraphError(
                    "INVALID_FLOW_QUERY_TYPE.NOT_A_STREAM_FOR_SINK",
                    f"the flow `{flow.name}` into the sink `{display}` {what}",
                    origin=origin,
                    cause="a sink takes the new rows of streams only",
                    hint="read the source with `spark.readStream`, and stream tables rather than views into the sink",
                )
            )
        elif not is_sink and getattr(flow.flow, "update_mode", False):
            errors.append(
                GraphError(
                    "UPDATE_FLOW_TARGET_NOT_SINK",
                    f"the update flow `{flow.name}` writes to `{display}`, which is no sink",
                    origin=origin,
                    hint="use `append_flow` for a streaming table, and AUTO CDC to replace rows by key",
                )
            )
    return errors


def sinks_write_elsewhere(graph: DataflowGraph) -> list[LakeletError]:
    """A sink is no second way into a table of the pipeline."""
    errors: list[LakeletError] = []
    for dataset in graph.datasets.values():
        table = dataset.sink_options.get("tableName")
        if table and graph.names.resolve(table, origin=dataset.origin).key in graph.datasets:
            errors.append(
                GraphError(
                    "SINK_TARGET_IS_DATASET",
                    f"the sink `{graph.display(dataset.name)}` writes to `{table}`, a dataset of this pipeline",
                    origin=dataset.origin,
                    hint=f'let the flow write to the dataset itself: `@dp.append_flow(target="{table}")`',
                )
            )
    return errors


def one_query_per_view(graph: DataflowGraph) -> list[LakeletError]:
    return [
        GraphError(
            "MULTIPLE_QUERIES_FOR_TABLE",
            f"the {dataset.kind.label} `{graph.display(dataset.name)}` has {len(graph.flows_to(dataset.name))} queries",
            origin=dataset.origin,
            hint="give it one query; only streaming tables take several flows",
        )
        for dataset in graph.datasets.values()
        if dataset.kind in (DatasetKind.MATERIALIZED_VIEW, DatasetKind.TEMPORARY_VIEW)
        and len(graph.flows_to(dataset.name)) > 1
    ]


def cdc_targets_are_only_cdc(graph: DataflowGraph) -> list[LakeletError]:
    errors: list[LakeletError] = []
    for dataset in graph.datasets.values():
        flows = graph.flows_to(dataset.name)
        cdc = [flow for flow in flows if flow.is_cdc]
        if not cdc:
            continue
        display = graph.display(dataset.name)
        errors += [
            GraphError(
                "AUTOCDC_TARGET_HAS_OTHER_FLOWS",
                f"`{display}` is a target of AUTO CDC, and the flow `{flow.name}` appends to it",
                origin=flow.flow.origin,
                hint="let AUTO CDC flows alone write the table",
            )
            for flow in flows
            if not flow.is_cdc
        ]
        errors += _differing_cdc_flows(display, [flow.flow for flow in cdc])
        seconds = str(dataset.table_properties.get(TOMBSTONE_PROPERTY, "0"))
        if not seconds.isdigit():
            errors.append(
                GraphError(
                    "INVALID_TABLE_PROPERTY",
                    f"`{TOMBSTONE_PROPERTY}` of `{display}` is `{seconds}`",
                    origin=dataset.origin,
                    cause="it says for how many seconds deletes are remembered",
                    hint="give a whole number such as 172800, or remove the property: deletes are remembered for good then",
                )
            )
        snapshots = [flow for flow in cdc if isinstance(flow.flow, SnapshotCdcFlow)]
        if snapshots and len(flows) > 1:
            errors.append(
                GraphError(
                    "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.MULTIPLE_QUERIES_FOR_TABLE",
                    f"`{display}` is a target of AUTO CDC from snapshots and has {len(flows)} flows",
                    origin=snapshots[-1].flow.origin,
                    cause="a snapshot is compared with all rows of its target, so these must all come from snapshots "
                    "of one source",
                    hint="give the flow from snapshots a table of its own",
                )
            )
        if snapshots and dataset.expectations:
            errors.append(
                GraphError(
                    "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.EXPECTATIONS_NOT_SUPPORTED",
                    f"`{display}` is a target of AUTO CDC from snapshots and has expectations",
                    origin=dataset.expectations[0].origin if dataset.expectations[0].origin.file else dataset.origin,
                    cause="a row that a rule drops would look like one that is gone from the source",
                    hint="put the rules on a view of the source, and take the snapshots of the view",
                )
            )
    return errors


def _differing_cdc_flows(display: str, flows: Sequence[AnyFlow]) -> list[LakeletError]:
    """Return an error for each flow of a target whose keys or SCD type are not those of the first."""
    declared = [flow for flow in flows if isinstance(flow, AutoCdcFlow)]
    errors: list[LakeletError] = []
    for flow in declared[1:]:
        first = declared[0]
        parameters = [
            ("keys", sorted(key.lower() for key in first.keys), sorted(key.lower() for key in flow.keys)),
            ("stored_as_scd_type", first.scd_type, flow.scd_type),
            (
                "track_history_column_list",
                _folded(first.track_history_column_list),
                _folded(flow.track_history_column_list),
            ),
            (
                "track_history_except_column_list",
                _folded(first.track_history_except_column_list),
                _folded(flow.track_history_except_column_list),
            ),
        ]
        differing = [(name, one, other) for name, one, other in parameters if one != other]
        if differing:
            errors.append(
                GraphError(
                    "AUTOCDC_FLOWS_DIFFER",
                    f"the AUTO CDC flows into `{display}` differ in {' and '.join(f'`{name}`' for name, *_ in differing)}",
                    origin=flow.origin,
                    cause="\n".join(
                        f"`{name}` is {one} in flow `{first.name}` ({first.origin}), {other} in `{flow.name}`"
                        for name, one, other in differing
                    ),
                    hint="give all flows of one target the same keys, SCD type and tracked columns",
                )
            )
    return errors


def _folded(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else sorted(name.lower() for name in names)


def streams_read_append_only_tables(graph: DataflowGraph) -> list[LakeletError]:
    """A stream of a table whose rows change would lose or repeat rows; refused before it starts."""
    errors: list[LakeletError] = []
    for flow in graph.flows:
        for item in flow.inputs:
            if item.dataset is None:
                continue
            read = graph.dataset(item.dataset)
            error = _stream_error(graph, flow, read.name, read.kind, streaming=item.streaming)
            if error is not None and not (
                item.handles_changes and error.condition == "STREAMING_READ_OF_CHANGING_TABLE"
            ):
                error.origin = item.origin
                errors.append(error.at(replace(flow.flow.origin, dataset=graph.display(flow.target), flow=flow.name)))
    return errors


def _stream_error(
    graph: DataflowGraph, flow: ResolvedFlow, read: TableName, kind: DatasetKind, *, streaming: bool
) -> LakeletError | None:
    display = graph.display(read)
    if kind is DatasetKind.SINK:
        return GraphError(
            "SINK_NOT_READABLE",
            f"`{display}` is a sink and cannot be read",
            hint="read the dataset that feeds the sink",
        )
    if kind is DatasetKind.TEMPORARY_VIEW:
        if not graph.flows_to(read):
            return None  # its own query is wrong, which is reported
        is_stream = any(f.streaming for f in graph.flows_to(read))
        if streaming and not is_stream:
            return GraphError(
                "INCOMPATIBLE_STREAMING_VIEW_READ",
                f"the view `{display}` is a batch query, and `{flow.name}` reads it as a stream",
                hint=f'read it with `spark.read.table("{display}")`',
            )
        if is_stream and not streaming:
            return GraphError(
                "INCOMPATIBLE_BATCH_VIEW_READ",
                f"the view `{display}` is a stream, and `{flow.name}` reads it as a table",
                hint=f'read it with `spark.readStream.table("{display}")`',
            )
        return None
    changes = kind is DatasetKind.MATERIALIZED_VIEW or any(f.is_cdc for f in graph.flows_to(read))
    if streaming and changes:
        what = "a materialized view" if kind is DatasetKind.MATERIALIZED_VIEW else "an AUTO CDC target"
        return GraphError(
            "STREAMING_READ_OF_CHANGING_TABLE",
            f"`{flow.name}` reads `{display}` as a stream, which is {what}",
            cause="its rows change from update to update, and a stream handles every row once",
            hint=f'read it as a table (`spark.read.table("{display}")`), read its change feed '
            '(`.option("readChangeFeed", "true")`), or stream what it is made from',
        )
    return None


def complete_targets(graph: DataflowGraph) -> list[LakeletError]:
    """Return what does not go together with a table that is rewritten in each batch: other flows, and streams of it."""
    errors: list[LakeletError] = []
    for flow in graph.flows:
        dataset = graph.datasets[flow.target.key]
        if not flow.is_complete or not dataset.is_stored:
            continue
        display = graph.display(flow.target)
        others = [other for other in graph.flows_to(flow.target) if other.name != flow.name]
        if others or flow.is_cdc:
            what = f"the flow `{others[0].name}` writes it, too" if others else "AUTO CDC needs each change once"
            errors.append(
                GraphError(
                    "STREAMING_OUTPUT_MODE.UNSUPPORTED_OPERATION",
                    f"`{flow.name}` aggregates a stream without a watermark, and cannot share `{display}`",
                    origin=flow.flow.origin,
                    cause=f"all groups are written anew in each batch, and {what}",
                    hint="give the aggregation a table of its own, or a watermark and a grouping by event time",
                )
            )
        for reader in graph.flows:
            if any(
                item.streaming and item.dataset is not None and item.dataset.key == flow.target.key
                for item in reader.inputs
            ):
                errors.append(
                    GraphError(
                        "STREAMING_READ_OF_CHANGING_TABLE",
                        f"`{reader.name}` reads `{display}` as a stream, which is a streaming aggregation without a watermark",
                        origin=reader.flow.origin,
                        cause="its rows change from batch to batch, and a stream handles every row once",
                        hint=f'read it as a table (`spark.read.table("{display}")`), or give the aggregation a watermark',
                    )
                )
    return errors


def columns_exist_for_layout(graph: DataflowGraph) -> list[LakeletError]:
    return [
        GraphError(
            "SPECIFY_CLUSTER_BY_WITH_PARTITIONED_BY_IS_NOT_ALLOWED",
            f"`{graph.display(dataset.name)}` has both `partition_cols` and `cluster_by`",
            origin=dataset.origin,
            hint="choose one of the two",
        )
        for dataset in graph.datasets.values()
        if dataset.partition_cols and dataset.cluster_by
    ]


_CHECKS: tuple[Callable[[DataflowGraph], list[LakeletError]], ...] = (
    something_to_store,
    one_query_per_view,
    queries_fit_their_targets,
    flows_fit_sinks,
    sinks_write_elsewhere,
    cdc_targets_are_only_cdc,
    streams_read_append_only_tables,
    columns_exist_for_layout,
    intervals_are_times,
)
