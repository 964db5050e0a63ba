"""The declarative API for datasets, flows and expectations: the one implementation behind `dp` and `dlt`.

Every function writes frozen dataclasses to the active registry and runs nothing. A decorator returns the
user's function unchanged, so that it can be called in a unit test. AUTO CDC is in `auto_cdc`.

Parameters and defaults: https://docs.databricks.com/aws/en/ldp/developer/python-ref
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lakelet.errors import DefinitionError, Origin, did_you_mean
from lakelet.graph.elements import Action, Dataset, DatasetKind, Expectation, Flow
from lakelet.pipelines import parameters as check
from lakelet.pipelines.parameters import declarative
from lakelet.pipelines.registry import Registry, active_registry

F = TypeVar("F", bound=Callable[..., Any])
REFRESH_POLICIES = ("auto", "incremental", "incremental_strict", "full")
_ROW_FILTER_HINT = "filter the rows in the query, or grant access on Databricks"
_REPLACE_HINT = "use `create_auto_cdc_flow` to replace rows by key, or a materialized view"


# --- datasets -----------------------------------------------------------------------------------------------


@declarative
def table(
    query_function: Any = None,
    *,
    name: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    table_properties: Mapping[str, str] | None = None,
    partition_cols: Sequence[str] | None = None,
    path: str | None = None,
    schema: Any = None,
    temporary: bool = False,
    cluster_by: Sequence[str] | None = None,
    cluster_by_auto: bool = False,
    row_filter: str | None = None,
    private: bool = False,
    replace_where: Any = None,
    replace_using: Any = None,
    sequence_by: Any = None,
    format: str | None = None,
) -> Any:
    """Declare a table by the function that returns its query.

    A streaming DataFrame makes it a streaming table, a batch DataFrame a materialized view. Usable bare
    (`@table`) and called (`@table(name=...)`). `temporary` is the older name of `private`.
    """
    check.refuse("replace_where", replace_where, hint=_REPLACE_HINT)
    check.refuse("replace_using", replace_using, hint=_REPLACE_HINT)
    check.refuse("sequence_by", sequence_by, hint="it belongs to `replace_using`; " + _REPLACE_HINT)
    options = _table_options(
        comment=comment,
        spark_conf=spark_conf,
        table_properties=table_properties,
        partition_cols=partition_cols,
        path=path,
        schema=schema,
        cluster_by=cluster_by,
        cluster_by_auto=cluster_by_auto,
        row_filter=row_filter,
        format=format,
    )
    options["private"] = check.flag("private", private) or check.flag("temporary", temporary)
    return _dataset_decorator("table", DatasetKind.TABLE, query_function, name, options)


@declarative
def materialized_view(
    query_function: Any = None,
    *,
    name: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    table_properties: Mapping[str, str] | None = None,
    partition_cols: Sequence[str] | None = None,
    path: str | None = None,
    schema: Any = None,
    cluster_by: Sequence[str] | None = None,
    cluster_by_auto: bool = False,
    row_filter: str | None = None,
    private: bool = False,
    refresh_policy: str = "auto",
    format: str | None = None,
) -> Any:
    """Declare a table whose rows always equal its batch query."""
    options = _table_options(
        comment=comment,
        spark_conf=spark_conf,
        table_properties=table_properties,
        partition_cols=partition_cols,
        path=path,
        schema=schema,
        cluster_by=cluster_by,
        cluster_by_auto=cluster_by_auto,
        row_filter=row_filter,
        format=format,
    )
    if refresh_policy not in REFRESH_POLICIES:
        near = did_you_mean(str(refresh_policy), REFRESH_POLICIES)
        raise DefinitionError(
            "INVALID_PARAMETER_VALUE",
            f"`refresh_policy` is {refresh_policy!r}",
            cause="it is one of " + ", ".join(f"`{policy}`" for policy in REFRESH_POLICIES),
            hint=f"did you mean `{near}`?" if near else "leave it out for `auto`",
        )
    options["private"] = check.flag("private", private)
    options["refresh_policy"] = refresh_policy
    kind = DatasetKind.MATERIALIZED_VIEW
    return _dataset_decorator("materialized_view", kind, query_function, name, options)


@declarative
def temporary_view(
    query_function: Any = None,
    *,
    name: str | None = None,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
) -> Any:
    """Declare a view that is not stored: its query becomes part of every query that reads it."""
    options = {
        "comment": check.optional_text("comment", comment),
        "spark_conf": check.settings("spark_conf", spark_conf),
    }
    return _dataset_decorator("temporary_view", DatasetKind.TEMPORARY_VIEW, query_function, name, options)


@declarative
def create_streaming_table(
    name: str,
    comment: str | None = None,
    spark_conf: Mapping[str, str] | None = None,
    table_properties: Mapping[str, str] | None = None,
    partition_cols: Sequence[str] | None = None,
    path: str | None = None,
    schema: Any = None,
    expect_all: Mapping[str, Any] | None = None,
    expect_all_or_drop: Mapping[str, Any] | None = None,
    expect_all_or_fail: Mapping[str, Any] | None = None,
    cluster_by: Sequence[str] | None = None,
    cluster_by_auto: bool = False,
    row_filter: str | None = None,
    format: str | None = None,
) -> None:
    """Declare a streaming table without a query; flows with this target fill it."""
    registry = active_registry("create_streaming_table")
    options = _table_options(
        comment=comment,
        spark_conf=spark_conf,
        table_properties=table_properties,
        partition_cols=partition_cols,
        path=path,
        schema=schema,
        cluster_by=cluster_by,
        cluster_by_auto=cluster_by_auto,
        row_filter=row_filter,
        format=format,
    )
    origin = registry.origin(dataset=check.text("name", name))
    expectations = (
        *_expectations("expect_all", expect_all, Action.WARN, origin=origin),
        *_expectations("expect_all_or_drop", expect_all_or_drop, Action.DROP, origin=origin),
        *_expectations("expect_all_or_fail", expect_all_or_fail, Action.FAIL, origin=origin),
    )
    registry.add_dataset(
        Dataset(
            name=registry.names.resolve(name, origin=origin),
            kind=DatasetKind.STREAMING_TABLE,
            origin=origin,
            expectations=expectations,
            **options,
        )
    )


# --- flows --------------------------------------------------------------------------------------------------


@declarative
def append_flow(
    target: str,
    name: str | None = None,
    once: bool = False,
    spark_conf: Mapping[str, str] | None = None,
    comment: str | None = None,
) -> Callable[[F], F]:
    """Declare a flow that appends the rows of its query to a streaming table.

    Args:
        target: the streaming table, declared by `create_streaming_table`.
        name: names the flow's checkpoint, so renaming a flow reads its source again. Default: the function's.
        once: a batch query that runs a single time, and again after a full refresh of the target.
    """
    if callable(target):
        raise DefinitionError(
            "ARGUMENT_REQUIRED",
            "`append_flow` needs the argument `target`",
            hint='write `@append_flow(target="...")`',
        )
    registry = active_registry("append_flow")
    origin = registry.origin()
    resolved = registry.names.resolve(check.text("target", target), origin=origin)
    runs_once = check.flag("once", once)
    conf = check.settings("spark_conf", spark_conf)
    note = check.optional_text("comment", comment)
    given = check.optional_text("name", name)

    def declare(function: F) -> None:
        check.query_function("append_flow", function)
        flow = given or _function_name("append_flow", function)
        registry.add_flow(
            Flow(
                name=flow,
                target=resolved,
                query=function,
                origin=replace(origin, flow=flow),
                once=runs_once,
                implicit=False,
                comment=note,
                spark_conf=conf,
            )
        )

    return _decorator(registry, declare)


# --- expectations -------------------------------------------------------------------------------------------


@declarative
def expect(name: str, inv: Any) -> Callable[[F], F]:
    """Count rows that violate the rule; they are written. A row passes where `inv` is true: NULL fails."""
    return _expectation_decorator({check.text("name", name): inv}, Action.WARN, parameter="inv")


@declarative
def expect_or_drop(name: str, inv: Any) -> Callable[[F], F]:
    """Count and drop rows that violate the rule."""
    return _expectation_decorator({check.text("name", name): inv}, Action.DROP, parameter="inv")


@declarative
def expect_or_fail(name: str, inv: Any) -> Callable[[F], F]:
    """Fail the flow, and write nothing, when a row violates the rule."""
    return _expectation_decorator({check.text("name", name): inv}, Action.FAIL, parameter="inv")


@declarative
def expect_all(expectations: Mapping[str, Any]) -> Callable[[F], F]:
    """`expect` for each entry of a dict of name and rule."""
    return _expectation_decorator(expectations, Action.WARN)


@declarative
def expect_all_or_drop(expectations: Mapping[str, Any]) -> Callable[[F], F]:
    """`expect_or_drop` for each entry of a dict of name and rule."""
    return _expectation_decorator(expectations, Action.DROP)


@declarative
def expect_all_or_fail(expectations: Mapping[str, Any]) -> Callable[[F], F]:
    """`expect_or_fail` for each entry of a dict of name and rule."""
    return _expectation_decorator(expectations, Action.FAIL)


# --- what they share ----------------------------------------------------------------------------------------


def _table_options(
    *,
    comment: Any,
    spark_conf: Any,
    table_properties: Any,
    partition_cols: Any,
    path: Any,
    schema: Any,
    cluster_by: Any,
    cluster_by_auto: Any,
    row_filter: Any,
    format: Any,
) -> dict[str, Any]:
    """Check the options that every stored dataset has, and return them as fields of `Dataset`."""
    check.refuse("row_filter", row_filter, hint=_ROW_FILTER_HINT)
    if format is not None and check.text("format", format).lower() != "delta":
        raise check.unsupported(f"the table format `{format}` is not supported", hint="leave `format` out: it is Delta")
    partitions, clusters = (
        check.texts("partition_cols", partition_cols),
        check.texts("cluster_by", cluster_by),
    )
    if partitions and clusters:
        raise DefinitionError(
            "SPECIFY_CLUSTER_BY_WITH_PARTITIONED_BY_IS_NOT_ALLOWED",
            "`partition_cols` and `cluster_by` cannot be set together",
            hint="keep `cluster_by`",
        )
    return {
        "comment": check.optional_text("comment", comment),
        "spark_conf": check.settings("spark_conf", spark_conf),
        "table_properties": check.settings("table_properties", table_properties),
        "partition_cols": partitions,
        "path": check.optional_text("path", path),
        "schema": check.schema("schema", schema),
        "cluster_by": clusters,
        "cluster_by_auto": check.flag("cluster_by_auto", cluster_by_auto),
    }


def _dataset_decorator(api: str, kind: DatasetKind, function: Any, name: Any, options: dict[str, Any]) -> Any:
    """Return the decorator, or apply it when it was used bare."""
    registry = active_registry(api)
    origin = registry.origin()
    given = check.text("name", name) if name is not None else None

    def declare(query: Callable[[], Any]) -> None:
        check.query_function(api, query)
        text = given or _function_name(api, query)
        resolved = registry.names.resolve(text, origin=origin)
        shown = registry.names.display(resolved)
        declared_at = replace(origin, dataset=shown)
        registry.add_dataset(Dataset(name=resolved, kind=kind, origin=declared_at, **options), function=query)
        registry.add_flow(
            Flow(
                name=shown,
                target=resolved,
                query=query,
                origin=replace(declared_at, flow=shown),
                comment=options["comment"],
                spark_conf=options["spark_conf"],
            )
        )

    if function is None:
        return _decorator(registry, declare)
    declare(function)
    return function


def _decorator(registry: Registry, declare: Callable[[Any], None]) -> Callable[[F], F]:
    """Return a decorator that declares something about a function and returns the function unchanged."""

    def decorate(function: F) -> F:
        try:
            declare(function)
        except DefinitionError as error:
            registry.report(error)
        return function

    return decorate


def _expectation_decorator(expectations: Any, action: Action, *, parameter: str = "expectations") -> Callable[[F], F]:
    registry = active_registry("expect")
    rules = _expectations(parameter, expectations, action, origin=registry.origin())

    def declare(function: F) -> None:
        if not callable(function):
            check.query_function("expect", function)
        registry.add_expectations(function, rules)

    return _decorator(registry, declare)


def _expectations(parameter: str, rules: Any, action: Action, *, origin: Origin) -> tuple[Expectation, ...]:
    """Turn a dict of name and rule into expectations; None is no rule."""
    if rules is None:
        return ()
    if not isinstance(rules, Mapping):
        raise check.not_expected_type(
            parameter, "dict[str, str]", rules, hint='write `{"rule name": "condition", ...}`'
        )
    return tuple(
        Expectation(
            name=check.text(f"{parameter} key", name),
            condition=check.expression(parameter if parameter == "inv" else f"{parameter}[{name!r}]", rule),
            action=action,
            origin=origin,
        )
        for name, rule in rules.items()
    )


def _function_name(api: str, function: Callable[..., Any]) -> str:
    name = getattr(function, "__name__", None)
    if not name or name == "<lambda>":
        raise DefinitionError(
            "ARGUMENT_REQUIRED",
            f"`{api}` cannot take its name from a function that has none",
            hint=f'write `{api}(name="...")`',
        )
    return str(name)
