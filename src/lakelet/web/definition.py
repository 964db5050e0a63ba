"""What the pipeline's files declare, as values that pages show while the files are loaded anew."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lakelet.errors import LakeletError
from lakelet.graph import formats
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import Dataset
from lakelet.names import TableName
from lakelet.pipeline import Pipeline
from lakelet.plan.ddl_comments import declared_comments
from lakelet.terminal.error_data import errors_as_data
from lakelet.web.rule_rows import rule_rows, sql_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One load of the pipeline's files.

    Attributes:
        graph: as `lakelet graph --json`; with the last good one's datasets where the files are wrong now.
        errors: what is wrong with the files.
        tables: of stored datasets: display name → name and location.
    """

    graph: Mapping[str, Any] = field(default_factory=lambda: {"datasets": [], "edges": []})
    datasets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    errors: tuple[Mapping[str, Any], ...] = ()
    tables: Mapping[str, tuple[TableName, str]] = field(default_factory=dict)
    loaded_at: datetime | None = None
    summary: str = ""

    def find(self, name: str) -> Mapping[str, Any] | None:
        """Return a dataset by its name, whatever its case; the last part is enough where it is unique."""
        wanted = name.replace("`", "").lower()
        exact = [d for d in self.datasets.values() if wanted in (d["name"].lower(), d["qualified_name"].lower())]
        if exact:
            return exact[0]
        short = [d for d in self.datasets.values() if d["name"].lower().rpartition(".")[2] == wanted]
        return short[0] if len(short) == 1 else None


class Definitions:
    """Loads the files when they are first asked for, and again on demand; the last good load stays visible.

    Args:
        pipeline: one that nothing else uses: an update must not see its files change.
        load_lock: held while the files are loaded, since their code may run once at a time.
    """

    def __init__(self, pipeline: Pipeline, *, load_lock: threading.Lock) -> None:
        self._pipeline = pipeline
        self._load_lock = load_lock
        self._current: Definition | None = None

    @property
    def current(self) -> Definition:
        """The last load; the first call loads."""
        return self._current or self.reload(only_first=True)

    def reload(self, *, only_first: bool = False) -> Definition:
        """Load the files anew."""
        with self._load_lock:
            if self._current is not None and only_first:
                return self._current
            before = self._current or Definition()
            self._pipeline.reload()
            try:
                self._current = define(self._pipeline.graph(), self._pipeline)
            except LakeletError as error:
                self._current = replace(before, errors=tuple(errors_as_data(error)), loaded_at=datetime.now(UTC))
            return self._current

    def take(self, graph: DataflowGraph) -> None:
        """Take over what an update of the same pipeline has just loaded."""
        self._current = define(graph, self._pipeline)


def define(graph: DataflowGraph, pipeline: Pipeline) -> Definition:
    """Return a resolved graph as values."""
    data = formats.as_json(graph)
    catalog = pipeline.catalog.holding(graph.datasets.values())
    for item, name in zip(data["datasets"], graph.order(), strict=True):
        dataset = graph.dataset(name)
        item["schema_name"] = graph.display(name).rpartition(".")[0]
        item["short_name"] = graph.display(name).rpartition(".")[2]
        item["kind_label"] = dataset.kind.label
        item["is_stored"] = dataset.is_stored
        item["readers"] = [graph.display(reader) for reader in graph.downstream(name)]
        item["columns"] = _columns(graph, dataset)
        item["refreshable"] = dataset.kind.value != "VIEW"
        item["query"] = f"SELECT * FROM {sql_name(graph, name)} LIMIT 100" if dataset.is_stored else None
        item["expectations"] = [
            {**rule, "query": rows.query, "query_note": rows.note}
            for rule, rows in zip(item["expectations"], rule_rows(graph, dataset), strict=True)
        ]
    _place(data)
    return Definition(
        graph=data,
        datasets={item["name"]: item for item in data["datasets"]},
        tables={graph.display(d.name): (d.name, catalog.location(d.name)) for d in graph.stored()},
        loaded_at=datetime.now(UTC),
        summary=formats.summary(graph),
    )


def _columns(graph: DataflowGraph, dataset: Dataset) -> list[dict[str, Any]]:
    """Return the columns of the first flow's query, with the comments that they carry or that the dataset declares."""
    for flow in graph.flows_to(dataset.name):
        if flow.schema is not None:
            return [
                {
                    "name": column.name,
                    "type": column.dataType.simpleString(),
                    "comment": (column.metadata or {}).get("comment"),
                }
                for column in declared_comments(dataset.schema, flow.schema).fields
            ]
    return []


def _place(data: dict[str, Any]) -> None:
    """Give every dataset a layer: its schema.

    One in the default schema is in the layer that its name speaks of (`silver_orders_now`: `02_silver`), else in the first
    layer of those that read it.
    """
    by_name = {item["name"]: item for item in data["datasets"]}
    schemas = {item["schema_name"] for item in data["datasets"]} - {""}
    words = {"".join(char for char in schema if char.isalpha()).lower(): schema for schema in sorted(schemas)}
    for item in reversed(data["datasets"]):
        layer = item["schema_name"]
        if not layer:
            layer = next((words[part] for part in item["short_name"].lower().split("_") if part in words), "")
        if not layer:
            layers = [by_name[reader]["layer"] for reader in item["readers"] if by_name[reader].get("layer")]
            layer = min(layers, default="")
        item["layer"] = layer
