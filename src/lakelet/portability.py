"""Which features of a pipeline another platform lacks: a table of features, and where a pipeline uses them.

Apache Spark is meant as of 4.3: https://spark.apache.org/docs/latest/declarative-pipelines-programming-guide.html
"""

from __future__ import annotations

import ast
import enum
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lakelet.errors import DefinitionError, Origin
from lakelet.graph.dataflow_graph import DataflowGraph
from lakelet.graph.elements import AutoCdcFlow, Dataset, DatasetKind, Flow, SnapshotCdcFlow
from lakelet.pipelines.call_site import display_path
from lakelet.pipelines.notebook import PythonPart, RunPart, parts_of
from lakelet.plan.sql_tokens import scan
from lakelet.settings import TRIGGER_INTERVAL
from lakelet.spec import PipelineSpec


class Target(enum.Enum):
    """Where a pipeline may be taken to."""

    DATABRICKS = "databricks"
    SPARK = "spark"


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature that a platform lacks; `instead` says what to do there."""

    lacking: Target
    text: str
    instead: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """One use of a feature that the target lacks."""

    feature: str
    origin: Origin

    def to_dict(self) -> dict[str, object]:
        known = FEATURES[self.feature]
        origin = self.origin
        return {
            "feature": self.feature,
            "text": known.text,
            "instead": known.instead,
            "file": origin.file,
            "line": origin.line,
            "dataset": origin.dataset,
        }


def _spark(text: str, instead: str) -> Feature:
    return Feature(lacking=Target.SPARK, text=text, instead=instead)


def _databricks(text: str, instead: str) -> Feature:
    return Feature(lacking=Target.DATABRICKS, text=text, instead=instead)


_IN_THE_SOURCE = "compute it in the source's query"
FEATURES: Mapping[str, Feature] = {
    "expectations": _spark("expectations", "filter the rows in the query"),
    "dlt_module": _spark("the module `dlt`", "write `from pyspark import pipelines as dp`"),
    "databricks_module": _spark("the module `databricks.pipelines`", "write `from pyspark import pipelines as dp`"),
    "dp_read": _spark(
        "`read` and `read_stream` of the pipelines module", "use `spark.read.table`, `spark.readStream.table`"
    ),
    "view_alias": _spark("`view`, the older name", "use `temporary_view`"),
    "dbutils": _spark("`dbutils`", "use Python's own modules, and `spark.conf.get`"),
    "notebook": _spark("notebooks with `%` cells", "make it a plain Python file"),
    "cloud_files": _spark("`cloudFiles` (Auto Loader)", "read the files with `spark.readStream.format(...)`"),
    "volumes": _spark("paths below `/Volumes`", "use a path that the cluster can reach"),
    "once": _spark("flows that run once", "write the rows before the first update"),
    "snapshot_cdc": _spark("AUTO CDC from snapshots", "make change rows, and use `create_auto_cdc_flow`"),
    "cdc_ignore_null_updates": _spark("`ignore_null_updates`", _IN_THE_SOURCE),
    "cdc_columns_to_update": _spark("`columns_to_update`", _IN_THE_SOURCE),
    "cdc_truncates": _spark("`apply_as_truncates`", "refresh the target in full"),
    "cdc_where": _spark("`where` of an AUTO CDC flow", "filter the rows in the source's query"),
    "cdc_delta_target": _spark(
        "AUTO CDC into a Delta table", "give the target a format with row-level operations of Spark, such as `iceberg`"
    ),
    "cdc_several_flows": _spark("several AUTO CDC flows with one target", "unite their sources in a view"),
    "event_hooks": _spark("event hooks", "listen to the query listeners of Spark"),
    "foreach_batch_sink": _spark("`foreach_batch_sink`", "write a data source of your own, and use `create_sink`"),
    "update_flow": _spark("`update_flow`", "use `append_flow`"),
    "path": _spark("`path` of a dataset", "leave it out"),
    "private": _spark("`private` datasets", "leave it out, or use a temporary view"),
    "cluster_by_auto": _spark("`cluster_by_auto`", "name the columns in `cluster_by`"),
    "refresh_policy": _spark("`refresh_policy`", "leave it out: every refresh is a full one"),
    "trigger_interval": _spark("`pipelines.trigger.interval`", "leave it out: there is no continuous mode"),
    "complete_flow": _spark(
        "a streaming aggregation without a watermark", "add a watermark, or use a materialized view"
    ),
    "lakelet_setting": _databricks("a setting `lakelet.*`", "leave it out; it is of lakelet only"),
    "lakelet_module": _databricks("the module `lakelet`", "move it out of the pipeline's files"),
    "local_path": _databricks("a path of this machine", "use a path below `/Volumes`"),
}
"""Every feature that one of the targets lacks; what is in no row, both have."""


def missing(
    graph: DataflowGraph, spec: PipelineSpec, files: Iterable[Path], *, hooks: int, target: Target
) -> list[Use]:
    """Return what the pipeline uses and the target lacks, each place once, ordered by file and line.

    Args:
        hooks: how many event hooks the files declare.
    """
    found: dict[tuple[object, ...], Use] = {}
    for use in (*_of_datasets(graph), *_of_flows(graph), *_of_spec(spec), *_of_files(files, spec.root)):
        if FEATURES[use.feature].lacking is target:
            found.setdefault((use.feature, use.origin.file, use.origin.line), use)
    if hooks and target is Target.SPARK and not any(use.feature == "event_hooks" for use in found.values()):
        found["event_hooks",] = Use(feature="event_hooks", origin=Origin(file=spec.file.name))
    return sorted(found.values(), key=lambda use: (use.origin.file or "", use.origin.line or 0, use.feature))


def _of_datasets(graph: DataflowGraph) -> Iterator[Use]:
    for dataset in graph.datasets.values():
        used = {
            "path": dataset.path is not None,
            "private": dataset.private and dataset.kind is not DatasetKind.TEMPORARY_VIEW,
            "cluster_by_auto": dataset.cluster_by_auto,
            "refresh_policy": dataset.refresh_policy != "auto",
            "trigger_interval": TRIGGER_INTERVAL in dataset.table_properties,
            "foreach_batch_sink": dataset.sink_function is not None,
        }
        for rule in dataset.expectations:
            yield Use(feature="expectations", origin=_at(rule.origin, dataset, graph))
        yield from (
            Use(feature=name, origin=_at(dataset.origin, dataset, graph)) for name, is_used in used.items() if is_used
        )


def _of_flows(graph: DataflowGraph) -> Iterator[Use]:
    for resolved in graph.flows:
        flow, dataset = resolved.flow, graph.dataset(resolved.target)
        used: dict[str, bool] = {"once": flow.once, "complete_flow": resolved.is_complete}
        match flow:
            case AutoCdcFlow():
                others = [other for other in graph.flows_to(flow.target) if isinstance(other.flow, AutoCdcFlow)]
                used |= {
                    "cdc_ignore_null_updates": flow.ignore_null_updates
                    or flow.ignore_null_updates_column_list is not None
                    or flow.ignore_null_updates_except_column_list is not None,
                    "cdc_columns_to_update": flow.columns_to_update is not None,
                    "cdc_truncates": flow.apply_as_truncates is not None,
                    "cdc_where": flow.where is not None,
                    "cdc_several_flows": len(others) > 1,
                    "cdc_delta_target": True,
                }
            case SnapshotCdcFlow():
                used["snapshot_cdc"] = True
            case Flow():
                used["update_flow"] = flow.update_mode
        for item in resolved.inputs:
            if item.dataset is None:
                for path in item.label.partition(":")[2].split(","):
                    kind = _kind_of_path(path.removeprefix("dbfs:").removeprefix("file:"))
                    if kind:
                        yield Use(feature=kind, origin=_at(item.origin or flow.origin, dataset, graph))
        yield from (
            Use(feature=name, origin=_at(flow.origin, dataset, graph)) for name, is_used in used.items() if is_used
        )


def _kind_of_path(path: str) -> str | None:
    if path.startswith("/Volumes/"):
        return "volumes"
    return "local_path" if path.startswith(("/", ".")) else None


def _at(origin: Origin, dataset: Dataset, graph: DataflowGraph) -> Origin:
    return Origin(file=origin.file, line=origin.line, dataset=graph.display(dataset.name))


def _of_spec(spec: PipelineSpec) -> Iterator[Use]:
    lines = spec.file.read_text(encoding="utf-8").splitlines()
    for key in spec.settings:
        # A setting of the command line is in no line.
        line = next((number for number, text in enumerate(lines, 1) if key in text), None)
        if key.startswith("lakelet."):
            yield Use(feature="lakelet_setting", origin=Origin(file=spec.file.name, line=line))
        elif key == TRIGGER_INTERVAL:
            yield Use(feature="trigger_interval", origin=Origin(file=spec.file.name, line=line))


_MODULES = {"dlt": "dlt_module", "databricks": "databricks_module", "lakelet": "lakelet_module"}
_CALLS = {
    "read": "dp_read",
    "read_stream": "dp_read",
    "readStream": "dp_read",
    "view": "view_alias",
    "on_event_hook": "event_hooks",
}


def _of_files(files: Iterable[Path], root: Path) -> Iterator[Use]:
    """Yield what only the text of the files shows."""
    for file in files:
        shown = display_path(str(file), root=root)
        if file.suffix != ".py":
            for name, line in _in_sql(file.read_text(encoding="utf-8")):
                yield Use(feature=name, origin=Origin(file=shown, line=line))
            continue
        for part in parts_of(file.read_text(encoding="utf-8"), file=shown):
            match part:
                case PythonPart(text):
                    for name, line in _in_python(ast.parse(text)):
                        yield Use(feature=name, origin=Origin(file=shown, line=line))
                case RunPart(_, line):
                    yield Use(feature="notebook", origin=Origin(file=shown, line=line))
                case _:
                    yield Use(feature="notebook", origin=Origin(file=shown, line=1))


def _in_python(tree: ast.Module) -> Iterator[tuple[str, int]]:
    pipelines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, alias.asname or alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [(f"{node.module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        else:
            continue
        for module, bound in names:
            root = module.partition(".")[0]
            if root in _MODULES:
                yield _MODULES[root], node.lineno
            if module in ("dlt", "databricks.pipelines", "pyspark.pipelines"):
                pipelines.add(bound)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in pipelines:
            if node.attr in _CALLS:
                yield _CALLS[node.attr], node.lineno
        elif isinstance(node, ast.Name) and node.id == "dbutils":
            yield "dbutils", node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value == "cloudFiles":
                yield "cloud_files", node.lineno
            if "read_files" in node.value:
                yield from ((name, node.lineno + line - 1) for name, line in _in_sql(node.value))


def _in_sql(text: str) -> Iterator[tuple[str, int]]:
    """Yield the features of SQL text that no dataset shows, with their lines."""
    try:
        source = scan(text)
    except DefinitionError:  # no SQL, or none that can be read: loading it has said so
        return
    for token, after in itertools.pairwise(source.tokens):
        if token.word == "READ_FILES" and after.text == "(":
            yield "cloud_files", source.position(token.start)[0]
