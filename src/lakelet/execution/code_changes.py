"""What a change of the code means for flows that have committed batches: told once, when it takes effect.

A changed query is applied to new rows only. A flow under a new name is a new flow: it starts at the beginning of its
sources, beside whatever the flow with the old name has written.
"""

from __future__ import annotations

from lakelet.events import kinds
from lakelet.execution.checkpoint import FORMAT, Checkpoint, batches_in_use, flow_name, read_derived, write_json
from lakelet.execution.context import UpdateContext
from lakelet.graph.dataflow_graph import ResolvedFlow
from lakelet.graph.elements import Dataset
from lakelet.plan import relation as plan
from lakelet.plan.fingerprint import fingerprint
from lakelet.plan.relation import Relation


def tell_of_changes(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Warn of a query that is not the one with which a flow has started, and of a flow that may be another one renamed."""
    path = checkpoint.folder / "query.json"
    now = {"format": FORMAT, "fingerprint": _digests(context, flow)}
    before = read_derived(path)
    display = context.display(dataset.name)
    if before == now:
        return
    if before and checkpoint.committed_id >= 0:
        kinds.warning(
            context.events,
            f"Flow '{flow.name}': its query has changed: rows from here on are those of the new one, and those that are in "
            f"`{display}` stay as they are; `lakelet run --full-refresh {display}` computes them anew",
            flow=flow.name,
            dataset=display,
        )
    elif not before and checkpoint.committed_id < 0:
        _tell_of_new_name(context, flow, dataset, checkpoint)
    write_json(path, now)


def _digests(context: UpdateContext, flow: ResolvedFlow) -> list[str]:
    """Return a digest of a flow's query, and of each view that it reads; made once as long as the code is the same."""
    derived, key = context.resolver.derived, f"digests of {flow.name}"
    if key not in derived:
        trees = [flow.relation, *(tree for tree, _ in context.binder.view_trees(flow.relation, context.origin(flow)))]
        derived[key] = [fingerprint(_without_code(tree)) for tree in trees]
    return list(derived[key])


def _tell_of_new_name(context: UpdateContext, flow: ResolvedFlow, dataset: Dataset, checkpoint: Checkpoint) -> None:
    """Warn if a flow begins beside one that has committed to the same table and is no longer in the code."""
    declared = {other.name for other in context.graph.flows_to(dataset.name)}
    folder = context.catalog.checkpoint(dataset.name)
    gone = [
        name
        for place, last, _ in batches_in_use(folder, checkpoint.generation)
        if last is not None and (name := flow_name(place.parent.name)) not in declared
    ]
    if gone:
        display = context.display(dataset.name)
        kinds.warning(
            context.events,
            f"Flow '{flow.name}' is new and reads its sources from the start, and flow '{gone[0]}', which has written to "
            f"`{display}`, is gone: if it is the same flow under a new name, its rows are in the table twice now. Pin the name "
            f'with `name="{gone[0]}"`, and compute the table anew with `lakelet run --full-refresh {display}`',
            flow=flow.name,
            dataset=display,
        )


def _without_code(tree: Relation) -> Relation:
    """Return a tree without the bytes of the user's functions: they hold line numbers, so they change with any edit above."""
    result = Relation()
    result.CopyFrom(tree)
    for message in plan.messages(result):
        if message.DESCRIPTOR.name == "PythonUDF":
            message.ClearField("command")
    return result
