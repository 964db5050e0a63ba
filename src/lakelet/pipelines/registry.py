"""Collects what the files of a pipeline declare while they load. Nothing here runs a query."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lakelet.errors import DefinitionError, LakeletError, Origin
from lakelet.events.hooks import EventHook
from lakelet.graph.elements import AnyFlow, Dataset, Definitions, Expectation
from lakelet.names import NameContext
from lakelet.pipelines.call_site import call_site

_log = logging.getLogger("lakelet.pipelines")
_ACTIVE: ContextVar[Registry | None] = ContextVar("lakelet_active_registry", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Something worth a line in the event log that is not an error, such as a deprecated name."""

    text: str
    origin: Origin


class Registry:
    """The datasets, flows and expectations of one load, in the order of declaration.

    Both definitions of a name that is declared twice are kept; graph validation reports them.

    Args:
        names: the pipeline's default catalog and schema.
        root: files below this folder are shown relative to it.

    Attributes:
        errors: what was wrong, when errors are collected rather than raised.
        notes: lines for the event log.
        hooks: functions that are called with events.
    """

    def __init__(self, names: NameContext, *, root: Path | None = None) -> None:
        self.names = names
        self.root = root
        self.errors: list[LakeletError] = []
        self.notes: list[Note] = []
        self.hooks: list[EventHook] = []
        self._datasets: list[tuple[Dataset, Callable[..., Any] | None]] = []
        self._flows: list[AnyFlow] = []
        self._expectations: list[tuple[Callable[..., Any], tuple[Expectation, ...]]] = []
        self._collects_errors = False

    @contextmanager
    def activate(self, *, collect_errors: bool = False) -> Iterator[Registry]:
        """Make this the registry that the decorators write to.

        Args:
            collect_errors: a wrong declaration is added to `errors` and the file goes on, so that one load
                reports all of them; otherwise it is raised.
        """
        before, self._collects_errors = self._collects_errors, collect_errors
        token = _ACTIVE.set(self)
        try:
            yield self
        finally:
            _ACTIVE.reset(token)
            self._collects_errors = before

    def add_dataset(self, dataset: Dataset, *, function: Callable[..., Any] | None = None) -> None:
        """Register a dataset; `function` is its query function, to which expectation decorators attach."""
        self._datasets.append((dataset, function))

    def add_flow(self, flow: AnyFlow) -> None:
        """Register a flow."""
        self._flows.append(flow)

    def add_hook(self, hook: EventHook) -> None:
        """Register a function that is called with the events of an update."""
        if any(hook.name == other.name for other in self.hooks):
            raise DefinitionError(
                "DUPLICATE_EVENT_HOOK",
                f"the event hook `{hook.name}` is declared twice",
                hint="rename one of the two functions",
            )
        self.hooks.append(hook)

    def add_expectations(self, function: Callable[..., Any], expectations: Sequence[Expectation]) -> None:
        """Attach rules to a query function, before or after its dataset is registered."""
        self._expectations.append((function, tuple(expectations)))

    def add_note(self, text: str) -> None:
        """Record a line for the event log, once."""
        if all(note.text != text for note in self.notes):
            self.notes.append(Note(text=text, origin=self.origin()))
            _log.warning("%s", text)

    def report(self, error: LakeletError) -> None:
        """Collect the error, or raise it when errors are not collected."""
        error.at(self.origin())
        if not self._collects_errors:
            raise error
        self.errors.append(error)

    def origin(self, *, dataset: str | None = None, flow: str | None = None) -> Origin:
        """Return the user's file and line that is being executed."""
        site = call_site()
        if site is None:
            return Origin(dataset=dataset, flow=flow)
        return Origin(file=site.relative_to(self.root), line=site.line, dataset=dataset, flow=flow)

    def definitions(self) -> Definitions:
        """Return everything registered; each dataset has the rules that its function's decorators gave it.

        Raises:
            DefinitionError: `EXPECTATION_WITHOUT_DATASET` for rules on a function that declares no dataset,
                `DUPLICATE_EXPECTATION` for two rules with one name (both unless errors are collected).
        """
        attached = {id(function) for dataset, query in self._datasets for function in _unwrapped(query)}
        for function, expectations in self._expectations:
            if id(function) not in attached and not self.errors:  # a failed declaration leaves its rules behind
                self.report(_expectation_without_dataset(function, expectations))
        datasets = tuple(self._with_expectations(dataset, function) for dataset, function in self._datasets)
        for dataset in datasets:
            self._check_expectation_names(dataset)
        return Definitions(datasets=datasets, flows=tuple(self._flows))

    def _with_expectations(self, dataset: Dataset, function: Callable[..., Any] | None) -> Dataset:
        name = self.names.display(dataset.name)
        attached = (
            replace(expectation, origin=replace(expectation.origin, dataset=name))
            for expectation in self._expectations_of(function)
        )
        return replace(dataset, expectations=(*dataset.expectations, *attached))

    def _expectations_of(self, function: Callable[..., Any] | None) -> list[Expectation]:
        """Return a function's rules in source order: decorators are applied from the bottom up."""
        layers = {id(layer) for layer in _unwrapped(function)}
        return [
            expectation for owner, group in reversed(self._expectations) if id(owner) in layers for expectation in group
        ]

    def _check_expectation_names(self, dataset: Dataset) -> None:
        seen: set[str] = set()
        for expectation in dataset.expectations:
            if expectation.name in seen:
                name = self.names.display(dataset.name)
                self.report(
                    DefinitionError(
                        "DUPLICATE_EXPECTATION",
                        f"dataset `{name}` has two expectations named `{expectation.name}`",
                        origin=replace(expectation.origin, dataset=name),
                        cause="counts are kept per name, so a name belongs to one rule of a dataset",
                        hint="rename one of them",
                    )
                )
            seen.add(expectation.name)


def active_registry(api: str = "a dataset") -> Registry:
    """Return the registry of the load that is going on.

    Args:
        api: what the user called, for the error.

    Raises:
        DefinitionError: `GRAPH_ELEMENT_DEFINED_OUTSIDE_OF_DECLARATIVE_PIPELINE` outside of a load.
    """
    registry = _ACTIVE.get()
    if registry is None:
        site = call_site()
        raise DefinitionError(
            "GRAPH_ELEMENT_DEFINED_OUTSIDE_OF_DECLARATIVE_PIPELINE",
            f"`{api}` was called while no pipeline is being loaded",
            origin=Origin(file=site.file, line=site.line) if site else None,
            cause="datasets and flows are declared at the top level of a pipeline's files",
            hint="run the file with `lakelet run`, or load it in a test with `lakelet.testing`",
        )
    return registry


def _unwrapped(function: Callable[..., Any] | None) -> list[Callable[..., Any]]:
    """Return a function and the functions that `functools.wraps` decorators put inside it."""
    layers: list[Callable[..., Any]] = []
    while function is not None and all(function is not layer for layer in layers):
        layers.append(function)
        function = inspect.getattr_static(function, "__wrapped__", None)
    return layers


def _expectation_without_dataset(function: Callable[..., Any], expectations: Sequence[Expectation]) -> DefinitionError:
    name = getattr(function, "__name__", str(function))
    rules = ", ".join(f"`{expectation.name}`" for expectation in expectations)
    return DefinitionError(
        "EXPECTATION_WITHOUT_DATASET",
        f"the function `{name}` has the expectation {rules} but declares no dataset",
        origin=expectations[0].origin if expectations else None,
        cause="expectations belong to tables and views; a flow into a table has none of its own",
        hint="put them on the target: `create_streaming_table(..., expect_all={...})`, "
        "or decorate the function with `@table`, `@materialized_view` or `@temporary_view`",
    )
