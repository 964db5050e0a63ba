"""Writes what follows from the code: the reference pages for settings, command line, declarative API, testing and engines,
and the picture of the flagship's graph.

Run by `make docs`. A test fails when a page on disk is not what this writes.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet import testing
from lakelet.cli import cli
from lakelet.engine import base as engine_base
from lakelet.engine.known import ENGINES
from lakelet.graph.drawing import as_svg
from lakelet.pipeline import Pipeline
from lakelet.pipelines import dlt, dp
from lakelet.settings import SETTINGS
from lakelet.spec import STORAGE_VARIABLE

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
RESULTS = ROOT / "tests" / "engine_results.json"
"""How the tests of each feature ended on each engine; written by `make test-sail` and `make test-spark`."""
TESTED_ENGINES = (
    "Sail, embedded",
    "Sail server",
    "Sail server, cluster mode",
    "Apache Spark 4.2 with Delta Lake 4.4",
)
PICTURE = ROOT / "docs" / "images" / "apparel.svg"

# -- settings


def settings_page() -> str:
    lines = [
        "# Settings",
        "",
        "Settings are these keys under `configuration` in `spark-pipeline.yml`; their values are text. On the",
        "command line, `--conf KEY=VALUE` overrides one for a run. All keys that do not begin with `lakelet.` are also what",
        "`spark.conf.get` answers in pipeline files.",
        "",
        "| key | default | meaning |",
        "|---|---|---|",
    ]
    for setting in SETTINGS.values():
        default = f"`{setting.default}`" if setting.default else "–"
        lines.append(f"| `{setting.key}` | {default} | {setting.doc} |")
    lines += [
        "",
        "| environment variable | meaning |",
        "|---|---|",
        f"| `{STORAGE_VARIABLE}` | The storage folder; wins over the project file, and `--storage` wins over it. |",
        "| `LAKELET_DEBUG` | Show the traceback of an internal error, as `lakelet --debug` does. |",
        "| `NO_COLOR` | No colours. |",
    ]
    return "\n".join(lines) + "\n"


# -- command line


def cli_page() -> str:
    lines = [
        "# Command line",
        "",
        "Data goes to stdout, errors and warnings to stderr. Exit codes are listed with the [errors](errors.md).",
        "",
        "```",
        "lakelet [OPTIONS] COMMAND",
        "```",
        "",
        *_options(cli),
        *_commands(cli, "lakelet", heading="##"),
    ]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: str, *, heading: str) -> Iterator[str]:
    """Yield the sections of a group's commands, each group followed by its own."""
    context = click.Context(group, info_name=path)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        full = f"{path} {name}"
        yield from ("", f"{heading} `{full}`", "", *_paragraphs(command), "", "```", _usage(full, command), "```")
        if options := _options(command):
            yield from ("", *options)
        if isinstance(command, click.Group):
            yield from _commands(command, full, heading=heading + "#")


def _paragraphs(command: click.Command) -> list[str]:
    return inspect.cleandoc(command.help or "").splitlines()


def _usage(path: str, command: click.Command) -> str:
    if isinstance(command, click.Group):
        return f"{path} COMMAND"
    arguments = [parameter.human_readable_name for parameter in command.params if isinstance(parameter, click.Argument)]
    return " ".join([path, "[OPTIONS]", *arguments])


def _options(command: click.Command) -> list[str]:
    """Return a table of a command's options, nothing for a command without any."""
    lines: list[str] = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.hidden:
            continue
        names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
        if not option.is_flag:
            names += f" `{_value_of(option)}`"
        notes = [option.help or ""]
        if option.required:
            notes.append("Required.")
        if option.show_default and isinstance(option.default, str | int):
            notes.append(f"Default: `{option.default}`.")
        lines.append(f"| {names} | {' '.join(notes)} |")
    return ["| option | meaning |", "|---|---|", *lines] if lines else []


def _value_of(option: click.Option) -> str:
    if isinstance(option.type, click.Choice):
        return "/".join(str(choice) for choice in option.type.choices)
    return option.metavar or option.type.name.upper()


# -- declarative API

REPLACE = "use `create_auto_cdc_flow` to replace rows by key, or a materialized view"
REFUSED_PARAMETERS: Mapping[tuple[str, str], str] = {
    ("table", "row_filter"): "filter the rows in the query",
    ("table", "replace_where"): REPLACE,
    ("table", "replace_using"): REPLACE,
    ("table", "sequence_by"): REPLACE,
    ("materialized_view", "row_filter"): "filter the rows in the query",
    ("create_streaming_table", "row_filter"): "filter the rows in the query",
    ("create_auto_cdc_flow", "system_sequence_by"): "use SCD type 2",
}
"""Parameters that are accepted by name and refused when given, with what to do instead."""

REFUSED_FUNCTIONS: Mapping[str, str] = {
    "replace_flow": "use `create_auto_cdc_flow` to replace rows by key",
}
"""Functions that exist and are refused when called, with what to do instead."""

NOTES: Mapping[tuple[str, str], str] = {
    ("table", "schema"): "checked against the query; a declared column that the query lacks is NULL",
    ("table", "cluster_by"): "kept as a table property; the files are not clustered",
    ("table", "cluster_by_auto"): "kept as a table property; the files are not clustered",
    ("table", "format"): "`delta` only",
    ("table", "spark_conf"): "`pipelines.trigger.interval` is read; other keys have no effect, and a warning says so",
    ("table", "temporary"): "older name of `private`",
    ("table", "query_function"): "the decorated function",
    ("materialized_view", "query_function"): "the decorated function",
    (
        "materialized_view",
        "refresh_policy",
    ): "`auto`, `incremental`, `incremental_strict` or `full`, all obeyed; see [refresh policies]"
    "(../concepts/incremental_views.md#refresh-policies)",
    ("temporary_view", "query_function"): "the decorated function",
    ("temporary_view", "spark_conf"): "has no effect: a view is not run by itself",
    ("append_flow", "once"): "a batch query that runs a single time",
    ("create_auto_cdc_flow", "stored_as_scd_type"): "1 or 2; `bitemporal` is refused",
    ("create_auto_cdc_flow", "flow_name"): "older name of `name`",
    ("create_auto_cdc_from_snapshot_flow", "flow_name"): "older name of `name`",
}

_SHARED = ("schema", "cluster_by", "cluster_by_auto", "format", "spark_conf")
"""Parameters that mean the same in every function that has them."""

ORDER = (
    "table", "materialized_view", "temporary_view", "create_streaming_table", "append_flow", "create_auto_cdc_flow",
    "create_auto_cdc_from_snapshot_flow", "expect", "expect_or_drop", "expect_or_fail", "expect_all",
    "expect_all_or_drop", "expect_all_or_fail", "read", "read_stream", "create_sink", "foreach_batch_sink",
    "update_flow", "replace_flow", "on_event_hook",
)  # fmt: skip
ALIASES: Mapping[str, str] = {
    "view": "temporary_view",
    "readStream": "read_stream",
    "apply_changes": "create_auto_cdc_flow",
    "apply_changes_from_snapshot": "create_auto_cdc_from_snapshot_flow",
    "create_table": "table",
    "create_view": "temporary_view",
    "create_target_table": "create_streaming_table",
    "create_streaming_live_table": "create_streaming_table",
}
_DLT_ONLY = ("create_table", "create_view", "create_target_table", "create_streaming_live_table")


def api_page() -> str:
    lines = [
        "# The declarative API",
        "",
        "Inside pipeline files, `from pyspark import pipelines as dp`, `import databricks.pipelines as dp` and",
        "`import dlt` give these functions, whatever else has those names. Parameters and defaults are those of",
        "Databricks and of Apache Spark. What this release does not implement is refused at load, with file and line,",
        "and never ignored. Decorators return your function unchanged.",
        "",
    ]
    for name in ORDER:
        lines += [f"## `{name}`", "", *_function(name, getattr(dp, name)), ""]
    lines += [
        "## Other names",
        "",
        "| name | same as | in |",
        "|---|---|---|",
        *(
            f"| `{alias}` | `{name}` | {'`dlt` (deprecated)' if alias in _DLT_ONLY else '`dp`, `dlt`'} |"
            for alias, name in ALIASES.items()
        ),
        "",
        "In `dlt`, `append_flow` and `apply_changes` take their arguments in the older order, and `apply_changes` has",
        "`flow_name` where `create_auto_cdc_flow` has `name`; both names work in both.",
    ]
    return "\n".join(lines) + "\n"


def _function(name: str, function: Callable[..., Any]) -> list[str]:
    lines = [(inspect.getdoc(function) or "").splitlines()[0], ""]
    if name in REFUSED_FUNCTIONS:
        lines[0] = f"Refused in this release: {REFUSED_FUNCTIONS[name]}."
    lines += ["| parameter | default | state |", "|---|---|---|"]
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        required = parameter.default is parameter.empty
        default = "required" if required else f"`{parameter.default!r}`"
        lines.append(f"| `{parameter.name}` | {default} | {_state(name, parameter.name)} |")
    return lines


def _state(function: str, parameter: str) -> str:
    if function in REFUSED_FUNCTIONS:
        return "refused"
    if (function, parameter) in REFUSED_PARAMETERS:
        return f"refused: {REFUSED_PARAMETERS[function, parameter]}"
    shared = "table" if parameter in _SHARED else function
    note = NOTES.get((function, parameter)) or NOTES.get((shared, parameter))
    return f"implemented: {note}" if note else "implemented"


# -- testing


def testing_page() -> str:
    lines = [
        "# Testing reference",
        "",
        "What `lakelet.testing` has; [Test a pipeline](../guides/testing.md) shows how it is used.",
        "",
        "| name | |",
        "|---|---|",
        *(f"| `{name}{_call(name)}` | {_first_line(name)} |" for name in sorted(testing.__all__, key=str.lower)),
        "",
        "## Points at which an update can be made to die",
        "",
        "In the order in which an update passes them; one that a pipeline does not have, it does not pass.",
        "",
        "| point | what has happened |",
        "|---|---|",
        *(f"| `{point}` | {meaning} |" for point, meaning in testing.CRASH_POINTS.items()),
    ]
    return "\n".join(lines) + "\n"


def _call(name: str) -> str:
    value = getattr(testing, name)
    is_error = isinstance(value, type) and issubclass(value, BaseException)
    if not callable(value) or is_error or name not in ("ABORT", "EOF", "PAUSE", "PipelineTest", "crash_at"):
        return ""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(value).parameters.values()
    ]
    return str(inspect.Signature(parameters))


def _first_line(name: str) -> str:
    value = getattr(testing, name)
    if name == "CRASH_POINTS":
        return "The points below, and what has happened at each."
    return inspect.cleandoc(value.__doc__ or "").partition("\n")[0]


# -- engines


def engines_page() -> str:
    """Return what each engine can do, and what the tests of each feature said on it."""
    (declared,) = (
        node
        for node in ast.walk(ast.parse(Path(engine_base.__file__).read_text("utf-8")))
        if isinstance(node, ast.ClassDef) and node.name == "EngineCapabilities"
    )
    texts = [
        node.value.value
        for node in declared.body[1:]
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    names = [field.name for field in dataclasses.fields(engine_base.EngineCapabilities)]
    lines = [
        "# Engines",
        "",
        "How to use one: [Apache Spark](../guides/spark.md).",
        "",
        "## Features",
        "",
        "How many tests of each feature pass on each engine. `make test-sail`, `make test-spark` and, for Azure and Google,",
        "`make test-object-stores` run them; what is left out is a test of what that engine cannot do, or does not need. A dash:",
        "not run yet.",
        "",
        *_feature_table(json.loads(RESULTS.read_text("utf-8"))),
        "",
        "## Capabilities",
        "",
        "What each engine can do by itself. What it cannot, lakelet does around it, or the difference is named in",
        "[differences](differences.md). A server is asked what it can do when an update begins.",
        "",
        f"| | {' | '.join(ENGINES)} |",
        f"|---|{'---|' * len(ENGINES)}",
    ]
    for name, text in zip(names, texts, strict=True):
        marks = " | ".join("yes" if getattr(engine, name) else "no" for engine in ENGINES.values())
        lines.append(f"| {text} | {marks} |")
    return "\n".join(lines) + "\n"


def _feature_table(results: Mapping[str, Mapping[str, Mapping[str, int]]]) -> list[str]:
    features = sorted({feature for said in results.values() for feature in said})
    lines = [f"| | {' | '.join(TESTED_ENGINES)} |", f"|---|{'---|' * len(TESTED_ENGINES)}"]
    for feature in features:
        cells = [_outcome(results.get(engine, {}).get(feature, {})) for engine in TESTED_ENGINES]
        lines.append(f"| {feature} | {' | '.join(cells)} |")
    return lines


def _outcome(counts: Mapping[str, int]) -> str:
    passed, skipped, failed = (counts.get(name, 0) for name in ("passed", "skipped", "failed"))
    said = [f"{passed} pass"] if passed else []
    said += [f"{failed} fail"] if failed else []
    said += [f"{skipped} left out"] if skipped else []
    return ", ".join(said) or "–"


PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings_page,
    "cli.md": cli_page,
    "api.md": api_page,
    "testing.md": testing_page,
    "engines.md": engines_page,
}
MODULES = {"dp": dp, "dlt": dlt}


def picture() -> str:
    """Return the graph of the flagship over one generated batch, as `lakelet graph --format svg` draws it."""
    with tempfile.TemporaryDirectory() as folder:
        Generator(GeneratorSettings(seed=1), DeltaLanding(Path(folder))).write_batch()
        with Pipeline(ROOT / "src" / "apparel" / "pipeline", storage=folder) as pipeline:
            return as_svg(pipeline.graph()) + "\n"


def main() -> None:
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
