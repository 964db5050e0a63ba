"""What names, reads and trees mean in one pipeline: query functions are called, their trees read, columns resolved.

Nothing here reads a row. Columns come from analysis: every read is replaced by an empty relation of the right columns,
and the engine says what the query makes of them. The same answers serve `df.columns` and `df.schema` in user code.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema
from pyspark.sql.types import DataType, StructType

from lakelet.errors import DefinitionError, GraphError, LakeletError, Origin, QueryError, did_you_mean, raise_all
from lakelet.execution.auto_cdc_checks import condition_problems
from lakelet.execution.auto_cdc_schema import definition_problems, sequence_type_of, target_schema
from lakelet.execution.change_feed import refuse_without_change_feed, with_change_columns
from lakelet.execution.delta_options import DeltaOptions
from lakelet.execution.delta_source import version_as_of
from lakelet.execution.diagnosis import explained, missing_table, relative_sites
from lakelet.execution.reads import Key, Reads, Source, named_leaf, place_of, plan_leaf
from lakelet.execution.slices import METADATA_TYPE
from lakelet.execution.snapshot_source import planned_relation, snapshot_target
from lakelet.execution.sources import RATE_SCHEMA
from lakelet.graph.elements import AnyFlow, AutoCdcFlow, Dataset, DatasetKind, Flow, SnapshotCdcFlow, SqlQuery
from lakelet.names import NameContext, TableName
from lakelet.pipelines.session import relation_of
from lakelet.pipelines.user_errors import query_function_failed
from lakelet.plan import relation as plan
from lakelet.plan.metadata import METADATA, reads_metadata
from lakelet.plan.normalize import normalize, runnable
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf, is_streaming, leaf_of, leaves
from lakelet.storage.delta_log import latest_version


@dataclass(slots=True)
class Resolver(Reads):
    """Answers what names, reads and trees mean in one pipeline.

    It is also what user code asks through its session: `schema_of`, `is_streaming`, `execute`, `command`.
    """

    flows: dict[Key, list[AnyFlow]] = field(default_factory=dict)
    _relations: dict[str, Relation] = field(default_factory=dict)
    _schemas: dict[Key, StructType] = field(default_factory=dict)
    _flow_schemas: dict[str, StructType] = field(default_factory=dict)
    _sequence_types: dict[str, DataType] = field(default_factory=dict)
    _resolving: list[TableName] = field(default_factory=list)
    derived: dict[str, Any] = field(default_factory=dict)
    """What others have made of the trees of flows; forgotten with the columns."""
    _lock: threading.RLock = field(default_factory=threading.RLock)

    # -- trees ----------------------------------------------------------------------------------------------------

    def relation(self, flow: AnyFlow) -> Relation:
        """Return the normalised tree of a flow; its query function is called once."""
        if flow.name not in self._relations:
            if isinstance(flow, AutoCdcFlow):
                self._relations[flow.name] = plan.named(flow.source, streaming=self._streams_changes(flow))
            elif isinstance(flow, SnapshotCdcFlow):
                self._relations[flow.name] = planned_relation(self, flow, self.datasets[flow.target.key])
            elif isinstance(flow.query, SqlQuery):
                self._relations[flow.name] = normalize(plan.sql(flow.query.text))
            else:
                self._relations[flow.name] = self.prepared(_called(flow, self.catalog.root))
        return self._relations[flow.name]

    def add_view(self, name: TableName, tree: Relation) -> None:
        """Have a name stand for a normalised tree, as a temporary view without rules does."""
        flow = Flow(name=str(name), target=name, query=SqlQuery(text=""))
        self.datasets[name.key] = Dataset(name=name, kind=DatasetKind.TEMPORARY_VIEW)
        self.flows[name.key] = [flow]
        self._relations[flow.name] = tree

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
            return self.declared_schema(dataset)
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

    def declared_schema(self, dataset: Dataset) -> StructType:
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

    def _table_columns(self, source: Source, leaf: Leaf, origin: Origin) -> StructType:
        """Return the columns that a leaf gives of a table: those of an old version, or with those of its change feed."""
        options = DeltaOptions(leaf.options)
        if options.reads_old_version:
            location = self.location(source)
            newest = None if location is None else latest_version(location)
            if location is None or newest is None:
                raise missing_table(leaf.label, location or leaf.label)
            version = version_as_of(location, leaf.shown, leaf.options, newest=newest)
            table = self.store.open(location, version=version)
            assert table is not None
            return from_arrow_schema(table.schema)
        if source.dataset is not None:
            columns = self.schema(source.dataset.name)
        else:
            assert source.location is not None
            columns = self.table_schema(leaf.label, source.location, place_of(leaf, origin))
        if not options.change_feed:
            return columns
        if source.dataset is not None:
            properties = {key: str(value) for key, value in source.dataset.table_properties.items()}
        else:
            table = self.store.open(source.location or "")
            properties = {} if table is None else dict(table.properties)
        refuse_without_change_feed(leaf.shown, properties)
        return from_arrow_schema(with_change_columns(to_arrow_schema(columns, timezone="UTC"), label=leaf.shown))

    def output_schema(self, flow: AnyFlow) -> StructType:
        """Return the columns that a flow gives to its target."""
        with self._lock:
            if flow.name not in self._flow_schemas:
                if isinstance(flow, SnapshotCdcFlow):
                    self._flow_schemas[flow.name] = snapshot_target(self, flow, self.datasets[flow.target.key])
                elif isinstance(flow, AutoCdcFlow):
                    source = self.source(plan_leaf(self.relation(flow)), flow.origin)
                    columns = self.leaf_schema(source.leaf, flow.origin)
                    self._flow_schemas[flow.name] = self._cdc_target(flow, columns)
                else:
                    self._flow_schemas[flow.name] = self.analyze(self.relation(flow), flow.origin)
            return self._flow_schemas[flow.name]

    def _cdc_target(self, flow: AutoCdcFlow, columns: StructType) -> StructType:
        """Return the columns of the target of an AUTO CDC flow; everything that does not fit is raised at once."""
        kind, problems = None, []
        try:
            kind = self.sequence_type(flow, columns)
        except LakeletError as error:
            problems.append(error)
        problems += definition_problems(flow, columns, kind)
        if problems:
            raise_all([*problems, *condition_problems(self.engine, flow, columns)])
        assert kind is not None
        return target_schema(flow, columns, kind)

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

    def prepared(self, relation: Relation) -> Relation:
        """Return a tree of user code normalised, its call sites relative to the project."""
        return relative_sites(self._normalized(relation), self.catalog.root)

    def _normalized(self, relation: Relation) -> Relation:
        return normalize(relation, columns_of=lambda part: list(self.schema_of(part).names))

    def forget_columns(self) -> None:
        """Ask again for columns that depend on files and external tables, now that these have others."""
        with self._lock:
            self._schemas, self._flow_schemas, self._sequence_types, self._table_schemas = {}, {}, {}, {}
            self.derived = {}

    def leaf_schema(self, leaf: Leaf, origin: Origin) -> StructType:
        """Return the columns of what `leaf` reads."""
        source = self.source(leaf, origin)
        if source.dataset is not None and source.dataset.kind is DatasetKind.TEMPORARY_VIEW:
            return self.schema(source.dataset.name)
        if source.dataset is not None or source.location is not None:
            try:
                return self._table_columns(source, leaf, origin)
            except LakeletError as error:
                raise error.at(place_of(leaf, origin)) from error.__cause__
        if source.read is not None:
            try:
                return self.files.current(source.read).columns
            except LakeletError as error:
                raise error.at(place_of(leaf, origin)) from error.__cause__
        if source.files is not None:
            return self.engine.schema(self.file_rows(source, metadata=False))
        return from_arrow_schema(RATE_SCHEMA)

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
            return named_leaf(leaf, self.delta_rows(table.location, table.version))

        return self.engine.collect(runnable(plan.substitute(normal, rows), self.engine.capabilities))

    def command(self, command: proto.Command) -> None:
        self.engine.command(command)

    def _streams_changes(self, flow: AutoCdcFlow) -> bool:
        """Return whether an AUTO CDC flow reads its source as a stream: always, but for a `once` flow of a table."""
        if not flow.once:
            return True
        view = self.datasets.get(self.names.resolve(flow.source, origin=flow.origin).key)
        return view is not None and view.kind is DatasetKind.TEMPORARY_VIEW and self._streams(view)

    def _streams(self, view: Dataset) -> bool:
        return any(is_streaming(self.relation(flow)) for flow in self.flows.get(view.name.key, []))


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


def without_flow(dataset: Dataset, names: NameContext) -> GraphError:
    display = names.display(dataset.name)
    return GraphError(
        "PIPELINE_DATASET_WITHOUT_FLOW",
        f"{dataset.kind.label} `{display}` has no flow writing to it",
        origin=replace(dataset.origin, dataset=display),
        cause="declared without a query, and no flow has it as target",
        hint=f'add `@dp.append_flow(target="{display}")`, or remove the table',
    )


def _in_schema(error: QueryError) -> str | None:
    """Return what is wrong with the text of a schema; positions are left out, they count the engine's own prefix."""
    if error.condition != "PARSE_SYNTAX_ERROR":
        return error.cause
    text = re.sub(r" at character \d+| there$", "", error.message)
    return text.replace("`>` cannot stand", "a type is missing at its end").replace("the SQL text", "it")
