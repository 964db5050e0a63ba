"""How a materialized view will be brought up to date, and why not in a cheaper way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lakelet.errors import GraphError, LakeletError
from lakelet.execution.batch_plan import pinned_versions
from lakelet.execution.file_discovery import roots
from lakelet.execution.view_query import ViewQuery
from lakelet.execution.view_record import InputVersion, ViewRecord, ViewRecords
from lakelet.execution.view_state import ViewState
from lakelet.graph.elements import Dataset, Expectation
from lakelet.places import place
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.incremental import Issue, added_rows
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf
from lakelet.storage.data_files import DataFile
from lakelet.storage.delta_log import (
    appended_files,
    changes_rows,
    commit_file,
    latest_version,
    snapshot_files,
)

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext
    from lakelet.graph.dataflow_graph import ResolvedFlow

NO_OP, COMPLETE = "NO_OP", "COMPLETE_RECOMPUTE"

MOST_ROWS_TAKEN_UP = 200_000_000
"""Of more rows, the distinct values in their groups are not taken up: each takes 24 bytes of disk on its way, and 16 to stay."""
MOST_ROWS_ADDED = 2_000_000
"""More new rows are not followed: the distinct values in their groups are in memory at once. All are taken up anew instead."""
_FORM = 3
"""Of what a view keeps between refreshes. It goes up when the same query keeps, or gives, something else: then every view is
computed anew, once."""
_REINITIALIZED = {"FIRST_REFRESH", "FULL_REFRESH", "QUERY_FINGERPRINT_CHANGED"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshPlan:
    """What one refresh will do.

    Attributes:
        record: what the refresh will note.
        issues: why nothing cheaper is done; of an incremental refresh, why it is not NO_OP.
        query: what the query allows.
        added: per location, the data files that its table gained.
        terms: trees whose rows together are what the view's query, or its aggregation, reads anew.
        keeps_state: a complete recompute that keeps partial values for the next refresh.
        state: what is kept, open; of GROUP_AGGREGATE only.
    """

    technique: str
    record: ViewRecord
    issues: tuple[Issue, ...]
    query: ViewQuery
    versions: Mapping[str, int]
    old_versions: Mapping[str, int] = field(default_factory=dict)
    added: Mapping[str, tuple[DataFile, ...]] = field(default_factory=dict)
    terms: tuple[Relation, ...] = ()
    keeps_state: bool = False
    state: ViewState | None = None

    @property
    def reasons(self) -> list[str]:
        return [issue.type for issue in self.issues]

    def candidates(self) -> list[dict[str, Any]]:
        """Return every technique that was considered, as the event log has it."""
        result = []
        possible = self.query.technique
        for technique in dict.fromkeys((NO_OP, possible, COMPLETE)):
            is_chosen = technique == self.technique
            is_cheaper = not is_chosen and (
                technique == NO_OP or (technique == possible and self.technique == COMPLETE)
            )
            result.append(
                {
                    "maintenance_type": f"MAINTENANCE_TYPE_{technique}",
                    "is_chosen": is_chosen,
                    "is_applicable": not is_cheaper,
                    "incrementalization_issues": [_issue(issue) for issue in self.issues]
                    if is_cheaper or (is_chosen and technique == COMPLETE)
                    else [],
                }
            )
        return result


def _issue(issue: Issue) -> dict[str, str]:
    detail = {} if issue.detail is None else {"plan_not_incrementalizable_sub_type": issue.detail}
    return {"issue_type": issue.type, **detail, "message": issue.text}


def plan_refresh(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> RefreshPlan:
    """Return what a refresh now would do; reads no row.

    Raises:
        SourceError: a table is not there.
    """
    inputs = context.inputs(flow)
    versions = pinned_versions(context, inputs.locations)
    records = ViewRecords(context.catalog.checkpoint(dataset.name))
    note = records.note()
    query = context.view_query(flow)
    record = ViewRecord(
        batch=0,
        technique=NO_OP,
        generation=context.generation(dataset.name),
        fingerprint=_fingerprint(context, flow, dataset),
        engine=_engine(context, query),
        time_zone=context.time_zone,
        inputs={},
        files=[_listing(leaf) for leaf in inputs.files],
        kept="" if query.groups is None else query.groups.kept,
        in_cluster=context.engine.capabilities.cluster_writes,
    )
    issues = _own_issues(context, dataset, record, note, query)
    changes = _Changes() if note is None else _changes(context, note, versions)
    record = replace(
        record,
        inputs=_noted(context, versions, note, changes),
        input_rows=None if query.groups is None else _input_rows(context, note, versions, changes),
    )
    plan = RefreshPlan(
        technique=COMPLETE, record=record, issues=(*issues, *changes.issues), query=query, versions=versions
    )
    if not plan.issues and not changes.added:
        plan = replace(plan, technique=NO_OP)
    elif not plan.issues:
        assert note is not None
        plan = _incremental(context, dataset, records, plan, note, changes)
    if query.groups is None:
        return plan
    is_too_large = _is_in_memory(context, query) and (record.input_rows or 0) > MOST_ROWS_TAKEN_UP
    plan = _weighed(context, dataset, plan, is_too_large=is_too_large)
    may_keep = plan.technique == COMPLETE and dataset.refresh_policy != "full" and not changes.issues
    return replace(plan, keeps_state=may_keep and not (is_too_large or _is_small(context, dataset, record)))


def _engine(context: UpdateContext, query: ViewQuery) -> str | None:
    """Return the engine that must go on with what a view keeps; None where any can."""
    if query.groups is None:
        return None
    engine = context.engine
    is_of_one = query.groups.is_of_its_engine or not engine.capabilities.spark_hashes
    return engine.version if is_of_one else None


def _weighed(context: UpdateContext, dataset: Dataset, plan: RefreshPlan, *, is_too_large: bool) -> RefreshPlan:
    """Return the plan of a view with groups, or that of computing it anew where following its groups, or taking up their
    partial values, costs more."""
    takes_up = "CHANGE_SET_MISSING" in plan.reasons
    rows = plan.record.input_rows
    if (takes_up or plan.technique == plan.query.technique) and _is_small(context, dataset, plan.record):
        text = f"it reads {rows:,} rows, which are computed anew in less time than changes are followed"
    elif takes_up and is_too_large:
        text = f"it reads {rows:,} rows, too many to take up the distinct values in their groups"
    elif _adds_too_much(context, plan) and dataset.refresh_policy != "incremental_strict":
        text = "so many rows were added that computing it anew takes less memory than following them"
    else:
        return plan
    rejected = Issue(type="INCREMENTAL_PLAN_REJECTED_BY_COST_MODEL", text=text)
    return replace(plan, technique=COMPLETE, issues=(plan.issues[0], rejected), added={}, terms=(), state=None)


def _is_in_memory(context: UpdateContext, query: ViewQuery) -> bool:
    """Return whether distinct values pass through the memory of this process."""
    counts_distinct = query.groups is not None and bool(query.groups.distinct)
    return counts_distinct and not context.engine.capabilities.cluster_writes


def _adds_too_much(context: UpdateContext, plan: RefreshPlan) -> bool:
    """Return whether so many rows are new that the distinct values in their groups would be too many at once."""
    return (
        _is_in_memory(context, plan.query) and sum(_rows_of(files) for files in plan.added.values()) > MOST_ROWS_ADDED
    )


def _rows_of(files: Iterable[DataFile]) -> int:
    return sum(file.num_records or 0 for file in files)


def _is_small(context: UpdateContext, dataset: Dataset, record: ViewRecord) -> bool:
    """Return whether the refresh policy leaves the choice to us, and so little is read that computing anew costs less than
    following what was added, and than keeping partial values."""
    rows = record.input_rows
    return dataset.refresh_policy == "auto" and rows is not None and rows <= context.recompute_rows


def _input_rows(
    context: UpdateContext, note: ViewRecord | None, versions: Mapping[str, int], changes: _Changes
) -> int | None:
    """Return how many rows the tables have that a view reads: counted once, then by what was added."""
    if note is not None and note.input_rows is not None and not changes.issues:
        return note.input_rows + sum(_rows_of(files) for files in changes.added.values())
    tables = [context.store.open(location) for location in versions]
    return sum(table.size().rows for table in tables if table is not None)


def _own_issues(
    context: UpdateContext, dataset: Dataset, record: ViewRecord, note: ViewRecord | None, query: ViewQuery
) -> list[Issue]:
    """Return what makes a view be computed anew whatever became of the tables that it reads."""
    if note is None:
        return [Issue(type="FIRST_REFRESH", text="it has not been refreshed before")]
    issues = []
    if note.generation != record.generation:
        issues.append(Issue(type="FULL_REFRESH", text="a full refresh was asked for"))
    if note.fingerprint != record.fingerprint:
        issues.append(Issue(type="QUERY_FINGERPRINT_CHANGED", text="its definition has changed"))
    if note.engine != record.engine:
        text = (
            f"{context.engine.version} cannot go on with what {note.engine or 'another engine'} has kept of its groups"
        )
        issues.append(Issue(type="CONFIGURATION_CHANGED", text=text))
    if note.time_zone != record.time_zone:
        text = f"the time zone was {note.time_zone} and is {record.time_zone}"
        issues.append(Issue(type="TIME_ZONE_CHANGED", text=text))
    if note.files != record.files:
        issues.append(Issue(type="DATA_HAS_CHANGED", text="the files that it reads have changed"))
    location = context.location(dataset)
    newest = latest_version(location)
    if newest is None or newest < note.table_version:
        issues.append(Issue(type="TABLE_MISSING", text="its table, as the last refresh wrote it, is gone"))
    elif changes_rows(location, after=note.table_version, until=newest):
        issues.append(Issue(type="TABLE_CHANGED_BY_OTHERS", text="its table has rows that no refresh wrote"))
    if query.issue is not None and query.issue.type == "PLAN_NOT_DETERMINISTIC":
        issues.append(query.issue)
    if note.kept != record.kept and not issues:
        text = f"{context.engine.version} gives what is kept of its groups other types than the engine before"
        issues.append(Issue(type="CONFIGURATION_CHANGED", text=text))
    if dataset.refresh_policy == "full":
        issues.append(Issue(type="REFRESH_POLICY_FULL", text="its refresh policy is `full`"))
    return issues


@dataclass(slots=True)
class _Changes:
    """What became of the tables that a view reads, since it was refreshed last."""

    added: dict[str, tuple[DataFile, ...]] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    old: dict[str, int] = field(default_factory=dict)
    identified: dict[str, InputVersion] = field(default_factory=dict)


def _changes(context: UpdateContext, note: ViewRecord, versions: Mapping[str, int]) -> _Changes:
    changes = _Changes()
    if {context.catalog.relative(location) for location in versions} != set(note.inputs):
        changes.issues.append(Issue(type="DATA_HAS_CHANGED", text="it reads other tables"))
        return changes
    for location, version in versions.items():
        known = note.inputs[context.catalog.relative(location)]
        changes.old[location] = known.version
        is_same_file = known.commit_file == commit_file(location, known.version)
        if is_same_file and version == known.version:
            changes.identified[location] = known
            continue
        if not is_same_file or known.table_id is None:
            table = context.store.open(location)
            if known.table_id is not None and (table is None or table.id != known.table_id):
                text = f"`{context.catalog.relative(location)}` is another table than before"
                changes.issues.append(Issue(type="DATA_HAS_CHANGED", text=text))
                continue
        files = appended_files(location, after=known.version, until=version)
        if files is None or any(file.has_deletion_vector for file in files):
            if changes_rows(location, after=known.version, until=version):
                text = f"rows of `{context.catalog.relative(location)}` were updated or deleted, or its columns changed"
                changes.issues.append(Issue(type="DATA_HAS_CHANGED", text=text))
        elif not all(place(file.path).is_file() for file in files):
            text = f"files that `{context.catalog.relative(location)}` gained were put together with others and removed"
            changes.issues.append(Issue(type="DATA_FILE_MISSING", text=text))
        elif files:
            changes.added[location] = files
    return changes


def _noted(
    context: UpdateContext, versions: Mapping[str, int], note: ViewRecord | None, changes: _Changes
) -> dict[str, InputVersion]:
    """Return the versions that a refresh notes, each with what identifies its table."""
    result = {}
    for location, version in versions.items():
        name = context.catalog.relative(location)
        if location in changes.identified:
            result[name] = changes.identified[location]
            continue
        known = None if note is None else note.inputs.get(name)
        is_same = known is not None and known.commit_file == commit_file(location, known.version)
        table = None if is_same else context.store.open(location)
        table_id = known.table_id if known is not None and is_same else None if table is None else table.id
        result[name] = InputVersion(
            version=version, table_id=table_id, commit_file=commit_file(location, version)
        )  # fmt: skip
    return result


def _incremental(
    context: UpdateContext,
    dataset: Dataset,
    records: ViewRecords,
    plan: RefreshPlan,
    note: ViewRecord,
    changes: _Changes,
) -> RefreshPlan:
    """Return the plan for a view whose tables have only grown."""
    names = ", ".join(f"`{context.catalog.relative(location)}`" for location in changes.added)
    grown = Issue(type="DATA_HAS_CHANGED", text=f"rows were appended to {names}")
    query = plan.query
    if query.form is None:
        return replace(plan, issues=(grown, *([query.issue] if query.issue else [])))
    intent = records.intent()
    if intent is not None and intent.batch > note.batch and (intent.in_cluster or plan.record.in_cluster):
        # Its number is not that of this refresh, so both of two appends would be written; a swap takes the other's place.
        text = "a refresh was cut off, and the cluster may still be at it"
        return replace(plan, issues=(grown, Issue(type="CHANGE_SET_MISSING", text=text)))
    leaves = [n for n, leaf in enumerate(query.leaves) if leaf.location in changes.added and not leaf.is_fixed]
    if not leaves:
        return replace(plan, technique=NO_OP)
    terms = added_rows(query.form.below, leaves)
    if isinstance(terms, Issue):
        return replace(plan, issues=(grown, terms))
    if len(leaves) > 1:
        # A join of two tables that grew reads rows from before, too, and a vacuum may have taken their files.
        for location in changes.added:
            if not _is_readable(location, changes.old[location]):
                text = f"version {changes.old[location]} of `{context.catalog.relative(location)}` is no longer there"
                return replace(plan, issues=(grown, Issue(type="CHANGE_SET_MISSING", text=text)))
    state = None
    if query.groups is not None:
        state = ViewState.open(context.store, records.state_location)
        flow = context.graph.flows_to(dataset.name)[0]
        if not note.has_state or state.batch_id(context.app_id(flow, str(note.generation))) != note.batch:
            text = "no partial values of its groups are kept yet; this refresh keeps them"
            return replace(plan, issues=(grown, Issue(type="CHANGE_SET_MISSING", text=text)))
        damage = state.damage(since=note.state_version)
        if damage is not None:
            text = f"the partial values of its groups are not what they were: {damage}"
            return replace(plan, issues=(grown, Issue(type="CHANGE_SET_MISSING", text=text)))
    return replace(
        plan,
        technique=query.technique,
        issues=(grown,),
        added=changes.added,
        old_versions=changes.old,
        terms=terms,
        state=state,
    )


def _is_readable(location: str, version: int) -> bool:
    """Return whether a version is still in the log, with all of its files."""
    try:
        return all(place(file.path).is_file() for file in snapshot_files(location, version))
    except LakeletError:
        return False


def check_policy(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, plan: RefreshPlan) -> None:
    """Refuse a plan that the refresh policy of the view forbids.

    `incremental` demands a query that can be refreshed incrementally, `incremental_strict` that it is, but for the first
    refresh, a full one, and one after a change of the definition.

    Raises:
        GraphError: `MATERIALIZED_VIEW_NOT_INCREMENTALIZABLE`.
    """
    policy = dataset.refresh_policy
    if policy not in ("incremental", "incremental_strict") or plan.technique != COMPLETE:
        return
    cause = plan.query.issue
    if cause is None and policy == "incremental_strict" and not set(plan.reasons) & _REINITIALIZED:
        cause = plan.issues[-1]
    if cause is None:
        return
    display = context.display(dataset.name)
    raise GraphError(
        "MATERIALIZED_VIEW_NOT_INCREMENTALIZABLE",
        f"`{display}` cannot be refreshed incrementally, as its refresh policy `{policy}` demands",
        origin=context.origin(flow),
        cause=f"{cause.type}: {cause.text}",
        hint="change the query, or set `refresh_policy` to `auto`"
        if plan.query.issue is not None
        else f"compute it anew once with `lakelet run --full-refresh {display}`, or set `refresh_policy` to `incremental`",
    )


# -- what identifies a definition ---------------------------------------------------------------------------------


def _trees(context: UpdateContext, flow: ResolvedFlow) -> list[tuple[Relation, tuple[Expectation, ...]]]:
    """Return the flow's tree and those of the views it reads, with the rules of each view."""
    return [(flow.relation, ()), *context.binder.view_trees(flow.relation, context.origin(flow))]


def _fingerprint(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset) -> str:
    digest = hashlib.sha256(f"form {_FORM}".encode())
    for tree, rules in _trees(context, flow):
        digest.update(fingerprint(tree).encode())
        digest.update(repr([(rule.name, rule.text, rule.action.value) for rule in rules]).encode())
    digest.update(repr([(rule.name, rule.text, rule.action.value) for rule in dataset.expectations]).encode())
    digest.update(f"{dataset.schema}/{dataset.partition_cols}".encode())
    return digest.hexdigest()


def _listing(leaf: Leaf) -> list[list[Any]]:
    """Return what lies at the paths of a file read: names, sizes and times."""
    found: list[list[Any]] = []
    for text in leaf.paths:
        for root in roots(text):
            files = sorted(Path(root).rglob("*")) if Path(root).is_dir() else [Path(root)]
            found += [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files if f.is_file()]
    return found
