"""The resolved pipeline: datasets, flows with their inputs, edges, order, selection."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lakelet.errors import GraphError, Origin, did_you_mean
from lakelet.graph.elements import AnyFlow, AutoCdcFlow, Dataset, DatasetKind, SnapshotCdcFlow
from lakelet.names import NameContext, TableName

if TYPE_CHECKING:
    from pyspark.sql.types import StructType


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One thing that a flow reads.

    Attributes:
        dataset: a dataset of this pipeline, or None for an external table, path or source.
        label: what to call it in messages and pictures.
        streaming: read as a stream.
        origin: the user's line that reads it, where the plan carries one.
        handles_changes: a stream that reads the change feed, or leaves out commits that change rows.
    """

    dataset: TableName | None
    label: str
    streaming: bool
    origin: Origin | None = None
    handles_changes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedFlow:
    """A flow whose query function has been called: its relation, inputs and columns.

    Attributes:
        relation: the normalised Spark Connect relation; of an AUTO CDC flow, a read of its source.
        streaming: whether it reads at least one stream.
        schema: columns of the query's result, None until analysis.
        is_complete: each batch gives all rows of the target, which is rewritten: a streaming aggregation without a watermark.
    """

    flow: AnyFlow
    relation: Any
    inputs: tuple[Input, ...]
    streaming: bool
    schema: StructType | None = None
    is_complete: bool = False

    @property
    def name(self) -> str:
        return self.flow.name

    @property
    def target(self) -> TableName:
        return self.flow.target

    @property
    def is_cdc(self) -> bool:
        return isinstance(self.flow, AutoCdcFlow | SnapshotCdcFlow)


@dataclass(frozen=True)
class DataflowGraph:
    """Datasets and flows of one pipeline, resolved and checked.

    Attributes:
        names: the pipeline's default catalog and schema.
        datasets: by folded name, in order of declaration; kinds are resolved.
        flows: every flow, those of temporary views included.
    """

    names: NameContext
    datasets: Mapping[tuple[str, str, str], Dataset]
    flows: tuple[ResolvedFlow, ...]

    def dataset(self, name: TableName) -> Dataset:
        return self.datasets[name.key]

    def find(self, text: str, *, origin: Origin | None = None) -> Dataset:
        """Return the dataset that a user names; the last part is enough where it is unique.

        Raises:
            GraphError: `UNKNOWN_DATASET` with the nearest name.
        """
        name = self.names.resolve(text, origin=origin)
        if name.key in self.datasets:
            return self.datasets[name.key]
        same_last = [d for d in self.datasets.values() if d.name.name.lower() == text.strip("`").lower()]
        if len(same_last) == 1:
            return same_last[0]
        near = did_you_mean(text, [self.display(d.name) for d in self.datasets.values()])
        raise GraphError(
            "UNKNOWN_DATASET",
            f"the pipeline has no dataset `{text}`",
            origin=origin,
            hint=f"did you mean `{near}`?" if near else "list the datasets with `lakelet graph`",
        )

    def display(self, name: TableName) -> str:
        return self.names.display(name)

    def flows_to(self, name: TableName) -> tuple[ResolvedFlow, ...]:
        return self._flows_by_target.get(name.key, ())

    @functools.cached_property
    def _flows_by_target(self) -> dict[tuple[str, str, str], tuple[ResolvedFlow, ...]]:
        result: dict[tuple[str, str, str], tuple[ResolvedFlow, ...]] = {}
        for flow in self.flows:
            result[flow.target.key] = (*result.get(flow.target.key, ()), flow)
        return result

    def upstream(self, name: TableName) -> list[TableName]:
        """Return the datasets that the flows of `name` read directly."""
        found: dict[tuple[str, str, str], TableName] = {}
        for flow in self.flows_to(name):
            for item in flow.inputs:
                if item.dataset is not None and item.dataset.key in self.datasets:
                    found.setdefault(item.dataset.key, self.datasets[item.dataset.key].name)
        return list(found.values())

    def downstream(self, name: TableName) -> list[TableName]:
        """Return the datasets that read `name` directly."""
        return list(self._readers.get(name.key, ()))

    @functools.cached_property
    def _readers(self) -> dict[tuple[str, str, str], list[TableName]]:
        result: dict[tuple[str, str, str], list[TableName]] = {}
        for dataset in self.datasets.values():
            for read in self.upstream(dataset.name):
                result.setdefault(read.key, []).append(dataset.name)
        return result

    def order(self) -> list[TableName]:
        """Return all datasets, each after those that it reads.

        Raises:
            GraphError: `PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED` with the cycle as a path.
        """
        done: dict[tuple[str, str, str], TableName] = {}
        path: dict[tuple[str, str, str], TableName] = {}
        todo: list[tuple[TableName, bool]] = [(dataset.name, False) for dataset in reversed([*self.datasets.values()])]
        while todo:
            name, is_left = todo.pop()
            if is_left:
                done[name.key] = path.pop(name.key)
            elif name.key in path:
                raise self._circle([*path.values()], name)
            elif name.key not in done:
                path[name.key] = name
                todo.append((name, True))
                todo += [(reads, False) for reads in reversed(self.upstream(name))]
        return list(done.values())

    def _circle(self, path: list[TableName], name: TableName) -> GraphError:
        start = next(i for i, seen in enumerate(path) if seen.key == name.key)
        cycle = " → ".join(self.display(step) for step in (*path[start:], name))
        return GraphError(
            "PIPELINE_GRAPH_NOT_TOPOLOGICALLY_SORTED",
            f"the datasets read each other in a circle: {cycle}",
            origin=self.datasets[name.key].origin,
            hint="break the circle: read the source of one of them instead",
        )

    def stored(self) -> list[Dataset]:
        """Return the datasets that have a table, in order of execution."""
        return [d for d in (self.dataset(name) for name in self.order()) if d.is_stored]

    def runnable(self) -> list[Dataset]:
        """Return the datasets that an update brings up to date, tables and sinks, in order of execution."""
        return [d for d in (self.dataset(name) for name in self.order()) if d.kind is not DatasetKind.TEMPORARY_VIEW]

    def stored_upstream(self, name: TableName) -> set[tuple[str, str, str]]:
        """Return the keys of the tables that `name` depends on, seen through views."""
        result: set[tuple[str, str, str]] = set()
        todo = self.upstream(name)
        while todo:
            item = todo.pop()
            if item.key in result:
                continue
            if self.dataset(item).kind is DatasetKind.TEMPORARY_VIEW:
                todo.extend(self.upstream(item))
            else:
                result.add(item.key)
        return result


def names_of(datasets: Iterable[Dataset], names: NameContext) -> list[str]:
    return [names.display(dataset.name) for dataset in datasets]
