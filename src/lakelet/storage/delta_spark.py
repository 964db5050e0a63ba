"""Delta tables whose rows are written by Apache Spark: the log is read here, rows never pass through this process.

Delta's writer compares a receipt with the table (`txnAppId`, `txnVersion`) and leaves out a commit that is there already.
For MERGE and DELETE the receipt is a setting of the session and not an option, so each runs in a copy of the session.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema

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
from lakelet.storage.schema import nullable, stored_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lakelet.engine.base import Engine

TXN_APP_ID = "spark.databricks.delta.write.txnAppId"
TXN_VERSION = "spark.databricks.delta.write.txnVersion"
_ATTEMPT = "_files-"
_OPTIMIZE = "spark.databricks.delta.optimize"


class DeltaSparkTable(DeltaRsTable):
    """One open Delta table; queries are written, and changes merged, by the engine."""

    def __init__(self, table: DeltaTable, location: str, engine: Engine) -> None:
        super().__init__(table, location)
        self._engine = engine

    def append_query(
        self, engine: Engine, rows: Relation, incoming: pa.Schema, *, receipt: Receipt, evolve: bool
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

        In less than half the time of `append_query`, for plain tables whose columns the query has; nothing is observed. A job
        that goes on after its client died has written files that no commit names.
        """
        table = Path(self.location)
        for left in table.glob(f"{_ATTEMPT}*"):  # of an attempt that was cut off; a vacuum does not look there
            remove_folder(left)
        folder = table / f"{_ATTEMPT}{uuid.uuid4().hex}"
        engine.observed(_write("parquet", str(folder), fitted(rows, incoming, self.schema, complete=True)))
        with storage_errors(self.location):
            added = [_moved(file, table) for file in sorted(folder.glob("part-*.parquet"))]
            remove_folder(folder)
            files = [file for file in added if file is not None]
            write_commit(self.location, self.version + 1, added=files, removed=(), receipt=receipt)
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

    def merge(self, changes: pa.Table, *, keys: tuple[str, ...], receipt: Receipt | None = None) -> None:
        settings = {} if receipt is None else _settings(receipt)
        self._engine.observed(_merge(self.location, changes, keys), settings=settings)
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
        receipt: Receipt,
        options: Mapping[str, str],
        partition_cols: tuple[str, ...],
    ) -> dict[str, Any]:
        command = _write("delta", self.location, rows)
        operation = command.write_operation
        operation.mode = mode
        operation.partitioning_columns.extend(partition_cols)
        for key, value in options.items():
            operation.options[key] = value
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

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine

    def _table(self, delta: DeltaTable, location: str) -> DeltaSparkTable:
        return DeltaSparkTable(delta, location, self._engine)

    def _known(self, location: str) -> None:
        """Return nothing: the engine commits as well, and a table that is opened costs little beside its query."""


def _write(source: str, path: str, rows: Relation) -> proto.Command:
    command = proto.Command()
    operation = command.write_operation
    operation.input.CopyFrom(rows)
    operation.source, operation.path = source, path
    operation.mode = proto.WriteOperation.SAVE_MODE_ERROR_IF_EXISTS
    return command


def _moved(file: Path, table: Path) -> AddedFile | None:
    """Move a file of the engine to the others of a table; returns None for one without rows."""
    num_rows = pq.read_metadata(file).num_rows
    if not num_rows:
        return None
    size = file.stat().st_size
    file.rename(table / file.name)
    return AddedFile(path=file.name, size_bytes=size, stats=json.dumps({"numRecords": num_rows}))


def _settings(receipt: Receipt) -> dict[str, str]:
    """Return the receipt of a command that has no options of its own."""
    return {TXN_APP_ID: receipt.app_id, TXN_VERSION: str(receipt.batch_id)}


def fitted(rows: Relation, incoming: pa.Schema, columns: pa.Schema, *, complete: bool) -> Relation:
    """Return the rows with the names, types and order of `columns`.

    Nested values are left to Delta's writer, which fits them by the names of their fields.

    Args:
        complete: a column that the rows lack is added as NULL; without it the writer does that.
    """
    spelling = {field.name.lower(): field for field in incoming}
    result = plan.new()
    result.project.input.CopyFrom(rows)
    for field in columns:
        have = spelling.get(field.name.lower())
        kind = from_arrow_schema(pa.schema([field])).fields[0].dataType.simpleString()
        if have is None and not complete:
            continue
        if have is None:
            value = plan.expression(f"CAST(NULL AS {kind})")
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


def _merge(location: str, changes: pa.Table, keys: tuple[str, ...]) -> proto.Command:
    """Return the MERGE of row changes; the columns of the source have names that the table cannot have."""
    columns = [name for name in changes.column_names if name != "__op"]
    source = {name: f"__lakelet_source_{number}" for number, name in enumerate(changes.column_names)}
    command = proto.Command()
    merge = command.merge_into_table_command
    merge.target_table_name = f"delta.{quote(location)}"
    merge.source_table_plan.CopyFrom(plan.local(changes.rename_columns([source[n] for n in changes.column_names])))
    merge.merge_condition.CopyFrom(plan.expression(" AND ".join(f"{quote(key)} <=> {source[key]}" for key in keys)))
    operation = source["__op"]
    action = proto.MergeAction
    _act(merge.match_actions, action.ACTION_TYPE_DELETE, f"{operation} = 'D'", {})
    assignments = {name: source[name] for name in columns}
    _act(merge.match_actions, action.ACTION_TYPE_UPDATE, f"{operation} = 'U'", assignments)
    _act(merge.not_matched_actions, action.ACTION_TYPE_INSERT, f"{operation} = 'U'", assignments)
    return command


def _act(actions: Any, kind: Any, condition: str, assignments: Mapping[str, str]) -> None:
    expression = actions.add()
    expression.merge_action.action_type = kind
    expression.merge_action.condition.CopyFrom(plan.expression(condition))
    for name, value in assignments.items():
        assignment = expression.merge_action.assignments.add()
        assignment.key.CopyFrom(plan.attribute(quote(name)))
        assignment.value.CopyFrom(plan.attribute(value))
