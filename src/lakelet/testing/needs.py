"""Which datasets a test's run computes, and which inputs it lacks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lakelet.errors import GraphError, LakeletError, Origin, did_you_mean
from lakelet.execution.reads import Source
from lakelet.graph.elements import AnyFlow, Dataset, DatasetKind, Flow, SqlQuery
from lakelet.names import TableName, quote
from lakelet.plan import relation as plan
from lakelet.plan.sources import Leaf, LeafKind, leaves
from lakelet.testing.columns import ProbingResolver

Key = tuple[str, str, str]


@dataclass(slots=True, kw_only=True)
class Needs:
    """Walks from datasets up to the rows that a test gave.

    Attributes:
        resolver: has the pipeline without the datasets that were given.
        given: these datasets.
        changing: datasets whose rows change, so that nothing can stream them.
        labels: the tables from outside to which rows were given, as the test names them.
    """

    resolver: ProbingResolver
    given: Mapping[Key, Dataset]
    changing: Collection[Key]
    labels: tuple[str, ...]
    _sources: dict[str, list[tuple[Leaf, Source]]] = field(default_factory=dict)

    def of(self, dataset: Dataset) -> list[Dataset]:
        """Return a dataset and those that must be computed before it.

        Raises:
            GraphError: `TEST_INPUT_MISSING`, `STREAMING_READ_OF_CHANGING_TABLE`.
        """
        found: dict[Key, Dataset] = {}
        self._visit(dataset, (), found)
        return list(found.values())

    def led_to(self) -> list[Dataset]:
        """Return every table that reads a given input, itself or through others."""
        below = [d for d in self.resolver.datasets.values() if d.is_stored and self._leads_to(d, set())]
        if not below:
            raise GraphError(
                "TEST_INPUT_MISSING",
                "there is nothing to run: no dataset reads an input that was given",
                hint="give rows with `test.given(name, rows)`, or name a dataset",
            )
        return below

    def is_read(self, name: Key) -> bool:
        """Return whether a query reads the table `name` from outside of the pipeline."""
        names = self.resolver.names
        for flows in self.resolver.flows.values():
            for flow in flows:
                for leaf in leaves(self.resolver.relation(flow)):
                    if leaf.kind is LeafKind.TABLE and names.resolve(leaf.name).key == name:
                        return True
        return False

    def reading(self, locations: Collection[str], datasets: Mapping[Key, Dataset]) -> list[AnyFlow]:
        """Return the flows of some datasets that read one of the tables from outside."""
        return [
            flow
            for key in datasets
            for flow in self.resolver.flows.get(key, [])
            if any(source.location in locations for _, source in self._read(flow))
        ]

    def names_column(self, location: str, column: str) -> bool:
        """Return whether a query that reads a table mentions a column, in whatever way."""
        wanted = column.lower()
        for flows in self.resolver.flows.values():
            for flow in flows:
                if any(source.location == location for _, source in self._sources.get(flow.name, [])) and (
                    wanted in str(self.resolver.relation(flow)).lower()
                ):
                    return True
        return False

    def _visit(self, dataset: Dataset, path: tuple[str, ...], found: dict[Key, Dataset]) -> None:
        if dataset.name.key in found:
            return
        found[dataset.name.key] = dataset
        here = (self.resolver.names.display(dataset.name), *path)
        for flow in self.resolver.flows.get(dataset.name.key, []):
            try:
                for leaf, source in self._read(flow):
                    self._check(leaf, source, flow, here)
                    if source.dataset is not None:
                        self._visit(source.dataset, here, found)
            except LakeletError as error:
                raise error.at(flow.origin) from error.__cause__

    def _read(self, flow: AnyFlow) -> list[tuple[Leaf, Source]]:
        """Return what a flow reads; its query function is called, and what that asks is answered."""
        if flow.name not in self._sources:
            made_up, self.resolver.probes = self.resolver.probes, True
            try:
                self._sources[flow.name] = [
                    (leaf, self.resolver.source(leaf, flow.origin)) for leaf in leaves(self.resolver.relation(flow))
                ]
            finally:
                self.resolver.probes = made_up
        return self._sources[flow.name]

    def _leads_to(self, dataset: Dataset, seen: set[Key]) -> bool:
        """Return whether a dataset reads a given input, itself or through others."""
        if dataset.name.key in seen:
            return False
        seen.add(dataset.name.key)
        given = {self.resolver.external[key] for key in self.given} | set(self.resolver.is_open)
        return any(
            source.location in given or (source.dataset is not None and self._leads_to(source.dataset, seen))
            for flow in self.resolver.flows.get(dataset.name.key, [])
            for _, source in self._read(flow)
        )

    def _check(self, leaf: Leaf, source: Source, flow: AnyFlow, path: tuple[str, ...]) -> None:
        if leaf.kind is LeafKind.TABLE and source.location is not None and leaf.streaming:
            self._refuse_stream(leaf, flow)
        if source.location is not None and not self.resolver.store.exists(source.location):
            raise self._missing(leaf.name or leaf.paths[0], leaf, path)
        if source.files is not None:
            for given, place in zip(leaf.paths, source.files.paths, strict=True):
                if place in self.resolver.is_open:
                    raise GraphError(
                        "TEST_INPUT_FORMAT",
                        f"`{given}` is read as {leaf.format} files, and rows that are given become a Delta table",
                        origin=leaf.origin,
                        hint=f'write the files yourself, below `test.path("{given}")`',
                    )
                if not any(char in place for char in "*?[") and not Path(place).exists():
                    raise self._missing(given, leaf, path, files=True)

    def _refuse_stream(self, leaf: Leaf, flow: AnyFlow) -> None:
        """Refuse the stream of a given dataset that could not be streamed if it were computed."""
        names = self.resolver.names
        key = names.resolve(leaf.name).key
        if key in self.given and key in self.changing:
            raise GraphError(
                "STREAMING_READ_OF_CHANGING_TABLE",
                f"`{flow.name}` reads `{names.display(self.given[key].name)}` as a stream, whose rows change",
                origin=leaf.origin,
                cause="it is a materialized view or an AUTO CDC target, and a stream handles every row once",
                hint=f'read it as a table (`spark.read.table("{leaf.name}")`), or stream what it is made from',
            )

    def _missing(self, label: str, leaf: Leaf, path: tuple[str, ...], *, files: bool = False) -> GraphError:
        near = did_you_mean(label, self.labels)
        reader = path[0]
        known = [self.resolver.names.display(dataset.name) for dataset in self.resolver.datasets.values()]
        own = did_you_mean(label, known) if leaf.kind is LeafKind.TABLE else None
        give = f'write files below `test.path("{label}")`' if files else f'give them: `test.given("{label}", [...])`'
        if near:
            hint = f"rows were given to `{near}`: is one of the two names wrong?"
        elif own and own != reader:
            hint = f"did you mean `{own}`? Otherwise {give}"
        elif len(path) > 1:
            hint = f'{give}, or `test.given("{reader}", [...])`'
        else:
            hint = give
        return GraphError(
            "TEST_INPUT_MISSING",
            f"`{path[-1]}` needs rows of `{label}`, and the test gave none",
            origin=leaf.origin or Origin(),
            cause=" → ".join((label, *path)),
            hint=hint,
        )


def view_table(view: Dataset, resolver: ProbingResolver) -> tuple[Dataset, Flow]:
    """Return a table that holds the rows of a view, and the flow that fills it."""
    parts = (view.name.catalog, view.name.schema, view.name.name)
    text = ".".join(quote(part) for part in parts)
    streams = resolver.is_streaming(plan.named(text))
    name = TableName(view.name.catalog, "_lakelet_test", f"{view.name.schema}.{view.name.name}")
    query = SqlQuery(text=f"SELECT * FROM {f'STREAM({text})' if streams else text}", origin=view.origin)
    kind = DatasetKind.STREAMING_TABLE if streams else DatasetKind.MATERIALIZED_VIEW
    flow = Flow(name=f"test of {resolver.names.display(view.name)}", target=name, query=query, origin=view.origin)
    return Dataset(name=name, kind=kind, origin=view.origin, comment=view.comment), flow
