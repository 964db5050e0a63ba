"""AUTO CDC: keep a table as the current rows (SCD type 1) or the history (type 2) of a stream of changes.

The history of a key is a pure function of its valid events; neither their order of arrival, nor how they were cut into
batches, nor replays change it. Two tables make that so:

    auxiliary   the events that a late one may need. It commits first, and its receipt decides what is a replay.
    target      derived from the auxiliary table for the keys of a batch; rows that differ are written in one commit.

A crash between the two commits leaves the target behind; the replay finds the batch's keys in the auxiliary table and
derives them again. Where the rows are read, decided and written depends on the engine: in this process
(`auto_cdc_process`), or all of it in the cluster (`auto_cdc_cluster`). The rules are in docs/concepts/auto_cdc.md.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql.types import DataType, StructType

from lakelet.execution.auto_cdc_batch import CdcResult, CdcTie
from lakelet.execution.auto_cdc_cluster import InCluster
from lakelet.execution.auto_cdc_process import InProcess
from lakelet.execution.auto_cdc_schema import keeps_values, metadata_of, sequence_type_of, target_schema
from lakelet.execution.auto_cdc_tables import CdcTables, definition_of
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, TableDefinition, TableStore

if TYPE_CHECKING:
    from lakelet.engine.base import Engine
    from lakelet.graph.elements import AutoCdcFlow

__all__ = ["AutoCdc", "CdcResult", "CdcTie", "sequence_type_of", "target_schema"]

_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By target: flows that share one take turns, since each derives rows from what the others stored."""


class AutoCdc:
    """Applies the batches of one AUTO CDC flow.

    Several flows may share a target and its auxiliary table; each has an application id of its own in its receipts.

    Args:
        source_schema: columns of the relations that `apply` gets.
        sequence_type: type of the flow's `sequence_by`, from `sequence_type_of`.
        target, auxiliary: locations of the two tables; those that do not exist are created.
        staging: a folder for files that a batch needs only while it runs.
        definition: what a missing target is created with, and the schema that it has after a full refresh; None for
            the columns of `target_schema`.
        fail_on_ties: refuse a batch in which, or with which, a key has different events with one sequence value.
        remember_all: another flow of the target may keep values of earlier events, so none may be forgotten.
        now: clock of the batch.
        forget_deletes_after: age from which deletes are not remembered; None: they are for good.

    Raises:
        DefinitionError: the flow does not fit the source's columns.
    """

    def __init__(
        self,
        flow: AutoCdcFlow,
        *,
        source_schema: StructType,
        sequence_type: DataType,
        engine: Engine,
        store: TableStore,
        target: str,
        auxiliary: str,
        staging: str,
        definition: TableDefinition | None = None,
        fail_on_ties: bool = False,
        remember_all: bool = False,
        now: datetime | None = None,
        forget_deletes_after: timedelta | None = None,
    ) -> None:
        self._tables = CdcTables(
            flow=flow,
            source=source_schema,
            engine=engine,
            store=store,
            target_location=target,
            auxiliary_location=auxiliary,
            staging=staging,
            definition=definition_of(flow, source_schema, sequence_type, definition),
            metadata=metadata_of(flow, source_schema, sequence_type),
            remember_all=remember_all or keeps_values(flow),
            fail_on_ties=fail_on_ties,
            now=now,
            forget_before=None if now is None or forget_deletes_after is None else now - forget_deletes_after,
        )
        can = engine.capabilities
        in_cluster = can.cluster_writes and can.arrow_functions
        self._way = InCluster(self._tables) if in_cluster else InProcess(self._tables)

    def apply(self, changes: Relation, receipt: Receipt, *, restart: bool = False) -> CdcResult:
        """Apply one micro-batch. Idempotent: a batch whose receipt is stored is derived again, not evaluated again.

        Args:
            changes: an ordinary batch relation, one change per row; evaluated at most once.
            receipt: identifies the batch; both commits carry it.
            restart: the first batch of a full refresh; both tables are replaced, each in one commit. Of several flows
                with one target only the first to run restarts it.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.*` for rows without a key or sequence, `AUTOCDC_TIE` if ties are refused
                (nothing is written in both cases),
                `AUTOCDC_INVALID_STATE.*` where the auxiliary table is another flow's history.
        """
        tables, way = self._tables, self._way
        with _turns[tables.target_location]:
            auxiliary = tables.store.open(tables.auxiliary_location)
            target = tables.store.open(tables.target_location)
            if auxiliary is not None and auxiliary.batch_id(receipt.app_id) >= receipt.batch_id:
                return way.replay(auxiliary, target, receipt, restart=restart)
            if not restart and auxiliary is None and target is not None:
                tables.refuse_rows_without_history(target)
            if restart or auxiliary is None:
                return way.start(auxiliary, target, changes, receipt, restart=restart)
            tables.check_drift(auxiliary)
            return way.go_on(auxiliary, target, changes, receipt)

    def check(self, changes: Relation) -> None:
        """Evaluate change rows as `apply` does, and write nothing.

        Raises:
            CdcError: `AUTOCDC_MICROBATCH_VALIDATION.*`.
        """
        self._way.check(changes)
