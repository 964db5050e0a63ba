"""What a read of a query stands for: a dataset, a table, files, or a generated stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from lakelet.engine.base import Engine
from lakelet.errors import GraphError, LakeletError, Origin, SourceError, did_you_mean
from lakelet.execution.delta_options import check_options
from lakelet.execution.diagnosis import missing_table, near_paths
from lakelet.execution.file_batch import has_folders, needs_own_reader, read_batch
from lakelet.execution.file_cluster import FileCluster
from lakelet.execution.file_discovery import roots
from lakelet.execution.file_options import FileRead
from lakelet.execution.file_options import file_read as checked_read
from lakelet.execution.file_schema import FileSchemas
from lakelet.execution.slices import file_rows
from lakelet.graph.elements import Dataset, DatasetKind
from lakelet.names import NameContext, split_name
from lakelet.places import is_remote
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf, LeafKind, leaf_of
from lakelet.storage.base import TableStore
from lakelet.storage.believed_bounds import leads_astray
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_log import refuse_column_mapping, snapshot_files
from lakelet.storage.delta_spark import STATS_SKIPPING

Key = tuple[str, str, str]
FILE_FORMATS = {"json", "csv", "parquet", "text", "binaryfile", "avro", "orc"}
_TYPED_FORMATS = {"parquet", "orc", "avro"}
"""Formats whose files tell the types of their columns."""
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
class Reads:
    """Answers what the leaves of a tree read, in one pipeline."""

    names: NameContext
    catalog: Catalog
    engine: Engine
    store: TableStore
    external: Mapping[Key, str] = field(default_factory=dict)
    datasets: dict[Key, Dataset] = field(default_factory=dict)
    _table_schemas: dict[str, StructType] = field(default_factory=dict)
    time_zone: str = "UTC"
    _files: FileSchemas | None = None
    _file_cluster: FileCluster | None = None
    _skips_no_files: bool = False

    def source(self, leaf: Leaf, origin: Origin) -> Source:
        """Return what `leaf` reads.

        Raises:
            GraphError: `TABLE_OR_VIEW_NOT_FOUND`, `UNSUPPORTED_SOURCE`.
        """
        place = place_of(leaf, origin)
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
        if leaf.format == "cloudfiles" or (leaf.format in FILE_FORMATS and self._reads_itself(leaf, place)):
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
        if leaf.streaming and is_remote(str(self.catalog.storage)):
            raise GraphError(
                "UNSUPPORTED_SOURCE",
                f"`{leaf.shown}` cannot be read as a stream of files while the storage is in an object store",
                origin=place,
                cause="the list of the files that such a stream has found is kept in a folder of this machine",
                hint="land the rows in a Delta table, or keep the storage in a local folder",
            )
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
            read = checked_read(leaf, self._local_path(leaf.paths[0], place))
        except LakeletError as error:
            raise error.at(place) from None
        return Source(leaf=leaf, read=read, files=None if leaf.streaming else self._with_local_paths(leaf, place))

    def _with_local_paths(self, leaf: Leaf, place: Origin) -> Leaf:
        return replace(leaf, paths=tuple(self._local_path(path, place) for path in leaf.paths))

    @property
    def files(self) -> FileSchemas:
        """The columns of the pipeline's streams of files."""
        if self._files is None:
            self._files = FileSchemas(self.catalog, self.engine)
        return self._files

    @property
    def file_cluster(self) -> FileCluster:
        """What parses files where a cluster can."""
        if self._file_cluster is None:
            self._file_cluster = FileCluster(engine=self.engine, store=self.store)
        return self._file_cluster

    def file_rows(self, source: Source, *, metadata: bool) -> Relation:
        """Return the rows of files that are read as a table."""
        if source.read is not None:
            return read_batch(source.read, self.files, self.file_cluster, metadata=metadata)
        assert source.files is not None
        rows = file_read(source.files, takes_patterns=self.engine.capabilities.file_readers)
        if self._tells_columns and source.files.format in _TYPED_FORMATS and not rows.read.data_source.schema:
            rows.read.data_source.schema = self.engine.schema(rows).json()
        return rows

    @property
    def _tells_columns(self) -> bool:
        """Whether the engine must be told the columns of what it reads, or days would begin in another zone."""
        return self.time_zone != "UTC" and not self.engine.capabilities.instants_in_session_zone

    def delta_rows(self, location: str, version: int) -> Relation:
        """Return the rows of a version of a Delta table.

        Raises:
            SourceError: as `rows_of_files`, where the engine would read other values than the files have.
        """
        exact = self.engine.capabilities.exact_bounds
        if not self._skips_no_files and leads_astray(self.store, location, version, read_exactly=exact):
            if not exact:
                return self.rows_of_files(location, version)
            # Its table may have files by the thousand, whose footers would be looked at here.
            self.engine.configure(STATS_SKIPPING, "false")
            self._skips_no_files = True
        if not self._tells_columns:
            return plan.delta(location, version)
        table = self.store.open(location)  # the newest one is known, most often
        if table is None or table.version != version:
            table = self.store.open(location, version=version)
        return plan.delta(location, version, None if table is None else from_arrow_schema(table.schema))

    def rows_of_files(self, location: str, version: int, *, metadata: bool = False) -> Relation:
        """Return the rows of a version of a Delta table, read from its data files without its log.

        Raises:
            SourceError: `DELETION_VECTORS_UNSUPPORTED`, `COLUMN_MAPPING_UNSUPPORTED`: the files alone have other rows or names.
        """
        table = self.store.open(location, version=version)
        assert table is not None
        refuse_column_mapping(location, table.properties)
        return file_rows(
            snapshot_files(location, version),
            table.schema,
            partition_cols=table.partition_cols,
            metadata=metadata,
            inline=not self.engine.capabilities.cluster_writes,
        )

    def _reads_itself(self, leaf: Leaf, place: Origin) -> bool:
        """Return whether the runtime reads these files, and not the engine."""
        if leaf.streaming or needs_own_reader(leaf, self.engine.capabilities):
            return True
        if self.engine.capabilities.file_readers:
            return False
        return leaf.format == "parquet" and len(leaf.paths) == 1 and has_folders(self._local_path(leaf.paths[0], place))

    def _path(self, text: str, place: Origin) -> str:
        try:
            return self.catalog.path(text)
        except LakeletError as error:
            raise error.at(place) from None

    def _local_path(self, text: str, place: Origin) -> str:
        """Return a path to files that are no Delta table; they are read from folders of this machine."""
        path = self._path(text, place)
        if is_remote(path):
            raise SourceError(
                "UNSUPPORTED_FILE_SYSTEM",
                f"the files at `{text}` are in an object store",
                origin=place,
                cause=f"`{path}` can be read as a Delta table only",
                hint="write the rows to a Delta table there, or copy the files to a folder of this machine and give its path",
            )
        return path

    def location(self, source: Source) -> str | None:
        """Return the folder of the Delta table that a leaf reads, None for other sources."""
        if source.dataset is not None:
            return self.catalog.location(source.dataset.name)
        return source.location

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


def file_read(leaf: Leaf, *, takes_patterns: bool = False) -> Relation:
    """Return the engine's own read of files.

    Args:
        takes_patterns: the engine expands patterns itself, as Spark does.

    Raises:
        GraphError: `PATH_NOT_FOUND` where nothing is: the engine itself would read no rows without a word.
    """
    result = plan.new()
    source = result.read.data_source
    source.format, source.schema = leaf.format, leaf.schema
    for key, value in leaf.options.items():
        source.options[key] = value
    for path in leaf.paths:
        found = roots(path)
        if not found:
            raise GraphError(
                "PATH_NOT_FOUND",
                f"there is nothing at `{path}`",
                origin=leaf.origin,
                hint=near_paths(path) or "check the path, or put the files there before the update",
            )
        source.paths.extend([path] if takes_patterns else found)
    return result


def _checked(leaf: Leaf, place: Origin) -> Leaf:
    """Return a leaf whose options are those of a Delta read."""
    try:
        check_options(leaf.shown, leaf.options, streaming=leaf.streaming)
    except LakeletError as error:
        raise error.at(place) from None
    return leaf


def place_of(leaf: Leaf, origin: Origin) -> Origin:
    if leaf.origin is None or leaf.origin.file is None:
        return origin
    return replace(origin, file=leaf.origin.file, line=leaf.origin.line)
