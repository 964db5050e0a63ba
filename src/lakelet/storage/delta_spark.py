"""Delta tables whose rows are written by Apache Spark: the log is read here, rows never pass through this process.

Delta's writer compares a receipt with the table (`txnAppId`, `txnVersion`) and leaves out a commit that is there already.
For MERGE and DELETE the receipt is a setting of the session and not an option, so each runs in a copy of the session.
"""

from __future__ import annotations

import contextlib
import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema

from lakelet.engine.paths import literal_path
from lakelet.errors import StorageError
from lakelet.names import quote
from lakelet.places import is_remote, remove_folder
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.delta_rs_table import CHECKPOINT_INTERVAL, DeltaRsTable
from lakelet.storage.failures import storage_errors
from lakelet.storage.log_writer import AddedFile, checkpoint, write_commit
from lakelet.storage.schema import nullable, sql_type, stored_type

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pyspark.sql.types import StructType

    from lakelet.engine.base import Engine
    from lakelet.storage.base import TableStore

TXN_APP_ID = "spark.databricks.delta.write.txnAppId"
TXN_VERSION = "spark.databricks.delta.write.txnVersion"
STATS_SKIPPING = "spark.databricks.delta.stats.skipping"
OPERATION = "__op"
_ATTEMPT = "_files-"
_OBSERVATION = "lakelet"
_WRITTEN, _TASK, _TASKS = "lakelet_written", "__lakelet_task", "__lakelet_tasks"
_NUMBER = re.compile(r"part-(\d+)")
_OPTIMIZE = "spark.databricks.delta.optimize"


class DeltaSparkTable(DeltaRsTable):
    """One open Delta table; queries are written, and changes merged, by the engine."""

    def __init__(self, table: DeltaTable, location: str, engine: Engine) -> None:
        super().__init__(table, location)
        self._engine = engine

    def append_query(
        self, engine: Engine, rows: Relation, incoming: pa.Schema, *, receipt: Receipt | None, evolve: bool = False
    ) -> dict[str, Any]:
        """Commit the rows of a query and the receipt as one version; returns what the query observes.

        Args:
            engine: runs the query: that of the update, or with the clock of a batch.
            incoming: columns of the query.
        """
        options = {"mergeSchema": "true"} if evolve else {}
        stored = self.schema
        more = [field for field in nullable(incoming) if field.name.lower() not in {n.lower() for n in stored.names}]
        query = fitted(rows, incoming, pa.schema([*stored, *more]), complete=False)
        return self._write_query(
            engine, query, proto.WriteOperation.SAVE_MODE_APPEND, receipt, options, self.partition_cols
        )

    def append_files(self, engine: Engine, rows: Relation, incoming: pa.Schema, *, receipt: Receipt) -> None:
        """Commit the rows of a query and the receipt as one version: the engine writes files, the log is written here.

        In less than half the time of `append_query`, for plain tables whose columns the query has. The rows are
        counted here as well as there. A job that goes on after its client died has written files that no commit names.

        Raises:
            StorageError: `STORAGE_OUT_OF_REACH`; nothing is committed.
        """
        table = Path(self.location)
        for left in table.glob(f"{_ATTEMPT}*"):  # of an attempt that was cut off; a vacuum does not look there
            remove_folder(left)
        folder = table / f"{_ATTEMPT}{uuid.uuid4().hex}"
        count = {"num_rows": plan.expression("count(*)")}
        _, seen = stage(engine, str(folder), rows, incoming, self.schema, count)
        with storage_errors(self.location):
            written = {file: pq.read_metadata(file).num_rows for file in sorted(folder.glob("part-*.parquet"))}
        if sum(written.values()) != seen["num_rows"]:
            raise out_of_reach(str(folder), f"{sum(written.values())} of {seen['num_rows']} rows are there")
        with storage_errors(self.location):
            added = [_moved(file, table, num_rows) for file, num_rows in written.items() if num_rows]
            remove_folder(folder)
            write_commit(self.location, self.version + 1, added=added, removed=(), receipt=receipt)
        self.refresh()
        interval = int(self.properties.get("delta.checkpointInterval", CHECKPOINT_INTERVAL))
        checkpoint(self.location, self.version, files=0, interval=interval)

    @property
    def takes_files(self) -> bool:
        """Whether rows may be added by `append_files`."""
        return self._is_plain and not is_remote(self.location)

    def replace_query(
        self,
        engine: Engine,
        rows: Relation,
        incoming: pa.Schema,
        columns: pa.Schema,
        *,
        receipt: Receipt,
        partition_cols: tuple[str, ...] | None,
    ) -> dict[str, Any]:
        """Swap all rows, and the columns for `columns`, in one commit; returns what the query observes."""
        query = fitted(rows, incoming, columns, complete=True)
        partitions = self.partition_cols if partition_cols is None else partition_cols
        overwrite = proto.WriteOperation.SAVE_MODE_OVERWRITE
        return self._write_query(engine, query, overwrite, receipt, {"overwriteSchema": "true"}, partitions)

    def replace_where_query(
        self, engine: Engine, rows: Relation, incoming: pa.Schema, *, where: str, receipt: Receipt
    ) -> None:
        """Swap the rows for which a condition is true, which it must be of the new ones, in one commit."""
        query = fitted(rows, incoming, self.schema, complete=True)
        overwrite = proto.WriteOperation.SAVE_MODE_OVERWRITE
        self._write_query(engine, query, overwrite, receipt, {"replaceWhere": where}, self.partition_cols)

    def merge(self, changes: pa.Table, *, keys: tuple[str, ...], receipt: Receipt | None = None) -> None:
        self.merge_query(plan.local(changes), changes.column_names, keys=keys, receipt=receipt)

    def merge_query(
        self, changes: Relation, columns: Sequence[str], *, keys: tuple[str, ...], receipt: Receipt | None = None
    ) -> None:
        """Apply the row changes that a query gives, as `merge` does.

        Args:
            columns: those of the query: the table's and `__op`.
        """
        command, source = _merging(self.location, changes, columns, keys)
        merge, assignments = command.merge_into_table_command, _assignments(source)
        action = proto.MergeAction
        _act(merge.match_actions, action.ACTION_TYPE_DELETE, f"{source[OPERATION]} = 'D'", {})
        _act(merge.match_actions, action.ACTION_TYPE_UPDATE, f"{source[OPERATION]} = 'U'", assignments)
        _act(merge.not_matched_actions, action.ACTION_TYPE_INSERT, f"{source[OPERATION]} = 'U'", assignments)
        self._merge(command, receipt)

    def replace_keys_query(
        self, rows: Relation, columns: Sequence[str], *, keys: tuple[str, ...], receipt: Receipt | None = None
    ) -> None:
        """Remove all rows that have certain keys, and add others, in one commit.

        Args:
            columns: those of the query: the table's and `__op`, which is "D" for keys whose rows go, at most once each, and
                "I" for a row to add.
        """
        command, source = _merging(self.location, rows, columns, keys, only_deletes=True)
        merge = command.merge_into_table_command
        _act(merge.match_actions, proto.MergeAction.ACTION_TYPE_DELETE, None, {})
        added = f"{source[OPERATION]} = 'I'"
        _act(merge.not_matched_actions, proto.MergeAction.ACTION_TYPE_INSERT, added, _assignments(source))
        self._merge(command, receipt)

    def _merge(self, command: proto.Command, receipt: Receipt | None) -> None:
        self._engine.observed(command, settings={} if receipt is None else _settings(receipt))
        self._committed(receipt)

    def delete(self, where: str, *, receipt: Receipt) -> None:
        """Remove the rows for which a condition is true, in one commit with the receipt."""
        self._run(f"DELETE FROM delta.{quote(self.location)} WHERE {where}", settings=_settings(receipt))

    def compact(self, *, file_size_bytes: int | None = None) -> None:
        size = {} if file_size_bytes is None else {f"{_OPTIMIZE}.minFileSize": str(file_size_bytes)}
        self._run(f"OPTIMIZE delta.{quote(self.location)}", settings=size)

    def _run(self, text: str, *, settings: Mapping[str, str] | None = None) -> None:
        command = proto.Command()
        command.sql_command.input.sql.query = text
        self._engine.observed(command, settings=settings)
        self.refresh()

    def _write_query(
        self,
        engine: Engine,
        rows: Relation,
        mode: Any,
        receipt: Receipt | None,
        options: Mapping[str, str],
        partition_cols: tuple[str, ...],
    ) -> dict[str, Any]:
        command = _write("delta", self.location, rows, options)
        operation = command.write_operation
        operation.mode = mode
        operation.partitioning_columns.extend(partition_cols)
        if receipt is not None:
            operation.options["txnAppId"], operation.options["txnVersion"] = receipt.app_id, str(receipt.batch_id)
        seen = engine.observed(command)
        self._committed(receipt)
        return seen

    def _committed(self, receipt: Receipt | None) -> None:
        """Read the new version; refuse one that lacks the receipt, since a replay would write it again."""
        self.refresh()
        if receipt is not None and self.batch_id(receipt.app_id) < receipt.batch_id:
            raise StorageError(
                "RECEIPT_NOT_WRITTEN",
                f"the engine has written `{self.location}` without the receipt of the batch",
                cause="its Delta writer does not know `txnAppId` and `txnVersion`, or it writes into another file system",
                hint="run Apache Spark 4 with Delta Lake 4, with the storage folder mounted at the same path",
            )


class DeltaSparkStore(DeltaRsStore):
    """Delta tables in a folder that this process and the cluster see at the same path."""

    keeps_key_order = False

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def _table(self, delta: DeltaTable, location: str) -> DeltaSparkTable:
        return DeltaSparkTable(delta, location, self._engine)

    def _known(self, location: str) -> None:
        """Return nothing: the engine commits as well, and a table that is opened costs little beside its query."""


@contextlib.contextmanager
def staging(store: TableStore, folder: str) -> Iterator[str]:
    """Lend a folder inside of one that is there for nothing else; what was left in it is gone, too."""
    store.drop(folder)
    yield f"{folder}/{uuid.uuid4().hex}"
    with contextlib.suppress(StorageError):  # the work is done; the next one tries again, and says so if it cannot
        store.drop(folder)


def stage(
    engine: Engine,
    folder: str,
    rows: Relation,
    incoming: pa.Schema,
    columns: pa.Schema,
    measures: Mapping[str, proto.Expression],
) -> tuple[Relation, dict[str, int]]:
    """Write the rows of a query, once, into a folder of bare Parquet files; returns them, and the measures over them.

    Beside the measures there is what the query itself counts with `observe`, if the engine has told of it.

    Args:
        engine: runs the query: that of the update, or with the clock of a batch.
        folder: one that is not there.
        incoming: columns of the query.
        columns: those that the files have.

    Raises:
        StorageError: `STORAGE_OUT_OF_REACH`.
    """
    query = fitted(rows, incoming, columns, complete=True, nested=True)
    seen = write_files(engine, folder, plan.observed(query, _OBSERVATION, measures))
    staged = staged_files(folder, from_arrow_schema(columns))
    if not seen.keys() >= measures.keys():  # the cluster has found nothing to read, or its observer came too late
        seen |= engine.collect(plan.aggregated(staged, measures)).to_pylist()[0]
    return staged, {name: int(count) for name, count in seen.items()}


def staged_files(folder: str, columns: StructType) -> Relation:
    """Return the rows of a folder that `write_files` has written: all, or an error, whatever the session's settings say."""
    found = plan.parquet([literal_path(folder)], columns)
    options = found.read.data_source.options
    options["ignoreMissingFiles"] = options["ignoreCorruptFiles"] = (
        "false"  # a job may outlive its client and the files
    )
    return found


def write_files(
    engine: Engine,
    folder: str,
    rows: Relation,
    *,
    source: str = "parquet",
    options: Mapping[str, str] | None = None,
    num_rows: Callable[[Sequence[Path]], int] | None = None,
) -> dict[str, Any]:
    """Write the rows of a query, once, as bare files into a folder that is not there; returns what it observes.

    A machine of the cluster on which the folder is not mounted writes to its own disk, and Spark tells of a success. So each
    task that has rows is observed, and its file must be in the folder as this process sees it: its number is in the name, and
    no file is opened. Where the observation did not come, the query is counted once more, and so are the rows in the files.
    Into an object store all machines write through the same library as Spark's list of it, and nothing is looked for.

    Args:
        source: format of the files.
        options: of Spark's writer of that format.
        num_rows: counts the rows in files of that format; for Parquet their footers do.

    Raises:
        StorageError: `STORAGE_OUT_OF_REACH`, retryable: a file on a network file system may be seen late.
    """
    numbered = plan.with_columns(rows, {_TASK: plan.expression("spark_partition_id()")})
    measure = {_TASKS: plan.expression(f"concat_ws(',', collect_set(CAST({_TASK} AS STRING)))")}
    query = plan.dropped(plan.observed(numbered, _WRITTEN, measure), [_TASK])
    seen = engine.observed(_write(source, folder, query, options or {}))
    tasks = seen.pop(_TASKS, None)
    if is_remote(folder):
        return seen
    if not Path(folder).is_dir():
        raise out_of_reach(folder, "the folder is not there")
    files = sorted(Path(folder).glob(f"part-*.{source}"))
    if tasks is None:
        count = plan.aggregated(plan.unobserved(rows), {"n": plan.expression("count(*)")})
        expected = int(engine.collect(count).to_pylist()[0]["n"])
        found_rows = (num_rows or _rows_of_footers)(files)
        if found_rows != expected:
            raise out_of_reach(folder, f"{found_rows} of {expected} rows are there")
        return seen
    numbers = {int(found[1]) for file in files if (found := _NUMBER.match(file.name))}
    lost = {int(task) for task in tasks.split(",") if task} - numbers
    if lost:
        raise out_of_reach(folder, f"the files of {len(lost)} of its tasks that have rows are not there")
    return seen


def _rows_of_footers(files: Sequence[Path]) -> int:
    with storage_errors(str(files[0].parent) if files else ""):
        return sum(int(pq.read_metadata(file).num_rows) for file in files)


def out_of_reach(folder: str, what: str) -> StorageError:
    """Return the error for files of the cluster that this process does not see."""
    return StorageError(
        "STORAGE_OUT_OF_REACH",
        f"the cluster has written to `{folder}`, and not all of it is there",
        cause=f"{what}: the cluster, or one of its machines, writes into another file system than this process reads",
        hint="mount the storage folder at the same path on all machines of the cluster",
        retryable=True,
    )


def _write(source: str, path: str, rows: Relation, options: Mapping[str, str]) -> proto.Command:
    command = proto.Command()
    operation = command.write_operation
    operation.input.CopyFrom(rows)
    operation.source, operation.path = source, path
    operation.mode = proto.WriteOperation.SAVE_MODE_ERROR_IF_EXISTS
    for key, value in options.items():
        operation.options[key] = value
    return command


def _moved(file: Path, table: Path, num_rows: int) -> AddedFile:
    """Move a file of the engine to the others of a table."""
    size = file.stat().st_size
    file.rename(table / file.name)
    return AddedFile(path=file.name, size_bytes=size, stats=json.dumps({"numRecords": num_rows}))


def _settings(receipt: Receipt) -> dict[str, str]:
    """Return the receipt of a command that has no options of its own."""
    return {TXN_APP_ID: receipt.app_id, TXN_VERSION: str(receipt.batch_id)}


def fitted(
    rows: Relation, incoming: pa.Schema, columns: pa.Schema, *, complete: bool, nested: bool = False
) -> Relation:
    """Return the rows with the names, types and order of `columns`.

    Args:
        complete: a column that the rows lack is added as NULL; without it the writer does that.
        nested: fit nested values, too; without it that is left to Delta's writer, which does it by the names of their fields.
    """
    spelling = {field.name.lower(): field for field in incoming}
    result = plan.new()
    result.project.input.CopyFrom(rows)
    for field in columns:
        have = spelling.get(field.name.lower())
        kind = sql_type(field.type)
        if have is None and not complete:
            continue
        if have is None:
            value = plan.expression(f"CAST(NULL AS {kind})")
        elif pa.types.is_nested(field.type) and nested:
            value = plan.expression(_by_name(quote(have.name), have.type, field.type))
        elif pa.types.is_nested(field.type) or (
            stored_type(have.type).equals(field.type) and not pa.types.is_null(have.type)
        ):
            value = plan.attribute(quote(have.name))
        else:
            value = plan.expression(f"CAST({quote(have.name)} AS {kind})")
        named = result.project.expressions.add()
        named.alias.expr.CopyFrom(value)
        named.alias.name.append(field.name)
    return result


def _by_name(value: str, have: pa.DataType, wanted: pa.DataType, depth: int = 0) -> str:
    """Return an expression that gives a value another type, structs by the names of their fields."""
    if stored_type(have).equals(wanted) and not _has_untyped(have):
        return value
    if pa.types.is_struct(have) and pa.types.is_struct(wanted):
        fields = {field.name.lower(): field for field in have}
        parts = []
        for field in wanted:
            found = fields.get(field.name.lower())
            inner = "NULL" if found is None else _by_name(f"{value}.{quote(found.name)}", found.type, field.type, depth)
            parts.append(f"CAST({inner} AS {sql_type(field.type)}) AS {quote(field.name)}")
        return f"CASE WHEN {value} IS NOT NULL THEN struct({', '.join(parts)}) END"
    if pa.types.is_list(have) and pa.types.is_list(wanted):
        item = f"item{depth}"
        return f"transform({value}, {item} -> {_by_name(item, have.value_type, wanted.value_type, depth + 1)})"
    return f"CAST({value} AS {sql_type(wanted)})"


def _has_untyped(kind: pa.DataType) -> bool:
    """Return whether a type is, or holds, that of a bare NULL, which is stored as a string."""
    return pa.types.is_null(kind) or any(_has_untyped(kind.field(number).type) for number in range(kind.num_fields))


def _merging(
    location: str, rows: Relation, columns: Sequence[str], keys: tuple[str, ...], *, only_deletes: bool = False
) -> tuple[proto.Command, dict[str, str]]:
    """Return a MERGE without actions, and the names of its source's columns: such as the table cannot have.

    Args:
        only_deletes: other rows of the source match none of the table.
    """
    source = {name: f"__lakelet_source_{number}" for number, name in enumerate(columns)}
    command = proto.Command()
    merge = command.merge_into_table_command
    merge.target_table_name = f"delta.{quote(location)}"
    renamed = plan.new()
    renamed.project.input.CopyFrom(rows)
    renamed.project.expressions.extend(
        plan.aliased(plan.attribute(quote(name)), alias) for name, alias in source.items()
    )
    merge.source_table_plan.CopyFrom(renamed)
    conditions = [f"{quote(key)} <=> {source[key]}" for key in keys]
    if only_deletes:
        conditions.append(f"{source[OPERATION]} = 'D'")
    merge.merge_condition.CopyFrom(plan.expression(" AND ".join(conditions)))
    return command, source


def _assignments(source: Mapping[str, str]) -> dict[str, str]:
    return {name: alias for name, alias in source.items() if name != OPERATION}


def _act(actions: Any, kind: Any, condition: str | None, assignments: Mapping[str, str]) -> None:
    expression = actions.add()
    expression.merge_action.action_type = kind
    if condition is not None:
        expression.merge_action.condition.CopyFrom(plan.expression(condition))
    for name, value in assignments.items():
        assignment = expression.merge_action.assignments.add()
        assignment.key.CopyFrom(plan.attribute(quote(name)))
        assignment.value.CopyFrom(plan.attribute(value))
