"""One micro-batch as an ordinary query: streaming leaves become their slice, tables a pinned version, views their tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lakelet.errors import GraphError, Origin
from lakelet.execution.change_feed import changes_between
from lakelet.execution.delta_options import DeltaOptions
from lakelet.execution.delta_source import version_as_of
from lakelet.execution.reads import Source, named_leaf
from lakelet.execution.resolution import Resolver
from lakelet.execution.stateful_part import placed_operators
from lakelet.graph.elements import Action, Dataset, DatasetKind, Expectation
from lakelet.plan import relation as plan
from lakelet.plan.incremental import numbered
from lakelet.plan.metadata import reads_metadata
from lakelet.plan.normalize import runnable
from lakelet.plan.relation import Relation
from lakelet.plan.sources import Leaf, is_streaming, leaf_of, leaves
from lakelet.plan.stateful import Operator, inputs_of, operator_of, redirected, stand_in
from lakelet.storage.delta_log import checkpointed_version


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRows:
    """The output of a view with rules, before any row is dropped: where its rules are counted."""

    view: Dataset
    rows: Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundQuery:
    """A query that an engine can run, and the views with rules that it reads."""

    rows: Relation
    views: tuple[ViewRows, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundInputs:
    """What the operator with state of a flow reads in one batch.

    Attributes:
        rows: one relation, of a join the left and the right one.
        watermarked: the rows on which each watermark is declared, in the order of a walk from the top.
        views: views with rules below the operator.
    """

    rows: tuple[Relation, ...]
    watermarked: tuple[Relation, ...]
    views: tuple[ViewRows, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One binding: what its leaves become, and what is found on the way.

    Attributes:
        emitted: the rows that stand for the operator with state; None where there is none, or where it is not reached.
        watermarked: where the rows on which watermarks are declared are noted; None if nobody asks.
    """

    slices: Mapping[str, Relation]
    versions: Mapping[str, int]
    emitted: Relation | None = None
    views: dict[str, ViewRows] = field(default_factory=dict)
    watermarked: list[Relation] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInput:
    """One streaming leaf of a flow, seen through its views.

    Attributes:
        metadata: whether the tree around the leaf reads `_metadata`.
    """

    id: str
    source: Source
    metadata: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """Everything that a flow reads, seen through its views.

    Attributes:
        streams: by source id.
        locations: Delta tables read as tables: location to label.
        files: reads of plain files.
    """

    streams: Mapping[str, StreamInput]
    locations: Mapping[str, str]
    files: tuple[Leaf, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InlinedLeaf:
    """One leaf of a tree whose views are part of it.

    Attributes:
        location: of a Delta table; None for anything else.
        is_fixed: the read names a version.
    """

    leaf: Leaf
    source: Source
    location: str | None
    is_fixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class InlinedTree:
    """A tree whose views are part of it, and whose leaves are numbered (`plan/incremental.py`).

    Attributes:
        has_rules: a view that it reads has expectations.
    """

    tree: Relation
    leaves: tuple[InlinedLeaf, ...]
    has_rules: bool


class Binder:
    """Turns trees into engine queries."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def inputs(self, relation: Relation, origin: Origin) -> Inputs:
        """Return what a tree reads, views followed down to their sources."""
        streams: dict[str, StreamInput] = {}
        locations: dict[str, str] = {}
        files: list[Leaf] = []
        metadata = reads_metadata(relation)
        for leaf in leaves(relation):
            source = self._resolver.source(leaf, origin)
            if source.dataset is not None and source.dataset.kind is DatasetKind.TEMPORARY_VIEW:
                inner = self.inputs(self._view_tree(source.dataset), source.dataset.origin)
                streams.update(inner.streams)
                locations.update(inner.locations)
                files.extend(inner.files)
            elif leaf.streaming:
                name = self.stream_id(leaf, source)
                known = streams.get(name)
                if known is not None and source.read is not None and source.read != known.source.read:
                    raise GraphError(
                        "FILES_READ_TWICE",
                        f"one query reads the files at `{leaf.shown}` as two streams with different options",
                        origin=leaf.origin or origin,
                        cause="a checkpoint keeps one place for each path that a flow reads",
                        hint="give each stream an `@dp.append_flow` of its own into one table",
                    )
                streams[name] = StreamInput(
                    id=name, source=source, metadata=metadata or (known is not None and known.metadata)
                )
            elif source.files is not None:
                files.append(source.files)
            else:
                location = self._resolver.location(source)
                if location is not None:
                    locations[location] = leaf.label
        return Inputs(streams=streams, locations=locations, files=tuple(files))

    def view_trees(self, relation: Relation, origin: Origin) -> list[tuple[Relation, tuple[Expectation, ...]]]:
        """Return the trees of all views that a tree reads, directly or through others, with their rules."""
        result: list[tuple[Relation, tuple[Expectation, ...]]] = []
        for leaf in leaves(relation):
            view = self._resolver.source(leaf, origin).dataset
            if view is not None and view.kind is DatasetKind.TEMPORARY_VIEW:
                tree = self._view_tree(view)
                result += [(tree, view.expectations), *self.view_trees(tree, view.origin)]
        return result

    def inlined(self, relation: Relation, origin: Origin) -> InlinedTree:
        """Return a tree with the views that it reads put in their places; no rule of a view is applied."""
        found: list[InlinedLeaf] = []
        rules: list[Expectation] = []

        def inline(tree: Relation, origin: Origin) -> Relation:
            def replacement(node: Relation) -> Relation | None:
                leaf = leaf_of(node)
                if leaf is None:
                    return None
                source = self._resolver.source(leaf, origin)
                if source.dataset is not None and source.dataset.kind is DatasetKind.TEMPORARY_VIEW:
                    rules.extend(source.dataset.expectations)
                    below = inline(self._view_tree(source.dataset), source.dataset.origin)
                    return named_leaf(leaf, plan.with_fresh_plan_ids(below))
                is_computed = source.files is not None or DeltaOptions(leaf.options).change_feed
                found.append(
                    InlinedLeaf(
                        leaf=leaf,
                        source=source,
                        location=None if is_computed else self._resolver.location(source),
                        is_fixed=bool({"versionasof", "timestampasof"} & set(leaf.options)),
                    )
                )
                return named_leaf(leaf, numbered(len(found) - 1))

            return plan.substitute(tree, replacement)

        tree = inline(relation, origin)
        return InlinedTree(tree=tree, leaves=tuple(found), has_rules=bool(rules))

    def table_rows(self, leaf: InlinedLeaf, version: int) -> Relation:
        """Return the rows of a table at a version, or at the one that the read names."""
        assert leaf.location is not None
        return self._table(leaf.location, leaf.leaf, {leaf.location: version}, metadata=False)

    def stream_id(self, leaf: Leaf, source: Source) -> str:
        """Return the name under which a checkpoint keeps the offsets of this leaf."""
        if source.dataset is None:
            return leaf.source_id
        bare = leaf.source_id.removeprefix(leaf.label)
        return self._resolver.names.display(source.dataset.name) + bare

    def bind(
        self,
        relation: Relation,
        origin: Origin,
        *,
        slices: Mapping[str, Relation],
        versions: Mapping[str, int],
        emitted: Relation | None = None,
    ) -> BoundQuery:
        """Return the query of one batch.

        Args:
            slices: per source id, the rows of this batch; with the hidden metadata column where the input asks for it.
            versions: per location, the version at which tables are read.
            emitted: what the flow's operator with state gives for this batch; nothing below the operator is bound then.
        """
        batch = _Batch(slices=slices, versions=versions, emitted=emitted)
        rows = self._bind(relation, origin, batch)
        return BoundQuery(rows=rows, views=tuple(batch.views.values()))

    def bind_inputs(
        self,
        relation: Relation,
        origin: Origin,
        *,
        slices: Mapping[str, Relation],
        versions: Mapping[str, int],
    ) -> BoundInputs:
        """Return what the operator with state of a flow reads in one batch; arguments as those of `bind`."""
        found = placed_operators(self._resolver, relation, origin)[0]
        watermarked: list[Relation] = []
        batch = _Batch(slices=slices, versions=versions, watermarked=watermarked)
        metadata = reads_metadata(found.tree)
        rows = [self._bind(item, found.origin, batch, metadata=metadata) for item in inputs_of(found.node)]
        return BoundInputs(rows=tuple(rows), watermarked=tuple(watermarked), views=tuple(batch.views.values()))

    def _bind(self, relation: Relation, origin: Origin, batch: _Batch, *, metadata: bool | None = None) -> Relation:
        """Return a tree with its leaves replaced.

        Args:
            metadata: whether the tree of which this is a part reads file metadata.
        """
        has_metadata = reads_metadata(relation) if metadata is None else metadata
        replaced: list[tuple[Relation, int]] = []

        def replacement(node: Relation) -> Relation | None:
            if batch.emitted is not None and operator_of(node) is not None:
                rows = stand_in(node, batch.emitted)
                replaced.append((Relation.FromString(node.SerializeToString()), rows.common.plan_id))
                return rows
            if batch.watermarked is not None and node.WhichOneof("rel_type") == "with_watermark" and is_streaming(node):
                batch.watermarked.append(self._bind(node.with_watermark.input, origin, batch, metadata=has_metadata))
                result = Relation()
                result.CopyFrom(node)
                result.with_watermark.input.CopyFrom(batch.watermarked[-1])
                return result
            leaf = leaf_of(node)
            if leaf is None:
                return None
            source = self._resolver.source(leaf, origin)
            if source.dataset is not None and source.dataset.kind is DatasetKind.TEMPORARY_VIEW:
                rows = self._view(source.dataset, batch)
            elif leaf.streaming:
                rows = batch.slices[self.stream_id(leaf, source)]
            elif source.files is not None:
                rows = self._resolver.file_rows(source, metadata=has_metadata)
            else:
                location = self._resolver.location(source)
                assert location is not None
                rows = self._table(location, leaf, batch.versions, has_metadata)
            return named_leaf(leaf, rows)

        result = plan.substitute(relation, replacement)
        for node, plan_id in replaced:
            if operator_of(node) is not Operator.JOIN:
                result = redirected(result, node, plan_id)
                continue
            for below in inputs_of(node):  # each side of a join has a stand-in of its own, inside of what is emitted
                result = redirected(result, below, below.common.plan_id)
        return runnable(result, self._resolver.engine.capabilities)

    def _table(self, location: str, leaf: Leaf, versions: Mapping[str, int], metadata: bool) -> Relation:
        store = self._resolver.store
        inline = not self._resolver.engine.capabilities.cluster_writes
        if DeltaOptions(leaf.options).change_feed:
            return changes_between(
                location, leaf.shown, store, leaf.options, newest=versions[location], metadata=metadata, inline=inline
            )
        version = version_as_of(location, leaf.shown, leaf.options, newest=versions[location])
        # Sail 0.7 cannot read most versions from before the last checkpoint of the log.
        if metadata or version < checkpointed_version(location):
            return self._resolver.rows_of_files(location, version, metadata=metadata)
        return self._resolver.delta_rows(location, version)

    def _view(self, view: Dataset, batch: _Batch) -> Relation:
        """Return a view's rows after its drop rules; a view that stands twice in a tree gets plan ids of its own each time."""
        tree = self._bind(self._view_tree(view), view.origin, batch)
        if view.expectations:
            batch.views.setdefault(str(view.name), ViewRows(view=view, rows=tree))
        for rule in view.expectations:
            if rule.action is Action.DROP:
                tree = plan.filtered(tree, plan.is_true(plan.expression_of(rule.condition)))
        return plan.with_fresh_plan_ids(tree)

    def _view_tree(self, view: Dataset) -> Relation:
        return self._resolver.relation(self._resolver.flows[view.name.key][0])
