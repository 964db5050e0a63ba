"""Runs datasets of a pipeline over rows that a test gives.

Everything is as in production, only the inputs are the test's: the same engine, Delta tables in a temporary folder, the
same flows with their checkpoints and receipts. A dataset to which rows were given is not computed; it is a table with
these rows.
"""

from __future__ import annotations

import shutil
import tempfile
import uuid
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from lakelet.engine.base import Engine
from lakelet.errors import DefinitionError, GraphError, LakeletError, did_you_mean
from lakelet.events.log import EventBus
from lakelet.events.model import FlowStatus
from lakelet.execution.context import update_context
from lakelet.execution.graph_resolution import resolve_graph
from lakelet.execution.outcome import FlowOutcome, RefreshSelection
from lakelet.execution.update import Update, plan_update
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import AnyFlow, Dataset, DatasetKind, Definitions
from lakelet.names import NameContext
from lakelet.pipelines.registry import Registry
from lakelet.pipelines.session import user_session
from lakelet.plan.ddl import parse_columns
from lakelet.project import library_files, load_project
from lakelet.storage.base import TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore
from lakelet.storage.schema import evolved
from lakelet.testing.columns import Columns, ProbingResolver, columns_of
from lakelet.testing.crash import crashing
from lakelet.testing.feed import ABORT, Feed, next_turn
from lakelet.testing.needs import Needs, view_table
from lakelet.testing.result import DatasetRows, Rules, RunResult
from lakelet.testing.rows import table_of
from lakelet.testing.sandbox import SandboxCatalog, spec_of
from lakelet.testing.shared_engine import shared_engine
from lakelet.testing.watch import Watch

if TYPE_CHECKING:
    from pyspark.sql.connect import proto
    from pyspark.sql.types import StructType

Key = tuple[str, str, str]
_known_columns: dict[Any, Columns] = {}
"""What was found out about the columns of inputs, for the next test of the same files."""


class PipelineTest:
    """One pipeline in a temporary folder, which `close` removes.

    Args:
        source: a project file, its folder, or a single .py or .sql file; by default the project file in this folder or
            the nearest above.
        now: what `current_timestamp()` gives, a datetime or ISO text; by default the time of each run. A time without a
            zone is one of the pipeline's zone.
        configuration: overrides of the project file's `configuration`.

    Raises:
        SpecError: the project file is missing or wrong.
    """

    def __init__(
        self,
        source: str | Path | None = None,
        *,
        now: datetime | str | None = None,
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        folder = tempfile.mkdtemp(prefix="lakelet-test-")
        self._remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        storage = Path(folder).resolve() / "storage"
        try:
            self._spec = spec_of(source, storage).overridden(configuration or {})
        except LakeletError:
            self._remove()
            raise
        self._names = NameContext(self._spec.catalog, self._spec.database)
        self._zone = ZoneInfo(self._spec.time_zone)
        self._store = DeltaRsStore()
        self._catalog = SandboxCatalog(storage=storage, root=self._spec.root)
        self._external: dict[Key, str] = {
            self._names.resolve(name).key: self._catalog.path(path) for name, path in self._spec.external_tables.items()
        }
        self._definitions: Definitions | None = None
        self._answers = _Answers()
        self._session: Any = None
        self._given: dict[Key, str] = {}
        self._open: dict[str, str] = {}
        self._computed: set[Key] = set()
        self._feeds: list[Feed] = []
        self._is_typed = True
        self.now = now

    # -- inputs ---------------------------------------------------------------------------------------------------

    @property
    def now(self) -> datetime | None:
        """What `current_timestamp()` gives; set it between two runs to let time pass."""
        return self._now

    @now.setter
    def now(self, value: datetime | str | None) -> None:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=self._zone)
        self._now = moment

    def path(self, text: str) -> Path:
        """Return the local path at which the pipeline finds `text`, such as `/Volumes/main/raw`; write files there."""
        place = Path(self._catalog.own(text))
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def given(self, name: str, rows: Any, *, schema: str | None = None) -> None:
        """Give rows to an input; each call is one more commit to it, and later runs see only what is new.

        Args:
            name: a dataset or view of the pipeline, which is then not computed; or what it reads from outside: a
                table's name, or a path such as `/Volumes/main/raw/orders`, which becomes a Delta table.
            rows: a list of dicts, an Arrow table, or a frame of pandas or polars. A column that is not there is NULL.
            schema: columns and types of the input, such as `"id INT, name STRING"`; by default those of the dataset's
                query, and where that does not tell, those of the rows.

        Raises:
            GraphError: `UNKNOWN_DATASET`; `TEST_INPUT_COMPUTED` if an earlier run has computed it.
            DefinitionError: `TEST_ROWS_INVALID` for an unknown column, or a value of another type.
        """
        if "/" in name:
            location, label = self._catalog.own(name), name
            dataset = None
        else:
            dataset = self._dataset(name)
            label = self._names.display(dataset.name) if dataset else name
            location = self._place(dataset, name)
        columns = self._columns(dataset, location)
        if schema is not None:
            self._is_typed = False
            declared = parse_columns(schema, self._engine)
            columns = Columns.of_struct(declared)
        self._append(location, table_of(rows, columns, label=label, zone=self._zone))
        if dataset is not None:
            self._given[dataset.name.key] = location
        if not columns.is_complete:
            self._open[location] = label

    def feed(self, name: str, items: Sequence[Any], *, schema: str | None = None) -> None:
        """Give an input that tells a story: each item that is rows is one commit, and one micro-batch for its readers.

        A run takes the items one after the other, to the end or to `EOF()`. Items of several feeds come side by side.

        Args:
            name: as for `given`.
            items: rows as for `given`; between them `ABORT()`, `PAUSE("5 minutes")` and `EOF()`.
            schema: as for `given`.

        Raises:
            DefinitionError: `TEST_FEED_INVALID`; wrong rows are refused when their turn comes.
        """
        self._feeds.append(Feed(name=name, items=items, schema=schema))

    def _dataset(self, name: str) -> Dataset | None:
        """Return the dataset that a test names, None for a table from outside."""
        key = self._names.resolve(name).key
        if key in self._external:
            return None
        try:
            declared = self._declared
        except GraphError as error:
            if error.condition != "TABLE_OR_VIEW_NOT_FOUND":
                raise
            return None  # a file reads a table while it loads: this one, or the error comes again
        try:
            dataset = declared.find(name)
        except GraphError as error:
            if error.hint is None or not error.hint.startswith("did you mean") or self._needs().is_read(key):
                return None
            raise
        if dataset.name.key in self._computed:
            raise GraphError(
                "TEST_INPUT_COMPUTED",
                f"`{name}` cannot be given rows: an earlier run of this test has computed it",
                hint="give its rows before the first run that needs it",
            )
        return dataset

    def _place(self, dataset: Dataset | None, name: str) -> str:
        if dataset is not None:
            return self._catalog.location(dataset.name)
        table = self._names.resolve(name)
        self._external[table.key] = SandboxCatalog.location(replace(self._catalog, tables={}), table)
        return self._external[table.key]

    def _columns(self, dataset: Dataset | None, location: str) -> Columns:
        table = self._store.open(location)
        if table is not None:
            return Columns.of_schema(table.schema, is_complete=location not in self._open)
        if dataset is None:
            return Columns()
        key = None
        if self._is_typed and not self._open:
            files = tuple((file, file.stat().st_mtime_ns, file.stat().st_size) for file in library_files(self._spec))
            settings = tuple(sorted({**self._spec.configuration, **self._spec.settings}.items()))
            key = (files, settings, frozenset(self._given), dataset.name.key)
        if key is None or key not in _known_columns:
            found = columns_of(dataset.name, lambda: self._answering(self._resolver(probes=True)))
            if key is None:
                return found
            _known_columns[key] = found
        return _known_columns[key]

    def _append(self, location: str, rows: pa.Table) -> None:
        table = self._store.open(location)
        if table is None:
            table = self._store.create(location, TableDefinition(schema=rows.schema))
        if rows.num_rows:
            table.append(rows, evolve=len(evolved(table.schema, rows.schema)) > len(table.schema))

    # -- the pipeline ---------------------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        return shared_engine(self._spec.engine_configuration)

    @property
    def _loaded(self) -> Definitions:
        """What the pipeline's files declare; they are run on first use."""
        if self._definitions is None:
            self._answering(
                ProbingResolver(
                    names=self._names,
                    catalog=self._catalog,
                    engine=self._engine,
                    store=self._store,
                    external=self._external,
                    time_zone=self._spec.time_zone,
                    probes=False,
                )
            )
            configuration = {**self._spec.configuration, **self._spec.engine_configuration}
            if self._session is None:
                self._session = user_session(
                    self._engine.url, self._engine.session_id, self._answers, configuration, names=self._names
                )
            loaded = load_project(self._spec, Registry(self._names), self._session)
            for dataset in loaded.datasets:
                if dataset.path is not None:
                    place = SandboxCatalog.location(self._catalog, dataset.name)
                    self._catalog.inside.setdefault(self._catalog.path(dataset.path), place)
            self._catalog = self._catalog.holding(loaded.datasets)
            self._definitions = loaded
        return self._definitions

    @property
    def _declared(self) -> DataflowGraph:
        """The datasets by name, before any query function is called."""
        datasets = {dataset.name.key: dataset for dataset in self._loaded.datasets}
        return DataflowGraph(names=self._names, datasets=datasets, flows=())

    def _resolver(self, *, probes: bool = False) -> ProbingResolver:
        loaded = self._loaded
        given = self._given
        flows: dict[Key, list[AnyFlow]] = {}
        for flow in loaded.flows:
            if flow.target.key not in given:
                flows.setdefault(flow.target.key, []).append(flow)
        return ProbingResolver(
            names=self._names,
            catalog=self._catalog,
            engine=self._engine,
            store=self._store,
            external={**self._external, **given},
            time_zone=self._spec.time_zone,
            datasets={d.name.key: d for d in loaded.datasets if d.name.key not in given},
            flows=flows,
            is_open=frozenset(self._open),
            probes=probes,
        )

    def _answering(self, resolver: ProbingResolver) -> ProbingResolver:
        """Let a resolver answer what query functions ask."""
        self._answers.resolver = resolver
        return resolver

    def _needs(self) -> Needs:
        loaded = self._loaded
        return Needs(
            resolver=self._answering(self._resolver()),
            given={d.name.key: d for d in loaded.datasets if d.name.key in self._given},
            changing={flow.target.key for flow in loaded.flows if not hasattr(flow, "query")}
            | {d.name.key for d in loaded.datasets if d.kind is DatasetKind.MATERIALIZED_VIEW},
            labels=tuple(self._open.values()),
        )

    # -- running --------------------------------------------------------------------------------------------------

    def run(self, *names: str) -> RunResult:
        """Compute datasets over the given rows, and everything between; a second run takes what came since.

        Args:
            names: datasets or views; none means every dataset that a given input leads to.

        Returns:
            The rows, what was dropped, and the counts of rules.

        Raises:
            LakeletError: what made a flow or the definition fail, as it is; `TEST_INPUT_MISSING` where rows lack.
            Crash: a feed has come to `ABORT()`.
        """
        watch = Watch()
        while True:
            turn = next_turn(self._feeds)
            for item in turn.rows:
                self.given(item.name, item.rows, schema=item.schema)
            if turn.pause:
                self.now = (self.now or datetime.now(UTC)) + turn.pause
            graph, targets, views = self._turn(names, watch, abort=turn.abort)
            if turn.is_last:
                return self._result(graph, targets, views, watch)

    def _turn(
        self, names: Sequence[str], watch: Watch, *, abort: ABORT | None
    ) -> tuple[DataflowGraph, list[Dataset], Mapping[Key, Dataset]]:
        """Bring the datasets up to date with what has been given; returns what there is, what was asked for, its views."""
        needs = self._needs()
        targets = [self._target(name) for name in names] or needs.led_to()
        views: dict[Key, Dataset] = {}
        wanted: dict[Key, Dataset] = {}
        for dataset in targets:
            for found in needs.of(dataset):
                wanted[found.name.key] = found
        self._complete(needs, wanted)
        resolver = self._answering(self._resolver()) if self._open else needs.resolver
        flows = [flow for flow in self._loaded.flows if flow.target.key in wanted]
        datasets = list(wanted.values())
        for dataset in targets:
            if dataset.kind is DatasetKind.TEMPORARY_VIEW:
                table, flow = view_table(dataset, resolver)
                views[dataset.name.key] = table
                datasets.append(table)
                flows.append(flow)
        graph = resolve_graph(resolver, Definitions(datasets=tuple(datasets), flows=tuple(flows)))
        self._computed.update(wanted)
        with crashing(abort.at, abort.occurrence) if abort else nullcontext():
            outcomes = self._update(graph, resolver, watch)
        failed = [outcome.error for outcome in outcomes if outcome.status is FlowStatus.FAILED and outcome.error]
        if failed:
            raise failed[0]
        return graph, targets, views

    def _target(self, name: str) -> Dataset:
        dataset = self._declared.find(name)
        if dataset.name.key in self._given:
            raise GraphError(
                "TEST_INPUT_GIVEN",
                f"`{name}` cannot be run: the test gave its rows",
                hint="run a dataset that reads it, or give rows to what it reads instead",
            )
        return dataset

    def _complete(self, needs: Needs, wanted: Mapping[Key, Dataset]) -> None:
        """Add the columns that the queries ask of a table from outside and that the test left out: they are NULL."""
        resolver = needs.resolver
        for flow in needs.reading(self._open, wanted):
            resolver.output_schema(flow)
        for location, lacking in resolver.asked.items():
            table = self._store.open(location)
            if table is None or not lacking:
                continue
            label = self._open[location]
            for name in lacking:
                near = did_you_mean(name, [c for c in table.schema.names if not needs.names_column(location, c)])
                if near is not None:
                    raise DefinitionError(
                        "TEST_ROWS_INVALID",
                        f"the pipeline reads a column `{name}` of `{label}`, and the given rows have `{near}`",
                        hint=f"rename `{near}` to `{name}`, or give `{name}` as well",
                    )
            added = pa.schema([pa.field(name, pa.string()) for name in lacking])
            table.append(added.empty_table(), evolve=True)

    def _update(self, graph: DataflowGraph, resolver: ProbingResolver, watch: Watch) -> tuple[FlowOutcome, ...]:
        bus = EventBus(self._spec.name, self._spec.name, str(uuid.uuid4()), clock=self._clock)
        bus.subscribe(watch.events.append)
        context = update_context(
            self._spec,
            graph=graph,
            resolver=resolver,
            engine=self._engine,
            store=self._store,
            events=bus,
            clock=self._clock,
            on_dropped=watch.add_dropped,
        )
        update = Update(context, plan_update(graph, RefreshSelection()))
        update.set_up()
        return update.run()

    def _clock(self) -> datetime:
        return (self._now or datetime.now(UTC)).astimezone(UTC)

    def _result(
        self, graph: DataflowGraph, targets: list[Dataset], views: Mapping[Key, Dataset], watch: Watch
    ) -> RunResult:
        shown = {table.name.key: self._names.display(self._declared.datasets[key].name) for key, table in views.items()}
        rows: dict[str, DatasetRows] = {}
        for dataset in graph.stored():
            name = shown.get(dataset.name.key) or graph.display(dataset.name)
            table = self._store.open(self._catalog.location(dataset.name))
            assert table is not None
            rows[name] = DatasetRows(name=name, table=table.rows())
        names = tuple(self._names.display(dataset.name) for dataset in targets)
        return RunResult(
            datasets=rows,
            targets=names,
            dropped=watch.dropped(),
            rules=Rules(watch.counts(graph), targets=names),
            events=tuple(watch.events),
        )

    # -- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Remove the folder; the engine stays for the next test."""
        if self._session is not None:
            self._session.client.close()
            self._session = None
        self._remove()

    def __enter__(self) -> PipelineTest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Answers:
    """What query functions ask, answered by the resolver that is at work."""

    def __init__(self) -> None:
        self.resolver: ProbingResolver | None = None

    def schema_of(self, relation: proto.Relation) -> StructType:
        assert self.resolver is not None
        return self.resolver.schema_of(relation)

    def is_streaming(self, relation: proto.Relation) -> bool:
        assert self.resolver is not None
        return self.resolver.is_streaming(relation)

    def execute(self, relation: proto.Relation) -> pa.Table:
        assert self.resolver is not None
        return self.resolver.execute(relation)

    def command(self, command: proto.Command) -> None:
        assert self.resolver is not None
        self.resolver.command(command)
