"""What the next update would do to a materialized view, and why: the same plan that the update makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakelet.errors import GraphError, LakeletError
from lakelet.execution.refresh_plan import COMPLETE, check_policy, plan_refresh
from lakelet.graph.elements import Dataset, DatasetKind
from lakelet.plan.incremental import Issue
from lakelet.storage.delta_log import latest_version

if TYPE_CHECKING:
    from lakelet.execution.context import UpdateContext


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a materialized view would be refreshed now.

    Attributes:
        possible: the cheapest technique that the query allows where its tables grow.
        query_issue: what in the query rules out anything cheaper than computing it anew.
        technique: what an update would do now.
        issues: why nothing cheaper is done; of an incremental refresh, why anything is done.
        candidates: every technique that was considered, as the event log has it.
        groups: names of the keys of the groups whose partial values are kept, None where none are.
        unit: columns of the view that name the rows which are rewritten together.
        problem: what an update would fail with because of the refresh policy.
    """

    dataset: str
    refresh_policy: str
    possible: str
    query_issue: Issue | None
    technique: str
    issues: tuple[Issue, ...]
    candidates: tuple[dict[str, Any], ...]
    groups: tuple[str, ...] | None
    unit: tuple[str, ...] | None
    problem: LakeletError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the explanation as JSON-ready values."""
        return {
            "dataset": self.dataset,
            "refresh_policy": self.refresh_policy,
            "incrementalization": self.possible,
            "query_issues": [] if self.query_issue is None else [_issue(self.query_issue)],
            "technique": self.technique,
            "issues": [_issue(issue) for issue in self.issues],
            "technique_information": list(self.candidates),
            "groups": self.groups,
            "unit": self.unit,
            "problem": None if self.problem is None else self.problem.condition,
        }

    def render(self) -> str:
        """Return the explanation as lines for people."""
        lines = [f"{self.dataset}: the next update does {self.technique}"]
        lines += [f"  because {_shown(issue)}" for issue in self.issues]
        lines.append(f"  its query allows {self.possible}")
        if self.query_issue is not None:
            lines.append(f"    {_shown(self.query_issue)}")
        if self.groups is not None:
            lines.append(f"    groups by {', '.join(self.groups) or 'nothing: one group'}")
            lines.append(f"    rewrites rows by {', '.join(self.unit or ()) or 'the whole view'}")
        lines.append(f"  refresh policy {self.refresh_policy}")
        if self.problem is not None:
            lines += [f"    {line}" for line in self.problem.render().splitlines()]
        return "\n".join(lines)


def explain(context: UpdateContext, dataset: Dataset) -> Explanation:
    """Return how a materialized view would be refreshed now; reads no row.

    Raises:
        GraphError: `NOT_A_MATERIALIZED_VIEW`.
    """
    display = context.display(dataset.name)
    if dataset.kind is not DatasetKind.MATERIALIZED_VIEW:
        raise GraphError(
            "NOT_A_MATERIALIZED_VIEW",
            f"`{display}` is a {dataset.kind.label}, and only a refresh of a materialized view has techniques to explain",
            origin=dataset.origin,
            hint="name a materialized view; `lakelet graph` lists the datasets",
        )
    (flow,) = context.graph.flows_to(dataset.name)
    query = context.view_query(flow)
    technique, candidates, problem = COMPLETE, [], None
    missing = [label for place, label in context.inputs(flow).locations.items() if latest_version(place) is None]
    if missing:
        issues: tuple[Issue, ...] = (Issue(type="FIRST_REFRESH", text=f"`{missing[0]}` has no rows yet"),)
    else:
        plan = plan_refresh(context, flow, dataset)
        technique, issues, candidates = plan.technique, plan.issues, plan.candidates()
        try:
            check_policy(context, flow, dataset, plan)
        except LakeletError as error:
            problem = error
    names = context.resolver.output_schema(flow.flow).names
    return Explanation(
        dataset=display,
        refresh_policy=dataset.refresh_policy,
        possible=query.technique,
        query_issue=query.issue,
        technique=technique,
        issues=issues,
        candidates=tuple(candidates),
        groups=None if query.groups is None else query.groups.keys,
        unit=None if query.groups is None else tuple(names[at] for at in query.groups.unit),
        problem=problem,
    )


def _issue(issue: Issue) -> dict[str, Any]:
    return {"issue_type": issue.type, "sub_type": issue.detail, "message": issue.text}


def _shown(issue: Issue) -> str:
    detail = f" ({issue.detail})" if issue.detail else ""
    return f"{issue.type}{detail}: {issue.text}"
