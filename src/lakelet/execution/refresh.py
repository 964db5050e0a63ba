"""Materialized views: the stored rows equal the batch query over the tables that it reads, at every update.

NO_OP where neither the query nor a row that it reads has changed; APPEND_ONLY and GROUP_AGGREGATE where those tables have
only grown, and the query can follow; otherwise it is computed anew and swapped in one commit. A refresh that fails leaves the
old rows.

    intent   what the refresh reads, with its number
    state    partial values of the groups, if it keeps any; carries the number
    view     the rows; carries the number
    note     done
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from lakelet.events import kinds
from lakelet.events.model import FlowMetrics, FlowStatus
from lakelet.execution.context import UpdateContext
from lakelet.execution.expectations import Quality, check_view, enforce, marked
from lakelet.execution.flows import check_columns
from lakelet.execution.group_cluster import GroupsInCluster
from lakelet.execution.group_refresh import GroupsInProcess, Leaves, ViewGroups
from lakelet.execution.refresh_plan import NO_OP, RefreshPlan, check_policy, plan_refresh
from lakelet.execution.slices import file_rows
from lakelet.execution.view_query import ViewQuery, bound
from lakelet.execution.view_record import ViewRecord, ViewRecords
from lakelet.execution.view_state import ViewState
from lakelet.execution.writing import pending_rows
from lakelet.faults import reach
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset
from lakelet.plan import relation as plan_relation
from lakelet.plan.incremental import Role, with_role
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.delta_log import row_changes
from lakelet.storage.delta_spark import staging


def refresh_view(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> bool:
    """Bring a materialized view up to date; returns whether its table was written.

    Raises:
        FlowError: the table still has its old rows.
        GraphError: `MATERIALIZED_VIEW_NOT_INCREMENTALIZABLE`.
    """
    records = ViewRecords(context.catalog.checkpoint(dataset.name))
    refresh = _Refresh(context, flow, dataset, records)
    was_finished = refresh.finish_interrupted()
    started = time.perf_counter()
    plan = plan_refresh(context, flow, dataset)
    kinds.planning_information(
        context.events,
        flow=flow.name,
        dataset=context.display(dataset.name),
        technique=plan.technique,
        candidates=plan.candidates(),
    )
    if plan.technique == NO_OP:
        return was_finished
    check_policy(context, flow, dataset, plan)
    reach("view.planned")
    quality = context.quality(flow)
    match plan.technique:
        case "GROUP_AGGREGATE":
            written = refresh.groups(plan, quality)
        case "APPEND_ONLY":
            written = refresh.append(plan, quality)
        case _ if plan.keeps_state:
            written = refresh.complete_from_groups(plan, quality)
        case _:
            written = refresh.complete(plan, quality)
    kinds.flow_progress(
        context.events,
        flow=flow.name,
        dataset=context.display(dataset.name),
        status=FlowStatus.RUNNING,
        metrics=FlowMetrics(
            num_input_rows=None,
            num_output_rows=written,
            duration_ms=round((time.perf_counter() - started) * 1000, 1),
        ),
        quality=quality.result,
    )
    return True


TIDY = "TIDY"
"""What stands in place of a technique while files of the state are put together."""


class _Refresh:
    """One view on the way from its old rows to its new ones."""

    def __init__(self, context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, records: ViewRecords) -> None:
        self._context = context
        self._flow = flow
        self._dataset = dataset
        self._records = records

    # -- after a crash --------------------------------------------------------------------------------------------

    def finish_interrupted(self) -> bool:
        """Finish the refresh that a crash cut off, if its receipts say that it can be; returns whether rows were written.

        The state is one refresh ahead of the view only between their commits. Then the groups with the newer version are
        written to the view. What else was cut off is planned anew.
        """
        intent, note = self._records.intent(), self._records.note()
        if intent is None or intent.generation != self._context.generation(self._dataset.name):
            return False
        table = self._context.table(self._dataset)
        receipt = self._receipt(intent)
        before = -1 if note is None else note.table_version
        changes = row_changes(table.location, after=before, until=table.version) if note is not None else 1
        state = ViewState.open(self._context.store, self._records.state_location)
        # Without a version to start from, all commits that the log still has are looked through.
        since = note.state_version if note is not None and note.has_state else -1
        is_whole = intent.has_state and state.damage(since=since) is None
        if table.batch_id(receipt.app_id) == intent.batch and changes in (0, 1):
            self._note(replace(intent, has_state=is_whole), table, state if is_whole else None)
            return False
        self._context.store.drop(self._records.staging)
        if intent.technique == TIDY and changes == 0 and is_whole and state.batch_id(receipt.app_id) == intent.batch:
            self._note(intent, table, state)
            return False
        if intent.technique != "GROUP_AGGREGATE" or note is None or changes != 0 or not is_whole:
            return False
        query = self._context.view_query(self._flow)
        now = replace(plan_refresh(self._context, self._flow, self._dataset).record, inputs={})
        if state.batch_id(receipt.app_id) != intent.batch or query.groups is None or not now.is_like(intent):
            return False
        with self._groups_of(query, state) as groups:
            groups.recall(intent.batch)
            groups.finish(self._context.quality(self._flow))
            groups.write(table, receipt)
            reach("view.swapped")
            self._note(intent, table, state)
        return True

    # -- techniques -----------------------------------------------------------------------------------------------

    def groups(self, plan: RefreshPlan, quality: Quality) -> int:
        """Rewrite the groups that new rows belong to."""
        state = plan.state
        assert state is not None
        with self._groups_of(plan.query, state) as groups:
            has_changed = groups.follow(plan.terms, self._leaves(plan))
            record = self._numbered(plan, has_state=True)
            table = self._context.table(self._dataset)
            if not has_changed:
                note = self._records.note()
                assert note is not None
                self._note(replace(record, batch=note.batch), table, state)
                return 0
            groups.finish(quality)
            receipt = self._begin(record)
            groups.remember(record.batch, receipt)
            reach("view.state_committed")
            written = groups.write(table, receipt)
            self._noted(record, table, written, state)
            tier = state.tier_to_merge(groups.most_appended_files)
            if tier is not None:
                # With a number of its own: a cluster may still be at it when the next refresh commits.
                record = replace(record, batch=record.batch + 1, technique=TIDY)
                groups.tidy(tier, self._begin(record))
                self._note(record, table, state)
            return written

    def append(self, plan: RefreshPlan, quality: Quality) -> int:
        """Append what new rows give."""
        context, dataset = self._at(), self._dataset
        leaves = self._leaves(plan)
        parts = [bound(context, plan.query, term, leaves) for term in plan.terms]
        display = context.display(dataset.name)
        record = self._numbered(plan)
        table = context.table(dataset)
        if context.engine.capabilities.cluster_writes:
            rows = plan_relation.union([plan_relation.with_fresh_plan_ids(part) for part in parts])
            pending = pending_rows(context.engine, rows, dataset, display, quality)
            receipt = self._begin(record)
            return self._noted(record, table, pending.append(table, receipt=receipt, evolve=False))
        # Sail 0.7.2 finds no columns in a union of unions whose columns are renamed: each part is a query of its own.
        found = [context.engine.collect(marked(part, dataset.expectations)) for part in parts]
        kept = enforce(pa.concat_tables(found).to_reader(), dataset, display, quality).read_all()
        receipt = self._begin(record)
        return self._noted(record, table, table.append(kept, receipt=receipt))

    def complete_from_groups(self, plan: RefreshPlan, quality: Quality) -> int:
        """Compute the view anew by way of the partial values of its groups, which are kept."""
        query, dataset = plan.query, self._dataset
        assert query.form is not None
        record = self._numbered(plan, has_state=True)
        receipt = self._begin(record)
        state = ViewState.open(self._context.store, self._records.state_location)
        with self._groups_of(query, state) as groups:
            everything = with_role(query.form.below, Role.NEW)
            num_rows = plan.record.input_rows or 0
            groups.take_up(everything, self._leaves(plan), num_rows=num_rows, version=record.batch, receipt=receipt)
            reach("view.state_committed")
            groups.finish(quality)
            columns = None if dataset.schema is None else self._declared_columns(groups.schema)
            table = self._context.table(dataset)
            written = groups.replace(table, columns, receipt=receipt, partition_cols=dataset.partition_cols)
            return self._noted(record, table, written, state)

    def complete(self, plan: RefreshPlan, quality: Quality) -> int:
        """Compute the view anew by its own query."""
        at = self._context.clock()
        context = self._context.at(at)
        origin = context.origin(self._flow)
        found = context.binder.bind(self._flow.relation, origin, slices={}, versions=plan.versions)
        for view in found.views:
            check_view(view, context.display(view.view.name), context.engine, quality)
        dataset = self._dataset
        pending = pending_rows(context.engine, found.rows, dataset, context.display(dataset.name), quality)
        columns = None if dataset.schema is None else self._declared_columns(pending.schema)
        record = self._numbered(plan)
        receipt = self._begin(record)
        table = context.table(dataset)
        return self._noted(
            record, table, pending.replace(table, columns, receipt=receipt, partition_cols=dataset.partition_cols)
        )

    # -- what they share ------------------------------------------------------------------------------------------

    def _at(self) -> UpdateContext:
        return self._context.at(self._context.clock())

    def _leaves(self, plan: RefreshPlan) -> Leaves:
        """Return what gives the rows of a leaf: of its table now, before, or the files in between."""
        context, query = self._context, plan.query

        def rows(number: int, role: Role) -> Relation:
            leaf = query.leaves[number]
            assert leaf.location is not None
            match role:
                case Role.ADDED:
                    table = context.store.open(leaf.location)
                    assert table is not None
                    return file_rows(
                        plan.added[leaf.location],
                        table.schema,
                        partition_cols=table.partition_cols,
                        inline=not context.engine.capabilities.cluster_writes,
                    )
                case Role.OLD:
                    return context.binder.table_rows(leaf, plan.old_versions[leaf.location])
                case Role.NONE:
                    return plan_relation.empty(context.resolver.leaf_schema(leaf.leaf, context.origin(self._flow)))
                case Role.NEW:
                    return context.binder.table_rows(leaf, plan.versions[leaf.location])

        return rows

    def _numbered(self, plan: RefreshPlan, *, has_state: bool = False) -> ViewRecord:
        return replace(plan.record, batch=self._last_batch() + 1, technique=plan.technique, has_state=has_state)

    def _last_batch(self) -> int:
        """Return the highest number that a refresh of the view has had, whether or not it came to its end."""
        known = [record.batch for record in (self._records.note(), self._records.intent()) if record is not None]
        # A note or an intent that got lost must not let a number be given out twice: the tables know theirs.
        app_id = self._context.app_id(self._flow, str(self._context.generation(self._dataset.name)))
        table = self._context.store.open(self._context.location(self._dataset))
        state = ViewState.open(self._context.store, self._records.state_location)
        return max([0, *known, -1 if table is None else table.batch_id(app_id), state.batch_id(app_id)])

    def _receipt(self, record: ViewRecord) -> Receipt:
        return Receipt(app_id=self._context.app_id(self._flow, str(record.generation)), batch_id=record.batch)

    def _begin(self, record: ViewRecord) -> Receipt:
        self._records.write_intent(record)
        reach("view.intent_written")
        return self._receipt(record)

    def _note(self, record: ViewRecord, table: Table, state: ViewState | None = None) -> None:
        state_version = None if state is None else state.version
        self._records.write_note(record, table_version=table.version, state_version=state_version)
        reach("view.noted")

    def _declared_columns(self, columns: pa.Schema) -> pa.Schema:
        return check_columns(self._context, self._flow, self._dataset, columns, stored=None)

    def _noted(self, record: ViewRecord, table: Table, written: int, state: ViewState | None = None) -> int:
        reach("view.swapped")
        self._note(record, table, state)
        return written

    @contextmanager
    def _groups_of(self, query: ViewQuery, state: ViewState) -> Iterator[ViewGroups]:
        """Lend what refreshes the groups of the view, on the way that suits the engine."""
        context = self._at()
        columns = self._context.resolver.output_schema(self._flow.flow).names
        if not context.engine.capabilities.cluster_writes:
            yield GroupsInProcess(context, self._dataset, query, state, columns)
            return
        with staging(context.store, self._records.staging) as folder:
            yield GroupsInCluster(context, self._dataset, query, state, columns, folder=folder)
