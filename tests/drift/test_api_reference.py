"""The declarative API has the exact names, parameters and defaults that pipeline files in the wild use."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from scripts.generate_reference import ALIASES, FOLDER, REFUSED_FUNCTIONS, REFUSED_PARAMETERS

from lakelet.errors import DefinitionError
from lakelet.names import NameContext
from lakelet.pipelines import dlt, dp
from lakelet.pipelines.registry import Registry

REQUIRED = inspect.Parameter.empty
TABLE = {
    "query_function": None, "name": None, "comment": None, "spark_conf": None, "table_properties": None, "path": None,
    "partition_cols": None, "cluster_by": None, "cluster_by_auto": False, "schema": None, "row_filter": None,
    "private": False,
}  # fmt: skip
AUTO_CDC = {
    "target": REQUIRED, "source": REQUIRED, "keys": REQUIRED, "sequence_by": REQUIRED,
    "ignore_null_updates_column_list": None,
    "ignore_null_updates_except_column_list": None, "columns_to_update": None, "apply_as_deletes": None,
    "apply_as_truncates": None, "column_list": None, "except_column_list": None, "track_history_column_list": None,
    "track_history_except_column_list": None, "name": None, "flow_name": None, "once": False, "where": None,
}  # fmt: skip
NAME_AND_RULE = {"name": REQUIRED, "inv": REQUIRED}
RULES = {"expectations": REQUIRED}
EXPECTED: dict[str, dict[str, Any]] = {
    "table": {**TABLE, "temporary": False, "replace_where": None, "replace_using": None, "sequence_by": None},
    "materialized_view": {**TABLE, "refresh_policy": "auto"},
    "temporary_view": {"query_function": None, "name": None, "comment": None, "spark_conf": None},
    "create_streaming_table": {
        **{name: default for name, default in TABLE.items() if name not in ("query_function", "private")},
        "name": REQUIRED, "expect_all": None, "expect_all_or_drop": None, "expect_all_or_fail": None,
    },
    "append_flow": {"target": REQUIRED, "name": None, "once": False, "spark_conf": None, "comment": None},
    "create_sink": {"name": REQUIRED, "format": REQUIRED, "options": None},
    "foreach_batch_sink": {"name": None},
    "update_flow": {"name": None, "target": None},
    "replace_flow": {"target": None},
    "create_auto_cdc_flow": {**AUTO_CDC, "ignore_null_updates": False, "stored_as_scd_type": 1},
    "create_auto_cdc_from_snapshot_flow": {
        "target": REQUIRED, "stored_as_scd_type": 1, "track_history_column_list": None,
        "track_history_except_column_list": None, "snapshot_and_version": None,
    },
    "expect": NAME_AND_RULE, "expect_or_drop": NAME_AND_RULE, "expect_or_fail": NAME_AND_RULE,
    "expect_all": RULES, "expect_all_or_drop": RULES, "expect_all_or_fail": RULES,
    "read": {"name": REQUIRED}, "read_stream": {"name": REQUIRED},
    "on_event_hook": {"max_allowable_consecutive_failures": None},
}  # fmt: skip
LEGACY = (
    "create_view", "create_table", "create_streaming_live_table", "create_streaming_table", "create_target_table",
    "view", "table", "append_flow", "read", "read_stream", "readStream", "expect", "expect_or_fail", "expect_or_drop",
    "expect_all_or_fail", "expect_all_or_drop", "expect_all", "apply_changes", "apply_changes_from_snapshot",
    "on_event_hook",
)  # fmt: skip


def parameters_of(function: Any) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_parameters_and_defaults(name: str) -> None:
    found = parameters_of(getattr(dp, name))
    wrong = {
        parameter: (default, found.get(parameter, "missing"))
        for parameter, default in EXPECTED[name].items()
        if parameter not in found or found[parameter] != default
    }
    assert not wrong, wrong


def test_every_current_name_is_there_and_exported() -> None:
    assert set(EXPECTED) <= set(dp.__all__)
    assert set(EXPECTED) <= set(dlt.__all__)
    assert all(hasattr(dp, name) for name in dp.__all__)


def test_every_legacy_name_is_there_and_exported() -> None:
    assert set(LEGACY) <= set(dlt.__all__)
    assert all(hasattr(dlt, name) for name in LEGACY)


def test_legacy_functions_take_their_arguments_in_the_legacy_order() -> None:
    assert list(parameters_of(dlt.append_flow)) == ["name", "target", "comment", "spark_conf", "once"]
    order = ["target", "source", "keys", "sequence_by", "where", "ignore_null_updates", "apply_as_deletes"]
    assert list(parameters_of(dlt.apply_changes))[: len(order)] == order
    assert "flow_name" in parameters_of(dlt.apply_changes)


@pytest.mark.parametrize(("alias", "name"), sorted(ALIASES.items()))
def test_aliases(alias: str, name: str) -> None:
    newer = {"spark_conf", "comment", "system_sequence_by"}
    assert set(parameters_of(getattr(dp, name))) - newer <= set(parameters_of(getattr(dlt, alias)))


# -- Apache's own module

KEYWORD_ONLY_HERE = {
    ("create_auto_cdc_flow", name)
    for name in ("apply_as_deletes", "column_list", "except_column_list", "stored_as_scd_type", "name")
}
"""Databricks and Apache have them in different positions, so a call by position would mean two things."""


APACHE = sorted(set(__import__("pyspark.pipelines", fromlist=["api"]).__all__))


@pytest.mark.parametrize("name", APACHE)
def test_apaches_own_functions_are_accepted_with_their_parameters(name: str) -> None:
    import pyspark.pipelines.api as apache

    theirs = inspect.signature(getattr(apache, name)).parameters
    ours = inspect.signature(getattr(dp, name)).parameters
    for parameter in theirs.values():
        assert parameter.name in ours, f"`{name}` lacks `{parameter.name}`"
        if parameter.kind is not parameter.KEYWORD_ONLY and (name, parameter.name) not in KEYWORD_ONLY_HERE:
            assert ours[parameter.name].kind is not parameter.KEYWORD_ONLY, (
                f"`{name}`: `{parameter.name}` is positional"
            )


# -- what is refused


@pytest.mark.parametrize(("name", "parameter"), sorted(REFUSED_PARAMETERS))
def test_a_parameter_that_the_page_calls_refused_is_refused(name: str, parameter: str) -> None:
    arguments = {key: "x" for key, default in parameters_of(getattr(dp, name)).items() if default is REQUIRED}
    if "keys" in arguments:
        arguments["keys"] = ["x"]  # type: ignore[assignment]
    with Registry(NameContext()).activate(), pytest.raises(DefinitionError) as raised:
        getattr(dp, name)(**arguments, **{parameter: "x"})
    assert raised.value.condition == "UNSUPPORTED_FEATURE"
    assert raised.value.hint


@pytest.mark.parametrize("name", sorted(REFUSED_FUNCTIONS))
def test_a_function_that_the_page_calls_refused_is_refused(name: str) -> None:
    arguments = {key: "x" for key, default in parameters_of(getattr(dp, name)).items() if default is REQUIRED}
    arguments = {key: value for key, value in arguments.items() if key != "options" or name == "create_sink"}
    with Registry(NameContext()).activate(), pytest.raises(DefinitionError) as raised:
        getattr(dp, name)(**arguments)
    assert raised.value.condition == "UNSUPPORTED_FEATURE"


def test_the_page_has_every_parameter_of_every_function() -> None:
    page = Path(FOLDER / "api.md").read_text("utf-8")
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## )", page, flags=re.MULTILINE | re.DOTALL))
    functions = [name for name in dp.__all__ if name not in ALIASES]
    assert sorted(sections) == sorted(functions)
    for name in functions:
        shown = re.findall(r"^\| `(\w+)` \|", sections[name], flags=re.MULTILINE)
        assert shown == [
            parameter
            for parameter in parameters_of(getattr(dp, name))
            if parameter != "options" or name == "create_sink"
        ]
