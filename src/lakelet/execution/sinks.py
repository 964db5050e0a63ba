"""Writing a micro-batch to a sink.

    delta                rows and receipt in one commit: exactly once
    parquet, json, csv   one file a batch, named by the batch: a replay writes the same file again
    foreach_batch_sink   the user's function: at least once, always with the same rows for one batch id

The flow into a sink has an id of its own, made anew with each generation of its checkpoint: two pipelines that write one
table, or a storage folder that was begun anew, never take each other's receipts for their own.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from lakelet.errors import FlowError, SourceError, StorageError
from lakelet.execution.checkpoint import FORMAT, Batch, Checkpoint, read_json, write_json
from lakelet.execution.expectations import Quality
from lakelet.execution.writing import pending_rows
from lakelet.faults import reach
from lakelet.places import is_remote
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
        StorageError: `DATASET_SCHEMA_MISMATCH`, `SINK_NOT_WRITABLE`.
        FlowError: `FOREACH_BATCH_USER_FUNCTION_ERROR`.
    """
    writer = sink_id(checkpoint)
    if sink.sink_function is not None:
        written = _call(context, sink, batch, rows)
    elif sink.sink_format == "delta":
        written = _append(context, sink, Receipt(app_id=f"lakelet/sink/{writer}", batch_id=batch.id), rows)
    else:
        written = _write_file(context, sink, f"part-{batch.id:06d}-{writer}", rows)
    reach("sink.rows_written")
    return written


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


# -- files --------------------------------------------------------------------------------------------------------


def _write_file(context: UpdateContext, sink: Dataset, name: str, rows: Relation) -> int:
    folder = Path(_local(context, sink))
    path = folder / f"{name}.{sink.sink_format}"
    temporary = folder / f".{path.name}.tmp"
    reader = context.engine.stream(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        count = _WRITERS[str(sink.sink_format)](temporary, reader, sink)
        if count:
            temporary.replace(path)
        else:
            temporary.unlink()
    except OSError as error:
        raise StorageError(
            "SINK_NOT_WRITABLE",
            f"the sink `{context.display(sink.name)}` cannot be written",
            origin=sink.origin,
            cause=str(error),
            hint="check the free space and the permissions of the folder, then run the update again",
        ) from error
    return count


def _local(context: UpdateContext, sink: Dataset) -> str:
    text = sink.sink_options["path"]
    path = context.catalog.path(text)
    if is_remote(path):
        raise SourceError(
            "UNSUPPORTED_FILE_SYSTEM",
            f"the files of the sink `{context.display(sink.name)}` cannot be written to `{text}`",
            origin=sink.origin,
            cause=f"`{path}` is in an object store, and files are written to folders of this machine",
            hint="give the sink the format `delta`, or a local path",
        )
    return path


def _parquet(path: Path, reader: pa.RecordBatchReader, sink: Dataset) -> int:
    count = 0
    with pq.ParquetWriter(path, nullable(reader.schema)) as writer:
        for batch in reader:
            writer.write_table(pa.Table.from_batches([batch]).cast(nullable(reader.schema)))
            count += batch.num_rows
    return count


def _csv(path: Path, reader: pa.RecordBatchReader, sink: Dataset) -> int:
    has_header = sink.sink_options.get("header", "false").lower() == "true"
    options = pa.csv.WriteOptions(include_header=has_header, delimiter=sink.sink_options.get("sep", ","))
    nested = [field.name for field in reader.schema if pa.types.is_nested(field.type) or pa.types.is_binary(field.type)]
    if nested:
        raise StorageError(
            "UNSUPPORTED_DATA_TYPE_FOR_DATASOURCE",
            f"the column `{nested[0]}` cannot be written as CSV",
            origin=sink.origin,
            cause="CSV has no structs, arrays, maps and bytes",
            hint="use `to_json` in the query, or a sink of another format",
        )
    count = 0
    with pa.csv.CSVWriter(path, reader.schema, write_options=options) as writer:
        for batch in reader:
            writer.write_batch(batch)
            count += batch.num_rows
    return count


def _json(path: Path, reader: pa.RecordBatchReader, sink: Dataset) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for batch in reader:
            file.writelines(line + "\n" for line in _json_lines(batch))
            count += batch.num_rows
    return count


def _json_lines(batch: pa.RecordBatch) -> Iterator[str]:
    """Yield one object a row, as Spark writes it: without fields that are NULL."""
    for row in batch.to_pylist():
        yield json.dumps(_without_nulls(row), default=_json_value, ensure_ascii=False, separators=(",", ":"))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(item) for name, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _json_value(value: Any) -> Any:
    match value:
        case datetime():
            return (
                value.astimezone(UTC)
                .isoformat(timespec="microseconds" if value.microsecond % 1000 else "milliseconds")
                .replace("+00:00", "Z")
            )
        case date():
            return value.isoformat()
        case Decimal():
            return float(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return str(value)


_WRITERS = {"parquet": _parquet, "csv": _csv, "json": _json}


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
