"""What every command that works on a project has: the options that name it, the open pipeline, JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from lakelet.pipeline import Pipeline

Command = TypeVar("Command", bound=Callable[..., Any])


def configuration_of(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the KEY=VALUE pairs of a repeated option."""
    result = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"`{value}` is not KEY=VALUE", ctx=ctx, param=param)
        result[key.strip()] = text
    return result


def names_of(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of a repeated option, each of which may be a list with commas."""
    return tuple(name.strip() for value in values for name in value.split(",") if name.strip())


_CHOICE = "lakelet.terminal.bundle_choice"
"""Where the options of a bundle lie in the context: `opened` reads them, so that no command has to pass them on."""


def _note_choice(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    if value:
        ctx.meta.setdefault(_CHOICE, {})[param.name] = value
    return value


def _note_variables(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    variables = configuration_of(ctx, param, values)
    _note_choice(ctx, param, variables)
    return variables


def project_options(command: Command) -> Command:
    """Add the options that say which pipeline."""
    options = (
        click.option(
            "--spec",
            metavar="PATH",
            help="Project file (`spark-pipeline.yml` or `databricks.yml`), or its folder. Default: here, or the nearest above.",
        ),
        click.option("--storage", metavar="FOLDER", help="Folder of tables and state, instead of the project file's."),
        click.option(
            "--conf",
            "configuration",
            multiple=True,
            metavar="KEY=VALUE",
            callback=configuration_of,
            help="Override a key of the project file's `configuration`. Repeatable.",
        ),
        click.option(
            "--pipeline",
            metavar="NAME",
            expose_value=False,
            callback=_note_choice,
            help="Of a Databricks bundle: which pipeline, where it has several.",
        ),
        click.option(
            "--bundle-target",
            "target",
            metavar="NAME",
            expose_value=False,
            callback=_note_choice,
            help="Of a Databricks bundle: the target. Default: the one with `default: true`.",
        ),
        click.option(
            "--var",
            "variables",
            multiple=True,
            metavar="NAME=VALUE",
            expose_value=False,
            callback=_note_variables,
            help="Of a Databricks bundle: the value of a variable. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def server_options(command: Command) -> Command:
    """Add the options of a command that serves pages: where, to whom."""
    options = (
        click.option(
            "--host",
            default="127.0.0.1",
            show_default=True,
            help="Address to listen at. Beyond this machine a token is needed.",
        ),
        click.option(
            "--port", type=click.IntRange(0, 65535), default=4040, show_default=True, help="0 takes any that is free."
        ),
        click.option("--token", envvar="LAKELET_UI_TOKEN", help="The token to ask for, instead of a new one."),
        click.option(
            "--allowed-host",
            "allowed_hosts",
            multiple=True,
            metavar="NAME",
            help="A name under which this machine is reached. Repeatable.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, and nothing else, to stdout.")


@contextmanager
def opened(
    spec: str | None, storage: str | None, configuration: Mapping[str, str]
) -> Iterator[tuple[Pipeline, TextIO]]:
    """Open the pipeline; gives the real stdout, while what the user's files print goes to stderr."""
    from lakelet.bundle.pipeline import BundleChoice
    from lakelet.pipeline import Pipeline
    from lakelet.spec import load_spec

    out = sys.stdout
    choice = BundleChoice(**click.get_current_context().meta.get(_CHOICE, {}))
    with (
        redirect_stdout(sys.stderr),
        Pipeline(
            load_spec(spec, storage=storage, choice=choice) if choice else spec,
            storage=storage,
            configuration=configuration,
        ) as pipeline,
    ):
        yield pipeline, out


def write_json(value: Any, out: TextIO) -> None:
    """Write a value as JSON for people and programs."""
    out.write(json.dumps(value, default=str, indent=2, ensure_ascii=False) + "\n")
