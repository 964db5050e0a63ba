"""From definitions to a graph: query functions are called, their trees read, names and columns resolved.

Nothing here reads a row. Columns come from analysis: every read is replaced by an empty relation of the right columns,
and the engine says what the query makes of them. The same answers serve `df.columns` and `df.schema` in user code.
"""

from __future__ import annotations

import glob
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import DataType, StructType

from lakelet.engine.base import Engine
from lakelet.errors import DefinitionError, GraphError, LakeletError, Origin, QueryError, did_you_mean, raise_all
from lakelet.execution.auto_cdc_schema import sequence_type_of, target_schema
from lakelet.execution.diagnosis import explained, missing_table, near_paths, relative_sites
from lakelet.execution.file_batch import needs_own_reader, read_batch
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_options import file_read as checked_read
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.rules import check_expectations
from lakelet.execution.slices import METADATA_TYPE
from lakelet.execution.sources import RATE_SCHEMA, check_options
from lakelet.execution.stateful_check import check_stateful
from lakelet.execution.stateful_part import stateful_part
from lakelet.graph.dataflow_graph import DataflowGraph, Input, ResolvedFlow
from lakelet.graph.elements import AnyFlow, AutoCdcFlow, Dataset, DatasetKind, Definitions, Flow, SqlQuery
from lakelet.names import NameContext, TableName, split_name
from lakelet.pipelines.session import relation_of
from lakelet.pipelines.user_errors import query_function_failed
from lakelet.plan import relation as plan
from lakelet.plan.normalize import METADATA, normalize, reads_metadata, runnable
from lakelet.plan.operators import refuse_stateful
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf, LeafKind, is_streaming, leaf_of, leaves
from lakelet.storage.base import TableStore
from lakelet.storage.catalog import Catalog
from lakelet.storage.schema import compare, nullable

Key = tuple[str, str, str]
FILE_FORMATS = {"json", "csv", "parquet", "text", "binaryfile", "avro", "orc"}
_INFERRED_STREAMS = {"cloudfiles", "text", "binaryfile"}
"""Streams that need no declared columns."""
_FORMAT_NAMES = {"cloudfiles": "cloudFiles", "binaryfile": "binaryFile"}


def _format_name(leaf: Leaf) -> str:
    return _FORMAT_NAMES.get(leaf.format, leaf.format)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a leaf stands for: one of dataset, location, files and read is set, or none for a generated stream.

    Attributes:
        dataset: a dataset of the pipeline.
        location: folder of a Delta table outside of the pipeline.
        files: a leaf that reads files, paths mapped to local ones.
        read: a read of files that the runtime does itself: every stream, and tables that the engine reads wrong.
    """

    leaf: Leaf
    dataset: Dataset | None = None
    location: str | None = None
    files: Leaf | None = None
    read: FileRead | None = None


@dataclass(slots=True)
class Resolver:
    """Answers what names, reads and trees mean in one pipeline.

    It is also what user code asks through its session: `schema_of`, `is_streaming`, `execute`, `command`.
    """

    names: NameContext
    catalog: Catalog
    engine: Engine
    store: TableStore
    external: Mapping[Key, str] = field(default_factory=dict)
    datasets: dict[Key, Dataset] = field(default_factory=dict)
    flows: dict[Key, list[AnyFlow]] = field(default_factory=dict)
    _relations: dict[str, Relation] = field(default_factory=dict)
    _schemas: dict[Key, StructType] = field(default_factory=dict)
    _flow_schemas: dict[str, StructType] = field(default_factory=dict)
    _table_schemas: dict[str, StructType] = field(default_factory=dict)
    _sequence_types: dict[str, DataType] = field(default_factory=dict)
    _resolving: list[TableName] = field(default_factory=list)
    derived: dict[str, Any] = field(default_factory=dict)
    """What others have made of the trees of flows; forgotten with the columns."""
    _files: FileSchemas | None = None
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- reads ----------------------------------------------------------------------------------------------------

    def source(self, leaf: Leaf, origin: Origin) -> Source:
        """Return what `leaf` reads.

        Raises:
            GraphError: `TABLE_OR_VIEW_NOT_FOUND`, `UNSUPPORTED_SOURCE`.
        """
        place = _place(leaf, origin)
        if leaf.kind is LeafKind.TABLE:
            parts = split_name(leaf.name, origin=place)
            if len(parts) == 2 and parts[0].lower() == "delta" and "/" in parts[1]:
                return Source(leaf=leaf, location=self._path(parts[1], place))
            name = self.names.resolve(leaf.name, origin=place)
            dataset = self.datasets.get(name.key)
            if dataset is not None:
                return Source(leaf=_checked(leaf, place), dataset=dataset)
            location = self.external.get(name.key) or self.catalog.location(name)
            if name.key in self.external or self.store.open(location) is not None:
                return Source(leaf=_checked(leaf, place), location=location)
            known = [self.names.display(d.name) for d in self.datasets.values()]
            near = did_you_mean(leaf.name, known)
            raise GraphError(
                "TABLE_OR_VIEW_NOT_FOUND",
                f"there is no dataset or table `{leaf.name}`",
                origin=place,
                hint=f"did you mean `{near}`?" if near else
                f"declare it in the pipeline, or map an external table: `lakelet.tables.{leaf.name}: <path>` under "
                "`configuration` in the project file",
            )  # fmt: skip
        if leaf.format == "delta":
            if len(leaf.paths) != 1:
                raise GraphError(
                    "UNSUPPORTED_SOURCE",
                    "a Delta read needs exactly one path",
                    origin=place,
                    cause=f"it has {len(leaf.paths) or 'none'}",
                    hint="call `.load(path)` with the folder of one table",
                )
            return Source(leaf=_checked(leaf, place), location=self._path(leaf.paths[0], place))
        if leaf.format == "rate" and leaf.streaming:
            return Source(leaf=leaf)
        if leaf.format == "cloudfiles" or (leaf.format in FILE_FORMATS and (leaf.streaming or needs_own_reader(leaf))):
            return self._files_source(leaf, place)
        if leaf.format in FILE_FORMATS:
            return Source(leaf=leaf, files=self._with_local_paths(leaf, place))
        raise GraphError(
            "UNSUPPORTED_SOURCE",
            f"{'a stream' if leaf.streaming else 'a table'} of format `{_format_name(leaf)}` cannot be read",
            origin=place,
            cause="streams are read from Delta tables, files, datasets of the pipeline and `rate` in this release"
            if leaf.streaming
            else f"known formats are delta, {', '.join(sorted(FILE_FORMATS))}",
            hint="write the data to a Delta table first, or to files"
            if leaf.streaming
            else f"did you mean `{did_you_mean(leaf.format, FILE_FORMATS)}`?"
            if did_you_mean(leaf.format, FILE_FORMATS)
            else "write the data to a Delta table or to files first",
        )

    def _files_source(self, leaf: Leaf, place: Origin) -> Source:
        """Return the source of a read of files that the runtime does itself."""
        if len(leaf.paths) != 1 or (leaf.streaming and not leaf.schema and leaf.format not in _INFERRED_STREAMS):
            no_schema = len(leaf.paths) == 1
            raise GraphError(
                "UNABLE_TO_INFER_SCHEMA" if no_schema else "UNSUPPORTED_SOURCE",
                f"a stream of {leaf.format} files needs a schema"
                if no_schema
                else "a read of files needs exactly one path",
                origin=place,
                hint='declare it: `spark.readStream.schema("id BIGINT, …")`, or infer it with '
                f'`.format("cloudFiles").option("cloudFiles.format", "{leaf.format}")`'
                if no_schema
                else "call `.load(path)` with the folder; wildcards may name several",
            )
        try:
            read = checked_read(leaf, self._path(leaf.paths[0], place))
        except LakeletError as error:
            raise error.at(place) from None
        return Source(leaf=leaf, read=read, files=None if leaf.streaming else self._with_local_paths(leaf, place))

    def _with_local_paths(self, leaf: Leaf, place: Origin) -> Leaf:
        return replace(leaf, paths=tuple(self._path(path, place) for path in leaf.paths))

    @property
    def files(self) -> FileSchemas:
        """The columns of the pipeline's streams of files."""
        if self._files is None:
            self._files = FileSchemas(self.catalog, self.engine)
        return self._files

    def file_rows(self, source: Source, *, metadata: bool) -> Relation:
        """Return the rows of files that are read as a table."""
        if source.read is not None:
            return read_batch(source.read, self.files, metadata=metadata)
        assert source.files is not None
        return file_read(source.files)

    def forget_columns(self) -> None:
        """Ask again for columns that depend on files, now that these have others."""
        with self._lock:
            self._schemas, self._flow_schemas, self._sequence_types, self.derived = {}, {}, {}, {}

    def _path(self, text: str, place: Origin) -> str:
        try:
            return self.catalog.path(text)
        except LakeletError as error:
            raise error.at(place) from None

    def leaf_schema(self, leaf: Leaf, origin: Origin) -> StructType:
        """Return the columns of what `leaf` reads."""
        source = self.source(leaf, origin)
        if source.dataset is not None:
            return self.schema(source.dataset.name)
        if source.location is not None:
            return self.table_schema(leaf.label, source.location, _place(leaf, origin))
        if source.read is not None:
            try:
                return self.files.current(source.read).columns
            except LakeletError as error:
                raise error.at(_place(leaf, origin)) from error.__cause__
        if source.files is not None:
            return self.engine.schema(file_read(source.files))
        return from_arrow_schema(RATE_SCHEMA)

    def table_schema(self, label: str, location: str, origin: Origin) -> StructType:
        if location not in self._table_schemas:
            table = self.store.open(location)
            if table is None:
                raise missing_table(label, location).at(origin)
            self._table_schemas[location] = from_arrow_schema(table.schema)
        return self._table_schemas[location]

    def view(self, node: Relation, origin: Origin) -> Dataset | None:
        """Return the view that a relation reads, None for any other relation."""
        leaf = leaf_of(node)
        dataset = None if leaf is None else self.source(leaf, origin).dataset
        return dataset if dataset is not None and dataset.kind is DatasetKind.TEMPORARY_VIEW else None

    # -- trees ----------------------------------------------------------------------------------------------------

    def relation(self, flow: AnyFlow) -> Relation:
        """Return the normalised tree of a flow; its query function is called once."""
        if flow.name not in self._relations:
            if isinstance(flow, AutoCdcFlow):
                self._relations[flow.name] = plan.named(flow.source, streaming=True)
            elif isinstance(flow.query, SqlQuery):
                self._relations[flow.name] = normalize(plan.sql(flow.query.text))
            else:
                tree = self._normalized(_called(flow, self.catalog.root))
                self._relations[flow.name] = relative_sites(tree, self.catalog.root)
        return self._relations[flow.name]

    def schema(self, name: TableName) -> StructType:
        """Return the columns of a dataset.

        Raises:
            GraphError: `PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED` if its columns depend on themselves.
        """
        with self._lock:
            return self._schema_of(name)

    def _schema_of(self, name: TableName) -> StructType:
        if name.key in self._schemas:
            return self._schemas[name.key]
        dataset = self.datasets[name.key]
        if any(name.key == other.key for other in self._resolving):
            start = next(i for i, other in enumerate(self._resolving) if other.key == name.key)
            cycle = " → ".join(self.names.display(step) for step in (*self._resolving[start:], name))
            raise GraphError(
                "PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED",
                f"the datasets read each other in a circle: {cycle}",
                origin=dataset.origin,
                hint="break the circle: read the source of one of them instead",
            )
        self._resolving.append(name)
        try:
            result = self._dataset_schema(dataset)
        finally:
            self._resolving.pop()
        self._schemas[name.key] = result
        return result

    def _dataset_schema(self, dataset: Dataset) -> StructType:
        if dataset.schema is not None:
            return self._declared_schema(dataset)
        flows = self.flows.get(dataset.name.key, [])
        if not flows:
            raise without_flow(dataset, self.names)
        result = StructType()
        seen: set[str] = set()
        for flow in flows:
            for column in self.output_schema(flow).fields:
                if column.name.lower() not in seen:
                    seen.add(column.name.lower())
                    result.add(column.name, column.dataType, True)
        return result

    def _declared_schema(self, dataset: Dataset) -> StructType:
        if isinstance(dataset.schema, StructType):
            return dataset.schema
        from lakelet.plan.ddl import parse_columns

        try:
            return parse_columns(str(dataset.schema), self.engine)
        except QueryError as error:
            raise DefinitionError(
                "INVALID_SCHEMA",
                f"the schema of `{self.names.display(dataset.name)}` cannot be read: {dataset.schema}",
                origin=dataset.origin,
                cause=_in_schema(error),
                hint='write columns as "id INT, name STRING"',
            ) from error

    def output_schema(self, flow: AnyFlow) -> StructType:
        """Return the columns that a flow gives to its target."""
        with self._lock:
            if flow.name not in self._flow_schemas:
                if isinstance(flow, AutoCdcFlow):
                    source = self.source(plan_leaf(self.relation(flow)), flow.origin)
                    columns = self.leaf_schema(source.leaf, flow.origin)
                    self._flow_schemas[flow.name] = target_schema(flow, columns, self.sequence_type(flow, columns))
                else:
                    self._flow_schemas[flow.name] = self.analyze(self.relation(flow), flow.origin)
            return self._flow_schemas[flow.name]

    def sequence_type(self, flow: AutoCdcFlow, columns: StructType) -> DataType:
        """Return the type of a flow's `sequence_by`."""
        with self._lock:
            return self._sequence_type(flow, columns)

    def _sequence_type(self, flow: AutoCdcFlow, columns: StructType) -> DataType:
        if flow.name not in self._sequence_types:
            try:
                self._sequence_types[flow.name] = sequence_type_of(flow, columns, self.engine)
            except QueryError as error:
                near = did_you_mean(error.column, columns.names) if error.column else None
                raise GraphError(
                    "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA" if error.column else "AUTOCDC_INVALID_CONDITION",
                    f"`sequence_by` of flow `{flow.name}` names a column `{error.column}` that `{flow.source}` "
                    "does not have"
                    if error.column
                    else f"`sequence_by` of flow `{flow.name}` cannot be evaluated",
                    origin=flow.origin,
                    cause=f"the columns there are {', '.join(columns.names)}" if error.column else error.message,
                    hint=f"did you mean `{near}`?" if near else "correct `sequence_by`",
                ) from error
        return self._sequence_types[flow.name]

    def analyze(self, relation: Relation, origin: Origin) -> StructType:
        """Return the columns of a normalised tree, without reading a row."""
        metadata = reads_metadata(relation)

        def empty(node: Relation) -> Relation | None:
            leaf = leaf_of(node)
            if leaf is None:
                return None
            columns = self.leaf_schema(leaf, origin)
            if metadata:
                columns = StructType(
                    [*columns.fields, *from_arrow_schema(pa.schema([(METADATA, METADATA_TYPE)])).fields]
                )
            return named_leaf(leaf, plan.empty(columns))

        try:
            return self.engine.schema(runnable(plan.substitute(relation, empty), self.engine.capabilities))
        except QueryError as error:
            raise explained(
                error, relation, origin, columns_of=lambda part: self.analyze(part, origin)
            ) from error.__cause__

    def _normalized(self, relation: Relation) -> Relation:
        return normalize(relation, columns_of=lambda part: list(self.schema_of(part).names))

    # -- user code asks -------------------------------------------------------------------------------------------

    def schema_of(self, relation: Relation) -> StructType:
        return self.analyze(relative_sites(self._normalized(relation), self.catalog.root), Origin())

    def is_streaming(self, relation: Relation) -> bool:
        return is_streaming(normalize(relation)) or any(
            source.dataset is not None
            and source.dataset.kind is DatasetKind.TEMPORARY_VIEW
            and self._streams(source.dataset)
            for source in (self.source(leaf, Origin()) for leaf in leaves(normalize(relation)))
        )

    def execute(self, relation: Relation) -> pa.Table:
        """Return the rows of tables outside of the pipeline, while a file loads."""
        normal = self._normalized(relation)

        def rows(node: Relation) -> Relation | None:
            leaf = leaf_of(node)
            if leaf is None:
                return None
            source = self.source(leaf, Origin())
            if source.files is not None:
                return named_leaf(leaf, self.file_rows(source, metadata=False))
            table = self.store.open(source.location) if source.location else None
            if table is None:
                raise missing_table(leaf.label, source.location or leaf.label)
            return named_leaf(leaf, plan.delta(table.location, table.version))

        return self.engine.collect(runnable(plan.substitute(normal, rows), self.engine.capabilities))

    def command(self, command: proto.Command) -> None:
        self.engine.command(command)

    def _streams(self, view: Dataset) -> bool:
        return any(is_streaming(self.relation(flow)) for flow in self.flows.get(view.name.key, []))

    # -- the graph ------------------------------------------------------------------------------------------------

    def resolve(self, definitions: Definitions) -> DataflowGraph:
        """Return the graph, every flow analysed.

        Raises:
            DefinitionErrors: everything that is wrong, root causes first.
        """
        from lakelet.graph.validation import check_definitions, check_graph, complete_targets

        errors: list[LakeletError] = check_definitions(definitions, self.names)
        self.datasets = {dataset.name.key: dataset for dataset in definitions.datasets}
        self.flows = {}
        for flow in definitions.flows:
            self.flows.setdefault(flow.target.key, []).append(flow)
        broken: set[Key] = set()
        resolved: dict[str, ResolvedFlow] = {}
        for flow in definitions.flows:
            if flow.name in resolved or flow.target.key not in self.datasets:
                continue
            try:
                resolved[flow.name] = self._resolve_flow(flow)
            except LakeletError as error:
                errors.append(self._at_flow(error, flow))
                broken.add(flow.target.key)
        for key, dataset in self.datasets.items():
            if dataset.kind is DatasetKind.TABLE and key not in broken:
                streams = any(r.streaming for r in resolved.values() if r.target.key == key)
                kind = DatasetKind.STREAMING_TABLE if streams else DatasetKind.MATERIALIZED_VIEW
                self.datasets[key] = replace(dataset, kind=kind)
        graph = DataflowGraph(names=self.names, datasets=dict(self.datasets), flows=tuple(resolved.values()))
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
                    part = stateful_part(self, item.relation, item.flow.origin) if item.streaming else None
                    if part is not None:
                        check_stateful(self, part, item.flow.origin)
                    resolved[item.name] = replace(
                        item, schema=self.output_schema(item.flow), is_complete=part is not None and part.is_complete
                    )
                    self._check_flow(self.datasets[name.key], item.flow)
                except LakeletError as error:
                    errors.append(self._at_flow(error, item.flow))
                    broken.add(name.key)
        graph = replace(graph, flows=tuple(resolved.values()))
        raise_all([*errors, *complete_targets(graph)])
        return graph

    def _resolve_flow(self, flow: AnyFlow) -> ResolvedFlow:
        relation = self.relation(flow)
        refuse_stateful(relation, flow.origin)
        inputs: dict[tuple[Any, bool], Input] = {}
        streaming = False
        for leaf in leaves(relation):
            source = self.source(leaf, flow.origin)
            dataset = source.dataset.name if source.dataset else None
            label = self.names.display(dataset) if dataset else leaf.label
            streaming |= leaf.streaming
            inputs.setdefault(
                (label, leaf.streaming),
                Input(dataset=dataset, label=label, streaming=leaf.streaming, origin=leaf.origin),
            )
        return ResolvedFlow(flow=flow, relation=relation, inputs=tuple(inputs.values()), streaming=streaming)

    def _check_flow(self, dataset: Dataset, flow: AnyFlow) -> None:
        """Check what needs the columns of a flow's query, so that it is found before anything runs."""
        columns = self.output_schema(flow)
        display = self.names.display(dataset.name)
        _refuse_columns_twice(columns, display, flow.origin)
        if dataset.schema is not None:
            self._check_declared_schema(dataset, self._declared_schema(dataset), columns)
        if isinstance(flow, AutoCdcFlow):
            source = self.leaf_schema(plan_leaf(self.relation(flow)), flow.origin)
            self._check_change_conditions(flow, source)
            columns = source
        check_expectations(self.engine, dataset, display, columns)
        stored = self.schema(dataset.name)
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

    def _check_declared_schema(self, dataset: Dataset, declared: StructType, columns: StructType) -> None:
        change = compare(
            nullable(to_arrow_schema(declared, timezone="UTC")), nullable(to_arrow_schema(columns, timezone="UTC"))
        )
        causes = [text.replace(" in the table ", " in the declared schema ") for text in change.conflicts]
        causes += [f"`{name}` of the query is not in the declared schema" for name in change.added]
        if causes:
            raise GraphError(
                "USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE",
                f"the query of `{self.names.display(dataset.name)}` does not fit the schema that it declares",
                origin=dataset.origin,
                cause="\n".join(causes),
                hint="cast or select the columns in the query, or change `schema`",
            )

    def _check_change_conditions(self, flow: AutoCdcFlow, source: StructType) -> None:
        """Analyse the conditions of an AUTO CDC flow over the columns of its source."""
        conditions = {"apply_as_deletes": flow.apply_as_deletes, "apply_as_truncates": flow.apply_as_truncates}
        for parameter, condition in conditions.items():
            if condition is None:
                continue
            rows = plan.with_columns(plan.empty(source), {"__lakelet_condition": plan.expression_of(condition)})
            try:
                kind = self.engine.schema(rows)["__lakelet_condition"].dataType.typeName()
            except QueryError as error:
                near = did_you_mean(error.column, source.names) if error.column else None
                raise GraphError(
                    "AUTOCDC_INVALID_CONDITION",
                    f"`{parameter}` of flow `{flow.name}` cannot be evaluated: {condition}",
                    origin=flow.origin,
                    cause=f"there is no column `{error.column}`" if error.column else error.cause or error.message,
                    hint=f"did you mean `{near}`?" if near else f"the source's columns are {', '.join(source.names)}",
                ) from error
            if kind not in ("boolean", "void"):
                raise GraphError(
                    "AUTOCDC_INVALID_CONDITION",
                    f"`{parameter}` of flow `{flow.name}` is {kind}, not boolean: {condition}",
                    origin=flow.origin,
                    hint="write a condition, for example `operation = 'DELETE'`",
                )

    def _at_flow(self, error: LakeletError, flow: AnyFlow) -> LakeletError:
        return error.at(replace(flow.origin, dataset=self.names.display(flow.target), flow=flow.name))


def _called(flow: Flow, root: Path) -> Relation:
    """Call a query function and return the tree of its DataFrame.

    Raises:
        DefinitionError: `QUERY_FUNCTION_RETURNED_NO_DATAFRAME`.
    """
    from pyspark.sql.connect.dataframe import DataFrame

    assert not isinstance(flow.query, SqlQuery)
    frame = flow.query()
    if isinstance(frame, DataFrame):
        try:
            return relation_of(frame)
        except Exception as error:  # some mistakes show only now, such as the return type of a function
            raise query_function_failed(error, name=flow.name, origin=flow.origin, root=root) from error
    what = "nothing" if frame is None else f"a {type(frame).__module__}.{type(frame).__name__}"
    raise DefinitionError(
        "QUERY_FUNCTION_RETURNED_NO_DATAFRAME",
        f"the query function of `{flow.name}` returned {what}",
        origin=flow.origin,
        hint="return the DataFrame: is a `return` missing?"
        if frame is None
        else "return the Spark DataFrame itself; `spark.createDataFrame(...)` makes one of local rows",
    )


def plan_leaf(relation: Relation) -> Leaf:
    """Return the leaf that a bare read is."""
    leaf = leaf_of(relation)
    assert leaf is not None
    return leaf


def named_leaf(leaf: Leaf, rows: Relation) -> Relation:
    """Return `rows` in the place of `leaf`: under its table name, with the id that column references address."""
    if leaf.kind is LeafKind.TABLE:
        *qualifier, name = split_name(leaf.name)
        if not any("/" in part for part in (*qualifier, name)):
            return plan.alias(
                rows, name, tuple(part for part in qualifier if part.lower() != "live"), plan_id=leaf.plan_id
            )
    result = Relation()
    result.CopyFrom(rows)
    if leaf.plan_id is not None:
        result.common.plan_id = leaf.plan_id
    return result


def file_read(leaf: Leaf) -> Relation:
    """Return the engine's own read of files.

    Raises:
        GraphError: `PATH_NOT_FOUND` where nothing is: the engine itself would read no rows without a word.
    """
    result = plan.new()
    source = result.read.data_source
    source.format, source.schema = leaf.format, leaf.schema
    for key, value in leaf.options.items():
        source.options[key] = value
    for path in leaf.paths:
        found = sorted(glob.glob(path, recursive=True)) if any(char in path for char in "*?[") else [path]
        found = [item for item in found if Path(item).exists()]
        if not found:
            raise GraphError(
                "PATH_NOT_FOUND",
                f"there is nothing at `{path}`",
                origin=leaf.origin,
                hint=near_paths(path) or "check the path, or put the files there before the update",
            )
        source.paths.extend(found)
    return result


def without_flow(dataset: Dataset, names: NameContext) -> GraphError:
    display = names.display(dataset.name)
    return GraphError(
        "PIPELINE_DATASET_WITHOUT_FLOW",
        f"{dataset.kind.label} `{display}` has no flow writing to it",
        origin=replace(dataset.origin, dataset=display),
        cause="declared without a query, and no flow has it as target",
        hint=f'add `@dp.append_flow(target="{display}")`, or remove the table',
    )


def _checked(leaf: Leaf, place: Origin) -> Leaf:
    """Return a leaf whose options are those of a streaming Delta read."""
    if leaf.streaming:
        try:
            check_options(leaf.shown, leaf.options)
        except LakeletError as error:
            raise error.at(place) from None
    return leaf


def _in_schema(error: QueryError) -> str | None:
    """Return what is wrong with the text of a schema; positions are left out, they count the engine's own prefix."""
    if error.condition != "PARSE_SYNTAX_ERROR":
        return error.cause
    text = re.sub(r" at character \d+| there$", "", error.message)
    return text.replace("`>` cannot stand", "a type is missing at its end").replace("the SQL text", "it")


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


def _place(leaf: Leaf, origin: Origin) -> Origin:
    if leaf.origin is None or leaf.origin.file is None:
        return origin
    return replace(origin, file=leaf.origin.file, line=leaf.origin.line)
