"""Writing a micro-batch to a sink.

    delta                rows and receipt in one commit: exactly once
    parquet, json, csv   files of each batch, written aside and then moved: exactly once (`sink_files.py`)
    foreach_batch_sink   the user's function: at least once, always with the same rows for one batch id

The flow into a sink has an id of its own, made anew with each generation of its checkpoint: two pipelines that write one
table, or a storage folder that was begun anew, never take each other's receipts for their own.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pyarrow as pa

from lakelet.errors import FlowError, StorageError
from lakelet.execution.checkpoint import FORMAT, Batch, Checkpoint, read_json, write_json
from lakelet.execution.expectations import Quality
from lakelet.execution.sink_files import tidy_sink_files, write_sink_files
from lakelet.execution.writing import pending_rows
from lakelet.faults import reach
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table, TableDefinition
from lakelet.storage.schema import compare, nullable

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.elements import Dataset


def write_sink(context: UpdateContext, sink: Dataset, checkpoint: Checkpoint, batch: Batch, rows: Relation) -> int:
    """Write one batch to a sink; returns how many rows it has.

    Raises:
        StorageError: `DATASET_SCHEMA_MISMATCH`; of files, what `write_sink_files` raises.
        FlowError: `FOREACH_BATCH_USER_FUNCTION_ERROR`.
    """
    writer = sink_id(checkpoint)
    if sink.sink_function is not None:
        written = _call(context, sink, batch, rows)
    elif sink.sink_format == "delta":
        written = _append(context, sink, Receipt(app_id=f"lakelet/sink/{writer}", batch_id=batch.id), rows)
    else:
        written = write_sink_files(context, sink, checkpoint, batch.id, writer, rows)
    reach("sink.rows_written")
    return written


def tidy_sink(context: UpdateContext, sink: Dataset, checkpoint: Checkpoint) -> None:
    """Remove what a batch needed until its commit, which is noted."""
    if sink.sink_function is None and sink.sink_format != "delta":
        tidy_sink_files(context, sink, checkpoint)


def sink_id(checkpoint: Checkpoint) -> str:
    """Return what identifies a flow into a sink, from the first batch of its generation on."""
    path = checkpoint.folder / "sink.json"
    if not path.exists():
        write_json(path, {"format": FORMAT, "id": str(uuid.uuid4())})
    return str(read_json(path)["id"])


# -- Delta --------------------------------------------------------------------------------------------------------


def _append(context: UpdateContext, sink: Dataset, receipt: Receipt, rows: Relation) -> int:
    location = _location(context, sink)
    pending = pending_rows(context.engine, rows, sink, context.display(sink.name), Quality())
    table = context.store.open(location)
    if table is None:
        definition = TableDefinition(schema=nullable(pending.schema), keeps_log=False)
        table = context.store.create(location, definition)
    if table.batch_id(receipt.app_id) >= receipt.batch_id:
        return pending.count()
    evolves = _checked(context, sink, table, pending.schema)
    return pending.append(table, receipt=receipt, evolve=evolves)


def _location(context: UpdateContext, sink: Dataset) -> str:
    if "path" in sink.sink_options:
        return context.catalog.path(sink.sink_options["path"])
    name = context.graph.names.resolve(sink.sink_options["tableName"], origin=sink.origin)
    return context.resolver.external.get(name.key) or context.catalog.location(name)


def _checked(context: UpdateContext, sink: Dataset, table: Table, incoming: pa.Schema) -> bool:
    """Return whether the table gets new columns; refuse those that it may not get, and types that do not fit."""
    change = compare(table.schema, incoming)
    evolves = sink.sink_options.get("mergeSchema", "false").lower() == "true"
    strays = () if evolves else change.added
    if change.conflicts or strays:
        raise StorageError(
            "DATASET_SCHEMA_MISMATCH",
            f"the columns of the query do not fit the table of the sink `{context.display(sink.name)}`",
            origin=sink.origin,
            cause="\n".join([*change.conflicts, *(f"`{name}` is not in the table" for name in strays)]),
            hint='select or cast the columns in the query, or give the sink `"mergeSchema": "true"`',
        )
    return evolves and bool(change.added)


# -- functions ----------------------------------------------------------------------------------------------------


def _call(context: UpdateContext, sink: Dataset, batch: Batch, rows: Relation) -> int:
    from lakelet.execution.frames import open_frame

    count = int(context.engine.collect(plan.aggregated(rows, {"n": plan.expression("count(*)")})).to_pylist()[0]["n"])
    try:
        with open_frame(context.engine, rows) as frame:
            sink.sink_function(frame, batch.id)
    except Exception as error:
        raise FlowError(
            "FOREACH_BATCH_USER_FUNCTION_ERROR",
            f"the function of the sink `{context.display(sink.name)}` failed for batch {batch.id}",
            origin=sink.origin,
            cause=f"{type(error).__name__}: {error}",
            hint="mend the function; the next update calls it again with the same rows",
        ) from error
    return count
