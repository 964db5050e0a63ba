"""The declarative API for sinks: targets outside of the pipeline, and the flows that only they take.

Source: https://docs.databricks.com/aws/en/ldp/ldp-sinks and https://docs.databricks.com/aws/en/ldp/for-each-batch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from lakelet.errors import DefinitionError, did_you_mean
from lakelet.graph.elements import Dataset, DatasetKind, Flow
from lakelet.pipelines import parameters as check
from lakelet.pipelines.parameters import declarative
from lakelet.pipelines.registry import active_registry

F = TypeVar("F", bound=Callable[..., Any])
FOREACH_BATCH = "foreachBatch"
_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "delta": ("path", "tableName", "mergeSchema"),
    "parquet": ("path",),
    "json": ("path",),
    "csv": ("path", "header", "sep"),
}


@declarative
def create_sink(name: str, format: str, options: Mapping[str, str] | None = None) -> None:
    """Declare a target outside of the pipeline; `append_flow`s write to it.

    Args:
        format: `delta` (options `path` or `tableName`), or `parquet`, `json`, `csv` (option `path`, a folder).
    """
    registry = active_registry("create_sink")
    origin = registry.origin(dataset=check.text("name", name))
    kind = check.text("format", format).lower()
    if kind not in _OPTIONS:
        near = did_you_mean(kind, _OPTIONS)
        raise check.unsupported(
            f"a sink of format `{format}` is not supported on this engine (sink `{name}`)",
            hint=f"did you mean `{near}`?" if near else f"use {', '.join(_OPTIONS)}, or `@dp.foreach_batch_sink`",
        )
    given = check.settings("options", options)
    known = {option.lower(): option for option in _OPTIONS[kind]}
    for option in given:
        if option.lower() not in known:
            near = did_you_mean(option.lower(), known)
            raise DefinitionError(
                "UNKNOWN_OPTION",
                f"`{option}` is no option of a {kind} sink",
                cause=f"the options are {', '.join(_OPTIONS[kind])}",
                hint=f"did you mean `{known[near]}`?" if near else "remove it",
            )
    settings = {known[option.lower()]: value for option, value in given.items()}
    if len({"path", "tableName"} & settings.keys()) != 1:
        wanted = "`path` or `tableName`" if kind == "delta" else "`path`"
        raise DefinitionError(
            "INVALID_OPTION", f"the sink `{name}` needs the option {wanted}", hint='add `options={"path": "…"}`'
        )
    if len(settings.get("sep", ",").replace("\\t", "\t")) != 1:
        raise DefinitionError(
            "INVALID_OPTION", f"`sep` of the sink `{name}` is `{settings['sep']}`", hint="give one character"
        )
    registry.add_dataset(
        Dataset(
            name=registry.names.resolve(name, origin=origin),
            kind=DatasetKind.SINK,
            origin=origin,
            sink_format=kind,
            sink_options=settings,
        )
    )


@declarative
def foreach_batch_sink(name: Any = None) -> Any:
    """Declare a sink by a function `f(df, batch_id)` that is called with each micro-batch.

    A batch is handed on at least once: after a crash the same rows come again under the same `batch_id`. It is 0 in the
    first run and after a full refresh.
    """
    registry = active_registry("foreach_batch_sink")
    origin = registry.origin()

    def declare(function: F) -> F:
        if not callable(function):
            raise check.not_expected_type("foreach_batch_sink", "a function", function)
        text = check.text("name", name) if name is not None and not callable(name) else function.__name__
        registry.add_dataset(
            Dataset(
                name=registry.names.resolve(text, origin=origin),
                kind=DatasetKind.SINK,
                origin=replace(origin, dataset=text),
                sink_format=FOREACH_BATCH,
                sink_function=function,
            )
        )
        return function

    return declare(name) if callable(name) else declare


@declarative
def update_flow(
    name: str | None = None,
    target: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    comment: str | None = None,
) -> Any:
    """Declare a flow into a sink in output mode `update`: a row for every row that is new or has changed.

    For a query without aggregates, which is all that a stream may be in this release, that is what `append_flow` does.
    """
    if target is None or callable(name):
        raise DefinitionError(
            "ARGUMENT_REQUIRED", "`update_flow` needs the argument `target`", hint='write `@update_flow(target="...")`'
        )
    registry = active_registry("update_flow")
    origin = registry.origin()
    resolved = registry.names.resolve(check.text("target", target), origin=origin)
    conf = check.settings("spark_conf", spark_conf)

    def declare(function: F) -> F:
        check.query_function("update_flow", function)
        flow = check.optional_text("name", name) or function.__name__
        registry.add_flow(
            Flow(
                name=flow,
                target=resolved,
                query=function,
                origin=replace(origin, flow=flow),
                implicit=False,
                update_mode=True,
                comment=check.optional_text("comment", comment),
                spark_conf=conf,
            )
        )
        return function

    return declare
