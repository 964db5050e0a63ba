"""Options that the commands share, and options made from settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from apparel.generator.settings import Span, option_name

Command = TypeVar("Command", bound=Callable[..., object])


class SpanType(click.ParamType[Span]):
    """A range of counts on the command line."""

    name = "low..high"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        """Read `1..30` or `7`."""
        if isinstance(value, Span):
            return value
        try:
            return Span.parse(value)
        except ValueError:
            self.fail(f"{value!r} is neither a count nor a range such as 1..30", param, ctx)


class ClockType(click.ParamType[datetime]):
    """An ISO 8601 time; without an offset it is UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read `2026-01-31T08:00:00`."""
        if isinstance(value, datetime):
            return value
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not an ISO 8601 time such as 2026-01-31T08:00:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class FolderType(click.Path):
    """A folder of this machine; an address such as `s3://…` would silently become one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"{str(value)!r} is not a folder of this machine, where these commands work", param, ctx)
        return super().convert(value, param, ctx)


storage_option = click.option(
    "--storage",
    type=FolderType(path_type=Path, file_okay=False),
    envvar="LAKELET_STORAGE",
    show_envvar=True,
    default=Path("apparel-data"),
    show_default=True,
    help="Storage root: landing zone and tables lie below it.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


_TYPES: dict[str, click.ParamType[Any]] = {
    "int": click.INT,
    "int | None": click.INT,
    "float": click.FLOAT,
    "Span": SpanType(),
}


def settings_options(owner: type[Any], *, without: Sequence[str] = ()) -> Callable[[Command], Command]:
    """Return a decorator that adds an option for each setting of a settings class."""

    def decorate(command: Command) -> Command:
        for setting in reversed(fields(owner)):
            if setting.name in without or "help" not in setting.metadata:
                continue
            text = str(setting.metadata["help"])
            command = click.option(
                option_name(setting),
                _parameter(owner, setting.name),
                type=_TYPES[str(setting.type)],
                default=setting.default,
                show_default=setting.default is not None,
                help=f"{text[0].upper()}{text[1:]}.",
            )(command)
        return command

    return decorate


def setting_values(owner: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the values of one class's settings among the options of a command."""
    return {
        setting.name: options[parameter]
        for setting in fields(owner)
        if (parameter := _parameter(owner, setting.name)) in options
    }


def given_options(owner: type[Any]) -> list[str]:
    """Return the options of one class's settings that the user gave."""
    context = click.get_current_context()
    return [
        option_name(setting)
        for setting in fields(owner)
        if (parameter := _parameter(owner, setting.name)) in context.params
        and context.get_parameter_source(parameter) is not ParameterSource.DEFAULT
    ]


def _parameter(owner: type[Any], name: str) -> str:
    """Name a command's parameter after class and setting, since classes share names such as `customers`."""
    return f"{owner.__name__}_{name}".lower()
