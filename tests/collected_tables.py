"""A cluster that writes its tables itself, played by the embedded engine: its queries are run whole, their rows written here.

So the laws of what a cluster does run in seconds and without Java; that a real one commits as this does is for the suites of
`make test-spark`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import to_arrow_schema

from lakelet.engine.base import Engine, EngineCapabilities
from lakelet.engine.sail import SailEngine
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation, substitute
from lakelet.storage.base import Receipt
from lakelet.storage.delta_rs_table import DeltaRsTable
from lakelet.storage.delta_spark import DeltaSparkStore, DeltaSparkTable
from lakelet.storage.schema import conform, evolved, nullable


class PlayedCluster:
    """The embedded engine with the capabilities of a cluster."""

    def __init__(self, engine: SailEngine) -> None:
        self._engine = engine
        self.capabilities: EngineCapabilities = dataclasses.replace(engine.capabilities, cluster_writes=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def observed(self, command: proto.Command, *, settings: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Write bare files; of every second query what it observes gets lost, as in a cluster whose listener is slow."""
        found, seen = _run(self._engine, command.write_operation.input)
        folder = Path(command.write_operation.path)
        folder.mkdir(parents=True)
        pq.write_table(found, folder / "part-0.parquet")
        return seen if next(_queries) % 2 else {}

    def collect(self, relation: Relation) -> pa.Table:
        """Return the rows of a query: functions, and unions of unions, are run as in what is written."""
        kinds = [node.WhichOneof("rel_type") for node in plan.relations(relation)]
        is_played = "map_partitions" in kinds or kinds.count("set_op") > 1
        return _run(self._engine, relation)[0] if is_played else self._engine.collect(relation)


class CollectedTable(DeltaSparkTable):
    """A table whose queries are collected and written here; what has a receipt that is there is left out, as Delta does."""

    def append_query(
        self, engine: Engine, rows: Relation, incoming: pa.Schema, *, receipt: Receipt | None, evolve: bool = False
    ) -> dict[str, Any]:
        if self._has(receipt):
            return {}
        found, seen = _run(engine, rows)
        columns = evolved(self.schema, found.schema) if evolve else self.schema
        DeltaRsTable.append(self, _fitted(found, columns), receipt=receipt, evolve=evolve)
        return seen

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
        if self._has(receipt):
            return {}
        found, seen = _run(engine, rows)
        DeltaRsTable.replace(self, _fitted(found, nullable(columns)), receipt=receipt, partition_cols=partition_cols)
        return seen

    def replace_where_query(
        self, engine: Engine, rows: Relation, incoming: pa.Schema, *, where: str, receipt: Receipt
    ) -> None:
        if not self._has(receipt):
            DeltaRsTable.replace(self, _fitted(_run(engine, rows)[0], self.schema), receipt=receipt, where=where)

    def merge_query(
        self, changes: Relation, columns: Sequence[str], *, keys: tuple[str, ...], receipt: Receipt | None = None
    ) -> None:
        if not self._has(receipt):
            DeltaRsTable.merge(self, _run(self._engine, changes)[0].select(columns), keys=keys, receipt=receipt)

    def replace_keys_query(
        self, rows: Relation, columns: Sequence[str], *, keys: tuple[str, ...], receipt: Receipt | None = None
    ) -> None:
        if self._has(receipt):
            return
        found = _run(self._engine, rows)[0]
        is_gone = pa.compute.equal(found.column("__op"), "D")
        new = found.filter(pa.compute.invert(is_gone)).drop_columns(["__op"])
        gone = found.filter(is_gone).select(keys)
        DeltaRsTable.replace_units(self, _fitted(new, self.schema), gone=gone, receipt=receipt)

    def _has(self, receipt: Receipt | None) -> bool:
        return receipt is not None and self.batch_id(receipt.app_id) >= receipt.batch_id


class CollectedStore(DeltaSparkStore):
    """The store of a played cluster."""

    def _table(self, delta: DeltaTable, location: str) -> CollectedTable:
        return CollectedTable(delta, location, self._engine)


_queries = itertools.count()


def _run(engine: Engine, rows: Relation) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows of a query, and what it observes."""
    seen: dict[str, Any] = {}

    def replaced(node: Relation) -> Relation | None:
        if node.HasField("map_partitions"):
            return plan.local(_mapped(engine, node))
        if node.HasField("set_op"):
            return _united(engine, node)
        if not node.HasField("collect_metrics"):
            return None
        observed = node.collect_metrics
        below = plan.local(_run(engine, observed.input)[0])  # the same rows for both, however often it would be run
        measures = plan.new()
        measures.aggregate.CopyFrom(plan.aggregated(below, {}).aggregate)
        measures.aggregate.aggregate_expressions.extend(observed.metrics)
        seen.update(engine.collect(measures).to_pylist()[0])
        return below

    return engine.collect(substitute(rows, replaced)), seen


def _united(engine: Engine, node: Relation) -> Relation | None:
    """Return the rows of both sides of a union, each computed by itself: Sail finds no columns in a union of unions."""
    if not node.set_op.is_all or node.set_op.set_op_type != proto.SetOperation.SET_OP_TYPE_UNION:
        return None
    sides = (node.set_op.left_input, node.set_op.right_input)
    left, right = (_fitted(rows, nullable(rows.schema)) for rows in (_run(engine, side)[0] for side in sides))
    if node.set_op.by_name:
        spelling = {name.lower(): name for name in left.column_names}
        right = right.rename_columns([spelling.get(name.lower(), name) for name in right.column_names])
    else:
        right = right.rename_columns(left.column_names)
    result = plan.local(pa.concat_tables([left, right], promote_options="permissive"))
    result.common.plan_id = node.common.plan_id
    return result


def _mapped(engine: Engine, node: Relation) -> pa.Table:
    """Return what a Python function makes of the partitions of its input."""
    function, columns = _unpickled(node.map_partitions.func.python_udf.command)
    rows = engine.collect(node.map_partitions.input)
    found = [batch for part in _partitions(node, rows) for batch in function(iter(part.to_batches(max_chunksize=5)))]
    return pa.Table.from_batches(found, to_arrow_schema(columns, timezone="UTC"))


def _unpickled(command: bytes) -> Any:
    """Return what a worker makes of a command, with classes of its own: otherwise those of this process would be changed."""
    from pyspark.cloudpickle import cloudpickle

    known = cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID  # type: ignore[attr-defined]
    ours = dict(known)
    known.clear()
    try:
        return cloudpickle.loads(command)
    finally:
        known.clear()
        known.update(ours)


def _partitions(node: Relation, rows: pa.Table) -> list[pa.Table]:
    """Return two partitions of sorted rows, since Sail forgets the order of partitions; one a row where they have no order."""
    if not node.map_partitions.input.HasField("sort"):
        return [rows.slice(number, 1) for number in range(rows.num_rows)]
    by = [order.child.unresolved_attribute.unparsed_identifier for order in node.map_partitions.input.sort.order]
    rows = rows.sort_by([(name, "ascending") for name in by])
    halves = [{}, {}]  # type: list[dict[str, None]]
    keys = [str(key) for key in rows.select(by).to_pylist()]
    for number, key in enumerate(dict.fromkeys(keys)):
        halves[number % 2][key] = None
    return [rows.filter(pa.array([key in half for key in keys], pa.bool_())) for half in halves]


def _fitted(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([conform(batch, columns) for batch in rows.to_batches()], columns)
